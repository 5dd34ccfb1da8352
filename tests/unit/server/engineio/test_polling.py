"""Long-polling: what GETs and POSTs of a session bring, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastim.errors import CloseCode
from tests.support.polling import Answer
from tests.unit.server.engineio.engine_world import Client, EngineWorld, serving

UNKNOWN = (400, 1, "Session ID unknown")
BAD = (400, 3, "Bad request")


def body(answer: Answer | None) -> bytes:
    assert answer is not None
    assert answer.status == 200
    return answer.body


def error(answer: Answer | None) -> tuple[int, int, str]:
    assert answer is not None
    return answer.error


def expect_gone(world: EngineWorld, client: Client, code: int) -> None:
    """The session has ended with a code, and leaves nothing behind."""
    world.turn()
    assert error(client.get()) == UNKNOWN
    assert [found for _, found in world.echo.closed_with] == [code]
    assert not world.engine.sessions
    assert not world.world.service.bridges
    assert not world.world.service.waiting
    assert world.figures["polling_sessions"] == 0


# -- messages


async def test_messages_go_both_ways_text_as_text_and_bytes_as_bytes(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        answer = client.post("4hällo\x1ebAQIDBA==\x1e4".encode())

        assert answer is not None
        assert (answer.status, answer.body, answer.fields["content-type"]) == (200, b"ok", "text/html")
        assert world.echo.received_messages == ["hällo", b"\1\2\3\4", ""]
        # All of it in one answer, and nothing twice.
        assert body(client.get()) == "4hällo\x1ebAQIDBA==\x1e4".encode()
        assert client.get() is None


async def test_get_waits_until_there_is_something(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        assert client.get() is None

        world.echo.sessions[0].send(b"now", False)
        world.echo.sessions[0].send(b"\0", True)
        assert body(client.getting.answer()) == b"4now\x1ebAA=="


async def test_what_a_post_causes_is_there_before_its_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        assert client.get() is None
        client.send(b"4a\x1e4b")

        assert body(client.getting.answer()) == b"4a\x1e4b"


async def test_body_in_pieces_is_served_when_it_is_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        head = f"POST /engine.io/?{client.query} HTTP/1.1\r\nHost: unit.test\r\nContent-Length: 6\r\n\r\n"
        client.posting.feed(head.encode() + b"4hel")
        assert client.posting.answer() is None
        assert not world.echo.received_messages

        client.posting.feed(b"lo")
        assert body(client.posting.answer()) == b"ok"
        assert world.echo.received_messages == ["hello"]


@pytest.mark.parametrize("part", [b"", b"4hel"])
async def test_session_ends_with_a_post_whose_client_has_gone_before_it_was_looked_at(
    tmp_path: Path, part: bytes
) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        hub = world.world.service.hub
        head = f"POST /engine.io/?{client.query} HTTP/1.1\r\nHost: unit.test\r\nContent-Length: 6\r\n\r\n"
        hub.feed(client.posting.handle, head.encode() + part, world.world.ns)
        hub.feed_eof(client.posting.handle, world.world.ns)

        expect_gone(world, client, CloseCode.ABNORMAL)


async def test_packets_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        client.send(b"3\x1e3probe\x1e6\x1e5\x1e0\x1e4x")

        assert world.echo.received_messages == ["x"]
        assert body(client.get()) == b"4x"


async def test_post_of_very_many_packets_is_served_in_turns_and_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        packets = [b"4%d" % number for number in range(2_000)]
        answer = client.post(b"\x1e".join(packets))
        assert len(world.echo.received_messages) < 2_000
        while answer is None:
            answer = client.posting.answer()

        assert body(answer) == b"ok"
        assert body(client.get()).split(b"\x1e") == packets
        assert not world.world.service.waiting


async def test_posts_of_many_when_a_turn_is_over_then_the_others_have_theirs_in_the_next(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as world:
        clients = [world.polling() for _ in range(6)]
        messages = world.echo.received_messages
        for number, client in enumerate(clients):
            payload = b"\x1e".join([b"4%d" % number] * 300)
            head = (
                f"POST /engine.io/?{client.query} HTTP/1.1\r\nHost: unit.test\r\n"
                f"Content-Length: {len(payload)}\r\n\r\n"
            )
            world.world.service.hub.feed(client.posting.handle, head.encode() + payload, world.world.ns)

        def take_long() -> None:
            world.world.ns += 1_000_000

        world.echo.on_message = take_long
        turns = []
        while len(messages) < 6 * 300:
            before = len(messages)
            world.turn()
            turns.append(set(messages[before:]))
        # The one whose POST is new, and one of those that wait.
        assert max(len(served) for served in turns) <= 2
        assert turns[0] == {"0"}
        assert set().union(*turns[:6]) == set("012345")
        for client in clients:
            assert body(client.posting.answer()) == b"ok"
        assert not world.world.service.waiting


async def test_paused_session_is_not_served_until_it_is_resumed(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        session = world.echo.sessions[0]
        world.world.service.hub.pause(session.handle)
        assert client.post(b"4x") is None
        assert not world.echo.received_messages

        world.world.service.hub.resume(session.handle)
        assert body(world.pass_until(client.posting.answer, 1)) == b"ok"
        assert world.echo.received_messages == ["x"]


async def test_who_posts_too_fast_gets_the_answer_later_and_is_not_taken_for_gone(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        world.world.service.hub.set_packet_rate(1, 10)  # the standard tier
        client = world.polling()
        answer = client.post(b"\x1e".join([b"4x"] * 1_000))
        while len(world.echo.received_messages) < 1_000:
            world.turn()
        assert answer is None
        assert body(client.get())
        begin_ns = world.world.ns
        assert body(world.pass_until(client.posting.answer, 120)) == b"ok"
        assert world.world.ns - begin_ns > 60_000_000_000
        assert not world.echo.closed_with
        assert world.pass_until(lambda: world.echo.closed_with, 25.25)  # it is watched again


async def test_session_ends_with_a_post_too_fast_whose_client_does_not_wait_for_the_answer(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as world:
        world.world.service.hub.set_packet_rate(1, 10)  # the standard tier
        client = world.polling()
        assert client.post(b"\x1e".join([b"4x"] * 100)) is None
        client.posting.vanish()
        world.world.pass_time(1)

        expect_gone(world, client, CloseCode.ABNORMAL)


async def test_client_that_posts_slowly_is_not_taken_for_gone(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        head = f"POST /engine.io/?{client.query} HTTP/1.1\r\nHost: unit.test\r\nContent-Length: 60\r\n\r\n"
        client.posting.feed(head.encode() + b"4")
        for _ in range(59):
            world.world.pass_time(1)
            client.posting.feed(b"x")

        assert body(client.posting.answer()) == b"ok"
        assert world.echo.received_messages == ["x" * 59]


# -- what a client must not do


@pytest.mark.parametrize(
    "payload", [b"abc", b"", b"4a\x1e", b"\x1e4a", b"7", b"b*", b"2", b"2probe", b"4\xff"]
)
async def test_bad_packet_ends_the_session(tmp_path: Path, payload: bytes) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        other = world.polling()
        assert client.get() is None

        assert error(client.post(payload)) == BAD
        assert body(client.getting.answer()) == b"1"
        code = CloseCode.INVALID_PAYLOAD if b"\xff" in payload else CloseCode.PROTOCOL_ERROR
        other.send(b"4y")
        assert body(other.get()) == b"4y"
        other.send(b"1")
        world.turn()
        assert world.echo.closed_with[0][1] == code
        assert error(client.get()) == UNKNOWN


async def test_packets_before_a_bad_one_are_served(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        assert error(client.post(b"4a\x1e9\x1e4b")) == BAD

        assert world.echo.received_messages == ["a"]
        expect_gone(world, client, CloseCode.PROTOCOL_ERROR)


async def test_two_gets_at_once_end_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        assert client.get() is None
        assert error(world.http().ask("GET", client.query)) == BAD

        assert body(client.getting.answer()) == b"1"
        expect_gone(world, client, CloseCode.PROTOCOL_ERROR)
        assert world.figures["overlaps_total"] == 1


async def test_many_gets_at_once_touch_nothing_but_their_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client, other = world.polling(), world.polling()
        answers = [http.ask("GET", client.query) for http in [world.http() for _ in range(200)]]

        assert answers[0] is None
        assert error(answers[1]) == BAD
        assert {error(answer) for answer in answers[2:]} == {UNKNOWN}
        other.send(b"4y")
        assert body(other.get()) == b"4y"


async def test_two_posts_at_once_end_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        head = f"POST /engine.io/?{client.query} HTTP/1.1\r\nHost: unit.test\r\nContent-Length: 6\r\n\r\n"
        client.posting.feed(head.encode() + b"4h")
        assert error(world.http().ask("POST", client.query, b"4x")) == BAD

        assert error(client.posting.answer()) == BAD
        expect_gone(world, client, CloseCode.PROTOCOL_ERROR)
        assert not world.echo.received_messages


async def test_poll_that_is_given_up_ends_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        assert client.get() is None
        client.getting.vanish()
        client.getting = world.http()

        expect_gone(world, client, CloseCode.ABNORMAL)
        assert world.figures["aborted_total"] == 1


async def test_post_that_is_given_up_half_way_ends_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        head = f"POST /engine.io/?{client.query} HTTP/1.1\r\nHost: unit.test\r\nContent-Length: 6\r\n\r\n"
        client.posting.feed(head.encode() + b"4h")
        client.posting.vanish()

        expect_gone(world, client, CloseCode.ABNORMAL)


async def test_payload_of_bytes_ends_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        answer = client.post(b"4x", Content_Type="application/octet-stream")

        assert error(answer) == (400, 3, "Bytes are posted as base64.")
        expect_gone(world, client, CloseCode.UNSUPPORTED_DATA)


async def test_payload_that_is_too_large_is_refused_unread_and_the_session_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path, max_payload_bytes=10) as world:
        client = world.polling()
        head = f"POST /engine.io/?{client.query} HTTP/1.1\r\nHost: unit.test\r\nContent-Length: 11\r\n\r\n"
        client.posting.feed(head.encode())
        answer = client.posting.answer()
        assert answer is not None
        assert answer.status == 413

        client.posting = world.http()
        client.send(b"4123456789")
        assert body(client.get()) == b"4123456789"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD"])
async def test_other_methods_are_refused_and_the_session_goes_on(tmp_path: Path, method: str) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        answer = client.posting.ask(method, client.query)
        assert answer is not None
        assert answer.status == 400

        client.posting = world.http()
        client.send(b"4x")
        assert body(client.get()) == b"4x"


async def test_session_that_polls_is_not_reached_by_another_transport_or_version(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        http = world.http()
        assert error(http.ask("GET", f"EIO=4&transport=websocket&sid={client.sid}")) == BAD
        assert error(http.ask("GET", f"EIO=3&transport=polling&sid={client.sid}"))[1] == 5
        client.send(b"4x")
        assert body(client.get()) == b"4x"


# -- the end


async def test_client_that_closes_frees_its_open_poll(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        assert client.get() is None
        client.send(b"4last\x1e1\x1e4never")

        assert world.echo.received_messages == ["last"]
        assert body(client.getting.answer()) in (b"6", b"4last")
        expect_gone(world, client, CloseCode.NO_STATUS)


async def test_client_that_closes_while_nothing_waits_gets_a_noop(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        assert client.get() is None
        client.send(b"1")

        assert body(client.getting.answer()) == b"6"
        expect_gone(world, client, CloseCode.NO_STATUS)


async def test_server_that_closes_says_so_behind_what_was_sent_before(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        session = world.echo.sessions[0]
        session.send(b"bye", False)
        session.close(CloseCode.NORMAL, "")
        assert not session.send(b"no more", False)
        world.turn()
        assert [code for _, code in world.echo.closed_with] == [CloseCode.NORMAL]
        client.send(b"4unheard")  # it cannot know yet
        assert not world.echo.received_messages

        assert body(client.get()) == b"4bye\x1e1"
        expect_gone(world, client, CloseCode.NORMAL)


async def test_server_that_closes_tells_the_open_poll(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        assert client.get() is None
        world.echo.sessions[0].close(CloseCode.DRAINING, "draining")

        assert body(client.getting.answer()) == b"1"
        expect_gone(world, client, CloseCode.DRAINING)


async def test_last_words_that_nobody_fetches_are_forgotten(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        world.echo.sessions[0].send(b"bye", False)
        world.echo.sessions[0].close(CloseCode.NORMAL, "")
        world.world.pass_time(6)

        expect_gone(world, client, CloseCode.NORMAL)


async def test_client_that_takes_nothing_costs_bounded_memory_and_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        session = world.echo.sessions[0]
        sent = 0
        while session.send(b"x" * 65_536, False):
            sent += 1
            assert sent < 1_000
        expect_gone(world, client, CloseCode.SLOW_CONSUMER)


# -- the heartbeat


async def test_ping_comes_by_poll_and_its_pong_keeps_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        for _ in range(3):
            assert client.get() is None
            assert body(world.pass_until(client.getting.answer, 15)) == b"2"
            client.send(b"3")


async def test_session_without_a_pong_is_gone_at_the_moment_its_time_is_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        world.world.pass_time(15)  # a ping waits in the outbox
        world.world.ns += 10_000_000_000  # no tick has come since
        assert error(client.get()) == UNKNOWN
        expect_gone(world, client, CloseCode.HEARTBEAT_LOST)
        assert world.figures["expired_total"] == 1


async def test_session_that_posts_in_time_lives_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        for _ in range(5):
            world.world.pass_time(9)
            client.send(b"4x")
        assert b"4x" in body(client.get())


async def test_open_poll_of_a_client_that_is_silent_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        assert client.get() is None
        assert body(world.pass_until(client.getting.answer, 15)) == b"2"
        assert client.get() is None

        assert body(world.pass_until(client.getting.answer, 10.25)) == b"1"
        expect_gone(world, client, CloseCode.HEARTBEAT_LOST)
        assert world.figures["expired_total"] == 1
