"""HTTP requests that the front's routes answer, on kept connections, in the clear and over TLS."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from tests.e2e.conftest import OWN_MISTAKES
from tests.e2e.serving import ServerProcess, Start, rest, wait_until
from tests.e2e.wire import Wire, dial, post, request

ROUTED = (sys.executable, "-m", "tests.e2e.routed_server")
SETTINGS = {
    "FASTIM_LIMITS__HEAD_TIMEOUT_S": "0.3",
    "FASTIM_LIMITS__BODY_TIMEOUT_S": "0.3",
    "FASTIM_LIMITS__HELLO_TIMEOUT_S": "0.5",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
    "FASTIM_BANS__AUTOMATIC": "false",
}


def served(folder: Path, arguments: tuple[str, ...]) -> Iterator[ServerProcess]:
    server = ServerProcess(folder / "data", arguments, dict(SETTINGS), command=ROUTED)
    yield server
    assert server.process.poll() is None, server.log()
    assert server.stop() == 0
    for sign in OWN_MISTAKES[1:]:  # the first is there: some routes fail on purpose
        assert sign not in server.log()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server in the clear."""
    yield from served(tmp_path_factory.mktemp("plain"), ())


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[ServerProcess]:
    """A server with TLS."""
    arguments = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    yield from served(tmp_path_factory.mktemp("secure"), arguments)


@pytest.fixture(params=["plain", "secure"])
def server(request: pytest.FixtureRequest, plain: ServerProcess, secure: ServerProcess) -> ServerProcess:
    """Each of the two."""
    return plain if request.param == "plain" else secure


def figures(server: ServerProcess) -> dict[str, Any]:
    with dial(server) as wire:
        found = wire.get("/status", "Connection: close").data
    assert isinstance(found, dict)
    return found


def wait_until_held(server: ServerProcess, count: int) -> None:
    wait_until(lambda: figures(server)["held"] == count, f"{count} requests held")


# -- answers


def test_request_when_answered_then_the_connection_serves_the_next(server: ServerProcess) -> None:
    with dial(server) as wire:
        for number in range(5):
            answer = wire.post("/echo", b"body %d" % number)
            assert (answer.status, answer.body) == (200, b"body %d" % number)
            assert answer.fields == {
                "cache-control": "no-store",
                "content-type": "application/octet-stream",
                "content-length": "6",
            }


@pytest.mark.parametrize("count", [2, 300, 3_000])
def test_requests_when_pipelined_then_answered_in_order(server: ServerProcess, count: int) -> None:
    with dial(server) as wire:
        wire.send(b"".join(post("/echo", b"%04d" % number) for number in range(count)))
        assert [wire.answer().body for _ in range(count)] == [b"%04d" % number for number in range(count)]


def test_requests_when_answered_later_then_in_order_all_the_same(server: ServerProcess) -> None:
    with dial(server) as wire:
        wire.send(request("/later") + request("/who") + request("/later?2") + post("/echo", b"last"))
        answers = [wire.answer() for _ in range(4)]
    assert [answer.body for answer in answers if answer.body[:1] != b"{"] == [b"later", b"later", b"last"]
    assert answers[1].data["method"] == "GET"


@pytest.mark.parametrize(
    ("version", "lines"), [("1.1", ["Connection: close"]), ("1.1", ["Connection: x, CLOSE"]), ("1.0", [])]
)
def test_connection_when_the_client_wants_one_answer_then_closed(
    server: ServerProcess, version: str, lines: list[str]
) -> None:
    with dial(server) as wire:
        wire.send(request("/who", *lines, version=version))
        answer = wire.answer()
        assert (answer.status, answer.fields["connection"]) == (200, "close")
        assert wire.ended()


def test_head_when_asked_for_then_the_length_without_the_body(server: ServerProcess) -> None:
    with dial(server) as wire:
        wire.send(request("/bytes?n=1000", method="HEAD"))
        assert wire.answer(has_body=False).fields["content-length"] == "1000"
        wire.send(request("/refuse", method="HEAD"))
        answer = wire.answer(has_body=False)
        assert (answer.status, int(answer.fields["content-length"]) > 0) == (403, True)
        assert wire.ended()


@pytest.mark.parametrize("status", [204, 304])
def test_answer_when_its_status_has_no_body_then_neither_body_nor_length(
    server: ServerProcess, status: int
) -> None:
    with dial(server) as wire:
        assert wire.get(f"/status?{status}").fields == {"cache-control": "no-store"}
        assert wire.get("/who").status == 200


def test_header_when_it_holds_a_line_break_then_the_route_is_told(plain: ServerProcess) -> None:
    with dial(plain) as wire:
        answer = wire.get("/header")
        assert answer.fields["x-good"] == "a b"
        assert "x-bad" not in answer.fields


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        (request("/refuse"), 403),
        (request("/fail"), 500),
        (post("/echo", b"refuse"), 404),
        (post("/echo", b"fail"), 500),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_route_when_it_raises_then_a_problem_and_closed(
    server: ServerProcess, ask: bytes, status: int, whole: bool
) -> None:
    with dial(server) as wire:
        if whole:
            wire.send(ask)
        else:
            wire.send(ask[:-4])
            figures(server)  # by then the first part has been read
            wire.send(ask[-4:])
        answer = wire.answer()
        assert (answer.status, answer.data["status"]) == (status, status)
        assert answer.fields["content-type"] == "application/problem+json"
        assert wire.ended()


# -- what a request must look like


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Content-Length: x"], 400),
        (["Content-Length: -1"], 400),
        (["Content-Length: +1"], 400),
        (["Content-Length:"], 400),
        (["Content-Length: 99999999999999999999"], 400),
        (["Content-Length: 1", "Content-Length: 2"], 400),
        (["Content-Length: 1", "Content-Length: 1"], 400),
        (["Content-Length: 1, 1"], 400),
        (["Content-Length: 1", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: chunked"], 411),
        (["Content-Length: 100001"], 413),
        (["Content-Length: 999999999999999"], 413),
    ],
)
def test_length_when_it_cannot_be_served_then_refused_and_closed(
    server: ServerProcess, lines: list[str], status: int
) -> None:
    with dial(server) as wire:
        wire.send(request("/echo", *lines, method="POST") + b"1\r\nx\r\n0\r\n\r\n" + request("/who"))
        assert wire.answer().status == status
        assert wire.ended()


def test_body_when_too_large_then_nothing_of_it_is_kept(plain: ServerProcess) -> None:
    before = figures(plain)["pool_bytes"]
    with dial(plain) as wire:
        wire.send(request("/echo", "Content-Length: 90000000", method="POST"))
        assert wire.answer().status == 413
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                wire.send(bytes(65_536))
        assert figures(plain)["pool_bytes"] <= before + 262_144


def test_host_when_missing_then_400(plain: ServerProcess) -> None:
    with dial(plain) as wire:
        wire.send(b"GET /who HTTP/1.1\r\n\r\n")
        assert wire.answer().status == 400
        assert wire.ended()
    with dial(plain) as wire:
        wire.send(b"GET /who HTTP/1.0\r\n\r\n")
        assert wire.answer().status == 200


def test_body_when_the_route_reads_none_then_closed_behind_the_answer(server: ServerProcess) -> None:
    with dial(server) as wire:
        wire.send(post("/who", b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n"))
        assert wire.answer().fields["connection"] == "close"
        assert wire.ended()


def test_body_when_the_client_waits_to_send_it_then_told_to_go_on(server: ServerProcess) -> None:
    with dial(server) as wire:
        for body in (b"patient", b""):
            lines = ("Expect: 100-continue", f"Content-Length: {len(body)}")
            wire.send(request("/echo", *lines, method="POST"))
            if body:
                assert wire.answer().status == 100
            wire.send(body)
            assert wire.answer().body == body
        assert wire.post("/echo", b"impatient", "Expect: 100-continue").body == b"impatient"
        with dial(server) as old:
            lines = ("Expect: 100-continue", "Content-Length: 3")
            old.send(request("/echo", *lines, method="POST", version="1.0"))
            old.send(b"old")
            assert old.answer().body == b"old"
        wire.send(request("/echo", "Expect: 100-continue", "Content-Length: 100001", method="POST"))
        assert wire.answer().status == 413
        assert wire.ended()


def test_body_when_as_large_as_may_be_then_read_whole(server: ServerProcess) -> None:
    body = bytes(range(250)) * 400
    with dial(server) as wire:
        for _ in range(3):
            assert wire.post("/echo", body).body == body


# -- time


def test_body_when_it_does_not_come_then_408(server: ServerProcess) -> None:
    with dial(server) as wire:
        wire.send(request("/echo", "Content-Length: 5", method="POST") + b"1234")
        assert wire.answer().status == 408
        assert wire.ended()


def test_next_head_when_it_does_not_end_then_408(server: ServerProcess) -> None:
    with dial(server) as wire:
        assert wire.get("/who").status == 200
        wire.send(b"GET /who HTTP/1.1\r\n")
        assert wire.answer().status == 408
        assert wire.ended()


@pytest.mark.parametrize("first", ["/who", "/healthz"])
def test_connection_when_kept_and_silent_then_closed(start: Start, first: str) -> None:
    server = start(command=ROUTED, FASTIM_LIMITS__KEEP_ALIVE_S="0.3")
    with dial(server) as wire:
        assert wire.get(first).status == 200
        assert wire.ended()


@pytest.mark.parametrize("first", ["/who", "/healthz"])
def test_connection_when_none_is_kept_then_closed_with_the_answer(start: Start, first: str) -> None:
    server = start(command=ROUTED, FASTIM_LIMITS__KEEP_ALIVE_S="0")
    with dial(server) as wire:
        assert wire.get(first).fields["connection"] == "close"
        assert wire.ended()


# -- requests that are held


def test_request_when_held_then_answered_by_another(server: ServerProcess) -> None:
    with dial(server) as poll, dial(server) as other:
        for _ in range(3):
            poll.send(request("/hold"))
            wait_until_held(server, 1)
            assert other.get("/answer").body == b"1"
            assert poll.answer().body == b"answered"


@pytest.mark.parametrize("behind", [b"", request("/who")])
@pytest.mark.parametrize("way", ["close", "reset", "shut"])
def test_request_when_its_client_goes_while_it_is_held_then_aborted(
    plain: ServerProcess, way: str, behind: bytes
) -> None:
    aborted = figures(plain)["aborted"]
    with dial(plain) as wire:
        wire.send(request("/hold") + behind)
        wait_until_held(plain, 1)
        if way == "shut":
            wire.socket.shutdown(socket.SHUT_WR)
            assert wire.ended()
        elif way == "reset":
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            wire.socket.close()
        else:
            wire.socket.close()
        wait_until(lambda: figures(plain)["aborted"] == aborted + 1, "the abort to be noticed")
        assert figures(plain)["held"] == 0


def test_request_when_its_client_goes_over_tls_then_aborted(secure: ServerProcess) -> None:
    aborted = figures(secure)["aborted"]
    with dial(secure) as wire:
        wire.send(request("/hold"))
        wait_until_held(secure, 1)
    wait_until(lambda: figures(secure)["aborted"] == aborted + 1, "the abort to be noticed")


def test_request_when_its_client_shuts_its_side_behind_it_then_answered_at_once(
    plain: ServerProcess,
) -> None:
    with dial(plain) as wire:
        wire.send(post("/echo", b"and no more"))
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.answer().body == b"and no more"
        assert wire.ended()


def test_requests_when_behind_one_that_is_held_then_answered_behind_it(server: ServerProcess) -> None:
    with dial(server) as poll, dial(server) as other:
        poll.send(request("/hold") + request("/who?behind"))
        wait_until_held(server, 1)
        poll.send(post("/echo", b"more"))
        assert other.get("/answer").body == b"1"
        assert poll.answer().body == b"answered"
        assert poll.answer().data["query"] == "behind"
        assert poll.answer().body == b"more"


# -- who does not take its answers


def test_answers_when_not_taken_then_one_is_kept_and_the_connection_is_reset(start: Start) -> None:
    server = start(command=ROUTED, FASTIM_LIMITS__CLOSE_TIMEOUT_S="0.5")
    with dial(server) as greedy:
        greedy.send(request("/bytes?n=8000000") * 1_000)
        wait_until(lambda: figures(server)["blocked"] == 1, "the answer to wait")
        assert figures(server)["pool_bytes"] < 12_000_000
        wait_until(lambda: figures(server)["blocked"] == 0, "the connection to be reset")
        assert figures(server)["requests_total"] < 100


def test_answer_when_large_then_whole(server: ServerProcess) -> None:
    with dial(server) as wire:
        for _ in range(2):
            assert wire.get("/bytes?n=8000000").body == b"x" * 8_000_000


# -- other paths on the same connection


def test_paths_when_mixed_on_a_connection_then_each_has_its_answer(server: ServerProcess) -> None:
    with dial(server) as wire:
        for number in range(4):
            assert wire.get("/who").data["method"] == "GET"
            assert wire.get("/healthz").data == {"status": "ok"}
            assert wire.get("/readyz").status == 200
            assert wire.post("/echo", b"%d" % number).body == b"%d" % number
            assert wire.get("/nowhere").status == 404


@pytest.mark.parametrize("path", ["/who", "/%77ho", "http://x/who", "/who?x=%77"])
def test_path_when_it_comes_byte_by_byte_behind_uvicorn_then_answered(
    plain: ServerProcess, path: str
) -> None:
    with dial(plain) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert wire.get("/healthz").status == 200
        for byte in request(path):
            wire.send(bytes([byte]))
        assert wire.answer().data["method"] == "GET"


def test_requests_when_pipelined_over_both_then_answered_in_order(server: ServerProcess) -> None:
    with dial(server) as wire:
        group = request("/healthz") + post("/echo", b"body") + request("/who") + request("/nowhere")
        wire.send(group * 20)
        for _ in range(20):
            assert [wire.answer().status for _ in range(4)] == [200, 200, 200, 404]


def test_path_when_it_only_begins_like_a_route_then_uvicorns(plain: ServerProcess) -> None:
    with dial(plain) as wire:
        assert wire.get("/healthz").status == 200
        assert wire.get("/whom").status == 404
        assert wire.get("/wh").status == 404
        assert wire.get("/who").status == 200


def test_upgrade_when_on_a_kept_connection_then_a_websocket(server: ServerProcess) -> None:
    protocol = ClientProtocol(parse_uri("ws://x/ws"))
    protocol.send_request(protocol.connect())
    handshake = b"".join(protocol.data_to_send())
    with dial(server) as wire:
        for path in ("/who", "/healthz", "/who"):
            assert wire.get(path).status == 200
        wire.send(request("/who") + handshake)
        assert wire.answer().status == 200
        assert wire.answer().status == 101


# -- who is counted, and who is kept out


def test_connection_when_its_user_is_known_then_not_pending_until_the_next_request(
    server: ServerProcess,
) -> None:
    own = figures(server)["pending"]
    with dial(server) as wire:
        for known, pending in ((False, 1), (True, 0), (False, 1), (True, 0)):
            assert wire.get("/who?known" if known else "/who").status == 200
            assert figures(server)["pending"] == own + pending


def test_kept_connections_when_there_is_no_room_then_the_longest_idle_gives_way(
    start: Start, certificate: tuple[Path, Path]
) -> None:
    arguments = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    for number, options in enumerate(((), arguments)):
        server = start(
            *options,
            command=ROUTED,
            data=f"data{number}",
            FASTIM_LIMITS__MAX_CONNECTIONS="1",
            FASTIM_LIMITS__ENTERING_CONNECTIONS="2",
        )
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(dial(server)) for _ in range(3)]
            for wire in wires:
                assert wire.get("/who").status == 200
            newcomer = stack.enter_context(dial(server))
            assert newcomer.get("/who").status == 200
            assert wires[0].ended()
            assert wires[1].get("/who").status == 200
            assert newcomer.get("/status").data["kept_evicted_total"] == 1


def test_address_when_banned_then_its_kept_and_held_connections_are_closed(start: Start) -> None:
    server = start(command=ROUTED, FASTIM_BANS__ALLOW="")
    with (
        dial(server, "127.0.0.9") as kept,
        dial(server, "127.0.0.9") as known,
        dial(server, "127.0.0.9") as held,
        dial(server) as other,
    ):
        assert kept.get("/who").data["peer"] == "127.0.0.9"
        assert known.get("/who?known").status == 200
        held.send(request("/hold"))
        wait_until_held(server, 1)
        with rest(server) as client:
            answer = client.post("/v1/bans", json={"address": "127.0.0.9"})
            assert answer.status_code == 201, answer.text
        assert all(wire.ended() for wire in (kept, known, held))
        assert other.get("/status").data["aborted"] == 1


def test_address_when_banned_by_itself_then_known_users_keep_their_requests(start: Start) -> None:
    server = start(command=ROUTED, FASTIM_BANS__ALLOW="", FASTIM_BANS__ADDRESS_OFFENCES="1")
    with (
        dial(server, "127.0.0.9") as known,
        dial(server, "127.0.0.9") as unknown,
        dial(server, "127.0.0.9") as offender,
        dial(server) as other,
    ):
        known.send(request("/hold?known"))
        unknown.send(request("/hold"))
        wait_until_held(server, 2)
        offender.send(b"nonsense\r\n\r\n")
        assert unknown.ended()
        assert other.get("/answer").body == b"1"
        assert known.answer().body == b"answered"
        known.send(request("/who?known"))
        assert known.answer().status == 403


def test_proxy_when_trusted_then_each_request_has_its_own_address(start: Start) -> None:
    server = start(command=ROUTED, FASTIM_SERVER__TRUSTED_PROXIES="127.0.0.1")
    with rest(server) as client:
        assert client.post("/v1/bans", json={"address": "192.0.2.9"}).status_code == 201
    with dial(server) as wire:
        for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
            assert wire.get("/who", f"X-Forwarded-For: {address}").data["peer"] == address
        assert wire.get("/who").data["peer"] == "127.0.0.1"
        wire.send(request("/who", "X-Forwarded-For: 192.0.2.9"))
        assert wire.answer().status == 403
        assert wire.ended()


# -- the end


def test_kept_connection_when_the_server_ends_then_closed(start: Start) -> None:
    server = start(command=ROUTED)
    with dial(server) as kept, dial(server) as held:
        assert kept.get("/who").status == 200
        held.send(request("/hold"))
        wait_until_held(server, 1)
        assert server.stop() == 0
        assert kept.ended()
        assert held.ended()


def test_connection_when_the_server_drains_then_closed_with_its_answer(start: Start) -> None:
    server = start(command=ROUTED, FASTIM_DRAIN__WITHIN_S="5")
    with dial(server) as held, dial(server) as other:
        held.send(request("/hold"))
        wait_until_held(server, 1)
        with rest(server) as client:
            assert client.post("/v1/drain", json={}).status_code == 202
        answer = other.get("/answer")
        assert (answer.body, answer.fields["connection"]) == (b"1", "close")
        assert held.answer().fields["connection"] == "close"
        assert held.ended()
        assert other.ended()


def test_wire_when_it_ends_in_the_middle_then_nothing_is_left(plain: ServerProcess) -> None:
    before = figures(plain)["connections"]
    stream = post("/echo", b"0123456789")
    for end in range(1, len(stream)):
        with dial(plain) as wire:
            wire.send(stream[:end])
    wait_until(lambda: figures(plain)["connections"] == before, "all connections to be free")
    assert isinstance(wire, Wire)
