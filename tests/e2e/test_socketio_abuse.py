"""Whatever a client of Socket.IO sends: the protocol's error, its own connection at most, no other's."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.compliance.programs import Program, running
from tests.compliance.raw_websocket import Opcode, frame
from tests.e2e.raw_engine import ENDPOINT, Answer, RawHttp, RawPolling, RawSocketIO, request
from tests.e2e.serving import Start, wait_until

POLLING = f"{ENDPOINT}&transport=polling"


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with running("check_app.py", FASTIM_SOCKETIO__ATTACHMENTS_TIMEOUT_S="0.3") as started:
        yield started


@pytest.fixture
def neighbours(program: Program) -> Iterator[list[RawSocketIO | RawPolling]]:
    """Clients over each transport that hear of nothing that another does."""
    with RawSocketIO(program.port) as socket, RawPolling(program.port) as polling:
        both = [socket, polling]
        for neighbour in both:
            neighbour.echo()
        yield both
        for neighbour in both:
            neighbour.echo()


def connect_in(port: int, transport: str, *, enter: bool = True) -> RawSocketIO | RawPolling:
    return RawSocketIO(port, enter=enter) if transport == "websocket" else RawPolling(port, enter=enter)


def tell(client: RawSocketIO | RawPolling, packets: list[bytes]) -> None:
    """Send packets, of which those that begin with ``b`` are bytes in base64."""
    if isinstance(client, RawPolling):
        client.post(*packets)
        return
    for packet in packets:
        if packet.startswith(b"b"):
            client.send_until_refused(frame(Opcode.BINARY, b"\x00\x01"))
        else:
            client.send_until_refused(frame(Opcode.TEXT, packet))


PLACEHOLDER = b'{"_placeholder":true,"num":%s}'

# What ends the connection of who sends it: no later byte of it can be understood.
FATAL = {
    "an event before CONNECT to its namespace": [b'42/chat,["echo"]'],
    "a disconnect from a namespace it is not in, then an event": [b"41/chat,", b'42/chat,["echo"]'],
    "bytes that nothing announced": [b"bAAE="],
    "text where an attachment is due": [b'451-["echo",%s]' % (PLACEHOLDER % b"0"), b'42["echo"]'],
    "attachments that never come": [b'452-["echo",%s]' % (PLACEHOLDER % b"0"), b"bAAE="],
    "too many attachments": [b'45100000-["echo"]'],
    "more attachments than numbers hold": [b'4599999999999999999999-["echo"]'],
    "fewer than no attachments": [b'45-1-["echo"]'],
    "attachments that are not counted": [b'45["echo"]'],
    "a placeholder's number out of range": [b'451-["echo",%s]' % (PLACEHOLDER % b"1"), b"bAAE="],
    "a placeholder's number below zero": [b'451-["echo",%s]' % (PLACEHOLDER % b"-1"), b"bAAE="],
    "a placeholder's number that is text": [b'451-["echo",%s]' % (PLACEHOLDER % b'"0"'), b"bAAE="],
    "a placeholder's number that is a fraction": [b'451-["echo",%s]' % (PLACEHOLDER % b"0.5"), b"bAAE="],
    "a placeholder without a number": [b'451-["echo",{"_placeholder":true}]', b"bAAE="],
    "an unknown packet type": [b"48"],
    "a letter for a packet type": [b'4x["echo"]'],
    "no packet type": [b"4"],
    "an unknown packet type of Engine.IO": [b"8"],
    "a server's packet of Socket.IO": [b'44{"message":"x"}'],
    "an event that is no array": [b'42{"echo":1}'],
    "an event that is null": [b"42null"],
    "an event without a name": [b"42[]"],
    "an event whose name is an object": [b"42[{}]"],
    "an event that is cut off": [b'42["echo"'],
    "an event with more behind it": [b'42["echo"]["echo"]'],
    "an event without anything": [b"42"],
    "an event of 60,000 brackets": [b"42" + b"[" * 60_000],
    "NaN": [b'421["echo",NaN]'],
    "an acknowledgement that is no array": [b'431{"a":1}'],
    "an auth that is no object": [b'40/chat,"token"'],
    "a CONNECT that is cut off": [b'40/chat,{"token":'],
}

# What is answered or ignored, and the connection goes on.
HARMLESS = {
    "an acknowledgement that nobody asked for": [b'43999["x"]', b'430["x"]', b"439007199254740990[]"],
    "a namespace that does not exist": [b'40/nowhere,{"token":"lab-token"}'],
    "a namespace that does not exist, without its comma": [b"40/nowhere"],
    "a pong that nobody asked for": [b"3", b"3"],
    "an event that nobody serves": [b'42["no such event",1]', b'421["nor this"]'],
    "arguments that a handler does not take": [
        b'42["to-room"]',
        b'42["join",{},[],1]',
        b'421["transport",1]',
    ],
}

# What may be taken or not, as long as nobody else is touched.
ODD = {
    "CONNECT twice": [b'40{"token":"lab-token"}', b'40{"token":"lab-token"}'],
    "an acknowledgement without a number": [b'43["x"]'],
    "an acknowledgement with a number of 30 digits": [b'43999999999999999999999999999999["x"]'],
    "an event with a number of 30 digits": [b'42999999999999999999999999999999["echo"]'],
    "one attachment for two placeholders": [
        b'451-["echo",%s,%s]' % (PLACEHOLDER % b"0", PLACEHOLDER % b"0"),
        b"bAAE=",
    ],
    "attachments that nothing refers to": [b'452-["echo"]', b"bAAE=", b"bAAE="],
    "names that the protocol uses itself": [b'42["connect"]', b'42["disconnect"]', b'42["connect_error"]'],
    "a number for a name": [b"42[1,2]"],
    "a namespace of 50,000 characters": [b"40/" + b"x" * 50_000 + b","],
    "a namespace with a query": [b'40/chat?token=x,{"token":"lab-token"}'],
    "keys of objects' insides": [b'42["echo",{"__proto__":{"a":1},"constructor":1}]'],
    "300 namespaces": [b'40/n%d,{"token":"lab-token"}' % number for number in range(300)],
    "an upgrade that is none": [b"5"],
    "a probe that is none": [b"2probe"],
    "a noop": [b"6"],
    "a server's packet of Engine.IO": [b'0{"sid":"x"}'],
    "lone surrogates": [b'42["echo","\\ud800"]'],
    "large numbers": [b'42["echo",1e999,123456789012345678901234567890]'],
}


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("name", FATAL)
def test_packets_when_not_understood_then_this_connection_ends(
    program: Program, neighbours: list[RawSocketIO | RawPolling], transport: str, name: str
) -> None:
    with connect_in(program.port, transport) as client:
        tell(client, FATAL[name])
        if name == "attachments that never come":
            # They have their time; whoever asks for something meanwhile breaks the order.
            with pytest.raises(EOFError):
                client.read_until(b"never")
        assert not client.is_alive()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("name", HARMLESS)
def test_packets_when_of_no_use_then_the_connection_stays(
    program: Program, neighbours: list[RawSocketIO | RawPolling], transport: str, name: str
) -> None:
    with connect_in(program.port, transport) as client:
        tell(client, HARMLESS[name])
        assert client.is_alive()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("name", ODD)
def test_packets_when_odd_then_nobody_else_is_touched(
    program: Program, neighbours: list[RawSocketIO | RawPolling], transport: str, name: str
) -> None:
    with connect_in(program.port, transport) as client:
        tell(client, ODD[name])
        client.is_alive()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("packet", [b'42["echo"]', b'430["x"]', b'451-["echo"]', b"41", b"bAAE="])
def test_packets_when_before_connect_then_the_connection_ends(
    program: Program, neighbours: list[RawSocketIO | RawPolling], transport: str, packet: bytes
) -> None:
    with connect_in(program.port, transport, enter=False) as client:
        tell(client, [packet])
        tell(client, [b'40{"token":"lab-token"}'])
        assert not client.is_alive()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_namespace_when_it_does_not_exist_then_exactly_this_error(program: Program, transport: str) -> None:
    with connect_in(program.port, transport, enter=False) as client:
        tell(client, [b'40/nowhere,{"token":"lab-token"}'])
        assert client.read_until(b"44") == b'44/nowhere,{"message":"Invalid namespace"}'


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_token_when_wrong_then_exactly_this_error(program: Program, transport: str) -> None:
    with connect_in(program.port, transport, enter=False) as client:
        tell(client, [b'40/chat,{"token":"guessed"}'])
        refused = b'44/chat,{"message":"unauthorized","data":{"code":401}}'
        assert client.read_until(b"44") == refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x80",
        b"\x93\x01\x02\x03",
        b"\xdf\xff\xff\xff\xff",
        b"\x84\xa4type\xcb\x00",
        b"\xff" * 500,
    ],
    ids=bytes.hex,
)
def test_msgpack_when_bad_then_this_connection_ends(
    program: Program, neighbours: list[RawSocketIO | RawPolling], data: bytes
) -> None:
    with RawSocketIO(program.port, enter=False) as client:
        client.send_until_refused(frame(Opcode.BINARY, data))
        assert not client.is_alive()


# -- requests

UNKNOWN = f"{POLLING}&sid=AAAAAAAAAAAAAAAAAAAA"

REQUESTS = {
    "no transport": (("GET", ENDPOINT), 400, 0),
    "an unknown transport": (("GET", f"{ENDPOINT}&transport=flashsocket"), 400, 0),
    "a handshake by POST": (("POST", POLLING, b""), 400, 2),
    "another version": (("GET", "/socket.io/?EIO=3&transport=polling"), 400, 5),
    "a sid guessed": (("GET", UNKNOWN), 400, 1),
    "a sid guessed, and a packet": (("POST", UNKNOWN, b'42["echo"]'), 400, 1),
    "a sid of 4,000 characters": (("GET", f"{POLLING}&sid={'x' * 4000}"), 400, 1),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request_when_wrong_then_the_error_of_the_protocol(
    program: Program, neighbours: list[RawSocketIO | RawPolling], name: str
) -> None:
    words, status, code = REQUESTS[name]
    with RawHttp(program.port) as http:
        answer = http.ask(*words)
        assert (answer.status, answer.code) == (status, code), answer


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE"])
def test_method_when_unknown_then_refused(
    program: Program, neighbours: list[RawSocketIO | RawPolling], method: str
) -> None:
    with RawPolling(program.port) as session, RawHttp(program.port) as http:
        http.send(request(method, session.path))
        assert 400 <= http.read().status < 600
        session.echo()


BODIES = {
    "nothing": b"",
    "an empty packet in the middle": b'42["echo"]\x1e\x1e42["echo"]',
    "a separator behind the last": b'42["echo"]\x1e',
    "separators alone": b"\x1e" * 1000,
    "base64 that is none": b"b!!!!",
    "bytes": b"\xff\xfe\x00",
    "a form": b"d=42%5B%22echo%22%5D",
}


@pytest.mark.parametrize("name", BODIES)
def test_payload_when_bad_then_this_session_ends(
    program: Program, neighbours: list[RawSocketIO | RawPolling], name: str
) -> None:
    with RawPolling(program.port) as session:
        answer = session.http.ask("POST", session.path, BODIES[name])
        assert answer.status in (200, 400), answer
        assert not session.is_alive()


def test_post_when_larger_than_the_payload_then_refused_before_it_is_sent(
    program: Program, neighbours: list[RawSocketIO | RawPolling]
) -> None:
    with RawPolling(program.port) as session, RawHttp(program.port) as http:
        for size in (2_000_000_000, 10**18, 10**30):
            with RawHttp(program.port) as http:
                http.send(request("POST", session.path, size=size))
                assert http.read().status in (400, 413)


@pytest.mark.parametrize(
    ("fields", "statuses"),
    [
        (["Transfer-Encoding: chunked"], (411,)),
        (["Content-Length: 5", "Content-Length: 6"], (400,)),
        (["Content-Length: -1"], (400,)),
        (["Content-Length: 5", "Transfer-Encoding: chunked"], (400, 411)),
    ],
    ids=["chunked", "two lengths", "a negative length", "a length and chunks"],
)
def test_post_when_its_length_is_not_known_then_refused(
    program: Program,
    neighbours: list[RawSocketIO | RawPolling],
    fields: list[str],
    statuses: tuple[int, ...],
) -> None:
    with RawPolling(program.port) as session, RawHttp(program.port) as http:
        http.send(request("POST", session.path, None, *fields) + b"5\r\nxxxxx\r\n0\r\n\r\n")
        assert http.read().status in statuses


def test_polls_when_two_hundred_of_one_session_then_it_ends_and_no_other(
    program: Program, neighbours: list[RawSocketIO | RawPolling]
) -> None:
    with ExitStack() as stack:
        session = stack.enter_context(RawPolling(program.port))
        polls = [stack.enter_context(RawHttp(program.port)) for _ in range(200)]
        for poll in polls:
            poll.send(request("GET", session.path))
        answers = sorted(poll.read() for poll in polls)
        # The one that waited is told of the close, all others that they are wrong.
        assert answers[0] == Answer(200, b"1")
        assert {answer.status for answer in answers[1:]} == {400}
        assert not session.is_alive()


def test_posts_when_two_hundred_of_one_session_then_no_other_is_touched(
    program: Program, neighbours: list[RawSocketIO | RawPolling]
) -> None:
    with ExitStack() as stack:
        session = stack.enter_context(RawPolling(program.port))
        posts = [stack.enter_context(RawHttp(program.port)) for _ in range(200)]
        for post in posts:
            post.send(request("POST", session.path, b'42["echo-event",1]'))
        assert {post.read().status for post in posts} <= {200, 400}


def test_poll_when_aborted_then_the_session_ends(
    program: Program, neighbours: list[RawSocketIO | RawPolling]
) -> None:
    with RawPolling(program.port) as session:
        # On a connection that was taken in before: what is asked behind it is served behind it.
        with RawPolling(program.port, enter=False) as other:
            other.http.send(request("GET", session.path))
            neighbours[0].echo()
        wait_until(lambda: not session.is_alive(), "the session has ended")


# -- upgrades


def expect_refused(port: int, sid: str) -> None:
    """Try to upgrade a session; either there is no WebSocket, or it ends without an answer to its probe."""
    try:
        socket = RawSocketIO(port, sid=sid)
    except AssertionError as refusal:
        assert "HTTP/1.1 400" in str(refusal)  # noqa: PT017 - of the handshake
        return
    with socket:
        socket.say(b"2probe")
        with pytest.raises(EOFError):
            socket.read_text()


def test_upgrade_when_of_a_session_that_has_a_websocket_then_refused(
    program: Program, neighbours: list[RawSocketIO | RawPolling]
) -> None:
    with RawSocketIO(program.port) as victim:
        expect_refused(program.port, victim.opened["sid"])
        victim.echo()


def test_upgrade_when_of_a_sid_guessed_then_refused(
    program: Program, neighbours: list[RawSocketIO | RawPolling]
) -> None:
    expect_refused(program.port, "AAAAAAAAAAAAAAAAAAAA")
    expect_refused(program.port, "x" * 2000)


def test_upgrade_when_a_second_one_then_the_first_is_not_touched(
    program: Program, neighbours: list[RawSocketIO | RawPolling]
) -> None:
    with RawPolling(program.port) as session, RawSocketIO(program.port, sid=session.sid) as first:
        first.say(b"2probe")
        assert first.read_text() == b"3probe"
        expect_refused(program.port, session.sid)
        first.say(b"5")
        assert first.is_alive()
        assert session.get().status == 400
        expect_refused(program.port, session.sid)
        assert first.is_alive()


@pytest.mark.parametrize("packet", [b"5", b'42["echo"]', b"2", b"3probe", b"1", b"x", b""], ids=repr)
def test_upgrade_when_it_does_not_begin_with_a_probe_then_the_session_goes_on_polling(
    program: Program, neighbours: list[RawSocketIO | RawPolling], packet: bytes
) -> None:
    with RawPolling(program.port) as session:
        with RawSocketIO(program.port, sid=session.sid) as upgrade:
            upgrade.say(packet)
            with pytest.raises(EOFError):
                upgrade.read_text()
        session.echo()


def test_upgrade_when_given_up_then_the_session_goes_on_polling(
    program: Program, neighbours: list[RawSocketIO | RawPolling]
) -> None:
    with RawPolling(program.port) as session:
        for _ in range(3):
            with RawSocketIO(program.port, sid=session.sid) as upgrade:
                upgrade.say(b"2probe")
                assert upgrade.read_text() == b"3probe"
        session.echo()


# -- what they cost


def test_descriptors_when_bad_clients_have_gone_then_given_back(program: Program) -> None:
    def open_files() -> int:
        return len(os.listdir(f"/proc/{program.pid}/fd"))

    with RawSocketIO(program.port) as neighbour:
        neighbour.echo()
        before = open_files()
        for packets in [*FATAL.values(), *ODD.values()]:
            for transport in ("websocket", "polling"):
                with connect_in(program.port, transport) as client:
                    tell(client, packets)
        neighbour.echo()
        wait_until(lambda: open_files() <= before, "the descriptors are given back")


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_pollers_when_vanished_then_bounded_memory(program: Program) -> None:
    """Sixty of them would be owed 40 MB each."""
    with ExitStack() as stack:
        sender = stack.enter_context(RawSocketIO(program.port))
        gone = [stack.enter_context(RawPolling(program.port)) for _ in range(60)]
        for session in gone:
            assert session.post(b'42["join","vanished"]') == Answer(200, b"ok")
        before = resident_bytes(program.pid)
        padding = b"x" * 80_000
        for number in range(500):
            sender.say(b'42%d["to-room","vanished","%s"]' % (number, padding))
            sender.read_until(b"43")
        sender.echo()
        assert resident_bytes(program.pid) - before < 200_000_000
        assert not any(session.is_alive() for session in gone)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_packets_when_too_many_then_a_neighbour_is_served_first(start: Start, transport: str) -> None:
    """Of a flood as much is read in a second as of anybody; the rest waits, and its client lives on."""
    server = start(
        "tests.e2e.slow_application:app",
        FASTIM_AUTH__REQUIRED="false",
        FASTIM_MESSAGING__ENABLED="false",
        FASTIM_LIMITS__PACKETS_PER_SECOND="100",
        FASTIM_ENGINEIO__PING_INTERVAL_S="0.3",
        FASTIM_ENGINEIO__PING_TIMEOUT_S="0.3",
    )
    flood = [b'42%d["at_once",%d]' % (number, number) for number in range(400)]
    with (
        RawSocketIO(server.port, enter=False) as neighbour,
        connect_in(server.port, transport, enter=False) as session,
    ):
        for client in (neighbour, session):
            tell(client, [b"40"])
            client.read_until(b"40{")
        session.send_at_once(*flood)
        for number in range(10):
            neighbour.say(b'42%d["at_once",1]' % number)
            assert neighbour.read_until(b"43") == b"43%d[1]" % number
        arrived = session.take_arrived()
        assert len(arrived) < 600
        assert b"ok" not in arrived
        if isinstance(session, RawPolling):
            assert session.http.read() == Answer(200, b"ok")
        assert session.read_until(b"43399") == b"43399[399]"


# -- fuzz

SEEDS = [
    b'42["echo",1]',
    b'421["echo",{"a":[1,"x"]}]',
    b'451-["echo",{"_placeholder":true,"num":0}]',
    b"bAAE=",
    b"40/chat,{}",
    b"41/chat,",
    b'431["x"]',
    b"2",
    b"3",
    b"5",
    b"6",
]


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("seed", range(4))
def test_packets_when_made_up_then_nobody_else_is_touched(
    program: Program, neighbours: list[RawSocketIO | RawPolling], transport: str, seed: int
) -> None:
    dice = random.Random(seed)
    for _ in range(60):
        packets = [mutate(dice, dice.choice(SEEDS)) for _ in range(dice.randrange(1, 6))]
        with connect_in(program.port, transport, enter=dice.random() < 0.7) as client:
            tell(client, packets)
    for neighbour in neighbours:
        neighbour.echo()


def mutate(dice: random.Random, packet: bytes) -> bytes:
    """Change, take out, double or put in some bytes."""
    data = bytearray(packet)
    for _ in range(dice.randrange(4)):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            data[at:at] = bytes([dice.choice(b'0123456789[]{}",-/\x1e\x00\xffb')])
        elif kind == 1:
            del data[at : at + dice.randrange(1, 4)]
        elif kind == 2:
            data[at:at] = data[: dice.randrange(8)]
        elif data:
            data[at % len(data)] = dice.randrange(256)
    return bytes(data)
