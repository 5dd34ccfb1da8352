"""Clients that insist: each message is sent, over as many connections as it takes, until acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any

from websockets.exceptions import ConnectionClosed

from tests.e2e.serving import Client, ServerProcess, open_client

PAGE = 500


class Sender:
    """Sends numbered messages into one conversation, some of them on the way at a time.

    Args:
        user: Who sends.
        conversation: Where to.
        binary: Speak msgpack instead of JSON.
        window: Messages that may be unanswered at a time.
        padding: Bytes to lengthen each message by.
        limit: Messages to send in all; 0: without end.
        on_ok: Called after each acknowledged message.

    Attributes:
        sent: The content of each message by its ``client_id``, in the order of the first sending.
        acknowledged: The ``seq`` that an ``ok`` named, by ``client_id``.
        duplicates: ``client_id``s that an ``ok`` called duplicates.
        refused: How many messages were answered with each error code.
        shutdown: The body of the last ``server_shutdown``.
        close_code: How the last connection ended.
    """

    def __init__(
        self,
        user: str,
        conversation: str,
        *,
        binary: bool = False,
        window: int = 16,
        padding: int = 0,
        limit: int = 0,
        on_ok: Callable[[], None] = lambda: None,
    ) -> None:
        self.user = user
        self.conversation = conversation
        self.binary = binary
        self.window = window
        self.padding = padding
        self.limit = limit
        self.on_ok = on_ok
        self.sent: dict[str, str] = {}
        self.acknowledged: dict[str, int] = {}
        self.duplicates: set[str] = set()
        self.refused: dict[str, int] = {}
        self.shutdown: dict[str, Any] | None = None
        self.close_code: int | None = None
        self.draining = False

    @property
    def unanswered(self) -> list[str]:
        """What is to be sent again on the next connection."""
        return [client_id for client_id in self.sent if client_id not in self.acknowledged]

    async def run(self, server: ServerProcess, *, new: bool = True) -> None:
        """Send on one connection until it ends, or, without new messages, until all are acknowledged."""
        self.draining = not new
        try:
            async with open_client(server, self.user, binary=self.binary) as client:
                try:
                    await self._insist(client)
                finally:
                    self.close_code = client.socket.close_code
        except (ConnectionClosed, OSError):
            if not new:
                raise

    async def _insist(self, client: Client) -> None:
        waiting = self.unanswered
        on_the_way: dict[int, str] = {}
        last_seq = 0
        while True:
            while len(on_the_way) < self.window and (client_id := self._next(waiting)) is not None:
                number = int(client_id.rpartition("-")[2])
                on_the_way[number] = client_id
                with contextlib.suppress(ConnectionClosed):  # first what came before the end
                    await client.send("message", self._body(client_id), number)
            if not on_the_way:
                return
            event, body, ref = (*await client.receive(), 0)[:3]
            if event == "ok" and ref in on_the_way:
                if not body["duplicate"]:
                    assert body["seq"] > last_seq, "answers are out of order"
                    last_seq = body["seq"]
                self._acknowledge(on_the_way.pop(ref), body)
            elif event == "error":
                self.refused[body["code"]] = self.refused.get(body["code"], 0) + 1
                waiting.append(on_the_way.pop(ref))
            elif event == "server_shutdown":
                self.shutdown = body

    def _next(self, waiting: list[str]) -> str | None:
        """Take what waits to be sent again, else make a new message, if there are to be any."""
        if waiting:
            return waiting.pop(0)
        if self.draining or len(self.sent) == self.limit > 0:
            return None
        client_id = f"{self.user}-{len(self.sent) + 1}"
        self.sent[client_id] = f"{client_id} says " + "x" * self.padding
        return client_id

    def _body(self, client_id: str) -> dict[str, Any]:
        return {"conversation": self.conversation, "content": self.sent[client_id], "client_id": client_id}

    def _acknowledge(self, client_id: str, body: dict[str, Any]) -> None:
        assert body["client_id"] == client_id
        assert client_id not in self.acknowledged
        self.acknowledged[client_id] = body["seq"]
        if body["duplicate"]:
            self.duplicates.add(client_id)
        self.on_ok()


class Reader:
    """Takes all messages of its user's conversations, and marks them as read one after the other.

    Attributes:
        seen: The ``seq`` of each message that was delivered, by ``client_id``.
        marks: The read mark that an ``ok`` confirmed, by conversation.
        entered: Set once messages reach it; those sent before are not delivered to it.
    """

    def __init__(
        self, user: str, *, binary: bool = False, on_message: Callable[[], None] = lambda: None
    ) -> None:
        self.user = user
        self.binary = binary
        self.on_message = on_message
        self.seen: dict[str, int] = {}
        self.marks: dict[str, int] = {}
        self.entered = asyncio.Event()

    async def run(self, server: ServerProcess) -> None:
        """Read until the connection ends."""
        latest: dict[str, int] = {}
        asked: dict[int, tuple[str, int]] = {}
        numbers = itertools.count(1)
        async with open_client(server, self.user, binary=self.binary) as client:
            self.entered.set()
            async for event, body, *ref in client.receive_until_closed():
                if event == "new_message":
                    conversation, seq = body["conversation"], body["seq"]
                    assert seq == latest.get(conversation, seq - 1) + 1, "a message is missing"
                    latest[conversation] = seq
                    self.seen[body["client_id"]] = seq
                    self.on_message()
                elif event == "ok":
                    conversation, seq = asked.pop(ref[0])
                    self.marks[conversation] = seq
                for conversation, seq in latest.items():
                    if all(conversation != other for other, _ in asked.values()) and seq > self.marks.get(
                        conversation, 0
                    ):
                        number = next(numbers)
                        asked[number] = (conversation, seq)
                        await self._mark(client, conversation, seq, number)

    @staticmethod
    async def _mark(client: Client, conversation: str, seq: int, ref: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            await client.send("read_receipt", {"conversation": conversation, "seq": seq}, ref)


async def read_history(client: Client, conversation: str, after: int = 0) -> list[dict[str, Any]]:
    """Return all messages of a conversation after a seq, page by page."""
    messages: list[dict[str, Any]] = []
    more = True
    while more:
        event, page = await client.request(
            "history", {"conversation": conversation, "after": after, "limit": PAGE}
        )
        assert event == "ok", page
        messages += page["messages"]
        after = messages[-1]["seq"] if messages else after
        more = page["more"]
    return messages


def check_history(messages: list[dict[str, Any]], senders: list[Sender], *, complete: bool) -> None:
    """Hold a conversation's history against what its senders know.

    Args:
        messages: The whole history.
        senders: All who sent.
        complete: Everything that was sent has to be there; else everything that was acknowledged.
    """
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    found = {message["client_id"]: message for message in messages}
    assert len(found) == len(messages), "a message is stored twice"
    for sender in senders:
        own = {each: message for each, message in found.items() if message["sender"] == sender.user}
        assert sender.acknowledged.items() <= {each: m["seq"] for each, m in own.items()}.items()
        assert {each: m["content"] for each, m in own.items()}.items() <= sender.sent.items()
        if complete:
            assert own.keys() == sender.sent.keys() == sender.acknowledged.keys()
