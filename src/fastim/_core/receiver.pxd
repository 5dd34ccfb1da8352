"""What a hub receives."""

from libc.stdint cimport uint8_t, uint32_t

from fastim._core.connections cimport SlotList
from fastim._core.engine_heartbeat cimport EngineHeartbeat
from fastim._core.inbound cimport Item
from fastim._core.slab cimport Row

cdef enum:
    PACKET_BURST_NS = 2_000_000_000  # so much of its rate a connection may send at once


cdef class Receiver(EngineHeartbeat):
    cdef int _accept(self, int listener) except -1
    cdef bint _let_in(self, int fd, const uint8_t *address, bint handed_out) except -1
    cdef bint _make_room(self, bint known=*) except -1
    cdef bytes _no_room(self, const uint8_t *address, bint exempt)
    cdef int _refuse(self, int fd, bytes answer) except -1
    cdef int _receive(self, Row *row, uint8_t *p, size_t n, int budget) except -1
    cdef int _receive_head(self, Row *row, uint8_t *p, size_t n) except -1
    cdef int _next_head(self, Row *row) except -1
    cdef int _receive_frames(self, Row *row, uint8_t *p, size_t n, int budget) except -1
    cdef bint _meter_pending(self, Row *row, uint32_t frames, size_t size) except -1
    cdef int _meter_packets(self, Row *row, uint32_t count) except -1
    cdef int _end_throttle(self, Row *row) except -1
    cdef int _message(self, Row *row, Item *item) except -1
    cdef int _engine_message(self, Row *row, bint text, bytes data) except -1
    cdef int _closed_by_peer(self, Row *row, Item *item) except -1
    cdef int _read(self, Row *row, int budget) except -1
    cdef int _listen_again(self, Row *row) except -1
    cdef int _forget_head(self, Row *row) except -1
    cdef int _respond(self, Row *row, bytes response) except -1
    cdef int _run_timers(self) except -1
    cdef int _run_due(self, Row *row) except -1
    cdef int _end_of_life(self, Row *row) except -1
    cdef int _share(self, int budget, uint32_t waiting) noexcept
    cdef int _run_ready(self, int budget) except -1
    cdef int _put_first(self, SlotList *turn, uint32_t begin) except -1
    cdef int _receive_left(self, Row *row, int budget) except -1
    cdef int _run_sockets(self, int budget) except -1
