"""``fastim serve`` with paths of its own: what the front's routes can do, for clients that know only HTTP."""

from __future__ import annotations

import asyncio
import json

from fastim.cli import main as cli
from fastim.server.front.handshake import Refusal, query_value
from fastim.server.front.requests import HttpRequest
from fastim.server.process import run
from fastim.server.process.run import Server

MAX_BODY_BYTES = 100_000


class Routes:
    """Paths, and what they remember.

    Args:
        server: Whose front they are put into.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._held: list[HttpRequest] = []
        self._aborted = 0
        server.front.routes |= {
            b"/echo": self.echo,
            b"/who": self.who,
            b"/hold": self.hold,
            b"/answer": self.answer,
            b"/later": self.later,
            b"/bytes": self.many_bytes,
            b"/status": self.status,
            b"/refuse": self.refuse,
            b"/fail": self.fail,
            b"/header": self.header,
        }

    def echo(self, request: HttpRequest) -> None:
        request.read_body(MAX_BODY_BYTES, self._echoed)

    def _echoed(self, request: HttpRequest, body: bytes) -> None:
        if body == b"refuse":
            raise Refusal(404, "Not that.")
        if body == b"fail":
            raise RuntimeError("on purpose")
        request.reply(200, body, "application/octet-stream")

    def who(self, request: HttpRequest) -> None:
        """Answer with the request, and let it be one of a user who is known if it says so."""
        if request.query == b"known":
            request.authenticated()
        body = {"method": request.method.decode(), "peer": request.peer, "query": request.query.decode()}
        request.reply(200, json.dumps(body).encode(), "application/json")

    def hold(self, request: HttpRequest) -> None:
        if request.query == b"known":
            request.authenticated()
        if request.hold(self._abort):
            self._held.append(request)

    def _abort(self, request: HttpRequest) -> None:
        self._held.remove(request)
        self._aborted += 1

    def answer(self, request: HttpRequest) -> None:
        """Answer all that is held, and tell how many that were."""
        held, self._held = self._held, []
        for each in held:
            each.reply(200, b"answered")
        request.reply(200, b"%d" % len(held))

    def later(self, request: HttpRequest) -> None:
        request.hold()
        self._server.service.spawn(self._answer_later(request))

    async def _answer_later(self, request: HttpRequest) -> None:
        await asyncio.sleep(0)
        request.reply(200, b"later")

    def many_bytes(self, request: HttpRequest) -> None:
        request.reply(200, b"x" * int(query_value(request.query, "n") or 0))

    def status(self, request: HttpRequest) -> None:
        """Answer with figures of the hub; a query is the status."""
        if request.query:
            request.reply(int(request.query), b"body")
            return
        stats = self._server.service.hub.stats()
        body = {"held": len(self._held), "aborted": self._aborted} | stats
        request.reply(200, json.dumps(body).encode(), "application/json")

    def refuse(self, request: HttpRequest) -> None:
        raise Refusal(403, "Not you.")

    def fail(self, request: HttpRequest) -> None:
        raise RuntimeError("on purpose")

    def header(self, request: HttpRequest) -> None:
        """Try a header field with a line break, then one without."""
        try:
            request.reply(200, headers=[("X-Bad", "a\r\nb: c")])
        except ValueError:
            request.reply(200, headers=[("X-Good", "a b")])


class RoutedServer(Server):
    """A server with the routes above."""

    async def start(self) -> None:
        """Put the routes in before the port is open."""
        Routes(self)
        await super().start()


if __name__ == "__main__":
    run.Server = RoutedServer  # type: ignore[misc]
    cli.main()
