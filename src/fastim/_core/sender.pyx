"""What a hub sends: outboxes filled within their bounds, and written once a flush.

A row with something to send stands in the queue of its tier, or in the urgent one: what is of the high lane, a close,
or a full batch goes with the next flush. The others wait until their window is over, so that more comes together in one
write. A flush has a budget of rows; past it the tiers take turns by their weights, and the rest is for the next one.
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memmove, memset
from posix.uio cimport iovec

from fastim._core cimport sockets
from fastim._core.connections cimport (
    COPY_BYTES,
    EVENT_DRAINED,
    QUEUE_URGENT,
    Connections,
    FlushQueue,
    list_slot,
)
from fastim._core.frames cimport FIN
from fastim._core.outbox cimport LANE_HIGH, LANE_LOW, LANE_NORMAL, MAX_IOV, Span, fits
from fastim._core.slab cimport (
    FINISHING,
    FREE,
    IS_ASKED,
    IS_APART,
    IS_BLOCKED,
    IS_CLEAN,
    IS_DIRTY,
    IS_EOF,
    IS_FED,
    IS_SHUT,
    IS_SLOW,
    IS_URGENT,
    KIND_BATCH,
    KIND_CHANNEL,
    KIND_ENGINE,
    NO_SLOT,
    OPEN,
    REPLYING,
    TIER_DEGRADED,
    TIERS,
    WANTS_DRAINED,
    Row,
    row_at,
)

cdef enum:
    ROWS_A_WEIGHT = 16  # that a tier may write in its turn, for each unit of its weight
    MOVED_ROWS = 1024  # taken from the front of a queue before the rest is moved there

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
        if lane == LANE_LOW:
            return self._push_low(row, span)
        if not fits(&row.outbox, span.size) and not self._overflow(row, span.size):
            return 0
        self.buffers.push(&row.outbox, lane, span)
        if lane == LANE_HIGH or row.outbox.packets >= self.max_packets:
            self._mark_urgent(row)
        else:
            self._mark_waiting(row)
        return 1

    cdef int _push_low(self, Row *row, const Span *span) except -1:
        """Queue a span of the low lane, which may have a quarter of the bound; 1 if it was queued.

        A state waits for a connection that is behind, as the latest of its key; anything else is dropped there.
        """
        cdef uint32_t share = row.outbox.bound_bytes >> 2
        if self.low_shed or row.outbox.queued_bytes and (span.size > share or not fits(&row.outbox, span.size)):
            self.low_dropped_count += 1
            return 0
        if span.key:
            self.buffers.push_state(&row.outbox, span)
        elif row.flags & IS_BLOCKED or row.outbox.low_bytes and row.outbox.low_bytes + span.size > share:
            self.low_dropped_count += 1
            return 0
        else:
            self.buffers.push(&row.outbox, LANE_LOW, span)
        self._mark_waiting(row)
        return 1

    cdef int _overflow(self, Row *row, size_t size) except -1:
        """Make room: write now, drop the low lane. Still none: the connection is too slow. 1 if there is room."""
        if row.flags & IS_SLOW:
            return 0
        row.flags &= ~IS_APART
        if not row.flags & (IS_BLOCKED | IS_FED):
            if row.kind & KIND_BATCH:
                self.framer.cut_batches(&row.outbox, row.kind)
                self.framer.forget_cuts()
            self._write(row)
            if fits(&row.outbox, size):
                return 1
        while row.outbox.lanes[LANE_LOW].head != NULL:
            self.buffers.pop(&row.outbox, LANE_LOW)
            self.low_dropped_count += 1
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

    cdef int64_t _flush(self, int64_t window_ns, int64_t degraded_window_ns) except -2:
        """Write what is due; returns when the rest is, in nanoseconds from now, -1 if nothing is left."""
        cdef uint32_t i
        cdef int64_t rest_ns
        cdef Row *row
        rest_ns = self._choose(window_ns, degraded_window_ns)
        if not self.flushing.count:
            return rest_ns
        self.flush_count += 1
        for i in range(self.flushing.count):
            row = row_at(self.slab, self.flushing.slots[i])
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
        return rest_ns

    cdef int64_t _choose(self, int64_t window_ns, int64_t degraded_window_ns) except -2:
        """Move the rows of this flush from the queues to `flushing`; returns as ``_flush`` does.

        What the budget leaves over of the urgent and of the tiers whose window is over is due at once.
        """
        cdef FlushQueue *queue
        cdef uint32_t room = self.flush_rows if self.flush_rows else 0x7FFFFFFF
        cdef uint32_t taken, share
        cdef int64_t rest_ns = -1
        cdef int64_t wait_ns
        cdef bint due[TIERS]
        cdef bint any_due = True
        cdef int tier
        room -= self._take_rows(&self.queues[QUEUE_URGENT], room, IS_URGENT)
        for tier in range(TIERS):
            queue = &self.queues[tier]
            due[tier] = False
            if not queue.rows.count:
                continue
            if not queue.since_ns:
                queue.since_ns = self.now_ns
            wait_ns = degraded_window_ns if tier == TIER_DEGRADED else window_ns
            wait_ns -= self.now_ns - queue.since_ns
            due[tier] = wait_ns <= 0
            if not due[tier] and (rest_ns < 0 or wait_ns < rest_ns):
                rest_ns = wait_ns
        while room and any_due:
            any_due = False
            for tier in range(TIERS):
                if due[tier]:
                    share = self.tier_weights[tier] * ROWS_A_WEIGHT
                    taken = self._take_rows(&self.queues[tier], share if share < room else room, IS_DIRTY)
                    room -= taken
                    due[tier] = self.queues[tier].rows.count != 0
                    any_due = any_due or due[tier]
        return 0 if any_due or self.queues[QUEUE_URGENT].rows.count else rest_ns

    cdef uint32_t _take_rows(self, FlushQueue *queue, uint32_t limit, int flag) except? 0xFFFFFFFF:
        """Move rows from the front of a queue to `flushing`; returns how many there were."""
        cdef uint32_t end = queue.rows.count
        cdef uint32_t i
        cdef Row *row
        if end - queue.next > limit:
            end = queue.next + limit
        limit = end - queue.next
        for i in range(queue.next, end):
            row = row_at(self.slab, queue.rows.slots[i])
            row.flags &= ~flag
            # Who was urgent meanwhile has nothing left.
            if row.outbox.queued_bytes or flag == IS_URGENT:
                list_slot(&self.flushing, row.slot)
        queue.next = end
        if end == queue.rows.count:
            queue.rows.count = 0
            queue.next = 0
            queue.since_ns = 0
        elif end >= MOVED_ROWS and end * 2 >= queue.rows.count:
            queue.rows.count -= end
            memmove(queue.rows.slots, queue.rows.slots + end, queue.rows.count * sizeof(uint32_t))
            queue.next = 0
        return limit

    cdef int _flush_row(self, Row *row) except -1 nogil:
        cdef int result
        if row.state == FREE or row.kind & KIND_CHANNEL:
            return 0  # who was marked is gone; a channel may have come after it
        row.outbox.packets = 0
        if row.flags & IS_FED:
            if row.flags & IS_BLOCKED:
                self.buffers.privatize(&row.outbox)
            return list_slot(&self.attention, row.slot)
        result = self._write(row)
        if result != WRITE_DONE or row.state in (FINISHING, REPLYING) or row.flags & (WANTS_DRAINED | IS_EOF):
            list_slot(&self.attention, row.slot)
        return 0

    cdef int _write(self, Row *row) except -1 nogil:
        """Write what a socket takes. A blocked connection keeps copies of its own."""
        cdef iovec vectors[MAX_IOV]
        cdef sockets.msghdr message
        cdef ssize_t sent
        cdef size_t total
        cdef int count, i
        if row.flags & (IS_BLOCKED | IS_APART):
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
        self._tell_drained(row)
        if row.outbox.queued_bytes:
            if row.flags & (IS_BLOCKED | IS_APART):
                return 0
            row.flags |= IS_BLOCKED
            self.blocked_count += 1
            return self._interest(row)  # a broken socket shows at once, as EPOLLERR or EPOLLHUP
        return self._drained(row)

    cdef int _drained(self, Row *row) except -1:
        """The outbox is empty: end the stream if it is to end, or read on if that was the answer to a request."""
        if row.state == REPLYING:
            return self._replied(row)
        if row.state != FINISHING or row.flags & IS_SHUT:
            return 0
        if row.flags & IS_CLEAN:
            return self._free_row(row)
        row.flags |= IS_SHUT
        sockets.shutdown(row.fd, sockets.SHUT_WR)
        return 0

    cdef int _replied(self, Row *row) except -1:
        """The answer to a request has gone out; what that means is told where requests are read."""
        return 0

    cdef int _tell_drained(self, Row *row) except -1:
        """What was queued when somebody asked to be told is sent: tell."""
        if row.flags & WANTS_DRAINED and not (row.outbox.queued_bytes and row.outbox.awaited_bytes):
            if row.kind & KIND_ENGINE:
                return self._tell_channels(row)
            row.flags &= ~WANTS_DRAINED
            self._emit(EVENT_DRAINED, row, None)
        return 0

    cdef int _tell_channels(self, Row *row) except -1:
        """Tell all of a transport who asked."""
        cdef uint32_t slot = row.next
        cdef Row *channel
        while slot != NO_SLOT:
            channel = row_at(self.slab, slot)
            if channel.flags & WANTS_DRAINED:
                channel.flags &= ~WANTS_DRAINED
                self._emit(EVENT_DRAINED, channel, None)
            slot = channel.next
        if row.flags & IS_ASKED:
            self._emit(EVENT_DRAINED, row, None)
        row.flags &= ~(WANTS_DRAINED | IS_ASKED)
        return 0

    cdef int _unblock(self, Row *row) except -1:
        if row.flags & IS_BLOCKED:
            row.flags &= ~IS_BLOCKED
            self.blocked_count -= 1
            self._interest(row)
            self._mark_urgent(row)
        return 0
