# cython: auto_pickle=False, autotestdict=False
"""Who has been idle the longest: keys in the order of their last activity, a list for each tier.

The lists are linked through a table of nodes found by key, not through the rows of the connections: the neighbours
that a move touches then lie in 12 bytes each, and 150,000 of them in 1.8 MB of cache.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc

cdef enum:
    FIRST_CAPACITY = 64


@cython.final
cdef class IdleLists:

    def __cinit__(self):
        cdef uint32_t tier
        self.nodes = NULL
        self.capacity = 0
        for tier in range(<uint32_t>TIERS):
            self.heads[tier] = self.tails[tier] = IDLE_NONE
            self.sizes[tier] = 0

    def __dealloc__(self):
        free(self.nodes)

    def __reduce__(self):
        raise TypeError("IdleLists cannot be pickled or copied")

    def __len__(self):
        return sum(self.sizes)

    def __contains__(self, uint32_t key):
        return self.c_contains(key)

    def __sizeof__(self):
        return sizeof(IdleLists) + self.capacity * sizeof(IdleNode)

    def add(self, uint32_t key, tier):
        if not 0 <= tier < TIERS:
            raise ValueError("no such tier")
        self.c_add(key, tier)

    def remove(self, uint32_t key):
        cdef bint was_on = self.c_contains(key)
        self.c_remove(key)
        return was_on

    def touch(self, uint32_t key):
        touch(self, key)
        return self.c_contains(key)

    def idlest(self, tier):
        if not 0 <= tier < TIERS:
            raise ValueError("no such tier")
        cdef uint32_t key = self.heads[<uint32_t>tier]
        return None if key == IDLE_NONE else key

    @property
    def counts(self):
        return self.sizes[0], self.sizes[1], self.sizes[2]

    cdef int c_add(self, uint32_t key, uint32_t tier) except -1:
        if key >= self.capacity:
            self.grow(key)
        self.c_remove(key)
        self.link(key, tier)
        return 0

    cdef void c_remove(self, uint32_t key) noexcept nogil:
        if self.c_contains(key):
            self.unlink(key)

    cdef bint c_contains(self, uint32_t key) noexcept nogil:
        return key < self.capacity and self.nodes[key].tier != OFF_LIST

    cdef void link(self, uint32_t key, uint32_t tier) noexcept nogil:
        """Append a key that is on no list."""
        cdef IdleNode *node = &self.nodes[key]
        node.tier = tier
        node.previous = self.tails[tier]
        node.following = IDLE_NONE
        if node.previous == IDLE_NONE:
            self.heads[tier] = key
        else:
            self.nodes[node.previous].following = key
        self.tails[tier] = key
        self.sizes[tier] += 1

    cdef void unlink(self, uint32_t key) noexcept nogil:
        """Take a key off the list it is on."""
        cdef IdleNode *node = &self.nodes[key]
        if node.previous == IDLE_NONE:
            self.heads[node.tier] = node.following
        else:
            self.nodes[node.previous].following = node.following
        if node.following == IDLE_NONE:
            self.tails[node.tier] = node.previous
        else:
            self.nodes[node.following].previous = node.previous
        self.sizes[node.tier] -= 1
        node.tier = OFF_LIST

    cdef int grow(self, uint32_t key) except -1:
        """Make room for `key`, with an eighth to spare: large blocks are remapped by realloc, not copied."""
        cdef uint64_t wanted = <uint64_t>key + 1
        cdef uint64_t index
        cdef IdleNode *grown
        if key == IDLE_NONE:
            raise ValueError("key must be below 2**32 - 1")
        wanted = max(<uint64_t>FIRST_CAPACITY, min(wanted + (wanted >> 3), <uint64_t>IDLE_NONE))
        grown = <IdleNode *>realloc(self.nodes, wanted * sizeof(IdleNode))
        if grown == NULL:
            raise MemoryError()
        for index in range(self.capacity, wanted):
            grown[index].tier = OFF_LIST
        self.nodes = grown
        self.capacity = <uint32_t>wanted
        return 0
