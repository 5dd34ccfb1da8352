"""What a hub receives: sockets accepted and read, heads and frames handled, within the budgets of a tick."""

import zlib

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free

from fastim._core cimport sockets
from fastim._core.connections cimport (
    EVENT_BINARY,
    EVENT_HEAD,
    EVENT_PONG,
    EVENT_TEXT,
    EVENT_TIMER,
    EVENTS_A_WAIT,
    SlotList,
    list_slot,
)
from fastim._core.frames cimport (
    CLOSE_ABNORMAL,
    CLOSE_INVALID_PAYLOAD,
    CLOSE_TOO_BIG,
    OP_CLOSE,
    OP_PONG,
    OP_TEXT,
    UTF8_ACCEPT,
    utf8_feed,
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
    keep_failure,
    keep_head,
    keep_left,
    next_item,
    settle,
)
from fastim._core.outbox cimport LANE_NORMAL
from fastim._core.sender cimport Sender
from fastim._core.slab cimport (
    CLOSING,
    DECIDING,
    FINISHING,
    FREE,
    HEAD,
    IS_CLEAN,
    IS_DEAF,
    IS_PAUSED,
    IS_READY,
    KIND_DEFLATE,
    NO_SLOT,
    OPEN,
    Row,
    find,
    row_at,
)
from fastim._core.wheel cimport WHEEL_NONE

cdef enum:
    ACCEPTS_A_POLL = 128
    # A message may be a batch: past its first bytes it uses up the budget as if it were so many small frames. Counted
    # after inflating, as it is served: a thousand packets compress to a hundred bytes.
    SMALL_BYTES = 512
    BYTES_A_FRAME = 64

cdef bytes _FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
)
cdef bytes _HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)
cdef bytes _HEAD_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@cython.no_gc_clear
cdef class Receiver(Sender):
    """Turns received bytes into events."""

    cdef int _accept(self, int listener) except -1:
        """Accept what is there, within a budget."""
        cdef sockets.sockaddr_storage from_
        cdef uint32_t size
        cdef int fd, _
        cdef uint8_t address[16]
        cdef Row *row
        for _ in range(ACCEPTS_A_POLL):
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

    cdef int _receive(self, Row *row, uint8_t *p, size_t n, int budget) except -1:
        """Handle received bytes as the connection's state wants it; returns how much of the budget was used."""
        if row.state == HEAD:
            self.received_frames += 1
            self._receive_head(row, p, n)
            return 1
        if row.state == OPEN or row.state == CLOSING:
            return self._receive_frames(row, p, n, budget)
        if row.state == DECIDING:
            keep_left(&row.inbound, p, n)
            return 0
        self.received_frames += 1
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
        cdef int spent = 0  # of the budget
        cdef bint heard = False  # a message of these bytes waits for its answer
        cdef Item item
        if row.inbound != NULL and row.inbound.failed_code:
            self.received_frames += 1
            self._fail(row, row.inbound.failed_code, row.inbound.failed_why.decode())
            return 1
        while done < n:
            # What was asked before a close frame, or a failure, in the same bytes is answered before the close is
            # sent: its turn is the next poll's. Behind a message p[done] begins a frame.
            if spent >= budget or row.flags & IS_PAUSED or heard and p[done] & 0x0F == OP_CLOSE:
                keep_left(&row.inbound, p + done, n - done)
                self._mark_ready(row)
                return spent
            next_item(&row.inbound, rules, p + done, n - done, &used, &item)
            done += used
            spent += 1
            self.received_frames += 1
            if item.kind == ITEM_MESSAGE:
                if row.state == OPEN:
                    spent += self._message(row, &item)
                    heard = True
            elif item.kind == ITEM_PING:
                if row.state == OPEN:
                    self._send_control(row, OP_PONG, item.data, item.size)
            elif item.kind == ITEM_PONG:
                if row.state == OPEN:
                    self._emit(EVENT_PONG, row, item.data[:item.size])
            elif item.kind == ITEM_CLOSE:
                self._closed_by_peer(row, &item)
            elif item.kind == ITEM_FAIL and heard and row.state == OPEN:
                keep_failure(&row.inbound, &item)
                keep_left(&row.inbound, p + done - used, n - done + used)
                self._mark_ready(row)
                return spent
            elif item.kind == ITEM_FAIL:
                self._fail(row, item.code, item.why.decode())
            if row.state == FINISHING:
                return spent  # the state that p may point into is gone
        if row.inbound != NULL:
            if row.inbound.left != NULL:
                keep_left(&row.inbound, row.inbound.left + row.inbound.left_offset, 0)
            settle(&row.inbound)
        return spent

    cdef int _mark_ready(self, Row *row) except -1:
        if not row.flags & (IS_READY | IS_PAUSED):
            row.flags |= IS_READY
            list_slot(&self.ready, row.slot)
            if not self.polling:
                self._notify()
        return 0

    cdef int _message(self, Row *row, Item *item) except -1:
        """Report a message; returns what it uses of the budget beside its frame."""
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
        if len(data) <= SMALL_BYTES:
            return 0
        return <int>((len(data) - SMALL_BYTES) // BYTES_A_FRAME)

    cdef int _closed_by_peer(self, Row *row, Item *item) except -1:
        """Section 5.5.1: answer with the same code; the server ends the stream first."""
        cdef str reason = item.data[:item.size].decode()
        if row.state == OPEN:
            self._queue_close(row, item.code, b"", LANE_NORMAL)
            self._let_go(row, item.code, reason, True)
        row.flags |= IS_CLEAN
        return self._finish(row)

    cdef int _read(self, Row *row, int budget) except -1:
        """Read once from a socket and handle what came; returns the budget used."""
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
        cdef uint32_t i, _
        for _ in range(waiting):
            list_slot(&self.ready, 0)
        for i in range(served, 0, -1):
            self.ready.slots[waiting + i - 1] = self.ready.slots[i - 1]
        for i in range(waiting):
            self.ready.slots[i] = turn.slots[begin + i]
        return 0

    cdef int _receive_left(self, Row *row, int budget) except -1:
        cdef Inbound *inbound = row.inbound
        return self._receive(row, inbound.left + inbound.left_offset, inbound.left_size, budget)

    cdef int _run_sockets(self, int budget) except -1:
        """Handle what epoll reports, and first what it reported in the last tick and was not reached."""
        cdef sockets.epoll_event *event
        cdef int rounds, share
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
                budget -= self._read(row, share)
            if rounds == 1:
                return 0
            self.wait_next = 0
            self.wait_count = sockets.epoll_wait(self.epoll, self.waited, EVENTS_A_WAIT, 0)
            if self.wait_count < 0:
                self.wait_count = 0
                if errno != EINTR:
                    raise OSError(errno, "epoll_wait")
        return 0
