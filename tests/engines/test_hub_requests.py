"""HTTP requests that are answered in the hub: bodies, answers that wait, kept connections."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastim._core.hub import EventKind
from tests.engines.hub_rig import HEAD, RESPONSE, SECOND_NS, Owner, Peer, Rig, SocketPeer, client_frame
from tests.reference.frames import TEXT

MakeRig = Callable[..., Rig]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
GONE = (1006, "", False)


def answer(rig: Rig, peer: Peer, keep: bool = True, response: bytes = ANSWER) -> bytes:
    """Answer the request, and return what the client has of it."""
    assert rig.hub.reply(peer.handle, response, keep, rig.now_ns)
    return taken(rig, peer)


def taken(rig: Rig, peer: Peer) -> bytes:
    rig.rest(peer)
    data, peer.data = peer.data, b""
    return data


def asked(peer: Peer) -> list[tuple[Any, Any]]:
    """What a whole head is reported as."""
    return [(peer.handle, (HEAD, "192.0.2.7"))]


# -- answers


def test_kept_connection_asks_again_and_again(rig: Rig) -> None:
    peer = rig.decide()
    for _ in range(3):
        assert answer(rig, peer) == ANSWER
        peer.send(HEAD)
        rig.tick()
        assert rig.take_events() == asked(peer)
    assert answer(rig, peer, keep=False) == ANSWER
    assert peer.ended
    assert rig.hub.stats()["requests_total"] == 4


def test_second_answer_is_refused(rig: Rig) -> None:
    peer = rig.decide()
    assert answer(rig, peer) == ANSWER
    assert not rig.hub.reply(peer.handle, ANSWER, True, rig.now_ns)
    assert not rig.hub.hold(peer.handle, Owner())
    assert rig.hub.read_body(peer.handle, 3, Owner()) is None
    assert not rig.hub.authenticated(peer.handle)


def test_next_request_waits_until_the_answer_is_taken(rig: Rig) -> None:
    peer = rig.decide(HEAD, buffer_bytes=1)
    large = ANSWER + b"x" * 1_000_000
    assert rig.hub.reply(peer.handle, large, True, rig.now_ns)
    for _ in range(5):
        rig.tick(0)
    assert not rig.take_events()
    assert taken(rig, peer) == large
    assert rig.take_events() == asked(peer)
    assert answer(rig, peer) == ANSWER


@pytest.mark.parametrize("count", [1, 2, 40])
def test_pipelined_requests_come_one_by_one(rig: Rig, count: int) -> None:
    peer = rig.decide(HEAD * count)
    for _ in range(count):
        assert not rig.take_events()
        assert answer(rig, peer) == ANSWER
        assert rig.take_events() == asked(peer)
    assert answer(rig, peer) == ANSWER
    assert not rig.take_events()
    assert not rig.hub.pending


def test_request_behind_an_answer_comes_in_pieces(rig: Rig) -> None:
    peer = rig.decide(HEAD[:9])
    assert answer(rig, peer) == ANSWER
    for byte in HEAD[9:]:
        assert not rig.take_events()
        peer.send(bytes([byte]))
        rig.tick()
    assert rig.take_events() == asked(peer)


def test_upgrade_of_a_kept_connection_is_a_websocket(rig: Rig) -> None:
    peer = rig.decide(HEAD + client_frame(TEXT, b"hello"))
    assert answer(rig, peer) == ANSWER
    assert rig.take_events() == asked(peer)
    owner = Owner()
    assert rig.hub.upgrade(peer.handle, RESPONSE, owner)
    assert taken(rig, peer) == RESPONSE
    assert rig.take_events() == [(owner, b"hello")]


def test_detached_kept_connection_has_its_latest_request_alone(rig: Rig) -> None:
    peer = rig.decide(HEAD + b"behind")
    assert answer(rig, peer) == ANSWER
    fd, data = rig.hub.detach(peer.handle)
    assert data == HEAD + b"behind"
    if fd >= 0:
        socket.socket(fileno=fd).close()
    assert rig.hub.connections == 0


# -- bodies


def test_body_that_is_there_is_returned(rig: Rig) -> None:
    peer = rig.decide(behind=b"bodyGET")
    assert rig.hub.read_body(peer.handle, 4, Owner()) == b"body"
    assert answer(rig, peer) == ANSWER
    peer.send(HEAD[3:])
    rig.tick()
    assert rig.take_events() == asked(peer)


@pytest.mark.parametrize("first", range(5))
def test_body_that_comes_later_is_an_event(rig: Rig, first: int) -> None:
    body, owner = b"12345", Owner()
    peer = rig.decide(behind=body[:first])
    assert rig.hub.read_body(peer.handle, 5, owner) is None
    for byte in body[first:]:
        assert not rig.take_events()
        peer.send(bytes([byte]))
        rig.tick()
    assert rig.take_events() == [(owner, body)]
    assert answer(rig, peer) == ANSWER


def test_body_larger_than_a_read_is_whole(rig: Rig) -> None:
    body, owner = bytes(range(256)) * 1_000, Owner()
    peer = rig.decide(body[:40])
    assert rig.hub.read_body(peer.handle, len(body), owner) is None
    peer.send(body[40:] + HEAD)
    rig.rest(peer)
    assert rig.take_events() == [(owner, body)]
    assert answer(rig, peer) == ANSWER
    assert rig.take_events() == asked(peer)


@pytest.mark.parametrize(("behind", "said"), [(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"1", b"")])
def test_client_that_waits_to_send_its_body_is_told_to(rig: Rig, behind: bytes, said: bytes) -> None:
    owner = Owner()
    peer = rig.decide(behind)
    assert rig.hub.read_body(peer.handle, 3, owner, expected=True) is None
    assert taken(rig, peer) == said
    peer.send(b"123"[len(behind) :])
    rig.tick()
    assert rig.take_events() == [(owner, b"123")]
    assert answer(rig, peer) == ANSWER


def test_answer_before_the_body_has_come_ends_the_connection(rig: Rig) -> None:
    owner = Owner()
    peer = rig.decide()
    assert rig.hub.read_body(peer.handle, 3, owner) is None
    assert answer(rig, peer) == ANSWER
    assert peer.ended
    assert not rig.take_events()


def test_body_that_does_not_come_in_time_is_told_to_both(rig: Rig) -> None:
    owner = Owner()
    peer = rig.decide(b"1")
    assert rig.hub.read_body(peer.handle, 3, owner, rig.now_ns + SECOND_NS) is None
    rig.tick(2 * SECOND_NS)
    assert rig.take_events() == [(owner, (1006, "timeout", False))]
    assert taken(rig, peer) == TIMEOUT
    assert peer.ended


def test_body_without_a_bound_has_all_the_time_there_is(rig: Rig) -> None:
    owner = Owner()
    peer = rig.decide()
    assert rig.hub.read_body(peer.handle, 1, owner) is None
    for _ in range(100):
        rig.tick(60 * SECOND_NS)
    peer.send(b"1")
    rig.tick()
    assert rig.take_events() == [(owner, b"1")]
    assert rig.hub.connections == 1


def test_client_that_goes_in_its_body_tells_the_owner(rig: Rig) -> None:
    owner = Owner()
    peer = rig.decide(b"1")
    assert rig.hub.read_body(peer.handle, 2, owner) is None
    peer.close()
    rig.wait(lambda: bool(rig.events))
    assert rig.take_events() == [(owner, GONE)]
    assert rig.hub.connections == 0


# -- answers that wait


def test_held_request_has_all_the_time_there_is(rig: Rig) -> None:
    peer = rig.decide()
    assert rig.hub.hold(peer.handle, Owner())
    for _ in range(100):
        rig.tick(60 * SECOND_NS)
    assert answer(rig, peer) == ANSWER


def test_held_request_whose_client_closes_tells_its_owner(rig: Rig) -> None:
    owner = Owner()
    peer = rig.decide()
    assert rig.hub.hold(peer.handle, owner)
    peer.close()
    rig.wait(lambda: bool(rig.events))
    assert rig.take_events(EventKind.CLOSED) == [(owner, GONE)]
    assert not rig.hub.reply(peer.handle, ANSWER, True, rig.now_ns)
    assert rig.hub.connections == 0


@pytest.mark.parametrize("early", [True, False])
def test_held_request_behind_which_more_was_sent_hears_of_the_end(make_epoll: MakeRig, early: bool) -> None:
    rig, owner = make_epoll(), Owner()
    peer = rig.decide()
    assert isinstance(peer, SocketPeer)
    if early:
        peer.send(HEAD)
        rig.rest(peer)
    assert rig.hub.hold(peer.handle, owner)
    if not early:
        peer.send(HEAD)
        rig.rest(peer)
    peer.socket.shutdown(socket.SHUT_WR)
    rig.wait(lambda: bool(rig.events))
    assert rig.take_events() == [(owner, GONE)]


def test_request_of_a_client_that_shut_its_side_is_held_no_longer_than_a_poll(make_epoll: MakeRig) -> None:
    rig, owner = make_epoll(), Owner()
    peer = rig.decide()
    assert isinstance(peer, SocketPeer)
    peer.socket.shutdown(socket.SHUT_WR)
    rig.rest(peer)
    assert rig.hub.hold(peer.handle, owner)
    rig.wait(lambda: bool(rig.events))
    assert rig.take_events() == [(owner, GONE)]


def test_request_of_a_client_that_shut_its_side_is_answered_at_once(make_epoll: MakeRig) -> None:
    rig = make_epoll()
    peer = rig.decide()
    assert isinstance(peer, SocketPeer)
    peer.socket.shutdown(socket.SHUT_WR)
    rig.rest()
    assert answer(rig, peer) == ANSWER
    assert peer.ended
    assert rig.hub.connections == 0


def test_latest_owner_alone_hears_of_the_end(rig: Rig) -> None:
    first, second = Owner(), Owner()
    peer = rig.decide(behind=b"body")
    assert rig.hub.read_body(peer.handle, 4, first) == b"body"
    assert rig.hub.hold(peer.handle, second)
    assert rig.hub.abort(peer.handle)
    rig.tick()
    assert rig.take_events() == [(second, (1006, "aborted", False))]


def test_owner_is_let_go_with_the_answer(rig: Rig) -> None:
    owner = Owner()
    known = weakref.ref(owner)
    peer = rig.decide()
    assert rig.hub.hold(peer.handle, owner)
    assert rig.hub.owner(peer.handle) is owner
    del owner
    gc.collect()
    assert known() is not None
    assert answer(rig, peer) == ANSWER
    assert known() is None


# -- time, and room


def test_kept_connection_that_asks_for_nothing_is_closed(make_rig: MakeRig) -> None:
    rig = make_rig(idle_timeout_ns=3 * SECOND_NS)
    peer = rig.decide()
    assert answer(rig, peer) == ANSWER
    rig.tick(2 * SECOND_NS)
    assert rig.hub.stats()["kept"] == 1
    rig.tick(2 * SECOND_NS)
    assert taken(rig, peer) == b""
    assert peer.ended
    assert rig.hub.stats()["kept"] == 0


def test_next_head_has_the_time_of_a_head(make_rig: MakeRig) -> None:
    rig = make_rig(head_timeout_ns=SECOND_NS)
    peer = rig.decide()
    assert answer(rig, peer) == ANSWER
    rig.tick(20 * SECOND_NS)
    peer.send(HEAD[:5])
    rig.tick()
    rig.tick(2 * SECOND_NS)
    assert taken(rig, peer) == TIMEOUT


@pytest.mark.parametrize("takes", [True, False])
def test_client_has_the_close_timeout_for_each_part_that_it_takes(make_rig: MakeRig, takes: bool) -> None:
    rig = make_rig(close_timeout_ns=2 * SECOND_NS)
    peer = rig.decide(buffer_bytes=1)
    assert rig.hub.reply(peer.handle, b"x" * 2_000_000, True, rig.now_ns)
    rig.rest()
    for _ in range(10):
        if takes:
            assert peer.read(100_000)
        rig.rest()
        rig.tick(SECOND_NS)
    rig.rest(peer)
    assert peer.ended == (not takes)
    assert (len(peer.data) == 2_000_000) == takes
    assert rig.hub.stats()["pool_bytes_used"] == 0


def test_kept_connections_are_closed_together(rig: Rig) -> None:
    peers = [rig.decide() for _ in range(4)]
    for peer in peers[:3]:
        answer(rig, peer)
    peers[1].send(HEAD[:3])
    rig.tick()
    assert rig.hub.close_kept() == 2
    assert rig.hub.close_kept() == 0
    rig.rest(*peers)
    assert [peer.ended for peer in peers] == [True, False, True, False]


def test_longest_idle_gives_way(rig: Rig) -> None:
    peers = [rig.decide() for _ in range(3)]
    assert not rig.hub.make_room()
    for peer in (peers[1], peers[0], peers[2]):
        answer(rig, peer)
    peers[1].send(HEAD)
    rig.tick()
    answer(rig, peers[1])
    for peer in (peers[0], peers[2], peers[1]):
        assert rig.hub.make_room()
        rig.rest(*peers)
        assert peer.ended
    assert not rig.hub.make_room()
    assert rig.hub.stats()["kept_evicted_total"] == 3


def test_newcomer_past_the_limit_takes_the_place_of_a_kept_one(make_epoll: MakeRig) -> None:
    rig = make_epoll(max_connections=2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rig.hub.listen(listener.fileno())
        kept, busy = rig.decide(), rig.decide()
        answer(rig, kept)
        with socket.create_connection(listener.getsockname(), 20) as newcomer:
            newcomer.sendall(HEAD)
            rig.wait(lambda: bool(rig.events))
            assert rig.hub.connections == 2
        rig.rest(kept)
        assert kept.ended
        assert answer(rig, busy) == ANSWER
        rig.hub.unlisten(listener.fileno())


def test_longest_idle_gives_way_and_known_users_last(rig: Rig) -> None:
    known, unknown = rig.decide(), rig.decide()
    assert rig.hub.authenticated(known.handle)
    answer(rig, known)
    answer(rig, unknown)
    for peer in (unknown, known):
        assert rig.hub.make_room()
        rig.rest(known, unknown)
        assert peer.ended


def test_newcomer_past_the_bound_of_the_unknown_takes_the_place_of_one(make_epoll: MakeRig) -> None:
    rig = make_epoll(max_pending=2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rig.hub.listen(listener.fileno())
        known, unknown, busy = rig.decide(), rig.decide(), rig.decide()
        assert rig.hub.authenticated(known.handle)
        answer(rig, known)
        answer(rig, unknown)
        with (
            socket.create_connection(listener.getsockname(), 20) as first,
            socket.create_connection(listener.getsockname(), 20) as second,
        ):
            rig.wait(lambda: rig.hub.stats()["pending_refused_total"] == 1)
            assert second.recv(65_536).startswith(b"HTTP/1.1 503 ")
            first.sendall(HEAD)
            rig.wait(lambda: bool(rig.events))
        rig.rest(known, unknown)
        assert (known.ended, unknown.ended) == (False, True)
        assert answer(rig, busy) == ANSWER
        rig.hub.unlisten(listener.fileno())


# -- whose user is known


def test_user_is_known_until_the_next_request(rig: Rig) -> None:
    peer = rig.decide()
    for _ in range(2):
        assert rig.hub.is_pending(peer.handle)
        assert rig.hub.pending_at("192.0.2.7") == 1
        assert rig.hub.authenticated(peer.handle)
        assert not rig.hub.is_pending(peer.handle)
        assert answer(rig, peer) == ANSWER
        assert rig.hub.pending_at("192.0.2.7") == 0
        peer.send(HEAD[:4])
        rig.tick()
        assert rig.hub.pending_at("192.0.2.7") == 1
        peer.send(HEAD[4:])
        rig.tick()
        rig.take_events()
    assert rig.hub.abort(peer.handle)
    rig.rest(peer)
    assert rig.hub.pending_at("192.0.2.7") == 0


def test_user_may_be_known_while_the_request_is_held_or_read(rig: Rig) -> None:
    held, read = rig.decide(), rig.decide()
    rig.hub.hold(held.handle, Owner())
    rig.hub.read_body(read.handle, 2, Owner())
    assert rig.hub.authenticated(held.handle)
    assert rig.hub.authenticated(read.handle)
    assert rig.hub.pending_at("192.0.2.7") == 0


# -- whatever comes


def events_of(rig: Rig, data: bytes, cuts: list[int]) -> list[bytes]:
    """Send it in pieces, answer each request when it comes, and return the heads and bodies."""
    peer = rig.connect()
    seen: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        peer.send(data[begin:end])
        rig.rest(peer)
        while rig.events:
            for subject, found in rig.take_events():
                if isinstance(found, tuple):
                    seen.append(found[0])
                    if not found[0].startswith(b"POST"):
                        rig.hub.reply(subject, ANSWER, True, rig.now_ns)
                        continue
                    found = rig.hub.read_body(subject, 7, Owner())
                if found is not None:
                    seen.append(found)
                    rig.hub.reply(peer.handle, ANSWER, True, rig.now_ns)
            rig.rest(peer)
    assert peer.data == ANSWER * data.count(b"HTTP/1.1")
    return seen


POST = b"POST /p HTTP/1.1\r\nContent-Length: 7\r\n\r\n"
STREAM = (HEAD + POST + b"\r\n\r\nabc") * 2 + HEAD + HEAD
SEEN = [HEAD, POST, b"\r\n\r\nabc"] * 2 + [HEAD, HEAD]


def test_stream_of_requests_cut_anywhere_is_the_same(rig: Rig) -> None:
    for cut in range(1, len(STREAM)):
        assert events_of(rig, STREAM, [cut]) == SEEN


@settings(max_examples=40)
@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=12).map(sorted))
@pytest.mark.parametrize("driver", ["epoll", "fed"])
def test_stream_of_requests_cut_often_is_the_same(driver: str, cuts: list[int]) -> None:
    rig = Rig(driver)
    try:
        assert events_of(rig, STREAM, cuts) == SEEN
    finally:
        rig.end()
