"""What only the epoll driver has: listeners, descriptors, sockets in odd states; and many connections."""

import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from fastim._core.hub import EventKind
from tests.engines.hub_rig import (
    HEAD,
    RESPONSE,
    SECOND_NS,
    Frame,
    Owner,
    Rig,
    SocketPeer,
    client_frame,
    packets_of,
)
from tests.reference.frames import CLOSE, TEXT, close_payload

MakeRig = Callable[..., Rig]
DESCRIPTORS = "/proc/self/fd"


@pytest.fixture
def rig(make_epoll: MakeRig) -> Rig:
    return make_epoll()


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        found = socket.create_server((request.param, 0), family=family, backlog=512)
    except OSError:
        found = socket.create_server(("127.0.0.2", 0), backlog=512)  # a machine without IPv6
    with found:
        yield found


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname()[:2], timeout=20)


def is_readable(rig: Rig) -> bool:
    """Whether an event loop would call poll again at once."""
    return bool(select.select([rig.hub.fileno()], [], [], 0)[0])


def read_all(client: socket.socket) -> bytes:
    """What comes until the stream ends, also by a reset."""
    data = b""
    try:
        while part := client.recv(65_536):
            data += part
    except ConnectionResetError:
        pass
    return data


# -- listeners


def test_accepted_connection_speaks_and_ends(rig: Rig, listener: socket.socket) -> None:
    rig.hub.listen(listener.fileno())
    with connect(listener) as client:
        client.sendall(HEAD + client_frame(TEXT, b"behind"))
        rig.wait(lambda: bool(rig.events))
        [(handle, (head, peer))] = rig.take_events(EventKind.HEAD)
        assert (head, peer) == (HEAD, client.getsockname()[0])
        owner = Owner()
        rig.hub.upgrade(handle, RESPONSE, owner)
        rig.hub.send(handle, b'["hello"]')
        rig.wait(lambda: bool(rig.events))
        assert rig.take_events() == [(owner, b"behind")]
        expected = RESPONSE + b"\x81\x09" + b'["hello"]'
        client.sendall(client_frame(CLOSE, close_payload(1000)))
        rig.wait(lambda: rig.hub.connections == 0)
        assert read_all(client) == expected + b"\x88\x02\x03\xe8"
    assert rig.take_events() == [(owner, (1000, "", True))]


def test_connection_past_the_limit_gets_503(make_epoll: MakeRig, listener: socket.socket) -> None:
    rig = make_epoll(max_connections=2)
    rig.hub.listen(listener.fileno())
    with connect(listener) as one, connect(listener) as two:
        rig.wait(lambda: rig.hub.connections == 2)
        with connect(listener) as third:
            rig.wait(lambda: rig.hub.stats()["refused_total"] == 1)
            assert read_all(third).startswith(b"HTTP/1.1 503 ")
        one.close()
        rig.wait(lambda: rig.hub.connections == 1)
        with connect(listener):
            rig.wait(lambda: rig.hub.connections == 2)
        assert two.fileno() >= 0


def test_unlisten_keeps_connections_and_refuses_new_ones(rig: Rig, listener: socket.socket) -> None:
    rig.hub.listen(listener.fileno())
    with connect(listener) as one:
        rig.wait(lambda: rig.hub.connections == 1)
        rig.hub.unlisten(listener.fileno())
        rig.hub.unlisten(listener.fileno())
        with connect(listener):
            for _ in range(5):
                rig.tick()
            assert not is_readable(rig)
            assert rig.hub.connections == 1
            rig.hub.listen(listener.fileno())
            rig.wait(lambda: rig.hub.connections == 2)
        one.sendall(HEAD)
        rig.wait(lambda: bool(rig.events))


def test_many_connections_are_accepted_over_several_polls(rig: Rig, listener: socket.socket) -> None:
    rig.hub.listen(listener.fileno())
    clients = [connect(listener) for _ in range(300)]
    try:
        rig.wait(lambda: rig.hub.connections == 300)
    finally:
        for client in clients:
            client.close()
    rig.wait(lambda: rig.hub.connections == 0)


OUT_OF_DESCRIPTORS = """
import os, resource, select, socket, sys
from fastim._core.hub import Hub
hub = Hub()
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
hub.listen(listener.fileno())
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
clients = [socket.create_connection(listener.getsockname()) for _ in range(10)]
spare = []
def poll(times, now):
    for _ in range(times):
        select.select([hub.fileno()], [], [], 0.01)
        hub.poll(now)
        hub.flush(now)
try:
    while True:
        spare.append(os.dup(0))
except OSError:
    pass
for fd in spare[:5]:
    os.close(fd)
poll(20, 1)
assert hub.connections == 5, hub.connections
assert not select.select([hub.fileno()], [], [], 0)[0], "it spins"
# A connection without a descriptor goes: that is no reason to spin either.
first = hub.open_fed("", 1)
hub.feed_eof(first, 1)
poll(5, 2)
assert hub.connections == 5
if sys.argv[1] == "ours":
    clients[0].close()  # frees two: the client's and, once it is noticed, the hub's
    poll(20, 3)
    assert hub.connections == 6, hub.connections
    clients.pop(0)
else:
    for fd in spare[5:10]:
        os.close(fd)
    poll(20, 3)
    assert hub.connections == 5, "nothing tells the hub yet"
    poll(20, 2_000_000_000)
    assert hub.connections == 10, hub.connections
for client in clients:
    client.close()
poll(50, 3_000_000_000)
assert hub.connections == 0
hub.shutdown()
print("recovered")
"""


@pytest.mark.parametrize("freed", ["ours", "another's"])
def test_accept_when_descriptors_run_out_then_waits_and_recovers(freed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS, freed],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": "src"},
    )
    assert (done.stdout, done.stderr) == ("recovered\n", "")


# -- sockets in odd states


def test_adopt_when_epoll_refuses_the_descriptor_then_nothing_is_left(rig: Rig) -> None:
    before = len(os.listdir(DESCRIPTORS))
    fd = os.open(__file__, os.O_RDONLY)
    with pytest.raises(OSError, match="epoll_ctl"):
        rig.hub.adopt(fd, "", rig.now_ns)
    assert rig.hub.connections == 0
    assert len(os.listdir(DESCRIPTORS)) == before


def test_adopt_without_an_address_has_an_empty_peer(rig: Rig) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        assert rig.hub.peer(rig.hub.adopt(ours.detach(), "", rig.now_ns)) == ""


def test_undecided_connection_that_sends_more_does_not_keep_the_loop_awake(rig: Rig) -> None:
    peer = rig.decide()
    peer.send(client_frame(TEXT, b"eager"))
    assert is_readable(rig)
    rig.tick()
    assert not is_readable(rig)
    assert rig.events == []
    peer.owner = Owner()
    rig.hub.upgrade(peer.handle, RESPONSE, peer.owner)
    rig.rest(peer)
    assert rig.take_events() == [(peer.owner, b"eager")]


def test_undecided_connection_that_goes_is_gone(rig: Rig) -> None:
    peer = rig.decide()
    peer.close()
    rig.tick()
    assert rig.hub.connections == 0
    assert not rig.hub.upgrade(peer.handle, RESPONSE, Owner())
    assert rig.events == []


def test_paused_connection_that_goes_is_closed(rig: Rig) -> None:
    peer = rig.open()
    rig.hub.pause(peer.handle)
    peer.send(client_frame(TEXT, b"x"))
    rig.tick()
    assert not is_readable(rig)
    peer.close()
    rig.tick()
    assert rig.take_events() == [(peer.owner, (1006, "", False))]
    assert rig.hub.connections == 0


def test_close_by_a_half_closed_peer_lets_what_is_queued_arrive(rig: Rig) -> None:
    peer = rig.open(buffer_bytes=1)
    assert isinstance(peer, SocketPeer)
    packet = b'["m", "' + b"x" * 500_000 + b'"]'
    rig.hub.send(peer.handle, packet)
    rig.flush()
    peer.send(client_frame(CLOSE, close_payload(1000)))
    peer.socket.shutdown(socket.SHUT_WR)
    for _ in range(3):
        rig.tick()
    assert not is_readable(rig)
    frames = peer.frames()
    assert len(packets_of(frames[0])[0][1]) == 500_000
    assert frames[1:] == [Frame(True, 0, CLOSE, close_payload(1000))]
    assert (peer.ended, rig.hub.connections) == (True, 0)


def test_reset_by_the_peer_while_we_write_is_closed_once(rig: Rig, listener: socket.socket) -> None:
    rig.hub.listen(listener.fileno())
    client = connect(listener)
    client.sendall(HEAD)
    rig.wait(lambda: bool(rig.events))
    [(handle, _)] = rig.take_events()
    owner = Owner()
    rig.hub.upgrade(handle, RESPONSE, owner)
    while rig.hub.queued_bytes(handle) < 300_000:
        rig.hub.send(handle, b"x" * 100_000)
        rig.flush()
    assert rig.hub.unsent_bytes(handle) > rig.hub.queued_bytes(handle)
    assert rig.hub.is_behind(handle)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    rig.wait(lambda: rig.hub.connections == 0)
    assert rig.take_events() == [(owner, (1006, "", False))]
    assert rig.hub.stats()["blocked"] == 0


def test_descriptor_is_used_again_within_a_poll_without_confusion(make_epoll: MakeRig) -> None:
    """Events that were kept over from the last poll name connections that are gone by then."""
    rig = make_epoll(message_budget=1, tick_messages=2)
    peers = [rig.open(str(i)) for i in range(40)]
    for peer in peers:
        peer.send(client_frame(TEXT, b"old"))
    rig.poll()
    assert rig.hub.pending
    rig.take_events()
    for peer in peers:
        rig.hub.abort(peer.handle)
    fresh = [rig.connect() for _ in peers]
    for peer in fresh:
        peer.send(HEAD[:5])
    rig.rest()
    assert {kind for kind, _, _ in rig.events} == {EventKind.CLOSED}
    assert {subject for subject, _ in rig.take_events()} == {peer.owner for peer in peers}
    for peer in fresh:
        peer.send(HEAD[5:])
    rig.rest()
    assert sorted(handle for handle, _ in rig.take_events(EventKind.HEAD)) == sorted(p.handle for p in fresh)


def test_more_sockets_than_one_wait_reports_are_all_read(make_epoll: MakeRig) -> None:
    rig = make_epoll(tick_messages=64)
    peers = [rig.open(str(i)) for i in range(700)]
    for round_ in range(2):
        for peer in peers:
            peer.send(client_frame(TEXT, b"%d" % round_))
        polls = 0
        while len(rig.events) < 700:
            rig.tick()
            polls += 1
            assert polls < 60
        assert {subject for _, subject, _ in rig.events} == {peer.owner for peer in peers}
        rig.take_events()


# -- many


@pytest.mark.parametrize("driver", ["epoll", "fed"])
def test_20000_connects_and_disconnects_leave_nothing_behind(driver: str) -> None:
    rig = Rig(driver)
    rounds, batch = 100, 200
    before: tuple[int, int] | None = None
    for number in range(rounds):
        peers = [rig.connect() for _ in range(batch)]
        rig.peers.clear()
        for peer in peers:
            peer.send(HEAD)
        while len(rig.events) < batch:
            rig.tick()
        rig.take_events(EventKind.HEAD)
        topic = rig.hub.create_topic()
        for i, peer in enumerate(peers):
            assert rig.hub.upgrade(peer.handle, RESPONSE, Owner(), encoding=i & 1, deflate=bool(i & 2))
            rig.hub.configure(peer.handle, batch=bool(i & 4))
            rig.hub.subscribe(topic, peer.handle)
        rig.hub.publish(topic, b'["x"]', b"\x91\xa1x")
        rig.tick()
        for i, peer in enumerate(peers):
            if i % 4 == 0:
                peer.send(client_frame(CLOSE, close_payload(1000)))
            elif i % 4 == 1:
                peer.send(client_frame(TEXT, b"half")[:7])
            elif i % 4 == 2:
                rig.hub.abort(peer.handle)
        rig.tick()
        rig.hub.drop_topic(topic)
        for peer in peers:
            peer.close()
        rig.tick()
        while rig.hub.connections:
            rig.tick(SECOND_NS // 100)
        assert len(rig.take_events(EventKind.CLOSED)) == batch
        stats = rig.hub.stats()
        assert (stats["slices"], stats["blocked"], stats["topics"]) == (0, 0, 0)
        now = (len(os.listdir(DESCRIPTORS)), stats["chunk_bytes"])
        if number == 1:
            before = now
        assert before is None or now == before
    if driver == "epoll":
        assert rig.hub.stats()["received_bytes_total"] > 20_000 * len(HEAD)
    rig.hub.shutdown()
