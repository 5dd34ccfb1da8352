"""Under ``/v1``: what operators and other services do with conversations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.exceptions import HTTPException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fastim._core.hub import Encoding
from fastim._core.values import Kind, check, check_name
from fastim.errors import ErrorCode, RequestError
from fastim.wire.bodies import (
    MAX_CLIENT_ID_BYTES,
    MAX_ID_BYTES,
    MAX_KIND_BYTES,
    MAX_TITLE_BYTES,
    default_kind,
)
from fastim.wire.native import decode_value, encode_value

if TYPE_CHECKING:
    from fastim.im.messaging import Messaging

__all__ = ["Name", "UserId", "make_conversations_router"]


def _named(max_bytes: int, *, optional: bool = False) -> AfterValidator:
    """Hold a text to what the protocol's names are, so that its clients can speak of what is made here."""

    def validate(text: str) -> str:
        if (text or not optional) and (problem := check_name(text, max_bytes)):
            raise ValueError(problem)
        return text

    return AfterValidator(validate)


ConversationId = Annotated[str, Path(min_length=1, max_length=128)]
UserId = Annotated[str, _named(MAX_ID_BYTES)]
Name = Annotated[str, _named(MAX_ID_BYTES)]
ClientId = Annotated[str, _named(MAX_CLIENT_ID_BYTES)]
OptionalUser = Annotated[str, _named(MAX_ID_BYTES, optional=True)]
Seq = Annotated[int, Field(ge=0, le=2**53)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ConversationCreate(_Body):
    """A new conversation."""

    kind: Literal["direct", "group"] = "group"
    members: list[UserId] = Field(default_factory=list, max_length=10_000)
    title: Annotated[str, _named(MAX_TITLE_BYTES, optional=True)] = ""
    creator: OptionalUser = Field("", description="Becomes owner and member; empty: the system.")
    client_id: ClientId | None = None
    conversation: Annotated[str, _named(MAX_ID_BYTES)] | None = None


class MembersAdd(_Body):
    """New members."""

    members: list[UserId] = Field(min_length=1, max_length=10_000)


class MessagePost(_Body):
    """A message."""

    content: Any
    sender: OptionalUser = Field("", description="A member; empty: the system.")
    kind: Annotated[str, _named(MAX_KIND_BYTES)] | None = Field(
        None, description="Without one: text for a string, binary for bytes, data for anything else."
    )
    client_id: ClientId | None = None
    reply_to: Annotated[int, Field(ge=1, le=2**53)] | None = None


def _encode_content(message: MessagePost, max_bytes: int) -> tuple[bytes, str]:
    """Check content and encode it as it is stored; the second is the message's kind.

    Raises:
        RequestError: It is none that a message may have.
    """
    try:
        given = json.dumps(message.content, allow_nan=False).encode()
    except ValueError:
        raise RequestError(ErrorCode.BAD_REQUEST, "content: a number is not finite") from None
    try:
        found = check(given, Encoding.JSON)
    except ValueError as error:
        raise RequestError(ErrorCode.BAD_REQUEST, f"content: {error}") from None
    if message.kind == "text" and found is not Kind.STRING:
        raise RequestError(ErrorCode.BAD_REQUEST, "content: a message of kind text has a string")
    content = encode_value(decode_value(given, Encoding.JSON), Encoding.JSON)
    if len(content) > max_bytes:
        raise RequestError(ErrorCode.TOO_LARGE, f"content: larger than {max_bytes} bytes")
    return content, message.kind or default_kind(found)


def make_conversations_router(messaging: Messaging, max_message_bytes: int) -> APIRouter:
    """Make the routes under ``/v1``; ``Gate`` has checked the key."""
    router = APIRouter(prefix="/v1", tags=["conversations"])

    @router.post("/conversations", status_code=201)
    async def create_conversation(body: ConversationCreate) -> dict[str, Any]:
        """Create a conversation, or return the one that a repeat means."""
        return await messaging.create_conversation(
            body.kind, body.creator, body.members, body.title, id=body.conversation, client_id=body.client_id
        )

    @router.get("/conversations/{conversation}")
    async def get_conversation(conversation: ConversationId) -> dict[str, Any]:
        """Return a conversation."""
        record = await messaging.conversation(conversation)
        if record is None:
            raise _not_found(conversation)
        return {
            "conversation": record.id,
            "kind": record.kind,
            "title": record.title,
            "owner": record.owner,
            "members": record.member_count,
            "last_seq": record.last_seq,
            "time": record.last_time,
        }

    @router.post("/conversations/{conversation}/members")
    async def add_members(conversation: ConversationId, body: MembersAdd) -> dict[str, Any]:
        """Add members; those who are in it already stay as they are."""
        await _must_exist(messaging, conversation)
        return await messaging.update_conversation(conversation, add=body.members)

    @router.delete("/conversations/{conversation}/members/{user}")
    async def remove_member(
        conversation: ConversationId, user: Annotated[str, Path(min_length=1, max_length=128)]
    ) -> dict[str, Any]:
        """Remove a member; one who is not in it is no error."""
        await _must_exist(messaging, conversation)
        return await messaging.update_conversation(conversation, remove=[user])

    @router.post("/conversations/{conversation}/messages", status_code=201)
    async def post_message(
        conversation: ConversationId, body: MessagePost, response: Response
    ) -> dict[str, Any]:
        """Store and deliver a message, as a member or as the system; 200 for one that was stored before."""
        await _must_exist(messaging, conversation)
        content, kind = _encode_content(body, max_message_bytes)
        answer = await messaging.post_message(
            conversation,
            content,
            Encoding.JSON,
            kind=kind,
            sender=body.sender,
            client_id=body.client_id,
            reply_to=body.reply_to,
        )
        if answer.get("duplicate"):
            response.status_code = 200
        return answer

    @router.get("/conversations/{conversation}/messages")
    async def history(
        conversation: ConversationId,
        after: Annotated[Seq | None, Query()] = None,
        before: Annotated[Seq | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> Response:
        """Read messages: ascending after a seq, descending before one; neither: the newest."""
        if after is not None and before is not None:
            raise RequestError(ErrorCode.BAD_REQUEST, "before: not together with after")
        await _must_exist(messaging, conversation)
        body = await messaging.history(conversation, Encoding.JSON, after=after, before=before, limit=limit)
        return Response(body, media_type="application/json")

    return router


def _not_found(conversation: str) -> HTTPException:
    return HTTPException(404, f"there is no conversation {conversation!r}")


async def _must_exist(messaging: Messaging, conversation: str) -> None:
    if await messaging.conversation(conversation) is None:
        raise _not_found(conversation)
