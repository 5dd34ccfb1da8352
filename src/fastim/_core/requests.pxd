"""HTTP requests."""

from libc.stdint cimport uint8_t

from fastim._core.heads cimport Heads
from fastim._core.slab cimport Row


cdef class Requests(Heads):
    cdef object _take_body(self, Row *row, const uint8_t *p, size_t n)
