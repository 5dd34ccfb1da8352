"""The application of the end-to-end tests."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from fastim import Context, FastIM
from fastim.errors import ErrorCode, RequestError

app = FastIM(threads=2)
gone: list[str] = []
held: dict[str, asyncio.Event] = {}


@app.on_connect
def joined(ctx: Context) -> None:
    ctx.state["connected"] = True
    ctx.join("everybody")


@app.on_connect
async def joined_later(ctx: Context) -> None:
    if ctx.user == "late":
        await asyncio.sleep(0.05)
    if ctx.user == "unwelcome":
        raise RequestError(ErrorCode.FORBIDDEN, "not you")
    ctx.state["ready"] = True


@app.on_disconnect
def left(ctx: Context) -> None:
    gone.append(ctx.user)


@app.on("echo")
def echo(ctx: Context, body: Any) -> Any:
    return body


@app.on("echo.async")
async def echo_async(ctx: Context, body: Any) -> Any:
    async with asyncio.timeout(5):
        await asyncio.sleep(0)
    return body


@app.on("echo.thread", thread=True)
def echo_thread(ctx: Context, body: Any) -> Any:
    ctx.emit("from.thread", threading.current_thread().name)
    ctx.join("threads")
    ctx.broadcast("threads", "to.threads", body)
    return body


@app.on("who", code=300)
def who(ctx: Context, body: Any) -> Any:
    return {"user": ctx.user, "device": ctx.device, "session": ctx.session, "state": ctx.state}


@app.on("fail")
def fail(ctx: Context, body: Any) -> Any:
    raise LookupError(f"Traceback of a test: {body}")


@app.on("fail.async")
async def fail_async(ctx: Context, body: Any) -> Any:
    await asyncio.sleep(0)
    raise LookupError("Traceback of a test")


@app.on("fail.thread", thread=True)
def fail_thread(ctx: Context, body: Any) -> Any:
    raise LookupError("Traceback of a test")


@app.on("refuse")
def refuse(ctx: Context, body: Any) -> Any:
    raise RequestError(ErrorCode.CONFLICT, "no")


@app.on("unencodable")
def unencodable(ctx: Context, body: Any) -> Any:
    return {1, 2}


@app.on("publish")
def publish(ctx: Context, body: Any) -> None:
    ctx.broadcast(body["topic"], "published", body["value"], include_self=body.get("self", True))


@app.on("leave")
def leave(ctx: Context, body: Any) -> None:
    ctx.leave(body)


@app.on("join")
def join(ctx: Context, body: Any) -> None:
    ctx.join(body)


@app.on("ask")
async def ask(ctx: Context, body: Any) -> Any:
    return await ctx.ask("question", body, timeout_s=5)


@app.on("ask.briefly")
async def ask_briefly(ctx: Context, body: Any) -> Any:
    try:
        return await ctx.ask("question", body, timeout_s=0.05)
    except TimeoutError:
        return "no answer"


@app.on("ask.thread", thread=True)
def ask_thread(ctx: Context, body: Any) -> Any:
    return ctx.ask_blocking("question", body, timeout_s=5)


@app.on("hold")
async def hold(ctx: Context, body: Any) -> str:
    """Wait until somebody says ``release``."""
    await held.setdefault(body, asyncio.Event()).wait()
    return body


@app.on("release")
def release(ctx: Context, body: Any) -> None:
    held.pop(body).set()


@app.on("gone")
def who_is_gone(ctx: Context, body: Any) -> list[str]:
    return gone


@app.on("sleep", thread=True)
def sleep(ctx: Context, body: float) -> None:
    time.sleep(body)


@app.on("bye")
def bye(ctx: Context, body: Any) -> None:
    ctx.emit("last", body)
    ctx.close(4005, "removed")
