"""The C interface of the limits; see limits.pyi for what they do."""

from cython cimport final
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastim._core.keytable cimport KeyTable

cdef enum:
    SUB_WINDOWS = 16
    COUNTERS = 17  # the sub-window that has begun, 15 whole ones, and the one that has begun to leave


# A bucket's content is counted in units of which `rate` come in every nanosecond and `token` make a token, so
# that every rate is exact in integers and nothing drifts.
cdef struct BucketLimit:
    uint64_t rate      # 0: no limit
    uint64_t token
    uint64_t capacity
    uint64_t burst     # tokens; capacity = burst * token, below 2**63
    uint64_t fill_ns   # from empty to full, rounded up


cdef struct Bucket:
    uint64_t level
    uint64_t updated_ns


cdef inline void bucket_fill(const BucketLimit* limit, Bucket* bucket, uint64_t now_ns) noexcept nogil:
    """Bring the level up to now; an earlier time than the last counts as the last."""
    cdef uint64_t elapsed_ns
    if now_ns <= bucket.updated_ns:
        return
    elapsed_ns = now_ns - bucket.updated_ns
    bucket.updated_ns = now_ns
    # Below fill_ns the product is below the capacity: no overflow.
    if elapsed_ns >= limit.fill_ns:
        bucket.level = limit.capacity
    else:
        bucket.level = min(bucket.level + elapsed_ns * limit.rate, limit.capacity)


cdef inline uint64_t bucket_take(
    const BucketLimit* limit, Bucket* bucket, uint64_t count, uint64_t now_ns
) noexcept nogil:
    """Take `count` tokens (at most the burst), or nothing and return the nanoseconds until they are there."""
    cdef uint64_t needed = count * limit.token
    bucket_fill(limit, bucket, now_ns)
    if bucket.level >= needed:
        bucket.level -= needed
        return 0
    return (needed - bucket.level + limit.rate - 1) // limit.rate


cdef inline void bucket_refund(
    const BucketLimit* limit, Bucket* bucket, uint64_t count, uint64_t now_ns
) noexcept nogil:
    """Put `count` tokens (at most the burst) back, as far as there is room for them."""
    bucket_fill(limit, bucket, now_ns)
    bucket.level = min(bucket.level + count * limit.token, limit.capacity)


@final
cdef class TokenBucket:
    cdef BucketLimit limit
    cdef Bucket bucket

    cdef uint64_t c_take(self, uint64_t count, uint64_t now_ns) except? 0xFFFFFFFFFFFFFFFF


cdef class LimitTable(KeyTable):
    cdef uint64_t now_ns
    cdef uint64_t forgotten_early_count
    cdef uint32_t max_keys
    cdef uint32_t cursor

    # For derived classes to override: from when on the row is as good as none.
    cdef uint64_t idle_at(self, uint32_t number) noexcept
    cdef uint32_t forget_idle(self, uint32_t look_at) noexcept
    cdef uint32_t begin(self, object key, uint64_t now_ns, uint64_t* digest) except? 0xFFFFFFFE
    cdef uint32_t add(self, uint64_t digest) except? 0xFFFFFFFE


@final
cdef class TokenBuckets(LimitTable):
    cdef BucketLimit limit


# Equal times are one run, so that a burst within a tick is one entry.
cdef struct Run:
    uint64_t at_ns
    uint64_t count


@final
cdef class SlidingWindow:
    cdef Run* ring             # owned; a power of two of them
    cdef uint64_t ring_mask
    cdef uint64_t first        # the oldest run's number; runs first to last - 1 are in the ring
    cdef uint64_t last
    cdef uint64_t empty_runs   # runs whose attempts were all given back
    cdef uint64_t total
    cdef uint64_t limit
    cdef uint64_t window_ns
    cdef uint64_t now_ns

    cdef void leave(self, uint64_t now_ns) noexcept nogil
    cdef void drop_empty(self) noexcept nogil
    cdef int make_room(self) except -1


@final
cdef class SlidingWindows(LimitTable):
    cdef uint32_t limit
    cdef uint64_t window_ns
    cdef uint64_t sub_ns
    cdef uint64_t last_sub     # that a 64-bit clock reaches
