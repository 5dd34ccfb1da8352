"""The bodies of the events that clients send: their fields, and what each must be.

Unknown fields are ignored. ``decode_body`` is the way in; errors name the field.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_type_hints

import msgpack  # type: ignore[import-untyped]
import msgspec
from msgspec import Meta, Raw, Struct

from fastim._core.encoder import Encoded, encode_value
from fastim._core.values import Kind, check, check_name
from fastim.errors import ErrorCode, RequestError

__all__ = [
    "BODIES",
    "MAX_CLIENT_ID_BYTES",
    "MAX_ID_BYTES",
    "MAX_KIND_BYTES",
    "MAX_TITLE_BYTES",
    "Ack",
    "Binary",
    "Body",
    "ConversationCreate",
    "ConversationUpdate",
    "Conversations",
    "Hello",
    "History",
    "Members",
    "Message",
    "Ping",
    "Presence",
    "PresenceSubscribe",
    "ReadReceipt",
    "Refresh",
    "Resume",
    "Typing",
    "decode_body",
    "default_kind",
]

MAX_ID_BYTES = 128
MAX_CLIENT_ID_BYTES = 64
MAX_KIND_BYTES = 64
MAX_TITLE_BYTES = 256
MAX_TOKEN_CHARS = 8192
MAX_METADATA_BYTES = 1024
MAX_SEEN_COUNT = 1000
MAX_MEMBER_COUNT = 10_000
MAX_PAGE_COUNT = 500

Seq = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE_COUNT)]
Token = Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN_CHARS)]
Ids = Annotated[list[str], Meta(max_length=MAX_MEMBER_COUNT)]


def _bad(field: str, what: str) -> RequestError:
    return RequestError(ErrorCode.BAD_REQUEST, f"{field}: {what}")


def _check_name(field: str, name: str | None, max_bytes: int = MAX_ID_BYTES) -> None:
    if name is not None and (problem := check_name(name, max_bytes)):
        raise _bad(field, problem)


def _check_names(field: str, names: list[str] | None) -> None:
    for index, name in enumerate(names or ()):
        if problem := check_name(name, MAX_ID_BYTES):
            raise _bad(f"{field}[{index}]", problem)


def _check_value(field: str, value: bytes | Raw, encoding: int) -> Kind:
    try:
        return check(value, encoding)
    except ValueError as error:
        raise _bad(field, str(error)) from None


def default_kind(content: Kind) -> str:
    """The kind of a message whose sender named none."""
    return "text" if content is Kind.STRING else "binary" if content is Kind.BYTES else "data"


class Body(Struct, gc=False):
    """A body that was decoded; ``validate`` checks what types alone do not say."""

    def validate(self, encoding: int) -> None:
        """Check the fields.

        Raises:
            RequestError: ``bad_request``, naming the field.
        """


class Resume(Struct, gc=False):
    """Which session to bring back, and what of it was seen."""

    session: str
    seen: Annotated[dict[str, Seq], Meta(max_length=MAX_SEEN_COUNT)] = {}


class Hello(Body, gc=False):
    token: Token | None = None
    device: str | None = None
    batch: bool = False
    acks: bool = False
    resume: Resume | None = None

    def validate(self, encoding: int) -> None:
        _check_name("device", self.device)
        if self.resume is not None:
            _check_name("resume.session", self.resume.session)
            for conversation in self.resume.seen:
                _check_name("resume.seen", conversation)


class Message(Body, gc=False):
    """``content`` is checked and stays encoded, as bytes; ``kind`` is never None once validated.

    Without a kind it is ``text`` for a string, ``binary`` for bytes and ``data`` for anything else.
    """

    conversation: str
    content: Raw
    client_id: str | None = None
    kind: str | None = None
    reply_to: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None

    def validate(self, encoding: int) -> None:
        _check_name("conversation", self.conversation)
        _check_name("client_id", self.client_id, MAX_CLIENT_ID_BYTES)
        kind = _check_value("content", self.content, encoding)
        self.content = cast(Raw, bytes(self.content))
        if self.kind is None:
            self.kind = default_kind(kind)
        elif self.kind == "text":
            if kind is not Kind.STRING:
                raise _bad("content", f"expected a string for kind text, got {kind.name.lower()}")
        else:
            _check_name("kind", self.kind, MAX_KIND_BYTES)


class Binary(Body, gc=False):
    """A message of kind ``binary``; ``content`` is what is stored and delivered."""

    conversation: str
    data: Raw
    name: str | None = None
    type: str | None = None
    client_id: str | None = None

    def validate(self, encoding: int) -> None:
        _check_name("conversation", self.conversation)
        _check_name("client_id", self.client_id, MAX_CLIENT_ID_BYTES)
        _check_name("name", self.name, 255)
        _check_name("type", self.type, 127)
        kind = _check_value("data", self.data, encoding)
        self.data = cast(Raw, bytes(self.data))
        if kind is not Kind.BYTES:
            raise _bad("data", f"expected bytes, got {kind.name.lower()}")

    def content(self, encoding: int) -> bytes:
        """Make the message's content: ``{data, name?, type?}``, encoded."""
        content: dict[str, Any] = {"data": Encoded(self.data, encoding)}
        if self.name is not None:
            content["name"] = self.name
        if self.type is not None:
            content["type"] = self.type
        return encode_value(content, encoding)


class _Mark(Body, gc=False):
    conversation: str
    seq: Seq

    def validate(self, encoding: int) -> None:
        _check_name("conversation", self.conversation)


class Ack(_Mark, gc=False):
    """Everything up to ``seq`` arrived at this device."""


class ReadReceipt(_Mark, gc=False):
    """This user has read up to ``seq``."""


class Typing(Body, gc=False):
    conversation: str
    typing: bool

    def validate(self, encoding: int) -> None:
        _check_name("conversation", self.conversation)


class Presence(Body, gc=False):
    """``metadata`` stays encoded, as bytes; empty where none was given."""

    status: Literal["online", "away", "busy"]
    metadata: Raw = Raw()

    def validate(self, encoding: int) -> None:
        self.metadata = cast(Raw, bytes(self.metadata))
        if len(self.metadata) > MAX_METADATA_BYTES:
            raise _bad("metadata", f"expected at most {MAX_METADATA_BYTES} bytes")
        if self.metadata and _check_value("metadata", self.metadata, encoding) is Kind.NIL:
            self.metadata = cast(Raw, b"")


class PresenceSubscribe(Body, gc=False):
    """Exactly one of ``users`` and ``conversation`` is given."""

    users: Annotated[list[str], Meta(max_length=MAX_PAGE_COUNT)] | None = None
    conversation: str | None = None
    unsubscribe: bool = False

    def validate(self, encoding: int) -> None:
        if (self.users is None) == (self.conversation is None):
            raise _bad("users", "expected either users or conversation")
        _check_names("users", self.users)
        _check_name("conversation", self.conversation)


class History(Body, gc=False):
    conversation: str
    after: Seq | None = None
    before: Seq | None = None
    limit: Limit | None = None

    def validate(self, encoding: int) -> None:
        _check_name("conversation", self.conversation)
        if self.after is not None and self.before is not None:
            raise _bad("before", "expected either after or before")


class Conversations(Body, gc=False):
    after: str | None = None
    limit: Limit | None = None

    def validate(self, encoding: int) -> None:
        _check_name("after", self.after)


class ConversationCreate(Body, gc=False):
    kind: Literal["direct", "group"]
    members: Ids
    title: str | None = None
    client_id: str | None = None
    conversation: str | None = None

    def validate(self, encoding: int) -> None:
        _check_names("members", self.members)
        _check_title(self.title)
        _check_name("client_id", self.client_id, MAX_CLIENT_ID_BYTES)
        _check_name("conversation", self.conversation)


class ConversationUpdate(Body, gc=False):
    conversation: str
    title: str | None = None
    add: Ids = []
    remove: Ids = []

    def validate(self, encoding: int) -> None:
        _check_name("conversation", self.conversation)
        _check_title(self.title)
        _check_names("add", self.add)
        _check_names("remove", self.remove)


class Members(Body, gc=False):
    conversation: str
    after: str | None = None
    limit: Limit | None = None

    def validate(self, encoding: int) -> None:
        _check_name("conversation", self.conversation)
        _check_name("after", self.after)


class Refresh(Body, gc=False):
    token: Token


class Ping(Body, gc=False):
    pass


BODIES: dict[str, type[Body]] = {
    "hello": Hello,
    "message": Message,
    "binary": Binary,
    "ack": Ack,
    "read_receipt": ReadReceipt,
    "typing": Typing,
    "presence": Presence,
    "presence_subscribe": PresenceSubscribe,
    "history": History,
    "conversations": Conversations,
    "conversation_create": ConversationCreate,
    "conversation_update": ConversationUpdate,
    "members": Members,
    "refresh": Refresh,
    "ping": Ping,
}


def _check_title(title: str | None) -> None:
    if title:  # an empty one takes the title away
        _check_name("title", title, MAX_TITLE_BYTES)


B = TypeVar("B", bound=Body)

_json: dict[type[Body], msgspec.json.Decoder[Any]] = {}
_msgpack: dict[type[Body], msgspec.msgpack.Decoder[Any]] = {}
for _type in BODIES.values():
    _json[_type] = msgspec.json.Decoder(_type)
    _msgpack[_type] = msgspec.msgpack.Decoder(_type)


def decode_body(body: bytes, type: type[B], encoding: int) -> B:
    """Decode and check a body.

    Args:
        body: Encoded, as ``decode_message`` gave it.
        type: One of ``BODIES``.
        encoding: The Encoding of body.

    Returns:
        The body; its encoded fields are copies.

    Raises:
        RequestError: ``bad_request``, naming the field, e.g. ``limit: expected int <= 500``.
    """
    try:
        decoded: B = (_msgpack if encoding else _json)[type].decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(ErrorCode.BAD_REQUEST, _explain(str(error), type)) from None
    except (ValueError, RecursionError) as error:
        raise _undecodable(body, encoding, str(error)) from None
    decoded.validate(encoding)
    return decoded


def _undecodable(body: bytes, encoding: int, problem: str) -> RequestError:
    """Say which field holds a string that is no Unicode text: all that a decoder refuses in whole bodies."""
    try:
        lenient = {"strict_map_key": False, "unicode_errors": "surrogateescape"}
        fields = msgpack.unpackb(body, **lenient) if encoding else json.loads(body)
        for name, value in fields.items():
            if not _is_text(value):
                return _bad(ascii(name)[1:-1], "expected Unicode text")
    except (ValueError, RecursionError, AttributeError, TypeError, msgpack.UnpackException):
        pass
    return _bad("body", problem[:1].lower() + problem[1:])


def _is_text(value: object) -> bool:
    try:
        encode_value(value, 0)
    except UnicodeError:
        return False
    except ValueError:
        return True  # refused for another reason, which is no reason here
    return True


def _explain(problem: str, type: type[Body]) -> str:
    """Put the field first: "Expected `int` <= 500 - at `$.limit`" becomes "limit: expected int <= 500"."""
    what, _, path = problem.partition(" - at `")
    if path.startswith("key` in `"):  # a key of the map at the path
        path, what = path.removeprefix("key` in `"), f"{what} as key"
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    if what.startswith("Object missing required field `"):
        missing = what.partition("`")[2].rstrip("`")
        return f"{field + '.' if field else ''}{missing}: required"
    if what.startswith("Invalid enum value"):
        choices = get_args(get_type_hints(type)[field])
        what = f"expected {' or '.join(map(repr, choices))}, got {what.rpartition(' value ')[2]}"
    for theirs, ours in (("`", ""), (" | null", ""), ("object", "map"), ("got None", "got null")):
        what = what.replace(theirs, ours)
    return f"{field or 'body'}: {what[:1].lower()}{what[1:]}"
