# cython: auto_pickle=False, autotestdict=False
"""Ranges of addresses with an end, and counts by address; see addresses.pyi."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastim._core cimport sockets
from fastim._core.keytable cimport NO_ROW, KeyTable

from fastim._core cimport keytable

cdef enum:
    IPV4_BITS = 32
    SITE_BYTES = 8  # an IPv6 /64 is what one customer is given; single addresses inside are free to take

cdef uint8_t[12] IPV4_PREFIX
memset(IPV4_PREFIX, 0, 10)
IPV4_PREFIX[10] = IPV4_PREFIX[11] = 0xFF


cdef struct RangeRow:  # 24 bytes
    uint64_t digest
    int64_t until_ns  # 0: for ever
    uint32_t bits


cdef struct CountRow:
    uint64_t digest
    uint32_t count


cdef inline void mask(uint8_t* address, uint32_t bits) noexcept nogil:
    """Clear all but the first bits."""
    cdef uint32_t whole = bits >> 3
    if bits >= ADDRESS_BITS:
        return
    address[whole] &= <uint8_t>(0xFF00 >> (bits & 7))
    memset(address + whole + 1, 0, ADDRESS_BYTES - whole - 1)


cdef int parse_address(str text, uint8_t* address) except -1:
    # inet_pton ends at a NUL and knows no zones.
    if "\0" in text or not text.isascii() or not sockets.text_address(text.encode(), address):
        raise ValueError(f"{text!r} is no address")
    return 0


cdef bint in_range(const uint8_t* address, const uint8_t* network, uint32_t bits) noexcept nogil:
    cdef uint8_t masked[ADDRESS_BYTES]
    memcpy(masked, address, ADDRESS_BYTES)
    mask(masked, bits)
    return memcmp(masked, network, ADDRESS_BYTES) == 0


cdef int parse_range(str text, uint8_t* address, uint32_t* bits) except -1:
    head, slash, tail = text.partition("/")
    cdef uint32_t most = ADDRESS_BITS if ":" in head else IPV4_BITS
    parse_address(head, address)
    bits[0] = most
    if slash:
        if not (tail.isascii() and tail.isdigit() and len(tail) <= 3 and int(tail) <= most):
            raise ValueError(f"{text!r} is no range of addresses")
        bits[0] = <uint32_t>int(tail)
    if most == IPV4_BITS:
        bits[0] += ADDRESS_BITS - IPV4_BITS
    mask(address, bits[0])
    return 0


@cython.final
cdef class AddressRanges(KeyTable):

    def __cinit__(self, *, bytes hash_key=None):
        self.setup(sizeof(RangeRow), hash_key)

    def add(self, str network not None, int64_t until_ns=0):
        cdef uint8_t address[ADDRESS_BYTES]
        cdef uint32_t bits = 0, number
        cdef uint64_t digest
        if until_ns < 0:
            raise ValueError("until_ns must not be negative")
        parse_range(network, address, &bits)
        digest = self.hash_range(address, bits)
        number = self.find(digest, None)
        if number == NO_ROW:
            number = self.insert_row(digest)
            (<RangeRow*>self.row(number)).bits = bits
            self.use_length(bits)
        (<RangeRow*>self.row(number)).until_ns = until_ns

    def remove(self, str network not None):
        cdef uint8_t address[ADDRESS_BYTES]
        cdef uint32_t bits = 0, number
        parse_range(network, address, &bits)
        number = self.find(self.hash_range(address, bits), None)
        if number == NO_ROW:
            return False
        self.drop_range(number)
        return True

    def covers(self, str address not None, int64_t now_ns):
        cdef uint8_t parsed[ADDRESS_BYTES]
        parse_address(address, parsed)
        return self.c_covers(parsed, now_ns)

    def sweep(self, int64_t now_ns):
        cdef uint32_t number = 0, removed = 0
        cdef int64_t until_ns
        while number < self.count:
            until_ns = (<RangeRow*>self.row(number)).until_ns
            if until_ns and until_ns <= now_ns:
                self.drop_range(number)  # another row has its number now
                removed += 1
            else:
                number += 1
        return removed

    cdef bint c_covers(self, const uint8_t* address, int64_t now_ns) noexcept:
        cdef uint8_t masked[ADDRESS_BYTES]
        cdef int index
        cdef uint32_t number
        cdef int64_t until_ns
        memcpy(masked, address, ADDRESS_BYTES)
        # From the longest on, so that one copy is masked further and further.
        for index in range(self.length_count - 1, -1, -1):
            mask(masked, self.lengths[index])
            number = self.find(self.hash_range(masked, self.lengths[index]), None)
            if number != NO_ROW:
                until_ns = (<RangeRow*>self.row(number)).until_ns
                if until_ns == 0 or until_ns > now_ns:
                    return True
        return False

    cdef uint64_t hash_range(self, const uint8_t* address, uint32_t bits) noexcept:
        cdef uint8_t data[ADDRESS_BYTES + 1]
        memcpy(data, address, ADDRESS_BYTES)
        data[ADDRESS_BYTES] = <uint8_t>bits
        return keytable.sip_hash(self.hash_key, data, sizeof(data))

    cdef int use_length(self, uint32_t bits) except -1:
        cdef int index = self.length_count
        self.counts[bits] += 1
        if self.counts[bits] > 1:
            return 0
        while index and self.lengths[index - 1] > bits:
            self.lengths[index] = self.lengths[index - 1]
            index -= 1
        self.lengths[index] = <uint8_t>bits
        self.length_count += 1
        return 0

    cdef void drop_range(self, uint32_t number) noexcept:
        cdef uint32_t bits = (<RangeRow*>self.row(number)).bits
        cdef int index = 0
        self.remove_row(number)
        self.counts[bits] -= 1
        if self.counts[bits]:
            return
        while self.lengths[index] != bits:
            index += 1
        self.length_count -= 1
        while index < self.length_count:
            self.lengths[index] = self.lengths[index + 1]
            index += 1


@cython.final
cdef class AddressCounts(KeyTable):

    def __cinit__(self, *, bytes hash_key=None):
        self.setup(sizeof(CountRow), hash_key)

    def add(self, str address not None):
        cdef uint8_t parsed[ADDRESS_BYTES]
        parse_address(address, parsed)
        self.c_add(parsed)

    def remove(self, str address not None):
        cdef uint8_t parsed[ADDRESS_BYTES]
        parse_address(address, parsed)
        self.c_remove(parsed)

    def count(self, str address not None):
        cdef uint8_t parsed[ADDRESS_BYTES]
        parse_address(address, parsed)
        return self.c_count(parsed)

    cdef uint32_t c_count(self, const uint8_t* address) noexcept:
        cdef uint32_t number = self.find(self.hash_site(address), None)
        return 0 if number == NO_ROW else (<CountRow*>self.row(number)).count

    cdef int c_add(self, const uint8_t* address) except -1:
        cdef uint64_t digest = self.hash_site(address)
        cdef uint32_t number = self.find(digest, None)
        if number == NO_ROW:
            number = self.insert_row(digest)
        (<CountRow*>self.row(number)).count += 1
        return 0

    cdef void c_remove(self, const uint8_t* address) noexcept:
        cdef uint32_t number = self.find(self.hash_site(address), None)
        cdef CountRow* row
        if number == NO_ROW:
            return
        row = <CountRow*>self.row(number)
        row.count -= 1
        if not row.count:
            self.remove_row(number)

    cdef uint64_t hash_site(self, const uint8_t* address) noexcept:
        cdef size_t size = SITE_BYTES
        if memcmp(address, IPV4_PREFIX, sizeof(IPV4_PREFIX)) == 0:
            size = ADDRESS_BYTES
        return keytable.sip_hash(self.hash_key, address, size)
