"""The socket hub: every client connection of a process, its frames, its outbox and its topics.

Two drivers carry the same connection. The epoll driver owns one epoll descriptor, which an event loop watches;
client sockets never become transports. The fed driver has no socket: bytes are fed in and taken out. Whatever
happens to a connection is an event of the next ``poll``; whatever is to be sent waits for the next ``flush``.

A connection's life: HEAD (its request head is read) → DECIDING (the service answers: upgrade, respond or detach)
→ OPEN → CLOSING (we closed; the peer's close frame is awaited) → FINISHING (what has begun goes out, the write
side is shut, what comes in is thrown away). The owner hears CLOSED as soon as nothing more can come for it; the
rest of the way the row goes by itself, within the close timeout.
"""

import zlib
from enum import IntEnum

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from fastim._core cimport sockets
from fastim._core.framer cimport Framer
from fastim._core.frames cimport (
    CLOSE_ABNORMAL,
    CLOSE_INVALID_PAYLOAD,
    CLOSE_NO_STATUS,
    CLOSE_TOO_BIG,
    FIN,
    OP_BINARY,
    OP_CLOSE,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    RSV1,
    UTF8_ACCEPT,
    utf8_feed,
    valid_close_code,
)
from fastim._core.inbound cimport (
    ITEM_CLOSE,
    ITEM_FAIL,
    ITEM_MESSAGE,
    ITEM_PING,
    ITEM_PONG,
    Inbound,
    Item,
    Rules,
    discard,
    keep_head,
    keep_left,
    next_item,
    settle,
)
from fastim._core.outbox cimport (
    LANE_HIGH,
    LANE_LOW,
    LANE_NORMAL,
    MAX_IOV,
    Buffers,
    Chunk,
    Span,
    fits,
)
from fastim._core.slab cimport (
    CLOSING,
    DECIDING,
    FINISHING,
    FREE,
    HEAD,
    IS_BLOCKED,
    IS_CLEAN,
    IS_DEAF,
    IS_DIRTY,
    IS_EOF,
    IS_FED,
    IS_LISTED,
    IS_PAUSED,
    IS_READY,
    IS_SHUT,
    IS_SLOW,
    KIND_BATCH,
    KIND_DEFLATE,
    KIND_MSGPACK,
    KINDS,
    NO_SLOT,
    OPEN,
    WANTS_DRAINED,
    Row,
    Slab,
    find,
    handle_of,
    row_at,
)
from fastim._core.topics cimport Topic, Topics
from fastim._core.wheel cimport WHEEL_NONE, TimingWheel

cdef enum:
    EVENTS_A_WAIT = 512
    ACCEPTS_A_POLL = 128
    RECEIVE_BYTES = 65536
    COPY_BYTES = 16384  # a write of several slices up to this size is copied together: cheaper than their vectors
    TIMER_TICK_NS = 10_000_000
    ACCEPT_PAUSE_NS = 500_000_000

cdef bytes _FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
)
cdef bytes _HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)
cdef bytes _HEAD_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class EventKind(IntEnum):
    """What ``Hub.poll`` reports; the first item of each tuple ``(kind, subject, data)``.

    ``subject`` is the connection's owner once ``upgrade`` has set one, and its handle before.
    """

    HEAD = 1
    TEXT = 2
    BINARY = 3
    CLOSED = 4
    TIMER = 5
    DRAINED = 6
    PONG = 7


class Lane(IntEnum):
    """Where a packet waits: what must not be late, what must be in order, what may be dropped."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Encoding(IntEnum):
    """How a connection's packets are encoded: text frames or binary frames."""

    JSON = 0
    MSGPACK = 1


# The same as C constants
cdef enum:
    EVENT_HEAD = 1
    EVENT_TEXT = 2
    EVENT_BINARY = 3
    EVENT_CLOSED = 4
    EVENT_TIMER = 5
    EVENT_DRAINED = 6
    EVENT_PONG = 7

# What a write left behind
cdef enum:
    WRITE_DONE = 0
    WRITE_BLOCKED = 1
    WRITE_FAILED = 2


cdef struct SlotList:
    uint32_t *slots  # owned
    uint32_t count
    uint32_t capacity


cdef int _list(SlotList *slots, uint32_t slot) except -1 nogil:
    cdef uint32_t capacity
    cdef uint32_t *grown
    if slots.count == slots.capacity:
        capacity = slots.capacity * 2 if slots.capacity else 256
        grown = <uint32_t *>realloc(slots.slots, capacity * sizeof(uint32_t))
        if grown == NULL:
            with gil:
                raise MemoryError()
        slots.slots = grown
        slots.capacity = capacity
    slots.slots[slots.count] = slot
    slots.count += 1
    return 0


@cython.final
@cython.no_gc_clear  # __dealloc__ needs the parts
cdef class Hub:
    """All connections of a process, over an epoll driver (``listen``) and a fed driver (``open_fed``).

    **Thread**: belongs to the thread that made it; a call from another raises RuntimeError. The GIL is released
    while sockets are written.

    Args:
        max_connections: More are answered 503 and closed at accept; 0: no limit.
        max_message_bytes: Larger messages close with 1009, before anything is allocated; inflated ones too.
        head_bytes: Of a request head; more is answered 431.
        head_timeout_ns: For the whole head; then 408 (nothing, if nothing came).
        close_timeout_ns: For the close handshake, and for what is begun to go out; then a reset.
        read_budget_bytes: Read from one connection in a tick; at most 65,536.
        message_budget: Frames of one connection handled in a tick; the rest in turn.
        tick_messages: Frames of all connections handled in a tick: what bounds its length, as time is not known here.
        outbox_bytes: Default bound of an outbox; past it the connection is closed with `slow_close_code`.
        max_fragments: Frames a message may have (1009 past it); 0: no limit.
        deflate_window_bits, deflate_min_bytes, deflate_level: Of permessage-deflate.
        on_dirty: Called once when the first thing waits for a flush (or poll) and not again until ``flush``.
    """

    cdef Slab slab
    cdef Buffers buffers
    cdef Framer framer
    cdef Topics topics
    cdef TimingWheel wheel
    cdef readonly object on_dirty
    cdef list events
    cdef unsigned long thread
    cdef int epoll
    cdef bint polling
    cdef bint busy  # in a call that must not be re-entered
    cdef bint notified
    cdef bint shut
    cdef bint accept_paused
    cdef int64_t accept_again_ns  # when to try again if no descriptor of the hub was closed until then
    cdef dict listeners  # fd: None
    cdef int64_t now_ns

    cdef Rules rules[2]  # without and with deflate
    cdef uint32_t max_connections
    cdef size_t head_bytes
    cdef int64_t head_timeout_ns
    cdef int64_t close_timeout_ns
    cdef size_t read_budget_bytes
    cdef int message_budget
    cdef int tick_messages
    cdef uint32_t outbox_bytes
    cdef uint16_t slow_close_code

    cdef SlotList dirty
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
    cdef size_t received_frames
    cdef size_t received_bytes
    cdef size_t sent_bytes
    cdef size_t write_calls
    cdef size_t slow_count
    cdef size_t low_dropped_count
    cdef size_t blocked_count

    def __cinit__(
        self,
        *,
        uint32_t max_connections=0,
        uint64_t max_message_bytes=102_400,
        size_t head_bytes=16_384,
        int64_t head_timeout_ns=5_000_000_000,
        int64_t close_timeout_ns=5_000_000_000,
        size_t read_budget_bytes=65_536,
        int message_budget=100,
        int tick_messages=512,
        uint32_t outbox_bytes=1_048_576,
        uint32_t max_fragments=0,
        int deflate_window_bits=12,
        size_t deflate_min_bytes=256,
        int deflate_level=1,
        uint16_t slow_close_code=4008,
        on_dirty=None,
    ):
        self.epoll = -1
        if not 0 < read_budget_bytes <= RECEIVE_BYTES:
            raise ValueError("read_budget_bytes must be within 1 and 65536")
        if message_budget < 1 or tick_messages < 2:
            raise ValueError("message_budget must be at least 1, tick_messages at least 2")
        if not 9 <= deflate_window_bits <= 15:
            raise ValueError("deflate_window_bits must be within 9 and 15")
        if max_message_bytes == 0 or max_message_bytes > 0x7FFFFFFF:
            raise ValueError("max_message_bytes must be within 1 and 2147483647")
        self.slab = Slab()
        self.buffers = Buffers()
        self.framer = Framer(self.buffers, deflate_window_bits, deflate_min_bytes, deflate_level)
        self.topics = Topics(self.slab)
        self.wheel = TimingWheel(TIMER_TICK_NS)
        self.on_dirty = on_dirty
        self.events = []
        self.listeners = {}
        self.thread = PyThread_get_thread_ident()
        self.rules[0] = Rules(max_message_bytes, max_fragments, 0)
        self.rules[1] = Rules(max_message_bytes, max_fragments, 1)
        self.max_connections = max_connections
        self.head_bytes = head_bytes
        self.head_timeout_ns = head_timeout_ns
        self.close_timeout_ns = close_timeout_ns
        self.read_budget_bytes = read_budget_bytes
        self.message_budget = message_budget
        self.tick_messages = tick_messages
        self.outbox_bytes = outbox_bytes
        self.slow_close_code = slow_close_code
        self.receive_buffer = <uint8_t *>malloc(RECEIVE_BYTES)
        self.copy_buffer = <uint8_t *>malloc(COPY_BYTES)
        if self.receive_buffer == NULL or self.copy_buffer == NULL:
            raise MemoryError()
        self.epoll = sockets.epoll_create1(sockets.EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, "epoll_create1")

    def __dealloc__(self):
        cdef uint32_t slot
        cdef Row *row
        self.accept_paused = False
        if self.slab is not None:
            for slot in range(self.slab.capacity):
                row = row_at(self.slab, slot)
                if row.state != FREE:
                    self._free_row(row)
        if self.epoll >= 0:
            sockets.close(self.epoll)
        free(self.dirty.slots)
        free(self.flushing.slots)
        free(self.attention.slots)
        free(self.ready.slots)
        free(self.resting.slots)
        free(self.slow.slots)
        free(self.fed.slots)
        free(self.receive_buffer)
        free(self.copy_buffer)

    # -- guards and small helpers

    cdef inline int _enter(self) except -1:
        if PyThread_get_thread_ident() != self.thread:
            raise RuntimeError("the hub belongs to the thread that made it")
        if self.shut:
            raise RuntimeError("the hub is shut down")
        if self.busy:
            # From on_dirty, or a finalizer that the garbage collector runs: rows are in use further up the stack.
            raise RuntimeError("the hub is in the middle of a call")
        return 0

    cdef inline Row *_row(self, handle) except? NULL:
        self._enter()
        return find(self.slab, <uint64_t>handle)

    cdef inline int _notify(self) except -1:
        if not self.notified:
            self.notified = True
            if self.on_dirty is not None and not self._tell():
                self.notified = False  # the next one tries again
        return 0

    cdef bint _tell(self) noexcept:
        """Call on_dirty; what it raises is reported, as nothing may be given up half-way through a publish."""
        self.on_dirty()
        return True

    cdef inline int _mark_dirty(self, Row *row) except -1:
        if not row.flags & IS_DIRTY:
            row.flags |= IS_DIRTY
            _list(&self.dirty, row.slot)
            if not self.notified:
                self._notify()
        return 0

    cdef inline int _emit(self, int kind, Row *row, object data) except -1:
        self.events.append((kind, <object>row.owner if row.owner != NULL else handle_of(row), data))
        if not self.polling:
            self._notify()
        return 0

    cdef int _interest(self, Row *row, bint add=False) except -1:
        """Tell epoll what a socket is waited for."""
        cdef sockets.epoll_event event
        if row.fd < 0:
            return 0
        event.events = 0
        if not row.flags & (IS_PAUSED | IS_DEAF):
            event.events |= sockets.EPOLLIN
        if row.flags & IS_BLOCKED:
            event.events |= sockets.EPOLLOUT
        event.data.u64 = handle_of(row)
        if sockets.epoll_ctl(
            self.epoll, sockets.EPOLL_CTL_ADD if add else sockets.EPOLL_CTL_MOD, row.fd, &event
        ) < 0:
            raise OSError(errno, "epoll_ctl")
        return 0

    # -- the end of a connection

    cdef int _free_row(self, Row *row) except -1:
        """Give everything back: the descriptor, the memory, the slot."""
        cdef PyObject *owner = row.owner
        if row.fd >= 0:
            sockets.close(row.fd)  # leaves epoll by itself: no descriptor of ours is shared
        if row.flags & IS_BLOCKED:
            self.blocked_count -= 1
        self.wheel.c_cancel(row.slot)
        self.topics.leave_all(row)
        self.buffers.clear(&row.outbox)
        discard(&row.inbound)
        row.owner = NULL
        self.slab.give_back(row)
        if owner != NULL:
            Py_DECREF(<object>owner)
        if self.accept_paused:
            self._resume_accept()
        return 0

    cdef int _let_go(self, Row *row, int code, str reason, bint clean) except -1:
        """The owner has heard the last of this connection."""
        cdef PyObject *owner = row.owner
        self.topics.leave_all(row)
        row.flags &= ~WANTS_DRAINED
        if row.flags & IS_PAUSED:
            row.flags &= ~IS_PAUSED
            self._interest(row)
        if owner == NULL:
            return 0
        self.events.append((EVENT_CLOSED, <object>owner, (code, reason, clean)))
        row.owner = NULL
        Py_DECREF(<object>owner)
        if not self.polling:
            self._notify()
        return 0

    cdef int _lost(self, Row *row, int code, str reason) except -1:
        """The stream is at its end, or is reset here."""
        self._let_go(row, code, reason, False)
        if row.flags & IS_FED:
            # The transport still holds the handle: it learns from take_finished, which frees the row.
            self.buffers.clear(&row.outbox)
            discard(&row.inbound)
            self.wheel.c_cancel(row.slot)
            row.state = FINISHING
            row.flags |= IS_EOF
            return self._list_fed(row)
        return self._free_row(row)

    cdef int _reset(self, Row *row, int code, str reason) except -1:
        if row.fd >= 0:
            sockets.reset_on_close(row.fd)
        return self._lost(row, code, reason)

    cdef int _queue_close(self, Row *row, uint16_t code, bytes reason, int lane) except -1:
        """Queue a close frame; low-priority packets, which would come behind it, are dropped."""
        cdef uint8_t payload[125]
        cdef size_t size = 0
        cdef Span span
        self.buffers.drop_lane(&row.outbox, LANE_LOW)
        if code != CLOSE_NO_STATUS:
            payload[0] = <uint8_t>(code >> 8)
            payload[1] = <uint8_t>code
            size = 2 + <size_t>min(len(reason), 123)
            memcpy(payload + 2, PyBytes_AS_STRING(reason), size - 2)
        self.framer.frame(FIN | OP_CLOSE, payload, size, &span)
        self.buffers.push(&row.outbox, lane, &span)
        return self._mark_dirty(row)

    cdef int _finish(self, Row *row) except -1:
        """From here on only what is queued goes out, within the close timeout."""
        row.state = FINISHING
        discard(&row.inbound)
        self.wheel.c_schedule(row.slot, <uint64_t>(self.now_ns + self.close_timeout_ns))
        return self._mark_dirty(row)

    cdef int _fail(self, Row *row, uint16_t code, str reason) except -1:
        """Section 7.1.7: the peer's bytes make no sense; say so and close."""
        if row.state == OPEN:
            self._queue_close(row, code, reason.encode(), LANE_NORMAL)
        self._let_go(row, code, reason, False)
        return self._finish(row)

    cdef int _slow(self, Row *row) except -1:
        """The reader is behind by more than its bound: what has not begun is dropped, then it is closed."""
        if not row.flags & IS_SLOW or row.state != OPEN:
            return 0  # gone meanwhile; the slot may be another's
        row.flags &= ~IS_SLOW
        self.slow_count += 1
        self.buffers.drop_lane(&row.outbox, LANE_HIGH)
        self.buffers.drop_lane(&row.outbox, LANE_NORMAL)
        self._queue_close(row, self.slow_close_code, b"slow consumer", LANE_HIGH)
        self._let_go(row, self.slow_close_code, "slow consumer", False)
        return self._finish(row)

    cdef int _end_slow(self) except -1:
        cdef uint32_t i
        for i in range(self.slow.count):
            self._slow(row_at(self.slab, self.slow.slots[i]))
        self.slow.count = 0
        return 0

    # -- receiving

    cdef int _receive(self, Row *row, uint8_t *p, size_t n, int budget) except -1:
        """Handle received bytes as the connection's state wants it; returns the frames of the budget used."""
        if row.state == HEAD:
            self._receive_head(row, p, n)
            return 1
        if row.state == OPEN or row.state == CLOSING:
            return self._receive_frames(row, p, n, budget)
        if row.state == DECIDING:
            keep_left(&row.inbound, p, n)
            return 0
        return 1  # FINISHING: thrown away

    cdef int _receive_head(self, Row *row, uint8_t *p, size_t n) except -1:
        """Collect the request head; what comes behind it is kept for the connection's next state."""
        cdef size_t before = row.inbound.message_size if row.inbound != NULL else 0
        cdef size_t size, end
        cdef const uint8_t *q
        cdef size_t take = n
        if before + take > self.head_bytes:
            take = self.head_bytes - before
        keep_head(&row.inbound, p, take)
        q = row.inbound.message
        size = row.inbound.message_size
        end = before - 3 if before > 3 else 0
        while end + 4 <= size:
            if q[end] == c"\r" and q[end + 1] == c"\n" and q[end + 2] == c"\r" and q[end + 3] == c"\n":
                end += 4
                break
            end += 1
        else:
            if size == self.head_bytes:
                self._respond(row, _HEAD_TOO_LARGE)
            return 0
        # Bytes behind the blank line, of the kept part and of the part that no longer fitted
        keep_left(&row.inbound, q + end, size - end)
        if take < n:
            keep_left(&row.inbound, p + take, n - take)
        row.inbound.message_size = end
        row.state = DECIDING
        self._emit(EVENT_HEAD, row, (q[:end], sockets.address_text(row.address)))
        return 0

    cdef int _receive_frames(self, Row *row, uint8_t *p, size_t n, int budget) except -1:
        """Handle frames up to the budget; the rest is kept and the connection queued for its next turn."""
        cdef Rules *rules = &self.rules[1 if row.kind & KIND_DEFLATE else 0]
        cdef size_t done = 0
        cdef size_t used
        cdef int frames = 0
        cdef bint heard = False  # a message of these bytes waits for its answer
        cdef Item item
        while done < n:
            # What was asked before a close frame in the same bytes is answered before the close is: its turn is
            # the next poll's. Behind a message p[done] begins a frame.
            if frames == budget or row.flags & IS_PAUSED or heard and p[done] & 0x0F == OP_CLOSE:
                keep_left(&row.inbound, p + done, n - done)
                self._mark_ready(row)
                return frames
            next_item(&row.inbound, rules, p + done, n - done, &used, &item)
            done += used
            frames += 1
            if item.kind == ITEM_MESSAGE:
                if row.state == OPEN:
                    self._message(row, &item)
                    heard = True
            elif item.kind == ITEM_PING:
                if row.state == OPEN:
                    self._send_control(row, OP_PONG, item.data, item.size)
            elif item.kind == ITEM_PONG:
                if row.state == OPEN:
                    self._emit(EVENT_PONG, row, item.data[:item.size])
            elif item.kind == ITEM_CLOSE:
                self._closed_by_peer(row, &item)
            elif item.kind == ITEM_FAIL:
                self._fail(row, item.code, item.why.decode())
            if row.state == FINISHING:
                return frames  # the state that p may point into is gone
        if row.inbound != NULL:
            if row.inbound.left != NULL:
                keep_left(&row.inbound, row.inbound.left + row.inbound.left_offset, 0)
            settle(&row.inbound)
        return frames

    cdef int _mark_ready(self, Row *row) except -1:
        if not row.flags & (IS_READY | IS_PAUSED):
            row.flags |= IS_READY
            _list(&self.ready, row.slot)
            if not self.polling:
                self._notify()
        return 0

    cdef int _message(self, Row *row, Item *item) except -1:
        cdef bytes data
        if item.compressed:
            try:
                data = self.framer.inflate(item.data, item.size, self.rules[1].max_message_bytes)
            except zlib.error:
                return self._fail(row, CLOSE_INVALID_PAYLOAD, "not a deflate stream")
            if data is None:
                return self._fail(row, CLOSE_TOO_BIG, "message too big")
            if item.opcode == OP_TEXT and utf8_feed(
                UTF8_ACCEPT, <const uint8_t *>PyBytes_AS_STRING(data), <size_t>len(data)
            ) != UTF8_ACCEPT:
                return self._fail(row, CLOSE_INVALID_PAYLOAD, "text is not UTF-8")
        else:
            data = PyBytes_FromStringAndSize(<const char *>item.data, <Py_ssize_t>item.size)
        self.events.append(
            (EVENT_TEXT if item.opcode == OP_TEXT else EVENT_BINARY, <object>row.owner, data)
        )
        return 0

    cdef int _closed_by_peer(self, Row *row, Item *item) except -1:
        """Section 5.5.1: answer with the same code; the server ends the stream first."""
        cdef str reason = item.data[:item.size].decode()
        if row.state == OPEN:
            self._queue_close(row, item.code, b"", LANE_NORMAL)
            self._let_go(row, item.code, reason, True)
        row.flags |= IS_CLEAN
        return self._finish(row)

    cdef int _read(self, Row *row, int budget) except -1:
        """Read once from a socket and handle what came; returns the frames used."""
        cdef ssize_t n = sockets.recv(row.fd, self.receive_buffer, self.read_budget_bytes, 0)
        if n > 0:
            row.received_ns = self.now_ns
            self.received_bytes += <size_t>n
            return self._receive(row, self.receive_buffer, <size_t>n, budget)
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if n == 0 and row.state == FINISHING and row.outbox.queued_bytes:
            # Half-closed: the peer may still read what is queued for it.
            row.flags |= IS_CLEAN | IS_PAUSED
            self._interest(row)
            return 0
        self._lost(row, CLOSE_ABNORMAL, "")
        return 0

    # -- accepting

    cdef int _accept(self, int listener) except -1:
        """Accept what is there, within a budget."""
        cdef sockets.sockaddr_storage from_
        cdef uint32_t size
        cdef int fd, i
        cdef uint8_t address[16]
        cdef Row *row
        for i in range(ACCEPTS_A_POLL):
            size = sizeof(from_)
            fd = sockets.accept4(
                listener, <sockets.sockaddr *>&from_, &size, sockets.SOCK_NONBLOCK | sockets.SOCK_CLOEXEC
            )
            if fd < 0:
                if errno == EINTR or errno == ECONNABORTED:
                    continue
                if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
                    self._pause_accept()
                return 0
            if self.max_connections and self.slab.used >= self.max_connections:
                self.refused_count += 1
                sockets.send(
                    fd, PyBytes_AS_STRING(_FULL), <size_t>len(_FULL), sockets.MSG_NOSIGNAL | sockets.MSG_DONTWAIT
                )
                sockets.close(fd)
                continue
            self.accepted_count += 1
            sockets.map_address(&from_, address)
            row = self._open(fd, address)
            try:
                self._interest(row, True)
            except OSError:  # the system's limit of watches
                self._free_row(row)
        return 0

    cdef int _listener_interest(self, int fd, uint32_t events, int operation) except -1:
        cdef sockets.epoll_event event
        event.events = events
        event.data.u64 = (<uint64_t><uint32_t>fd << 32) | NO_SLOT
        if sockets.epoll_ctl(self.epoll, operation, fd, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        return 0

    cdef int _pause_accept(self) except -1:
        """Out of descriptors: stop listening until one is free, instead of spinning on accept.

        A descriptor of another part of the process may be the one, so time ends the pause as well.
        """
        self.accept_paused = True
        self.accept_again_ns = self.now_ns + ACCEPT_PAUSE_NS
        for fd in self.listeners:
            self._listener_interest(fd, 0, sockets.EPOLL_CTL_MOD)
        return 0

    cdef int _resume_accept(self) except -1:
        self.accept_paused = False
        for fd in self.listeners:
            self._listener_interest(fd, sockets.EPOLLIN, sockets.EPOLL_CTL_MOD)
        return 0

    cdef Row *_open(self, int fd, const uint8_t *address) except NULL:
        """A row in its first state, with the head's timeout running."""
        cdef Row *row
        try:
            row = self.slab.take()
        except MemoryError:
            if fd >= 0:
                sockets.close(fd)
            raise
        row.fd = fd
        row.state = HEAD
        row.outbox.bound_bytes = self.outbox_bytes
        row.received_ns = self.now_ns
        memcpy(row.address, address, 16)
        self.wheel.c_schedule(row.slot, <uint64_t>(self.now_ns + self.head_timeout_ns))
        return row

    # -- the loop's side

    def fileno(self):
        """The epoll descriptor, for the event loop to watch for reading."""
        self._enter()
        return self.epoll

    def listen(self, int fd):
        """Accept connections from a listening socket, which stays the caller's.

        Raises:
            OSError: epoll does not take the descriptor.
        """
        self._enter()
        sockets.set_nonblocking(fd)
        self._listener_interest(fd, 0 if self.accept_paused else sockets.EPOLLIN, sockets.EPOLL_CTL_ADD)
        self.listeners[fd] = None

    def unlisten(self, int fd):
        """Stop accepting from a listening socket; connections stay."""
        self._enter()
        if fd in self.listeners:
            del self.listeners[fd]
            sockets.epoll_ctl(self.epoll, sockets.EPOLL_CTL_DEL, fd, NULL)

    @property
    def pending(self):
        """Whether ``poll`` has something to do without waiting for a descriptor."""
        return bool(self.events or self.ready.count or self.wait_next < self.wait_count)

    def poll(self, int64_t now_ns):
        """Accept, read, parse and run timers, within the tick's budgets; never blocks.

        Args:
            now_ns: A monotonic clock.

        Returns:
            Events ``(kind, subject, data)`` in the order they happened; see EventKind.
        """
        cdef list events
        cdef int half = self.tick_messages // 2
        self._enter()
        self.now_ns = now_ns
        self.polling = self.busy = True
        try:
            self._run_timers()
            half = self._run_ready(half)
            self._run_sockets(self.tick_messages - self.tick_messages // 2 + half)
        finally:
            self.polling = self.busy = False
        events = self.events
        self.events = []
        return events

    cdef int _run_timers(self) except -1:
        cdef uint32_t slot
        cdef Row *row
        if self.accept_paused and self.now_ns >= self.accept_again_ns:
            self._resume_accept()
        self.wheel.c_advance(<uint64_t>self.now_ns)
        while True:
            slot = self.wheel.c_pop()
            if slot == WHEEL_NONE:
                return 0
            row = row_at(self.slab, slot)
            if row.state == OPEN:
                self._emit(EVENT_TIMER, row, None)
            elif row.state == HEAD and row.inbound != NULL:
                self._respond(row, _HEAD_TIMEOUT)
            elif row.state == HEAD:
                self._lost(row, CLOSE_ABNORMAL, "")
            elif row.state != FREE:
                self._reset(row, CLOSE_ABNORMAL, "timeout")

    cdef int _run_ready(self, int budget) except -1:
        """Give each connection with unparsed bytes a turn; who had none before goes first the next time."""
        cdef SlotList turn = self.ready
        cdef uint32_t i
        cdef int share
        cdef Row *row
        self.ready = self.resting
        self.ready.count = 0
        self.resting = turn  # each list has its own memory, also if this raises
        for i in range(turn.count):
            row = row_at(self.slab, turn.slots[i])
            if budget > 0:
                row.flags &= ~IS_READY
                if row.state == FREE or row.inbound == NULL or not row.inbound.left_size:
                    continue
                share = self.message_budget if self.message_budget < budget else budget
                budget -= self._receive_left(row, share)
            else:
                break
        else:
            i = turn.count
        if i < turn.count:
            self._put_first(&turn, i)
        return budget

    cdef int _put_first(self, SlotList *turn, uint32_t begin) except -1:
        """Queue turn[begin:] before those that had their turn and have bytes left."""
        cdef uint32_t served = self.ready.count
        cdef uint32_t waiting = turn.count - begin
        cdef uint32_t i
        for i in range(waiting):
            _list(&self.ready, 0)
        for i in range(served, 0, -1):
            self.ready.slots[waiting + i - 1] = self.ready.slots[i - 1]
        for i in range(waiting):
            self.ready.slots[i] = turn.slots[begin + i]
        return 0

    cdef int _receive_left(self, Row *row, int budget) except -1:
        cdef Inbound *inbound = row.inbound
        cdef int used = self._receive(row, inbound.left + inbound.left_offset, inbound.left_size, budget)
        self.received_frames += <size_t>used
        return used

    cdef int _run_sockets(self, int budget) except -1:
        """Handle what epoll reports, and first what it reported in the last tick and was not reached."""
        cdef sockets.epoll_event *event
        cdef int rounds, share, used
        cdef Row *row
        for rounds in range(2):
            while self.wait_next < self.wait_count:
                if budget <= 0:
                    return 0
                event = &self.waited[self.wait_next]
                self.wait_next += 1
                if <uint32_t>event.data.u64 == NO_SLOT:
                    if not self.accept_paused and <int>(event.data.u64 >> 32) in self.listeners:
                        self._accept(<int>(event.data.u64 >> 32))
                    continue
                row = find(self.slab, event.data.u64)
                if row == NULL:
                    continue
                if event.events & (sockets.EPOLLOUT | sockets.EPOLLERR | sockets.EPOLLHUP):
                    self._unblock(row)
                if event.events & (sockets.EPOLLERR | sockets.EPOLLHUP) and (
                    row.flags & IS_PAUSED or row.state == DECIDING
                ):
                    self._lost(row, CLOSE_ABNORMAL, "")
                    continue
                if not event.events & (sockets.EPOLLIN | sockets.EPOLLERR | sockets.EPOLLHUP):
                    continue
                if row.state == DECIDING:
                    row.flags |= IS_DEAF  # else epoll reports it again and again until the head is answered
                    self._interest(row)
                    continue
                if row.flags & (IS_READY | IS_PAUSED):
                    continue  # has bytes waiting, or is not wanted now: the socket keeps the rest
                share = self.message_budget if self.message_budget < budget else budget
                used = self._read(row, share)
                self.received_frames += <size_t>used
                budget -= used
            if rounds == 1:
                return 0
            self.wait_next = 0
            self.wait_count = sockets.epoll_wait(self.epoll, self.waited, EVENTS_A_WAIT, 0)
            if self.wait_count < 0:
                self.wait_count = 0
                if errno != EINTR:
                    raise OSError(errno, "epoll_wait")
        return 0

    cdef int _unblock(self, Row *row) except -1:
        if row.flags & IS_BLOCKED:
            row.flags &= ~IS_BLOCKED
            self.blocked_count -= 1
            self._interest(row)
            self._mark_dirty(row)
        return 0

    # -- sending

    def flush(self, int64_t now_ns):
        """Write every connection that has something to send, once. The GIL is released meanwhile."""
        self._enter()
        self.now_ns = now_ns
        self.notified = False
        self.busy = True
        try:
            self._flush()
        finally:
            self.busy = False

    cdef int _flush(self) except -1:
        cdef uint32_t i
        cdef Row *row
        cdef SlotList turn
        turn = self.dirty
        self.dirty = self.flushing
        self.dirty.count = 0
        self.flushing = turn
        for i in range(self.flushing.count):
            row = row_at(self.slab, self.flushing.slots[i])
            row.flags &= ~IS_DIRTY
            if row.kind & KIND_BATCH and row.state != FREE:
                self.framer.cut_batches(&row.outbox, row.kind)
        with nogil:
            # C data only: rows, chunks, slices and the lists of slots.
            for i in range(self.flushing.count):
                self._flush_row(row_at(self.slab, self.flushing.slots[i]))
        self.flushing.count = 0
        for i in range(self.attention.count):
            self._attend(row_at(self.slab, self.attention.slots[i]))
        self.attention.count = 0
        self.framer.end_tick()
        return 0

    cdef int _flush_row(self, Row *row) except -1 nogil:
        cdef int result
        if row.state == FREE:
            return 0
        if row.flags & IS_FED:
            if row.flags & IS_BLOCKED:
                self.buffers.privatize(&row.outbox)
            return _list(&self.attention, row.slot)
        result = self._write(row)
        if result != WRITE_DONE or row.state == FINISHING or row.flags & (WANTS_DRAINED | IS_EOF):
            _list(&self.attention, row.slot)
        return 0

    cdef int _write(self, Row *row) except -1 nogil:
        """Write what a socket takes. A blocked connection keeps copies of its own."""
        cdef iovec vectors[MAX_IOV]
        cdef sockets.msghdr message
        cdef ssize_t sent
        cdef size_t total
        cdef int count, i
        if row.flags & IS_BLOCKED:
            self.buffers.privatize(&row.outbox)
            return WRITE_DONE
        while row.outbox.queued_bytes:
            count = self.buffers.gather(&row.outbox, vectors, MAX_IOV)
            total = 0
            for i in range(count):
                total += vectors[i].iov_len
            if count == 1:
                sent = sockets.send(row.fd, vectors[0].iov_base, total, sockets.MSG_NOSIGNAL)
            elif total <= COPY_BYTES:
                total = 0
                for i in range(count):
                    memcpy(self.copy_buffer + total, vectors[i].iov_base, vectors[i].iov_len)
                    total += vectors[i].iov_len
                sent = sockets.send(row.fd, self.copy_buffer, total, sockets.MSG_NOSIGNAL)
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = vectors
                message.msg_iovlen = <size_t>count
                sent = sockets.sendmsg(row.fd, &message, sockets.MSG_NOSIGNAL)
            self.write_calls += 1
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    return WRITE_FAILED
                sent = 0
            self.sent_bytes += <size_t>sent
            self.buffers.consume(&row.outbox, <size_t>sent)
            if <size_t>sent < total:
                self.buffers.privatize(&row.outbox)
                return WRITE_BLOCKED
        return WRITE_DONE

    cdef int _attend(self, Row *row) except -1:
        """After a write: what a flush cannot do without the GIL."""
        if row.state == FREE:
            return 0
        if row.flags & IS_FED:
            if row.outbox.queued_bytes and not row.flags & IS_BLOCKED:
                row.flags |= IS_BLOCKED  # until it is taken
                self.blocked_count += 1
            return self._list_fed(row)
        if row.outbox.queued_bytes:
            if row.flags & IS_BLOCKED:
                return 0
            row.flags |= IS_BLOCKED
            self.blocked_count += 1
            return self._interest(row)  # a broken socket shows at once, as EPOLLERR or EPOLLHUP
        return self._drained(row)

    cdef int _drained(self, Row *row) except -1:
        """The outbox is empty: tell who asked, or end the stream."""
        if row.flags & WANTS_DRAINED:
            row.flags &= ~WANTS_DRAINED
            self._emit(EVENT_DRAINED, row, None)
        if row.state != FINISHING or row.flags & IS_SHUT:
            return 0
        if row.flags & IS_CLEAN:
            return self._free_row(row)
        row.flags |= IS_SHUT
        sockets.shutdown(row.fd, sockets.SHUT_WR)
        return 0

    cdef int _overflow(self, Row *row, size_t size) except -1:
        """Make room by writing now; still none: the connection is too slow. Returns 1 if there is room."""
        if row.flags & IS_SLOW:
            return 0
        if not row.flags & (IS_BLOCKED | IS_FED):
            if row.kind & KIND_BATCH:
                self.framer.cut_batches(&row.outbox, row.kind)
                self.framer.forget_cuts()
            self._write(row)
            if fits(&row.outbox, size):
                return 1
        row.flags |= IS_SLOW
        _list(&self.slow, row.slot)
        return 0

    cdef inline int _push(self, Row *row, int lane, const Span *span) except -1:
        """Queue a span; 1 if it was queued."""
        if lane == LANE_LOW and (
            row.flags & IS_BLOCKED or row.outbox.queued_bytes + span.size > row.outbox.bound_bytes >> 2
        ):
            self.low_dropped_count += 1
            return 0
        if not fits(&row.outbox, span.size) and not self._overflow(row, span.size):
            return 0
        self.buffers.push(&row.outbox, lane, span)
        self._mark_dirty(row)
        return 1

    cdef int _send_control(self, Row *row, uint8_t opcode, const uint8_t *p, size_t n) except -1:
        cdef Span span
        self.framer.frame(FIN | opcode, p, n, &span)
        self._push(row, LANE_HIGH, &span)
        return self._end_slow() if self.slow.count else 0

    # -- a connection's beginning

    def adopt(self, int fd, str peer, int64_t now_ns):
        """Take over a connected socket, in the state in which its request head is read.

        Args:
            fd: Becomes the hub's, also if this fails.
            peer: Its address, as text; "" if it has none.

        Returns:
            Its handle.
        """
        cdef uint8_t address[16]
        cdef Row *row
        self._enter()
        self.now_ns = now_ns
        sockets.text_address(peer.encode(), address)
        sockets.set_nonblocking(fd)
        row = self._open(fd, address)
        try:
            self._interest(row, True)
        except OSError:
            self._free_row(row)
            raise
        return handle_of(row)

    def upgrade(
        self,
        handle,
        bytes response not None,
        owner,
        *,
        int encoding=0,
        bint deflate=False,
        int64_t deadline_ns=0,
    ):
        """Answer a request head with 101; the connection is a WebSocket from here.

        Args:
            handle: Of a connection whose HEAD event has come.
            response: The whole response head.
            owner: The subject of all further events; kept until CLOSED.
            encoding: Of its packets.
            deflate: Whether permessage-deflate was negotiated.
            deadline_ns: As for set_timer; 0: none.

        Returns:
            False if the connection is gone or was answered already.
        """
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != DECIDING:
            return False
        row.state = OPEN
        row.kind = (KIND_MSGPACK if encoding else 0) | (KIND_DEFLATE if deflate else 0)
        Py_INCREF(owner)
        row.owner = <PyObject *>owner
        self._listen_again(row)
        self._forget_head(row)
        self.buffers.begin_bytes(
            &row.outbox, <const uint8_t *>PyBytes_AS_STRING(response), <size_t>len(response)
        )
        self._mark_dirty(row)
        if deadline_ns:
            self.wheel.c_schedule(row.slot, <uint64_t>deadline_ns)
        else:
            self.wheel.c_cancel(row.slot)
        return True

    cdef int _listen_again(self, Row *row) except -1:
        """The head is answered: what the socket has is wanted."""
        if row.flags & IS_DEAF:
            row.flags &= ~IS_DEAF
            self._interest(row)
        return 0

    cdef int _forget_head(self, Row *row) except -1:
        """The head is answered; frames that came behind it get their turn."""
        free(row.inbound.message)
        row.inbound.message = NULL
        row.inbound.message_size = 0
        row.inbound.message_capacity = 0
        if row.inbound.left_size:
            return self._mark_ready(row)
        settle(&row.inbound)
        return 0

    cdef int _respond(self, Row *row, bytes response) except -1:
        # Not IS_CLEAN: what the peer still sends would turn the close into a reset that overtakes the response.
        self.buffers.begin_bytes(
            &row.outbox, <const uint8_t *>PyBytes_AS_STRING(response), <size_t>len(response)
        )
        self._listen_again(row)
        return self._finish(row)

    def respond(self, handle, bytes response not None, int64_t now_ns):
        """Answer a request head with a whole HTTP response, and close. Returns False if it is gone."""
        cdef Row *row = self._row(handle)
        self.now_ns = now_ns
        if row == NULL or row.state != DECIDING:
            return False
        self._respond(row, response)
        return True

    def detach(self, handle):
        """Give a connection away whose HEAD event has come.

        Returns:
            (fd, bytes): the descriptor, now the caller's (-1 in the fed driver), and all that was read.

        Raises:
            LookupError: gone, or answered already.
        """
        cdef Row *row = self._row(handle)
        cdef bytes data
        cdef int fd
        if row == NULL or row.state != DECIDING:
            raise LookupError("no connection waits for an answer under this handle")
        data = row.inbound.message[:row.inbound.message_size]
        if row.inbound.left_size:
            data += (row.inbound.left + row.inbound.left_offset)[:row.inbound.left_size]
        fd = row.fd
        if fd >= 0:
            sockets.epoll_ctl(self.epoll, sockets.EPOLL_CTL_DEL, fd, NULL)
        row.fd = -1
        self._free_row(row)
        return fd, data

    # -- the fed driver

    def open_fed(self, str peer, int64_t now_ns):
        """A connection without a socket; bytes come by ``feed`` and go by ``take``. Returns its handle."""
        cdef uint8_t address[16]
        cdef Row *row
        self._enter()
        self.now_ns = now_ns
        sockets.text_address(peer.encode(), address)
        row = self._open(-1, address)
        row.flags |= IS_FED
        return handle_of(row)

    def feed(self, handle, data, int64_t now_ns):
        """Receive bytes; their events come with the next ``poll``.

        Returns:
            How many bytes wait to be parsed. While that is much, the transport should not be read.
        """
        cdef Row *row = self._row(handle)
        cdef const uint8_t[::1] view = data
        self.now_ns = now_ns
        if row == NULL or not row.flags & IS_FED:
            return 0
        self.busy = True
        try:
            self._feed(row, view)
        finally:
            self.busy = False
        return row.inbound.left_size if row.inbound != NULL else 0

    cdef int _feed(self, Row *row, const uint8_t[::1] view) except -1:
        cdef size_t done = 0
        cdef size_t part
        while done < <size_t>view.shape[0] and not row.flags & IS_EOF:
            row.received_ns = self.now_ns
            part = <size_t>view.shape[0] - done
            if part > RECEIVE_BYTES:
                part = RECEIVE_BYTES
            self.received_bytes += part
            if row.state == OPEN or row.state == CLOSING:
                keep_left(&row.inbound, &view[done], part)
                self._mark_ready(row)
            else:
                memcpy(self.receive_buffer, &view[done], part)
                self._receive(row, self.receive_buffer, part, self.message_budget)
            done += part
        return 0

    def feed_eof(self, handle, int64_t now_ns):
        """The transport is at its end; what was fed before is still handled first."""
        cdef Row *row = self._row(handle)
        self.now_ns = now_ns
        if row == NULL or not row.flags & IS_FED:
            return
        self.busy = True
        try:
            while row.state in (OPEN, CLOSING) and row.inbound != NULL and row.inbound.left_size:
                if row.flags & IS_PAUSED:
                    break
                self._receive_left(row, self.message_budget)
            self._lost(row, CLOSE_ABNORMAL, "")
            row.flags &= ~IS_LISTED
            self._free_row(row)
        finally:
            self.busy = False

    def take(self, handle, size_t max_bytes):
        """Bytes to send, at most `max_bytes`; b"" if there are none. They count as sent."""
        cdef Row *row = self._row(handle)
        cdef iovec vectors[MAX_IOV]
        cdef bytearray out = bytearray()
        cdef size_t part, room
        cdef int count, i
        if row == NULL or not row.flags & IS_FED:
            return b""
        if row.kind & KIND_BATCH:
            self.framer.cut_batches(&row.outbox, row.kind)
            self.framer.forget_cuts()
        while row.outbox.queued_bytes and <size_t>len(out) < max_bytes:
            count = self.buffers.gather(&row.outbox, vectors, MAX_IOV)
            room = max_bytes - <size_t>len(out)
            part = 0
            for i in range(count):
                if part + vectors[i].iov_len > room:
                    vectors[i].iov_len = room - part
                out += (<const uint8_t *>vectors[i].iov_base)[:vectors[i].iov_len]
                part += vectors[i].iov_len
                if part == room:
                    break
            self.buffers.consume(&row.outbox, part)
            self.sent_bytes += part
        if row.outbox.queued_bytes:
            self.buffers.privatize(&row.outbox)
            return bytes(out)
        if row.flags & IS_BLOCKED:
            row.flags &= ~IS_BLOCKED
            self.blocked_count -= 1
        if row.flags & WANTS_DRAINED:
            row.flags &= ~WANTS_DRAINED
            self._emit(EVENT_DRAINED, row, None)
        return bytes(out)

    def take_finished(self, handle):
        """Whether the transport is to be closed now, as all that goes out has been taken. Frees the connection."""
        cdef Row *row = self._row(handle)
        if row == NULL:
            return True
        if not row.flags & IS_FED or row.state != FINISHING or row.outbox.queued_bytes:
            return False
        self._free_row(row)
        return True

    def fed_ready(self):
        """Handles of fed connections that have something to take, or are finished; each once a flush."""
        cdef list handles = []
        cdef Row *row
        cdef uint32_t i
        self._enter()
        for i in range(self.fed.count):
            row = row_at(self.slab, self.fed.slots[i])
            if row.state != FREE and row.flags & IS_LISTED:
                row.flags &= ~IS_LISTED
                handles.append(handle_of(row))
        self.fed.count = 0
        return handles

    cdef int _list_fed(self, Row *row) except -1:
        if not row.flags & IS_LISTED:
            row.flags |= IS_LISTED
            _list(&self.fed, row.slot)
            self._notify()
        return 0

    # -- one connection

    def alive(self, handle):
        """Whether packets can be sent to it."""
        cdef Row *row = self._row(handle)
        return row != NULL and row.state == OPEN

    def owner(self, handle):
        """The owner given to ``upgrade``; None before, after, and for a stale handle."""
        cdef Row *row = self._row(handle)
        return <object>row.owner if row != NULL and row.owner != NULL else None

    def peer(self, handle):
        """The peer's address as text; "" for a stale handle."""
        cdef Row *row = self._row(handle)
        return sockets.address_text(row.address) if row != NULL else ""

    def configure(self, handle, *, batch=None, outbox_bytes=None):
        """Change whether it takes batches, and its outbox's bound in bytes. False if it is gone."""
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN:
            return False
        if batch is not None:
            if row.kind & KIND_BATCH and not batch:
                self.framer.cut_batches(&row.outbox, row.kind)
                self.framer.forget_cuts()
            row.kind = (row.kind & ~KIND_BATCH) | (KIND_BATCH if batch else 0)
        if outbox_bytes is not None:
            row.outbox.bound_bytes = outbox_bytes
        return True

    def send(self, handle, bytes packet, int lane=LANE_NORMAL):
        """Queue one encoded packet, in the connection's encoding.

        Returns:
            False if it is gone, or too slow and therefore closed now. True says nothing about arrival; a packet in
            the low lane may be dropped.
        """
        cdef Row *row = self._row(handle)
        cdef Span span
        cdef int kind
        if row == NULL or row.state != OPEN:
            return False
        if not 0 <= lane <= LANE_LOW:
            raise ValueError("no such lane")
        kind = row.kind if lane != LANE_HIGH else row.kind & ~KIND_BATCH
        self.framer.packet(&self.framer.direct[kind], kind, packet, &span)
        self._push(row, lane, &span)
        if self.slow.count:
            self._end_slow()
        return row.state == OPEN

    def send_message(self, handle, bytes payload, bint binary):
        """Queue one WebSocket message as it is, whatever the connection's encoding. False if it is gone."""
        cdef Row *row = self._row(handle)
        cdef Span span
        cdef bytes data = payload
        cdef uint8_t first = FIN | (OP_BINARY if binary else OP_TEXT)
        if row == NULL or row.state != OPEN:
            return False
        if row.kind & KIND_DEFLATE and <size_t>len(payload) >= self.framer.min_bytes:
            data = self.framer.deflate(payload)
            if len(data) < len(payload):
                first |= RSV1
            else:
                data = payload
        self.framer.frame(first, <const uint8_t *>PyBytes_AS_STRING(data), <size_t>len(data), &span)
        self._push(row, LANE_NORMAL, &span)
        if self.slow.count:
            self._end_slow()
        return row.state == OPEN

    def ping(self, handle, bytes payload=b""):
        """Queue a ping with at most 125 bytes. False if the connection is gone."""
        cdef Row *row = self._row(handle)
        if len(payload) > 125:
            raise ValueError("a ping has at most 125 bytes")
        if row == NULL or row.state != OPEN:
            return False
        self._send_control(
            row, OP_PING, <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>len(payload)
        )
        return row.state == OPEN

    def close(self, handle, uint16_t code, str reason, int64_t now_ns):
        """Begin the close handshake: what is queued goes out first, packets of the low lane excepted.

        CLOSED with this code is the owner's last event. `reason` is cut to 123 bytes. False if it is gone.

        Raises:
            ValueError: a close frame must not carry the code; 1005 stands for none.
        """
        cdef Row *row = self._row(handle)
        cdef bytes text
        if code != CLOSE_NO_STATUS and not valid_close_code(code):
            raise ValueError("not a code that a close frame may carry")
        if row == NULL or row.state != OPEN:
            return False
        self.now_ns = now_ns
        text = reason.encode()[:123].decode("utf-8", "ignore").encode()
        self._queue_close(row, code, text, LANE_NORMAL)
        self._let_go(row, code, reason, False)
        row.state = CLOSING
        if row.inbound != NULL and row.inbound.left_size:
            self._mark_ready(row)
        self._interest(row)
        self.wheel.c_schedule(row.slot, <uint64_t>(now_ns + self.close_timeout_ns))
        return True

    def abort(self, handle):
        """Reset the connection at once; CLOSED with 1006 is its last event. False if it is gone."""
        cdef Row *row = self._row(handle)
        if row == NULL or row.flags & IS_EOF:  # the fed driver's row waits for take_finished
            return False
        self._reset(row, CLOSE_ABNORMAL, "aborted")
        return True

    def set_timer(self, handle, int64_t at_ns):
        """Ask for one TIMER event at `at_ns`, instead of the one asked for before; 0: none. False if it is gone."""
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN:
            return False
        if at_ns:
            self.wheel.c_schedule(row.slot, <uint64_t>at_ns)
        else:
            self.wheel.c_cancel(row.slot)
        return True

    def last_received_ns(self, handle):
        """When the last bytes came, by the clock of ``poll``; 0 for a stale handle."""
        cdef Row *row = self._row(handle)
        return row.received_ns if row != NULL else 0

    def pause(self, handle):
        """Stop reading from it, so that the peer's writes block in the end. False if it is gone."""
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN:
            return False
        if not row.flags & IS_PAUSED:
            row.flags |= IS_PAUSED
            self._interest(row)
        return True

    def resume(self, handle):
        """Read from it again. False if it is gone."""
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN:
            return False
        if row.flags & IS_PAUSED:
            row.flags &= ~IS_PAUSED
            self._interest(row)
            if row.inbound != NULL and row.inbound.left_size:
                self._mark_ready(row)
        return True

    def queued_bytes(self, handle):
        """Bytes in its outbox; 0 for a stale handle."""
        cdef Row *row = self._row(handle)
        return row.outbox.queued_bytes if row != NULL else 0

    def unsent_bytes(self, handle):
        """Bytes in its outbox and in the kernel's send queue, not yet acknowledged by the peer's kernel."""
        cdef Row *row = self._row(handle)
        cdef int kernel = 0
        if row == NULL:
            return 0
        if row.fd >= 0 and sockets.ioctl(row.fd, sockets.SIOCOUTQ, &kernel) < 0:
            kernel = 0
        return row.outbox.queued_bytes + kernel

    def want_drained(self, handle):
        """Ask for one DRAINED event when its outbox is, or becomes, empty. False if it is gone."""
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN:
            return False
        if row.outbox.queued_bytes:
            row.flags |= WANTS_DRAINED
        else:
            self._emit(EVENT_DRAINED, row, None)
        return True

    # -- topics

    def create_topic(self):
        """A new topic's id, never 0."""
        self._enter()
        return self.topics.create()

    def drop_topic(self, topic):
        """End a topic; its members stay connected. An id that is stale does nothing."""
        self._enter()
        self.topics.drop(<uint64_t>topic)

    def subscribe(self, topic, handle):
        """Make a connection a member; False if it is one already, or either is gone."""
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN:
            return False
        return self.topics.subscribe(<uint64_t>topic, row)

    def unsubscribe(self, topic, handle):
        """End a membership; False if there was none."""
        cdef Row *row = self._row(handle)
        return row != NULL and self.topics.unsubscribe(<uint64_t>topic, row)

    def topic_members(self, topic):
        """How many members take JSON and how many msgpack: the encodings that ``publish`` needs."""
        self._enter()
        cdef Topic *t = self.topics.find(<uint64_t>topic)
        if t == NULL:
            return 0, 0
        return t.count - t.msgpack_count, t.msgpack_count

    def publish(self, topic, bytes json, bytes msgpack, exclude=0, int lane=LANE_NORMAL):
        """Queue a packet for every member of a topic but one.

        Framed once for each kind of member; keeps the order with other ``publish`` and ``send`` calls of the lane.

        Args:
            json, msgpack: The encoded packet; None where no member needs it (a member that would gets nothing).
            exclude: A handle; 0: nobody is left out.

        Returns:
            To how many connections it was queued.
        """
        cdef Topic *t
        cdef uint64_t excluded = <uint64_t>exclude
        cdef size_t reached = 0
        self._enter()
        t = self.topics.find(<uint64_t>topic)
        if t == NULL:
            return 0
        if not LANE_NORMAL <= lane <= LANE_LOW:
            raise ValueError("a topic has the lanes NORMAL and LOW")
        self.busy = True
        try:
            self._publish(t, json, msgpack, excluded, lane, &reached)
        finally:
            self.busy = False
        if self.slow.count:
            self._end_slow()
        return reached

    cdef int _publish(
        self, Topic *t, bytes json, bytes msgpack, uint64_t excluded, int lane, size_t *reached
    ) except -1:
        cdef Row *row
        cdef Span spans[KINDS]
        cdef int framed = 0  # bits of the kinds in spans
        cdef int kind
        cdef uint32_t i
        cdef bytes packet
        for i in range(t.count):
            row = row_at(self.slab, t.members[i])
            if excluded and handle_of(row) == excluded:
                continue
            kind = row.kind
            if not framed & (1 << kind):
                packet = msgpack if kind & KIND_MSGPACK else json
                if packet is None:
                    continue
                self.framer.packet(&self.framer.published[kind], kind, packet, &spans[kind])
                framed |= 1 << kind
            reached[0] += <size_t>self._push(row, lane, &spans[kind])
        return 0

    # -- what there is

    @property
    def connections(self):
        """Connections in any state."""
        return self.slab.used

    def stats(self):
        """Counters since the start, and gauges: connections, blocked, topics, chunk_bytes, slices."""
        return {
            "connections": self.slab.used,
            "blocked": self.blocked_count,
            "topics": self.topics.used,
            "chunk_bytes": self.buffers.chunk_bytes,
            "slices": self.buffers.slices_used,
            "accepted_total": self.accepted_count,
            "refused_total": self.refused_count,
            "received_frames_total": self.received_frames,
            "received_bytes_total": self.received_bytes,
            "sent_bytes_total": self.sent_bytes,
            "write_calls_total": self.write_calls,
            "slow_closed_total": self.slow_count,
            "low_dropped_total": self.low_dropped_count,
            "deflated_total": self.framer.deflated_count,
        }

    def shutdown(self):
        """Close every descriptor and drop every owner, without events; no call works afterwards."""
        cdef uint32_t slot
        cdef Row *row
        if self.shut:
            return
        self._enter()
        self.shut = True  # first: finalizers of owners may call
        self.accept_paused = False
        for slot in range(self.slab.capacity):
            row = row_at(self.slab, slot)
            if row.state != FREE:
                self._free_row(row)
        sockets.close(self.epoll)
        self.epoll = -1
        self.events = []
        self.listeners = {}
