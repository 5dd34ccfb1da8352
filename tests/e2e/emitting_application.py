"""An application without a handler, which sends to everybody by itself."""

from __future__ import annotations

import asyncio

from fastim import FastIM

app = FastIM()


@app.on_start
async def emit() -> None:
    while True:
        app.emit("event", "tick")
        await asyncio.sleep(0.05)
