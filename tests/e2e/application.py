"""The application of the end-to-end tests."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from fastim import Context, EndedSession, EngineConnection, FastIM
from fastim.errors import ErrorCode, RequestError

app = FastIM(threads=2)
gone: list[str] = []
undelivered: list[dict[str, Any]] = []
ended: list[list[str]] = []
ended_later: list[str] = []
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


@app.on("round_trip")
def round_trip(ctx: Context, body: Any) -> float | None:
    return ctx.rtt_ms


@app.on("round_trip.in_a_thread", thread=True)
def round_trip_in_a_thread(ctx: Context, body: Any) -> float | None:
    return ctx.rtt_ms


@app.on_disconnect
def left(ctx: Context) -> None:
    gone.append(ctx.user)


@app.on_undelivered
async def not_delivered(event: dict[str, Any]) -> None:
    undelivered.append(event)


@app.on("undelivered")
def tell_undelivered(ctx: Context, body: Any) -> Any:
    return undelivered


@app.on_session_end
def session_ended(session: EndedSession) -> None:
    ended.append([session.user, session.device, session.session, session.reason])


@app.on_session_end
async def session_ended_later(session: EndedSession) -> None:
    await asyncio.sleep(0)
    ended_later.append(session.session)


@app.on("ended")
def which_ended(ctx: Context, body: Any) -> list[list[str]]:
    return [entry for entry in ended if entry[0] == body]


@app.on("ended.later")
def which_ended_later(ctx: Context, body: Any) -> list[str]:
    return ended_later


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
    return {"user": ctx.user, "device": ctx.device, "session": ctx.session_id, "state": ctx.state}


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


@app.on("announce", thread=True)
def announce(ctx: Context, body: Any) -> None:
    app.system(**body)


@app.on("block")
def block(ctx: Context, body: float) -> None:
    """Do what no handler should: hold up the loop."""
    time.sleep(body)


@app.on("bye")
def bye(ctx: Context, body: Any) -> None:
    ctx.emit("last", body)
    ctx.close(4005, "removed")


@app.on("send.to")
def send_to(ctx: Context, body: Any) -> Any:
    """Make several sends within one turn of the loop."""
    for sent in body:
        app.send("sent", sent["what"], users=sent.get("users", ()), connections=sent.get("connections", ()))
    return ctx.connection


@app.on("send.thread", thread=True)
def send_from_a_thread(ctx: Context, body: Any) -> None:
    app.send("sent", body, users=[ctx.user])


@app.on("send.wrong")
def send_wrongly(ctx: Context, body: Any) -> list[str]:
    found = []
    for users, connections in (("bob", ()), ((), ["x"]), ((), [-1])):
        try:
            app.send("sent", None, users=users, connections=connections)
        except TypeError as error:
            found.append(str(error).partition(":")[0])
    return found


@app.engineio("/engine.io/")
def send_back(connection: EngineConnection, data: str | bytes) -> None:
    connection.send(data)
