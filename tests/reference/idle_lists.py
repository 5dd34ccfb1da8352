"""The idle lists as one would write them in Python: an ordered dictionary for each tier."""

from collections import OrderedDict


class IdleLists:
    """Keys by tier, in the order of their last activity."""

    def __init__(self) -> None:
        self.tiers: tuple[OrderedDict[int, None], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self.tier_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.tier_of)

    def __contains__(self, key: int) -> bool:
        return key in self.tier_of

    def add(self, key: int, tier: int) -> None:
        """Put `key` on the list of `tier` alone, as the one that was busy last."""
        self.remove(key)
        self.tier_of[key] = tier
        self.tiers[tier][key] = None

    def remove(self, key: int) -> bool:
        """Take `key` off its list and return whether it was on one."""
        tier = self.tier_of.pop(key, None)
        if tier is None:
            return False
        del self.tiers[tier][key]
        return True

    def touch(self, key: int) -> bool:
        """Note that `key` is busy now; False if it is on no list."""
        tier = self.tier_of.get(key)
        if tier is None:
            return False
        self.tiers[tier].move_to_end(key)
        return True

    def idlest(self, tier: int) -> int | None:
        """Return the key that has been idle the longest, None if the list is empty."""
        return next(iter(self.tiers[tier]), None)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many keys each tier has."""
        first, second, third = map(len, self.tiers)
        return first, second, third
