"""Under ``/v1``: sessions and revocations, for operators."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Self

from fastapi import APIRouter, Query, Response
from fastapi.exceptions import HTTPException
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fastim.guard.revocations import Revocation, RevocationKind
from fastim.server.rest.conversations import Name, UserId

if TYPE_CHECKING:
    from fastim.im.messaging import Messaging
    from fastim.server.entrance.revoker import Revoker

__all__ = ["make_sessions_router"]

Time = Annotated[int, Field(ge=0, le=2**53)]
MAX_REASON_BYTES = 256
S_IN_MS = 1000


class RevocationPost(BaseModel):
    """What is refused: one token by its ``jti``, or a user's tokens, or those of a user's device."""

    model_config = ConfigDict(extra="forbid")

    jti: Name | None = None
    user: UserId | None = None
    device: Name | None = Field(None, description="With user: only the tokens used on this device.")
    before: Time | None = Field(
        None,
        description="With user: tokens issued earlier, milliseconds since the epoch; without it: until now.",
    )
    until: Time | None = Field(
        None,
        description=(
            "When the last of the tokens has expired, milliseconds since the epoch; without it: after "
            "`auth.revocation_life_s`."
        ),
    )
    reason: str = Field("", max_length=MAX_REASON_BYTES)

    @model_validator(mode="after")
    def check(self) -> Self:
        if (self.jti is None) == (self.user is None):
            raise ValueError("expected either jti or user")
        if self.user is None and (self.device is not None or self.before is not None):
            raise ValueError("device and before go with user, not with jti")
        return self

    def record(self, now_ms: int, life_ms: int) -> Revocation:
        """Make the record; a token's iat counts whole seconds: those of the second that runs are refused."""
        kind = RevocationKind.TOKEN
        before = 0
        if self.user is not None:
            kind = RevocationKind.USER if self.device is None else RevocationKind.DEVICE
            before = math.ceil(now_ms / S_IN_MS) * S_IN_MS if self.before is None else self.before
        until = now_ms + life_ms if self.until is None else self.until
        return Revocation(
            kind.value, self.jti or self.user or "", self.device or "", before, until, self.reason, now_ms
        )


def public(record: Revocation) -> dict[str, Any]:
    named = {"jti": record.subject} if record.kind == RevocationKind.TOKEN else {"user": record.subject}
    if record.device:
        named["device"] = record.device
    times = {"before": record.before} if record.before else {}
    return {
        "kind": record.kind,
        **named,
        **times,
        "until": record.until,
        "reason": record.reason,
        "created": record.created,
    }


def make_sessions_router(messaging: Messaging, revoker: Revoker, life_s: int) -> APIRouter:
    """Make the routes under ``/v1``; ``Gate`` has checked the key.

    Args:
        messaging: Knows the sessions.
        revoker: Ends them.
        life_s: How long a revocation is kept that does not say, in seconds.
    """
    router = APIRouter(prefix="/v1", tags=["sessions"])

    @router.get("/sessions")
    async def sessions(user: Annotated[UserId, Query()]) -> dict[str, Any]:
        """List a user's sessions: those with a connection, and those that may come back."""
        live = [
            {"session": s.session_id, "device": s.device, "class": s.device_class or None, "live": True}
            for s in messaging.sessions_of(user)
        ]
        away = [
            {"session": number, "device": s.device, "class": s.device_class or None, "live": False}
            for number, s in messaging.detached_of(user)
        ]
        return {"sessions": live + away}

    @router.delete("/sessions")
    async def end_sessions(
        user: Annotated[UserId, Query()],
        device: Annotated[Name | None, Query()] = None,
        session: Annotated[Name | None, Query()] = None,
    ) -> dict[str, int]:
        """End a user's sessions, of all devices, one device or one session: closed with 4005, not resumable.

        Their tokens stay good; `POST /v1/revocations` ends those.
        """
        return {"closed": revoker.kick(user, device, session)}

    @router.get("/revocations")
    async def revocations(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100, offset: Annotated[int, Query(ge=0)] = 0
    ) -> dict[str, Any]:
        """List the revocations in force, the oldest first."""
        records = revoker.revocations.records()
        page = [public(record) for record in records[offset : offset + limit]]
        return {"revocations": page, "count": len(records)}

    @router.post("/revocations", status_code=201)
    async def revoke(body: RevocationPost) -> dict[str, Any]:
        """Refuse tokens from now on; connections that came in by them are closed with 4001."""
        now_ms = revoker.now_ms()
        record = body.record(now_ms, life_s * S_IN_MS)
        if record.until <= now_ms:
            raise HTTPException(422, "until: it is past")
        closed = await revoker.revoke(record)
        return {**public(record), "closed": closed}

    @router.delete("/revocations", status_code=204)
    async def lift(
        jti: Annotated[Name | None, Query()] = None,
        user: Annotated[UserId | None, Query()] = None,
        device: Annotated[Name | None, Query()] = None,
    ) -> Response:
        """Take a revocation back; its tokens are good again."""
        if (jti is None) == (user is None):
            raise HTTPException(422, "expected either jti or user")
        kind = RevocationKind.TOKEN if user is None else RevocationKind.USER
        if user is not None and device is not None:
            kind = RevocationKind.DEVICE
        if not await revoker.lift(kind.value, jti or user or "", device or ""):
            raise HTTPException(404, "there is no such revocation")
        return Response(status_code=204)

    return router
