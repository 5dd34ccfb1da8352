"""The slab of connections: rows that never move, reached by handles that go stale."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastim._core.inbound cimport Inbound
from fastim._core.outbox cimport Outbox

cdef enum:
    ROWS_A_CHUNK = 1024
    ROW_BITS = 10
    MAX_ROW_CHUNKS = 4096  # 4,194,304 connections
    NO_SLOT = 0xFFFFFFFF

cdef enum RowState:
    FREE = 0
    HEAD = 1  # the request head is being read
    DECIDING = 2  # the head was handed out; the service has to answer
    OPEN = 3
    CLOSING = 4  # our close frame is queued or sent; the peer's is awaited
    FINISHING = 5  # what is begun goes out, then the write side is shut; what comes in is thrown away
    BODY = 6  # the body of a request is being read
    HELD = 7  # a request that was read waits for its answer
    REPLYING = 8  # the answer goes out; then the next request's head is read

# Bits of Row.flags
cdef enum:
    IS_FED = 1  # the fed driver: no socket
    IS_DIRTY = 2  # stands in its tier's queue for a flush
    IS_BLOCKED = 4  # not all was taken that was offered; EPOLLOUT, or the fed driver's take, is awaited
    IS_PAUSED = 8  # the service does not want its data now
    IS_READY = 16  # stands in the queue of those with unparsed bytes
    WANTS_DRAINED = 32
    IS_SHUT = 64  # the write side is shut
    IS_LISTED = 128  # stands in the list of fed connections with output
    IS_EOF = 256  # the fed driver's stream has ended, or will be reset
    IS_SLOW = 512  # over its bound; closed at the end of the current call
    IS_DEAF = 2048  # readable before its head was answered: not watched for reading until then
    IS_THROTTLED = 16384  # sent more packets than it may; not read until DUE_THROTTLE
    IS_PENDING = 4096  # its user is not known yet; counted, and bounded in frames and bytes
    IS_URGENT = 8192  # stands in the queue that no flush leaves waiting
    IS_STOPPED = 32768  # a transport that is paused by itself, not only by channels of it
    IS_APART = 131072  # what is queued waits for `write_on`, so that it does not come with what was written last
    IS_ASKED = 65536  # a transport whose own owner asked for DRAINED, not only those of its channels
    IS_CLEAN = 1024  # nothing of the peer is unread, so the descriptor may be closed as soon as all is written

# Bits of Row.kind: what a packet for it looks like. Those below KINDS choose its arena.
cdef enum:
    KIND_MSGPACK = 1
    KIND_DEFLATE = 2
    KIND_BATCH = 4
    NATIVE_KINDS = 8
    KIND_CHANNEL = 8  # no connection of its own: a namespace of one that speaks Engine.IO
    KIND_POLLING = 16  # records of HTTP payloads instead of frames
    KINDS = 32
    KIND_ENGINE = 32  # a transport of Engine.IO: it has channels, and takes packets as they are

# What Row.tier holds: how much a connection may ask for, the greatest first
cdef enum:
    TIER_CRITICAL = 0
    TIER_STANDARD = 1
    TIER_DEGRADED = 2
    TIERS = 3

# What a connection may wait for; each has a deadline of its own
cdef enum:
    DUE_LIFE = 0  # what the state ends by: the head's timeout, the close timeout; in OPEN the service's set_timer
    DUE_HEARTBEAT = 1
    DUE_THROTTLE = 2
    DEADLINES = 3

# Bits of Pulse.flags
cdef enum:
    PULSE_WAITING = 1  # the verdict on the latest ping is open
    PULSE_ANSWERED = 2  # no pong of the latest ping is awaited any more
    PULSE_DOUBTED = 4  # its time was over at a first look
    PULSE_SLOW = 8  # the longest interval, whatever the round trips

cdef enum:
    EARLIER_PINGS = 2

# A connection's heartbeat; zero: it has none.
cdef struct Pulse:
    int64_t pinged_ns  # when the latest ping was sent, or the heartbeat began
    int64_t earlier_ns[EARLIER_PINGS]  # and those before it, the latest first; 0: answered, or there was none
    uint32_t interval_ms
    uint32_t number  # of the latest ping
    uint32_t round_trip_us
    uint8_t misses  # in a row
    uint8_t flags

cdef struct Subscription:
    uint32_t topic
    uint32_t position  # among the topic's members

cdef struct Row:
    uint32_t generation  # odd while in use
    uint32_t slot
    int fd  # owned; -1 in the fed driver
    # The next free row while it is free; then a transport's first channel, or the next of the same transport.
    uint32_t next
    uint8_t state
    uint8_t kind
    uint8_t tier
    uint32_t flags
    uint32_t parent  # of a channel: its transport's slot; it never outlives that
    uint16_t pauses  # of a transport: how many of its channels are paused
    uint32_t subscription_count
    uint32_t subscription_capacity
    Subscription *subscriptions  # owned
    PyObject *namespace  # owned; of a channel: its Namespace
    PyObject *owner  # owned reference, or NULL
    Inbound *inbound  # owned, NULL at rest
    int64_t received_ns
    int64_t due_ns[DEADLINES]  # by DUE_; 0: none. The wheel's timer stands at the first
    uint64_t meter  # while IS_PENDING: frames and, in the lower half, bytes of them; then when the next packet is due
    Pulse pulse
    uint8_t address[16]  # IPv6, or IPv4 mapped into it
    Outbox outbox


cdef class Slab:
    cdef Row *chunks[MAX_ROW_CHUNKS]
    cdef readonly uint32_t capacity
    cdef readonly uint32_t used
    cdef uint32_t free_head

    cdef Row *take(self) except NULL
    cdef void give_back(self, Row *row) noexcept


cdef inline Row *row_at(Slab slab, uint32_t slot) noexcept nogil:
    return &slab.chunks[slot >> ROW_BITS][slot & (ROWS_A_CHUNK - 1)]


cdef inline bint awaits_answer(const Row *row) noexcept nogil:
    """Whether what the peer sends is no part of what it asked: not read until that is answered."""
    return row.state == DECIDING or row.state == HELD or row.state == REPLYING


cdef inline bint is_polling(const Row *row) noexcept nogil:
    """Whether it is a polling transport itself, no channel of one."""
    return row.kind & KIND_ENGINE and row.kind & KIND_POLLING


cdef inline Row *carrier_of(Slab slab, Row *row) noexcept nogil:
    """The row that has the socket and the outbox: of a channel its transport's, else the row itself."""
    return row_at(slab, row.parent) if row.kind & KIND_CHANNEL else row


cdef inline uint64_t handle_of(const Row *row) noexcept nogil:
    return (<uint64_t>row.generation << 32) | row.slot


cdef inline Row *find(Slab slab, uint64_t handle) noexcept nogil:
    """The row of a handle, or NULL if the connection it named is gone."""
    cdef uint32_t slot = <uint32_t>handle
    cdef Row *row
    if slot >= slab.capacity:
        return NULL
    row = row_at(slab, slot)
    if row.generation != <uint32_t>(handle >> 32) or row.state == FREE:
        return NULL
    return row
