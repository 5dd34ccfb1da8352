"""What a connection's timer stands for: the time for a hello, and the end of its token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastim.errors import CloseCode
from fastim.server.connection import Connection, Phase

if TYPE_CHECKING:
    from fastim.server.service import Service

__all__ = ["Timers"]

MAX_TIMER_NS: Final = 3_600_000_000_000
NS_PER_S: Final = 1_000_000_000


class Timers:
    """Does what is due for a connection.

    Args:
        service: Whose connections they are.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def check(self, connection: Connection, now_ns: int) -> None:
        """Do what is due for a connection, and set its timer to what is due next."""
        if connection.phase == Phase.OPENING:
            self._service.hub.close(connection.handle, CloseCode.NO_HELLO, "no hello in time", now_ns)
        elif connection.phase == Phase.ENTERING:
            self._service.hub.set_timer(connection.handle, now_ns + NS_PER_S)
        elif connection.phase != Phase.CLOSED:
            self._check_token(connection, now_ns)

    def _check_token(self, connection: Connection, now_ns: int) -> None:
        """Warn of a token's end, and end its connection."""
        left_s = connection.exp - self._service.time_s()
        if left_s <= 0:
            self._service.hub.close(connection.handle, CloseCode.TOKEN_EXPIRED, "token expired", now_ns)
            return
        if not connection.warned:
            left_s -= self._service.options.expiry_warning_s
            if left_s <= 0:
                connection.warned = True
                connection.send_event("token_expiring", {"exp": connection.exp})
                left_s = connection.exp - self._service.time_s()
        # A token may be good for centuries: bounded before it becomes nanoseconds in C.
        wait_ns = min(MAX_TIMER_NS, int(min(left_s, 3600.0) * NS_PER_S) + 1_000_000)
        self._service.hub.set_timer(connection.handle, now_ns + wait_ns)
