"""Sessions over WebSocket, and the way there from long-polling."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastim.errors import CloseCode
from tests.unit.server.engineio.engine_world import Client, EngineWorld, WebSocket, serving
from tests.unit.server.engineio.test_polling import BAD, UNKNOWN, body, error


async def test_messages_go_both_ways_text_as_text_and_bytes_as_bytes(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        socket = world.websocket()
        socket.take()
        socket.send("4hällo", b"\1\2", "bAQID", "4", b"")

        assert socket.take() == ["4hällo", b"\1\2", b"\1\2\3", "4", b""]


async def test_ping_is_a_packet_and_its_pong_keeps_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        socket = world.websocket()
        socket.take()
        for _ in range(3):
            assert world.pass_until(socket.take, 15) == ["2"]
            socket.send("3")
        assert world.pass_until(lambda: socket.close_code, 25.25) == CloseCode.HEARTBEAT_LOST


async def test_close_packet_ends_session_and_socket(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        socket = world.websocket()
        socket.send("1")

        assert socket.close_code == CloseCode.NO_STATUS
        assert [code for _, code in world.echo.closed_with] == [CloseCode.NO_STATUS]
        assert not world.engine.sessions
        assert world.figures["websocket_sessions"] == 0


@pytest.mark.parametrize("message", ["abc", "", "7", "2", "2probe", "b*"])
async def test_bad_packet_ends_the_session(tmp_path: Path, message: str) -> None:
    async with serving(tmp_path) as world:
        socket = world.websocket()
        socket.send(message)

        assert socket.close_code == CloseCode.PROTOCOL_ERROR
        assert not world.engine.sessions


@pytest.mark.parametrize("message", ["0", "3", "3probe", "5", "6", "6x"])
async def test_packets_that_say_nothing_are_passed_over(tmp_path: Path, message: str) -> None:
    async with serving(tmp_path) as world:
        socket = world.websocket()
        socket.take()
        socket.send(message, "4x")

        assert socket.take() == ["4x"]


async def test_first_subprotocol_is_chosen_whatever_it_is(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        socket = world.websocket(Sec_WebSocket_Protocol="mine, yours")
        response = socket.response
        assert response is not None

        assert response.status_code == 101
        assert response.headers["Sec-WebSocket-Protocol"] == "mine"


# -- from polling to WebSocket


def probe(world: EngineWorld, client: Client) -> WebSocket:
    socket = world.websocket(client.sid)
    assert socket.is_open
    socket.send("2probe")
    assert socket.take() == ["3probe"]
    return socket


async def test_session_goes_over_and_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        session = world.echo.sessions[0]
        socket = probe(world, client)
        assert body(client.get()) == b"6"
        socket.send("5", "4hello")

        assert socket.take() == ["4hello"]
        assert session.transport == "websocket"
        assert world.echo.sessions == [session]
        assert not world.echo.closed_with
        assert not world.world.service.bridges
        assert (world.figures["upgraded_total"], world.figures["probes_failed_total"]) == (1, 0)
        assert (world.figures["polling_sessions"], world.figures["websocket_sessions"]) == (0, 1)


async def test_open_poll_ends_with_a_noop_when_the_probe_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        assert client.get() is None
        socket = probe(world, client)

        assert body(client.getting.answer()) == b"6"
        # A client that has not seen the answer polls on: not round and round.
        assert client.get() is None
        world.world.pass_time(0.2)
        assert body(client.getting.answer()) == b"6"
        socket.send("5", "4x")
        assert socket.take() == ["4x"]


async def test_nothing_is_lost_or_doubled_and_order_is_kept_while_it_goes_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        session = world.echo.sessions[0]
        session.send(b"1", False)
        socket = probe(world, client)
        session.send(b"2", False)
        assert body(client.get()) == b"41\x1e42"
        client.send(b"43")
        session.send(b"4", False)
        session.send(b"\5", True)
        socket.send("5")
        session.send(b"6", False)

        assert socket.take() == ["43", "44", b"\5", "46"]
        assert world.echo.received_messages == ["3"]


async def test_known_client_may_say_much_right_behind_the_upgrade(tmp_path: Path) -> None:
    async with serving(tmp_path, hub={"pending_frames": 8}) as world:
        client = world.polling()
        socket = world.websocket(client.sid)
        messages = [f"4{number}" for number in range(100)]
        socket.send("2probe", "5", *messages)

        assert socket.take() == ["3probe", *messages]


async def test_stranger_may_not(tmp_path: Path) -> None:
    async with serving(tmp_path, hub={"pending_frames": 8}) as world:
        world.echo.lets_in = False
        client = world.polling()
        socket = world.websocket(client.sid)
        socket.send("2probe", "5", *(f"4{number}" for number in range(100)))

        assert socket.close_code == CloseCode.RATE_LIMITED


async def test_probe_and_upgrade_in_one_read_go_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        socket = world.websocket(client.sid)
        socket.send("2probe", "5", "4hello", b"\1")

        assert socket.take() == ["3probe", "4hello", b"\1"]
        assert error(client.get()) == BAD
        assert error(client.post(b"4x")) == BAD
        socket.send("4again")
        assert socket.take() == ["4again"]


async def test_second_websocket_is_opened_and_closed_and_the_session_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        socket = probe(world, client)
        assert world.websocket(client.sid).close_code == CloseCode.NO_STATUS  # while it goes over
        socket.send("5")
        other = world.websocket(client.sid)  # and after
        assert other.close_code == CloseCode.NO_STATUS
        assert other.take() == []

        socket.send("4x")
        assert socket.take() == ["4x"]


async def test_session_that_began_as_a_websocket_is_not_taken_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        socket = world.websocket()
        socket.take()
        sid = world.echo.sessions[0].sid
        assert world.websocket(sid).close_code == CloseCode.NO_STATUS
        assert error(world.http().ask("GET", f"EIO=4&transport=polling&sid={sid}")) == BAD

        socket.send("4x")
        assert socket.take() == ["4x"]


async def test_websocket_with_an_unknown_sid_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        assert world.websocket("guessed").refusal == {"code": 1, "message": "Session ID unknown"}


async def test_probe_that_is_never_completed_is_closed_and_polling_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        socket = probe(world, client)
        client.send(b"4a")
        world.world.pass_time(10)

        assert socket.close_code == CloseCode.NORMAL
        assert b"4a" in body(client.get())
        client.send(b"3")
        assert client.get() is None
        assert world.figures["probes_failed_total"] == 1
        assert not world.echo.closed_with
        client.send(b"4b")
        assert body(client.getting.answer()) == b"4b"
        probe(world, client).send("5")  # it may try again
        assert world.echo.sessions[0].transport == "websocket"


@pytest.mark.parametrize("messages", [("5",), ("4x",), ("2probe", "2probe"), ("",), (b"\1",), ("2",)])
async def test_probe_that_is_none_is_closed_and_polling_goes_on(
    tmp_path: Path, messages: tuple[str | bytes, ...]
) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        socket = world.websocket(client.sid)
        socket.send(*messages)

        assert socket.close_code == CloseCode.PROTOCOL_ERROR
        client.send(b"4a")
        assert body(client.get()) == b"4a"
        assert world.echo.received_messages == ["a"]


async def test_websocket_that_vanishes_while_it_probes_is_no_loss(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        socket = probe(world, client)
        world.world.service.hub.feed_eof(socket.handle, world.world.ns)
        world.turn()

        client.send(b"4a")
        assert body(client.get()) == b"4a"
        assert world.figures["probes_failed_total"] == 1


async def test_session_that_ends_before_the_probe_takes_the_websocket_along(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        socket = world.websocket(client.sid)
        client.send(b"1")

        assert socket.close_code is not None
        assert error(client.get()) == UNKNOWN
        assert not world.engine.sessions


async def test_session_that_ends_behind_the_probe_is_told_once_it_goes_over(tmp_path: Path) -> None:
    """A client that has seen the answer polls no more, and does not go back to it if its WebSocket closes."""
    async with serving(tmp_path) as world:
        client = world.polling()
        socket = probe(world, client)
        client.send(b"1")

        assert socket.close_code is None
        assert error(client.get()) == UNKNOWN
        assert not world.engine.sessions
        socket.send("5")
        assert socket.close_code is not None


async def test_session_that_is_closed_in_the_turn_in_which_it_goes_over_takes_the_websocket_along(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        session = world.echo.sessions[0]
        socket = probe(world, client)
        other = world.websocket()
        world.echo.on_message = lambda: session.close(CloseCode.NORMAL, "")
        for one, message in ((other, b"4x"), (socket, b"5")):  # read in one turn
            one.protocol.send_text(message)
            for data in one.protocol.data_to_send():
                world.world.service.hub.feed(one.handle, data, world.world.ns)
        world.turn()

        assert socket.close_code == CloseCode.NORMAL
        assert world.echo.closed_with == [(session, CloseCode.NORMAL)]
        assert body(client.get()) == b"1"
        assert (world.figures["polling_sessions"], world.figures["websocket_sessions"]) == (0, 1)


async def test_client_that_goes_over_while_it_posts_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        socket = probe(world, client)
        head = f"POST /engine.io/?{client.query} HTTP/1.1\r\nHost: unit.test\r\nContent-Length: 6\r\n\r\n"
        client.posting.feed(head.encode() + b"4h")
        socket.send("5")

        assert socket.close_code == CloseCode.PROTOCOL_ERROR
        client.posting.feed(b"ello")
        assert body(client.posting.answer()) == b"ok"
        assert world.echo.received_messages == ["hello"]


async def test_heartbeat_goes_on_over_the_websocket(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        socket = probe(world, client)
        socket.send("5")
        assert world.pass_until(socket.take, 15) == ["2"]
        socket.send("3")
        assert world.pass_until(lambda: socket.close_code, 25.25) == CloseCode.HEARTBEAT_LOST
        assert [code for _, code in world.echo.closed_with] == [CloseCode.HEARTBEAT_LOST]
        assert world.figures["expired_total"] == 1


async def test_pause_goes_over_with_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        session = world.echo.sessions[0]
        socket = probe(world, client)
        world.world.service.hub.pause(session.handle)
        socket.send("5")
        socket.send("4x")
        assert not world.echo.received_messages

        world.world.service.hub.resume(session.handle)
        assert socket.take() == ["4x"]
