"""A board of prices, moved over from python-socketio: ``python -m examples.price_board``.

``docs/coming-from-python-socketio.md`` shows both sides.
"""

import asyncio
import itertools
from typing import Any

from fastim import ConnectionRefused, Context, FastIM, Handshake

TOKENS = {"trader-token": "trader", "viewer-token": "viewer"}  # a real one asks its users' service

app = FastIM()
prices: dict[str, float] = {"ACME": 100.0}


@app.authenticate
async def authenticate(handshake: Handshake) -> str:
    """Say whose token it is, as a call to another service would."""
    role = TOKENS.get(handshake.token or "")
    if role is None:
        raise ConnectionRefused("bad token", {"code": 401})
    return role


@app.on_connect(namespace="/prices")
def connected(ctx: Context) -> None:
    """Greet; the session lives through reconnects."""
    ctx.session.setdefault("watched", [])
    ctx.emit("board", prices)


@app.on("watch", namespace="/prices")
def watch(ctx: Context, symbol: str) -> float | None:
    """Be told of a price from now on; answers what it is."""
    ctx.join(symbol)
    ctx.session["watched"].append(symbol)
    return prices.get(symbol)


@app.on("set", namespace="/prices")
def set_price(ctx: Context, symbol: str, price: float) -> dict[str, Any]:
    """Change a price; those who watch it are told, encoded once for all of them."""
    if ctx.user != "trader":
        return {"error": "only traders set prices"}
    prices[symbol] = price
    app.emit("price", {"symbol": symbol, "price": price}, to=symbol, namespace="/prices")
    return {"ok": True}


@app.on("poll", namespace="/prices")
async def poll(ctx: Context, question: str) -> dict[str, Any]:
    """Ask everybody else, all at once."""
    answers, missing = await app.call(
        "question", question, to=None, skip=ctx.sid, namespace="/prices", timeout_s=2
    )
    return {"answers": answers, "missing": len(missing)}


@app.on_start
async def tick() -> None:
    """Tell the time of the board once a second; who is behind is spared."""
    for count in itertools.count(1):
        await asyncio.sleep(1)
        app.emit("tick", count, namespace="/prices", volatile=True)


if __name__ == "__main__":
    app.run(port=8765)
