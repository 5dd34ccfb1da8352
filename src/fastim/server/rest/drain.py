"""``/v1/drain``: end the server in order, and see how far that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from fastim.server.sections.base import MAX_S

if TYPE_CHECKING:
    from fastim.server.process.drain import Drain
    from fastim.server.service import Service

__all__ = ["make_drain_router"]


class DrainRequest(BaseModel):
    """A drain."""

    model_config = ConfigDict(extra="forbid")

    within_s: Annotated[float, Field(ge=0, le=MAX_S, allow_inf_nan=False)] | None = Field(
        None, description="Window over which connections are closed; seconds. None: the setting's."
    )
    to: Annotated[str, Field(max_length=1024, pattern=r"^((ws|http)s?://[!-~]+)?$")] | None = Field(
        None, description="Address of the server that takes over. None: the setting's."
    )


def make_drain_router(service: Service) -> APIRouter:
    """Make the routes under ``/v1``; ``Gate`` has checked the key."""
    router = APIRouter(prefix="/v1", tags=["operation"])

    @router.post("/drain", status_code=202)
    async def begin_drain(body: DrainRequest) -> dict[str, Any]:
        """Begin to drain; 409 while one is on. The process ends behind it."""
        drain = _drain_of(service)
        drain.ask(body.within_s, body.to)
        return _state(drain)

    @router.get("/drain")
    async def get_drain() -> dict[str, Any]:
        """Tell whether a drain is on, and how far it is."""
        return _state(_drain_of(service))

    return router


def _drain_of(service: Service) -> Drain:
    assert service.drain is not None, "requests come in once the server has started"
    return service.drain


def _state(drain: Drain) -> dict[str, Any]:
    plan, figures = drain.plan, drain.stats()
    state: dict[str, Any] = {"draining": plan is not None}
    if plan is not None:
        state |= {
            "within_s": plan.window_ns / 1e9,
            "ends_at": plan.ends_at_ms,
            "connections": plan.connections,
            "closed": figures["closed_total"],
            "left": figures["left"],
        }
    return state
