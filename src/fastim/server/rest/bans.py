"""Under ``/v1/bans``: who is shut out, changed while the server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.exceptions import HTTPException
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fastim.errors import ErrorCode, RequestError
from fastim.guard.blocklist import ADDRESS, USER, normal_network

if TYPE_CHECKING:
    from fastim.guard.blocklist import Ban
    from fastim.server.entrance.bans import Bans

__all__ = ["make_bans_router"]

MAX_FOR_S = 3_155_760_000  # a century
MAX_REASON_CHARACTERS = 120  # goes into a close frame, which holds 123 bytes


class NewBan(BaseModel):
    """Who is to be shut out."""

    model_config = ConfigDict(extra="forbid")

    address: str | None = Field(None, min_length=1, max_length=64, description="An address or a CIDR range.")
    user: str | None = Field(None, min_length=1, max_length=128, description="A user's id.")
    for_s: float | None = Field(
        None, ge=0, le=MAX_FOR_S, allow_inf_nan=False, description="Seconds; null or 0: for ever."
    )
    reason: str = Field("", max_length=MAX_REASON_CHARACTERS, description="What those concerned are told.")

    @model_validator(mode="after")
    def _one_subject(self) -> NewBan:
        if (self.address is None) == (self.user is None):
            raise ValueError("name an address or a user, one of the two")
        return self


def _subject(address: str | None, user: str | None) -> tuple[str, str]:
    if (address is None) == (user is None):
        raise RequestError(ErrorCode.BAD_REQUEST, "address: name an address or a user, one of the two")
    return (ADDRESS, address) if address is not None else (USER, user or "")


def _shown(record: Ban) -> dict[str, Any]:
    return {
        record.kind: record.subject,
        "until": record.until or None,
        "reason": record.reason,
        "source": record.source,
        "created": record.created,
    }


def make_bans_router(bans: Bans) -> APIRouter:
    """Make the routes; ``Gate`` has checked the key."""
    router = APIRouter(prefix="/v1", tags=["bans"])

    @router.get("/bans")
    async def list_bans(
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000, offset: Annotated[int, Query(ge=0)] = 0
    ) -> dict[str, Any]:
        """Return the bans in force, the oldest first; times in ms since the epoch."""
        records = bans.records()
        page = records[offset : offset + limit]
        return {"bans": [_shown(record) for record in page], "more": len(records) > offset + limit}

    @router.post("/bans", status_code=201)
    async def ban(body: NewBan) -> dict[str, Any]:
        """Ban an address, a range or a user, in the place of an earlier ban of the same.

        Live connections of theirs are closed with 4003; ``closed`` says how many.
        """
        kind, subject = _subject(body.address, body.user)
        if kind == ADDRESS:
            subject = _network(subject)
            if bans.blocklist.always_allows(subject):
                raise HTTPException(409, f"{subject} is on the allow list (bans.allow)")
        try:
            record, closed = await bans.ban(kind, subject, body.for_s or 0, body.reason)
        except ValueError as error:
            raise RequestError(ErrorCode.BAD_REQUEST, f"{kind}: {error}") from None
        return _shown(record) | {"closed": closed}

    @router.delete("/bans", status_code=204)
    async def unban(address: str | None = None, user: str | None = None) -> Response:
        """Take a ban back; 404 if that very address, range or user is not banned."""
        kind, subject = _subject(address, user)
        if kind == ADDRESS:
            subject = _network(subject)
        try:
            found = await bans.unban(kind, subject)
        except ValueError as error:
            raise RequestError(ErrorCode.BAD_REQUEST, f"{kind}: {error}") from None
        if not found:
            raise HTTPException(404, f"there is no ban of {kind} {subject}")
        return Response(status_code=204)

    return router


def _network(text: str) -> str:
    try:
        return normal_network(text)
    except ValueError:
        raise RequestError(
            ErrorCode.BAD_REQUEST, f"address: {text!r} is no address and no CIDR range"
        ) from None
