"""The running server, as commands reach it: address and key, from the same settings and data folder."""

from __future__ import annotations

import json
import re
import ssl
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from fastim.errors import ConfigError, FastimError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastim.server.settings import Settings

__all__ = ["Refused", "RunningServer", "read_api_key", "settings_url"]

TIMEOUT_S = 30.0
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class Refused(FastimError):
    """The server answered, but did not do what it was asked.

    Args:
        status: The HTTP status.
        detail: Why, in one line.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class RunningServer:
    """Calls ``/v1`` of a server.

    Args:
        settings: Those that the server was started with, or at least its data folder.
        url: Where it is; None: where the one that holds the data folder says it listens, else where the
            settings say.
    """

    def __init__(self, settings: Settings, url: str | None = None) -> None:
        self.url = (url or own_url(settings)).rstrip("/")
        self._key = read_api_key(settings)
        # An own server is asked for by its address here, which its certificate does not name: what proves it
        # is that it shows the very certificate of the settings.
        context = None if url else _pinned(settings)
        self._open = build_opener(ProxyHandler({}), HTTPSHandler(context=context)).open

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Make a request and return what its answer holds, None if that is nothing.

        Args:
            method: The HTTP method.
            path: With the query, from ``/v1`` on.
            body: Sent as JSON; None: no body.

        Raises:
            ConfigError: ``url``: nobody answers there.
            Refused: The answer is no success.
        """
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data=data, method=method, headers={"X-API-Key": self._key})
        if data is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with self._open(request, timeout=TIMEOUT_S) as response:
                answer: bytes = response.read()
        except HTTPError as error:
            with error:
                raise Refused(error.code, _detail(error.read(), error.reason)) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ConfigError("url", f"no server answers at {self.url}: {reason}") from None
        return json.loads(answer) if answer else None


def own_url(settings: Settings) -> str:
    """Return where the server of a data folder listens."""
    from fastim.server.process.lock import LOCK_FILE

    try:
        note = (settings.server.data / LOCK_FILE).read_text("utf-8", "replace")
    except OSError:
        note = ""
    if found := re.search(r"listening on (https?://\S+)", note):
        return _reachable(found[1])
    return settings_url(settings)


def settings_url(settings: Settings) -> str:
    """Return where a server that runs with these settings on this machine is reached."""
    server = settings.server
    host = server.host.strip("[]")
    scheme = "http" if server.tls_cert is None else "https"
    return _reachable(f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}")


def _reachable(url: str) -> str:
    """Replace the address that stands for all of a machine's by loopback."""
    parts = urlsplit(url)
    host = ANY_HOST.get(parts.hostname or "")
    if host is None:
        return url
    return urlunsplit(parts._replace(netloc=f"{f'[{host}]' if ':' in host else host}:{parts.port}"))


def _pinned(settings: Settings) -> ssl.SSLContext | None:
    certificate = settings.server.tls_cert
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("server.tls_cert", f"cannot read {certificate}: {error}") from None
    return context


def _detail(body: bytes, reason: str) -> str:
    """Return what a problem (RFC 9457) says, or the status line's words if the answer is none."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return reason


def read_api_key(settings: Settings) -> str:
    """Return the key for ``/v1`` of a server with the same settings."""
    from fastim.guard.secrets import API_KEY_FILE, load_or_create

    if settings.auth.api_key is not None:
        return settings.auth.api_key.get_secret_value()
    return load_or_create(settings.server.data, API_KEY_FILE).decode()
