"""The hub over both drivers: heads, messages, the ends of connections, stale handles."""

import socket
from collections.abc import Callable

import pytest

from fastim._core.hub import EventKind
from tests.engines.hub_rig import (
    HEAD,
    RESPONSE,
    SECOND_NS,
    Frame,
    Owner,
    Peer,
    Rig,
    client_frame,
    deflate,
    inflate,
    parse_frames,
)
from tests.reference.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, encode_header

MakeRig = Callable[..., Rig]
HEX_KEY = b"\x0a\xb1\x0c\xd3"


def closed(code: int | None, reason: str = "") -> Frame:
    return Frame(True, 0, CLOSE, close_payload(code, reason))


# -- the request head


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_head_when_it_comes_in_pieces_then_is_handed_out_once(rig: Rig, step: int) -> None:
    peer = rig.connect()
    for i in range(0, len(HEAD), step):
        peer.send(HEAD[i : i + step])
        rig.tick()
    assert rig.events == [(EventKind.HEAD, peer.handle, (HEAD, "192.0.2.7"))]


@pytest.mark.parametrize("cut", range(0, 30, 3))
def test_upgrade_when_frames_stand_behind_the_head_then_none_is_lost(rig: Rig, cut: int) -> None:
    data = client_frame(TEXT, b"one") + client_frame(BINARY, b"two") + client_frame(TEXT, b"three")
    peer = rig.open(behind=data[:cut])
    peer.send(data[cut:])
    rig.rest(peer)
    texts = [(kind, data) for kind, _, data in rig.events]
    assert texts == [(EventKind.TEXT, b"one"), (EventKind.BINARY, b"two"), (EventKind.TEXT, b"three")]
    assert {subject for _, subject, _ in rig.events} == {peer.owner}


def test_upgrade_when_a_head_of_the_limit_has_more_behind_it_then_none_is_lost(make_rig: MakeRig) -> None:
    rig = make_rig(head_bytes=len(HEAD))
    behind = client_frame(BINARY, b"x" * 60_000)
    peer = rig.open(behind=behind)
    rig.rest(peer)
    assert rig.take_events() == [(peer.owner, b"x" * 60_000)]


def test_head_when_too_large_then_431(make_rig: MakeRig) -> None:
    rig = make_rig(head_bytes=100)
    peer = rig.connect()
    peer.send(b"GET / HTTP/1.1\r\nX: " + b"a" * 200 + b"\r\n\r\n")
    rig.rest(peer)
    assert peer.data.startswith(b"HTTP/1.1 431 ")
    assert peer.ended
    assert not rig.events


def test_head_when_it_drips_then_408_at_the_timeout_of_the_whole(rig: Rig) -> None:
    peer = rig.connect()
    for byte in HEAD[:9]:
        peer.send(bytes([byte]))
        rig.tick(SECOND_NS // 2)
        assert not peer.read()
    rig.tick(SECOND_NS)
    rig.rest(peer)
    assert peer.data.startswith(b"HTTP/1.1 408 ")
    assert peer.ended
    peer.close()
    rig.rest()
    assert rig.hub.connections == 0


def test_head_when_nothing_comes_then_closed_without_a_word(rig: Rig) -> None:
    peer = rig.connect()
    rig.tick(5 * SECOND_NS - 1)
    peer.read()
    assert not peer.ended
    rig.tick(SECOND_NS)
    rig.rest(peer)
    assert (peer.data, peer.ended, rig.hub.connections, rig.events) == (b"", True, 0, [])


def test_respond_sends_and_lets_the_peer_go(rig: Rig) -> None:
    peer = rig.decide(behind=b"some body")
    assert rig.hub.respond(peer.handle, b"HTTP/1.1 400 No\r\n\r\n", rig.now_ns)
    assert not rig.hub.respond(peer.handle, b"HTTP/1.1 400 No\r\n\r\n", rig.now_ns)
    assert not rig.hub.upgrade(peer.handle, RESPONSE, Owner())
    peer.send(b"more of the body")
    rig.rest(peer)
    assert peer.data == b"HTTP/1.1 400 No\r\n\r\n"
    assert peer.ended
    peer.close()
    rig.rest()
    assert (rig.hub.connections, rig.events) == (0, [])


def test_respond_when_the_peer_stays_then_reset_at_the_timeout(rig: Rig) -> None:
    peer = rig.decide()
    rig.hub.respond(peer.handle, b"HTTP/1.1 400 No\r\n\r\n", rig.now_ns)
    rig.tick(6 * SECOND_NS)
    rig.tick(6 * SECOND_NS)
    rig.rest(peer)
    assert rig.hub.connections == 0


def test_detach_gives_descriptor_and_bytes_away_whole(rig: Rig) -> None:
    peer = rig.decide(behind=b"the body")
    fd, data = rig.hub.detach(peer.handle)
    assert (fd == -1) == (rig.driver == "fed")
    assert data == HEAD + b"the body"
    assert rig.hub.connections == 0
    if fd >= 0:
        with socket.socket(fileno=fd) as ours:
            peer.send(b" and more")
            assert ours.recv(100) == b" and more"
            rig.tick()
    with pytest.raises(LookupError):
        rig.hub.detach(peer.handle)


@pytest.mark.parametrize("missing", ["upgrade", "respond"])
def test_answer_when_it_is_none_then_raises_and_the_head_still_waits(rig: Rig, missing: str) -> None:
    peer = rig.decide()
    with pytest.raises(TypeError):
        getattr(rig.hub, missing)(peer.handle, None, 1)
    assert rig.hub.upgrade(peer.handle, RESPONSE, Owner())


# -- messages


def test_messages_come_in_order_with_control_frames_between_their_fragments(rig: Rig) -> None:
    peer = rig.open()
    peer.send(
        client_frame(TEXT, b"fr", fin=False)
        + client_frame(PING, b"here?")
        + client_frame(CONTINUATION, b"agme", fin=False)
        + client_frame(PONG, b"unasked")
        + client_frame(CONTINUATION, "nts ü".encode())
        + client_frame(BINARY)
    )
    assert peer.frames() == [Frame(True, 0, PONG, b"here?")]
    assert rig.events == [
        (EventKind.PONG, peer.owner, b"unasked"),
        (EventKind.TEXT, peer.owner, "fragments ü".encode()),
        (EventKind.BINARY, peer.owner, b""),
    ]


def test_message_of_the_limit_arrives_in_any_chop(make_rig: MakeRig) -> None:
    rig = make_rig(max_message_bytes=100_000)
    peer = rig.open()
    data = client_frame(BINARY, bytes(range(250)) * 400)
    for i in range(0, len(data), 30_011):
        peer.send(data[i : i + 30_011])
        rig.tick()
    rig.rest(peer)
    assert rig.take_events() == [(peer.owner, bytes(range(250)) * 400)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(TEXT, b"\xff"), 1007),
        (client_frame(TEXT, b"\xce\xba\xed\xa0", fin=False), 1007),
        (encode_header(102_401, BINARY, key=HEX_KEY), 1009),
        (encode_header((1 << 63) - 1, BINARY, key=HEX_KEY), 1009),
        (encode_header(1 << 63, BINARY, key=HEX_KEY), 1002),
        (client_frame(PING, b"x" * 126), 1002),
        (client_frame(PING, fin=False), 1002),
        (client_frame(TEXT, rsv=4), 1002),
        (client_frame(TEXT, rsv=2), 1002),
        (client_frame(3), 1002),
        (client_frame(CONTINUATION), 1002),
        (b"\x81\x01x", 1002),
        (client_frame(CLOSE, b"\x03"), 1002),
        (client_frame(CLOSE, close_payload(1005)), 1002),
        (client_frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_bytes_that_break_a_rule_close_only_their_connection(
    rig: Rig, data: bytes, code: int, step: int
) -> None:
    peer, neighbour = rig.open("bad"), rig.open("good")
    for i in range(0, len(data), step):
        peer.send(data[i : i + step])
        rig.tick()
    peer.send(client_frame(TEXT, b"too late"))
    frames = peer.frames()
    assert [(f.opcode, f.payload[:2]) for f in frames] == [(CLOSE, code.to_bytes(2, "big"))]
    assert peer.ended
    [(subject, (told, _, clean))] = rig.take_events()
    assert (subject, told, clean) == (peer.owner, code, False)
    neighbour.send(client_frame(TEXT, b"fine"))
    rig.rest(neighbour)
    assert rig.take_events() == [(neighbour.owner, b"fine")]
    peer.close()
    rig.rest()
    assert rig.hub.connections == 1


def test_fragments_without_end_close_with_1009(make_rig: MakeRig) -> None:
    rig = make_rig(max_fragments=10)
    peer = rig.open()
    peer.send(client_frame(TEXT, fin=False) + client_frame(CONTINUATION, fin=False) * 10)
    assert peer.frames() == [closed(1009, "too many fragments")]


# -- permessage-deflate


def test_deflate_both_ways(rig: Rig) -> None:
    peer = rig.open(deflate=True)
    text = b'["message", "' + b"deflate me " * 50 + b'"]'
    packed = deflate(text)
    peer.send(client_frame(TEXT, packed, rsv=4) + client_frame(TEXT, b"plain"))
    peer.send(client_frame(TEXT, packed[:9], fin=False, rsv=4) + client_frame(CONTINUATION, packed[9:]))
    peer.send(client_frame(BINARY, b"", rsv=4))
    rig.rest(peer)
    assert [data for _, data in rig.take_events()] == [text, b"plain", text, b""]
    rig.hub.send(peer.handle, text)
    rig.hub.send(peer.handle, b'["short"]')
    rig.hub.send_message(peer.handle, text, True)
    long, short, raw = peer.frames()
    assert (long.rsv, short.rsv, raw.rsv, raw.opcode) == (4, 0, 4, BINARY)
    assert len(long.payload) < len(text) // 4
    assert inflate(long.payload) == inflate(raw.payload) == text
    assert short.payload == b'["short"]'


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (deflate(bytes(50_000_000)), 1009),
        (deflate(bytes(102_401)), 1009),
        (b"\xff" * 20, 1007),
        (deflate(b"text \xff" * 9), 1007),
    ],
)
def test_deflated_bytes_that_are_too_big_or_none_close(rig: Rig, payload: bytes, code: int) -> None:
    peer = rig.open(deflate=True)
    peer.send(client_frame(TEXT, payload, rsv=4))
    [frame] = peer.frames()
    assert (frame.opcode, frame.payload[:2]) == (CLOSE, code.to_bytes(2, "big"))
    [(_, (told, _, clean))] = rig.take_events(EventKind.CLOSED)
    assert (told, clean) == (code, False)


def test_deflated_message_of_exactly_the_limit_is_taken(rig: Rig) -> None:
    peer = rig.open(deflate=True)
    peer.send(client_frame(BINARY, deflate(bytes(102_400)), rsv=4))
    rig.rest(peer)
    assert rig.take_events() == [(peer.owner, bytes(102_400))]


# -- the close handshake


@pytest.mark.parametrize("code", [None, 1000, 1001, 1002, 1003, 1007, 1009, 1011, 1014, 3000, 4001, 4999])
def test_close_by_the_peer_is_answered_with_its_code(rig: Rig, code: int | None) -> None:
    peer = rig.open()
    rig.hub.send(peer.handle, b'["before"]')
    peer.send(client_frame(CLOSE, close_payload(code, "bye" if code else "")))
    peer.send(client_frame(TEXT, b"behind the close"))
    frames = peer.frames()
    assert frames == [Frame(True, 0, TEXT, b'["before"]'), closed(code)]
    assert peer.ended
    reason = "bye" if code else ""
    assert rig.take_events() == [(peer.owner, (code or 1005, reason, True))]
    assert rig.hub.connections == 0
    assert not rig.hub.send(peer.handle, b'["after"]')


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_close_by_the_peer_with_a_code_not_to_be_sent_is_1002(rig: Rig, code: int) -> None:
    peer = rig.open()
    peer.send(client_frame(CLOSE, close_payload(code)))
    assert peer.frames() == [closed(1002, "invalid close code")]


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4001, 4008, 4014])
def test_close_by_us_sends_what_is_queued_and_waits_for_the_answer(rig: Rig, code: int) -> None:
    peer = rig.open()
    rig.hub.send(peer.handle, b'["first"]')
    rig.hub.send(peer.handle, b'["typing"]', 2)
    assert rig.hub.close(peer.handle, code, "because", rig.now_ns)
    assert not rig.hub.close(peer.handle, 1000, "", rig.now_ns)
    assert not rig.hub.send(peer.handle, b'["after"]')
    assert rig.take_events() == []
    assert peer.frames() == [Frame(True, 0, TEXT, b'["first"]'), closed(code, "because")]
    assert rig.take_events() == [(peer.owner, (code, "because", False))]
    assert not peer.ended
    peer.send(client_frame(TEXT, b"still on its way") + client_frame(CLOSE, close_payload(code)))
    assert peer.frames() == []
    assert (peer.ended, rig.hub.connections, rig.events) == (True, 0, [])


def test_close_by_us_when_no_answer_comes_then_reset_at_the_timeout(rig: Rig) -> None:
    peer = rig.open()
    rig.hub.close(peer.handle, 1001, "", rig.now_ns)
    assert peer.frames() == [closed(1001)]
    rig.tick(4 * SECOND_NS)
    assert rig.hub.connections == 1
    rig.tick(2 * SECOND_NS)
    rig.rest(peer)
    assert (peer.ended, rig.hub.connections) == (True, 0)
    assert len(rig.take_events(EventKind.CLOSED)) == 1


def test_close_when_the_reason_is_too_long_then_it_is_cut_between_characters(rig: Rig) -> None:
    peer = rig.open()
    rig.hub.close(peer.handle, 1000, "ü" * 100, rig.now_ns)
    assert peer.frames() == [closed(1000, "ü" * 61)]


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 2000])
def test_close_by_us_with_a_code_not_to_be_sent_raises(rig: Rig, code: int) -> None:
    peer = rig.open()
    with pytest.raises(ValueError, match="close frame"):
        rig.hub.close(peer.handle, code, "", rig.now_ns)
    assert rig.hub.alive(peer.handle)


def test_stream_that_ends_without_a_close_frame_is_1006(rig: Rig) -> None:
    peer = rig.open()
    peer.send(client_frame(TEXT, b"last") + client_frame(TEXT, b"half")[:5])
    peer.close()
    rig.rest()
    assert rig.events == [
        (EventKind.TEXT, peer.owner, b"last"),
        (EventKind.CLOSED, peer.owner, (1006, "", False)),
    ]
    assert rig.hub.connections == 0


def test_stream_that_ends_with_much_unparsed_is_handled_to_its_end(make_rig: MakeRig) -> None:
    rig = make_rig(message_budget=3, tick_messages=6)
    peer = rig.open()
    peer.send(client_frame(TEXT, b"x") * 100)
    peer.close()
    rig.rest()
    assert [kind for kind, _, _ in rig.events] == [EventKind.TEXT] * 100 + [EventKind.CLOSED]
    assert rig.hub.connections == 0


def test_message_and_close_in_the_same_bytes_are_answered_in_order(rig: Rig) -> None:
    peer = rig.open()
    peer.send(client_frame(TEXT, b"question") + client_frame(CLOSE, close_payload(1000)))
    assert rig.tick() == [(EventKind.TEXT, peer.owner, b"question")]
    rig.hub.send(peer.handle, b'["answer"]')
    assert peer.frames() == [Frame(True, 0, TEXT, b'["answer"]'), closed(1000)]


@pytest.mark.parametrize("state", ["head", "deciding", "open", "closing"])
def test_abort_ends_a_connection_in_any_state(rig: Rig, state: str) -> None:
    peer = {"head": rig.connect, "deciding": rig.decide}.get(state, rig.open)()
    if state == "closing":
        rig.hub.close(peer.handle, 1000, "", rig.now_ns)
    assert rig.hub.abort(peer.handle)
    rig.rest(peer)
    assert (peer.ended, rig.hub.connections) == (True, 0)
    expected = {"open": (1006, "aborted", False), "closing": (1000, "", False)}
    assert [data for _, data in rig.take_events()] == ([expected[state]] if state in expected else [])


# -- timers, pause, budgets


def test_undecided_connection_is_reset_at_the_timeout_of_the_head(rig: Rig) -> None:
    peer = rig.decide()
    rig.tick(4 * SECOND_NS)
    assert rig.hub.connections == 1
    rig.tick(2 * SECOND_NS)
    rig.rest(peer)
    assert (peer.ended, rig.hub.connections, rig.events) == (True, 0, [])
    assert not rig.hub.upgrade(peer.handle, RESPONSE, Owner())


def test_timer_comes_once_at_its_time_and_can_be_moved(rig: Rig) -> None:
    peer = rig.open(deadline_ns=rig.now_ns + 2 * SECOND_NS)
    rig.tick(SECOND_NS)
    assert rig.take_events() == []
    rig.tick(2 * SECOND_NS)
    assert rig.events == [(EventKind.TIMER, peer.owner, None)]
    rig.take_events()
    assert rig.hub.set_timer(peer.handle, rig.now_ns + SECOND_NS)
    assert rig.hub.set_timer(peer.handle, rig.now_ns + 3 * SECOND_NS)
    rig.tick(2 * SECOND_NS)
    assert rig.take_events() == []
    assert rig.hub.set_timer(peer.handle, 0)
    rig.tick(9 * SECOND_NS)
    assert rig.take_events() == []
    assert rig.hub.set_timer(peer.handle, 1)  # long gone: with the next poll
    rig.tick()
    assert rig.take_events(EventKind.TIMER) == [(peer.owner, None)]


def test_pause_holds_messages_back_and_resume_brings_all(make_rig: MakeRig) -> None:
    rig = make_rig(message_budget=4)
    peer = rig.open()
    texts = [b"%d" % i for i in range(30)]
    peer.send(b"".join(client_frame(TEXT, text) for text in texts[:20]))
    rig.tick()
    assert rig.hub.pause(peer.handle)
    before = len(rig.events)
    assert before < 20
    peer.send(b"".join(client_frame(TEXT, text) for text in texts[20:]))
    for _ in range(4):
        rig.tick()
    assert len(rig.events) == before
    for _ in range(5):
        assert rig.hub.resume(peer.handle)
        assert rig.hub.pause(peer.handle)
    assert rig.hub.resume(peer.handle)
    rig.rest(peer)
    assert [data for _, data in rig.take_events()] == texts


def test_close_while_paused_still_hears_the_answer(rig: Rig) -> None:
    peer = rig.open()
    rig.hub.pause(peer.handle)
    peer.send(client_frame(TEXT, b"unheard") + client_frame(CLOSE, close_payload(1000)))
    rig.tick()
    rig.hub.close(peer.handle, 1000, "", rig.now_ns)
    assert peer.frames() == [closed(1000)]
    assert rig.hub.connections == 0
    assert rig.take_events() == [(peer.owner, (1000, "", False))]


def test_flooders_do_not_keep_a_neighbour_waiting(make_rig: MakeRig) -> None:
    rig = make_rig(message_budget=10, tick_messages=40)
    flooders = [rig.open(f"flooder{i}") for i in range(20)]
    neighbour = rig.open("neighbour")
    for flooder in flooders:
        flooder.send(client_frame(TEXT, b"x") * 2_000)
    rig.tick()
    rig.take_events()
    for _ in range(5):
        neighbour.send(client_frame(TEXT, b"me too"))
        polls = 0
        while not any(subject is neighbour.owner for _, subject, _ in rig.events):
            events = rig.tick()
            assert len(events) <= 60
            polls += 1
            assert polls <= 12
        rig.take_events()


def test_flooders_are_served_in_turn(make_rig: MakeRig) -> None:
    rig = make_rig(message_budget=10, tick_messages=40)
    flooders = [rig.open(f"flooder{i}") for i in range(12)]
    for flooder in flooders:
        flooder.send(client_frame(TEXT, b"x") * 300)
    for _ in range(30):
        rig.tick()
    served = {flooder.owner: 0 for flooder in flooders}
    for subject, _ in rig.take_events():
        served[subject] += 1
    assert min(served.values()) > 0
    assert max(served.values()) - min(served.values()) <= 30


def test_messages_when_one_uses_up_more_than_the_budget_then_all_are_served(make_rig: MakeRig) -> None:
    rig = make_rig(message_budget=10, tick_messages=40)
    for frames in range(8, 40):  # that the large one counts for: 12 to -20 are left of the budget
        peer = rig.open(f"large{frames}")
        peer.send(client_frame(TEXT, b"x") * 10 + client_frame(TEXT, b"y" * (512 + 64 * frames)))
        rig.tick()
        rig.tick()
        assert [len(data) for subject, data in rig.take_events()] == [1] * 10 + [512 + 64 * frames]


@pytest.mark.parametrize("packed", [False, True])
def test_flooders_of_large_messages_do_not_keep_a_neighbour_waiting(make_rig: MakeRig, packed: bool) -> None:
    rig = make_rig(message_budget=100, tick_messages=512)
    flooders = [rig.open(f"flooder{i}", deflate=packed) for i in range(20)]
    neighbour = rig.open("neighbour")
    text = b"x" * 30_000
    for flooder in flooders:
        flooder.send((client_frame(TEXT, deflate(text), rsv=4) if packed else client_frame(TEXT, text)) * 10)
    neighbour.send(client_frame(TEXT, b"me too"))
    polls = 0
    while not any(subject is neighbour.owner for _, subject, _ in rig.events):
        events = rig.tick()
        # A thousand packets could be in each.
        assert sum(len(data) for _, _, data in events if isinstance(data, bytes)) <= 4 * len(text)
        polls += 1
        assert polls <= 25


def test_last_received_and_peer_are_kept(rig: Rig) -> None:
    peer = rig.open()
    before = rig.hub.last_received_ns(peer.handle)
    peer.send(client_frame(PONG))
    rig.tick(SECOND_NS)
    assert rig.hub.last_received_ns(peer.handle) > before
    assert rig.hub.peer(peer.handle) == "192.0.2.7"
    assert rig.hub.owner(peer.handle) is peer.owner


def test_ping_and_its_pong(rig: Rig) -> None:
    peer = rig.open()
    assert rig.hub.ping(peer.handle, b"now")
    with pytest.raises(ValueError, match="125"):
        rig.hub.ping(peer.handle, bytes(126))
    assert peer.frames() == [Frame(True, 0, PING, b"now")]
    peer.send(client_frame(PONG, b"now"))
    rig.rest(peer)
    assert rig.take_events(EventKind.PONG) == [(peer.owner, b"now")]


def test_response_and_first_packets_of_a_tick_come_in_order(rig: Rig) -> None:
    peer: Peer = rig.decide()
    rig.hub.upgrade(peer.handle, RESPONSE, Owner())
    rig.hub.send(peer.handle, b'["urgent"]', 0)
    rig.rest(peer)
    assert peer.data.startswith(RESPONSE)
    frames, rest = parse_frames(peer.data[len(RESPONSE) :])
    assert (frames, rest) == ([Frame(True, 0, TEXT, b'["urgent"]')], b"")
