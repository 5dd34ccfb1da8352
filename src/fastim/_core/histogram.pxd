"""The C interface of the histogram; see histogram.pyi for what it does."""

from cython cimport final
from libc.stdint cimport int64_t, uint64_t

cdef enum:
    MAX_BOUNDS = 31


@final
cdef class Histogram:
    cdef readonly str description
    cdef int bound_count
    cdef int64_t bounds[MAX_BOUNDS]
    cdef uint64_t counts[MAX_BOUNDS + 1]  # by bucket, not cumulated; the last one has no upper bound
    cdef int64_t total

    cdef void c_observe(self, int64_t value) noexcept nogil
