"""uWebSockets through its Python binding; the handler is as short as one can be."""

import sys

from socketify import App, CompressOptions, OpCode  # noqa: F401

port, mode = int(sys.argv[1]), sys.argv[2]
app = App()


def opened(ws):
    ws.subscribe("room")


def echo(ws, message, opcode):
    ws.send(message, opcode)


def publish(ws, message, opcode):
    app.publish("room", message, opcode, mode == "deflate")


app.ws(
    "/*",
    {
        "compression": CompressOptions.SHARED_COMPRESSOR if mode == "deflate" else CompressOptions.DISABLED,
        "max_payload_length": 1 << 20,
        "idle_timeout": 0,
        "open": opened,
        "message": echo if mode == "echo" else publish,
    },
)
app.listen(port, lambda config: None)
app.run()
