"""An application of rooms, questions and its own events, for clients of any protocol."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
from typing import Any

import fastim
from fastim import Context, FastIM, Handshake, Identity

app = FastIM(threads=2)
TEAM = re.compile(r"/team-\d+")
seen: list[list[Any]] = []
connected: dict[str, Context] = {}


@app.authenticate
async def who_is(handshake: Handshake) -> Identity | str | None:
    """Take ``name:ROLE`` for a token; the native protocol's hello and Socket.IO's auth look alike here."""
    await asyncio.sleep(0)
    name, _, role = (handshake.token or "").partition(":")
    if role == "slow":
        await asyncio.sleep(60)
    if role == "broken":
        raise LookupError("a mistake of the application")
    if role == "odd":
        return 5  # type: ignore[return-value]
    if role == "banned":
        raise fastim.ConnectionRefused("banned", {"until": 2030})
    if role == "text":
        return name
    return Identity(name, device="d1", scope=[role]) if role else None


@app.middleware
def look(ctx: Context) -> bool | None:
    seen.append(["middleware", ctx.user, ctx.handshake.auth.get("token"), ctx.handshake.query.get("q")])
    if "locked" in ctx.scope:
        raise fastim.ConnectionRefused("locked", {"code": 7})
    if "early" in ctx.scope:
        ctx.emit("too early")
    return "closed" not in ctx.scope


@app.middleware
async def look_again(ctx: Context) -> None:
    await asyncio.sleep(0)
    seen.append(["again", ctx.user])


@app.on_connect
def came(ctx: Context) -> None:
    connected[ctx.sid] = ctx
    ctx.session["count"] = ctx.session.get("count", 0) + 1
    ctx.emit(
        "welcome", {"sid": ctx.sid, "agent": ctx.handshake.headers.get("user-agent", "").partition("/")[0]}
    )


@app.on_disconnect
def left(ctx: Context, reason: str) -> None:
    ctx.leave("r9")
    ctx.join("r8")
    seen.append(["left", ctx.user, reason, sorted(ctx.rooms)])


@app.on_start
def started() -> None:
    seen.append(["started", ""])


@app.on_start
async def work() -> None:
    seen.append(["works", ""])
    try:
        await asyncio.sleep(3600)
    finally:
        print("cancelled", file=sys.stderr)


@app.on_start
async def fail() -> None:
    raise LookupError("a mistake of the application")


@app.on("seen")
def what_was_seen(ctx: Context, who: Any) -> Any:
    return [entry for entry in seen if entry[1] == who]


@app.on("session")
def session(ctx: Context) -> Any:
    return {"session": ctx.session, "state": ctx.state, "id": ctx.session_id == ctx.sid}


@app.on("late")
def late(ctx: Context) -> str:
    try:
        return str(ctx.handshake)
    except RuntimeError as error:
        return str(error)


@app.on("about")
@app.on("about", namespace="/chat")
@app.on("about", namespace=TEAM)
def about(ctx: Context) -> Any:
    return [ctx.namespace, ctx.transport, ctx.user, sorted(ctx.rooms)]


@app.on("join")
@app.on("join", namespace="/chat")
@app.on("join", namespace=TEAM)
def join(ctx: Context, room: str) -> str:
    ctx.join(room)
    return "ok"


@app.on("sessions")
def sessions(ctx: Context, sid: str) -> Any:
    """Tell what is kept with another connection that was here."""
    return connected[sid].session


@app.on("leave")
def leave(ctx: Context, room: str) -> str:
    ctx.leave(room)
    return "ok"


@app.on("to", thread=True)
@app.on("to", thread=True, namespace="/chat")
@app.on("to", thread=True, namespace=TEAM)
def to(ctx: Context, body: dict[str, Any]) -> str:
    """Send from a thread: ``{to, skip, args}``."""
    skip = body.get("skip", ())
    app.emit("sent", *body.get("args", ()), to=body.get("to"), skip=skip, namespace=ctx.namespace)
    return threading.current_thread().name.partition("-")[0]


@app.on("add")
def add(ctx: Context, one: int, two: int) -> tuple[int, int]:
    return one + two, one * two


@app.on("silent")
def silent(ctx: Context, *args: Any) -> Any:
    return fastim.NO_ACK


@app.on("ask")
async def ask(ctx: Context, question: Any) -> Any:
    return await ctx.call("question", question, timeout_s=5)


@app.on("ask.room")
async def ask_room(ctx: Context, body: Any) -> Any:
    answers, missing = await app.call("question", body, to="askers", timeout_s=body)
    return [sorted(answers), len(missing)]


@app.on("ask.one", thread=True)
def ask_one(ctx: Context, sid: str) -> Any:
    return app.call_blocking("question", "you?", to=sid, timeout_s=5)


@app.on("ask.nobody")
async def ask_nobody(ctx: Context) -> Any:
    return await app.call("question", to=["no such room"])


@app.on("mistakes")
def mistakes(ctx: Context) -> list[str]:
    """Tell what wrong calls say."""
    calls: list[Any] = [
        lambda: app.emit("sent", to=5),  # type: ignore[arg-type]
        lambda: app.emit("sent", to=["a", 5]),  # type: ignore[list-item]
        lambda: app.emit("sent", skip=b"x"),  # type: ignore[arg-type]
        lambda: app.emit(5),  # type: ignore[arg-type]
        lambda: ctx.join(5),  # type: ignore[arg-type]
        lambda: ctx.emit("sent", {1, 2}),
        lambda: ctx.call_blocking("question"),
        lambda: app.call_blocking("question", to=ctx.sid),
    ]
    found = []
    for call in calls:
        try:
            call()
        except (TypeError, ValueError, RuntimeError) as error:
            found.append(f"{type(error).__name__}: {error}".partition(",")[0])
    return found


@app.on("mistakes.thread", thread=True)
def mistakes_in_a_thread(ctx: Context) -> str:
    calls = (
        lambda: app.emit("sent", object(), to="room"),
        lambda: app.send("sent", object(), users=["u"]),
        lambda: app.broadcast("room", "sent", object()),
        lambda: ctx.broadcast("room", "sent", object()),
    )
    found = 0
    for call in calls:
        try:
            call()
        except ValueError:
            found += 1
    if found == len(calls):
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            try:
                loop.run_until_complete(ctx.call("question"))
            except RuntimeError as error:
                return str(error)
    return "nothing"


@app.on("kick")
def kick(ctx: Context, sid: str) -> None:
    app.disconnect(sid)


@app.on("bye")
def bye(ctx: Context) -> None:
    ctx.emit("last")
    ctx.disconnect()


@app.on("typing")
def own_typing(ctx: Context, body: Any) -> str:
    return f"own {body}"


@app.on("*")
def anything(ctx: Context, event: str, *args: Any) -> Any:
    return [event, list(args)]


@app.on_connect(namespace="/chat")
@app.on_connect(namespace=TEAM)
def came_elsewhere(ctx: Context) -> None:
    ctx.emit("welcome", {"sid": ctx.sid})
