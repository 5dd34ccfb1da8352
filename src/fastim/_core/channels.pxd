"""Channels: the namespaces of a transport of Engine.IO."""

from libc.stdint cimport uint8_t, uint16_t

from fastim._core.outbox cimport Span
from fastim._core.polling cimport Polling
from fastim._core.rendering cimport Letter, Renderer
from fastim._core.slab cimport Row


cdef class Channels(Polling):
    cdef Renderer renderer
    cdef set channel_codes

    cdef Span *_address(self, Letter letter, const Row *channel, uint8_t common) except? NULL
    cdef bint _post(self, Row *channel, Letter letter, int lane) except -1
    cdef int _disconnect(self, Row *channel) except -1
    cdef int _close_channel(self, Row *channel, uint16_t code, str reason) except -1
    cdef int _close_transport(self, Row *row, uint16_t code, str reason) except -1
    cdef int _take_over(self, Row *row, Row *to) except -1
    cdef int _take_over_waiting(self, Row *row, Row *to) except -1
    cdef int _pause_channel(self, Row *channel) except -1
    cdef int _resume_channel(self, Row *channel) except -1
