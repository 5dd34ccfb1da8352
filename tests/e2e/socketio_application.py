"""The application of the tests of Socket.IO."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from fastim import NO_ACK, ConnectionRefused, Context, FastIM
from fastim.errors import ErrorCode, RequestError

app = FastIM(threads=2)
gone: list[list[str]] = []
passed: list[list[str]] = []
held: dict[str, asyncio.Event] = {}

app.namespace("/packed", parser="msgpack")
app.namespace("/quiet", messaging=False)
ROOMS = re.compile(r"/room-\d+")


@app.middleware
async def check(ctx: Context) -> None:
    if ctx.handshake.auth.get("wait"):
        await held.setdefault(ctx.handshake.auth["wait"], asyncio.Event()).wait()
    reason = ctx.handshake.auth.get("refused")
    if reason is not None:
        raise ConnectionRefused("unauthorized", reason or None)


@app.on_connect
@app.on_connect(namespace="/chat")
async def tell_auth(ctx: Context) -> None:
    auth = ctx.handshake.auth
    if auth.get("slow"):
        await asyncio.sleep(0.05)
    if auth.get("unwelcome"):
        raise ConnectionRefused("not you", {"code": 402})
    if auth.get("greet"):
        ctx.emit("auth", {key: value for key, value in auth.items() if key != "token"})


@app.on_disconnect
@app.on_disconnect(namespace="/chat")
def left(ctx: Context, reason: str) -> None:
    gone.append([ctx.user, reason])


@app.on("gone")
def who_is_gone(ctx: Context, user: str) -> list[str]:
    return [reason for name, reason in gone if name == user]


@app.on("who")
@app.on("who", namespace="/chat")
def who(ctx: Context) -> str:
    return ctx.user


@app.on("transport")
def transport(ctx: Context) -> str:
    return ctx.transport


@app.on("echo")
@app.on("echo", namespace="/chat")
@app.on("echo", namespace="/packed")
@app.on("echo", namespace="/quiet")
@app.on("echo", namespace=ROOMS)
def echo(ctx: Context, *args: Any) -> tuple[Any, ...]:
    return args


@app.on("echo.async")
async def echo_async(ctx: Context, *args: Any) -> tuple[Any, ...]:
    await asyncio.sleep(0)
    return args


@app.on("echo.thread", thread=True)
def echo_in_a_thread(ctx: Context, *args: Any) -> tuple[Any, ...]:
    return args


@app.on("echo-event")
def echo_event(ctx: Context, *args: Any) -> None:
    ctx.emit("echo-event-back", *args)


@app.on("nothing")
def nothing(ctx: Context) -> None:
    return None


@app.on("silent")
def silent(ctx: Context) -> Any:
    return NO_ACK


@app.on("one")
def takes_one(ctx: Context, value: Any) -> Any:
    return value


@app.on("fails")
def fails(ctx: Context, how: str) -> Any:
    if how == "request":
        raise RequestError(ErrorCode.CONFLICT, "no")
    if how == "value":
        return object()
    raise KeyError(how)


@app.on("ask-me")
async def ask_me(ctx: Context, value: Any) -> Any:
    return await ctx.call("question", value, timeout_s=5)


@app.on("ask-briefly")
async def ask_briefly(ctx: Context) -> str:
    try:
        await ctx.call("question", timeout_s=0.05)
    except TimeoutError:
        return "timed out"
    return "answered"


@app.on("hold")
async def hold(ctx: Context, name: str) -> str:
    await held.setdefault(name, asyncio.Event()).wait()
    return name


@app.on("release")
def release(ctx: Context, name: str) -> None:
    held.setdefault(name, asyncio.Event()).set()


@app.on("kick")
@app.on("kick", namespace="/chat")
def kick(ctx: Context, code: int = 1000) -> Any:
    ctx.close(code, "kicked")
    return NO_ACK


@app.on("typing", namespace="/own")
def own_typing(ctx: Context, *args: Any) -> list[Any]:
    return ["own", *args]


@app.on("message", namespace="/own")
def own_message(ctx: Context, text: str) -> None:
    ctx.emit("got", text)


@app.on_connect(namespace="/doors")
def first_door(ctx: Context) -> None:
    passed.append([ctx.user or ctx.namespace, "first"])
    if ctx.handshake.auth.get("out"):
        ctx.disconnect()


@app.on_connect(namespace="/doors")
@app.on_connect(namespace="/late")
async def async_door(ctx: Context) -> None:
    passed.append([ctx.user or ctx.namespace, "async"])


@app.on_disconnect(namespace="/doors")
@app.on_disconnect(namespace="/late")
def last_door(ctx: Context) -> None:
    passed.append([ctx.user or ctx.namespace, "last"])


@app.on("doors")
def doors(ctx: Context, who: str) -> list[str]:
    return [door for name, door in passed if name == who]
