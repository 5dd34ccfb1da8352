"""Outboxes: what waits to be sent, as slices of shared chunks."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from posix.uio cimport iovec

cdef enum:
    CHUNK_BYTES = 65536
    LANES = 3
    LANE_HIGH = 0
    LANE_NORMAL = 1
    LANE_LOW = 2
    MAX_IOV = 128
    MAX_BATCH_PACKETS = 1000
    MAX_BATCH_BYTES = 65536

# Bytes that many slices share. Freed, or used again, when no slice and no arena holds it.
cdef struct Chunk:
    uint32_t refs
    uint32_t used
    uint32_t capacity
    uint8_t shared  # may be an arena, and goes back to the free list; else it is one stalled connection's own
    Chunk *next_free
    uint8_t *data  # behind the struct, in the same allocation

# Whole frames, or (in a connection that takes batches) whole packets that become one frame when it is cut.
cdef struct Slice:
    Chunk *chunk  # holds one reference
    Slice *next
    uint32_t offset
    uint32_t size
    uint32_t count  # packets in it
    uint8_t framed

cdef struct Lane:
    Slice *head
    Slice *tail

# Bytes whose sending has begun, or that are no frames: they go first and are never dropped.
cdef struct Begun:
    uint32_t offset
    uint32_t size
    uint32_t capacity
    uint8_t *data  # behind the struct

cdef struct Outbox:
    Lane lanes[3]
    Begun *begun
    uint32_t queued_bytes
    uint32_t bound_bytes

# Where something was written in an arena.
cdef struct Span:
    Chunk *chunk
    uint32_t offset
    uint32_t size
    uint32_t count
    uint8_t framed


cdef class Buffers:
    cdef Slice *free_slices
    cdef list blocks  # owners of the slices' memory, as integers
    cdef Chunk *free_chunks
    cdef size_t free_chunk_count
    cdef readonly size_t chunk_bytes  # held now, free ones included
    cdef readonly size_t slices_used

    cdef Chunk *new_chunk(self, size_t capacity, bint shared) except NULL nogil
    cdef void release(self, Chunk *chunk) noexcept nogil
    cdef uint8_t *reserve(self, Chunk **arena, size_t size, Span *span) except NULL nogil
    cdef Slice *new_slice(self) except NULL nogil
    cdef void free_slice(self, Slice *slice) noexcept nogil
    cdef void pop(self, Outbox *box, int lane) noexcept nogil
    cdef int cut(self, Outbox *box, Slice *slice, size_t sent) except -1 nogil
    cdef int push(self, Outbox *box, int lane, const Span *span) except -1 nogil
    cdef void drop_lane(self, Outbox *box, int lane) noexcept nogil
    cdef void clear(self, Outbox *box) noexcept nogil
    cdef int begin_bytes(self, Outbox *box, const uint8_t *p, size_t n) except -1 nogil
    cdef int gather(self, Outbox *box, iovec *vectors, int limit) noexcept nogil
    cdef int consume(self, Outbox *box, size_t sent) except -1 nogil
    cdef int privatize(self, Outbox *box) except -1 nogil
    cdef void rewind(self, Chunk **arena) noexcept nogil


cdef inline bint fits(const Outbox *box, size_t size) noexcept nogil:
    """Whether `size` more bytes keep the bound. One frame always fits an empty outbox."""
    return box.queued_bytes == 0 or box.queued_bytes + size <= box.bound_bytes


cdef inline bint is_empty(const Outbox *box) noexcept nogil:
    return box.queued_bytes == 0
