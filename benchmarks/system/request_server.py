"""``fastim serve`` with two paths answered in the hub: what a request costs there, whatever asks it."""

from __future__ import annotations

from fastim.cli import main as cli
from fastim.server.front.requests import HttpRequest
from fastim.server.process import run
from fastim.server.process.run import Server


def answer(request: HttpRequest) -> None:
    """Answer what ``/healthz`` answers, which an ASGI application does behind uvicorn."""
    request.authenticated()
    request.reply(200, b'{"status":"ok"}', "application/json")


def take(request: HttpRequest) -> None:
    """Read the body, as a POST of a polling client is read."""
    request.authenticated()
    request.read_body(1_000_000, taken)


def taken(request: HttpRequest, body: bytes) -> None:
    """Answer as such a POST is answered."""
    request.reply(200, b"ok", "text/html")


class RoutedServer(Server):
    """A server with the paths."""

    async def start(self) -> None:
        """Put the paths in before the port is open."""
        self.front.routes |= {b"/answer": answer, b"/take": take}
        await super().start()


if __name__ == "__main__":
    run.Server = RoutedServer  # type: ignore[misc]
    cli.main()
