"""The application of the tests of connection state recovery."""

from __future__ import annotations

from typing import Any

from fastim import ConnectionRefused, Context, FastIM

app = FastIM()
asked: dict[str, int] = {}  # how often the middleware was asked about a user

left_with: dict[str, Any] = {}  # what was kept with a connection's session at its end, by its sid


@app.middleware
async def count(ctx: Context) -> None:
    asked[ctx.user] = asked.get(ctx.user, 0) + 1
    if "note" in ctx.handshake.auth:
        ctx.session["note"] = ctx.handshake.auth["note"]
    if ctx.handshake.auth.get("refused"):
        raise ConnectionRefused("refused")


@app.on_connect
@app.on_connect(namespace="/chat")
def welcome(ctx: Context) -> None:
    ctx.emit("welcome", {"recovered": ctx.recovered, "auth": sorted(ctx.handshake.auth)})


@app.on("state")
@app.on("state", namespace="/chat")
def state(ctx: Context) -> dict[str, Any]:
    return {
        "sid": ctx.sid,
        "recovered": ctx.recovered,
        "rooms": sorted(ctx.rooms),
        "session": ctx.session,
        "asked": asked.get(ctx.user, 0),
    }


@app.on_disconnect
def left(ctx: Context) -> None:
    left_with[ctx.sid] = dict(ctx.session)


@app.on("left-with")
def what_it_left_with(ctx: Context, sid: str) -> Any:
    return left_with.pop(sid, None)


@app.on("keep")
@app.on("keep", namespace="/chat")
def keep(ctx: Context, name: str, value: Any) -> None:
    ctx.session[name] = value


@app.on("keep-object")
def keep_object(ctx: Context) -> None:
    ctx.session["object"] = object()


@app.on("join")
@app.on("join", namespace="/chat")
def join(ctx: Context, room: str) -> None:
    ctx.join(room)


@app.on("leave")
def leave(ctx: Context, room: str) -> None:
    ctx.leave(room)


@app.on("send")
@app.on("send", namespace="/chat")
def send(ctx: Context, to: Any, *args: Any) -> None:
    app.emit("event", *args, to=to, namespace=ctx.namespace)


@app.on("send-others")
def send_others(ctx: Context, to: Any, *args: Any) -> None:
    app.emit("event", *args, to=to, skip=ctx.sid)


@app.on("send-volatile")
def send_volatile(ctx: Context, to: Any, *args: Any) -> None:
    app.emit("event", *args, to=to, volatile=True)


@app.on("send-users")
def send_users(ctx: Context, users: list[str], body: Any) -> None:
    app.send("event", body, users=users)


@app.on("reply")
def reply(ctx: Context, *args: Any) -> None:
    ctx.emit("event", *args)


@app.on("kick")
def kick(ctx: Context) -> None:
    ctx.disconnect()


@app.on("drop")
def drop(ctx: Context) -> None:
    ctx.close(1001)


@app.on("ask-me")
async def ask_me(ctx: Context, value: Any) -> Any:
    return await ctx.call("question", value)


@app.on("put-out")
def put_out(ctx: Context, sid: str) -> None:
    app.disconnect(sid)
