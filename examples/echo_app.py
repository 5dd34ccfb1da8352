"""An echo and a broadcast: ``fastim serve examples.echo_app:app``.

``echo`` answers its body; ``pub`` sends its text to everybody who is connected, the sender included.
"""

from typing import Any

from fastim import Context, FastIM

app = FastIM()


@app.on_connect
def join(ctx: Context) -> None:
    """Let every connection hear what is published."""
    ctx.join("everybody")


@app.on("echo")
def echo(ctx: Context, body: Any) -> Any:
    """Answer what came."""
    return body


@app.on("pub")
def publish(ctx: Context, body: Any) -> None:
    """Send ``{"text": ...}`` to everybody; a bare string is taken as the text."""
    text = body.get("text") if isinstance(body, dict) else body
    ctx.broadcast("everybody", "msg", {"text": text})
