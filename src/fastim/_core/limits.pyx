# cython: auto_pickle=False, autotestdict=False
"""Token buckets and sliding windows, one for all or one for each key; see limits.pyi."""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport UINT64_MAX, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from math import gcd
from operator import index

from fastim._core.keytable cimport NO_ROW, KeyTable, prefetch

cdef enum:
    SWEEP = 2        # rows looked at in each attempt: idle ones go twice as fast as new ones come
    SAMPLE = 8       # rows of which the idlest gives way in a full table
    FIRST_RUNS = 16
    MAX_KEYS = 0xFFFFFF
    MAX_KEYED_LIMIT = 0xFFFF


cdef int set_limit(BucketLimit* limit, uint64_t rate, uint64_t burst, uint64_t period_ns) except -1:
    cdef uint64_t divisor
    if period_ns == 0:
        raise ValueError("period_ns must be positive")
    if rate == 0:
        memset(limit, 0, sizeof(BucketLimit))
        return 0
    if burst == 0:
        raise ValueError("burst must be positive")
    divisor = gcd(rate, period_ns)
    limit.rate = rate // divisor
    limit.token = period_ns // divisor
    if burst > (UINT64_MAX >> 1) // limit.token or limit.rate > UINT64_MAX >> 1:
        raise ValueError("rate, burst or period_ns is too large")
    limit.burst = burst
    limit.capacity = burst * limit.token
    limit.fill_ns = (limit.capacity + limit.rate - 1) // limit.rate
    return 0


cdef inline int check_count(const BucketLimit* limit, uint64_t count) except -1:
    if limit.rate and count > limit.burst:
        raise ValueError("more tokens than the burst are never granted")
    return 0


@cython.final
cdef class TokenBucket:

    def __cinit__(self, rate, burst, period_ns=1_000_000_000):
        set_limit(&self.limit, index(rate), index(burst), index(period_ns))
        self.bucket.level = self.limit.capacity

    def __reduce__(self):
        raise TypeError("a TokenBucket cannot be pickled or copied")

    def take(self, uint64_t count, uint64_t now_ns):
        return self.c_take(count, now_ns)

    def available(self, uint64_t now_ns):
        if not self.limit.rate:
            return UINT64_MAX
        bucket_fill(&self.limit, &self.bucket, now_ns)
        return self.bucket.level // self.limit.token

    def refund(self, uint64_t count, uint64_t now_ns):
        check_count(&self.limit, count)
        if self.limit.rate:
            bucket_refund(&self.limit, &self.bucket, count, now_ns)

    cdef uint64_t c_take(self, uint64_t count, uint64_t now_ns) except? 0xFFFFFFFFFFFFFFFF:
        check_count(&self.limit, count)
        if not self.limit.rate:
            return 0
        return bucket_take(&self.limit, &self.bucket, count, now_ns)


cdef class LimitTable(KeyTable):

    def forget(self, key):
        cdef uint64_t digest = 0
        cdef uint32_t number
        self.digest(key, &digest)
        number = self.find(digest, key)
        if number == NO_ROW:
            return False
        self.remove_row(number)
        return True

    def sweep(self, uint64_t now_ns, uint32_t look_at):
        self.now_ns = max(self.now_ns, now_ns)
        return self.forget_idle(look_at)

    def clear(self):
        self.clear_rows()

    @property
    def forgotten_early(self):
        return self.forgotten_early_count

    cdef int setup(self, uint32_t row_bytes, bytes hash_key) except -1:
        if not 0 < self.max_keys <= MAX_KEYS:
            raise ValueError(f"max_keys must be 1 to {MAX_KEYS:,}")
        return KeyTable.setup(self, row_bytes, hash_key)

    cdef uint64_t idle_at(self, uint32_t number) noexcept:
        return 0

    cdef uint32_t forget_idle(self, uint32_t look_at) noexcept:
        """Look at that many rows, going round, remove those that are idle and return how many."""
        cdef uint32_t removed = 0
        while look_at and self.count:
            look_at -= 1
            if self.cursor >= self.count:
                self.cursor = 0
            if self.idle_at(self.cursor) <= self.now_ns:
                self.remove_row(self.cursor)
                removed += 1
            else:
                self.cursor += 1
        # The next call's rows: fetched by then, where a sweep through a large table misses the cache each time.
        if self.cursor + SWEEP < self.count:
            prefetch(self.row(self.cursor))
            prefetch(self.row(self.cursor + SWEEP - 1))
        return removed

    cdef uint32_t begin(self, object key, uint64_t now_ns, uint64_t* digest) except? 0xFFFFFFFE:
        """Do what each attempt begins with, and return the key's row or NO_ROW."""
        self.digest(key, digest)
        self.expect(digest[0])
        if now_ns > self.now_ns:
            self.now_ns = now_ns
        self.forget_idle(SWEEP)
        return self.find(digest[0], key)

    cdef uint32_t add(self, uint64_t digest) except? 0xFFFFFFFE:
        """Make a row; in a full table the idlest of a few gives way to it, idle or not."""
        cdef uint32_t number, idlest = 0, _
        cdef uint64_t at, idlest_at = UINT64_MAX
        if self.count >= self.max_keys and not self.forget_idle(SAMPLE):
            number = self.cursor
            for _ in range(min(<uint32_t>SAMPLE, self.count)):
                number = number + 1 if number + 1 < self.count else 0
                at = self.idle_at(number)
                if at < idlest_at:
                    idlest_at = at
                    idlest = number
            self.remove_row(idlest)
            self.forgotten_early_count += 1
        return self.insert_row(digest)


cdef struct BucketRow:  # 24 bytes
    uint64_t digest
    Bucket bucket


@cython.final
cdef class TokenBuckets(LimitTable):

    def __cinit__(
        self, rate, burst, period_ns=1_000_000_000, *,
        uint32_t max_keys=1 << 20, bytes hash_key=None,
    ):
        self.max_keys = max_keys
        self.setup(sizeof(BucketRow), hash_key)
        set_limit(&self.limit, index(rate), index(burst), index(period_ns))

    def take(self, key, uint64_t count, uint64_t now_ns):
        cdef uint64_t digest = 0
        cdef uint32_t number
        cdef BucketRow* row
        check_count(&self.limit, count)
        if not self.limit.rate:
            return 0
        number = self.begin(key, now_ns, &digest)
        if number == NO_ROW:
            number = self.add(digest)
            row = <BucketRow*>self.row(number)
            row.bucket.level = self.limit.capacity
            row.bucket.updated_ns = self.now_ns
        row = <BucketRow*>self.row(number)
        return bucket_take(&self.limit, &row.bucket, count, self.now_ns)

    def refund(self, key, uint64_t count, uint64_t now_ns):
        cdef uint64_t digest = 0
        cdef uint32_t number
        check_count(&self.limit, count)
        if not self.limit.rate:
            return
        number = self.begin(key, now_ns, &digest)
        if number != NO_ROW:  # a forgotten bucket was full
            bucket_refund(&self.limit, &(<BucketRow*>self.row(number)).bucket, count, self.now_ns)

    def available(self, key, uint64_t now_ns):
        cdef uint64_t digest = 0
        cdef uint32_t number
        cdef BucketRow* row
        if not self.limit.rate:
            return UINT64_MAX
        number = self.begin(key, now_ns, &digest)
        if number == NO_ROW:
            return self.limit.burst
        row = <BucketRow*>self.row(number)
        bucket_fill(&self.limit, &row.bucket, self.now_ns)
        return row.bucket.level // self.limit.token

    cdef uint64_t idle_at(self, uint32_t number) noexcept:
        # Full again at the latest, and a full bucket is what a new key gets.
        cdef uint64_t updated_ns = (<BucketRow*>self.row(number)).bucket.updated_ns
        return updated_ns + min(self.limit.fill_ns, UINT64_MAX - updated_ns)


@cython.final
cdef class SlidingWindow:

    def __cinit__(self, uint64_t limit, uint64_t window_ns):
        if window_ns == 0:
            raise ValueError("window_ns must be positive")
        if limit > UINT64_MAX >> 8:
            raise ValueError("limit is too large")
        self.limit = limit
        self.window_ns = window_ns

    def __dealloc__(self):
        free(self.ring)

    def __reduce__(self):
        raise TypeError("a SlidingWindow cannot be pickled or copied")

    def __len__(self):
        return self.total

    def __sizeof__(self):
        return sizeof(SlidingWindow) + (self.ring_mask + 1) * sizeof(Run) * (self.ring != NULL)

    def take(self, uint64_t now_ns):
        cdef Run* newest
        if not self.limit:
            return 0
        self.leave(now_ns)
        if self.total >= self.limit:
            return self.ring[self.first & self.ring_mask].at_ns + self.window_ns - self.now_ns
        if self.last != self.first:
            newest = &self.ring[(self.last - 1) & self.ring_mask]
            if newest.at_ns == self.now_ns:
                self.empty_runs -= newest.count == 0
                newest.count += 1
                self.total += 1
                return 0
        if self.ring == NULL or self.last - self.first > self.ring_mask:
            self.make_room()
        newest = &self.ring[self.last & self.ring_mask]
        newest.at_ns = self.now_ns
        newest.count = 1
        self.last += 1
        self.total += 1
        return 0

    def refund(self, uint64_t taken_ns):
        cdef uint64_t low = self.first, high = self.last, middle
        cdef Run* run
        while low < high:
            middle = low + ((high - low) >> 1)
            if self.ring[middle & self.ring_mask].at_ns < taken_ns:
                low = middle + 1
            else:
                high = middle
        if low == self.last:
            return False
        run = &self.ring[low & self.ring_mask]
        if run.at_ns != taken_ns or not run.count:
            return False
        run.count -= 1
        self.empty_runs += run.count == 0
        self.total -= 1
        return True

    cdef void leave(self, uint64_t now_ns) noexcept nogil:
        """Move the clock and drop the runs that have left the window, and empty ones before the first."""
        cdef Run* oldest
        self.now_ns = max(self.now_ns, now_ns)
        while self.first != self.last:
            oldest = &self.ring[self.first & self.ring_mask]
            if oldest.count and self.now_ns - oldest.at_ns < self.window_ns:
                return
            self.empty_runs -= oldest.count == 0
            self.total -= oldest.count
            self.first += 1

    cdef void drop_empty(self) noexcept nogil:
        """Close the gaps that empty runs have left."""
        cdef uint64_t number, kept = self.first
        for number in range(self.first, self.last):
            if self.ring[number & self.ring_mask].count:
                self.ring[kept & self.ring_mask] = self.ring[number & self.ring_mask]
                kept += 1
        self.last = kept
        self.empty_runs = 0

    cdef int make_room(self) except -1:
        """Make room for a run in a full ring; O(1) an attempt, as half of it is free afterwards.

        Runs that are not empty are at most as many as the limit: the ring stays below four times the limit.
        """
        cdef uint64_t capacity = self.ring_mask + 1, number
        cdef Run* ring
        if self.ring != NULL and self.empty_runs >= capacity >> 1:
            self.drop_empty()
            return 0
        capacity = FIRST_RUNS if self.ring == NULL else capacity * 2
        ring = <Run*>malloc(<size_t>capacity * sizeof(Run))
        if ring == NULL:
            raise MemoryError
        for number in range(self.first, self.last):
            ring[number & (capacity - 1)] = self.ring[number & self.ring_mask]
        free(self.ring)
        self.ring = ring
        self.ring_mask = capacity - 1
        return 0


cdef struct WindowRow:  # 48 bytes
    uint64_t digest
    uint32_t newest_low   # number of the newest sub-window, in 48 bits
    uint16_t newest_high
    uint16_t counts[COUNTERS]  # by the sub-window's number modulo 17


cdef inline uint64_t newest_of(const WindowRow* row) noexcept nogil:
    return <uint64_t>row.newest_high << 32 | row.newest_low


cdef inline void turn_to(WindowRow* row, uint64_t sub) noexcept nogil:
    """Empty the counters between the newest sub-window and `sub`, which is the newest from here on."""
    cdef uint64_t number = newest_of(row)
    if sub <= number:
        return
    if sub - number >= COUNTERS:
        memset(row.counts, 0, sizeof(row.counts))
    else:
        while number != sub:
            number += 1
            row.counts[number % COUNTERS] = 0
    row.newest_low = <uint32_t>sub
    row.newest_high = <uint16_t>(sub >> 32)


cdef inline uint32_t count_of(const WindowRow* row) noexcept nogil:
    cdef uint32_t total = 0, place
    for place in range(<uint32_t>COUNTERS):
        total += row.counts[place]
    return total


@cython.final
cdef class SlidingWindows(LimitTable):

    def __cinit__(
        self, uint32_t limit, uint64_t window_ns, *, uint32_t max_keys=1 << 20, bytes hash_key=None
    ):
        if limit > MAX_KEYED_LIMIT:
            raise ValueError(f"limit must be at most {MAX_KEYED_LIMIT:,} a key")
        # Sub-windows of 1 ms at least: their numbers then fit into 48 bits until the clock ends.
        if not 16_000_000 <= window_ns <= UINT64_MAX >> 1:
            raise ValueError("window_ns must be 16 ms to 2**63 - 1 ns")
        self.max_keys = max_keys
        self.setup(sizeof(WindowRow), hash_key)
        self.limit = limit
        self.window_ns = window_ns
        self.sub_ns = (window_ns + SUB_WINDOWS - 1) // SUB_WINDOWS
        self.last_sub = UINT64_MAX // self.sub_ns

    def take(self, key, uint64_t now_ns):
        cdef uint64_t digest = 0, sub, oldest
        cdef uint32_t number
        cdef WindowRow* row
        if not self.limit:
            return 0
        number = self.begin(key, now_ns, &digest)
        sub = self.now_ns // self.sub_ns
        if number == NO_ROW:
            number = self.add(digest)
        row = <WindowRow*>self.row(number)
        turn_to(row, sub)
        if count_of(row) < self.limit:
            row.counts[sub % COUNTERS] += 1
            return 0
        oldest = sub - min(sub, <uint64_t>SUB_WINDOWS)
        while not row.counts[oldest % COUNTERS]:
            oldest += 1
        return (oldest + COUNTERS) * self.sub_ns - self.now_ns

    def count(self, key, uint64_t now_ns):
        cdef uint64_t digest = 0
        cdef uint32_t number = self.begin(key, now_ns, &digest)
        if number == NO_ROW:
            return 0
        turn_to(<WindowRow*>self.row(number), self.now_ns // self.sub_ns)
        return count_of(<WindowRow*>self.row(number))

    def refund(self, key, uint64_t taken_ns):
        cdef uint64_t digest = 0, newest, sub = taken_ns // self.sub_ns
        cdef uint32_t number
        cdef WindowRow* row
        self.digest(key, &digest)
        number = self.find(digest, key)
        if number == NO_ROW:
            return False
        row = <WindowRow*>self.row(number)
        newest = newest_of(row)
        if sub > newest or newest - sub >= COUNTERS or not row.counts[sub % COUNTERS]:
            return False
        row.counts[sub % COUNTERS] -= 1
        return True

    cdef uint64_t idle_at(self, uint32_t number) noexcept:
        # Everything in it has left the window then.
        cdef uint64_t sub = newest_of(<WindowRow*>self.row(number)) + COUNTERS
        return UINT64_MAX if sub > self.last_sub else sub * self.sub_ns
