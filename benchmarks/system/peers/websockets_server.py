"""websockets on uvloop, with its own broadcast; "deflate": with its compression as it comes."""

import asyncio
import sys

import uvloop
from websockets.asyncio.server import broadcast, serve

port, mode = int(sys.argv[1]), sys.argv[2]
sockets = set()


async def handle(socket):
    sockets.add(socket)
    try:
        async for message in socket:
            if mode == "echo":
                await socket.send(message)
            else:
                broadcast(sockets, message)
    finally:
        sockets.discard(socket)


async def main():
    compression = "deflate" if mode == "deflate" else None
    async with serve(handle, "127.0.0.1", port, compression=compression, ping_interval=None, backlog=4096):
        await asyncio.Future()


uvloop.run(main())
