"""python-socketio on uvicorn and uvloop, its users let in by an HS256 token: rooms and acknowledgements.

    SECRET=... python pysocketio_app.py PORT

The token is checked with the standard library, which costs the least.
"""

import base64
import hmac
import json
import os
import sys
import time

import socketio
import uvicorn

SECRET = os.environ["SECRET"].encode()
sio = socketio.AsyncServer(async_mode="asgi", max_http_buffer_size=100_000)


def decode(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def verify(token):
    signed, _, signature = token.rpartition(".")
    if not hmac.compare_digest(decode(signature), hmac.digest(SECRET, signed.encode(), "sha256")):
        raise ValueError("signature")
    claims = json.loads(decode(signed.partition(".")[2]))
    if not isinstance(claims["sub"], str) or claims["exp"] < time.time():
        raise ValueError("claims")
    return claims["sub"]


@sio.event
async def connect(sid, environ, auth):
    try:
        user = verify(auth["token"])
    except Exception:
        raise socketio.exceptions.ConnectionRefusedError("unauthorized") from None
    await sio.save_session(sid, {"user": user})
    await sio.enter_room(sid, "everybody")


@sio.on("pub")
async def publish(sid, message):
    await sio.emit("msg", message, room="everybody")


@sio.on("echo")
async def echo(sid, message):
    return message


uvicorn.run(
    socketio.ASGIApp(sio),
    host="127.0.0.1",
    port=int(sys.argv[1]),
    log_level="warning",
    ws="websockets",
    loop="uvloop",
    backlog=4096,
    timeout_keep_alive=60,
)
