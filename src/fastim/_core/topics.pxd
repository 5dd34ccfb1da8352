"""Topics: who gets what is published."""

from libc.stdint cimport uint32_t, uint64_t

from fastim._core.slab cimport Row, Slab

cdef struct Topic:
    uint32_t *members  # owned: slots, dense
    uint32_t count
    uint32_t capacity
    uint32_t msgpack_count
    uint32_t channel_count
    uint32_t packed_count  # channels of the msgpack parser
    uint32_t generation  # odd while in use
    uint32_t next_free


cdef class Topics:
    cdef Slab slab
    cdef Topic *table
    cdef uint32_t capacity
    cdef readonly uint32_t used
    cdef uint32_t free_head

    cdef Topic *find(self, uint64_t topic) noexcept nogil
    cdef uint64_t create(self) except 0
    cdef void drop(self, uint64_t topic) noexcept
    cdef bint subscribe(self, uint64_t topic, Row *row) except -1
    cdef bint unsubscribe(self, uint64_t topic, Row *row) noexcept
    cdef void leave_all(self, Row *row) noexcept
    cdef void count(self, Topic *t, const Row *row, int by) noexcept
    cdef void remove(self, Row *row, uint32_t index) noexcept
