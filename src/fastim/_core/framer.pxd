"""From packets to frames: arenas, compression, batches."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from fastim._core.outbox cimport Buffers, Chunk, Outbox, Slice, Span
from fastim._core.slab cimport KINDS

cdef enum:
    CUT_CACHE = 64

# A batch that was cut: members of a topic have the same slice, so it is cut once for all of them.
cdef struct Cut:
    Chunk *chunk
    uint32_t offset
    uint32_t size
    uint8_t kind
    Span span


cdef class Framer:
    cdef Buffers buffers
    # One arena a kind and use, so that what a topic publishes in a tick stays adjacent.
    cdef Chunk *published[KINDS]
    cdef Chunk *direct[KINDS]
    cdef Chunk *urgent
    cdef Chunk *batches
    cdef Cut cuts[CUT_CACHE]
    cdef bint cuts_used
    cdef readonly int window_bits
    cdef readonly size_t min_bytes
    cdef readonly int level
    cdef readonly size_t deflated_count

    cdef int frame(self, uint8_t first, const uint8_t *p, size_t n, Span *span) except -1
    cdef int packet(self, Chunk **arena, int kind, bytes packet, Span *span) except -1
    cdef bytes deflate(self, bytes data)
    cdef bytes inflate(self, const uint8_t *p, size_t n, size_t limit)
    cdef int cut_batches(self, Outbox *box, int kind) except -1
    cdef int cut_slice(self, Slice *slice, int kind, Span *span) except -1
    cdef void forget_cuts(self) noexcept
    cdef void end_tick(self) noexcept
