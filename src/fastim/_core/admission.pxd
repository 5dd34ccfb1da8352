"""Who a hub's connections are."""

from fastim._core.publisher cimport Publisher


cdef class Admission(Publisher):
    pass
