"""The fed driver."""

from libc.stdint cimport uint8_t

from fastim._core.receiver cimport Receiver
from fastim._core.slab cimport Row


cdef class FedDriver(Receiver):
    cdef int _feed(self, Row *row, const uint8_t[::1] view) except -1
