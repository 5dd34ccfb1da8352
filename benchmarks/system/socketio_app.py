"""What the peers' Socket.IO applications do, on fastim: rooms and acknowledgements, users by their token."""

from typing import Any

from fastim import Context, FastIM

app = FastIM()


@app.on_connect
def enter(ctx: Context) -> None:
    ctx.join("everybody")


@app.on("pub")
def publish(ctx: Context, message: Any) -> None:
    app.emit("msg", message, to="everybody")


@app.on("echo")
def echo(ctx: Context, message: Any) -> Any:
    return message
