"""From packets to frames: arenas, compression, batches."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from fastim._core.outbox cimport Buffers, Chunk, Outbox, Slice, Span
from fastim._core.slab cimport KINDS

cdef enum:
    CUT_CACHE = 64  # a power of two
    CUT_WAYS = 4  # places of one batch in it

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
    cdef uint32_t cut_next  # which of its places the next new batch takes
    cdef readonly int window_bits
    cdef readonly size_t min_bytes
    cdef readonly int level
    cdef readonly size_t deflated_count
    cdef readonly size_t batches_cut  # frames made of bare packets, single ones included

    cdef int frame(self, uint8_t first, const uint8_t *p, size_t n, Span *span) except -1
    cdef int packet(self, int kind, uint8_t common, bytes packet, Span *span) except -1
    cdef int attached(
        self, int kind, uint8_t common, bytes packet, tuple attachments, Span *span
    ) except -1
    cdef int together(self, Chunk **arena, int kind, list messages, Span *span) except -1
    cdef int message(self, int kind, bint binary, bytes data, Span *span) except -1
    cdef int write(self, Chunk **arena, int kind, bint binary, bytes data, Span *span) except -1
    cdef int record(
        self, Chunk **arena, bint binary, const uint8_t *p, size_t n, Span *span
    ) except -1
    cdef bytes deflate(self, bytes data)
    cdef bytes inflate(self, const uint8_t *p, size_t n, size_t limit)
    cdef int cut_batches(self, Outbox *box, int kind) except -1
    cdef Cut *find_cut(self, const Slice *slice, int kind, bint *known) noexcept
    cdef int cut_run(self, Outbox *box, int lane, Slice *slice, int kind) except -1
    cdef int cut_slices(self, const Slice *slice, size_t bare, uint32_t count, int kind, Span *span) except -1
    cdef void forget_cuts(self) noexcept
    cdef void end_tick(self) noexcept
