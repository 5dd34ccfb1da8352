"""The socket hub: every client connection of a process, its frames, its outbox and its topics.

Two drivers carry the same connection. The epoll driver owns one epoll descriptor, which an event loop watches;
client sockets never become transports. The fed driver has no socket: bytes are fed in and taken out. Whatever
happens to a connection is an event of the next ``poll``; whatever is to be sent waits for the next ``flush``.

A connection's life: HEAD (its request head is read) → DECIDING (the service answers: upgrade, respond, detach, or what
``Requests`` has for it) → OPEN → CLOSING (we closed; the peer's close frame is awaited) → FINISHING (what has begun
goes out, the write side is shut, what comes in is thrown away). The owner hears CLOSED as soon as nothing more can come
for it; the rest of the way the row goes by itself, within the close timeout.

A connection may speak the native protocol, or carry Engine.IO; the namespaces of Socket.IO in one of those are
channels, which calls take as connections of their own (``open_channel``).
"""

from enum import IntEnum

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fastim._core cimport sockets
from fastim._core.admission cimport Admission
from fastim._core.addresses cimport ADDRESS_BYTES, AddressCounts, AddressRanges
from fastim._core.connections cimport (
    COPY_BYTES,
    EVENT_DRAINED,
    KEPT_KNOWN,
    KEPT_UNKNOWN,
    QUEUES,
    RECEIVE_BYTES,
)
from fastim._core.framer cimport Framer
from fastim._core.frames cimport (
    CLOSE_ABNORMAL,
    CLOSE_NO_STATUS,
    valid_close_code,
)
from fastim._core.idle cimport IdleLists
from fastim._core.inbound cimport Rules
from fastim._core.namespaces cimport Namespaces
from fastim._core.outbox cimport MAX_BATCH_PACKETS, Buffers
from fastim._core.pools cimport Memory
from fastim._core.rendering cimport Renderer
from fastim._core.slab cimport (
    DUE_LIFE,
    FREE,
    IS_ASKED,
    IS_BLOCKED,
    IS_EOF,
    IS_STOPPED,
    KIND_CHANNEL,
    OPEN,
    TIERS,
    WANTS_DRAINED,
    Row,
    Slab,
    carrier_of,
    row_at,
)
from fastim._core.topics cimport Topics
from fastim._core.wheel cimport TimingWheel

from fastim._core.values import Encoding  # no-cython-lint: offered here, too

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
    ACCEPTED = 8
    BODY = 9
    ENGINE_TEXT = 10
    ENGINE_BINARY = 11


# The ref of an answer that goes to a channel as the event "message_sent", or "error": its client asked without wanting
# to be called back. The largest that a packet may have.
MESSAGE_SENT_REF = (1 << 53) - 1


class Lane(IntEnum):
    """Where a packet waits: what must not be late, what must be in order, what may be dropped."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Tier(IntEnum):
    """What a connection may ask for; those who may ask for the least are the first to give way."""

    CRITICAL = 0
    STANDARD = 1
    DEGRADED = 2


@cython.final
@cython.no_gc_clear  # __dealloc__ needs the parts
cdef class Hub(Admission):
    """All connections of a process, over an epoll driver (``listen``) and a fed driver (``open_fed``).

    **Thread**: belongs to the thread that made it; a call from another raises RuntimeError. The GIL is released
    while sockets are written.

    Args:
        max_connections: More are answered 503 and closed at accept; 0: no limit.
        max_message_bytes: Larger messages close with 1009, before anything is allocated; inflated ones too.
        head_bytes: Of a request head; more is answered 431.
        head_timeout_ns: For the whole head; then 408 (nothing, if nothing came).
        close_timeout_ns: For the close handshake, and for what is begun to go out; then a reset.
        idle_timeout_ns: For a connection that was kept after an answer to ask for more; then it is closed.
        read_budget_bytes: Read from one connection in a tick; at most 65,536.
        message_budget: Frames of one connection handled in a tick; the rest in turn. A large message counts as many.
        tick_messages: Frames of all connections handled in a tick: what bounds its length, as time is not known here.
        outbox_bytes: Default bound of an outbox; past it the connection is closed with `slow_close_code`.
        max_fragments: Frames a message may have (1009 past it); 0: no limit.
        deflate_window_bits, deflate_min_bytes, deflate_level: Of permessage-deflate.
        max_pending: Connections whose user is not known yet, until ``authenticated``, and those handed out until
            ``release``; more are answered 503 at accept. 0: no limit.
        max_pending_per_address: The same for an IPv4 address or an IPv6 /64 (429), `exempt` ones excepted.
        pending_frames, pending_bytes: What a connection may send between upgrade and ``authenticated``; then it is
            closed with `limit_close_code`. 0: no limit.
        max_packets: Of one batch; a connection with so many waiting is written without waiting for more. 1 to 1,000.
        low_percent: What the low lane gets of what a connection that is behind is sent, 0 to 50; 0: it goes last.
        flush_rows: Connections written in a flush; 0: all that are due.
        tier_weights: How the tiers, the highest first, share what `flush_rows` allows.
        on_dirty: Called once when the first thing waits for a flush (or poll) and not again until ``flush``. It cannot
            call the hub.
    """

    def __cinit__(
        self,
        *,
        uint32_t max_connections=0,
        uint64_t max_message_bytes=102_400,
        size_t head_bytes=16_384,
        int64_t head_timeout_ns=5_000_000_000,
        int64_t close_timeout_ns=5_000_000_000,
        int64_t idle_timeout_ns=30_000_000_000,
        size_t read_budget_bytes=65_536,
        int message_budget=100,
        int tick_messages=512,
        uint32_t outbox_bytes=1_048_576,
        uint32_t max_fragments=0,
        int deflate_window_bits=12,
        size_t deflate_min_bytes=256,
        int deflate_level=1,
        uint16_t slow_close_code=4008,
        uint32_t max_pending=0,
        uint32_t max_pending_per_address=0,
        uint32_t pending_frames=0,
        uint32_t pending_bytes=0,
        uint16_t limit_close_code=4011,
        uint32_t max_packets=1000,
        uint32_t low_percent=10,
        uint32_t flush_rows=0,
        tier_weights=(4, 2, 1),
        on_dirty=None,
    ):
        cdef int tier
        self.epoll = -1
        if not 0 < read_budget_bytes <= RECEIVE_BYTES:
            raise ValueError("read_budget_bytes must be within 1 and 65536")
        if message_budget < 1 or tick_messages < 2:
            raise ValueError("message_budget must be at least 1, tick_messages at least 2")
        if not 9 <= deflate_window_bits <= 15:
            raise ValueError("deflate_window_bits must be within 9 and 15")
        if max_message_bytes == 0 or max_message_bytes > 0x7FFFFFFF:
            raise ValueError("max_message_bytes must be within 1 and 2147483647")
        if not 1 <= max_packets <= MAX_BATCH_PACKETS:
            raise ValueError("max_packets must be within 1 and 1000")
        if low_percent > 50:
            raise ValueError("low_percent must be within 0 and 50")
        if len(tier_weights) != TIERS or not all(1 <= weight <= 1000 for weight in tier_weights):
            raise ValueError("tier_weights must be three, each within 1 and 1000")
        self.slab = Slab()
        self.memory = Memory()
        self.pools = &self.memory.pools
        self.buffers = Buffers(self.memory, max_packets, low_percent)
        self.framer = Framer(self.buffers, deflate_window_bits, deflate_min_bytes, deflate_level)
        self.topics = Topics(self.slab)
        self.wheel = TimingWheel(TIMER_TICK_NS)
        self.blocked = AddressRanges()
        self.exempt = AddressRanges()
        self.pending_by = AddressCounts()
        self.idle = IdleLists()
        self.kept = IdleLists()
        self.namespaces = Namespaces()
        self.renderer = Renderer()
        self.channel_codes = set()
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
        self.idle_timeout_ns = idle_timeout_ns
        self.read_budget_bytes = read_budget_bytes
        self.message_budget = message_budget
        self.tick_messages = tick_messages
        self.outbox_bytes = outbox_bytes
        self.slow_close_code = slow_close_code
        self.max_pending = max_pending
        self.max_pending_per_address = max_pending_per_address
        self.pending_frames = pending_frames
        self.pending_bytes = pending_bytes
        self.limit_close_code = limit_close_code
        self.max_packets = max_packets
        self.flush_rows = flush_rows
        for tier in range(TIERS):
            self.tier_weights[tier] = tier_weights[tier]
        self.receive_buffer = <uint8_t *>malloc(RECEIVE_BYTES)
        self.copy_buffer = <uint8_t *>malloc(COPY_BYTES)
        if self.receive_buffer == NULL or self.copy_buffer == NULL:
            raise MemoryError()
        self.epoll = sockets.epoll_create1(sockets.EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, "epoll_create1")

    def __dealloc__(self):
        cdef uint32_t slot
        cdef int queue
        cdef Row *row
        self.accept_paused = False
        if self.slab is not None:
            for slot in range(self.slab.capacity):
                row = row_at(self.slab, slot)
                if row.state != FREE and not row.kind & KIND_CHANNEL:  # they go with their transport
                    self._free_row(row)
        if self.epoll >= 0:
            sockets.close(self.epoll)
        for queue in range(QUEUES):
            free(self.queues[queue].rows.slots)
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

    def listen(self, int fd, *, bint hand_out=False):
        """Accept connections from a listening socket, which stays the caller's.

        Args:
            hand_out: Give those that are let in to the caller, by events ACCEPTED, and keep nothing of them but
                their count as pending. The descriptors are the caller's, who calls ``release`` for each.

        Raises:
            OSError: epoll does not take the descriptor.
        """
        self._enter()
        sockets.set_nonblocking(fd)
        self._listener_interest(fd, 0 if self.accept_paused else sockets.EPOLLIN, sockets.EPOLL_CTL_ADD)
        self.listeners[fd] = hand_out

    def unlisten(self, int fd):
        """Stop accepting from a listening socket; connections stay."""
        self._enter()
        if fd in self.listeners:
            del self.listeners[fd]
            sockets.epoll_ctl(self.epoll, sockets.EPOLL_CTL_DEL, fd, NULL)

    def release(self, str peer not None):
        """A connection that was handed out is ready, or gone: it is not pending any more."""
        cdef uint8_t address[ADDRESS_BYTES]
        self._enter()
        sockets.text_address(peer.encode(), address)
        self._end_pending(address)
        if self.accept_paused:
            self._resume_accept()

    @property
    def pending(self):
        """Whether ``poll`` has something to do without waiting for a descriptor."""
        return bool(
            self.events or self.ready.count or self.wait_next < self.wait_count or self.wheel.c_has_due()
        )

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
            self._run_sockets(self.tick_messages - self.tick_messages // 2 + half)
        finally:
            self.polling = self.busy = False
        events = self.events
        self.events = []
        return events

    def flush(self, int64_t now_ns, int64_t window_ns=0, int64_t degraded_window_ns=0):
        """Write each connection that is due, once. The GIL is released meanwhile.

        What is urgent is due: the high lane, closes, connections with a full batch. The rest is due when the first of
        its tier has waited for the window since a flush found it.

        Args:
            window_ns: How long what is not urgent waits for more to come; 0: not at all.
            degraded_window_ns: The same for the degraded tier.

        Returns:
            In how many nanoseconds what is left is due, 0 if the budget left it; -1 if nothing is left.
        """
        self._enter()
        self.now_ns = now_ns
        self.notified = False
        self.busy = True
        try:
            return self._flush(window_ns, degraded_window_ns)
        finally:
            self.busy = False

    # -- one connection

    def alive(self, handle):
        """Whether packets can be sent to it."""
        cdef Row *row = self._row(handle)
        return row != NULL and row.state == OPEN

    def owner(self, handle):
        """The owner given to ``upgrade``; None before, after, and for a stale handle."""
        cdef Row *row = self._row(handle)
        return <object>row.owner if row != NULL and row.owner != NULL else None

    def close(self, handle, uint16_t code, str reason, int64_t now_ns):
        """Begin the close handshake: what is queued goes out first, packets of the low lane excepted.

        CLOSED with this code is the owner's last event. `reason` is cut to 123 bytes. False if it is gone. With a code
        of ``set_channel_codes`` a channel ends alone, by a DISCONNECT; with others its transport is closed, and all
        channels of that end.

        Raises:
            ValueError: a close frame must not carry the code; 1005 stands for none.
        """
        cdef Row *row = self._row(handle)
        if code != CLOSE_NO_STATUS and not valid_close_code(code):
            raise ValueError("not a code that a close frame may carry")
        if row == NULL or row.state != OPEN:
            return False
        self.now_ns = now_ns
        if row.kind & KIND_CHANNEL and code in self.channel_codes:
            self._close_channel(row, code, reason)
        else:
            self._close_transport(carrier_of(self.slab, row), code, reason)
        return True

    def abort(self, handle):
        """Reset the connection at once; CLOSED with 1006 is its last event. False if it is gone."""
        cdef Row *row = self._carrier(handle)
        if row == NULL or row.flags & IS_EOF:  # the fed driver's row waits for take_finished
            return False
        self._reset(row, CLOSE_ABNORMAL, "aborted")
        return True

    def set_timer(self, handle, int64_t at_ns):
        """Ask for one TIMER event at `at_ns`, instead of the one asked for before; 0: none. False if it is gone."""
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN:
            return False
        self._schedule(row, DUE_LIFE, at_ns)
        return True

    def last_received_ns(self, handle):
        """When the last bytes came, by the clock of ``poll``; 0 for a stale handle."""
        cdef Row *row = self._carrier(handle)
        return row.received_ns if row != NULL else 0

    def pause(self, handle):
        """Stop reading from it, so that the peer's writes block in the end. False if it is gone.

        A transport is read again when it and all channels of it that were paused have been resumed.
        """
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN:
            return False
        if row.kind & KIND_CHANNEL:
            self._pause_channel(row)
        else:
            row.flags |= IS_STOPPED
            self._pause(row)
        return True

    def resume(self, handle):
        """Read from it again. False if it is gone."""
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN:
            return False
        if row.kind & KIND_CHANNEL:
            self._resume_channel(row)
        else:
            row.flags &= ~IS_STOPPED
            self._resume(row)
        return True

    def queued_bytes(self, handle):
        """Bytes in its outbox; 0 for a stale handle."""
        cdef Row *row = self._carrier(handle)
        return row.outbox.queued_bytes if row != NULL else 0

    def is_behind(self, handle):
        """Whether its peer has not taken all of the last write, so that the rest waits. False for a stale handle."""
        cdef Row *row = self._carrier(handle)
        return row != NULL and row.flags & IS_BLOCKED != 0

    def unsent_bytes(self, handle):
        """Bytes in its outbox and in the kernel's send queue, not yet acknowledged by the peer's kernel."""
        cdef Row *row = self._carrier(handle)
        cdef int kernel = 0
        if row == NULL:
            return 0
        if row.fd >= 0 and sockets.ioctl(row.fd, sockets.SIOCOUTQ, &kernel) < 0:
            kernel = 0
        return row.outbox.queued_bytes + kernel

    def want_drained(self, handle):
        """Ask for one DRAINED event when what is in its outbox now has been sent. False if it is gone.

        What is queued later does not put it off, so that who waits for room is not held up by the others for ever.
        """
        cdef Row *row = self._row(handle)
        cdef Row *carrier
        if row == NULL or row.state != OPEN:
            return False
        carrier = carrier_of(self.slab, row)
        if not carrier.outbox.queued_bytes:
            self._emit(EVENT_DRAINED, row, None)
            return True
        row.flags |= WANTS_DRAINED
        carrier.flags |= WANTS_DRAINED | (IS_ASKED if carrier == row else 0)
        carrier.outbox.awaited_bytes = carrier.outbox.queued_bytes
        return True

    # -- what there is

    @property
    def connections(self):
        """Connections in any state; their channels are not counted."""
        return self.slab.used - self.channel_count

    def pools_clean(self):
        """Whether nothing of those who had it is left in memory that waits to be used again: a check for tests."""
        return self.memory.clean() and self.buffers.clean()

    def shed_low(self, bint on):
        """Queue nothing in the low lanes from now on, or queue it again; what is queued goes out."""
        self._enter()
        self.low_shed = on

    def stats(self):
        """Counters since the start, and gauges.

        Of the memory: chunks that many share (chunk_bytes are with the private ones of stalled connections), slices of
        them in outboxes, states of unfinished frames, pieces of other sizes; allocations_total counts what was asked of
        the system for any of these.
        """
        return {
            "connections": self.slab.used - self.channel_count,
            "channels": self.channel_count,
            "blocked": self.blocked_count,
            "topics": self.topics.used,
            "chunk_bytes": self.buffers.chunk_bytes,
            "outbox_bytes": self.buffers.held_bytes(),
            "chunks": self.buffers.chunk_count,
            "chunks_free": self.buffers.free_chunk_count,
            "private_chunks": self.buffers.private_count,
            "slices": self.pools.slices.used,
            "slices_free": self.pools.slices.blocks * self.pools.slices.pieces - self.pools.slices.used,
            "inbound_states": self.pools.inbounds.used,
            "inbound_states_free": self.pools.inbounds.blocks * self.pools.inbounds.pieces - self.pools.inbounds.used,
            "pool_bytes": self.pools.bytes,
            "pool_bytes_used": self.memory.bytes_used(),
            "allocations_total": self.pools.allocations,
            "accepted_total": self.accepted_count,
            "refused_total": self.refused_count,
            "requests_total": self.request_count,
            "kept": self.kept.sizes[KEPT_UNKNOWN] + self.kept.sizes[KEPT_KNOWN],
            "kept_evicted_total": self.evicted_count,
            "pending": self.pending_count,
            "pending_refused_total": self.pending_refused_count,
            "blocked_peers_total": self.blocked_peers_count,
            "throttled_total": self.throttled_count,
            "received_frames_total": self.received_frames,
            "received_bytes_total": self.received_bytes,
            "sent_bytes_total": self.sent_bytes,
            "write_calls_total": self.write_calls,
            "slow_closed_total": self.slow_count,
            "low_dropped_total": self.low_dropped_count + self.buffers.states_dropped,
            "low_merged_total": self.buffers.states_merged,
            "flushes_total": self.flush_count,
            "batches_cut_total": self.framer.batches_cut,
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
            if row.state != FREE and not row.kind & KIND_CHANNEL:
                self._free_row(row)
        sockets.close(self.epoll)
        self.epoll = -1
        self.events = []
        self.listeners = {}
