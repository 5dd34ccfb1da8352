"""The socket hub: every client connection of a process, its frames, its outbox and its topics.

Two drivers carry the same connection. The epoll driver owns one epoll descriptor, which an event loop watches;
client sockets never become transports. The fed driver has no socket: bytes are fed in and taken out. Whatever
happens to a connection is an event of the next ``poll``; whatever is to be sent waits for the next ``flush``.

A connection's life: HEAD (its request head is read) → DECIDING (the service answers: upgrade, respond or detach)
→ OPEN → CLOSING (we closed; the peer's close frame is awaited) → FINISHING (what has begun goes out, the write
side is shut, what comes in is thrown away). The owner hears CLOSED as soon as nothing more can come for it; the
rest of the way the row goes by itself, within the close timeout.
"""

from enum import IntEnum

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastim._core cimport sockets
from fastim._core.connections cimport COPY_BYTES, EVENT_DRAINED, RECEIVE_BYTES
from fastim._core.fed cimport FedDriver
from fastim._core.framer cimport Framer
from fastim._core.frames cimport (
    CLOSE_ABNORMAL,
    CLOSE_NO_STATUS,
    FIN,
    OP_BINARY,
    OP_PING,
    OP_TEXT,
    RSV1,
    valid_close_code,
)
from fastim._core.inbound cimport Rules
from fastim._core.outbox cimport LANE_HIGH, LANE_LOW, LANE_NORMAL, Buffers, Span
from fastim._core.slab cimport (
    CLOSING,
    DECIDING,
    FREE,
    HEAD,
    IS_EOF,
    IS_PAUSED,
    KIND_BATCH,
    KIND_DEFLATE,
    KIND_MSGPACK,
    KINDS,
    OPEN,
    WANTS_DRAINED,
    Row,
    Slab,
    handle_of,
    row_at,
)
from fastim._core.topics cimport Topic, Topics
from fastim._core.wheel cimport TimingWheel

cdef enum:
    TIMER_TICK_NS = 10_000_000


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


@cython.final
@cython.no_gc_clear  # __dealloc__ needs the parts
cdef class Hub(FedDriver):
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
        message_budget: Frames of one connection handled in a tick; the rest in turn. A large message counts as many.
        tick_messages: Frames of all connections handled in a tick: what bounds its length, as time is not known here.
        outbox_bytes: Default bound of an outbox; past it the connection is closed with `slow_close_code`.
        max_fragments: Frames a message may have (1009 past it); 0: no limit.
        deflate_window_bits, deflate_min_bytes, deflate_level: Of permessage-deflate.
        on_dirty: Called once when the first thing waits for a flush (or poll) and not again until ``flush``.
    """

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
            # A large message may use up more than there was: of the sockets' share it takes nothing.
            self._run_sockets(self.tick_messages - self.tick_messages // 2 + (half if half > 0 else 0))
        finally:
            self.polling = self.busy = False
        events = self.events
        self.events = []
        return events

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
