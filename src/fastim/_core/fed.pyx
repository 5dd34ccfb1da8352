"""The fed driver: the same connections without a socket, for TLS, HTTP long-polling and tests."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy
from posix.uio cimport iovec

from fastim._core cimport sockets
from fastim._core.connections cimport RECEIVE_BYTES
from fastim._core.frames cimport CLOSE_ABNORMAL
from fastim._core.inbound cimport keep_left
from fastim._core.outbox cimport MAX_IOV
from fastim._core.requests cimport Requests
from fastim._core.slab cimport (
    CLOSING,
    DUE_LIFE,
    FINISHING,
    FREE,
    HEAD,
    IS_BLOCKED,
    IS_EOF,
    IS_FED,
    IS_LISTED,
    IS_PAUSED,
    IS_THROTTLED,
    KIND_BATCH,
    KIND_POLLING,
    OPEN,
    REPLYING,
    Row,
    handle_of,
    row_at,
)


@cython.no_gc_clear
cdef class FedDriver(Requests):
    """Bytes come by ``feed`` and go by ``take``."""

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
        if row == NULL or not row.flags & IS_FED or row.kind & KIND_POLLING:
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
            if row.state == OPEN or row.state == CLOSING or (
                row.state == HEAD and row.inbound != NULL and row.inbound.left_size
            ):
                keep_left(self.pools, &row.inbound, &view[done], part)
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
                if row.flags & (IS_PAUSED | IS_THROTTLED):
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
        cdef bint answered = row != NULL and row.state == REPLYING
        if row == NULL or not row.flags & IS_FED or row.kind & KIND_POLLING:
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
        self._tell_drained(row)
        if row.outbox.queued_bytes:
            self.buffers.privatize(&row.outbox)
        else:
            self._caught_up(row)
        if answered and out:
            if row.outbox.queued_bytes:
                self._schedule(row, DUE_LIFE, self.now_ns + self.close_timeout_ns)
            else:
                self._replied(row)
        return bytes(out)

    cdef int _caught_up(self, Row *row) except -1:
        """All that was offered has been taken."""
        if row.flags & IS_BLOCKED:
            row.flags &= ~IS_BLOCKED
            self.blocked_count -= 1
        return 0

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
