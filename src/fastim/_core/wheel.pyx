# cython: auto_pickle=False, autotestdict=False
"""A hierarchical timing wheel for timers that are known by a small integer.

G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987), scheme 7. Each level has 64
slots, a slot of one level spans a whole turn of the level below, and a timer sits at the level that its
distance asks for. The paper steps through every tick; here a bit for each slot says where the next timers
are, so an idle gap of any length costs as much as one tick. Levels are chosen by distance and not by the
highest differing bit, because the latter moves all timers that straddle a boundary in one pause: at ticks of
10 ms three quarters of all 30 s heartbeats, every 41 s.
"""

cimport cython
from libc.stdint cimport UINT64_MAX, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

cdef extern from *:
    int clz64 "__builtin_clzll"(unsigned long long) noexcept nogil
    int ctz64 "__builtin_ctzll"(unsigned long long) noexcept nogil
    int ctz32 "__builtin_ctz"(unsigned int) noexcept nogil

cdef enum:
    BITS = 6  # of a slot's number
    SLOT_MASK = WHEEL_SLOTS - 1
    READY = WHEEL_LEVELS * WHEEL_SLOTS  # due, to be popped
    LATE = READY + 1  # scheduled into the past: due at the next advance, so that a pop loop ends
    OFF = 0xFFFF  # the list_id of a key without a timer
    FIRST_CAPACITY = 64


@cython.final
cdef class TimingWheel:

    def __cinit__(self, uint64_t tick_ns=10_000_000):
        cdef uint32_t index
        self.timers = NULL
        self.capacity = self.count = 0
        self.now_ns = self.tick = 0
        self.levels_in_use = 0
        if tick_ns == 0:
            raise ValueError("tick_ns must be positive")
        self.tick_ns = tick_ns
        for index in range(<uint32_t>WHEEL_LISTS):
            self.heads[index] = WHEEL_NONE

    def __dealloc__(self):
        free(self.timers)

    def __reduce__(self):
        raise TypeError("a TimingWheel cannot be pickled or copied")

    def __len__(self):
        return self.count

    def __sizeof__(self):
        return sizeof(TimingWheel) + self.capacity * sizeof(Timer)

    def schedule(self, uint32_t key, uint64_t at_ns):
        self.c_schedule(key, at_ns)

    def cancel(self, uint32_t key):
        cdef uint32_t before = self.count
        self.c_cancel(key)
        return self.count != before

    def advance(self, uint64_t now_ns):
        cdef uint32_t key
        cdef list due = []
        self.c_advance(now_ns)
        while True:
            key = self.c_pop()
            if key == WHEEL_NONE:
                return due
            due.append(key)

    def move(self, uint64_t now_ns):
        self.c_advance(now_ns)

    def pop(self):
        cdef uint32_t key = self.c_pop()
        return None if key == WHEEL_NONE else key

    def next_due_ns(self):
        return self.c_next_due()

    cdef int c_schedule(self, uint32_t key, uint64_t at_ns) except -1:
        cdef uint64_t due_tick
        cdef uint32_t list_id = LATE
        if key >= self.capacity:
            self.grow(key)
        # Rounded up: a timer fires when the whole of its tick has passed, never early.
        due_tick = at_ns // self.tick_ns + (at_ns % self.tick_ns != 0)
        if at_ns > self.now_ns:
            list_id = self.list_for(due_tick)
        self.timers[key].due_tick = due_tick
        if self.timers[key].list_id == list_id:
            return 0
        if self.timers[key].list_id != OFF:
            self.unlink(key)
        else:
            self.count += 1
        self.link(key, list_id)
        return 0

    cdef void c_cancel(self, uint32_t key) noexcept nogil:
        if key >= self.capacity or self.timers[key].list_id == OFF:
            return
        self.unlink(key)
        self.timers[key].list_id = OFF
        self.count -= 1

    cdef void c_advance(self, uint64_t now_ns) noexcept nogil:
        cdef uint64_t target, start
        self.empty_slot(LATE)
        if now_ns <= self.now_ns:
            return
        self.now_ns = now_ns
        target = now_ns // self.tick_ns
        while self.levels_in_use:
            start = self.next_slot()
            if start > target:
                break
            self.turn_to(start)
        self.tick = target

    cdef uint32_t c_pop(self) noexcept nogil:
        cdef uint32_t key = self.heads[READY]
        if key != WHEEL_NONE:
            self.c_cancel(key)
        return key

    cdef bint c_has_due(self) noexcept nogil:
        return self.heads[READY] != WHEEL_NONE

    cdef uint64_t c_next_due(self) noexcept nogil:
        if self.heads[READY] != WHEEL_NONE or self.heads[LATE] != WHEEL_NONE:
            return self.now_ns if self.now_ns else 1
        if not self.levels_in_use:
            return 0
        # A deadline in the last tick that 64 bits of nanoseconds hold is rounded up past them.
        return min(self.next_slot(), UINT64_MAX // self.tick_ns) * self.tick_ns

    cdef int grow(self, uint32_t key) except -1:
        """Make room for `key`, with an eighth to spare: large blocks are remapped by realloc, not copied."""
        cdef uint64_t capacity = <uint64_t>key + 1
        cdef uint64_t index
        cdef Timer* timers
        if key == WHEEL_NONE:
            raise ValueError("key must be below 2**32 - 1")
        capacity = max(<uint64_t>FIRST_CAPACITY, min(capacity + (capacity >> 3), <uint64_t>WHEEL_NONE))
        timers = <Timer*>realloc(self.timers, capacity * sizeof(Timer))
        if timers == NULL:
            raise MemoryError
        for index in range(self.capacity, capacity):
            timers[index].list_id = OFF
        self.timers = timers
        self.capacity = <uint32_t>capacity
        return 0

    cdef void link(self, uint32_t key, uint32_t list_id) noexcept nogil:
        """Append `key` to a list and mark the list's slot as occupied."""
        cdef Timer* timers = self.timers
        cdef uint32_t head = self.heads[list_id]
        cdef uint32_t level
        timers[key].list_id = <uint16_t>list_id
        if head != WHEEL_NONE:
            timers[key].next = head
            timers[key].prev = timers[head].prev
            timers[timers[head].prev].next = key
            timers[head].prev = key
            return
        timers[key].next = timers[key].prev = key
        self.heads[list_id] = key
        if list_id < READY:
            level = list_id >> BITS
            self.slots_in_use[level] |= <uint64_t>1 << (list_id & SLOT_MASK)
            self.levels_in_use |= <uint32_t>1 << level

    cdef void unlink(self, uint32_t key) noexcept nogil:
        """Take `key` out of its list; its list_id is for the caller to change."""
        cdef Timer* timer = &self.timers[key]
        if timer.next == key:
            self.take_list(timer.list_id)
            return
        self.timers[timer.prev].next = timer.next
        self.timers[timer.next].prev = timer.prev
        if self.heads[timer.list_id] == key:
            self.heads[timer.list_id] = timer.next

    cdef uint32_t take_list(self, uint32_t list_id) noexcept nogil:
        """Mark a list as empty and return its first key; the timers keep their links."""
        cdef uint32_t head = self.heads[list_id]
        cdef uint32_t level = list_id >> BITS
        self.heads[list_id] = WHEEL_NONE
        if list_id < READY:
            self.slots_in_use[level] &= ~(<uint64_t>1 << (list_id & SLOT_MASK))
            if not self.slots_in_use[level]:
                self.levels_in_use &= ~(<uint32_t>1 << level)
        return head

    cdef uint32_t list_for(self, uint64_t due_tick) noexcept nogil:
        """Return the list of a tick as seen from the current one: ready when that has come."""
        cdef uint32_t level
        if due_tick <= self.tick:
            return READY
        level = <uint32_t>(63 - clz64(due_tick - self.tick)) // BITS
        return level * WHEEL_SLOTS + <uint32_t>((due_tick >> (level * BITS)) & SLOT_MASK)

    cdef uint64_t next_slot(self) noexcept nogil:
        """Return the tick at which the next occupied slot begins; there must be one.

        A slot lies 1 to 64 slots ahead of the current one of its level, 64 being the current one's next turn.
        """
        cdef uint32_t levels = self.levels_in_use
        cdef uint32_t level, shift, ahead
        cdef uint64_t position, start, slots, best = 0
        cdef bint found = False
        while levels:
            level = <uint32_t>ctz32(levels)
            levels &= levels - 1
            shift = level * BITS
            position = self.tick >> shift
            # Rotate so that bit 0 is the slot after the current one.
            ahead = <uint32_t>(position + 1) & SLOT_MASK
            slots = self.slots_in_use[level]
            if ahead:
                slots = (slots >> ahead) | (slots << (WHEEL_SLOTS - ahead))
            ahead = <uint32_t>ctz64(slots) + 1
            start = (position + ahead) << shift
            if not found or start < best:
                found = True
                best = start
        return best

    cdef void turn_to(self, uint64_t tick) noexcept nogil:
        """Make `tick` the current one, before which no occupied slot begins; empty those that begin there.

        All of them now, because a slot at the current position counts as the next turn's from here on. The
        upper levels first, because what they hold may be due as well.
        """
        cdef uint32_t level = WHEEL_LEVELS, shift
        cdef uint64_t slot
        self.tick = tick
        while level:
            level -= 1
            shift = level * BITS
            slot = (tick >> shift) & SLOT_MASK
            if (tick >> shift) << shift == tick and (self.slots_in_use[level] >> slot) & 1:
                self.empty_slot(level * WHEEL_SLOTS + <uint32_t>slot)

    cdef void empty_slot(self, uint32_t list_id) noexcept nogil:
        """Move the timers of a list to where they belong now: a lower level, or the ready list."""
        cdef uint32_t first = self.take_list(list_id)
        cdef uint32_t key = first, following
        if first == WHEEL_NONE:
            return
        while True:
            following = self.timers[key].next
            self.link(key, READY if list_id == LATE else self.list_for(self.timers[key].due_tick))
            if following == first:
                return
            key = following
