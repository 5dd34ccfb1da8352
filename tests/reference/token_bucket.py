"""Token buckets as one would write them in Python."""

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """A bucket whose content is counted in units of which `rate` come in every nanosecond."""

    rate: int
    burst: int
    period_ns: int = 1_000_000_000
    level: int = -1
    updated_ns: int = 0

    def __post_init__(self) -> None:
        if self.level < 0:
            self.level = self.burst * self.period_ns

    def take(self, count: int, now_ns: int) -> int:
        """Take `count` tokens and return 0, or the nanoseconds to wait for them."""
        if not self.rate:
            return 0
        self.fill(now_ns)
        missing = count * self.period_ns - self.level
        if missing > 0:
            return -(-missing // self.rate)
        self.level = -missing
        return 0

    def refund(self, count: int, now_ns: int) -> None:
        """Put back `count` tokens."""
        if self.rate:
            self.fill(now_ns)
            self.level = min(self.level + count * self.period_ns, self.burst * self.period_ns)

    def available(self, now_ns: int) -> int:
        """Return the whole tokens in it."""
        if not self.rate:
            return 2**64 - 1
        self.fill(now_ns)
        return self.level // self.period_ns

    def fill(self, now_ns: int) -> None:
        if now_ns > self.updated_ns:
            gained = (now_ns - self.updated_ns) * self.rate
            self.level = min(self.level + gained, self.burst * self.period_ns)
            self.updated_ns = now_ns


class TokenBuckets:
    """A bucket for each key. The clock is one for all."""

    def __init__(self, rate: int, burst: int, period_ns: int = 1_000_000_000) -> None:
        self.rate = rate
        self.burst = burst
        self.period_ns = period_ns
        self.now_ns = 0
        self.buckets: dict[str, TokenBucket] = {}

    def take(self, key: str, count: int, now_ns: int) -> int:
        """Take from the key's bucket."""
        return self.bucket(key, now_ns).take(count, self.now_ns)

    def refund(self, key: str, count: int, now_ns: int) -> None:
        """Put back tokens of the key."""
        self.bucket(key, now_ns).refund(count, self.now_ns)

    def available(self, key: str, now_ns: int) -> int:
        """Return the whole tokens of the key."""
        return self.bucket(key, now_ns).available(self.now_ns)

    def bucket(self, key: str, now_ns: int) -> TokenBucket:
        self.now_ns = max(self.now_ns, now_ns)
        bucket = self.buckets.get(key)
        if bucket is None:
            bucket = self.buckets[key] = TokenBucket(self.rate, self.burst, self.period_ns)
        return bucket
