"""An application that does not let every device in."""

from __future__ import annotations

import asyncio

from fastim import Context, FastIM
from fastim.errors import ErrorCode, RequestError

app = FastIM()


@app.on_connect
async def look(ctx: Context) -> None:
    await asyncio.sleep(0)
    if ctx.device == "unwelcome":
        raise RequestError(ErrorCode.FORBIDDEN, "not this device")
