"""``fastim chat`` as a process against ``fastim serve``: two people talk."""

import contextlib
import subprocess
import threading

import pytest

from tests.e2e.serving import COMMAND, ROOT, START_S, make_environment


@pytest.fixture
def server(start):
    return start()


class Terminal:
    """A ``fastim chat`` with a pipe for keyboard and screen."""

    def __init__(self, server, user, *options):
        self.process = subprocess.Popen(
            [*COMMAND, "chat", user, "lobby", "--url", server.http, *options],
            env=make_environment({}),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.shown = []
        # A terminal that shows nothing ends the test by its own end, not by hanging.
        self._alarm = threading.Timer(START_S, self.process.kill)
        self._alarm.start()

    def type(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def wait_for(self, text):
        for line in self.process.stdout:
            self.shown.append(line)
            if text in line:
                return
        raise AssertionError(f"{text!r} never came; shown: {self.shown}")

    def leave(self):
        self.type("/quit")
        status = self.process.wait(START_S)
        self.end()
        return status

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(START_S)
        self._alarm.cancel()
        self._alarm.join()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def open_terminal(server):
    terminals = []

    def open_one(user, *options):
        terminals.append(Terminal(server, user, *options))
        return terminals[-1]

    yield open_one
    for terminal in terminals:
        terminal.end()


@pytest.mark.parametrize("operator", [True, False])
def test_two_terminals_when_lines_are_typed_then_each_sees_the_other(server, open_terminal, operator):
    def options(user):
        return ["--data", str(server.data)] if operator else ["--token", server.token(user)]

    ann = open_terminal("ann", *options("ann"))
    ann.wait_for("in lobby as ann")
    bob = open_terminal("bob", *options("bob"))
    if not operator:
        bob.wait_for("has to type /add bob")
        ann.type("/add bob")
    bob.wait_for("in lobby as bob")
    ann.type("is anybody there?")
    bob.wait_for("ann: is anybody there?")
    bob.type("I am")
    ann.wait_for("bob: I am")
    assert (ann.leave(), bob.leave()) == (0, 0)


def test_lines_when_typed_then_are_in_the_history_of_the_next_terminal(server, open_terminal):
    ann = open_terminal("ann", "--data", str(server.data))
    ann.type("first line")
    assert ann.leave() == 0
    again = open_terminal("ann", "--data", str(server.data))
    again.wait_for("ann: first line")
    assert again.leave() == 0
