"""Pools: the memory of the core, in pieces of a few sizes.

A piece comes out of a block of its size. A block all of whose pieces were given back goes back to the system, but for
one a pool: a steady load allocates nothing, and what a peak took does not stay. What is larger than the largest size is
allocated and freed by itself.

Slices and inbound states are zeroed when they are given back, so that nothing of one connection is ever found by the
next. Bytes are not: whoever takes them reads no further than it wrote.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastim._core.inbound cimport Inbound
from fastim._core.outbox cimport Slice


cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)


cdef enum:
    BLOCK_BYTES = 65536
    BLOCK_PIECES = 16  # at least; less one of large sizes, for the block's beginning
    HEAD_BYTES = 64  # of a block
    EMPTY_KEPT = 1  # blocks a pool


cdef void _open_pool(Pool *pool, size_t piece_bytes, bint cleared) noexcept nogil:
    memset(pool, 0, sizeof(Pool))
    pool.piece_bytes = (piece_bytes + 15) & ~<size_t>15
    pool.block_bytes = BLOCK_BYTES
    while pool.block_bytes < BLOCK_PIECES * pool.piece_bytes:
        pool.block_bytes *= 2
    pool.pieces = <uint32_t>((pool.block_bytes - HEAD_BYTES) // pool.piece_bytes)
    pool.cleared = cleared


cdef void _link(Pool *pool, Block *block) noexcept nogil:
    block.before = NULL
    block.next = pool.open
    if pool.open != NULL:
        pool.open.before = block
    pool.open = block


cdef void _unlink(Pool *pool, Block *block) noexcept nogil:
    if block.before != NULL:
        block.before.next = block.next
    else:
        pool.open = block.next
    if block.next != NULL:
        block.next.before = block.before


cdef void *take_piece(Pools *pools, Pool *pool) except NULL nogil:
    """A piece of a pool; zeroed if the pool is one of cleared pieces."""
    cdef Block *block = pool.open
    cdef Piece *piece
    cdef void *memory
    if block == NULL:
        if posix_memalign(&memory, pool.block_bytes, pool.block_bytes):
            with gil:
                raise MemoryError()
        pools.allocations += 1
        pools.bytes += pool.block_bytes
        pool.blocks += 1
        pool.empty += 1
        block = <Block *>memory
        block.free = NULL
        block.fresh = pool.pieces
        block.used = 0
        _link(pool, block)
    if not block.used:
        pool.empty -= 1
    block.used += 1
    pool.used += 1
    if block.free != NULL:
        piece = block.free
        block.free = piece.next
        piece.next = NULL
    else:
        piece = <Piece *>(<uint8_t *>block + HEAD_BYTES + (pool.pieces - block.fresh) * pool.piece_bytes)
        block.fresh -= 1
        if pool.cleared:
            memset(piece, 0, pool.piece_bytes)
    if block.used == pool.pieces:
        _unlink(pool, block)
    return piece


cdef void give_piece(Pools *pools, Pool *pool, void *piece) noexcept nogil:
    """Give a piece back to the pool it came from."""
    cdef Block *block = <Block *>(<uintptr_t>piece & ~<uintptr_t>(pool.block_bytes - 1))
    if pool.cleared:
        memset(piece, 0, pool.piece_bytes)
    (<Piece *>piece).next = block.free
    block.free = <Piece *>piece
    if block.used == pool.pieces:
        _link(pool, block)
    block.used -= 1
    pool.used -= 1
    if block.used:
        return
    if pool.empty < EMPTY_KEPT:
        pool.empty += 1
        return
    _unlink(pool, block)
    pool.blocks -= 1
    pools.bytes -= pool.block_bytes
    free(block)


cdef inline int _size_of(size_t n) noexcept nogil:
    """Which of the sizes holds n bytes."""
    cdef int size = 0
    while n > <size_t>SMALLEST << size:
        size += 1
    return size


cdef uint8_t *take_bytes(Pools *pools, size_t n, size_t *capacity) except NULL nogil:
    """At least n bytes; `capacity` says how many, and has to be given back with them."""
    cdef uint8_t *taken
    cdef int size
    if n <= LARGEST:
        size = _size_of(n)
        capacity[0] = <size_t>SMALLEST << size
        return <uint8_t *>take_piece(pools, &pools.sizes[size])
    taken = <uint8_t *>malloc(n)
    if taken == NULL:
        with gil:
            raise MemoryError()
    pools.allocations += 1
    pools.bytes += n
    capacity[0] = n
    return taken


cdef void give_bytes(Pools *pools, void *bytes_, size_t capacity) noexcept nogil:
    """Give bytes back; NULL is none."""
    if bytes_ == NULL:
        return
    if capacity <= LARGEST:
        give_piece(pools, &pools.sizes[_size_of(capacity)], bytes_)
        return
    pools.bytes -= capacity
    free(bytes_)


cdef bint _all_clear(const Pool *pool) noexcept nogil:
    """Whether the free pieces of a pool of cleared ones hold nothing of those who had them."""
    cdef const Block *block = pool.open
    cdef const Piece *piece
    cdef const uint8_t *p
    cdef size_t i
    while block != NULL:
        piece = block.free
        while piece != NULL:
            p = <const uint8_t *>piece
            for i in range(sizeof(Piece), pool.piece_bytes):
                if p[i]:
                    return False
            piece = piece.next
        block = block.next
    return True


@cython.final
@cython.no_gc_clear
cdef class Memory:
    """The pools of a hub, or of a reader of frames. All pieces are to be given back before it goes.

    **Thread**: no locking; its owner's thread, which may have released the GIL.
    """

    def __cinit__(self):
        cdef int size
        _open_pool(&self.pools.slices, sizeof(Slice), True)
        _open_pool(&self.pools.inbounds, sizeof(Inbound), True)
        for size in range(SIZES):
            _open_pool(&self.pools.sizes[size], <size_t>SMALLEST << size, False)
        self.pools.bytes = 0
        self.pools.allocations = 0

    def __dealloc__(self):
        cdef int size
        self._free_open(&self.pools.slices)
        self._free_open(&self.pools.inbounds)
        for size in range(SIZES):
            self._free_open(&self.pools.sizes[size])

    cdef void _free_open(self, Pool *pool) noexcept:
        """Free what is left of a pool: with nothing in use, all its blocks are open ones."""
        cdef Block *block
        while pool.open != NULL:
            block = pool.open
            pool.open = block.next
            free(block)

    cdef bint clean(self) noexcept:
        return _all_clear(&self.pools.slices) and _all_clear(&self.pools.inbounds)

    cdef size_t bytes_used(self) noexcept:
        """Bytes in use of those that come by size."""
        cdef size_t used = 0
        cdef int size
        for size in range(SIZES):
            used += self.pools.sizes[size].used * self.pools.sizes[size].piece_bytes
        return used
