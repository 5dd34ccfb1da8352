"""HTTP requests answered in the hub, beside the same through the hand-over to uvicorn."""

from __future__ import annotations

from benchmarks.system.load import Figures, build_c, run
from benchmarks.system.rows import Options, Ratio, Result, Row
from benchmarks.system.servers import Server, fastim

__all__ = ["REQUESTS"]

CONNECTIONS = 64
BODY_BYTES = 100


def ask(options: Options, server: Server, path: str, *size: str) -> Figures:
    """Ask on kept connections, one request at a time on each; see request_load.c."""
    count, seconds = str(options.count(CONNECTIONS)), str(options.seconds)
    words = [build_c("request_load"), str(server.port), count, seconds, str(server.pid), path, *size]
    return run(options.lab.pinned(*words, load=True))


def requests(options: Options) -> Result:
    """CPU of a request and its answer, user and system."""
    with fastim(options.lab, module="benchmarks.system.request_server", application=None) as server:
        return {
            "hub": ask(options, server, "/answer"),
            "hub-post": ask(options, server, "/take", str(BODY_BYTES)),
            "uvicorn": ask(options, server, "/healthz"),
        }


REQUESTS = {
    "requests": Row(
        f"HTTP requests on {CONNECTIONS} kept connections, in the hub and through uvicorn",
        requests,
        [Ratio("hub.request_cpu_us", at_most=25), Ratio("hub.requests_per_s", "uvicorn.requests_per_s", 5)],
    ),
}
