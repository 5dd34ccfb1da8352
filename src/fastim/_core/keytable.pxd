"""The C interface of the table of rows by key; see keytable.pyx for how it works."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void* address) noexcept nogil

cdef enum:
    NO_ROW = 0xFFFFFFFF
    SHARD_BITS = 6
    SHARDS = 64  # 2 ** SHARD_BITS
    CHUNK_BITS = 7
    CHUNK_ROWS = 128  # 2 ** CHUNK_BITS


# SipHash-1-3 with a key of two words.
cdef uint64_t sip_hash(const uint64_t* key, const uint8_t* data, size_t size) noexcept nogil


# What every row begins with.
cdef struct Row:
    uint64_t digest


# An index with open addressing: 0, or a row's number + 1 with 8 bits of its digest above it.
cdef struct Shard:
    uint32_t* slots  # owned; mask + 1 of them, or NULL
    uint32_t mask
    uint32_t used


# Memory of one chunk, or of as many as a huge page takes. The last one given is the first to go.
cdef struct Block:
    char* memory  # owned
    uint32_t first_chunk
    uint32_t bytes


cdef class KeyTable:
    cdef Shard shards[SHARDS]
    cdef Block* blocks            # owned; block_count of them
    cdef uint32_t block_count
    cdef uint32_t block_capacity
    cdef uint64_t block_bytes     # of all blocks
    cdef char** chunks            # owned; each lies in a block
    cdef uint32_t chunk_count
    cdef uint32_t chunk_capacity
    cdef uint32_t count           # rows 0 to count - 1 are in use
    cdef uint32_t row_bytes
    cdef uint64_t slots_total
    cdef uint64_t hash_key[2]

    cdef inline Row* row(self, uint32_t number) noexcept nogil:
        return <Row*>(self.chunks[number >> CHUNK_BITS]
                      + <size_t>(number & (CHUNK_ROWS - 1)) * self.row_bytes)

    # Let the index's place of a digest be fetched while something else is done.
    cdef inline void expect(self, uint64_t digest) noexcept nogil:
        cdef Shard* shard = &self.shards[digest >> (64 - SHARD_BITS)]
        if shard.slots != NULL:
            prefetch(shard.slots + (<uint32_t>digest & shard.mask))

    # Set the rows' size and the hash's key; once, by the constructor of the derived class.
    cdef int setup(self, uint32_t row_bytes, bytes hash_key) except -1
    # The keyed digest of a str (its UTF-8) or bytes.
    cdef int digest(self, object key, uint64_t* digest) except -1
    # The row of a key, NO_ROW if it has none.
    cdef uint32_t find(self, uint64_t digest, object key) noexcept
    # A new row, zeroed but for its digest, for a key that has none. It is the last one.
    cdef uint32_t insert_row(self, uint64_t digest) except? 0xFFFFFFFF
    # Remove a row. The last row takes its number, `moved` is told so.
    cdef void remove_row(self, uint32_t number) noexcept
    cdef void clear_rows(self) noexcept
    cdef uint64_t bytes_held(self) noexcept

    # For derived classes to override: whether the row is that of this very key, given that the digests agree.
    cdef bint same(self, uint32_t number, object key) noexcept
    # Row `number` was removed, and row `last` is row `number` now (they may be equal).
    cdef void moved(self, uint32_t last, uint32_t number) noexcept

    cdef bint resize(self, Shard* shard, uint32_t capacity) noexcept nogil
    cdef uint32_t slot_of(self, Shard* shard, uint32_t number) noexcept nogil
    cdef void clear_slot(self, Shard* shard, uint32_t hole) noexcept nogil
    cdef int reserve_block(self) except -1
    cdef int list_block(self, char* memory, uint32_t chunks, uint32_t size) except -1
    cdef void release_chunks(self) noexcept
