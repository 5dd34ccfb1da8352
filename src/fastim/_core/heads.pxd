"""A connection's beginning."""

from fastim._core.receiver cimport Receiver


cdef class Heads(Receiver):
    pass
