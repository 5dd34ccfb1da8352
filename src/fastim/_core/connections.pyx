"""The connections of a hub: how each begins and ends, and how the loop hears of it.

The other parts build on it, each on the one before: ``Sender`` (what goes out), ``Heartbeat`` and ``EngineHeartbeat``,
``Receiver`` (what comes in), ``Heads`` and ``Requests`` (HTTP), ``FedDriver`` and ``Polling`` (rows without a socket),
``Channels`` (Socket.IO's namespaces), ``Publisher`` (one packet for many), ``Admission`` and, on top, the ``Hub`` that
the service calls.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

from fastim._core cimport sockets
from fastim._core.frames cimport CLOSE_NO_STATUS, FIN, OP_CLOSE
from fastim._core.inbound cimport discard
from fastim._core.namespaces cimport Namespace
from fastim._core.outbox cimport LANE_LOW, LANE_NORMAL, Span
from fastim._core.slab cimport (
    CLOSING,
    DEADLINES,
    DUE_LIFE,
    FINISHING,
    HEAD,
    HELD,
    IS_BLOCKED,
    IS_DEAF,
    IS_DIRTY,
    IS_EOF,
    IS_FED,
    IS_STOPPED,
    IS_LISTED,
    IS_PAUSED,
    IS_PENDING,
    IS_READY,
    IS_THROTTLED,
    IS_URGENT,
    KIND_CHANNEL,
    KIND_ENGINE,
    KIND_POLLING,
    NO_SLOT,
    OPEN,
    TIER_STANDARD,
    TIERS,
    WANTS_DRAINED,
    Row,
    carrier_of,
    find,
    handle_of,
    row_at,
)

cdef enum:
    ACCEPT_PAUSE_NS = 500_000_000


cdef int list_slot(SlotList *slots, uint32_t slot) except -1 nogil:
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


@cython.no_gc_clear
cdef class Connections:
    """Rows and their events; the hub sets every field.

    **Thread**: the one that made the hub.
    """

    cdef int _enter(self) except -1:
        if PyThread_get_thread_ident() != self.thread:
            raise RuntimeError("the hub belongs to the thread that made it")
        if self.shut:
            raise RuntimeError("the hub is shut down")
        if self.busy:
            # From on_dirty, or a finalizer that the garbage collector runs: rows are in use further up the stack.
            raise RuntimeError("the hub is in the middle of a call")
        return 0

    cdef Row *_row(self, handle) except? NULL:
        self._enter()
        return find(self.slab, <uint64_t>handle)

    cdef Row *_carrier(self, handle) except? NULL:
        """The row with the socket and the outbox of a handle's connection; NULL if it is gone."""
        cdef Row *row = self._row(handle)
        return carrier_of(self.slab, row) if row != NULL else NULL

    cdef int _notify(self) except -1:
        if not self.notified:
            self.notified = True
            if self.on_dirty is not None and not self._tell():
                self.notified = False  # the next one tries again
        return 0

    cdef bint _tell(self) noexcept:
        """Call on_dirty; what it raises is reported, as nothing may be given up half-way through a publish.

        It cannot call the hub: whatever call this is, it goes on with its rows afterwards.
        """
        cdef bint busy = self.busy
        self.busy = True
        try:
            self.on_dirty()
        finally:
            self.busy = busy
        return True

    cdef int _mark_urgent(self, Row *row) except -1:
        """Have it written at the next flush, whatever else may wait."""
        if not row.flags & IS_URGENT:
            row.flags |= IS_URGENT
            list_slot(&self.queues[QUEUE_URGENT].rows, row.slot)
            if not self.notified:
                self._notify()
        return 0

    cdef int _mark_waiting(self, Row *row) except -1:
        """Have it written when its tier's window is over."""
        if not row.flags & (IS_DIRTY | IS_URGENT):
            row.flags |= IS_DIRTY
            list_slot(&self.queues[row.tier].rows, row.slot)
            if not self.notified:
                self._notify()
        return 0

    cdef int _mark_ready(self, Row *row) except -1:
        if not row.flags & (IS_READY | IS_PAUSED | IS_THROTTLED):
            row.flags |= IS_READY
            list_slot(&self.ready, row.slot)
            if not self.polling:
                self._notify()
        return 0

    cdef int _emit(self, int kind, Row *row, object data) except -1:
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
        if not row.flags & (IS_PAUSED | IS_DEAF | IS_THROTTLED):
            event.events |= sockets.EPOLLIN | sockets.EPOLLRDHUP
        elif row.state == HELD:
            event.events |= sockets.EPOLLRDHUP
        if row.flags & IS_BLOCKED:
            event.events |= sockets.EPOLLOUT
        event.data.u64 = handle_of(row)
        if sockets.epoll_ctl(
            self.epoll, sockets.EPOLL_CTL_ADD if add else sockets.EPOLL_CTL_MOD, row.fd, &event
        ) < 0:
            raise OSError(errno, "epoll_ctl")
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
        row.flags = IS_PENDING
        row.tier = TIER_STANDARD
        row.outbox.bound_bytes = self.outbox_bytes
        row.received_ns = self.now_ns
        memcpy(row.address, address, 16)
        self._begin_pending(address)
        self._schedule(row, DUE_LIFE, self.now_ns + self.head_timeout_ns)
        return row

    cdef int _authenticate(self, Row *row) except -1:
        """Its user is known."""
        if row.flags & IS_PENDING:
            row.flags &= ~IS_PENDING
            self._end_pending(row.address)
            row.meter = 0
        return 0

    cdef int _resume(self, Row *row) except -1:
        """Read a connection again, if nobody wants it paused any more."""
        if row.flags & IS_PAUSED and not row.flags & IS_STOPPED and not row.pauses:
            row.flags &= ~IS_PAUSED
            self._interest(row)
            if row.inbound != NULL and row.inbound.left_size:
                self._mark_ready(row)
        return 0

    cdef int _begin_pending(self, const uint8_t *address) except -1:
        self.pending_count += 1
        self.pending_by.c_add(address)
        return 0

    cdef void _end_pending(self, const uint8_t *address) noexcept:
        self.pending_count -= 1
        self.pending_by.c_remove(address)

    cdef int _own(self, Row *row, object owner) except -1:
        """Make an object the subject of the connection's events."""
        self._disown(row)
        Py_INCREF(owner)
        row.owner = <PyObject *>owner
        return 0

    cdef int _disown(self, Row *row) except -1:
        """Forget the owner, who hears no more of the connection."""
        cdef PyObject *owner = row.owner
        row.owner = NULL
        if owner != NULL:
            Py_DECREF(<object>owner)
        return 0

    cdef int _free_row(self, Row *row) except -1:
        """Give everything back: the descriptor, the memory, the slot, and the channels with their transport."""
        cdef PyObject *owner = row.owner
        cdef Row *channel = self._pop_channel(row)
        while channel != NULL:
            self._free_row(channel)
            channel = self._pop_channel(row)
        if row.kind & KIND_CHANNEL:
            if row.parent != NO_SLOT:
                self._unlink(row)
            self._leave_namespace(row)
        if row.fd >= 0:
            sockets.close(row.fd)  # leaves epoll by itself: no descriptor of ours is shared
        if row.flags & IS_BLOCKED:
            self.blocked_count -= 1
        if row.flags & IS_PENDING:
            self._end_pending(row.address)
        self.wheel.c_cancel(row.slot)
        self.idle.c_remove(row.slot)
        self.kept.c_remove(row.slot)
        self.topics.leave_all(row)
        self.buffers.clear(&row.outbox)
        discard(self.pools, &row.inbound)
        row.owner = NULL
        self.slab.give_back(row)
        if owner != NULL:
            Py_DECREF(<object>owner)
        if self.accept_paused:
            self._resume_accept()
        return 0

    cdef int _let_go(self, Row *row, int code, str reason, bint clean) except -1:
        """The owner has heard the last of this connection; the owners of its channels before."""
        cdef PyObject *owner = row.owner
        if row.kind & KIND_ENGINE:
            self._end_channels(row, code, reason, clean)
        self.topics.leave_all(row)
        self.idle.c_remove(row.slot)
        self.kept.c_remove(row.slot)
        row.flags &= ~WANTS_DRAINED
        if row.flags & (IS_PAUSED | IS_THROTTLED) and not row.kind & KIND_CHANNEL:
            row.flags &= ~(IS_PAUSED | IS_THROTTLED | IS_STOPPED)
            self._interest(row)
        if owner == NULL:
            return 0
        self.events.append((EVENT_CLOSED, <object>owner, (code, reason, clean)))
        row.owner = NULL
        Py_DECREF(<object>owner)
        if not self.polling:
            self._notify()
        return 0

    cdef Row *_pop_channel(self, Row *row) noexcept:
        """Take the first channel from its transport, to end it; NULL if there is none left."""
        cdef Row *channel
        if row.kind & KIND_CHANNEL or row.next == NO_SLOT:
            return NULL
        channel = row_at(self.slab, row.next)
        row.next = channel.next
        channel.parent = NO_SLOT
        return channel

    cdef int _end_channels(self, Row *row, int code, str reason, bint clean) except -1:
        """A transport ends: so do its channels, in the order in which they came."""
        cdef Row *channel = self._pop_channel(row)
        while channel != NULL:
            self._let_go(channel, code, reason, clean)
            self._free_row(channel)
            channel = self._pop_channel(row)
        row.pauses = 0
        return 0

    cdef int _unlink(self, Row *channel) except -1:
        """Take a channel that ends alone from its transport."""
        cdef Row *row = row_at(self.slab, channel.parent)
        cdef Row *before = row
        while before.next != channel.slot:
            before = row_at(self.slab, before.next)
        before.next = channel.next
        if channel.flags & IS_PAUSED:
            row.pauses -= 1
        return self._settle_channels(row)

    cdef void _leave_namespace(self, Row *channel) noexcept:
        cdef PyObject *namespace = channel.namespace
        channel.namespace = NULL
        self.channel_count -= 1
        self.namespaces.c_left(<Namespace>namespace)
        Py_DECREF(<object>namespace)

    cdef int _settle_channels(self, Row *row) except -1:
        """Let a transport be as its channels, together, want it; without any it stays as it was."""
        cdef uint32_t slot = row.next
        cdef uint32_t bound_bytes = 0
        cdef Row *channel
        self._resume(row)
        if slot == NO_SLOT:
            return 0
        row.tier = TIERS
        while slot != NO_SLOT:
            channel = row_at(self.slab, slot)
            row.tier = min(row.tier, channel.tier)
            bound_bytes = max(bound_bytes, channel.outbox.bound_bytes)
            slot = channel.next
        if bound_bytes:
            row.outbox.bound_bytes = bound_bytes
        return 0

    cdef int _lost(self, Row *row, int code, str reason) except -1:
        """The stream is at its end, or is reset here."""
        self._let_go(row, code, reason, False)
        if row.flags & IS_FED:
            # The transport still holds the handle: it learns from take_finished, which frees the row.
            self.buffers.clear(&row.outbox)
            discard(self.pools, &row.inbound)
            self._schedule_last(row, 0)
            row.state = FINISHING
            row.flags |= IS_EOF
            self._list_fed(row)
            return self._notify()
        return self._free_row(row)

    cdef int _reset(self, Row *row, int code, str reason) except -1:
        if row.fd >= 0:
            sockets.reset_on_close(row.fd)
        return self._lost(row, code, reason)

    cdef int _queue_close(self, Row *row, uint16_t code, bytes reason, int lane) except -1:
        """Queue a close frame; low-priority packets, which would come behind it, are dropped.

        In polling it is Engine.IO's packet of type 1, which has no code.
        """
        cdef uint8_t payload[125]
        cdef size_t size = 0
        cdef Span span
        self.buffers.drop_lane(&row.outbox, LANE_LOW)
        if row.kind & KIND_POLLING:
            self.framer.message(row.kind, False, b"1", &span)
            self.buffers.push(&row.outbox, lane, &span)
            return self._mark_urgent(row)
        if code != CLOSE_NO_STATUS:
            payload[0] = <uint8_t>(code >> 8)
            payload[1] = <uint8_t>code
            size = 2 + <size_t>min(len(reason), 123)
            memcpy(payload + 2, PyBytes_AS_STRING(reason), size - 2)
        self.framer.frame(FIN | OP_CLOSE, payload, size, &span)
        self.buffers.push(&row.outbox, lane, &span)
        return self._mark_urgent(row)

    cdef int _begin_close(self, Row *row, uint16_t code, str reason) except -1:
        """Close an open connection from our side: what is queued goes out first, the low lane excepted."""
        cdef bytes text = reason.encode()[:123].decode("utf-8", "ignore").encode()
        self._queue_close(row, code, text, LANE_NORMAL)
        self._let_go(row, code, reason, False)
        if row.kind & KIND_POLLING:
            return self._finish(row)  # no close handshake
        row.state = CLOSING
        if row.inbound != NULL and row.inbound.left_size:
            self._mark_ready(row)
        return self._schedule_last(row, self.now_ns + self.close_timeout_ns)

    cdef int _finish(self, Row *row) except -1:
        """From here on only what is queued goes out, within the close timeout."""
        row.state = FINISHING
        discard(self.pools, &row.inbound)
        self._schedule_last(row, self.now_ns + self.close_timeout_ns)
        return self._mark_urgent(row)

    cdef int _fail(self, Row *row, uint16_t code, str reason) except -1:
        """Section 7.1.7: the peer's bytes make no sense; say so and close."""
        if row.state == OPEN:
            self._queue_close(row, code, reason.encode(), LANE_NORMAL)
        self._let_go(row, code, reason, False)
        return self._finish(row)

    cdef int _schedule(self, Row *row, int which, int64_t at_ns) except -1:
        """Set one of a connection's deadlines, instead of the one before; 0: none. The others stay."""
        row.due_ns[which] = at_ns
        return self._set_alarm(row)

    cdef int _schedule_last(self, Row *row, int64_t at_ns) except -1:
        """Only the end is waited for from here on; 0: not even that."""
        memset(row.due_ns, 0, sizeof(row.due_ns))
        return self._schedule(row, DUE_LIFE, at_ns)

    cdef int _set_alarm(self, Row *row) except -1:
        """Let the wheel's timer stand at the first of the connection's deadlines."""
        cdef int64_t first_ns = 0
        cdef int which
        for which in range(DEADLINES):
            if row.due_ns[which] and (not first_ns or row.due_ns[which] < first_ns):
                first_ns = row.due_ns[which]
        if not first_ns:
            self.wheel.c_cancel(row.slot)
            return 0
        return self.wheel.c_schedule(row.slot, <uint64_t>first_ns)

    cdef int _list_fed(self, Row *row) except -1:
        """Have its transport look at it after the next flush, or the current one."""
        if not row.flags & IS_LISTED:
            row.flags |= IS_LISTED
            list_slot(&self.fed, row.slot)
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
