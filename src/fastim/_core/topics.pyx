"""Topics: dense arrays of slots.

Each membership stands twice, as a slot in the topic and as (topic, position) in the connection's row, so that
either end removes it in constant time: the last member moves into the gap.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastim._core.slab cimport KIND_CHANNEL, KIND_MSGPACK, NO_SLOT, Row, Slab, Subscription, row_at


@cython.final
@cython.no_gc_clear
cdef class Topics:
    """The topics of a hub. A topic's id is its place and generation; an old id finds nothing."""

    def __cinit__(self, Slab slab):
        self.slab = slab
        self.table = NULL
        self.capacity = 0
        self.used = 0
        self.free_head = NO_SLOT

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.capacity):
            free(self.table[i].members)
        free(self.table)

    cdef Topic *find(self, uint64_t topic) noexcept nogil:
        cdef uint32_t index = <uint32_t>topic
        if index >= self.capacity or self.table[index].generation != <uint32_t>(topic >> 32):
            return NULL
        if not self.table[index].generation & 1:
            return NULL  # an id that was never given out
        return &self.table[index]

    cdef uint64_t create(self) except 0:
        cdef uint32_t capacity, index
        cdef Topic *grown
        if self.free_head == NO_SLOT:
            capacity = self.capacity * 2 if self.capacity else 64
            grown = <Topic *>realloc(self.table, capacity * sizeof(Topic))
            if grown == NULL:
                raise MemoryError()
            self.table = grown
            memset(grown + self.capacity, 0, (capacity - self.capacity) * sizeof(Topic))
            for index in range(self.capacity, capacity):
                grown[index].next_free = index + 1
            grown[capacity - 1].next_free = NO_SLOT
            self.free_head = self.capacity
            self.capacity = capacity
        index = self.free_head
        self.free_head = self.table[index].next_free
        self.table[index].generation += 1
        self.used += 1
        return (<uint64_t>self.table[index].generation << 32) | index

    cdef void drop(self, uint64_t topic) noexcept:
        """End a topic; its members stay connected."""
        cdef Topic *t = self.find(topic)
        cdef Row *row
        cdef uint32_t i
        if t == NULL:
            return
        while t.count:
            row = row_at(self.slab, t.members[t.count - 1])
            for i in range(row.subscription_count):
                if row.subscriptions[i].topic == <uint32_t>topic:
                    self.remove(row, i)
                    break
        free(t.members)
        t.members = NULL
        t.capacity = 0
        t.generation += 1
        t.next_free = self.free_head
        self.free_head = <uint32_t>topic
        self.used -= 1

    cdef bint subscribe(self, uint64_t topic, Row *row) except -1:
        """Make a connection a member; False if it is one, or there is no such topic. Cost: O(its topics)."""
        cdef Topic *t = self.find(topic)
        cdef uint32_t i, capacity
        cdef uint32_t *members
        cdef Subscription *subscriptions
        if t == NULL:
            return False
        for i in range(row.subscription_count):
            if row.subscriptions[i].topic == <uint32_t>topic:
                return False
        if t.count == t.capacity:
            capacity = t.capacity * 2 if t.capacity else 2
            members = <uint32_t *>realloc(t.members, capacity * sizeof(uint32_t))
            if members == NULL:
                raise MemoryError()
            t.members = members
            t.capacity = capacity
        if row.subscription_count == row.subscription_capacity:
            capacity = row.subscription_capacity * 2 if row.subscription_capacity else 1
            subscriptions = <Subscription *>realloc(row.subscriptions, capacity * sizeof(Subscription))
            if subscriptions == NULL:
                raise MemoryError()
            row.subscriptions = subscriptions
            row.subscription_capacity = capacity
        row.subscriptions[row.subscription_count].topic = <uint32_t>topic
        row.subscriptions[row.subscription_count].position = t.count
        row.subscription_count += 1
        t.members[t.count] = row.slot
        t.count += 1
        self.count(t, row, 1)
        return True

    cdef bint unsubscribe(self, uint64_t topic, Row *row) noexcept:
        cdef uint32_t i
        if self.find(topic) == NULL:
            return False
        for i in range(row.subscription_count):
            if row.subscriptions[i].topic == <uint32_t>topic:
                self.remove(row, i)
                return True
        return False

    cdef void leave_all(self, Row *row) noexcept:
        while row.subscription_count:
            self.remove(row, row.subscription_count - 1)
        free(row.subscriptions)
        row.subscriptions = NULL
        row.subscription_capacity = 0

    cdef void count(self, Topic *t, const Row *row, int by) noexcept:
        """Count a member that comes or goes, by what it is sent."""
        if row.kind & KIND_MSGPACK:
            t.msgpack_count += <uint32_t>by
        if row.kind & KIND_CHANNEL:
            t.channel_count += <uint32_t>by
            if row.kind & KIND_MSGPACK:
                t.packed_count += <uint32_t>by

    cdef void remove(self, Row *row, uint32_t index) noexcept:
        """Undo a row's index-th subscription: the last member and the last subscription fill the gaps."""
        cdef Subscription gone = row.subscriptions[index]
        cdef Topic *t = &self.table[gone.topic]
        cdef Row *moved
        cdef uint32_t i
        row.subscription_count -= 1
        row.subscriptions[index] = row.subscriptions[row.subscription_count]
        t.count -= 1
        self.count(t, row, -1)
        if gone.position == t.count:
            return
        t.members[gone.position] = t.members[t.count]
        moved = row_at(self.slab, t.members[gone.position])
        for i in range(moved.subscription_count):
            if moved.subscriptions[i].topic == gone.topic:
                moved.subscriptions[i].position = gone.position
                return
