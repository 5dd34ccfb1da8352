"""A Socket.IO application that does a little of everything, for clients to try a server with.

    python tests/compliance/check_app.py PORT [--parser msgpack] [--recovery]

Namespaces ``/`` and ``/chat``; who does not come with the token ``lab-token`` is refused. Port 0 picks one;
the first line of standard output says which.
"""

from __future__ import annotations

import argparse
from typing import Any

from fastim import NO_ACK, ConnectionRefused, Context, FastIM, Handshake

TOKEN = "lab-token"
GOING_AWAY = 1001
RECOVERY_S = 120

app = FastIM()


@app.authenticate
def check_token(handshake: Handshake) -> None:
    """Let in, as anonymous, whoever has the token."""
    if handshake.token != TOKEN:
        raise ConnectionRefused("unauthorized", {"code": 401})


@app.on_connect
@app.on_connect(namespace="/chat")
def welcome(ctx: Context) -> None:
    ctx.emit("welcome", {"sid": ctx.sid, "auth": ctx.handshake.auth})


@app.on("echo")
@app.on("echo", namespace="/chat")
def echo(ctx: Context, *args: Any) -> tuple[Any, ...]:
    return args


@app.on("echo-event")
def echo_event(ctx: Context, *args: Any) -> None:
    ctx.emit("echo-event-back", *args)


@app.on("ask-me")
async def ask(ctx: Context, x: Any) -> Any:
    return await ctx.call("question", x)


@app.on("join")
def join(ctx: Context, room: str) -> str:
    ctx.join(room)
    return "ok"


@app.on("leave")
def leave(ctx: Context, room: str) -> str:
    ctx.leave(room)
    return "ok"


@app.on("to-room")
def to_room(ctx: Context, room: str, payload: Any) -> str:
    app.emit("room-msg", room, payload, to=room)
    return "ok"


@app.on("to-room-others")
def to_room_others(ctx: Context, room: str, payload: Any) -> str:
    app.emit("room-msg", room, payload, to=room, skip=ctx.sid)
    return "ok"


@app.on("broadcast")
def broadcast(ctx: Context, payload: Any) -> str:
    app.emit("broadcast-msg", payload, skip=ctx.sid)
    return "ok"


@app.on("transport")
def tell_transport(ctx: Context) -> str:
    return ctx.transport


@app.on("silent")
def be_silent(ctx: Context, *args: Any) -> Any:
    return NO_ACK


@app.on("kick")
def kick(ctx: Context) -> None:
    ctx.disconnect()


@app.on("drop")
def drop(ctx: Context) -> None:
    ctx.close(GOING_AWAY)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("--parser", choices=("auto", "json", "msgpack"), default="auto")
    parser.add_argument("--recovery", action="store_true", help="bring sessions back with what they missed")
    arguments = parser.parse_args()
    app.run(
        port=arguments.port,
        auth={"required": False},
        messaging={"enabled": False},
        socketio={"parser": arguments.parser, "recovery_s": RECOVERY_S if arguments.recovery else 0},
        limits={
            "connects_per_minute_per_address": 0,
            "messages_per_minute": 0,
            "packets_per_second": 0,
            "unfinished_requests": 1_000,
        },
    )


if __name__ == "__main__":
    main()
