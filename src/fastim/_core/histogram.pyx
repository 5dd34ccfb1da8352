# cython: auto_pickle=False, autotestdict=False
"""A histogram of fixed buckets; see histogram.pyi."""

cimport cython
from libc.stdint cimport int64_t

# From 100 µs, a good answer on one machine, to a minute, where any client has given up.
DURATION_BOUNDS_NS = tuple(
    int(step * 10 ** power) for power in range(5, 11) for step in (1, 2.5, 5)
) + (60_000_000_000,)


@cython.final
cdef class Histogram:

    def __cinit__(self, str description not None, bounds=DURATION_BOUNDS_NS):
        cdef int64_t bound
        cdef int count = 0
        self.description = description
        for bound in bounds:
            if count == MAX_BOUNDS:
                raise ValueError(f"a histogram has at most {MAX_BOUNDS} bounds")
            if count and bound <= self.bounds[count - 1]:
                raise ValueError("bounds must ascend")
            self.bounds[count] = bound
            count += 1
        if not count:
            raise ValueError("a histogram needs a bound")
        self.bound_count = count

    def __reduce__(self):
        raise TypeError("a Histogram cannot be pickled or copied")

    @property
    def bounds(self):
        return tuple([self.bounds[place] for place in range(self.bound_count)])

    def observe(self, int64_t value):
        self.c_observe(value)

    def snapshot(self):
        return [self.counts[place] for place in range(self.bound_count + 1)], self.total

    cdef void c_observe(self, int64_t value) noexcept nogil:
        cdef int low = 0, high = self.bound_count, middle
        while low < high:
            middle = (low + high) >> 1
            if self.bounds[middle] < value:
                low = middle + 1
            else:
                high = middle
        self.counts[low] += 1
        self.total += value
