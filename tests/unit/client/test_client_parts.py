"""The client's parts without a socket: backoff, cursors, calls, queue, ids, addresses, close codes."""

import asyncio
import contextlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim.client.backoff import Backoff
from fastim.client.calls import Call, CallTable
from fastim.client.codec import Codec
from fastim.client.events import Event, EventQueue
from fastim.client.identifiers import uuid7
from fastim.client.move import Move
from fastim.client.options import read_token, websocket_url
from fastim.client.policy import After, after_close, after_status, is_refusal
from fastim.client.tracker import Tracker, Verdict
from fastim.errors import CloseCode, ProtocolError, RequestError


def test_backoff_when_attempts_fail_then_the_ceiling_doubles_up_to_the_cap():
    ceilings = []

    def draw(low: float, high: float) -> float:
        assert low == 0
        ceilings.append(high)
        return high

    backoff = Backoff(0.5, 4.0, draw)
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    backoff.reset()
    assert backoff.next_s() == 0.5
    for _ in range(3_000):
        assert backoff.next_s() <= 4.0


@given(st.integers(0, 100_000))
def test_backoff_when_the_server_names_a_pause_then_waits_at_least_that_long(retry_after_ms):
    pause_s = Backoff().next_s(retry_after_ms)
    assert retry_after_ms / 1000 <= pause_s <= retry_after_ms / 1000 + 0.5


def test_uuid7_when_made_then_is_version_7_and_grows():
    ids = [uuid7() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in ids} == {(7, uuid.RFC_4122)}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1", "ws://h:1/ws"),
        ("https://h/", "wss://h/ws"),
        ("ws://h/chat/ws?x=1", "ws://h/chat/ws?x=1"),
        ("ws://[::1]:8/ws", "ws://[::1]:8/ws"),
    ],
)
def test_url_when_http_then_becomes_a_websocket_address(url, expected):
    assert websocket_url(url) == expected


@pytest.mark.parametrize(
    "url", ["", "h:1", "ftp://h", "http://", "http://h:99999", "http://h:0", "http://[::1"]
)
def test_url_when_it_is_none_then_raises(url):
    with pytest.raises(ValueError, match="not an http"):
        websocket_url(url)


async def test_token_when_given_in_any_form_then_is_read():
    async def later() -> str:
        return "c"

    assert [await read_token("a"), await read_token(lambda: "b"), await read_token(later)] == ["a", "b", "c"]


def test_close_codes_when_judged_then_follow_the_protocol():
    stop = {code for code in CloseCode if after_close(code) is After.STOP}
    assert stop == {4001, 4003, 4004, 4005}
    assert after_close(4002) is After.FRESH_TOKEN
    assert {code for code in CloseCode if is_refusal(code)} == {1002, 1003, 1007, 1009}
    assert after_status(503) is After.RECONNECT
    assert after_status(401) is After.STOP


async def test_event_queue_when_full_then_refuses_and_wakes_who_waits_for_room():
    queue = EventQueue(2)
    events = [Event(str(number), None) for number in range(3)]
    assert [queue.offer(event) for event in events] == [True, True, False]
    waiter = asyncio.create_task(queue.wait_for_room())
    assert await queue.get() == events[0]
    await waiter
    queue.close(ValueError())
    assert await queue.get() == events[1]
    with pytest.raises(ValueError):
        await queue.get()
    assert not queue.offer(events[0])


# -- cursors


def test_tracker_when_unknown_conversation_then_takes_the_first_message_as_it_comes():
    tracker = Tracker()
    assert tracker.arrived("c", 41, room=True) is Verdict.DELIVER
    assert tracker.seen() == {"c": 41}


def test_tracker_when_an_ok_overtakes_the_replay_then_does_not_hide_what_is_missing():
    tracker = Tracker()
    assert tracker.arrived("c", 1, room=True) is Verdict.DELIVER
    tracker.sent("c", 4)
    assert tracker.seen() == {"c": 1}
    assert tracker.arrived("c", 2, room=True) is Verdict.DELIVER
    assert tracker.arrived("c", 3, room=True) is Verdict.DELIVER
    assert tracker.seen() == {"c": 4}
    assert tracker.arrived("c", 4, room=True) is Verdict.DROP


def test_tracker_when_messages_wait_in_the_queue_then_only_what_was_taken_is_acknowledged():
    tracker = Tracker()
    for seq in (1, 2):
        tracker.arrived("c", seq, room=True)
    tracker.sent("c", 3)
    assert tracker.acknowledgeable("c") == 0
    assert tracker.taken("c", 1) == 1
    assert tracker.taken("c", 2) == 3


def test_tracker_when_it_has_too_many_conversations_then_forgets_the_idlest():
    tracker = Tracker(limit=2_000)
    for number in range(3_000):
        tracker.arrived(str(number), 1, room=True)
    assert tracker.get("999") is None
    assert list(tracker.seen()) == [str(number) for number in range(2_000, 3_000)]


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), max_size=60))
def test_tracker_when_anything_arrives_then_delivers_in_order_and_once(arrivals):
    """Whatever comes, twice, late, without room or filled from history: 1, 2, 3, … each once."""
    tracker = Tracker()
    tracker.gap("c", 0, 0)
    delivered: list[int] = []
    newest = 0
    for seq, room, fill_now in arrivals:
        newest = max(newest, seq)
        if tracker.arrived("c", seq, room=room) is Verdict.DELIVER:
            delivered.append(seq)
        cursor = tracker.get("c")
        if fill_now and cursor.filling:
            page = range(cursor.last + 1, newest + 1)
            delivered += [missing for missing in page if tracker.filled("c", missing)]
            assert tracker.fill_finished("c")
    assert delivered == list(range(1, len(delivered) + 1))
    assert len(delivered) == tracker.get("c").last


# -- calls


def add(table: CallTable, *, retry: bool, event: str = "x") -> Call:
    call = Call(table.next_ref(), event, b"", retry=retry)
    table.add(call)
    return call


async def test_calls_when_interrupted_then_only_those_that_may_be_repeated_stay():
    table = CallTable()
    once, again, unwritten = add(table, retry=False), add(table, retry=True), add(table, retry=False)
    table.wrote(once)
    table.wrote(again)
    table.interrupted(OSError("gone"), refused=False)
    assert isinstance(once.answer.exception(), OSError)
    assert [call.ref for call in (table.get(again.ref), table.get(unwritten.ref))] == [2, 3]
    written = []
    for call in table.unwritten():
        table.wrote(call)
        written.append(call)
    assert written == [again, unwritten]


async def test_calls_when_the_server_cannot_read_then_the_last_fails_and_the_others_at_the_second_time():
    table = CallTable()
    first, second, last = (add(table, retry=True) for _ in range(3))
    for call in (first, second, last):
        table.wrote(call)
    table.interrupted(OSError(), refused=True)
    assert [call.answer.done() for call in (first, second, last)] == [False, False, True]
    table.wrote(first)
    table.wrote(second)
    table.interrupted(OSError(), refused=True)
    assert len(table) == 0


# -- codec


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_codec_when_content_is_as_deep_as_it_may_be_then_it_goes_and_comes(encoding):
    codec = Codec(encoding)
    content = None
    for _ in range(64):
        content = [content]
    packet = codec.encode("message", {"conversation": "c", "content": content}, 1)
    assert codec.decode(packet)[0].body["content"] == content
    with pytest.raises(RequestError):
        codec.encode("message", {"content": [content]}, 1)


@pytest.mark.parametrize(
    "value", [{"n": 2**64}, {"s": "\ud800"}, {"x": float("nan")}, {"x": object()}, {1: 2}]
)
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_codec_when_a_value_is_none_of_the_protocol_then_raises(encoding, value):
    with pytest.raises(RequestError):
        Codec(encoding).encode("x", value, None)


@given(st.binary(max_size=40))
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_codec_when_given_anything_then_raises_only_protocol_errors(encoding, data):
    with contextlib.suppress(ProtocolError):  # the only one allowed
        Codec(encoding).decode(data)


def test_move_when_an_address_is_named_then_made_a_websocket_one_and_due_after_the_pause() -> None:
    move = Move.parse({"url": "https://b.example.com", "token": "t", "retry_after_ms": 1500}, 10.0)
    assert (move.url, move.token, move.at_s) == ("wss://b.example.com/ws", "t", 11.5)
    assert Move.parse({"token": "t"}, 10.0) == Move(None, "t", 10.0)
    with pytest.raises(ValueError, match="address"):
        Move.parse({"url": "file:///etc/passwd", "token": "t"}, 10.0)
    with pytest.raises(KeyError):
        Move.parse({"url": "ws://b"}, 10.0)
