"""The compiled token buckets against their twin."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from fastim._core.limits import TokenBucket, TokenBuckets
from tests.reference.token_bucket import TokenBucket as ReferenceBucket
from tests.reference.token_bucket import TokenBuckets as ReferenceBuckets

RATES = st.sampled_from([0, 1, 3, 7, 200, 10_000, 999_999_999, 2_000_000_001])
PERIODS = st.sampled_from([1, 3, 1_000_000_000, 60_000_000_000])
BURSTS = st.integers(1, 50)
# Steps of the clock: standing still, going back, a little, a lot.
STEPS = st.one_of(
    st.just(0), st.integers(-(10**9), -1), st.integers(1, 10**6), st.integers(1, 10**11), st.just(2**62)
)
COUNTS = st.integers(0, 50)


def clamp(now_ns: int) -> int:
    return min(max(0, now_ns), 2**64 - 2)


@given(RATES, BURSTS, PERIODS, st.lists(st.tuples(STEPS, COUNTS), max_size=60))
def test_bucket_at_any_times_answers_as_its_twin(
    rate: int, burst: int, period_ns: int, attempts: list[tuple[int, int]]
) -> None:
    bucket, reference = TokenBucket(rate, burst, period_ns), ReferenceBucket(rate, burst, period_ns)
    now_ns = 5_000
    for step_ns, count in attempts:
        now_ns = clamp(now_ns + step_ns)
        assert bucket.take(min(count, burst), now_ns) == reference.take(min(count, burst), now_ns)
        if count % 3 == 0:
            bucket.refund(min(count, burst), now_ns)
            reference.refund(min(count, burst), now_ns)
        assert bucket.available(now_ns) == reference.available(now_ns)


@given(RATES.filter(bool), BURSTS, PERIODS, st.lists(st.tuples(st.integers(0, 10**10), COUNTS), max_size=60))
def test_bucket_over_any_span_grants_the_exact_rate_and_no_more(
    rate: int, burst: int, period_ns: int, attempts: list[tuple[int, int]]
) -> None:
    bucket = TokenBucket(rate, burst, period_ns)
    level = Fraction(burst)
    now_ns = 0
    for step_ns, asked in attempts:
        count = min(asked, burst)
        now_ns += step_ns
        level = min(level + Fraction(rate * step_ns, period_ns), Fraction(burst))
        wait_ns = bucket.take(count, now_ns)
        assert (wait_ns == 0) == (level >= count)
        if wait_ns:
            assert bucket.take(count, now_ns + wait_ns - 1) > 0
            assert bucket.take(count, now_ns + wait_ns) == 0
            now_ns += wait_ns
            level = min(level + Fraction(rate * wait_ns, period_ns), Fraction(burst))
        level -= count


@given(RATES, BURSTS, PERIODS, st.data())
@settings(deadline=None)
def test_buckets_by_key_answer_as_their_twin_though_idle_keys_are_forgotten(
    rate: int, burst: int, period_ns: int, data: st.DataObject
) -> None:
    buckets, reference = TokenBuckets(rate, burst, period_ns), ReferenceBuckets(rate, burst, period_ns)
    now_ns = 5_000
    keys = st.integers(0, data.draw(st.sampled_from([3, 400]))).map(str)
    for step_ns, key, count in data.draw(st.lists(st.tuples(STEPS, keys, COUNTS), max_size=80)):
        now_ns = clamp(now_ns + step_ns)
        taken = min(count, burst)
        assert buckets.take(key, taken, now_ns) == reference.take(key, taken, now_ns)
        if count % 3 == 0:
            buckets.refund(key, taken, now_ns)
            reference.refund(key, taken, now_ns)
        assert buckets.available(key.encode(), now_ns) == reference.available(key, now_ns)
    assert len(buckets) <= len(reference.buckets)
    assert buckets.forgotten_early == 0
