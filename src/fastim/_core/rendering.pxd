"""Native packets as channels get them."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from cpython.object cimport PyObject

from fastim._core.namespaces cimport Namespace
from fastim._core.outbox cimport Buffers, Span

cdef enum:
    PLACES = 16  # of a letter: kinds and namespaces that it is kept for

# A stretch of bytes that is part of a packet.
cdef struct Stretch:
    const uint8_t *data  # borrowed
    Py_ssize_t size

# What a native packet becomes in Socket.IO; the pieces are borrowed from the letter, or static.
cdef struct Parts:
    uint8_t type
    uint32_t count  # of arguments, the event's name with them
    Stretch id  # empty: none
    Stretch before
    Stretch middle
    Stretch after

cdef struct Place:
    PyObject *namespace  # borrowed, compared only
    int kind
    Span span  # with a reference to its chunk: nobody may have taken a slice of it yet


cdef class Letter:
    cdef bytes json  # native; None: there is none in this encoding
    cdef bytes msgpack
    cdef bytes text  # of Socket.IO, without namespace; None: it is made of `json`
    cdef tuple text_attachments
    cdef bytes packed
    cdef bytes offset
    cdef Parts parts[2]
    cdef bint parsed[2]
    cdef uint64_t key
    cdef Buffers buffers
    cdef uint32_t placed
    cdef Place *latest
    cdef Place places[PLACES]

    cdef Place *keep(self, PyObject *namespace, int kind, const Span *span) noexcept


cdef class Renderer:
    cdef dict names  # encoded in msgpack, by code
    cdef object converter

    cdef int set_names(self, names) except -1
    cdef bytes render(self, Letter letter, int encoding, Namespace namespace)
    cdef bytes native_json(self, Letter letter, Namespace namespace)
    cdef bytes native_msgpack(self, Letter letter, Namespace namespace)
    cdef int parse_msgpack(self, Parts *parts, bytes packet) except -1
    cdef bint convert(self, Letter letter) noexcept


cdef Letter new_letter(Buffers buffers, bytes json, bytes msgpack, uint64_t key)
cdef int set_forms(Letter letter, object text, object packed, bytes offset) except -1


cdef inline Place *find_place(Letter letter, PyObject *namespace, int kind) noexcept:
    """Where a letter stands for channels of a kind and namespace; NULL if it was not rendered for them, or long ago."""
    cdef Place *place = letter.latest
    cdef uint32_t i
    if place != NULL and place.namespace == namespace and place.kind == kind:
        return place
    for i in range(min(letter.placed, <uint32_t>PLACES)):
        place = &letter.places[i]
        if place.namespace == namespace and place.kind == kind:
            letter.latest = place
            return place
    return NULL
