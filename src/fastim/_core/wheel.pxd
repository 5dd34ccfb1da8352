"""The timing wheel's C interface; see wheel.pyi for what it does."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    WHEEL_NONE = 0xFFFFFFFF


cdef class TimingWheel:
    # Schedule (or move) the timer of `key`; grows the tables as needed.
    cdef int c_schedule(self, uint32_t key, uint64_t at_ns) except -1
    # Take the timer of `key` off the wheel, if it is on.
    cdef void c_cancel(self, uint32_t key) noexcept nogil
    # Move the clock to now_ns; then c_pop gives the due keys one by one, WHEEL_NONE at the end.
    cdef void c_advance(self, uint64_t now_ns) noexcept nogil
    cdef uint32_t c_pop(self) noexcept nogil
