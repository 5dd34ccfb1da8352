"""The timing wheel's C interface; see wheel.pyi for what it does."""

from cython cimport final
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef enum:
    WHEEL_NONE = 0xFFFFFFFF
    WHEEL_LEVELS = 11  # of 6 bits: all of 64, so that no deadline needs an overflow list
    WHEEL_SLOTS = 64
    WHEEL_LISTS = WHEEL_LEVELS * WHEEL_SLOTS + 2


# One timer: 24 bytes, found by its key, linked by keys into the circular list of its slot.
cdef struct Timer:
    uint64_t due_tick
    uint32_t next
    uint32_t prev
    uint16_t list_id


@final
cdef class TimingWheel:
    cdef Timer* timers            # owned; `capacity` rows
    cdef uint32_t capacity
    cdef uint32_t count
    cdef uint64_t tick_ns
    cdef uint64_t now_ns
    cdef uint64_t tick            # everything up to and with this tick is on the ready list
    cdef uint32_t levels_in_use   # bit a level
    cdef uint64_t slots_in_use[WHEEL_LEVELS]  # bit a slot
    cdef uint32_t heads[WHEEL_LISTS]

    # Schedule (or move) the timer of `key`; grows the tables as needed.
    cdef int c_schedule(self, uint32_t key, uint64_t at_ns) except -1
    # Take the timer of `key` off the wheel, if it is on.
    cdef void c_cancel(self, uint32_t key) noexcept nogil
    # Move the clock to now_ns; then c_pop gives the due keys one by one, WHEEL_NONE at the end.
    cdef void c_advance(self, uint64_t now_ns) noexcept nogil
    cdef uint32_t c_pop(self) noexcept nogil
    # Whether c_pop has one to give.
    cdef bint c_has_due(self) noexcept nogil
    # Until when nothing is due (a lower bound); 0 when the wheel is empty.
    cdef uint64_t c_next_due(self) noexcept nogil

    cdef int grow(self, uint32_t key) except -1
    cdef void link(self, uint32_t key, uint32_t list_id) noexcept nogil
    cdef void unlink(self, uint32_t key) noexcept nogil
    cdef uint32_t take_list(self, uint32_t list_id) noexcept nogil
    cdef uint32_t list_for(self, uint64_t due_tick) noexcept nogil
    cdef uint64_t next_slot(self) noexcept nogil
    cdef void turn_to(self, uint64_t tick) noexcept nogil
    cdef void empty_slot(self, uint32_t list_id) noexcept nogil
