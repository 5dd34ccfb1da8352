"""The descriptor limit: raised as far as the system allows, and what it leaves for connections."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

from fastim.errors import ConfigError

__all__ = ["Descriptors", "raise_descriptor_limit"]

# What is open besides connections: the store and its readers, logs, epoll, listeners, HTTP requests.
RESERVE_COUNT: Final = 128
ENTERING_PART: Final = 32
# "Unlimited" means the kernel's fs.nr_open; more connections than this need other settings first.
UNLIMITED_COUNT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What the limit was, is, and allows; counts.

    Attributes:
        before: The soft limit before it was raised.
        limit: The soft limit now.
        max_connections: That may have a place: what is asked for, and fits.
        entering: Beside them, those that have none yet or are about to go: what is asked for, and fits.
        asked: ``limits.max_connections``; 0: as many as fit.
    """

    before: int
    limit: int
    max_connections: int
    entering: int
    asked: int

    @property
    def max_sockets(self) -> int:
        """How many connections there may be in all."""
        return self.max_connections + self.entering

    def describe(self) -> str:
        """Return the line for the log."""
        raised = f"raised from {self.before}" if self.limit > self.before else "as it was"
        cut = (
            f", fewer than the {self.asked} of limits.max_connections"
            if self.max_connections < self.asked
            else ""
        )
        return f"descriptor limit {self.limit} ({raised}), at most {self.max_connections} connections{cut}"


def raise_descriptor_limit(
    max_connections: int = 0, entering: int = 0, reserve: int = RESERVE_COUNT
) -> Descriptors:
    """Raise the soft limit of open descriptors to the hard one and work out the cap for connections.

    Args:
        max_connections: The wanted cap; 0: as many as the limit allows.
        entering: Wanted beside it for those that come and go. They have what places leave, and these leave a
            thirty-second at least: of 20,000 descriptors 19,000 can be places.
        reserve: Descriptors kept for everything else; count.

    Raises:
        ConfigError: ``limits.max_connections``: the limit leaves no room for a connection.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, limit = finite(soft), finite(hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError):  # macOS refuses what is over its own bound; what there is will do
        limit = before
    room = limit - reserve
    if room < 1:
        raise ConfigError(
            "limits.max_connections",
            f"the descriptor limit {limit} (ulimit -Hn) is too low, {reserve} are reserved",
        )
    most = room - min(entering, room // ENTERING_PART)
    places = min(max_connections or most, most)
    return Descriptors(before, limit, places, min(entering, room - places), max_connections)


def finite(limit: int) -> int:
    return UNLIMITED_COUNT if limit == resource.RLIM_INFINITY else limit
