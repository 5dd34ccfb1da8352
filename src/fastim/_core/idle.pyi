"""Who has been idle the longest: keys in the order of their last activity, a list for each tier."""

from typing import NoReturn, Self, final

@final
class IdleLists:
    """Keys, small integers such as connection slots, each on the list of one of three tiers.

    An intrusive doubly linked list keeps each tier in the order of the last activity, so that the one to give
    way is found without a search, however many there are.

    **Thread**: not synchronized; belongs to whoever calls it.
    **Cost**: each call O(1); 12 bytes a key up to the largest key ever used, and an eighth to spare.
    """

    def __new__(cls) -> Self: ...
    def __len__(self) -> int:
        """Return how many keys are on the lists."""
    def __contains__(self, key: int, /) -> bool: ...
    def __sizeof__(self) -> int:
        """Return the bytes it holds, the table included."""
    def __reduce__(self) -> NoReturn: ...
    def add(self, key: int, tier: int) -> None:
        """Put `key` on the list of `tier`, off the one it was on, as the one that was busy last.

        Raises:
            ValueError: there is no such tier, or key is 2**32 - 1.
            OverflowError: key is negative or too large for 32 bits.
            MemoryError: the table cannot grow; the lists are unchanged.
        """
    def remove(self, key: int) -> bool:
        """Take `key` off its list and return whether it was on one."""
    def touch(self, key: int) -> bool:
        """Note that `key` is busy now; False if it is on no list."""
    def idlest(self, tier: int) -> int | None:
        """Return the key that has been idle the longest, None if the list is empty."""
    @property
    def counts(self) -> tuple[int, int, int]:
        """How many keys each tier has."""
