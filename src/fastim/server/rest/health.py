"""``/healthz`` (the process runs) and ``/readyz`` (send it clients)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from fastim.server.service import Service
    from fastim.store.base import Store

__all__ = ["make_health_router"]


def make_health_router(service: Service, store: Store) -> APIRouter:
    """Make the routes.

    Args:
        service: Ending or not.
        store: Takes writes or not.
    """
    router = APIRouter()

    @router.get("/healthz", tags=["health"])
    async def healthz() -> JSONResponse:
        """Tell that the process answers."""
        return JSONResponse({"status": "ok"})

    @router.get("/readyz", tags=["health"])
    async def readyz() -> JSONResponse:
        """Tell whether the server takes clients and writes; 503 with the reason if not."""
        reason, since = "", 0
        if service.draining:
            reason = "the server is shutting down"
        elif not (health := store.health).ok:
            reason, since = f"store: {health.reason}", health.since
        else:
            reason = service.relief.reason
        if reason:
            answer: dict[str, object] = {"status": "unavailable", "reason": reason}
            if since:
                answer["since"] = since
            return JSONResponse(answer, 503)
        return JSONResponse({"status": "ok"})

    return router
