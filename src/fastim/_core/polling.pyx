"""HTTP long-polling: transports whose packets come and go with requests.

A polling transport has no stream of its own. What is queued for it lies in its outbox as records, until a GET takes all
of them as one payload (``take_payload``); what a POST brought is parsed by the service and counted here
(``receive_polled``). It is listed by ``fed_ready`` as other connections without a socket are.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from fastim._core cimport sockets
from fastim._core.fed cimport FedDriver
from fastim._core.outbox cimport MAX_IOV
from fastim._core.receiver cimport PACKET_BURST_NS
from fastim._core.slab cimport (
    DUE_LIFE,
    IS_FED,
    IS_PAUSED,
    IS_PENDING,
    KIND_ENGINE,
    KIND_POLLING,
    OPEN,
    Row,
    carrier_of,
    handle_of,
    is_polling,
)


@cython.no_gc_clear
cdef class Polling(FedDriver):
    """Records instead of frames."""

    def open_polling(self, str peer not None, owner, int64_t now_ns):
        """Open a polling transport of Engine.IO; it is pending until ``authenticated``.

        Args:
            peer: The address of who asked for it.
            owner: The subject of its events; kept until CLOSED.

        Returns:
            Its handle; 0 if there are as many connections, or pending ones, as there may be.
        """
        cdef uint8_t address[16]
        cdef Row *row
        self._enter()
        self.now_ns = now_ns
        sockets.text_address(peer.encode(), address)
        if self._no_room(address, self.exempt.c_covers(address, now_ns)) is not None:
            return 0
        row = self._open(-1, address)
        row.state = OPEN
        row.flags |= IS_FED
        row.kind = KIND_ENGINE | KIND_POLLING
        self._own(row, owner)
        self._schedule(row, DUE_LIFE, 0)
        return handle_of(row)

    def take_payload(self, handle):
        """All that is queued for a polling transport, as one payload; b"" if there is nothing. It counts as sent."""
        cdef Row *row = self._row(handle)
        cdef iovec vectors[MAX_IOV]
        cdef bytearray out
        cdef size_t part
        cdef int count, i
        if row == NULL or not is_polling(row) or not row.outbox.queued_bytes:
            return b""
        out = bytearray()
        while row.outbox.queued_bytes:
            count = self.buffers.gather(&row.outbox, vectors, MAX_IOV)
            part = 0
            for i in range(count):
                out += (<const uint8_t *>vectors[i].iov_base)[:vectors[i].iov_len]
                part += vectors[i].iov_len
            self.buffers.consume(&row.outbox, part)
            self.sent_bytes += part
        self._tell_drained(row)
        self._caught_up(row)
        return bytes(out[:len(out) - 1])  # a record ends with what separates it from the next

    def receive_polled(self, handle, uint32_t packets, uint32_t size, bint pong, int64_t now_ns):
        """Count what a POST brought, as frames are counted, and as a sign of life.

        Args:
            packets, size: How many there were, and their bytes.
            pong: Whether one of them is a pong.

        Returns:
            For how many nanoseconds the answer to the POST has to wait, as it was ahead of its rate; 0: not at all.
            -1: it is closed for it, or it is gone.
        """
        cdef Row *row = self._row(handle)
        cdef int64_t due_ns
        self.now_ns = now_ns
        if row == NULL or row.state != OPEN or not is_polling(row):
            return -1
        row.received_ns = now_ns
        self.received_bytes += size
        self.received_frames += packets
        if pong:
            self._engine_pong(row)
        if row.flags & IS_PENDING:
            return 0 if self._meter_pending(row, packets, size) else -1
        if not self.packet_ns[row.tier]:
            return 0
        due_ns = max(<int64_t>row.meter, now_ns) + self.packet_ns[row.tier] * packets
        row.meter = <uint64_t>due_ns
        if due_ns - now_ns <= PACKET_BURST_NS:
            return 0
        self.throttled_count += 1
        return due_ns - now_ns - PACKET_BURST_NS

    def is_paused(self, handle):
        """Whether its data is not wanted now: the answer to a POST should wait. False for a stale handle."""
        cdef Row *row = self._row(handle)
        return row != NULL and carrier_of(self.slab, row).flags & IS_PAUSED != 0
