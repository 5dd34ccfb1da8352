"""Chat rooms, moved over from a Socket.IO server on Node: ``python -m examples.chat_rooms``.

``docs/coming-from-socketio.md`` shows both sides. Clients of Socket.IO and native ones share the rooms.
"""

from typing import Any

from fastim import ConnectionRefused, Context, FastIM, Handshake

app = FastIM()
app.namespace(
    "/", messaging=False
)  # the rooms are all there is; leave it out, and messages are stored as well


@app.authenticate
def who(handshake: Handshake) -> str:
    """Take anybody who says a name."""
    name = handshake.auth.get("name") if isinstance(handshake.auth, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= 40:
        raise ConnectionRefused("who are you?", {"field": "name"})
    return name


@app.on("join")
def join(ctx: Context, room: str) -> dict[str, Any]:
    """Enter a room; the others in it are told."""
    if not isinstance(room, str):
        return {"error": "a room has a name"}
    ctx.join(room)
    app.emit("joined", room, ctx.user, to=room, skip=ctx.sid)
    return {"ok": True}


@app.on("say")
def say(ctx: Context, room: str, text: str) -> dict[str, Any]:
    """Say something to all in a room, oneself included."""
    if room not in ctx.rooms:
        return {"error": "you are not in this room"}
    app.emit("said", room, ctx.user, text, to=room)
    return {"ok": True}


@app.on("typing")
def typing(ctx: Context, room: str) -> None:
    """Tell the others; who is behind with messages does not need to know."""
    if room in ctx.rooms:
        app.emit("typing", room, ctx.user, to=room, skip=ctx.sid, volatile=True)


@app.on_disconnect
def left(ctx: Context, reason: str) -> None:
    """Tell the rooms that somebody was in."""
    for room in ctx.rooms:
        app.emit("left", room, ctx.user, to=room)


if __name__ == "__main__":
    app.run(port=8765)
