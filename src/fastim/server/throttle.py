"""A bound on a connection's packets: whoever is over it is read more slowly, nothing is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastim.guard.limits import packet_bucket
from fastim.server.connection import Connection, Phase

if TYPE_CHECKING:
    from fastim.server.runtime import Runtime

__all__ = ["PacketThrottle"]


class _Account:
    """A connection's bucket, and the packets that were served on credit while it is not read."""

    __slots__ = ("bucket", "owed")

    def __init__(self, per_second: int) -> None:
        self.bucket = packet_bucket(per_second)
        self.owed = 0


class PacketThrottle:
    """Stops reading from connections until what they sent is within ``limits.packets_per_second``.

    What has been read already is served; it is bounded by the tick's budget.

    Args:
        runtime: Its hub, loop and clock.
        per_second: The limit; bursts of twice that are fine.
    """

    def __init__(self, runtime: Runtime, per_second: int) -> None:
        self._runtime = runtime
        self._per_second = per_second

    def count(self, connection: Connection, packets: int) -> None:
        """Count packets that are about to be served."""
        account = connection.extra
        if not isinstance(account, _Account):
            if connection.phase != Phase.READY:
                return  # before its hello: bounded by the time that has
            account = connection.extra = _Account(self._per_second)
        if account.owed:
            account.owed += packets
            return
        wait_ns = self._take(account, packets)
        if wait_ns:
            account.owed = packets
            self._runtime.hub.pause(connection.handle)
            self._wait(connection, account, wait_ns)

    def _take(self, account: _Account, packets: int) -> int:
        assert account.bucket is not None
        return account.bucket.take(min(packets, 2 * self._per_second), self._runtime.clock_ns())

    def _wait(self, connection: Connection, account: _Account, wait_ns: int) -> None:
        self._runtime.loop.call_later(wait_ns / 1e9, self._go_on, connection, account)

    def _go_on(self, connection: Connection, account: _Account) -> None:
        if connection.phase == Phase.CLOSED:
            return
        wait_ns = self._take(account, account.owed)
        if wait_ns:
            self._wait(connection, account, wait_ns)
            return
        account.owed = max(0, account.owed - 2 * self._per_second)
        if account.owed:
            self._wait(connection, account, 1)
        else:
            self._runtime.hub.resume(connection.handle)
