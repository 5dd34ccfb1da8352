"""The C interface of ranges and counts of addresses; see addresses.pyi for what they do."""

from cython cimport final
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastim._core.keytable cimport KeyTable

cdef enum:
    ADDRESS_BYTES = 16  # IPv6, or IPv4 mapped into it (RFC 4291, section 2.5.5.2)
    ADDRESS_BITS = 128

# Parse `address` or `address/bits`, IPv4 mapped; what lies beyond the bits is cleared.
cdef int parse_range(str text, uint8_t* address, uint32_t* bits) except -1
cdef bint in_range(const uint8_t* address, const uint8_t* network, uint32_t bits) noexcept nogil


@final
cdef class AddressRanges(KeyTable):
    cdef uint32_t counts[ADDRESS_BITS + 1]  # ranges of each prefix length
    cdef uint8_t lengths[ADDRESS_BITS + 1]  # those in use, the shortest first
    cdef int length_count

    cdef bint c_covers(self, const uint8_t* address, int64_t now_ns) noexcept
    cdef uint64_t hash_range(self, const uint8_t* address, uint32_t bits) noexcept
    cdef int use_length(self, uint32_t bits) except -1
    cdef void drop_range(self, uint32_t number) noexcept


@final
cdef class AddressCounts(KeyTable):
    cdef uint32_t c_count(self, const uint8_t* address) noexcept
    cdef int c_add(self, const uint8_t* address) except -1
    cdef void c_remove(self, const uint8_t* address) noexcept
    cdef uint64_t hash_site(self, const uint8_t* address) noexcept
