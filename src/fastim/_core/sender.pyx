"""What a hub sends: outboxes filled within their bounds, and written once a tick."""

cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from fastim._core cimport sockets
from fastim._core.connections cimport COPY_BYTES, EVENT_DRAINED, Connections, SlotList, list_slot
from fastim._core.frames cimport FIN
from fastim._core.outbox cimport LANE_HIGH, LANE_LOW, LANE_NORMAL, MAX_IOV, Span, fits
from fastim._core.slab cimport (
    FINISHING,
    FREE,
    IS_BLOCKED,
    IS_CLEAN,
    IS_DIRTY,
    IS_EOF,
    IS_FED,
    IS_SHUT,
    IS_SLOW,
    KIND_BATCH,
    OPEN,
    WANTS_DRAINED,
    Row,
    row_at,
)

# What a write left behind
cdef enum:
    WRITE_DONE = 0
    WRITE_BLOCKED = 1
    WRITE_FAILED = 2


@cython.no_gc_clear
cdef class Sender(Connections):
    """Queues spans and writes rows."""

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

    cdef int _push(self, Row *row, int lane, const Span *span) except -1:
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
        list_slot(&self.slow, row.slot)
        return 0

    cdef int _send_control(self, Row *row, uint8_t opcode, const uint8_t *p, size_t n) except -1:
        cdef Span span
        self.framer.frame(FIN | opcode, p, n, &span)
        self._push(row, LANE_HIGH, &span)
        return self._end_slow() if self.slow.count else 0

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
            return list_slot(&self.attention, row.slot)
        result = self._write(row)
        if result != WRITE_DONE or row.state == FINISHING or row.flags & (WANTS_DRAINED | IS_EOF):
            list_slot(&self.attention, row.slot)
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

    cdef int _unblock(self, Row *row) except -1:
        if row.flags & IS_BLOCKED:
            row.flags &= ~IS_BLOCKED
            self.blocked_count -= 1
            self._interest(row)
            self._mark_dirty(row)
        return 0
