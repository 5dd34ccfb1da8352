"""HTTP long-polling."""

from fastim._core.fed cimport FedDriver


cdef class Polling(FedDriver):
    pass
