"""Handles, threads, callbacks and ownership: what a caller may do wrong, over both drivers."""

import gc
import sys
import threading
import weakref
from collections.abc import Callable

import pytest

from fastim._core.hub import EventKind, Hub
from tests.engines.hub_rig import HEAD, RESPONSE, Owner, Rig, client_frame
from tests.reference.frames import PING, TEXT

MakeRig = Callable[..., Rig]


# -- handles


def stale_calls(rig: Rig, handle: int, topic: int) -> list[object]:
    hub, now_ns = rig.hub, rig.now_ns
    return [
        hub.upgrade(handle, RESPONSE, Owner()),
        hub.respond(handle, b"no", now_ns),
        hub.feed(handle, b"no", now_ns),
        hub.feed_eof(handle, now_ns),
        hub.take(handle, 99),
        hub.alive(handle),
        hub.owner(handle),
        hub.peer(handle),
        hub.configure(handle, batch=True, outbox_bytes=1, tier=2),
        hub.admit(handle, 1),
        hub.dismiss(handle),
        hub.send(handle, b'["no"]'),
        hub.send_message(handle, b"no", False),
        hub.ping(handle, b"no"),
        hub.close(handle, 1000, "no", now_ns),
        hub.abort(handle),
        hub.set_timer(handle, 1),
        hub.last_received_ns(handle),
        hub.pause(handle),
        hub.resume(handle),
        hub.queued_bytes(handle),
        hub.is_behind(handle),
        hub.unsent_bytes(handle),
        hub.want_drained(handle),
        hub.subscribe(topic, handle),
        hub.unsubscribe(topic, handle),
    ]


def test_stale_handle_finds_nothing_and_changes_nothing(rig: Rig) -> None:
    old = rig.open("old")
    rig.hub.abort(old.handle)
    rig.rest(old)
    new = rig.open("new")
    assert new.handle & 0xFFFFFFFF == old.handle & 0xFFFFFFFF
    assert new.handle != old.handle
    topic = rig.hub.create_topic()
    rig.hub.subscribe(topic, new.handle)
    rig.take_events()
    for handle in (old.handle, 0, 1 << 32, (1 << 64) - 1, 5_000_000):
        assert not any(stale_calls(rig, handle, topic))
        with pytest.raises(LookupError):
            rig.hub.detach(handle)
        assert rig.hub.take_finished(handle)
    assert rig.hub.publish(topic, b'["hello"]', None, old.handle) == 1
    assert new.packets() == [["hello"]]
    assert rig.events == []
    assert rig.hub.alive(new.handle)
    new.send(client_frame(TEXT, b"fine"))
    rig.rest(new)
    assert rig.take_events() == [(new.owner, b"fine")]


def test_slot_used_again_within_a_poll_is_nobody_elses(make_rig: MakeRig) -> None:
    """Slots that stand in the hub's lists (dirty, ready, timers) when their connection goes."""
    rig = make_rig(message_budget=2)
    for _ in range(20):
        old = rig.open("old", deadline_ns=rig.now_ns + 50_000_000)
        old.send(client_frame(TEXT, b"x") * 9)
        rig.poll()
        rig.hub.send(old.handle, b'["never sent"]')
        rig.hub.want_drained(old.handle)
        rig.hub.abort(old.handle)
        if rig.driver == "fed":
            assert rig.hub.take_finished(old.handle)
        rig.take_events()
        new = rig.connect()
        assert new.handle & 0xFFFFFFFF == old.handle & 0xFFFFFFFF
        rig.tick(100_000_000)
        assert [event for event in rig.events if event[0] != EventKind.CLOSED] == []
        new.send(HEAD)
        rig.tick()
        new.owner = Owner("new")
        assert rig.hub.upgrade(new.handle, RESPONSE, new.owner)
        rig.take_events()
        new.send(client_frame(TEXT, b"y") * 9)
        rig.rest(new)
        assert rig.take_events() == [(new.owner, b"y")] * 9
        assert new.data == RESPONSE
        new.close()
        rig.rest()
        rig.take_events()
    assert rig.hub.connections == 0


def test_handles_that_are_no_handles_raise(rig: Rig) -> None:
    for wrong in (None, "1"):
        with pytest.raises(TypeError):
            rig.hub.send(wrong, b"[]")  # type: ignore[arg-type]
    for wrong in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            rig.hub.send(wrong, b"[]")


# -- the hub itself


def test_call_from_another_thread_raises(rig: Rig) -> None:
    peer = rig.open()
    found: list[type[BaseException] | None] = []
    hub = rig.hub

    def call() -> None:
        for act in (
            lambda: hub.send(peer.handle, b"[]"),
            lambda: hub.poll(1),
            lambda: hub.flush(1),
            lambda: hub.publish(1, b"", None),
            lambda: hub.create_topic(),
            lambda: hub.close(peer.handle, 1000, "", 1),
            lambda: hub.open_fed("", 1),
            lambda: hub.shutdown(),
        ):
            try:
                act()
            except RuntimeError as error:
                found.append(type(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert found == [RuntimeError] * 8
    assert hub.alive(peer.handle)


def test_call_from_on_dirty_is_refused_while_the_hub_works(rig: Rig) -> None:
    refused: list[str] = []
    peer = rig.open()

    def meddle() -> None:
        with pytest.raises(RuntimeError) as error:
            rig.hub.abort(peer.handle)
        refused.append(str(error.value))

    rig.rest(peer)
    rig.on_dirty = meddle
    peer.send(client_frame(PING, b"p"))
    rig.tick()
    assert set(refused) == {"the hub is in the middle of a call"}
    assert rig.hub.alive(peer.handle)


def test_call_from_on_dirty_is_refused_while_a_close_goes_on(rig: Rig) -> None:
    refused: list[type] = []
    peer = rig.open()

    def meddle() -> None:
        with pytest.raises(RuntimeError) as error:
            rig.hub.abort(peer.handle)
        refused.append(error.type)

    rig.rest(peer)
    rig.on_dirty = meddle
    assert rig.hub.close(peer.handle, 1000, "", rig.now_ns)
    assert refused == [RuntimeError]
    assert rig.hub.connections == 1
    assert rig.hub.queued_bytes(peer.handle)  # its close frame


def test_on_dirty_is_called_once_until_the_flush(rig: Rig) -> None:
    one, two = rig.open(), rig.open()
    rig.rest(one, two)
    rig.dirty_calls = 0
    for peer in (one, two, one):
        rig.hub.send(peer.handle, b'["x"]')
    assert rig.dirty_calls == 1


def test_on_dirty_when_a_flush_writes_then_not_called_for_it(rig: Rig) -> None:
    peer = rig.open()
    rig.rest(peer)
    rig.hub.send(peer.handle, b'["x"]')
    rig.dirty_calls = 0
    rig.flush()
    assert rig.dirty_calls == 0
    assert peer.packets() == [["x"]]


def test_on_dirty_when_it_raises_then_nothing_is_lost(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: reported.append(what.exc_type))
    peer = rig.open()
    rig.rest(peer)

    def fail() -> None:
        raise LookupError

    rig.on_dirty = fail
    rig.hub.send(peer.handle, b'["x"]')
    assert reported == [LookupError]
    assert peer.packets() == [["x"]]


def test_owner_is_released_with_its_connection(rig: Rig) -> None:
    peers = [rig.open() for _ in range(4)]
    owners = [weakref.ref(peer.owner) for peer in peers]
    rig.hub.abort(peers[0].handle)
    peers[1].close()
    rig.hub.close(peers[2].handle, 1000, "", rig.now_ns)
    rig.rest(*peers[:1], peers[2])
    rig.take_events()
    for peer in peers:
        peer.owner = None
    gc.collect()
    assert [owner() is None for owner in owners] == [True, True, True, False]
    rig.hub.shutdown()
    assert owners[3]() is None


def test_hub_that_is_dropped_with_live_connections_frees_all(make_rig: MakeRig) -> None:
    rig = make_rig()
    peer = rig.open(batch=True)
    rig.hub.subscribe(rig.hub.create_topic(), peer.handle)
    rig.hub.send(peer.handle, b'["queued"]')
    peer.send(client_frame(TEXT, b"half")[:5])
    rig.poll()
    owner = weakref.ref(peer.owner)
    peer.owner = None
    rig.hub = Hub()
    gc.collect()
    assert owner() is None
    if rig.driver == "epoll":
        peer.read()
        assert peer.ended


def test_hub_that_is_shut_down_refuses_calls(rig: Rig) -> None:
    peer = rig.open()
    rig.hub.shutdown()
    rig.hub.shutdown()
    for act in (lambda: rig.hub.poll(1), lambda: rig.hub.send(peer.handle, b""), rig.hub.create_topic):
        with pytest.raises(RuntimeError, match="shut down"):
            act()
    assert rig.hub.connections == 0


@pytest.mark.parametrize(
    "options",
    [
        {"read_budget_bytes": 0},
        {"read_budget_bytes": 65_537},
        {"message_budget": 0},
        {"tick_messages": 1},
        {"deflate_window_bits": 8},
        {"deflate_window_bits": 16},
        {"max_message_bytes": 0},
        {"max_message_bytes": 1 << 31},
    ],
)
def test_hub_when_an_option_is_out_of_range_then_raises(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Hub(**options)  # type: ignore[arg-type]
