"""picows on uvloop: frames in, frames out, nothing decoded."""

import sys

import uvloop
from picows import WSListener, WSMsgType, ws_create_server

port, mode = int(sys.argv[1]), sys.argv[2]
transports = set()


class Peer(WSListener):
    def on_ws_connected(self, transport):
        transports.add(transport)

    def on_ws_disconnected(self, transport):
        transports.discard(transport)

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(1000)
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            payload = frame.get_payload_as_bytes()
            for receiver in (transport,) if mode == "echo" else transports:
                receiver.send(frame.msg_type, payload)


async def main():
    server = await ws_create_server(lambda request: Peer(), "127.0.0.1", port)
    await server.serve_forever()


uvloop.run(main())
