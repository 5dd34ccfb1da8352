"""Pools: the memory of the core, in pieces of a few sizes."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    SIZES = 9  # of bytes: 256, 512 … 65,536
    SMALLEST = 256
    LARGEST = 65536

cdef struct Piece:
    Piece *next

# The beginning of a stretch of memory that is aligned to its size, so that a piece finds its block.
cdef struct Block:
    Block *next  # among those that have a piece to give
    Block *before
    Piece *free
    uint32_t fresh  # pieces that were never given out, at the end
    uint32_t used

cdef struct Pool:
    size_t piece_bytes
    size_t block_bytes
    uint32_t pieces  # of a block
    uint8_t cleared  # pieces come zeroed, and are zeroed as soon as they are given back
    Block *open
    uint32_t empty  # blocks of which nothing is used
    size_t used
    size_t blocks

cdef struct Pools:
    Pool slices
    Pool inbounds
    Pool sizes[SIZES]
    size_t bytes  # held, what is free included
    size_t allocations  # from the system, since the start

cdef void *take_piece(Pools *pools, Pool *pool) except NULL nogil
cdef void give_piece(Pools *pools, Pool *pool, void *piece) noexcept nogil
cdef uint8_t *take_bytes(Pools *pools, size_t n, size_t *capacity) except NULL nogil
cdef void give_bytes(Pools *pools, void *bytes_, size_t capacity) noexcept nogil


cdef class Memory:
    cdef Pools pools

    cdef bint clean(self) noexcept
    cdef void _free_open(self, Pool *pool) noexcept
    cdef size_t bytes_used(self) noexcept
