"""Clients of Socket.IO that emit faster than an application serves: nothing is refused, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.raw_engine import RawPolling, RawSocketIO
from tests.e2e.serving import ServerProcess, Start, figures, starting, wait_until

COUNT = 1_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with starting(tmp_path_factory.mktemp("slow")) as start:
        yield start_slow(start)


def start_slow(start: Start) -> ServerProcess:
    return start(
        "tests.e2e.slow_application:app",
        FASTIM_AUTH__REQUIRED="false",
        FASTIM_MESSAGING__ENABLED="false",
        FASTIM_LIMITS__PACKETS_PER_SECOND="0",
        FASTIM_LIMITS__MESSAGES_PER_MINUTE="0",
    )


def enter(client: RawSocketIO | RawPolling) -> None:
    client.send_at_once(b"40")
    if isinstance(client, RawPolling):
        assert client.http.read().body == b"ok"
    client.read_until(b"40{")


@pytest.mark.parametrize("event", ["later", "in_a_thread", "at_once"])
def test_events_when_faster_than_their_handlers_then_each_is_served(
    server: ServerProcess, event: str
) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        enter(client)
        client.say(*(b'42["%s",%d]' % (event.encode(), number) for number in range(COUNT)))
        done = {client.read_until(b'42["done",') for _ in range(COUNT)}
        assert done == {b'42["done",%d]' % number for number in range(COUNT)}


def test_events_when_posted_faster_than_their_handlers_then_each_is_served(server: ServerProcess) -> None:
    with RawPolling(server.port, enter=False) as client:
        enter(client)
        answer = client.post(*(b'42["later",%d]' % number for number in range(COUNT)))
        assert answer.body == b"ok"
        done = {client.read_until(b'42["done",') for _ in range(COUNT)}
        assert len(done) == COUNT


def test_acknowledgements_when_faster_than_their_handlers_then_each_comes(server: ServerProcess) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        enter(client)
        client.say(*(b'42%d["later",%d]' % (number, number) for number in range(COUNT)))
        answers = {client.read_until(b"43") for _ in range(COUNT)}
        assert answers == {b"43%d[%d]" % (number, number) for number in range(COUNT)}


def test_questions_when_handlers_wait_for_the_client_then_its_answers_are_read(server: ServerProcess) -> None:
    """They would wait for ever if who has too many unfinished handlers were not read at all."""
    with RawSocketIO(server.port, enter=False) as client:
        enter(client)
        client.say(*(b'42%d["ask",%d]' % (number, number) for number in range(COUNT // 2)))
        answered = 0
        while answered < COUNT // 2:
            packet = client.read_text()
            if packet.startswith(b"43"):
                answered += 1
                continue
            head, _, _ = packet.partition(b"[")
            client.say(b"43" + head.removeprefix(b"42") + b'["mine"]')


def test_question_when_asked_on_connect_then_its_answer_is_read_behind_what_the_client_had_kept(
    server: ServerProcess,
) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        client.send_at_once(b"40/asking,")
        question = client.read_until(b"42/asking,")
        ref = question[len(b"42/asking,") : question.index(b"[")]
        kept = [b'42/asking,%d["at_once",%d]' % (number, number) for number in range(200)]
        client.say(*kept, b'43/asking,%b["ann"]' % ref)
        for number in range(200):
            assert client.read_until(b"43/asking,") == b'43/asking,%d["ann",%d]' % (number, number)


def test_question_when_asked_of_a_client_that_is_held_up_then_it_is_read_and_not_counted_as_held(
    server: ServerProcess,
) -> None:
    held = "fastim_handlers_held_connections"
    with RawSocketIO(server.port, enter=False) as client, RawSocketIO(server.port, enter=False) as other:
        client.send_at_once(b"40/asking_late,")
        client.read_until(b"40/asking_late,")
        client.say(*(b'42/asking_late,%d["at_once",%d]' % (number, number) for number in range(200)))
        wait_until(lambda: figures(server)[held] == 1, "the client is held up")
        enter(other)
        other.say(b'42["let_ask"]')
        question = client.read_until(b"42/asking_late,")
        ref = question[len(b"42/asking_late,") : question.index(b"[")]
        client.say(b'43/asking_late,%b["ann"]' % ref)
        for number in range(200):
            assert client.read_until(b"43/asking_late,") == b'43/asking_late,%d["ann",%d]' % (number, number)
        assert figures(server)[held] == 0


def test_plain_events_when_behind_slow_ones_then_in_their_turn(server: ServerProcess) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        enter(client)
        client.say(*(b'42["later",%d]' % number for number in range(300)))
        client.say(*(b'42["at_once",%d]' % number for number in range(1_000, 1_100)))
        done = [client.read_until(b'42["done",') for _ in range(400)]
        plain = [packet for packet in done if len(packet) == len(b'42["done",1000]')]
        assert plain == [b'42["done",%d]' % number for number in range(1_000, 1_100)]


def test_namespace_when_left_while_held_up_then_the_others_are_read(server: ServerProcess) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        enter(client)
        client.say(*(b'42["later",%d]' % number for number in range(COUNT)), b"41", b"40")
        client.read_until(b"40{")
        client.say(b'421["at_once",5]')
        assert client.read_until(b"431") == b"431[5]"


def test_client_when_gone_while_held_up_then_nothing_is_left(server: ServerProcess) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        enter(client)
        client.say(*(b'42["later",%d]' % number for number in range(COUNT)))
    with RawSocketIO(server.port, enter=False) as other:
        enter(other)
        other.say(b'421["later",7]')
        assert other.read_until(b"431") == b"431[7]"
    assert "Traceback" not in server.log()
