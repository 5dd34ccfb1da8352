"""Pages of other origins: who may ask, and what browsers are told about it.

Source: the Fetch standard, section "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from fastim.server.engineio.refusals import EngineError, EngineRefusal
from fastim.server.front.handshake import origin_allowed

__all__ = ["Cors", "Fields"]

Fields: TypeAlias = tuple[tuple[str, str], ...]

PREFLIGHT_LIFE_S: Final = 600


class Cors:
    """Decides about origins.

    Args:
        allowed: Besides the server's own; ``*`` allows all.
        credentials: Whether those that are named may send cookies along. Who is let in by ``*`` never may:
            any page could act for its visitor then.
    """

    def __init__(self, allowed: tuple[str, ...], credentials: bool) -> None:
        self._named = tuple(origin for origin in allowed if origin != "*")
        self._all = "*" in allowed
        self._credentials = credentials

    def fields(self, request: Mapping[bytes, bytes]) -> Fields:
        """Return the header fields of the answer to a request, whatever it is.

        Args:
            request: The request's header fields.

        Raises:
            EngineRefusal: Pages of its origin may not ask.
        """
        origin = request.get(b"origin")
        if origin is None:  # no browser, or the server's own page
            return ()
        if origin_allowed(origin, request.get(b"host", b""), self._named):
            fields = ("Access-Control-Allow-Origin", origin.decode("latin-1")), ("Vary", "Origin")
            return (*fields, ("Access-Control-Allow-Credentials", "true")) if self._credentials else fields
        if self._all:
            return (("Access-Control-Allow-Origin", "*"),)
        raise EngineRefusal(EngineError.FORBIDDEN, "This origin may not connect.")

    def preflight(self, request: Mapping[bytes, bytes]) -> Fields | None:
        """Return the answer's header fields to a browser that asks what it may ask; None: it does not.

        Raises:
            EngineRefusal: As ``fields``.
        """
        if b"origin" not in request or b"access-control-request-method" not in request:
            return None
        fields: Fields = (
            *self.fields(request),
            ("Access-Control-Allow-Methods", "GET, POST"),
            ("Access-Control-Max-Age", str(PREFLIGHT_LIFE_S)),
        )
        # They are the application's, as a client's extraHeaders, and the origin is trusted with them.
        wanted = request.get(b"access-control-request-headers")
        if wanted:
            fields = (*fields, ("Access-Control-Allow-Headers", wanted.decode("latin-1")))
        return fields
