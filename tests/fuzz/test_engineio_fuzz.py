"""Clients of Engine.IO that do whatever they like, in whatever order."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.polling import Answer
from tests.unit.server.engineio.engine_world import EngineWorld, WebSocket, serving

STATUSES = {200, 204, 400, 403, 408, 411, 413}
PACKETS = [b"4x", b"3", b"6", b"5", b"bAQI=", b"2probe", b"0", b"2", b"1"]
PIECES = ["EIO=4", "EIO=3", "transport=polling", "transport=websocket", "sid=x", "sid=", "j=0", "%", "t"]

payloads = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from(b"0123456b\x1e=A"), max_size=12).map(bytes),
    st.lists(st.sampled_from(PACKETS), max_size=5).map(b"\x1e".join),
)
queries = st.lists(st.sampled_from(PIECES), max_size=4).map("&".join)
acts = st.lists(st.tuples(st.integers(0, 10), payloads, queries), max_size=25)


class Visitor:
    """Everything that a client can do to its session."""

    def __init__(self, world: EngineWorld) -> None:
        self.world = world
        self.client = world.polling()
        self.sockets: list[WebSocket] = []

    def act(self, what: int, data: bytes, query: str) -> None:
        world, client = self.world, self.client
        answer: Answer | None = None
        socket = self.sockets[-1] if self.sockets and self.sockets[-1].is_open else None
        if what == 0:
            answer = client.get()
        elif what == 1:
            answer = client.post(data)
        elif what == 2:
            answer = world.http().ask("GET", client.query)
        elif what == 3:
            answer = world.http().ask("POST", client.query, data)
        elif what == 4:
            client.getting.vanish()
            client.getting = world.http()
        elif what == 5:
            self.sockets.append(world.websocket(client.sid))
        elif what == 6 and socket is not None:
            socket.send("2probe", "5")
        elif what == 7 and socket is not None:
            socket.send(data.decode("latin-1") if len(data) % 2 else data)
        elif what == 8:
            world.world.pass_time(1 + len(data))
        elif what == 9:
            answer = world.http().ask("GET", query)
        else:
            for session in list(world.engine.sessions.values()):
                session.send(data, binary=len(data) % 2 == 0)
        assert answer is None or answer.status in STATUSES


@given(acts)
@example([(0, b"", ""), (5, b"", ""), (6, b"", ""), (7, b"4xy", ""), (0, b"", "")])
@example([(0, b"", ""), (2, b"", ""), (1, b"4x", "")])
def test_whatever_clients_do_they_get_the_protocols_answers_and_nothing_is_left(
    steps: list[tuple[int, bytes, str]],
) -> None:
    async def visit() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with serving(Path(folder)) as world:
                neighbour = world.polling()
                visitor = Visitor(world)
                for step in steps:
                    visitor.act(*step)
                if world.echo.sessions[0] not in [session for session, _ in world.echo.closed_with]:
                    neighbour.send(b"4still here")
                    found = neighbour.get()
                    assert found is not None
                    assert b"4still here" in found.body
                # Nobody says a word any more: all of it ends by itself.
                world.world.pass_time(60)
                expect_nothing_left(world)

    asyncio.run(visit())


def expect_nothing_left(world: EngineWorld) -> None:
    world.turn()
    assert not world.engine.sessions
    assert not world.world.service.bridges
    assert not world.world.service.waiting
    closed = [session.sid for session, _ in world.echo.closed_with]
    assert sorted(closed) == sorted(session.sid for session in world.echo.sessions)
    assert (world.figures["polling_sessions"], world.figures["websocket_sessions"]) == (0, 0)


class Talk:
    """A client that numbers what it says, and does as the protocol wants it, on its way to a WebSocket."""

    def __init__(self, world: EngineWorld) -> None:
        self.world = world
        self.client = world.polling()
        self.session = world.echo.sessions[0]
        self.socket: WebSocket | None = None
        self.is_over = False
        self.polls = False
        self.sent: list[str] = []
        self.received: list[str] = []

    def say(self, count: int) -> None:
        packets = [f"4{len(self.sent) + place}" for place in range(count)]
        self.sent += [packet[1:] for packet in packets]
        if self.is_over:
            assert self.socket is not None
            self.socket.send(*packets)
        else:
            self.client.send("\x1e".join(packets).encode())

    def push(self) -> None:
        self.sent.append(f"{len(self.sent)}")
        self.session.send(self.sent[-1].encode(), False)

    def push_bytes(self) -> None:
        self.sent.append("bAAE=")
        self.session.send(b"\0\1", True)

    def get(self) -> None:
        if not self.is_over and not self.polls:
            self.polls = True
            self.take(self.client.get())

    def take(self, answer: Answer | None) -> None:
        if answer is None:
            return
        self.polls = False
        for packet in answer.body.decode().split("\x1e"):
            if packet != "6":
                self.received.append(packet if packet[0] == "b" else packet.removeprefix("4"))

    def probe(self) -> None:
        if self.socket is None:
            self.socket = self.world.websocket(self.client.sid)
            self.socket.send("2probe")
            assert self.socket.take() == ["3probe"]

    def go_over(self) -> None:
        if self.socket is None or self.is_over:
            return
        if self.polls:
            self.take(self.world.pass_until(self.client.getting.answer, 1))
        self.is_over = True
        self.socket.send("5")

    def finish(self) -> None:
        if self.is_over:
            assert self.socket is not None
            messages = self.socket.take()
            self.received += ["bAAE=" if isinstance(each, bytes) else each[1:] for each in messages]
        else:
            self.take(self.client.getting.answer() if self.polls else self.client.get())


WAYS = {
    "say": lambda talk: talk.say(1),
    "say two": lambda talk: talk.say(2),
    "push": Talk.push,
    "push bytes": Talk.push_bytes,
    "get": Talk.get,
    "probe": Talk.probe,
    "go over": Talk.go_over,
}


@given(st.lists(st.sampled_from(list(WAYS)), max_size=30))
@example(["push", "probe", "push", "get", "say", "push bytes", "go over", "push", "say two"])
@example(["get", "probe", "say", "get", "push", "go over", "say"])
def test_whatever_the_order_nothing_is_lost_or_doubled_on_the_way_to_a_websocket(steps: list[str]) -> None:
    async def talk() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with serving(Path(folder)) as world:
                one = Talk(world)
                for step in steps:
                    WAYS[step](one)
                    if one.polls:
                        one.take(one.client.getting.answer())
                one.finish()
                assert one.received == one.sent
                assert one.session.transport == ("websocket" if one.is_over else "polling")

    asyncio.run(talk())
