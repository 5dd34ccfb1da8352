"""An application that makes mistakes: how its clients fare is what the tests ask."""

from __future__ import annotations

import asyncio
from typing import Any

from fastim import ConnectionRefused, Context, FastIM, Handshake

app = FastIM(threads=1)
app.namespace("/chat")


@app.authenticate
def who_is(handshake: Handshake) -> str | None:
    if handshake.auth.get("how") == "stranger":
        raise ConnectionRefusedError("we have not met")
    return None


@app.middleware
def look(ctx: Context) -> None:
    how = ctx.handshake.auth.get("how")
    if how == "unsendable":
        raise ConnectionRefused("not you", {"why": object()})
    if how == "porter":
        raise ConnectionRefusedError("not today")
    if how == "down":
        raise ConnectionRefusedError(111, "Connect call failed ('10.0.0.1', 5432)")


@app.on_connect
def greet(ctx: Context) -> None:
    how = ctx.handshake.auth.get("how")
    if how == "broken":
        raise LookupError("no such greeting")
    if how == "late porter":
        raise ConnectionRefusedError("go away")


@app.on_connect
async def greet_later(ctx: Context) -> None:
    how = ctx.handshake.auth.get("how")
    await asyncio.sleep(0)
    if how == "hangs":
        await asyncio.Event().wait()
    if how == "broken later":
        raise LookupError("no such greeting")
    ctx.emit("in")


@app.on("ret")
def ret(ctx: Context, *args: Any) -> object:
    return object()


@app.on("ret later")
async def ret_later(ctx: Context, *args: Any) -> object:
    return object()


@app.on("hang")
async def hang(ctx: Context, *args: Any) -> None:
    await asyncio.Event().wait()


@app.on("rooms")
async def rooms(ctx: Context) -> list[Any]:
    """Return who is in a room, as another than its members moves them."""
    app.join(ctx.sid, "room")
    app.join("nobody", "room")
    found: list[Any] = [app.members("room") == [ctx.sid], await asyncio.to_thread(app.members, "room")]
    app.leave(ctx.sid, "room")
    found.append(app.members("room"))
    app.join(ctx.sid, "room")
    app.close_room("room")
    return [*found, app.members("room"), list(ctx.rooms), app.members("none", namespace="/chat")]


@app.on("calls")
async def calls(ctx: Context) -> list[Any]:
    """Return what comes of asking whom there is not, by one name and by a list."""
    try:
        await app.call("question", to="nobody")
    except ConnectionError as error:
        return [str(error), await app.call("question", to=["nobody"])]
    return []


@app.on("emits")
async def emits(ctx: Context, event: str) -> list[str]:
    """Return what each way of sending says about the name of an event, or a value."""
    value = object() if event == "fine" else None
    ways = [
        lambda: ctx.emit(event, value),
        lambda: app.emit(event, value, to=ctx.sid),
        lambda: app.broadcast("room", event),
        lambda: app.send(event),
        lambda: ctx.broadcast("room", event),
        lambda: app.emit("x", namespace="nope"),
        lambda: app.emit("x", namespace="/nope"),
        lambda: app.emit("x", to=5),  # type: ignore[arg-type]
        lambda: app.emit("x", to={}),
    ]
    said = [_said(way) for way in ways]
    said += [await asyncio.to_thread(_said, way) for way in ways]
    for asking in (
        ctx.call(event, value, timeout_s=0.01),
        app.call(event, value, to=ctx.sid, timeout_s=0.01),
    ):
        try:
            await asking
        except (ValueError, TypeError, TimeoutError) as error:
            said.append(str(error))
    return said


@app.on("asks")
async def asks(ctx: Context) -> str:
    try:
        await ctx.call("question", timeout_s=0.01)
    except TimeoutError as error:
        return str(error)
    return ""


def _said(way: Any) -> str:
    try:
        way()
    except (ValueError, TypeError) as error:
        return str(error)
    return ""
