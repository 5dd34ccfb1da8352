"""The connections of a hub: their life, and what all parts of the hub share."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from fastim._core cimport sockets
from fastim._core.addresses cimport AddressCounts, AddressRanges
from fastim._core.framer cimport Framer
from fastim._core.idle cimport IdleLists
from fastim._core.inbound cimport Rules
from fastim._core.namespaces cimport Namespaces
from fastim._core.outbox cimport Buffers
from fastim._core.pools cimport Memory, Pools
from fastim._core.slab cimport TIERS, Row, Slab
from fastim._core.topics cimport Topics
from fastim._core.wheel cimport TimingWheel

# What Hub.poll reports; EventKind is the same for Python.
cdef enum:
    EVENT_HEAD = 1
    EVENT_TEXT = 2
    EVENT_BINARY = 3
    EVENT_CLOSED = 4
    EVENT_TIMER = 5
    EVENT_DRAINED = 6
    EVENT_PONG = 7
    EVENT_ACCEPTED = 8
    EVENT_BODY = 9
    EVENT_ENGINE_TEXT = 10
    EVENT_ENGINE_BINARY = 11

# Which list of ``kept``: whether the user of its last request was known
cdef enum:
    KEPT_UNKNOWN = 0
    KEPT_KNOWN = 1

cdef enum:
    EVENTS_A_WAIT = 512
    RECEIVE_BYTES = 65536
    COPY_BYTES = 16384  # a write of several slices up to this size is copied together: cheaper than their vectors

cdef struct SlotList:
    uint32_t *slots  # owned
    uint32_t count
    uint32_t capacity

# Rows that wait for a flush
cdef struct FlushQueue:
    SlotList rows
    uint32_t next  # of rows, the first that was not flushed
    int64_t since_ns  # when a flush first found one waiting; 0: none has

cdef enum:
    QUEUE_URGENT = TIERS  # behind those of the tiers
    QUEUES = TIERS + 1

cdef int list_slot(SlotList *slots, uint32_t slot) except -1 nogil


cdef class Connections:
    cdef Slab slab
    cdef Memory memory
    cdef Pools *pools  # the memory's
    cdef Buffers buffers
    cdef Framer framer
    cdef Topics topics
    cdef TimingWheel wheel
    cdef IdleLists idle  # of those that were admitted
    cdef IdleLists kept  # of those that wait for another request, by KEPT_
    cdef Namespaces namespaces
    cdef uint32_t channel_count
    cdef readonly object on_dirty
    cdef list events
    cdef unsigned long thread
    cdef int epoll
    cdef bint polling
    cdef bint busy  # in a call that must not be re-entered
    cdef bint notified
    cdef bint shut
    cdef bint low_shed  # nothing is queued in the low lanes
    cdef bint accept_paused
    cdef int64_t accept_again_ns  # when to try again if no descriptor of the hub was closed until then
    cdef dict listeners  # fd: whether its connections are handed out
    cdef int64_t now_ns

    cdef Rules rules[2]  # without and with deflate
    cdef uint32_t max_connections
    cdef size_t head_bytes
    cdef int64_t head_timeout_ns
    cdef int64_t close_timeout_ns
    cdef int64_t idle_timeout_ns
    cdef size_t read_budget_bytes
    cdef int message_budget
    cdef int tick_messages
    cdef uint32_t outbox_bytes
    cdef uint16_t slow_close_code
    cdef uint16_t limit_close_code

    # Who is let in at accept. What is pending is counted from there until its user is known or it is gone.
    cdef readonly AddressRanges blocked
    cdef readonly AddressRanges exempt  # from `blocked` and from bounds by address
    cdef AddressCounts pending_by
    cdef uint32_t pending_count
    cdef uint32_t max_pending
    cdef uint32_t max_pending_per_address
    cdef uint32_t pending_frames  # that one may send
    cdef uint32_t pending_bytes
    cdef int64_t packet_ns[TIERS]  # between packets of a connection; 0: no bound
    cdef uint32_t max_packets
    cdef uint32_t flush_rows
    cdef uint32_t tier_weights[TIERS]

    cdef FlushQueue queues[QUEUES]
    cdef SlotList flushing
    cdef SlotList attention  # written, and something is to be done about it
    cdef SlotList ready  # with bytes that a budget left unparsed
    cdef SlotList resting
    cdef SlotList slow
    cdef SlotList fed
    cdef sockets.epoll_event waited[EVENTS_A_WAIT]
    cdef int wait_next
    cdef int wait_count
    cdef uint8_t *receive_buffer  # owned
    cdef uint8_t *copy_buffer  # owned

    cdef size_t accepted_count
    cdef size_t refused_count
    cdef size_t request_count
    cdef size_t evicted_count
    cdef size_t blocked_peers_count
    cdef size_t pending_refused_count
    cdef size_t throttled_count
    cdef size_t received_frames
    cdef size_t received_bytes
    cdef size_t sent_bytes
    cdef size_t write_calls
    cdef size_t slow_count
    cdef size_t low_dropped_count
    cdef size_t flush_count
    cdef size_t blocked_count

    cdef int _enter(self) except -1
    cdef Row *_row(self, handle) except? NULL
    cdef Row *_carrier(self, handle) except? NULL
    cdef int _notify(self) except -1
    cdef bint _tell(self) noexcept
    cdef int _mark_urgent(self, Row *row) except -1
    cdef int _mark_waiting(self, Row *row) except -1
    cdef int _mark_ready(self, Row *row) except -1
    cdef int _emit(self, int kind, Row *row, object data) except -1
    cdef int _interest(self, Row *row, bint add=*) except -1
    cdef Row *_open(self, int fd, const uint8_t *address) except NULL
    cdef int _own(self, Row *row, object owner) except -1
    cdef int _disown(self, Row *row) except -1
    cdef int _free_row(self, Row *row) except -1
    cdef int _authenticate(self, Row *row) except -1
    cdef int _resume(self, Row *row) except -1
    cdef int _begin_pending(self, const uint8_t *address) except -1
    cdef void _end_pending(self, const uint8_t *address) noexcept
    cdef int _let_go(self, Row *row, int code, str reason, bint clean) except -1
    cdef Row *_pop_channel(self, Row *row) noexcept
    cdef int _end_channels(self, Row *row, int code, str reason, bint clean) except -1
    cdef int _unlink(self, Row *channel) except -1
    cdef void _leave_namespace(self, Row *channel) noexcept
    cdef int _settle_channels(self, Row *row) except -1
    cdef int _lost(self, Row *row, int code, str reason) except -1
    cdef int _reset(self, Row *row, int code, str reason) except -1
    cdef int _queue_close(self, Row *row, uint16_t code, bytes reason, int lane) except -1
    cdef int _begin_close(self, Row *row, uint16_t code, str reason) except -1
    cdef int _finish(self, Row *row) except -1
    cdef int _fail(self, Row *row, uint16_t code, str reason) except -1
    cdef int _list_fed(self, Row *row) except -1
    cdef int _schedule(self, Row *row, int which, int64_t at_ns) except -1
    cdef int _schedule_last(self, Row *row, int64_t at_ns) except -1
    cdef int _set_alarm(self, Row *row) except -1
    cdef int _listener_interest(self, int fd, uint32_t events, int operation) except -1
    cdef int _pause_accept(self) except -1
    cdef int _resume_accept(self) except -1
