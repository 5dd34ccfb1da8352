# cython: auto_pickle=False, autotestdict=False
"""A table of C rows by key: what the keyed limits and the session table are built on.

Rows lie densely in chunks that never move; removing one moves the last row into its place, so that memory
goes back when keys go, and a sweep over the rows meets no holes. Where they are many they lie in huge pages, else
at a million keys each access would miss the processor's address cache as well. An index of 32-bit row numbers
finds them: open addressing, linear probing, 8 bits of the digest beside each number so that a foreign row is
hardly ever touched. It is divided into shards by the digest's top bits, each growing by itself: at a million keys
a growing shard moves 16,000 numbers, a single index would stop the loop for all million.

Keys are told apart by a keyed 64-bit digest (SipHash), so that a peer who chooses his keys can neither aim at
another's row nor pile rows up in one place.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from secrets import token_bytes

cdef extern from "stdlib.h" nogil:
    void* aligned_alloc(size_t alignment, size_t size)

cdef extern from "sys/mman.h" nogil:
    int madvise(void* address, size_t size, int advice)
    enum:
        MADV_HUGEPAGE

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    TAG_SHIFT = 24
    ROW_MASK = 0xFFFFFF
    TAG_MASK = 0xFF000000
    FIRST_SLOTS = 8
    HUGE_BYTES = 1 << 21
    # With the index, at most 10.7 bytes a key, a key stays below 64 bytes.
    ROW_BYTES_IN_HUGE_PAGES = 53


cdef inline uint64_t rotate(uint64_t word, int bits) noexcept nogil:
    return (word << bits) | (word >> (64 - bits))


cdef inline void sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = rotate(v[1], 13) ^ v[0]
    v[3] = rotate(v[3], 16) ^ v[2]
    v[0] = rotate(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = rotate(v[1], 17) ^ v[2]
    v[3] = rotate(v[3], 21) ^ v[0]
    v[2] = rotate(v[2], 32)


cdef uint64_t sip_hash(const uint64_t* key, const uint8_t* data, size_t size) noexcept nogil:
    """SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012)."""
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef size_t index, left = size & 7
    cdef const uint8_t* end = data + (size - left)
    v[0] = key[0] ^ 0x736F6D6570736575ULL
    v[1] = key[1] ^ 0x646F72616E646F6DULL
    v[2] = key[0] ^ 0x6C7967656E657261ULL
    v[3] = key[1] ^ 0x7465646279746573ULL
    while data != end:
        memcpy(&word, data, 8)
        v[3] ^= word
        sip_round(v)
        v[0] ^= word
        data += 8
    word = <uint64_t>size << 56
    for index in range(left):
        word |= <uint64_t>end[index] << (8 * index)
    v[3] ^= word
    sip_round(v)
    v[0] ^= word
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def siphash13(bytes key not None, bytes data not None):
    cdef uint64_t words[2]
    if PyBytes_GET_SIZE(key) != 16:
        raise ValueError("key must be 16 bytes")
    memcpy(words, PyBytes_AS_STRING(key), 16)
    return sip_hash(words, <const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))


cdef class KeyTable:

    def __dealloc__(self):
        cdef uint32_t index
        for index in range(<uint32_t>SHARDS):
            free(self.shards[index].slots)
        for index in range(self.block_count):
            free(self.blocks[index].memory)
        free(self.blocks)
        free(self.chunks)

    def __reduce__(self):
        raise TypeError(f"a {type(self).__name__} cannot be pickled or copied")

    def __len__(self):
        return self.count

    def __sizeof__(self):
        return self.bytes_held()

    cdef int setup(self, uint32_t row_bytes, bytes hash_key) except -1:
        if hash_key is None:
            hash_key = token_bytes(16)
        if PyBytes_GET_SIZE(hash_key) != 16:
            raise ValueError("hash_key must be 16 bytes")
        memcpy(self.hash_key, PyBytes_AS_STRING(hash_key), 16)
        self.row_bytes = row_bytes
        return 0

    cdef int digest(self, object key, uint64_t* digest) except -1:
        cdef const char* data
        cdef Py_ssize_t size = 0
        if isinstance(key, str):
            data = PyUnicode_AsUTF8AndSize(key, &size)
        elif isinstance(key, bytes):
            data = PyBytes_AS_STRING(key)
            size = PyBytes_GET_SIZE(key)
        else:
            raise TypeError(f"a key is str or bytes, not {type(key).__name__}")
        digest[0] = sip_hash(self.hash_key, <const uint8_t*>data, <size_t>size)
        return 0

    cdef uint32_t find(self, uint64_t digest, object key) noexcept:
        cdef Shard* shard = &self.shards[digest >> (64 - SHARD_BITS)]
        cdef uint32_t tag = tag_of(digest)
        cdef uint32_t at = <uint32_t>digest & shard.mask
        cdef uint32_t slot, number
        if shard.slots == NULL:
            return NO_ROW
        while True:
            slot = shard.slots[at]
            if slot == 0:
                return NO_ROW
            if (slot & TAG_MASK) == tag:
                number = (slot & ROW_MASK) - 1
                if self.row(number).digest == digest and self.same(number, key):
                    return number
            at = (at + 1) & shard.mask

    cdef uint32_t insert_row(self, uint64_t digest) except? 0xFFFFFFFF:
        cdef Shard* shard = &self.shards[digest >> (64 - SHARD_BITS)]
        cdef uint32_t number = self.count
        cdef Row* row
        if number >= ROW_MASK:
            raise MemoryError("too many keys in one table")
        if number >> CHUNK_BITS == self.chunk_count:
            self.reserve_block()
        # At most three quarters full; right after doubling, three eighths: 10.7 bytes of index a key.
        if shard.slots == NULL:
            if not self.resize(shard, FIRST_SLOTS):
                raise MemoryError
        elif (<uint64_t>shard.used + 1) * 4 > (<uint64_t>shard.mask + 1) * 3:
            if not self.resize(shard, (shard.mask + 1) * 2):
                raise MemoryError
        row = self.row(number)
        memset(row, 0, self.row_bytes)
        row.digest = digest
        place(shard, digest, tag_of(digest) | (number + 1))
        shard.used += 1
        self.count += 1
        return number

    cdef void remove_row(self, uint32_t number) noexcept:
        cdef uint32_t last = self.count - 1
        cdef Row* row = self.row(number)
        cdef Shard* shard = &self.shards[row.digest >> (64 - SHARD_BITS)]
        cdef Shard* last_shard
        cdef uint32_t at
        self.clear_slot(shard, self.slot_of(shard, number))
        shard.used -= 1
        if number != last:
            last_shard = &self.shards[self.row(last).digest >> (64 - SHARD_BITS)]
            at = self.slot_of(last_shard, last)
            last_shard.slots[at] = (last_shard.slots[at] & TAG_MASK) | (number + 1)
            memcpy(row, self.row(last), self.row_bytes)
        self.count = last
        self.moved(last, number)
        if shard.mask >= FIRST_SLOTS and shard.used < (shard.mask + 1) >> 3:
            # Without memory for the smaller one the larger one stays.
            self.resize(shard, (shard.mask + 1) >> 1)
        self.release_chunks()

    cdef void clear_rows(self) noexcept:
        cdef uint32_t index
        for index in range(<uint32_t>SHARDS):
            free(self.shards[index].slots)
        memset(self.shards, 0, sizeof(self.shards))
        self.slots_total = 0
        self.count = 0
        self.release_chunks()

    cdef uint64_t bytes_held(self) noexcept:
        return (sizeof(KeyTable) + self.slots_total * sizeof(uint32_t) + self.chunk_capacity * sizeof(char*)
                + self.block_capacity * sizeof(Block) + self.block_bytes)

    cdef bint same(self, uint32_t number, object key) noexcept:
        return True

    cdef void moved(self, uint32_t last, uint32_t number) noexcept:
        pass

    cdef bint resize(self, Shard* shard, uint32_t capacity) noexcept nogil:
        """Give a shard that many slots, a power of two with room for all; False when there is no memory."""
        cdef uint32_t* old = shard.slots
        cdef uint32_t old_capacity = shard.mask + 1 if old != NULL else 0
        cdef uint32_t index
        cdef uint32_t* slots = <uint32_t*>calloc(capacity, sizeof(uint32_t))
        if slots == NULL:
            return False
        shard.slots = slots
        shard.mask = capacity - 1
        for index in range(old_capacity):
            if old[index]:
                place(shard, self.row((old[index] & ROW_MASK) - 1).digest, old[index])
        free(old)
        self.slots_total += capacity
        self.slots_total -= old_capacity
        return True

    cdef uint32_t slot_of(self, Shard* shard, uint32_t number) noexcept nogil:
        """Return where a row that exists stands in its shard."""
        cdef uint32_t at = <uint32_t>self.row(number).digest & shard.mask
        while (shard.slots[at] & ROW_MASK) != number + 1:
            at = (at + 1) & shard.mask
        return at

    cdef void clear_slot(self, Shard* shard, uint32_t hole) noexcept nogil:
        """Empty a slot and close the gap (Knuth, TAOCP 6.4, algorithm R), so that there are no tombstones."""
        cdef uint32_t at = hole, slot, home
        while True:
            at = (at + 1) & shard.mask
            slot = shard.slots[at]
            if slot == 0:
                break
            home = <uint32_t>self.row((slot & ROW_MASK) - 1).digest & shard.mask
            if ((at - home) & shard.mask) >= ((at - hole) & shard.mask):
                shard.slots[hole] = slot
                hole = at
        shard.slots[hole] = 0

    cdef int reserve_block(self) except -1:
        """Memory for the next rows: a chunk, or a huge page of them once the last one's slack weighs little."""
        cdef uint32_t chunk_bytes = CHUNK_ROWS * self.row_bytes
        cdef char* memory
        if self.block_bytes + HUGE_BYTES <= <uint64_t>self.count * ROW_BYTES_IN_HUGE_PAGES:
            memory = <char*>aligned_alloc(HUGE_BYTES, HUGE_BYTES)
            if memory != NULL:
                madvise(memory, HUGE_BYTES, MADV_HUGEPAGE)  # a wish: without it the pages are small
                return self.list_block(memory, HUGE_BYTES // chunk_bytes, HUGE_BYTES)
        memory = <char*>malloc(chunk_bytes)
        if memory == NULL:
            raise MemoryError
        return self.list_block(memory, 1, chunk_bytes)

    cdef int list_block(self, char* memory, uint32_t chunks, uint32_t size) except -1:
        """Make a block's chunks known; it is freed where that fails."""
        cdef uint32_t capacity, index
        cdef void* grown
        if self.chunk_count + chunks > self.chunk_capacity:
            capacity = max(<uint32_t>4, max(self.chunk_capacity * 2, self.chunk_count + chunks))
            grown = realloc(self.chunks, capacity * sizeof(char*))
            if grown == NULL:
                free(memory)
                raise MemoryError
            self.chunks = <char**>grown
            self.chunk_capacity = capacity
        if self.block_count == self.block_capacity:
            capacity = max(<uint32_t>4, self.block_capacity * 2)
            grown = realloc(self.blocks, capacity * sizeof(Block))
            if grown == NULL:
                free(memory)
                raise MemoryError
            self.blocks = <Block*>grown
            self.block_capacity = capacity
        self.blocks[self.block_count] = Block(memory, self.chunk_count, size)
        self.block_count += 1
        self.block_bytes += size
        for index in range(chunks):
            self.chunks[self.chunk_count + index] = memory + <size_t>index * CHUNK_ROWS * self.row_bytes
        self.chunk_count += chunks
        return 0

    cdef void release_chunks(self) noexcept:
        """Free blocks that are not in use, but for one, so that a key that comes and goes costs no malloc."""
        cdef uint32_t needed = (self.count + CHUNK_ROWS - 1) >> CHUNK_BITS
        cdef Block* last
        while self.block_count:
            last = &self.blocks[self.block_count - 1]
            if last.first_chunk <= needed:
                return
            free(last.memory)
            self.block_count -= 1
            self.block_bytes -= last.bytes
            self.chunk_count = last.first_chunk


cdef inline uint32_t tag_of(uint64_t digest) noexcept nogil:
    """Bits of the digest that neither the shard nor, below a billion keys, the place in it depends on."""
    return <uint32_t>((digest >> 50) & 0xFF) << TAG_SHIFT


cdef inline void place(Shard* shard, uint64_t digest, uint32_t slot) noexcept nogil:
    """Put `slot` into the first free place for its digest; there must be one."""
    cdef uint32_t at = <uint32_t>digest & shard.mask
    while shard.slots[at]:
        at = (at + 1) & shard.mask
    shard.slots[at] = slot
