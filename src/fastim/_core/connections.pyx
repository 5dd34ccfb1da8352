"""The connections of a hub: how each begins and ends, and how the loop hears of it.

The other parts build on it: ``Sender`` (what goes out), ``Receiver`` (what comes in), ``FedDriver`` and, on top, the
``Hub`` that the service calls.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy

from fastim._core cimport sockets
from fastim._core.frames cimport CLOSE_NO_STATUS, FIN, OP_CLOSE
from fastim._core.inbound cimport discard
from fastim._core.outbox cimport LANE_LOW, LANE_NORMAL, Span
from fastim._core.slab cimport (
    FINISHING,
    HEAD,
    IS_BLOCKED,
    IS_DEAF,
    IS_DIRTY,
    IS_EOF,
    IS_FED,
    IS_LISTED,
    IS_PAUSED,
    NO_SLOT,
    OPEN,
    WANTS_DRAINED,
    Row,
    find,
    handle_of,
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

    cdef int _notify(self) except -1:
        if not self.notified:
            self.notified = True
            if self.on_dirty is not None and not self._tell():
                self.notified = False  # the next one tries again
        return 0

    cdef bint _tell(self) noexcept:
        """Call on_dirty; what it raises is reported, as nothing may be given up half-way through a publish."""
        self.on_dirty()
        return True

    cdef int _mark_dirty(self, Row *row) except -1:
        if not row.flags & IS_DIRTY:
            row.flags |= IS_DIRTY
            list_slot(&self.dirty, row.slot)
            if not self.notified:
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

    cdef int _list_fed(self, Row *row) except -1:
        if not row.flags & IS_LISTED:
            row.flags |= IS_LISTED
            list_slot(&self.fed, row.slot)
            self._notify()
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
