"""Namespaces of Socket.IO, one object for all channels of a name."""

from libc.stdint cimport uint32_t


cdef class Namespace:
    cdef readonly bytes name
    cdef bytes prefix  # in text, between a packet's type and what follows
    cdef bytes tail  # in msgpack, behind a packet's other keys
    cdef uint32_t channels


cdef class Namespaces:
    cdef dict by_name

    cdef Namespace c_get(self, bytes name)
    cdef void c_left(self, Namespace namespace) noexcept
