"""The fed driver."""

from libc.stdint cimport uint8_t

from fastim._core.requests cimport Requests
from fastim._core.slab cimport Row


cdef class FedDriver(Requests):
    cdef int _caught_up(self, Row *row) except -1
    cdef int _feed(self, Row *row, const uint8_t[::1] view) except -1
