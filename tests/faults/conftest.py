"""Servers for the fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.serving import Start, starting

# What stands in the log when a fault met code that was not made for it.
OWN_MISTAKES = (
    "Traceback",
    "could not be served",
    "a tick failed",
    "background task failed",
    "Exception in callback",
)
UNLIMITED = {
    "FASTIM_LIMITS__MESSAGES_PER_MINUTE": "0",
    "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
    "FASTIM_BANS__AUTOMATIC": "false",
}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers without limits; see ``starting``. None may log a mistake of its own."""
    with starting(tmp_path) as start_one:
        yield lambda *arguments, **options: start_one(*arguments, **(UNLIMITED | options))
    for path in tmp_path.glob("*.stderr"):
        log = path.read_text()
        for sign in OWN_MISTAKES:
            assert sign not in log, log[-4000:]
