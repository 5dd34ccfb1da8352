"""The life of the process: what is made in which order, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from fastim._version import __version__
from fastim.errors import ConfigError, StoreError
from fastim.guard.pids import Pids
from fastim.guard.secrets import API_KEY_FILE, load_or_create, signing_secrets
from fastim.guard.tickets import Tickets
from fastim.guard.tokens import TokenVerifier
from fastim.im.messaging import Messaging
from fastim.server import options
from fastim.server.application.loading import load_application
from fastim.server.engineio.endpoints import Endpoints
from fastim.server.engineio.hook import HookProtocol
from fastim.server.entrance.bans import Bans
from fastim.server.entrance.migration import Migration
from fastim.server.entrance.revoker import Revoker
from fastim.server.front.front import Front
from fastim.server.front.handover import MAX_HTTP_CONNECTIONS, HandOver
from fastim.server.front.listener import format_url, open_listener
from fastim.server.front.tls import FedBridge, TlsDoor, make_context
from fastim.server.process.drain import Drain
from fastim.server.process.limits_os import RESERVE_COUNT, Descriptors, raise_descriptor_limit
from fastim.server.process.lock import DataLock
from fastim.server.rest.app import make_http_app
from fastim.server.service import Service
from fastim.server.settings import Settings, load_settings
from fastim.server.socketio.protocol import SocketIO
from fastim.server.socketio.recovery import SocketRecovery, note_start
from fastim.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fastim.server.application.app import FastIM
    from fastim.store.base import Store

__all__ = ["Server", "run_application", "serve"]

log = logging.getLogger("fastim.server")

# Threads (the store's, an application's) win the GIL back from a busy loop in 0.5 ms instead of 5: group
# commit beside a busy loop was 17,000 rows/s with the default and 31,000 with this.
SWITCH_INTERVAL_S: Final = 0.0005
# The objects of a connection live as long as it does: looking at them again and again is what a storm of
# connects would pay for. The oldest are still looked at, as an application's handlers may leave cycles.
GC_THRESHOLDS: Final = (20_000, 20, 10)
# What servers of Socket.IO call things elsewhere, and where they are here.
_HINTS: Final = {
    "cors_allowed_origins": 'origins stand in server={"allowed_origins": […]}',
    "cors_credentials": 'it is engineio={"credentials": …}',
    "ping_interval": 'it is engineio={"ping_interval_s": …}',
    "ping_timeout": 'it is engineio={"ping_timeout_s": …}',
    "max_http_buffer_size": 'it is limits={"max_message_bytes": …}',
}
DATABASE_FILE: Final = "fastim.db"
DATA_VARIABLE: Final = "FASTIM_SERVER__DATA"


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Server:
    """Everything of a server but its process: made and ended on a running loop.

    Args:
        settings: All of them.
        application: Its handlers; None: messaging alone.
        max_connections: That may have a place at a time; 0: no bound.
        max_sockets: Connections in all; 0: no bound.
        store: Where everything is kept; None: in the data folder.
    """

    def __init__(
        self,
        settings: Settings,
        application: FastIM | None,
        max_connections: int = 0,
        max_sockets: int = 0,
        store: Store | None = None,
    ) -> None:
        self.settings = settings
        self.application = application
        self.url = ""
        self._listener: socket.socket | None = None
        loop = asyncio.get_running_loop()
        keys = signing_secrets(settings.auth.keys, settings.server.data)
        verifier = TokenVerifier(keys, settings.auth.leeway_s)
        node = settings.server.node or f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}"
        self.service = Service(
            loop,
            options.service_options(settings, node),
            verifier,
            application,
            max_connections=max_connections,
            max_sockets=max_sockets,
            **options.hub_options(settings),
        )
        self.store: Store = store or SQLiteStore(
            settings.server.data / DATABASE_FILE, **options.store_options(settings)
        )
        self.service.figures["store"] = self.store.stats
        self.service.histograms["store_commit"] = self.store.histograms["commit"]
        self.service.size_histograms["store_batch_writes"] = self.store.histograms["batch"]
        self.messaging = Messaging(
            self.service.hub,
            self.store,
            options.im_options(settings),
            clock_ns=time.monotonic_ns,
            time_ms=wall_ms,
            spawn=self.service.spawn,
        )
        blocklist = options.block_list(settings, self.service.hub)
        self.bans = Bans(self.service, blocklist, self.store, wall_ms)
        self.service.entrance.checks.append(self.bans.check)
        self.service.figures["bans"] = self.bans.stats
        self.revoker = Revoker(self.service, self.store)
        self.service.entrance.checks.append(self.revoker.check)
        self.service.figures["revocations"] = self.revoker.stats
        self.migration = Migration(self.service, Tickets(keys), self.store)
        self.service.entrance.migration = self.migration
        self.service.figures["migration"] = self.migration.stats
        admission = options.admission(settings, blocklist, self.bans.ban_automatically)
        self.service.figures["admission"] = admission.stats
        self.front = Front(self.service, options.front_options(settings), admission)
        self.endpoints = Endpoints(self.service, self.front, options.engine_options(settings))
        for hook in application.engine_hooks if application is not None else ():
            self.endpoints.add(hook.path, HookProtocol(self.service, hook))
        if settings.engineio.enabled:
            socketio = SocketIO(self.service, options.socketio_options(settings))
            self.endpoints.add(settings.engineio.path, socketio)
            if settings.socketio.recovery_s:
                self._recover_sockets(socketio, keys)
        self.http = self._make_http(loop)
        self.drain = Drain(
            self.service, self.messaging, self.store, self.http, options.drain_options(settings)
        )
        self.service.drain = self.drain
        self.drain.migrate = self.migration.body
        self.drain.others = self.endpoints.alone
        self.service.figures["drain"] = self.drain.stats

    def _recover_sockets(self, socketio: SocketIO, keys: Sequence[bytes]) -> None:
        recovery = SocketRecovery(
            self.service,
            self.messaging,
            self.store,
            Pids(keys),
            options.recovery_options(self.settings),
        )
        self.service.recovery = socketio.connecting.recovery = recovery
        self.service.figures["recovery"] = recovery.stats

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
            self.bans,
            self.revoker,
            self.front.admission,
            api_key=api_key,
            metrics_key=metrics_key,
            max_message_bytes=settings.limits.max_message_bytes,
            revocation_life_s=int(settings.auth.revocation_life_s),
        )
        return HandOver(
            loop,
            app,
            lambda: FedBridge(service),
            service.spawn,
            self.front.routes.__contains__,
            options.hand_over_options(settings),
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
        await self.bans.load()
        await self.revoker.start()
        await self.messaging.start()
        if self.service.recovery is not None:
            await self.service.recovery.start()
        else:
            await note_start(self.store, self.application)
        self.service.http = self.http
        if self.application is not None:
            self.application.bind(self.service.runtime)
        self.service.start(self.messaging, self.front)
        if context is not None:
            limits = self.settings.limits
            self.service.tls = TlsDoor(self.service, context, limits.head_timeout_s, limits.close_timeout_s)
            self.service.figures["tls"] = self.service.tls.stats
        self.service.hub.listen(self._listener.fileno(), hand_out=context is not None)
        self.url = format_url(self._listener, server.host, context is not None)
        self.service.lifecycle.started()

    async def stop(self) -> None:
        """End in order, as ``drain`` was asked to."""
        await self.drain.run(self._unlisten)
        if self.service.recovery is not None:
            await self.service.recovery.stop()
        self.service.stop()
        if self.application is not None:
            self.application.bind(None)
        await self.store.close()

    def _unlisten(self) -> None:
        if self._listener is not None:
            self.service.hub.unlisten(self._listener.fileno())
            self._listener.close()

    def on_signal(self, number: signal.Signals) -> None:
        """Begin to end; one that came while a drain was on only hurries it if it is SIGINT."""
        log.info("%s: shutting down", number.name)
        if number == signal.SIGINT:
            self.drain.ask_quick()
        elif self.drain.plan is None:
            self.drain.ask()


async def _main(
    settings: Settings, application: FastIM | None, descriptors: Descriptors, lock: DataLock
) -> int:
    """Run from start to end; returns how many blocking handlers have not come to theirs."""
    stopping = _catch_signals(asyncio.get_running_loop())
    server = Server(settings, application, descriptors.max_connections, descriptors.max_sockets)
    await server.start()
    lock.announce(server.url)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    log.info(descriptors.describe())  # not before: a start that fails says why and nothing else
    log.info("fastim %s, node %s", __version__, server.service.options.node)
    print(f"fastim listening on {server.url}", flush=True)
    stopping.add_done_callback(lambda caught: server.on_signal(caught.result()))
    await server.drain.asked
    await server.stop()
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
    _start_logging(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _run(settings, None if app_path is None else load_application(app_path))
    return 0


def run_application(
    application: FastIM,
    host: str | None,
    port: int | None,
    data: str | Path | None,
    sections: Mapping[str, Mapping[str, Any]],
) -> None:
    """Serve an application in this process; see ``FastIM.run``.

    Raises:
        ConfigError: A setting, the address or the data folder cannot be used.
    """
    flags = _flags_of(sections)
    named = {"server.host": host, "server.port": port, "server.data": data}
    flags |= {name: value for name, value in named.items() if value is not None}
    with contextlib.ExitStack() as stack:
        if "server.data" not in flags and DATA_VARIABLE not in map(str.upper, os.environ):
            flags["server.data"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastim-"))
        settings = load_settings(None, os.environ, flags, "app.run")
        _start_logging(settings)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        _run(settings, application)


def _flags_of(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    """Return what ``app.run`` was given as values by full name.

    Raises:
        ConfigError: There is no such section, or it is no section's fields.
    """
    flags: dict[str, object] = {}
    for section, fields in sections.items():
        if section not in Settings.model_fields:
            hint = _HINTS.get(section)
            raise ConfigError(section, f"no such section (from app.run){f'; {hint}' if hint else ''}")
        if not isinstance(fields, Mapping):
            raise ConfigError(section, f"a dict of settings, not {type(fields).__name__} (from app.run)")
        flags |= {f"{section}.{name}": value for name, value in fields.items()}
    return flags


def _start_logging(settings: Settings) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.server.log_level.value.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


def _run(settings: Settings, application: FastIM | None) -> None:
    """Run from lock to signal.

    Raises:
        ConfigError: The address or the data folder cannot be used.
    """
    descriptors = raise_descriptor_limit(
        settings.limits.max_connections,
        settings.limits.entering_connections,
        RESERVE_COUNT + MAX_HTTP_CONNECTIONS,
    )
    with DataLock(settings.server.data) as lock, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        left = runner.run(_main(settings, application, descriptors, lock))
    if left:
        # The interpreter would wait for their threads, however long they block.
        log.warning("%d blocking handlers have not returned; ending without them", left)
        logging.shutdown()
        os._exit(0)
