"""Servers for the end-to-end tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.serving import ServerProcess, Start, starting

# What stands in the log when the mistake is ours and not an application's.
OWN_MISTAKES = ("could not be served", "a tick failed", "background task failed", "Exception in callback")

NEW_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    " -addext subjectAltName=IP:127.0.0.1"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers of this test's own; see ``starting``."""
    with starting(tmp_path) as start_one:
        yield start_one


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for the tests that leave no trace, with short timeouts and the application of the tests."""
    server = ServerProcess(
        tmp_path_factory.mktemp("shared") / "data",
        ("tests.e2e.application:app",),
        {
            "FASTIM_LIMITS__HEAD_TIMEOUT_S": "0.3",
            "FASTIM_LIMITS__HELLO_TIMEOUT_S": "0.5",
            "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
            "FASTIM_LIMITS__MESSAGES_PER_MINUTE": "0",
            "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
            "FASTIM_AUTH__TOKEN_IN_URL": "true",
            "FASTIM_SERVER__ALLOWED_ORIGINS": "https://app.example.com",
        },
    )
    yield server
    assert server.process.poll() is None, server.log()
    assert server.stop() == 0
    for sign in OWN_MISTAKES:
        assert sign not in server.log()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of our own for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [*NEW_CERTIFICATE.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    return certificate, key
