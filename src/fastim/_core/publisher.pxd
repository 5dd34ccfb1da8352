"""What the service sends."""

from libc.stdint cimport uint8_t, uint64_t

from fastim._core.channels cimport Channels
from fastim._core.outbox cimport Span
from fastim._core.rendering cimport Letter
from fastim._core.slab cimport Row
from fastim._core.topics cimport Topic


cdef class Publisher(Channels):
    cdef bint _send_to_channel(self, Row *row, bytes packet, int lane, uint64_t key) except -1
    cdef int _publish(self, Topic *t, Letter letter, uint64_t excluded, int lane, size_t *reached) except -1
    cdef bint _frame(
        self, int kind, uint8_t common, bytes json, bytes msgpack, uint64_t key, Span *span
    ) except -1
