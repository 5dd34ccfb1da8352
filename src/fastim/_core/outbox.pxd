"""Outboxes: what waits to be sent, as slices of shared chunks."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec

from fastim._core.pools cimport Memory, Pools

cdef enum:
    CHUNK_BYTES = 65536
    LANES = 3
    LANE_HIGH = 0
    LANE_NORMAL = 1
    LANE_LOW = 2
    MAX_IOV = 128
    MAX_BATCH_PACKETS = 1000
    MAX_BATCH_BYTES = 65536
    MAX_STATES = 128  # of different keys, in one low lane

# What Slice.framed says
cdef enum:
    BARE = 0  # packets, of which a batch will be cut
    FRAMES = 1
    WHOLE = 2  # frames of one packet, its attachments behind it: nothing goes out between them

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
    uint64_t key  # of a state, in the low lane; 0: it is none
    uint32_t offset
    uint32_t size
    uint32_t count  # packets in it
    uint8_t framed
    uint8_t common  # not 0: published to many, and batched with nothing else, so that it is cut once for all of them

cdef struct Lane:
    Slice *head
    Slice *tail

# Bytes whose sending has begun, or that are no frames: they go first and are never dropped.
cdef struct Begun:
    uint32_t offset
    uint32_t size
    uint32_t capacity
    uint8_t *data  # behind the struct, in the same allocation

cdef struct Outbox:
    Lane lanes[3]
    Begun *begun
    uint32_t queued_bytes
    uint32_t bound_bytes
    uint32_t low_bytes  # of queued_bytes, those in the low lane
    uint32_t normal_bytes  # sent of the normal lane since the low one had its turn
    uint32_t awaited_bytes  # still to be sent until what WANTS_DRAINED waits for is gone
    uint16_t packets  # queued since the last flush
    uint16_t states  # slices with a key

# Where something was written in an arena.
cdef struct Span:
    Chunk *chunk
    uint32_t offset
    uint32_t size
    uint32_t count
    uint64_t key
    uint8_t framed
    uint8_t common


cdef class Buffers:
    cdef Memory memory
    cdef Pools *pools  # the memory's
    cdef Chunk *free_chunks
    cdef readonly size_t free_chunk_count
    cdef readonly size_t chunk_count  # shared ones, free ones included
    cdef readonly size_t private_count
    cdef readonly size_t chunk_bytes  # of both, held now
    cdef uint32_t max_batch_packets
    cdef uint32_t low_percent
    cdef readonly size_t states_merged
    cdef readonly size_t states_dropped

    cdef size_t held_bytes(self) noexcept nogil
    cdef Chunk *new_chunk(self, size_t capacity) except NULL nogil
    cdef Chunk *new_private(self, size_t capacity) except NULL nogil
    cdef void release(self, Chunk *chunk) noexcept nogil
    cdef uint8_t *reserve(self, Chunk **arena, size_t size, Span *span) except NULL nogil
    cdef void drop_begun(self, Outbox *box) noexcept nogil
    cdef bint clean(self) noexcept nogil
    cdef void free_slice(self, Slice *slice) noexcept nogil
    cdef void pop(self, Outbox *box, int lane) noexcept nogil
    cdef int cut(self, Outbox *box, int lane, size_t sent) except -1 nogil
    cdef int push(self, Outbox *box, int lane, const Span *span) except -1 nogil
    cdef int push_state(self, Outbox *box, const Span *span) except -1 nogil
    cdef uint32_t low_turn(self, const Outbox *box) noexcept nogil
    cdef bint consume_lane(self, Outbox *box, int lane, uint32_t limit, size_t *sent) except -1 nogil
    cdef void settle_low(self, Outbox *box) noexcept nogil
    cdef void drop_lane(self, Outbox *box, int lane) noexcept nogil
    cdef void clear(self, Outbox *box) noexcept nogil
    cdef int begin_bytes(self, Outbox *box, const uint8_t *p, size_t n) except -1 nogil
    cdef int gather(self, Outbox *box, iovec *vectors, int limit) noexcept nogil
    cdef int consume(self, Outbox *box, size_t sent) except -1 nogil
    cdef int privatize(self, Outbox *box) except -1 nogil
    cdef void rewind(self, Chunk **arena) noexcept nogil


cdef inline bint fits(const Outbox *box, size_t size) noexcept nogil:
    """Whether `size` more bytes keep the bound.

    A frame counts as three quarters of the bound at most: whatever its size, it fits while a quarter or less waits.
    Who meters what he sends (pages, replays) needs to know no more than that.
    """
    cdef size_t most = box.bound_bytes - (box.bound_bytes >> 2)
    return box.queued_bytes + (size if size < most else most) <= box.bound_bytes


cdef inline bint is_empty(const Outbox *box) noexcept nogil:
    return box.queued_bytes == 0
