"""The two drivers as each other's oracle: whatever is done, owners and peers see the same.

Within the budgets of a tick, that is: past them the drivers share out differently what a poll does.
"""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.hub_rig import SECOND_NS, Owner, Rig, client_frame, deflate
from tests.reference.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload

PEERS = 3
who = st.integers(0, PEERS - 1)
bytes_of_a_client = st.lists(
    st.sampled_from(
        [
            client_frame(TEXT, b"text"),
            client_frame(TEXT, "ä".encode()[:1], fin=False),
            client_frame(CONTINUATION, "ä".encode()[1:]),
            client_frame(BINARY, bytes(700)),
            client_frame(PING, b"ping"),
            client_frame(PONG, b"pong"),
            client_frame(TEXT, deflate(b"deflated"), rsv=4),
            client_frame(BINARY, b"half a frame")[:9],
            client_frame(CLOSE, close_payload(1000, "bye")),
        ]
    ),
    min_size=1,
    max_size=6,
).map(b"".join)
actions = st.one_of(
    st.tuples(st.just("receive"), who, bytes_of_a_client),
    st.tuples(st.just("send"), who, st.integers(0, 2), st.sampled_from([9, 400, 20_000])),
    st.tuples(st.just("publish"), st.integers(-1, PEERS - 1), st.integers(1, 2), st.sampled_from([9, 400])),
    st.tuples(st.just("pause"), who),
    st.tuples(st.just("resume"), who),
    st.tuples(st.just("set_timer"), who, st.integers(0, 3)),
    st.tuples(st.just("want_drained"), who),
    st.tuples(st.just("close"), who, st.sampled_from([1000, 1005, 4001])),
    st.tuples(st.just("abort"), who),
    st.tuples(st.just("batch"), who, st.booleans()),
    st.tuples(st.just("tick"), st.sampled_from([0, SECOND_NS, 6 * SECOND_NS])),
)


class Play:
    """A sequence of actions on one driver."""

    def __init__(self, driver: str, deflate: bool) -> None:
        self.rig = Rig(driver, outbox_bytes=10_000_000)
        self.peers = [
            self.rig.open(str(i), encoding=i % 2, deflate=deflate, batch=i == 2) for i in range(PEERS)
        ]
        self.topic = self.rig.hub.create_topic()
        for peer in self.peers:
            self.rig.hub.subscribe(self.topic, peer.handle)
        self.number = 0
        self.results: list[Any] = []

    def do(self, name: str, *arguments: Any) -> None:
        self.number += 1
        hub, rig = self.rig.hub, self.rig
        if name == "tick":
            rig.tick(arguments[0])
            for peer in self.peers:
                peer.read()
            rig.rest(*self.peers)
            return
        if name == "publish":
            but, lane, size = arguments
            packet = b'["%d%s"]' % (self.number, b"p" * size)
            excluded = self.peers[but].handle if but >= 0 else 0
            self.results.append(hub.publish(self.topic, packet, b"\x91" + packet, excluded, lane))
            return
        handle = self.peers[arguments[0]].handle
        if name == "receive":
            self.peers[arguments[0]].send(arguments[1])
        elif name == "send":
            _, lane, size = arguments
            self.results.append(hub.send(handle, b'["%d%s"]' % (self.number, b"s" * size), lane))
        elif name == "abort":
            hub.abort(handle)  # a socket's connection lingers where a transport's is gone: the results differ
        elif name == "close":
            self.results.append(hub.close(handle, arguments[1], "reason", rig.now_ns))
        elif name == "batch":
            self.results.append(hub.configure(handle, batch=arguments[1]))
        elif name == "set_timer":
            self.results.append(hub.set_timer(handle, rig.now_ns + arguments[1] * SECOND_NS))
        else:
            self.results.append(getattr(hub, name)(handle))

    def seen(self) -> list[Any]:
        """What each owner and each peer saw, and what the calls returned."""
        self.do("tick", 6 * SECOND_NS)
        self.do("tick", 6 * SECOND_NS)
        events: dict[Any, list[Any]] = {peer.owner: [] for peer in self.peers}
        for kind, owner, data in self.rig.events:
            assert isinstance(owner, Owner)
            events[owner].append((kind, data))
        received = [(peer.data, peer.ended) for peer in self.peers]
        stats = self.rig.hub.stats()
        gauges = [stats[name] for name in ("connections", "blocked", "topics", "slices")]
        return [list(events.values()), received, self.results, gauges]


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(actions, min_size=3, max_size=40))
def test_the_drivers_agree(deflate: bool, todo: list[tuple[Any, ...]]) -> None:
    plays = [Play(driver, deflate) for driver in ("epoll", "fed")]
    try:
        for action in todo:
            for play in plays:
                play.do(*action)
        sockets, fed = (play.seen() for play in plays)
        assert sockets == fed
    finally:
        for play in plays:
            play.rig.end()
