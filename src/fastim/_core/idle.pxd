"""The idle lists' C interface; see idle.pyi for what they do."""

from cython cimport final
from libc.stdint cimport uint32_t

from fastim._core.slab cimport TIERS

cdef enum:
    IDLE_NONE = 0xFFFFFFFF
    OFF_LIST = 0xFFFFFFFF


# One key: 12 bytes, linked by keys into its tier's list.
cdef struct IdleNode:
    uint32_t previous
    uint32_t following
    uint32_t tier  # OFF_LIST: on no list


@final
cdef class IdleLists:
    cdef IdleNode *nodes  # owned; `capacity` rows
    cdef uint32_t capacity
    cdef uint32_t heads[TIERS]  # idle for the longest
    cdef uint32_t tails[TIERS]
    cdef uint32_t sizes[TIERS]

    # Put `key` on a tier's list, as the one that was busy last; grows the table as needed.
    cdef int c_add(self, uint32_t key, uint32_t tier) except -1
    # Take `key` off its list, if it is on one.
    cdef void c_remove(self, uint32_t key) noexcept nogil
    cdef bint c_contains(self, uint32_t key) noexcept nogil
    cdef void link(self, uint32_t key, uint32_t tier) noexcept nogil
    cdef void unlink(self, uint32_t key) noexcept nogil
    cdef int grow(self, uint32_t key) except -1


cdef inline void touch(IdleLists lists, uint32_t key) noexcept nogil:
    """`key` is busy now; nothing if it is on no list."""
    cdef uint32_t tier
    if key >= lists.capacity:
        return
    tier = lists.nodes[key].tier
    if tier != OFF_LIST and lists.tails[tier] != key:
        lists.unlink(key)
        lists.link(key, tier)
