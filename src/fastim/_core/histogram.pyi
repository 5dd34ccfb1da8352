"""A histogram of fixed buckets: how often a duration was how long."""

from collections.abc import Iterable
from typing import Final, NoReturn, final

DURATION_BOUNDS_NS: Final[tuple[int, ...]]

@final
class Histogram:
    """Counts values by bucket, as Prometheus wants them: a bucket's upper bound belongs to it.

    **Thread**: not synchronized; belongs to whoever calls it. **Cost**: O(log bounds) a value, no allocation.

    Args:
        description: What is measured, a sentence for the reader of the metrics.
        bounds: Upper bounds of the buckets, ascending, at most 31; above the last there is one more bucket.
            Default: 100 µs to 60 s in nanoseconds, three a decade.

    Raises:
        ValueError: There are no bounds, too many, or they do not ascend.
    """

    def __new__(cls, description: str, bounds: Iterable[int] = ...) -> Histogram: ...
    @property
    def description(self) -> str: ...
    @property
    def bounds(self) -> tuple[int, ...]: ...
    def observe(self, value: int) -> None:
        """Count a value, in the unit of the bounds."""
    def snapshot(self) -> tuple[list[int], int]:
        """Return the counts, one more than there are bounds and not cumulated, and the sum of all values."""
    def __reduce__(self) -> NoReturn: ...
