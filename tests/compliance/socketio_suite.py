"""A Socket.IO server for conformance suites.

    python tests/compliance/socketio_suite.py PORT

Socket.IO at /socket.io/, with short pings and a short time to connect: the namespaces ``/`` and ``/custom``
tell each client with what auth it came; ``/`` sends messages back. Port 0 picks one; the first line of
standard output says which.
"""

from __future__ import annotations

import argparse
from typing import Any

from fastim import Context, FastIM

app = FastIM()


@app.on_connect
@app.on_connect(namespace="/custom")
def tell_auth(ctx: Context) -> None:
    ctx.emit("auth", ctx.handshake.auth)


@app.on("message")
def send_back(ctx: Context, *args: Any) -> None:
    ctx.emit("message-back", *args)


@app.on("message-with-ack")
def acknowledge(ctx: Context, *args: Any) -> tuple[Any, ...]:
    return args


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    app.run(
        port=arguments.port,
        auth={"required": False},
        messaging={"enabled": False},
        engineio={"ping_interval_s": 0.3, "ping_timeout_s": 0.2},
        socketio={"connect_timeout_s": 1.0, "recovery_s": 0},
        limits={
            "max_message_bytes": 1_000_000,
            "connects_per_minute_per_address": 0,
            "packets_per_second": 0,
        },
    )


if __name__ == "__main__":
    main()
