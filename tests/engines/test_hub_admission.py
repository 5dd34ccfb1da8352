"""Whom a hub lets in: blocked addresses, those whose user is not known yet, and what these may send."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from fastim._core.hub import EventKind
from tests.engines.hub_rig import HEAD, RESPONSE, SECOND_NS, Owner, Rig, client_frame
from tests.reference.frames import CLOSE, PING, TEXT

MakeRig = Callable[..., Rig]
HOME = "127.0.0.1"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HOME, 0), backlog=512) as found:
        yield found


def connect(listener: socket.socket, source: str = HOME) -> socket.socket:
    client = socket.socket()
    client.settimeout(20)
    client.bind((source, 0))
    client.connect(listener.getsockname())
    return client


def answer(client: socket.socket) -> bytes:
    """What the server sent until the end; ``reset`` if it ended by one before anything came."""
    try:
        return client.recv(65_536)
    except ConnectionResetError:
        return b"reset"


def figure(rig: Rig, name: str) -> int:
    return rig.hub.stats()[name]


def upgraded(rig: Rig, client: socket.socket) -> Owner:
    """Let a connection become a WebSocket."""
    client.sendall(HEAD)
    rig.wait(lambda: bool(rig.events))
    [(handle, _)] = rig.take_events(EventKind.HEAD)
    owner = Owner()
    owner.handle = handle
    rig.hub.upgrade(handle, RESPONSE, owner)
    return owner


# -- blocked addresses


def test_accept_when_the_address_is_blocked_then_reset_unread_and_without_a_row(
    make_epoll: MakeRig, listener: socket.socket
) -> None:
    rig = make_epoll()
    rig.hub.listen(listener.fileno())
    rig.hub.blocked.add("127.0.1.0/24")
    with connect(listener, "127.0.1.7") as blocked, connect(listener) as other:
        blocked.sendall(HEAD)
        other.sendall(HEAD)
        rig.wait(lambda: figure(rig, "blocked_peers_total") == 1 and bool(rig.events))
        assert answer(blocked) == b"reset"
        assert rig.hub.connections == figure(rig, "accepted_total") == 1
        assert figure(rig, "received_bytes_total") == len(HEAD)


def test_accept_when_the_block_is_over_or_lifted_or_exempt_then_let_in(
    make_epoll: MakeRig, listener: socket.socket
) -> None:
    rig = make_epoll()
    rig.hub.listen(listener.fileno())
    rig.hub.blocked.add("127.0.1.7", rig.now_ns + SECOND_NS)
    rig.hub.blocked.add("127.0.2.0/24")
    rig.hub.blocked.add("127.0.3.0/24")
    rig.hub.exempt.add("127.0.2.7")
    rig.hub.blocked.remove("127.0.3.0/24")
    with connect(listener, "127.0.2.7"), connect(listener, "127.0.3.7"):
        rig.wait(lambda: rig.hub.connections == 2)
    with connect(listener, "127.0.1.7") as early:
        rig.wait(lambda: figure(rig, "blocked_peers_total") == 1)
        assert answer(early) == b"reset"
    rig.wait(lambda: rig.hub.connections == 0)
    rig.now_ns += SECOND_NS
    with connect(listener, "127.0.1.7"):
        rig.wait(lambda: rig.hub.connections == 1)


def test_refusals_when_there_are_thousands_then_nothing_of_them_stays(
    make_epoll: MakeRig, listener: socket.socket
) -> None:
    rig = make_epoll()
    rig.hub.listen(listener.fileno())
    rig.hub.blocked.add(HOME)
    before = len(os.listdir("/proc/self/fd"))
    for round_ in range(1, 11):
        clients = [connect(listener) for _ in range(200)]
        rig.wait(lambda number=round_: figure(rig, "blocked_peers_total") == 200 * number)  # type: ignore[misc]
        for client in clients:
            client.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert figure(rig, "connections") == figure(rig, "pending") == figure(rig, "chunk_bytes") == 0


def test_within_when_asked_for_a_range_then_owners_and_handles_of_its_connections(
    make_epoll: MakeRig, listener: socket.socket
) -> None:
    rig = make_epoll()
    rig.hub.listen(listener.fileno())
    with connect(listener, "127.0.1.7") as one, connect(listener, "127.0.1.8"), connect(listener):
        owner = upgraded(rig, one)
        rig.wait(lambda: rig.hub.connections == 3)
        assert len(rig.hub.within("127.0.0.0/8")) == 3
        assert rig.hub.within("127.0.1.7") == [owner]
        [found] = [item for item in rig.hub.within("127.0.1.0/24") if item is not owner]
        assert rig.hub.peer(found) == "127.0.1.8"  # type: ignore[arg-type]
        assert rig.hub.within("2001:db8::/32") == []
    with pytest.raises(ValueError, match="no address"):
        rig.hub.within("nowhere")


# -- whose user is not known


def test_pending_when_as_many_as_may_be_then_503_until_one_is_authenticated_or_gone(
    make_epoll: MakeRig, listener: socket.socket
) -> None:
    rig = make_epoll(max_pending=2)
    rig.hub.listen(listener.fileno())
    with connect(listener) as one, connect(listener) as two:
        owner = upgraded(rig, one)
        rig.wait(lambda: figure(rig, "pending") == 2)
        with connect(listener) as third:
            rig.wait(lambda: figure(rig, "pending_refused_total") == 1)
            assert answer(third).startswith(b"HTTP/1.1 503 ")
        assert rig.hub.authenticated(owner.handle)
        assert rig.hub.authenticated(owner.handle)
        assert figure(rig, "pending") == 1
        with connect(listener):
            rig.wait(lambda: figure(rig, "pending") == 2)
            two.close()
            rig.wait(lambda: figure(rig, "pending") == 1)
    rig.wait(lambda: rig.hub.connections == 0)
    assert figure(rig, "pending") == 0


def test_pending_when_one_address_has_as_many_as_it_may_then_429_for_it_alone(
    make_epoll: MakeRig, listener: socket.socket
) -> None:
    rig = make_epoll(max_pending_per_address=2)
    rig.hub.listen(listener.fileno())
    rig.hub.exempt.add("127.0.2.0/24")
    with connect(listener, "127.0.1.7"), connect(listener, "127.0.1.7"):
        rig.wait(lambda: rig.hub.pending_at("127.0.1.7") == 2)
        with connect(listener, "127.0.1.7") as third:
            rig.wait(lambda: figure(rig, "pending_refused_total") == 1)
            assert answer(third).startswith(b"HTTP/1.1 429 ")
        with connect(listener, "127.0.1.8"):
            rig.wait(lambda: rig.hub.connections == 3)
        clients = [connect(listener, "127.0.2.7") for _ in range(5)]
        rig.wait(lambda: rig.hub.pending_at("127.0.2.7") == 5)
        for client in clients:
            client.close()


def test_pending_when_a_proxy_tells_the_address_then_counted_there(rig: Rig) -> None:
    peer = rig.connect()
    assert rig.hub.pending_at("192.0.2.7") == 1
    assert rig.hub.set_peer(peer.handle, "2001:db8::1")
    assert (rig.hub.pending_at("192.0.2.7"), rig.hub.pending_at("2001:db8::ffff")) == (0, 1)
    assert rig.hub.peer(peer.handle) == "2001:db8::1"
    assert not rig.hub.set_peer(peer.handle, "nowhere")
    assert not rig.hub.set_peer(peer.handle + (1 << 33), "192.0.2.9")


def test_handed_out_when_accepted_then_the_caller_has_the_socket_and_it_is_pending_until_released(
    make_epoll: MakeRig, listener: socket.socket
) -> None:
    rig = make_epoll(max_pending_per_address=1)
    rig.hub.listen(listener.fileno(), hand_out=True)
    rig.hub.blocked.add("127.0.1.0/24")
    with connect(listener) as client, connect(listener, "127.0.1.7") as blocked:
        rig.wait(lambda: bool(rig.events) and figure(rig, "blocked_peers_total") == 1)
        assert answer(blocked) == b"reset"
        [(subject, (fd, peer))] = rig.take_events(EventKind.ACCEPTED)
        assert (subject, peer, rig.hub.connections) == (listener.fileno(), HOME, 0)
        with connect(listener) as second:  # no plain text for one who expects TLS
            rig.wait(lambda: figure(rig, "pending_refused_total") == 1)
            assert answer(second) == b"reset"
        with socket.socket(fileno=fd) as server:
            server.sendall(b"x")
            assert client.recv(1) == b"x"
        rig.hub.release(HOME)
        assert figure(rig, "pending") == 0


# -- what they may send


@pytest.mark.parametrize("driver_sends", ["at once", "one by one"])
def test_frames_when_more_come_before_the_user_is_known_than_may_then_4011(
    make_rig: MakeRig, driver_sends: str
) -> None:
    rig = make_rig(pending_frames=3)
    peer = rig.open()
    frames = [
        client_frame(TEXT, b"1"),
        client_frame(PING),
        client_frame(TEXT, b"2"),
        client_frame(TEXT, b"3"),
    ]
    for part in [b"".join(frames)] if driver_sends == "at once" else frames:
        peer.send(part)
        rig.tick()
    assert [frame.payload[:2] for frame in peer.frames() if frame.opcode == CLOSE] == [b"\x0f\xab"]
    assert [data for kind, _, data in rig.events if kind == EventKind.TEXT] == [b"1", b"2"]
    assert rig.take_events(EventKind.CLOSED) == [(peer.owner, (4011, "too much before hello", False))]


def test_bytes_when_more_come_before_the_user_is_known_than_may_then_4011(make_rig: MakeRig) -> None:
    rig = make_rig(pending_bytes=1000)
    one, two = rig.open(), rig.open()
    one.send(client_frame(TEXT, b"x" * 900))
    two.send(client_frame(TEXT, b"x" * 1000))
    one.frames()
    assert [frame.payload[:2] for frame in two.frames() if frame.opcode == CLOSE] == [b"\x0f\xab"]
    assert [subject for subject, _ in rig.take_events(EventKind.TEXT)] == [one.owner]


def test_limits_when_the_user_is_known_then_they_hold_no_more(make_rig: MakeRig) -> None:
    rig = make_rig(pending_frames=3, pending_bytes=100)
    peer = rig.open()
    peer.send(client_frame(TEXT, b"hello"))
    peer.frames()
    assert rig.hub.authenticated(peer.handle)
    for _ in range(10):
        peer.send(client_frame(TEXT, b"x" * 90))
    peer.frames()
    assert len(rig.take_events(EventKind.TEXT)) == 11
    assert rig.hub.charge(peer.handle, 1000)
    assert rig.hub.alive(peer.handle)


def test_charge_when_a_batch_holds_more_than_may_come_then_4011(make_rig: MakeRig) -> None:
    rig = make_rig(pending_frames=10)
    peer = rig.open()
    peer.send(client_frame(TEXT, b"batch"))
    peer.frames()
    assert rig.hub.charge(peer.handle, 9)
    assert not rig.hub.charge(peer.handle, 1)
    assert not rig.hub.alive(peer.handle)
    assert not rig.hub.charge(peer.handle, 1)
    peer.frames()
    peer.close()
    rig.tick()
    assert rig.hub.charge(peer.handle, 1), "nobody is there to be closed"
