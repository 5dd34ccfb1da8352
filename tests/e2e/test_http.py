"""HTTP on the same port: the hand-over to uvicorn, and what it serves."""

from __future__ import annotations

import json
import uuid

import httpx
import pytest

from tests.e2e.serving import ServerProcess, Start, raw_socket, read_all, rest, wait_until
from tests.e2e.test_bad_input import HANDSHAKE


def test_health_when_running_then_ok(shared: ServerProcess) -> None:
    with httpx.Client(base_url=shared.http, trust_env=False) as client:
        for path in ("/healthz", "/readyz"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_metrics_when_asked_from_loopback_then_given(shared: ServerProcess) -> None:
    with httpx.Client(base_url=shared.http, trust_env=False) as client:
        text = client.get("/metrics").text
        for name in (
            "fastim_connections",
            "fastim_store_ok 1.0",
            "fastim_hub_accepted_total",
            "process_open_fds",
        ):
            assert name in text
        # A proxy on this machine brings clients that are not on it.
        forwarded = {"X-Forwarded-For": "192.0.2.1"}
        assert client.get("/metrics", headers=forwarded).status_code == 401
        key = {"Authorization": f"Bearer {shared.api_key}"}
        assert client.get("/metrics", headers=forwarded | key).status_code == 200


def test_rest_when_without_the_key_then_401_and_the_body_is_not_read(shared: ServerProcess) -> None:
    with raw_socket(shared) as connection:
        connection.sendall(
            b"POST /v1/conversations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
            b"Content-Type: application/json\r\n\r\n"
        )
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"application/problem+json" in answer
    for key in ("", "wrong", shared.api_key + "x", shared.api_key[:-1]):
        with httpx.Client(base_url=shared.http, trust_env=False) as client:
            assert client.get("/v1/conversations/c", headers={"X-API-Key": key}).status_code == 401


def test_connection_when_kept_alive_then_serves_many_requests(shared: ServerProcess) -> None:
    with raw_socket(shared) as connection:
        received = b""
        for number in range(1, 6):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            while received.count(b'{"status":"ok"}') < number:
                received += connection.recv(65536)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_requests_when_pipelined_then_answered_in_order(shared: ServerProcess, count: int) -> None:
    with raw_socket(shared) as connection:
        requests = [f"GET /nowhere/{number} HTTP/1.1\r\nHost: x\r\n\r\n" for number in range(count - 1)]
        requests.append("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        connection.sendall("".join(requests).encode())
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 404 ") == count - 1
    assert answer.rindex(b"HTTP/1.1 200 ") > answer.rindex(b"HTTP/1.1 404 ")


def make_conversation(client: httpx.Client) -> str:
    conversation = uuid.uuid4().hex
    answer = client.post("/v1/conversations", json={"members": ["a", "b"], "conversation": conversation})
    assert answer.status_code == 201
    return conversation


def test_body_when_large_then_read_whole(shared: ServerProcess) -> None:
    with rest(shared) as client:
        conversation = make_conversation(client)
        text = "x" * 90_000
        path = f"/v1/conversations/{conversation}/messages"
        assert client.post(path, json={"content": text}).status_code == 201
        assert client.get(path).json()["messages"][0]["content"] == text
        assert client.post(path, json={"content": "x" * 110_000}).status_code == 413
        answer = client.post(path, content=b" " * 1_100_000, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.headers["Content-Type"] == "application/problem+json"

        def chunks():  # type: ignore[no-untyped-def]
            for _ in range(20):
                yield b" " * 65_536

        answer = client.post(path, content=chunks(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413


def test_request_when_dripped_then_closed(shared: ServerProcess) -> None:
    with raw_socket(shared) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b'{"status":"ok"}' not in received:
            received += connection.recv(65536)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHos")
        assert read_all(connection) == b""


def test_upgrade_when_on_a_reused_connection_then_works(shared: ServerProcess) -> None:
    hello = json.dumps(["hello", {"token": shared.token("reuser")}, 1]).encode()
    frame = bytes([0x81, 0x80 | 126]) + len(hello).to_bytes(2, "big") + bytes(4) + hello
    with raw_socket(shared) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b'{"status":"ok"}' not in received:
            received += connection.recv(65536)
        connection.sendall(HANDSHAKE.format(port=shared.port, more="").encode() + frame)
        while b'"reuser"' not in received:
            received += connection.recv(65536)
        assert b" 101 " in received
        connection.sendall(b"\x88\x80\x00\x00\x00\x00")
        assert b"\x88" in read_all(connection)


def problem_of(answer: httpx.Response, status: int) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, object] = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    return problem


def test_rest_when_wrong_then_a_problem(shared: ServerProcess) -> None:
    with rest(shared) as client:
        conversation = make_conversation(client)
        path = f"/v1/conversations/{conversation}"
        problem_of(client.get("/v1/nowhere"), 404)
        problem_of(client.put(path), 405)
        problem_of(client.get("/v1/conversations/none"), 404)
        problem_of(client.post("/v1/conversations/none/messages", json={"content": "x"}), 404)
        problem_of(client.post("/v1/conversations/none/members", json={"members": ["x"]}), 404)
        problem_of(client.delete("/v1/conversations/none/members/x"), 404)
        problem = problem_of(client.post("/v1/conversations", json={"kind": "secret"}), 422)
        assert "kind" in str(problem["detail"])
        problem_of(
            client.post("/v1/conversations", content=b"{", headers={"Content-Type": "application/json"}), 422
        )
        problem_of(client.get(f"{path}/messages", params={"limit": 0}), 422)
        problem_of(client.get(f"{path}/messages", params={"after": 1, "before": 2}), 400)
        problem_of(client.post(f"{path}/messages", json={"content": 1, "kind": "text"}), 400)
        problem_of(client.post(f"{path}/messages", json={"content": {"$bytes": "*"}, "kind": "own"}), 400)
        nan = {"Content-Type": "application/json"}
        body = b'{"content": [NaN], "kind": "own"}'
        assert client.post(f"{path}/messages", content=body, headers=nan).status_code in (400, 422)
        problem_of(client.post(f"{path}/messages", json={"content": "x", "sender": "stranger"}), 403)
        first = {"content": "x", "client_id": "1"}
        assert client.post(f"{path}/messages", json=first).status_code == 201
        problem_of(client.post(f"{path}/messages", json=first | {"content": "y"}), 409)


def test_members_when_added_and_removed_then_counted(shared: ServerProcess) -> None:
    with rest(shared) as client:
        path = f"/v1/conversations/{make_conversation(client)}"
        assert client.post(f"{path}/members", json={"members": ["c", "d"]}).json()["members"] == 4
        assert client.post(f"{path}/members", json={"members": ["c"]}).json()["members"] == 4
        assert client.delete(f"{path}/members/c").json()["members"] == 3
        assert client.delete(f"{path}/members/c").json()["members"] == 3
        assert client.get(path).json()["members"] == 3


def test_history_when_paged_then_both_ways(shared: ServerProcess) -> None:
    with rest(shared) as client:
        path = f"/v1/conversations/{make_conversation(client)}/messages"
        for number in range(1, 8):
            body = {"content": {"n": number}, "kind": "own", "sender": "a"}
            assert client.post(path, json=body).json()["seq"] == number

        def page(**parameters: int) -> tuple[list[int], bool]:
            answer = client.get(path, params=parameters).json()
            return [item["seq"] for item in answer["messages"]], answer["more"]

        assert page(after=0, limit=3) == ([1, 2, 3], True)
        assert page(after=6, limit=3) == ([7], False)
        assert page(before=4, limit=2) == ([3, 2], True)
        assert page(limit=2) == ([7, 6], True)


def test_key_when_configured_then_taken(start: Start) -> None:
    key = "k" * 40
    server = start(FASTIM_AUTH__API_KEY=key, FASTIM_METRICS__ENABLED="false")
    with httpx.Client(base_url=server.http, trust_env=False) as client:
        assert client.get("/v1/openapi.json", headers={"X-API-Key": key}).status_code == 200
        assert client.get("/metrics").status_code == 404
    assert key not in server.log()


def test_server_when_stopped_then_a_running_request_is_answered(start: Start) -> None:
    server = start()
    with raw_socket(server) as connection:
        body = json.dumps({"members": ["a"], "conversation": "c"}).encode()
        connection.sendall(
            b"POST /v1/conversations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"X-API-Key: %s\r\nContent-Length: %d\r\n\r\n" % (server.api_key.encode(), len(body)) + body[:5]
        )
        server.process.terminate()
        wait_until(lambda: "shutting down" in server.log(), "the signal was seen")
        connection.sendall(body[5:])
        assert read_all(connection).startswith(b"HTTP/1.1 201 ")
    assert server.wait() == 0
