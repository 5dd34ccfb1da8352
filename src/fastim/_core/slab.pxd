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

# Bits of Row.flags
cdef enum:
    IS_FED = 1  # the fed driver: no socket
    IS_DIRTY = 2  # stands in the dirty list
    IS_BLOCKED = 4  # not all was taken that was offered; EPOLLOUT, or the fed driver's take, is awaited
    IS_PAUSED = 8  # the service does not want its data now
    IS_READY = 16  # stands in the queue of those with unparsed bytes
    WANTS_DRAINED = 32
    IS_SHUT = 64  # the write side is shut
    IS_LISTED = 128  # stands in the list of fed connections with output
    IS_EOF = 256  # the fed driver's stream has ended, or will be reset
    IS_SLOW = 512  # over its bound; closed at the end of the current call
    IS_DEAF = 2048  # readable before its head was answered: not watched for reading until then
    IS_CLEAN = 1024  # nothing of the peer is unread, so the descriptor may be closed as soon as all is written

# Bits of Row.kind: which arena serves it
cdef enum:
    KIND_MSGPACK = 1
    KIND_DEFLATE = 2
    KIND_BATCH = 4
    KINDS = 8

cdef struct Subscription:
    uint32_t topic
    uint32_t position  # among the topic's members

cdef struct Row:
    uint32_t generation  # odd while in use
    uint32_t slot
    int fd  # owned; -1 in the fed driver
    uint32_t next_free
    uint8_t state
    uint8_t kind
    uint16_t flags
    uint32_t subscription_count
    uint32_t subscription_capacity
    Subscription *subscriptions  # owned
    PyObject *owner  # owned reference, or NULL
    Inbound *inbound  # owned, NULL at rest
    int64_t received_ns
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
