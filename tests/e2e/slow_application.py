"""An application whose handlers take their time, for clients that do not wait for them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastim import Context, FastIM

app = FastIM(threads=2)
asked = asyncio.Event()


@app.on("later")
async def answer_later(ctx: Context, number: int) -> int:
    await asyncio.sleep(0.001)
    ctx.emit("done", number)
    return number


@app.on("in_a_thread", thread=True)
def answer_in_a_thread(ctx: Context, number: int) -> int:
    time.sleep(0.0005)
    ctx.emit("done", number)
    return number


@app.on("ask")
async def ask(ctx: Context, number: int) -> Any:
    await asyncio.sleep(0.001)
    return await ctx.call("question", number)


@app.on_connect(namespace="/asking")
async def ask_who_came(ctx: Context) -> None:
    ctx.session["name"] = await ctx.call("who", timeout_s=60)


@app.on_connect(namespace="/asking_late")
async def ask_who_came_when_let(ctx: Context) -> None:
    await asked.wait()
    ctx.session["name"] = await ctx.call("who", timeout_s=60)


@app.on("let_ask")
def let_ask(ctx: Context) -> None:
    asked.set()


@app.on("at_once", namespace="/asking_late")
@app.on("at_once", namespace="/asking")
def answer_by_name(ctx: Context, number: int) -> Any:
    return ctx.session["name"], number


@app.on("at_once")
def answer(ctx: Context, number: int) -> int:
    ctx.emit("done", number)
    return number
