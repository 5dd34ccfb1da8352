"""Socket.IO's own client on Node and the one on Python, over every transport and with both parsers.

What the clients do stands in ``node`` and ``python``; each line here is one of their scenarios.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tests.compliance.programs import NODE_FOLDER, Report, drive_with_node, drive_with_python, running
from tests.compliance.python.drive import find_scenarios

TRANSPORTS = ("websocket", "polling", "upgrade")
PARSERS = ("default", "msgpack")
PROGRAMS = {
    "check_app": ("connecting", "events", "binary", "rooms", "ending", "upgrading"),
    "recovery": ("recovery",),
    "socketio_suite": ("suite",),
    "engineio_suite": ("bare",),
}


def node_scenarios(program: str) -> list[str]:
    """Read the names of a program's scenarios out of their files, where each is an exported function."""
    sources = ((NODE_FOLDER / f"{name}.mjs").read_text() for name in PROGRAMS[program])
    names = [name for text in sources for name in re.findall(r"^export async function (\w+)", text, re.M)]
    return [re.sub("[A-Z]", lambda letter: "-" + letter[0].lower(), name) for name in names]


@pytest.fixture(scope="module")
def url() -> Iterator[Callable[..., str]]:
    """Start each program that is asked for once, and keep it for the tests that follow."""
    with ExitStack() as stack:

        @cache
        def start(program: str, *arguments: str) -> str:
            return stack.enter_context(running(program, *arguments)).url

        yield start


@pytest.fixture(scope="module")
def report(url: Callable[..., str]) -> Callable[..., Report]:
    """Let a client go through all its scenarios once for each way to connect."""

    @cache
    def drive(client: str, program: str, transport: str, parser: str) -> Report:
        file, options = ("check_app", ("--recovery",)) if program == "recovery" else (program, ())
        if parser == "msgpack":
            options = (*options, "--parser", "msgpack")
        words = ["--transport", transport, "--parser", parser]
        address = url(f"{file}.py", *options)
        if client == "python":
            return drive_with_python(address, *words)
        return drive_with_node(address, "--program", program, *words)

    return drive


def check(report: Report, scenario: str) -> None:
    assert scenario in report, f"not reached; only {sorted(report)}"
    assert report[scenario] is None, report[scenario]


@pytest.mark.keeps_descriptors  # the programs, which the next tests use as well
@pytest.mark.parametrize("scenario", node_scenarios("check_app"))
@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_node_client_when_driven_then_served_as_documented(
    report: Callable[..., Report], transport: str, parser: str, scenario: str
) -> None:
    check(report("node", "check_app", transport, parser), scenario)


@pytest.mark.keeps_descriptors
@pytest.mark.parametrize("scenario", node_scenarios("recovery"))
@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_node_client_when_it_comes_back_then_recovered_or_new(
    report: Callable[..., Report], transport: str, parser: str, scenario: str
) -> None:
    check(report("node", "recovery", transport, parser), scenario)


@pytest.mark.keeps_descriptors
@pytest.mark.parametrize("scenario", [name for name, _ in find_scenarios()])
@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_python_client_when_driven_then_served_as_documented(
    report: Callable[..., Report], transport: str, parser: str, scenario: str
) -> None:
    check(report("python", "check_app", transport, parser), scenario)


@pytest.mark.keeps_descriptors
@pytest.mark.parametrize(
    ("program", "scenario"),
    [(program, name) for program in ("socketio_suite", "engineio_suite") for name in node_scenarios(program)],
)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_suite_program_when_driven_then_served_as_documented(
    report: Callable[..., Report], transport: str, program: str, scenario: str
) -> None:
    check(report("node", program, transport, "default"), scenario)
