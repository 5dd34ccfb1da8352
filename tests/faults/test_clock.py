"""The wall clock is set while the server runs: durations go on as before, tokens go by the clock."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from fastim.guard.tokens import issue
from tests.e2e.serving import ROOT, ServerProcess, Start, open_client
from tests.support.herd import make_conversations
from tests.support.senders import read_history

HOUR_S = 3600.0
SETTINGS = {
    "FASTIM_MESSAGING__TYPING_TIMEOUT_S": "0.5",
    "FASTIM_PRESENCE__GRACE_S": "0.2",
    "FASTIM_LIMITS__HELLO_TIMEOUT_S": "0.5",
    "FASTIM_HEARTBEAT__INTERVAL_S": "0.3",
    "FASTIM_MESSAGING__ACK_TIMEOUT_S": "0.3",
}


class Clock:
    """The server's wall clock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(struct.pack("d", 0.0))

    def shift(self, seconds: float) -> None:
        """Set the clock to so much more than it is here; in place, as the server has the file mapped."""
        with self._path.open("r+b") as file:
            file.write(struct.pack("d", seconds))


@pytest.fixture(name="clock")
def make_clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


def serve(start: Start, clock: Clock, **settings: str) -> ServerProcess:
    path = [ROOT / "tests/support/shifted_clock", ROOT / "src", ROOT]
    server = start(
        PYTHONPATH=os.pathsep.join(map(str, path)), SHIFTED_CLOCK=str(clock._path), **(SETTINGS | settings)
    )
    make_conversations(server.port, server.api_key, {"c": ["a", "b"]})
    return server


@pytest.mark.parametrize("shift_s", [-HOUR_S, HOUR_S / 2])
async def test_clock_when_set_then_what_counts_seconds_goes_on_as_before(
    start: Start, clock: Clock, shift_s: float
) -> None:
    server = serve(start, clock)
    hello = {"acks": True}
    async with open_client(server, "a") as one, open_client(server, "b", hello=hello) as two:
        await one.send("typing", {"conversation": "c", "typing": True})
        assert (await two.receive_event("state_batch"))["updates"][0]["typing"] is True
        first = (await say(one, "before"))["time"]
        assert (await two.receive_event("new_message"))["seq"] == 1
        clock.shift(shift_s)
        # The typing state that was begun before ends; what is not acknowledged comes again.
        while (await two.receive_event("state_batch"))["updates"][0]["typing"]:
            pass
        assert (await two.receive_event("new_message"))["seq"] == 1
        await two.send("ack", {"conversation": "c", "seq": 1})
        # Times go by the clock, the order by seq.
        second = await say(one, "behind")
        assert second["seq"] == 2
        assert abs(second["time"] - first - shift_s * 1000) < 60_000
        while (await two.receive_event("new_message"))["seq"] != 2:
            pass
        # A repeat is one whatever the time is; so is a session.
        assert (await say(one, "before"))["duplicate"] is True
        assert [each["seq"] for each in await read_history(one, "c")] == [1, 2]
    resume = {"session": two.ok["session"], "seen": {"c": 1}}
    hello = {"resume": resume, "device": two.ok["device"], "token": token_at(server, "b", shift_s)}
    async with open_client(server, "b", hello=hello) as again:
        assert again.ok["resumed"] is True
        assert (await again.receive_event("new_message"))["seq"] == 2
        # Who says nothing is closed in time, whoever answers pings is not, and grace times end.
        async with open_client(server) as silent:
            assert (await silent.closed())[0] == 4014
        await again.request("presence_subscribe", {"users": ["a"]})
        async with open_client(server, "a", hello={"token": token_at(server, "a", shift_s)}):
            assert (await again.receive_event("state_batch"))["updates"][0]["status"] == "online"
        while (await again.receive_event("state_batch"))["updates"][0]["status"] != "offline":
            pass
        assert again.socket.close_code is None
    assert server.stop() == 0


async def say(client: Any, text: str) -> dict[str, Any]:
    event, body = await client.request(
        "message", {"conversation": "c", "content": text, "client_id": f"id of {text}"}
    )
    assert event == "ok", body
    return body  # type: ignore[no-any-return]


async def test_clock_when_set_back_then_tokens_of_the_old_time_are_taken_within_the_leeway(
    start: Start, clock: Clock
) -> None:
    server = serve(start, clock)
    async with open_client(server, "a") as client:
        clock.shift(-5)
        assert (await hello_with(server, server.token("a")))[0] == "ok"
        clock.shift(-60)
        event, error = await hello_with(server, server.token("a"))
        assert (event, error["code"]) == ("error", "unauthorized")
        assert "iat" in error["message"]
        # One that was made by the server's own clock is fine, and who is in stays in.
        assert (await hello_with(server, token_at(server, "a", -60)))[0] == "ok"
        assert (await client.request("ping", {}))[0] == "ok"


async def test_clock_when_set_forward_then_old_tokens_are_over_but_who_is_in_stays(
    start: Start, clock: Clock
) -> None:
    server = serve(start, clock)
    async with open_client(server, "a") as client:
        clock.shift(2 * HOUR_S)
        assert (await hello_with(server, server.token("a")))[1]["code"] == "unauthorized"
        # Its deadline was set by the monotonic clock; a new token moves it.
        fresh = {"token": token_at(server, "a", 2 * HOUR_S)}
        assert (await client.request("refresh", fresh))[0] == "ok"
        assert (await client.request("ping", {}))[0] == "ok"


def token_at(server: ServerProcess, user: str, shift_s: float) -> str:
    """Make a token by a clock that was set."""
    secret = (server.data / "secret").read_bytes().strip()
    return issue(secret, user, now_s=time.time() + shift_s)


async def hello_with(server: ServerProcess, token: str) -> list[Any]:
    async with open_client(server) as client:
        return await client.request("hello", {"token": token, "device": "other"})
