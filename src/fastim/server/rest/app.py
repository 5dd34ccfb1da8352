"""The HTTP application: all routes, behind the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from fastim import __version__
from fastim.server.rest import problems
from fastim.server.rest.bans import make_bans_router
from fastim.server.rest.conversations import make_conversations_router
from fastim.server.rest.drain import make_drain_router
from fastim.server.rest.gate import Gate
from fastim.server.rest.health import make_health_router
from fastim.server.rest.metrics import make_metrics_router
from fastim.server.rest.sessions import make_sessions_router
from fastim.server.rest.system import make_system_router

if TYPE_CHECKING:
    from fastim.guard.admission import Admission
    from fastim.im.messaging import Messaging
    from fastim.server.entrance.bans import Bans
    from fastim.server.entrance.revoker import Revoker
    from fastim.server.service import Service
    from fastim.store.base import Store

__all__ = ["make_http_app"]


def make_http_app(
    service: Service,
    messaging: Messaging,
    store: Store,
    bans: Bans,
    revoker: Revoker,
    admission: Admission,
    *,
    api_key: bytes,
    metrics_key: bytes | None,
    max_message_bytes: int,
    revocation_life_s: int,
) -> Gate:
    """Make the ASGI application of everything that is no WebSocket.

    Args:
        service: For its state and figures.
        messaging: Serves ``/v1``.
        store: Looked at by ``/readyz`` and ``/metrics``.
        bans: Changed by ``/v1/bans``.
        revoker: Ends sessions.
        admission: Says who is there behind a proxy, and whether he may be.
        api_key: For ``/v1``.
        metrics_key: For ``/metrics`` from other addresses than loopback; None: there are no metrics.
        max_message_bytes: Bound of a message's content.
        revocation_life_s: How long a revocation is kept that does not say, in seconds.
    """
    app = FastAPI(
        title="fastim", version=__version__, openapi_url="/v1/openapi.json", docs_url=None, redoc_url=None
    )
    problems.add_handlers(app)
    app.include_router(make_health_router(service, store))
    if metrics_key is not None:
        app.include_router(make_metrics_router(service, store, metrics_key))
    app.include_router(make_drain_router(service))
    app.include_router(make_system_router(service.notices))
    app.include_router(make_conversations_router(messaging, max_message_bytes))
    app.include_router(make_sessions_router(messaging, revoker, revocation_life_s))
    app.include_router(make_bans_router(bans))
    return Gate(app, api_key, admission, service.clock_ns)
