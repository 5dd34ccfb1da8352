"""HTTP requests that are answered without leaving the hub.

A connection whose request head has come may be answered where it is: its body is read, the request waits for its
answer, and the connection is kept for the next one. There is one request of a connection at a time. What a client
sends behind it stays in the socket, or, where it was read already, waits; it is looked at when the answer has gone
out. So a client that asks on and on and takes nothing costs the memory of one answer.

HEAD → DECIDING → (BODY →) HELD → REPLYING → HEAD. From BODY on an owner hears of the end, by CLOSED; the answer may
come in any state from DECIDING on.

A client that shuts its write side is taken for gone while its request is HELD: it looks like one that has closed, and
who is gone must not be handed what waits for it. What is answered at once is sent to both.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t

from fastim._core.connections cimport EVENT_BODY, KEPT_KNOWN, KEPT_UNKNOWN
from fastim._core.frames cimport CLOSE_ABNORMAL
from fastim._core.heads cimport Heads
from fastim._core.idle cimport IDLE_NONE
from fastim._core.inbound cimport forget_message, keep_body, keep_left, settle
from fastim._core.slab cimport (
    BODY,
    DECIDING,
    DUE_LIFE,
    HEAD,
    HELD,
    IS_BLOCKED,
    IS_DEAF,
    IS_PENDING,
    REPLYING,
    Row,
    row_at,
)

cdef bytes _BODY_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
cdef bytes _CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@cython.no_gc_clear
cdef class Requests(Heads):
    """Reads bodies, holds requests and answers them."""

    def read_body(self, handle, size_t size, owner, int64_t deadline_ns=0, *, bint expected=False):
        """Read the body of a request whose HEAD event has come; from then on the request is held.

        Args:
            size: Of the body as the head says, in bytes; the caller has found that it is not too much.
            owner: The subject of what comes: BODY with the bytes, or CLOSED.
            deadline_ns: When all of it has to be there; then 408, and CLOSED. 0: no bound.
            expected: Whether the client waits for a "100 Continue" before it sends it.

        Returns:
            The body if all of it has come; there is no BODY event then. None if it has not, or if the client is gone.
        """
        cdef Row *row = self._row(handle)
        cdef object body
        if row == NULL or row.state != DECIDING:
            return None
        self._own(row, owner)
        forget_message(self.pools, row.inbound)
        row.state = BODY
        row.inbound.remaining = size
        expected = expected and not row.inbound.left_size
        body = self._take_body(row, row.inbound.left + row.inbound.left_offset, row.inbound.left_size)
        if body is not None:
            return body
        self._listen_again(row)
        self._schedule(row, DUE_LIFE, deadline_ns)
        if expected:
            self.buffers.begin_bytes(
                &row.outbox, <const uint8_t *>PyBytes_AS_STRING(_CONTINUE), <size_t>len(_CONTINUE)
            )
            self._mark_urgent(row)
        return None

    def hold(self, handle, owner):
        """Let a request wait for its answer, for as long as it takes.

        Args:
            owner: Hears CLOSED if the client goes before; in the place of the owner it may have.

        Returns:
            False if the client is gone, or the request was answered already.
        """
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != DECIDING and row.state != HELD:
            return False
        self._own(row, owner)
        if row.state == HELD:
            return True
        row.state = HELD
        forget_message(self.pools, row.inbound)
        settle(self.pools, &row.inbound)
        if row.flags & IS_DEAF:
            self._interest(row)  # what it does not listen to, too: whether the client is there
        self._schedule(row, DUE_LIFE, 0)
        return True

    def reply(self, handle, bytes response not None, bint keep, int64_t now_ns):
        """Answer a request with a whole HTTP response; its owner hears no more of it.

        The client has the close timeout for each part that it takes.

        Args:
            keep: Whether the connection waits for another request then; else it is closed. One whose body has
                not been read to its end is closed.

        Returns:
            False if the client is gone, or the request was answered already.
        """
        cdef Row *row = self._row(handle)
        self.now_ns = now_ns
        if row == NULL or not (row.state == DECIDING or row.state == BODY or row.state == HELD):
            return False
        self.request_count += 1
        if keep and row.state != BODY:
            row.state = REPLYING
            if row.inbound != NULL:
                forget_message(self.pools, row.inbound)
                settle(self.pools, &row.inbound)
            self.buffers.begin_bytes(
                &row.outbox, <const uint8_t *>PyBytes_AS_STRING(response), <size_t>len(response)
            )
            self._schedule(row, DUE_LIFE, now_ns + self.close_timeout_ns)
            self._mark_urgent(row)
        else:
            self._respond(row, response)
        self._disown(row)
        return True

    def close_kept(self):
        """Close the connections that wait for another request. Returns how many there were."""
        cdef int count = 0
        self._enter()
        cdef int which
        for which in range(KEPT_KNOWN + 1):
            while self.kept.heads[which] != IDLE_NONE:
                self._lost(row_at(self.slab, self.kept.heads[which]), CLOSE_ABNORMAL, "")
                count += 1
        return count

    def make_room(self):
        """Whether one that waits for another request gave way to a newcomer; one whose user is known comes last."""
        self._enter()
        return self._make_room()

    cdef object _take_body(self, Row *row, const uint8_t *p, size_t n):
        """Take what is the body's, and keep what comes behind it; returns the body once all of it is there, or None."""
        cdef size_t part = min(n, <size_t>row.inbound.remaining)
        cdef bytes body = None
        if row.inbound.message_size == 0 and part == row.inbound.remaining:
            body = p[:part]
        else:
            keep_body(self.pools, row.inbound, p, part)
            if not row.inbound.remaining:
                body = row.inbound.message[:row.inbound.message_size]
        keep_left(self.pools, &row.inbound, p + part, n - part)
        if body is None:
            return None
        forget_message(self.pools, row.inbound)
        settle(self.pools, &row.inbound)
        row.state = HELD
        if row.flags & IS_DEAF:
            self._interest(row)
        self._schedule(row, DUE_LIFE, 0)
        return body

    cdef int _receive(self, Row *row, uint8_t *p, size_t n, int budget) except -1:
        cdef object body
        if row.state != BODY:
            return Heads._receive(self, row, p, n, budget)
        self.received_frames += 1
        body = self._take_body(row, p, n)
        if body is not None:
            self._emit(EVENT_BODY, row, body)
        return 1

    cdef int _end_of_life(self, Row *row) except -1:
        if row.state != BODY:
            return Heads._end_of_life(self, row)
        self._let_go(row, CLOSE_ABNORMAL, "timeout", False)
        return self._respond(row, _BODY_TIMEOUT)

    cdef int _unblock(self, Row *row) except -1:
        """Room for more of an answer: the client takes it, and has its time for the next part."""
        if row.state == REPLYING and row.flags & IS_BLOCKED:
            self._schedule(row, DUE_LIFE, self.now_ns + self.close_timeout_ns)
        return Heads._unblock(self, row)

    cdef int _replied(self, Row *row) except -1:
        """The answer has gone out: what came behind the request is next, or the client may be idle for its time."""
        row.state = HEAD
        self._listen_again(row)
        if row.inbound != NULL and row.inbound.left_size:
            self._next_head(row)
            return self._mark_ready(row)
        self.kept.c_add(row.slot, KEPT_UNKNOWN if row.flags & IS_PENDING else KEPT_KNOWN)
        return self._schedule(row, DUE_LIFE, self.now_ns + self.idle_timeout_ns)
