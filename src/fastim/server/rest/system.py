"""``/v1/system``: the operator's word to those who are connected."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from fastapi.exceptions import HTTPException
from pydantic import BaseModel, ConfigDict, Field

from fastim.errors import ErrorCode, RequestError
from fastim.server.application.notices import Notice, Notices

__all__ = ["make_system_router"]

Id = Annotated[str, Field(min_length=1, max_length=128)]


class SystemNotice(BaseModel):
    """A notice."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(description="At most 4,096 bytes.")
    level: Literal["info", "warning"] = "info"
    user: Id | None = Field(None, description="To the connections of this user alone.")
    conversation: Id | None = Field(None, description="To the members of this conversation alone.")


def make_system_router(notices: Notices) -> APIRouter:
    """Make the route under ``/v1``; ``Gate`` has checked the key."""
    router = APIRouter(prefix="/v1", tags=["operation"])

    @router.post("/system")
    async def send_notice(body: SystemNotice) -> dict[str, int]:
        """Send a `system` event to everybody who is connected, to a user or to a conversation."""
        notice = Notice(body.text, body.level, body.user, body.conversation)
        try:
            notice.check()
        except ValueError as error:
            raise RequestError(ErrorCode.BAD_REQUEST, str(error)) from None
        try:
            return {"connections": await notices.send(notice)}
        except RequestError:
            raise HTTPException(404, f"there is no conversation {body.conversation!r}") from None

    return router
