"""Packets that wait for their answer, over as many connections as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

__all__ = ["Call", "CallTable"]


class Call:
    """One packet with a ref.

    Attributes:
        ref: Echoed by the server and never interpreted: the same on every connection.
        packet: The encoded packet.
        retry: Carrying it out twice is harmless (reads, and what has a ``client_id``): it is written again on
            the next connection.
        client_id: A message's, else None.
        written: It was written to the present connection.
        refusals: Connections that ended with "I cannot read this" while it was on its way.
    """

    __slots__ = ("answer", "client_id", "event", "packet", "ref", "refusals", "retry", "written")

    def __init__(
        self, ref: int, event: str, packet: bytes, *, retry: bool, client_id: str | None = None
    ) -> None:
        self.ref = ref
        self.event = event
        self.packet = packet
        self.retry = retry
        self.client_id = client_id
        self.written = False
        self.refusals = 0
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            # Whoever waited may be gone (cancelled, timed out): then nobody is to be told.
            self.answer.exception()


class CallTable:
    """The unanswered calls, oldest first."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._client_ids: dict[str, Call] = {}
        self._last_ref = 0
        self._last_written: Call | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def next_ref(self) -> int:
        self._last_ref += 1
        return self._last_ref

    def add(self, call: Call) -> None:
        self._calls[call.ref] = call
        if call.client_id is not None:
            self._client_ids[call.client_id] = call

    def remove(self, call: Call) -> None:
        self._calls.pop(call.ref, None)
        if call.client_id is not None and self._client_ids.get(call.client_id) is call:
            del self._client_ids[call.client_id]

    def get(self, ref: int) -> Call | None:
        return self._calls.get(ref)

    def is_sending(self, client_id: object) -> bool:
        """Return whether the message with this ``client_id`` still waits for its ``ok``."""
        return client_id in self._client_ids

    def wrote(self, call: Call | None) -> None:
        """Note what was written last; None: a packet that wants no answer."""
        if call is not None:
            call.written = True
        self._last_written = call

    def in_flight(self) -> list[Call]:
        """Return what the present connection was given and has not answered."""
        return [call for call in self._calls.values() if call.written]

    def unwritten(self) -> Iterator[Call]:
        """Yield, oldest first, what the present connection has not got; calls added meanwhile included."""
        while batch := [call for call in self._calls.values() if not call.written]:
            for call in batch:
                if call.ref in self._calls:
                    yield call

    def interrupted(self, error: Exception, *, refused: bool) -> None:
        """The connection is gone: fail what must not be written again, keep the rest for the next one.

        Args:
            error: What failed calls raise.
            refused: The server could not read what it got. The packet written last is not written again, and
                neither is any other that was on its way at two such ends: one of them is the culprit.
        """
        for call in list(self._calls.values()):
            if not call.written:
                continue
            call.refusals += refused
            culprit = refused and (call is self._last_written or call.refusals > 1)
            if culprit or not call.retry:
                call.fail(error)
                self.remove(call)
            call.written = False
        self._last_written = None

    def fail_all(self, error: Exception) -> None:
        for call in list(self._calls.values()):
            call.fail(error)
            self.remove(call)
