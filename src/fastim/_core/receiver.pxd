"""What a hub receives."""

from libc.stdint cimport uint8_t, uint32_t

from fastim._core.connections cimport SlotList
from fastim._core.inbound cimport Item
from fastim._core.sender cimport Sender
from fastim._core.slab cimport Row


cdef class Receiver(Sender):
    cdef int _accept(self, int listener) except -1
    cdef int _receive(self, Row *row, uint8_t *p, size_t n, int budget) except -1
    cdef int _receive_head(self, Row *row, uint8_t *p, size_t n) except -1
    cdef int _receive_frames(self, Row *row, uint8_t *p, size_t n, int budget) except -1
    cdef int _mark_ready(self, Row *row) except -1
    cdef int _message(self, Row *row, Item *item) except -1
    cdef int _closed_by_peer(self, Row *row, Item *item) except -1
    cdef int _read(self, Row *row, int budget) except -1
    cdef int _listen_again(self, Row *row) except -1
    cdef int _forget_head(self, Row *row) except -1
    cdef int _respond(self, Row *row, bytes response) except -1
    cdef int _run_timers(self) except -1
    cdef int _run_ready(self, int budget) except -1
    cdef int _put_first(self, SlotList *turn, uint32_t begin) except -1
    cdef int _receive_left(self, Row *row, int budget) except -1
    cdef int _run_sockets(self, int budget) except -1
