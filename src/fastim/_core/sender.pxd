"""What a hub sends."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastim._core.connections cimport Connections, FlushQueue
from fastim._core.outbox cimport Span
from fastim._core.slab cimport Row


cdef class Sender(Connections):
    cdef int _slow(self, Row *row) except -1
    cdef int _end_slow(self) except -1
    cdef int _push(self, Row *row, int lane, const Span *span) except -1
    cdef int _overflow(self, Row *row, size_t size) except -1
    cdef int _send_control(self, Row *row, uint8_t opcode, const uint8_t *p, size_t n) except -1
    cdef int _push_low(self, Row *row, const Span *span) except -1
    cdef int64_t _flush(self, int64_t window_ns, int64_t degraded_window_ns) except -2
    cdef int64_t _choose(self, int64_t window_ns, int64_t degraded_window_ns) except -2
    cdef uint32_t _take_rows(self, FlushQueue *queue, uint32_t limit, int flag) except? 0xFFFFFFFF
    cdef int _flush_row(self, Row *row) except -1 nogil
    cdef int _write(self, Row *row) except -1 nogil
    cdef int _attend(self, Row *row) except -1
    cdef int _drained(self, Row *row) except -1
    cdef int _replied(self, Row *row) except -1
    cdef int _tell_drained(self, Row *row) except -1
    cdef int _tell_channels(self, Row *row) except -1
    cdef int _unblock(self, Row *row) except -1
