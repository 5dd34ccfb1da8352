"""The protocol's requests as methods; how they travel is the connection's business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from fastim.client.identifiers import uuid7

__all__ = ["Requests"]


class Requests(ABC):
    """What a client can ask a fastim server for; each may raise what ``request`` raises."""

    @abstractmethod
    async def request(
        self, event: str, body: Any = None, *, timeout_s: float | None = None, retry: bool = False
    ) -> Any:
        """Send a request and return the body of its answer."""

    @abstractmethod
    async def emit(self, event: str, body: Any = None) -> bool:
        """Send a packet that wants no answer; return False if there is no connection to send it on."""

    async def history(
        self, conversation: str, *, after: int | None = None, before: int | None = None, limit: int = 50
    ) -> dict[str, Any]:
        """Return ``{messages, more}``: ascending after ``after``, else descending before ``before``."""
        body = {"conversation": conversation, "after": after, "before": before, "limit": limit}
        return await self._read("history", body)

    async def conversations(self, *, after: str | None = None, limit: int = 50) -> dict[str, Any]:
        """Return ``{conversations, more}``, newest activity first; ``after``: the last of the page before."""
        return await self._read("conversations", {"after": after, "limit": limit})

    async def members(
        self, conversation: str, *, after: str | None = None, limit: int = 100
    ) -> dict[str, Any]:
        """Return ``{members, more}``; ``after``: the last user of the page before."""
        return await self._read("members", {"conversation": conversation, "after": after, "limit": limit})

    async def _read(self, event: str, body: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in body.items() if value is not None}
        answer: dict[str, Any] = await self.request(event, given, retry=True)
        return answer

    async def create_conversation(
        self,
        members: Sequence[str] = (),
        *,
        kind: str = "group",
        title: str | None = None,
        conversation: str | None = None,
    ) -> dict[str, Any]:
        """Create a conversation and return it; the ``kind`` is ``group`` or ``direct``.

        Args:
            members: The other users.
            kind: A ``direct`` one is the same for the same two users.
            title: A group's title.
            conversation: The id wanted, where the server lets us choose; one that we are in already is
                returned.
        """
        body = {"kind": kind, "members": list(members), "client_id": uuid7()}
        return await self._read("conversation_create", body | {"title": title, "conversation": conversation})

    async def update_conversation(
        self,
        conversation: str,
        *,
        title: str | None = None,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Change a conversation's title and members, or leave it (``remove`` oneself); return it."""
        body = {"conversation": conversation, "title": title, "add": list(add), "remove": list(remove)}
        return await self._read("conversation_update", body)

    async def mark_read(self, conversation: str, seq: int) -> None:
        """Move this user's read mark to ``seq``."""
        await self.request("read_receipt", {"conversation": conversation, "seq": seq}, retry=True)

    async def typing(self, conversation: str, typing: bool = True) -> None:
        """Say that this user types, or stopped; lost without a word if there is no connection."""
        await self.emit("typing", {"conversation": conversation, "typing": typing})

    async def presence(self, status: str, metadata: Any = None) -> None:
        """Set this device's presence: ``online``, ``away`` or ``busy``."""
        body = {"status": status} if metadata is None else {"status": status, "metadata": metadata}
        await self.request("presence", body, retry=True)

    async def subscribe_presence(
        self,
        users: Sequence[str] | None = None,
        *,
        conversation: str | None = None,
        unsubscribe: bool = False,
    ) -> list[dict[str, Any]]:
        """Watch the presence of users, or of a conversation's members; return how it is now."""
        body: dict[str, Any] = (
            {"conversation": conversation} if conversation else {"users": list(users or ())}
        )
        answer = await self.request("presence_subscribe", body | {"unsubscribe": unsubscribe}, retry=True)
        return list(answer.get("users", ()))

    async def ping(self) -> int:
        """Return the server's time in milliseconds since the epoch."""
        return int((await self.request("ping", retry=True))["time"])
