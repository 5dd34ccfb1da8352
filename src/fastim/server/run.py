"""The life of the process: what is made in which order, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from fastim._version import __version__
from fastim.errors import ConfigError, StoreError
from fastim.guard.secrets import API_KEY_FILE, load_or_create, signing_secrets
from fastim.guard.tokens import TokenVerifier
from fastim.im.messaging import Messaging
from fastim.server import options
from fastim.server.drain import drain
from fastim.server.front import Front
from fastim.server.handover import MAX_HTTP_CONNECTIONS, HandOver
from fastim.server.limits_os import RESERVE_COUNT, Descriptors, raise_descriptor_limit
from fastim.server.listener import format_url, open_listener
from fastim.server.loading import load_application
from fastim.server.lock import DataLock
from fastim.server.rest import make_http_app
from fastim.server.service import Service
from fastim.server.tls import FedBridge, make_context
from fastim.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastim.server.app import FastIM
    from fastim.server.settings import Settings

__all__ = ["Server", "serve"]

log = logging.getLogger("fastim.server")

# Threads (the store's, an application's) win the GIL back from a busy loop in 0.5 ms instead of 5: group
# commit beside a busy loop was 17,000 rows/s with the default and 31,000 with this.
SWITCH_INTERVAL_S: Final = 0.0005
# The objects of a connection live as long as it does: looking at them again and again is what a storm of
# connects would pay for. The oldest are still looked at, as an application's handlers may leave cycles.
GC_THRESHOLDS: Final = (20_000, 20, 10)
DATABASE_FILE: Final = "fastim.db"


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Server:
    """Everything of a server but its process: made and ended on a running loop.

    Args:
        settings: All of them.
        application: Its handlers; None: messaging alone.
        max_connections: At a time; 0: no bound.
    """

    def __init__(self, settings: Settings, application: FastIM | None, max_connections: int = 0) -> None:
        self.settings = settings
        self.application = application
        self.url = ""
        self._listener: socket.socket | None = None
        self._tls: asyncio.Server | None = None
        loop = asyncio.get_running_loop()
        verifier = TokenVerifier(
            signing_secrets(settings.auth.keys, settings.server.data), settings.auth.leeway_s
        )
        node = settings.server.node or f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}"
        self.service = Service(
            loop,
            options.service_options(settings, node),
            verifier,
            application,
            max_connections=max_connections,
            **options.hub_options(settings),
        )
        self.store = SQLiteStore(settings.server.data / DATABASE_FILE, **options.store_options(settings))
        self.messaging = Messaging(
            self.service.hub,
            self.store,
            options.im_options(settings),
            clock_ns=time.monotonic_ns,
            time_ms=wall_ms,
            spawn=self.service.spawn,
        )
        self.front = Front(
            self.service,
            options.front_options(settings),
            options.connect_limiter(settings),
            options.block_list(settings),
        )
        self.http = self._make_http(loop)

    def _make_http(self, loop: asyncio.AbstractEventLoop) -> HandOver:
        settings, service = self.settings, self.service
        configured = settings.auth.api_key
        api_key = (
            configured.get_secret_value().encode()
            if configured is not None
            else load_or_create(settings.server.data, API_KEY_FILE)
        )
        metrics_key: bytes | None = None
        if settings.metrics.enabled:
            key = settings.metrics.key
            metrics_key = api_key if key is None else key.get_secret_value().encode()
        app = make_http_app(
            service,
            self.messaging,
            self.store,
            api_key=api_key,
            metrics_key=metrics_key,
            max_message_bytes=settings.limits.max_message_bytes,
        )
        limits = settings.limits
        return HandOver(
            loop, app, lambda: FedBridge(service), service.spawn, limits.head_timeout_s, limits.head_bytes
        )

    async def start(self) -> None:
        """Open the store, then the port.

        Raises:
            ConfigError: The data folder, the address or the certificate cannot be used.
        """
        server = self.settings.server
        context: ssl.SSLContext | None = None
        if server.tls_cert is not None and server.tls_key is not None:
            context = make_context(server.tls_cert, server.tls_key)
        self._listener = open_listener(server.host, server.port, server.backlog)
        try:
            await self.store.open(self.messaging.on_commit)
        except StoreError as error:
            self._listener.close()
            raise ConfigError("server.data", str(error)) from None
        await self.messaging.start()
        self.service.http = self.http
        if self.application is not None:
            self.application.bind(self.service.runtime)
        self.service.start(self.messaging, self.front)
        if context is None:
            self.service.hub.listen(self._listener.fileno())
        else:
            self._tls = await asyncio.get_running_loop().create_server(
                lambda: FedBridge(self.service),
                sock=self._listener,
                ssl=context,
                backlog=server.backlog,
                ssl_handshake_timeout=self.settings.limits.head_timeout_s,
                ssl_shutdown_timeout=self.settings.limits.close_timeout_s,
            )
        self.url = format_url(self._listener, server.host, context is not None)

    async def stop(self, deadline_s: float) -> None:
        """End in order; see ``drain``."""
        self.service.draining = True
        if self._tls is not None:
            self._tls.close()
        elif self._listener is not None:
            self.service.hub.unlisten(self._listener.fileno())
            self._listener.close()
        await drain(
            self.service,
            self.messaging,
            self.store,
            self.http,
            deadline_s=deadline_s,
            retry_after_ms=self.settings.drain.retry_after_ms,
        )
        self.service.stop()
        if self.application is not None:
            self.application.bind(None)
        await self.store.close()


async def _main(
    settings: Settings, application: FastIM | None, descriptors: Descriptors, lock: DataLock
) -> int:
    """Run from start to end; returns how many blocking handlers have not come to theirs."""
    stopping = _catch_signals(asyncio.get_running_loop())
    server = Server(settings, application, descriptors.max_connections)
    await server.start()
    lock.announce(server.url)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    log.info(descriptors.describe())  # not before: a start that fails says why and nothing else
    log.info("fastim %s, node %s", __version__, server.service.options.node)
    print(f"fastim listening on {server.url}", flush=True)
    number = await stopping
    quick = number == signal.SIGINT
    log.info("%s: shutting down", number.name)
    await server.stop(settings.drain.quick_deadline_s if quick else settings.drain.deadline_s)
    log.info("stopped")
    return server.service.dispatcher.threaded_count


def _catch_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Future[signal.Signals]:
    """Return what becomes the first SIGTERM or SIGINT; the second ends the process at once."""
    caught: asyncio.Future[signal.Signals] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        for other in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(other)
            signal.signal(other, signal.SIG_DFL)
        caught.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return caught


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Any = uvloop.new_event_loop
    return factory  # type: ignore[no-any-return]


def serve(settings: Settings, app_path: str | None) -> int:
    """Run a server until a signal ends it.

    Prints one line on standard output when it is ready; logs go to standard error.

    Args:
        settings: All of them.
        app_path: An application as ``module:name``; None: messaging alone.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: A setting, the application, the address or the data folder cannot be used.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.server.log_level.value.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    application = None if app_path is None else load_application(app_path)
    descriptors = raise_descriptor_limit(
        settings.limits.max_connections, RESERVE_COUNT + MAX_HTTP_CONNECTIONS
    )
    with DataLock(settings.server.data) as lock, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        left = runner.run(_main(settings, application, descriptors, lock))
    if left:
        # The interpreter would wait for their threads, however long they block.
        log.warning("%d blocking handlers have not returned; ending without them", left)
        logging.shutdown()
        os._exit(0)
    return 0
