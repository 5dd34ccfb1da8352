"""What a hub sends."""

from libc.stdint cimport uint8_t

from fastim._core.connections cimport Connections
from fastim._core.outbox cimport Span
from fastim._core.slab cimport Row


cdef class Sender(Connections):
    cdef int _slow(self, Row *row) except -1
    cdef int _end_slow(self) except -1
    cdef int _push(self, Row *row, int lane, const Span *span) except -1
    cdef int _overflow(self, Row *row, size_t size) except -1
    cdef int _send_control(self, Row *row, uint8_t opcode, const uint8_t *p, size_t n) except -1
    cdef int _flush(self) except -1
    cdef int _flush_row(self, Row *row) except -1 nogil
    cdef int _write(self, Row *row) except -1 nogil
    cdef int _attend(self, Row *row) except -1
    cdef int _drained(self, Row *row) except -1
    cdef int _unblock(self, Row *row) except -1
