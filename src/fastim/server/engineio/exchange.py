"""A request of Engine.IO and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastim.server.engineio.cors import Fields
    from fastim.server.engineio.stats import EngineStats
    from fastim.server.front.handshake import Refusal
    from fastim.server.front.requests import HttpRequest

__all__ = ["Exchange"]

PAYLOAD_TYPE: Final = "text/plain; charset=UTF-8"
# Not text/plain, for which some old browsers offer a download (as the reference implementation has found).
POST_TYPE: Final = "text/html"


class Exchange:
    """A request, and the header fields that its answer has whatever it says.

    Args:
        request: The request.
        fields: See ``Cors.fields``.
        stats: Counts the answers.
    """

    __slots__ = ("_fields", "_stats", "request")

    def __init__(self, request: HttpRequest, fields: Fields, stats: EngineStats) -> None:
        self.request = request
        self._fields = fields
        self._stats = stats

    def answer(self, payload: bytes, more: Fields = ()) -> bool:
        """Answer a GET, with a payload; False if the client has gone."""
        return self.request.reply(200, payload, PAYLOAD_TYPE, (*self._fields, *more))

    def answer_post(self) -> None:
        """Answer a POST: all of it has been taken."""
        self.request.reply(200, b"ok", POST_TYPE, self._fields)

    def refuse(self, refusal: Refusal) -> None:
        """Answer that it is not served."""
        self._stats.refused(refusal)
        media_type, body = refusal.body()
        self.request.reply(refusal.status, body, media_type, (*refusal.headers, *self._fields))
