"""The same front over TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest

from tests.e2e.serving import (
    ServerProcess,
    Start,
    open_client,
    raw_socket,
    read_all,
    rest,
    run_fastim,
    wait_until,
)


@pytest.fixture
def secure(start: Start, certificate: tuple[Path, Path]) -> ServerProcess:
    return start(
        "tests.e2e.application:app",
        "--tls-cert",
        str(certificate[0]),
        "--tls-key",
        str(certificate[1]),
        FASTIM_LIMITS__HEAD_TIMEOUT_S="0.5",
    )


def context_for(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


async def test_tls_when_used_then_everything_works_over_it(
    secure: ServerProcess, certificate: tuple[Path, Path]
) -> None:
    assert secure.line.startswith("fastim listening on https://")
    context = context_for(certificate)
    async with (
        open_client(secure, "a", ssl=context, compression="deflate") as one,
        open_client(secure, "b", ssl=context, binary=True) as two,
    ):
        for client in (one, two):
            assert await client.request("echo", "x" * 90_000) == ["ok", "x" * 90_000]
            assert (await client.request("join", "secure"))[0] == "ok"
        await one.send("publish", {"topic": "secure", "value": "hello"})
        assert await two.receive() == ["published", "hello"]
        for number in range(300):
            await one.send("echo", "y" * 5_000, number + 1)
        for number in range(300):
            while (packet := await one.receive())[0] != "ok":
                pass
            assert packet[2] == number + 1
        with rest(secure, verify=context) as http:
            assert http.get("/healthz").json() == {"status": "ok"}
            made = http.post("/v1/conversations", json={"members": ["a", "b"], "conversation": "c"})
            assert made.status_code == 201
            posted = http.post("/v1/conversations/c/messages", json={"content": "x" * 80_000})
            assert posted.status_code == 201
        assert (await two.receive_event("new_message"))["content"] == "x" * 80_000
    with httpx.Client(base_url=secure.http, verify=context, trust_env=False) as http:
        wait_until(lambda: "\nfastim_hub_connections 0.0\n" in http.get("/metrics").text, "the rows are free")
    assert secure.stop() == 0
    assert "Traceback" not in secure.log()


async def test_tls_when_the_server_stops_then_clients_are_told(
    secure: ServerProcess, certificate: tuple[Path, Path]
) -> None:
    async with open_client(secure, "a", ssl=context_for(certificate)) as client:
        secure.process.terminate()
        assert (await client.receive_event("server_shutdown"))["reconnect"] is True
        assert (await client.closed())[0] == 4012
    assert secure.wait() == 0


def test_tls_when_spoken_to_in_plain_or_not_at_all_then_closed(
    secure: ServerProcess, certificate: tuple[Path, Path]
) -> None:
    with raw_socket(secure) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not read_all(plain).startswith(b"HTTP")
    with raw_socket(secure) as silent:
        assert read_all(silent) == b""
    with (
        raw_socket(secure) as connection,
        context_for(certificate).wrap_socket(connection, server_hostname="127.0.0.1") as wrapped,
    ):
        wrapped.sendall(b"GET /ws HTTP/1.1\r\n")  # and no more
        assert read_all(wrapped).startswith(b"HTTP/1.1 408 ")
    with httpx.Client(base_url=secure.http, verify=context_for(certificate), trust_env=False) as client:
        assert client.get("/healthz").status_code == 200


def test_tls_when_full_then_refused(start: Start, certificate: tuple[Path, Path]) -> None:
    arguments = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    server = start(*arguments, FASTIM_LIMITS__MAX_CONNECTIONS="1", FASTIM_LIMITS__ENTERING_CONNECTIONS="1")
    context = context_for(certificate)
    with (
        raw_socket(server) as first,
        context.wrap_socket(first, server_hostname="127.0.0.1"),
        raw_socket(server) as second,
        context.wrap_socket(second, server_hostname="127.0.0.1"),
        pytest.raises(ConnectionResetError),  # at accept, be it noticed there or after: no handshake is begun
        raw_socket(server) as third,
    ):
        third.recv(1)


def test_tls_when_the_files_are_unusable_then_exit_2_names_the_setting(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    good, key = map(str, certificate)
    missing = str(tmp_path / "missing.pem")
    for arguments, setting in [
        (("--tls-cert", missing, "--tls-key", key), "server.tls_cert"),
        (("--tls-cert", good, "--tls-key", missing), "server.tls_key"),
        (("--tls-cert", good, "--tls-key", good), "server.tls_cert"),
        (("--tls-cert", good), "server.tls_"),
    ]:
        ended = run_fastim("serve", "--port", "0", "--data", str(tmp_path / "data"), *arguments)
        assert ended.returncode == 2, ended
        assert setting in ended.stderr.splitlines()[-1]
        assert "Traceback" not in ended.stderr
