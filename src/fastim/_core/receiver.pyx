"""What a hub receives: sockets accepted and read, heads and frames handled, within the budgets of a tick."""

import zlib

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastim._core cimport sockets
from fastim._core.connections cimport (
    EVENT_ACCEPTED,
    EVENT_BINARY,
    EVENT_ENGINE_BINARY,
    EVENT_ENGINE_TEXT,
    EVENT_HEAD,
    EVENT_PONG,
    EVENT_TEXT,
    EVENT_TIMER,
    EVENTS_A_WAIT,
    KEPT_KNOWN,
    KEPT_UNKNOWN,
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
from fastim._core.engine_heartbeat cimport EngineHeartbeat
from fastim._core.idle cimport IDLE_NONE, touch
from fastim._core.inbound cimport (
    ITEM_CLOSE,
    ITEM_FAIL,
    ITEM_MESSAGE,
    ITEM_NONE,
    ITEM_PING,
    ITEM_PONG,
    Inbound,
    Item,
    Rules,
    forget_message,
    head_end,
    keep_failure,
    keep_head,
    keep_left,
    next_item,
    settle,
)
from fastim._core.outbox cimport LANE_NORMAL
from fastim._core.slab cimport (
    CLOSING,
    DEADLINES,
    DECIDING,
    DUE_HEARTBEAT,
    DUE_THROTTLE,
    DUE_LIFE,
    FINISHING,
    FREE,
    HEAD,
    HELD,
    IS_CLEAN,
    IS_DEAF,
    IS_PAUSED,
    IS_PENDING,
    IS_READY,
    IS_THROTTLED,
    KIND_DEFLATE,
    KIND_ENGINE,
    NO_SLOT,
    OPEN,
    Row,
    awaits_answer,
    find,
    row_at,
)
from fastim._core.wheel cimport WHEEL_NONE

cdef enum:
    ACCEPTS_A_POLL = 128
    TIMERS_A_POLL = 512  # all may be due at once, after a stop of the process or of the loop
    # A message may be a batch: past its first bytes it uses up the budget as if it were so many small frames. Counted
    # after inflating, as it is served: a thousand packets compress to a hundred bytes.
    SMALL_BYTES = 512
    BYTES_A_FRAME = 64
    LEAST_SHARE = 8  # frames in a turn, however many wait: a read costs about as much as these

cdef bytes _FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
)
cdef bytes _PENDING = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
)
cdef bytes _PENDING_THERE = (
    b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
)
cdef bytes _HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)
cdef bytes _HEAD_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@cython.no_gc_clear
cdef class Receiver(EngineHeartbeat):
    """Turns received bytes into events."""

    cdef int _accept(self, int listener) except -1:
        """Accept what is there, within a budget."""
        cdef sockets.sockaddr_storage from_
        cdef uint32_t size
        cdef int fd, _
        cdef uint8_t address[16]
        cdef Row *row
        cdef bint handed_out = self.listeners[listener]
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
            sockets.map_address(&from_, address)
            if not self._let_in(fd, address, handed_out):
                continue
            self.accepted_count += 1
            if handed_out:
                self._begin_pending(address)
                self.events.append((EVENT_ACCEPTED, listener, (fd, sockets.address_text(address))))
                continue
            row = self._open(fd, address)
            try:
                self._interest(row, True)
            except OSError:  # the system's limit of watches
                self._free_row(row)
        return 0

    cdef bint _let_in(self, int fd, const uint8_t *address, bint handed_out) except -1:
        """Whether an accepted socket becomes a connection; one that does not is closed here."""
        cdef bint exempt = self.exempt.c_covers(address, self.now_ns)
        cdef bytes answer
        if not exempt and self.blocked.c_covers(address, self.now_ns):
            # By a reset: neither side keeps anything of it, not even TIME_WAIT.
            self.blocked_peers_count += 1
            self._refuse(fd, None)
        else:
            answer = self._no_room(address, exempt)
            if answer is None:
                return True
            self._refuse(fd, None if handed_out else answer)
        return False

    cdef bytes _no_room(self, const uint8_t *address, bint exempt):
        """The answer to one more connection where there are as many as there may be; None: there is room."""
        if (
            self.max_connections
            and self.slab.used - self.channel_count >= self.max_connections
            and not self._make_room()
        ):
            self.refused_count += 1
            return _FULL
        if self.max_pending and self.pending_count >= self.max_pending and not self._make_room(False):
            self.pending_refused_count += 1
            return _PENDING
        if (
            self.max_pending_per_address
            and not exempt
            and self.pending_by.c_count(address) >= self.max_pending_per_address
        ):
            self.pending_refused_count += 1
            return _PENDING_THERE
        return None

    cdef bint _make_room(self, bint known=True) except -1:
        """Whether one that waits for another request gave way to a newcomer: the one that has waited longest.

        One whose user is known comes last, and only if `known` says so.
        """
        cdef uint32_t slot = self.kept.heads[KEPT_UNKNOWN]
        if slot == IDLE_NONE and known:
            slot = self.kept.heads[KEPT_KNOWN]
        if slot == IDLE_NONE:
            return False
        self.evicted_count += 1
        self._lost(row_at(self.slab, slot), CLOSE_ABNORMAL, "")
        return True

    cdef int _refuse(self, int fd, bytes answer) except -1:
        """Close a socket unread, with what fits into its buffer, or with a reset."""
        if answer is None:
            sockets.reset_on_close(fd)
        else:
            sockets.send(
                fd, PyBytes_AS_STRING(answer), <size_t>len(answer), sockets.MSG_NOSIGNAL | sockets.MSG_DONTWAIT
            )
        sockets.close(fd)
        return 0

    cdef int _receive(self, Row *row, uint8_t *p, size_t n, int budget) except -1:
        """Handle received bytes as the connection's state wants it; returns how much of the budget was used."""
        if row.state == HEAD:
            self.received_frames += 1
            self._receive_head(row, p, n)
            return 1
        if row.state == OPEN or row.state == CLOSING:
            return self._receive_frames(row, p, n, budget)
        if awaits_answer(row):
            keep_left(self.pools, &row.inbound, p, n)
            return 0
        self.received_frames += 1
        return 1  # FINISHING: thrown away

    cdef int _receive_head(self, Row *row, uint8_t *p, size_t n) except -1:
        """Collect the request head; what comes behind it is kept for the connection's next state."""
        cdef size_t before = row.inbound.message_size if row.inbound != NULL else 0
        cdef size_t take = min(n, self.head_bytes - before)
        cdef size_t end = head_end(row.inbound, p, take)
        if self.kept.c_contains(row.slot):
            self._next_head(row)
        keep_head(self.pools, &row.inbound, p, end if end else take)
        if not end and row.inbound.message_size == self.head_bytes:
            return self._respond(row, _HEAD_TOO_LARGE)
        if not end:
            return keep_left(self.pools, &row.inbound, p + n, 0)
        keep_left(self.pools, &row.inbound, p + end, n - end)
        row.state = DECIDING
        self._emit(
            EVENT_HEAD,
            row,
            (row.inbound.message[:row.inbound.message_size], sockets.address_text(row.address)),
        )
        return 0

    cdef int _next_head(self, Row *row) except -1:
        """Another request of a connection begins: its head has its time, and its user is not known yet."""
        self.kept.c_remove(row.slot)
        if not row.flags & IS_PENDING:
            row.flags |= IS_PENDING
            self._begin_pending(row.address)
        return self._schedule(row, DUE_LIFE, self.now_ns + self.head_timeout_ns)

    cdef int _receive_frames(self, Row *row, uint8_t *p, size_t n, int budget) except -1:
        """Handle frames up to the budget; the rest is kept and the connection queued for its next turn."""
        cdef Rules *rules = &self.rules[1 if row.kind & KIND_DEFLATE else 0]
        cdef size_t done = 0
        cdef size_t used
        cdef int spent = 0  # of the budget
        cdef bint heard = False  # a message of these bytes waits for its answer
        cdef bint whole
        cdef Item item
        if row.inbound != NULL and row.inbound.failed_code:
            self.received_frames += 1
            self._fail(row, row.inbound.failed_code, row.inbound.failed_why.decode())
            return 1
        while done < n:
            # What was asked before a close frame, or a failure, in the same bytes is answered before the close is
            # sent: its turn is the next poll's. Behind a message p[done] begins a frame.
            if spent >= budget or row.flags & (IS_PAUSED | IS_THROTTLED) or heard and p[done] & 0x0F == OP_CLOSE:
                keep_left(self.pools, &row.inbound, p + done, n - done)
                self._mark_ready(row)
                return spent
            next_item(self.pools, &row.inbound, rules, p + done, n - done, &used, &item)
            done += used
            spent += 1
            self.received_frames += 1
            # A frame counts when it is complete, however many reads it came in.
            whole = item.kind != ITEM_NONE
            if row.flags & IS_PENDING:
                if row.state == OPEN and not self._meter_pending(row, whole, used):
                    return spent
            elif whole and self.packet_ns[row.tier] and row.state == OPEN:
                self._meter_packets(row, 1)
            if item.kind == ITEM_MESSAGE:
                if row.state == OPEN:
                    spent += self._message(row, &item)
                    heard = True
            elif item.kind == ITEM_PING:
                if row.state == OPEN:
                    self._send_control(row, OP_PONG, item.data, item.size)
            elif item.kind == ITEM_PONG:
                if row.state == OPEN and not self._pong(row, item.data, item.size):
                    self._emit(EVENT_PONG, row, item.data[:item.size])
            elif item.kind == ITEM_CLOSE:
                self._closed_by_peer(row, &item)
            elif item.kind == ITEM_FAIL and heard and row.state == OPEN:
                keep_failure(self.pools, &row.inbound, &item)
                keep_left(self.pools, &row.inbound, p + done - used, n - done + used)
                self._mark_ready(row)
                return spent
            elif item.kind == ITEM_FAIL:
                self._fail(row, item.code, item.why.decode())
            if row.state == FINISHING:
                return spent  # the state that p may point into is gone
        if row.inbound != NULL:
            if row.inbound.left != NULL:
                keep_left(self.pools, &row.inbound, row.inbound.left + row.inbound.left_offset, 0)
            settle(self.pools, &row.inbound)
        return spent

    cdef bint _meter_pending(self, Row *row, uint32_t frames, size_t size) except -1:
        """Count what came before the user is known; False if it was too much, and the connection is closed."""
        cdef uint64_t count = (row.meter >> 32) + frames
        cdef uint64_t total = min((row.meter & 0xFFFFFFFF) + size, <uint64_t>0xFFFFFFFF)
        row.meter = (count << 32) | total
        if (not self.pending_frames or count <= self.pending_frames) and (
            not self.pending_bytes or total <= self.pending_bytes
        ):
            return True
        self._fail(row, self.limit_close_code, "too much before hello")
        return False

    cdef int _meter_packets(self, Row *row, uint32_t count) except -1:
        """Count packets against the connection's rate, and read it no further where it is ahead by more than a burst.

        The generic cell rate algorithm, as virtual scheduling (ITU-T I.371, annex A): `meter` is when the next packet
        would be due if all came evenly. What was read is served; it is the next that has to wait.
        """
        cdef int64_t due_ns = max(<int64_t>row.meter, self.now_ns)
        due_ns += self.packet_ns[row.tier] * count
        row.meter = <uint64_t>due_ns
        if due_ns - self.now_ns > PACKET_BURST_NS and not row.flags & IS_THROTTLED:
            self.throttled_count += 1
            row.flags |= IS_THROTTLED
            self._forget_pings(row)
            self._interest(row)
            self._schedule(row, DUE_THROTTLE, due_ns - PACKET_BURST_NS)
        return 0

    cdef int _end_throttle(self, Row *row) except -1:
        """The connection may be on time again: read it, or wait on for what was counted meanwhile."""
        if not row.flags & IS_THROTTLED:
            return 0
        if <int64_t>row.meter - self.now_ns > PACKET_BURST_NS:
            return self._schedule(row, DUE_THROTTLE, <int64_t>row.meter - PACKET_BURST_NS)
        row.flags &= ~IS_THROTTLED
        self._interest(row)
        if row.inbound != NULL and row.inbound.left_size:
            self._mark_ready(row)
        return 0

    cdef int _message(self, Row *row, Item *item) except -1:
        """Report a message; returns what it uses of the budget beside its frame."""
        cdef bytes data
        touch(self.idle, row.slot)
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
        if row.kind & KIND_ENGINE:
            self._engine_message(row, item.opcode == OP_TEXT, data)
        else:
            self.events.append(
                (EVENT_TEXT if item.opcode == OP_TEXT else EVENT_BINARY, <object>row.owner, data)
            )
        if len(data) <= SMALL_BYTES:
            return 0
        return <int>((len(data) - SMALL_BYTES) // BYTES_A_FRAME)

    cdef int _engine_message(self, Row *row, bint text, bytes data) except -1:
        """Report a packet of Engine.IO; a pong is the heartbeat's."""
        if text and data == b"3":
            return self._engine_pong(row)
        self.events.append((EVENT_ENGINE_TEXT if text else EVENT_ENGINE_BINARY, <object>row.owner, data))
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
        forget_message(self.pools, row.inbound)
        if row.inbound.left_size:
            return self._mark_ready(row)
        settle(self.pools, &row.inbound)
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
        cdef int _
        if self.accept_paused and self.now_ns >= self.accept_again_ns:
            self._resume_accept()
        self.wheel.c_advance(<uint64_t>self.now_ns)
        for _ in range(TIMERS_A_POLL):
            slot = self.wheel.c_pop()
            if slot == WHEEL_NONE:
                return 0
            self._run_due(row_at(self.slab, slot))
        return 0

    cdef int _run_due(self, Row *row) except -1:
        """Do what of a connection is due; the wheel's timer then stands at what is next."""
        cdef uint32_t generation = row.generation
        cdef int which
        for which in range(DEADLINES):
            if not row.due_ns[which] or row.due_ns[which] > self.now_ns:
                continue
            row.due_ns[which] = 0
            if which == DUE_LIFE:
                self._end_of_life(row)
            elif which == DUE_THROTTLE:
                self._end_throttle(row)
            elif which == DUE_HEARTBEAT:
                self._beat(row)
            if row.generation != generation:
                return 0
        return self._set_alarm(row)

    cdef int _end_of_life(self, Row *row) except -1:
        """The time of the state is over; in OPEN it is the service that knows what that means."""
        if row.state == OPEN:
            self._emit(EVENT_TIMER, row, None)
        elif row.state == HEAD and row.inbound != NULL:
            self._respond(row, _HEAD_TIMEOUT)
        elif row.state == HEAD:
            self._lost(row, CLOSE_ABNORMAL, "")
        elif row.state != FREE:
            self._reset(row, CLOSE_ABNORMAL, "timeout")
        return 0

    cdef int _share(self, int budget, uint32_t waiting) noexcept:
        """What a connection may use of a budget that so many wait for.

        With 200 senders that are ahead of us, shares of a hundred messages made a round take half a second, and whoever
        had a single packet to say waited for it.
        """
        cdef int share = <int>(<uint32_t>budget // waiting)
        # The least share may be more than is left: a turn cut short would be a turn all the same.
        share = max(share, min(<int>LEAST_SHARE, self.tick_messages >> 1))
        return min(share, self.message_budget)

    cdef int _run_ready(self, int budget) except -1:
        """Give each connection with unparsed bytes a turn; who had none before goes first the next time.

        Returns what is left of the budget.
        """
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
                share = self._share(budget, turn.count - i)
                budget -= self._receive_left(row, share)
            else:
                break
        else:
            i = turn.count
        if i < turn.count:
            self._put_first(&turn, i)
        return max(budget, 0)  # below: a large message; -1 would be taken for an exception

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
                    row.flags & (IS_PAUSED | IS_THROTTLED) or awaits_answer(row)
                ):
                    self._lost(row, CLOSE_ABNORMAL, "")
                    continue
                if row.state == HELD and event.events & sockets.EPOLLRDHUP:
                    # Shut for writing or closed: it looks the same, and who is gone must not be given an answer.
                    self._lost(row, CLOSE_ABNORMAL, "")
                    continue
                if not event.events & (sockets.EPOLLIN | sockets.EPOLLERR | sockets.EPOLLHUP):
                    continue
                if awaits_answer(row):
                    row.flags |= IS_DEAF  # else epoll reports it again and again until the request is answered
                    self._interest(row)
                    continue
                if row.flags & (IS_READY | IS_PAUSED | IS_THROTTLED):
                    continue  # has bytes waiting, or is not wanted now: the socket keeps the rest
                share = self._share(budget, <uint32_t>(self.wait_count - self.wait_next) + 1)
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
