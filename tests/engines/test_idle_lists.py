"""The compiled idle lists against their twin, and a hub's against one that is told what its peers do."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastim._core.hub import Hub
from fastim._core.idle import IdleLists
from tests.engines.hub_rig import SECOND_NS, Peer, Rig, client_frame
from tests.reference.frames import PONG, TEXT
from tests.reference.idle_lists import IdleLists as ReferenceLists

MakeRig = Callable[..., Rig]
KEYS = st.one_of(st.integers(0, 7), st.integers(0, 5_000))
TIERS = st.integers(0, 2)


class IdleMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lists = IdleLists()
        self.reference = ReferenceLists()

    @rule(key=KEYS, tier=TIERS)
    def add(self, key: int, tier: int) -> None:
        self.lists.add(key, tier)
        self.reference.add(key, tier)

    @rule(key=KEYS)
    def remove(self, key: int) -> None:
        assert self.lists.remove(key) == self.reference.remove(key)

    @rule(key=KEYS)
    def touch(self, key: int) -> None:
        assert self.lists.touch(key) == self.reference.touch(key)

    @rule(tier=TIERS)
    def give_way(self, tier: int) -> None:
        idlest = self.lists.idlest(tier)
        assert idlest == self.reference.idlest(tier)
        if idlest is not None:
            assert self.lists.remove(idlest)
            self.reference.remove(idlest)

    @invariant()
    def they_agree(self) -> None:
        assert len(self.lists) == len(self.reference)
        assert self.lists.counts == self.reference.counts
        assert [self.lists.idlest(tier) for tier in range(3)] == [
            self.reference.idlest(tier) for tier in range(3)
        ]
        assert [key in self.lists for key in range(8)] == [key in self.reference for key in range(8)]


IdleMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestIdleLists = IdleMachine.TestCase


def test_lists_when_asked_for_what_there_is_not_then_refused() -> None:
    lists = IdleLists()
    for tier in (-1, 3):
        with pytest.raises(ValueError, match="no such tier"):
            lists.add(1, tier)
        with pytest.raises(ValueError, match="no such tier"):
            lists.idlest(tier)
    with pytest.raises(ValueError, match="key"):
        lists.add(2**32 - 1, 0)
    with pytest.raises(OverflowError):
        lists.add(-1, 0)
    assert not lists.remove(7)
    assert not lists.touch(7)
    assert len(lists) == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open")),
        st.tuples(st.just("admit"), st.integers(0, 99), TIERS),
        st.tuples(st.just("message"), st.integers(0, 99)),
        st.tuples(st.just("pong"), st.integers(0, 99)),
        st.tuples(st.just("change tier"), st.integers(0, 99), TIERS),
        st.tuples(st.just("dismiss"), st.integers(0, 99)),
        st.tuples(st.just("closed"), st.integers(0, 99)),
        st.tuples(st.just("lost"), st.integers(0, 99)),
        st.tuples(st.just("aborted"), st.integers(0, 99)),
    ),
    max_size=40,
)


class Told:
    """A hub, and a twin that is told what happens to its connections."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.reference = ReferenceLists()
        self.peers: list[Peer] = []

    def step(self, what: str, at: int = 0, tier: int = 0) -> None:
        rig, reference = self.rig, self.reference
        if what == "open" or not self.peers:
            self.peers.append(rig.open())
            return
        peer = self.peers[at % len(self.peers)]
        handle = peer.handle
        if what == "admit":
            assert rig.hub.admit(handle, tier)
            reference.add(handle, tier)
        elif what == "message":
            peer.send(client_frame(TEXT, b"hello"))
            rig.rest(peer)
            reference.touch(handle)
        elif what == "pong":
            peer.send(client_frame(PONG, b""))
            rig.rest(peer)
        elif what == "change tier":
            assert rig.hub.configure(handle, tier=tier)
            if handle in reference:
                reference.add(handle, tier)
        elif what == "dismiss":
            assert rig.hub.dismiss(handle) == reference.remove(handle)
        else:
            if what == "closed":
                assert rig.hub.close(handle, 4010, "evicted", rig.now_ns)
            elif what == "lost":
                peer.close()
                rig.wait(lambda: not rig.hub.alive(handle))
            else:
                assert rig.hub.abort(handle)
            reference.remove(handle)
            self.peers.remove(peer)
            assert not rig.hub.admit(handle, tier)

    def check(self) -> None:
        hub: Hub = self.rig.hub
        assert hub.admitted == self.reference.counts
        assert [hub.idlest(tier) for tier in range(3)] == [
            self.reference.idlest(tier) or 0 for tier in range(3)
        ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_hub_when_connections_come_speak_and_go_then_the_idlest_is_the_twins(
    make_rig: MakeRig, steps: list[tuple[str, int, int]]
) -> None:
    told = Told(make_rig())
    for step in steps:
        told.step(*step)
        told.check()
    told.rig.end()


def test_idlest_when_the_oldest_speaks_then_it_is_another(rig: Rig) -> None:
    """What counts is the last message, not the age, and a pong is none."""
    old, young = rig.open(), rig.open()
    for peer in (old, young):
        rig.hub.admit(peer.handle, 2)
    assert rig.hub.idlest(2) == old.handle
    old.send(client_frame(TEXT, b"x"))
    rig.tick(SECOND_NS)
    assert rig.hub.idlest(2) == young.handle
    young.send(client_frame(PONG, b""))
    rig.tick(SECOND_NS)
    assert rig.hub.idlest(2) == young.handle


def test_idlest_when_its_slot_was_used_before_then_it_is_the_new_connection(rig: Rig) -> None:
    old = rig.open()
    rig.hub.admit(old.handle, 1)
    rig.hub.abort(old.handle)
    rig.rest(old)
    assert rig.hub.idlest(1) == 0
    assert rig.hub.admitted == (0, 0, 0)
    new = rig.open()
    rig.hub.admit(new.handle, 1)
    assert rig.hub.idlest(1) == new.handle
    assert not rig.hub.dismiss(old.handle)
    with pytest.raises(ValueError, match="no such tier"):
        rig.hub.idlest(3)
