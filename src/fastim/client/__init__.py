"""The asyncio client: ``async with connect(url, token=...) as client``."""

from fastim.client.connection import Connection, connect
from fastim.client.errors import CallTimeout, ClientError, ConnectionClosed, ConnectionLost
from fastim.client.events import Event, Sent
from fastim.client.link import Welcome

__all__ = [
    "CallTimeout",
    "ClientError",
    "Connection",
    "ConnectionClosed",
    "ConnectionLost",
    "Event",
    "Sent",
    "Welcome",
    "connect",
]
