"""``fastim chat`` as a process against ``fastim serve``: two people talk."""

import subprocess
import threading

import pytest

from tests.e2e.served import DEADLINE_S, command, environment, serve


@pytest.fixture
def server(tmp_path):
    with serve(tmp_path / "data") as server:
        yield server


class Terminal:
    """A ``fastim chat`` with a pipe for keyboard and screen."""

    def __init__(self, server, user):
        self.process = subprocess.Popen(
            command("chat", user, "lobby", "--url", server.url, "--token", server.token(user)),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.shown = []
        # A terminal that shows nothing ends the test by its own end, not by hanging.
        self._alarm = threading.Timer(DEADLINE_S, self.process.kill)
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
        status = self.process.wait(DEADLINE_S)
        self._alarm.cancel()
        self._alarm.join()
        self.process.stdin.close()
        self.process.stdout.close()
        return status


def test_two_terminals_when_lines_are_typed_then_each_sees_the_other(server):
    ann = Terminal(server, "ann")
    ann.wait_for("in lobby as ann")
    ann.type("is anybody there?")
    ann.type("/members")
    ann.wait_for("ann")
    bob = Terminal(server, "bob")
    assert bob.process.stdout.readline()
    assert ann.leave() == 0
    bob.leave()


def test_line_when_typed_then_is_in_the_history_of_the_next_terminal(server):
    ann = Terminal(server, "ann")
    ann.type("first line")
    ann.type("/members")
    ann.wait_for("in lobby as ann")
    ann.wait_for("ann")
    assert ann.leave() == 0
    again = Terminal(server, "ann")
    again.wait_for("ann: first line")
    assert again.leave() == 0
