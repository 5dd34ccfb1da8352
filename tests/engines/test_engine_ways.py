"""The ways of Engine.IO as each other's oracle: owners and clients see the same over each."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastim._core.hub import Encoding, Lane
from tests.engines.engine_rig import WAYS, EngineRig
from tests.engines.hub_rig import SECOND_NS, Owner

TRANSPORTS = 3
CHANNELS = 6
NAMESPACES = ("/", "/a", "/" + "b" * 200)

transports = st.integers(0, TRANSPORTS - 1)
channels = st.integers(0, CHANNELS - 1)  # the latest ones
sizes = st.sampled_from([9, 400, 20_000])
actions = st.one_of(
    st.tuples(
        st.just("open"),
        transports,
        st.sampled_from(NAMESPACES),
        st.sampled_from([Encoding.JSON, Encoding.MSGPACK]),
    ),
    st.tuples(st.just("send"), channels, st.sampled_from([Lane.HIGH, Lane.NORMAL]), sizes),
    st.tuples(st.just("state"), channels, st.integers(1, 3), sizes),
    st.tuples(st.just("attached"), channels, st.integers(0, 3), sizes),
    st.tuples(st.just("publish"), st.integers(-1, CHANNELS - 1), sizes),
    st.tuples(st.just("engine"), transports, sizes, st.booleans()),
    st.tuples(st.just("subscribe"), channels, st.booleans()),
    st.tuples(st.just("pause"), channels),
    st.tuples(st.just("resume"), channels),
    st.tuples(st.just("want_drained"), channels),
    st.tuples(st.just("set_timer"), channels, st.integers(1, 3)),
    st.tuples(st.just("configure"), channels, st.integers(0, 2)),
    st.tuples(st.just("close"), channels, st.sampled_from([4003, 1000])),
    st.tuples(st.just("close"), channels, st.just(4002)),
    st.tuples(st.just("close_transport"), transports, st.sampled_from([4003, 4002])),
    st.tuples(st.just("drop_channel"), channels),
    st.tuples(st.just("tick"), st.sampled_from([0, SECOND_NS, 6 * SECOND_NS])),
)


class Play:
    """A sequence of actions over one way."""

    def __init__(self, way: str, deflate: bool) -> None:
        self.rig = EngineRig(way, outbox_bytes=10_000_000)
        options = {} if way == "polling" else {"deflate": deflate}
        self.transports = [self.rig.transport(f"t{number}", **options) for number in range(TRANSPORTS)]
        self.rig.now_ns = 8 * SECOND_NS  # as late over each way
        self.channels: list[Owner] = [
            self.transports[number % TRANSPORTS].channel(NAMESPACES[number % 2], number % 2)
            for number in range(CHANNELS)
        ]
        self.topic = self.rig.hub.create_topic()
        for number, channel in enumerate(self.channels):
            channel.name = str(number)
            self.rig.hub.subscribe(self.topic, channel.handle)
        self.number = 0
        self.results: list[Any] = []
        self.messages: list[list[Any]] = [[] for _ in self.transports]

    def do(self, name: str, *arguments: Any) -> None:
        self.number += 1
        if name == "tick":
            self.rig.tick(arguments[0])
            for messages, transport in zip(self.messages, self.transports, strict=True):
                messages += transport.messages()
            return
        if name in ("open", "engine", "close_transport"):
            self.results.append(self.on_transport(name, *arguments))
        elif name == "publish":
            but, size = arguments
            excluded = self.latest(but).handle if but >= 0 else 0
            self.results.append(self.rig.hub.publish(self.topic, *self.both(size), excluded))
        else:
            self.results.append(self.on_channel(name, self.latest(arguments[0]), *arguments[1:]))

    def latest(self, place: int) -> Owner:
        return self.channels[-CHANNELS:][place]

    def both(self, size: int) -> tuple[bytes, bytes]:
        text = b"%d" % self.number + b"x" * size
        return b'["e","%s"]' % text, b"\x92\xa1e\xc5" + len(text).to_bytes(2, "big") + text

    def on_transport(self, name: str, place: int, *arguments: Any) -> Any:
        hub, handle = self.rig.hub, self.transports[place].handle
        if name == "close_transport":
            return hub.close(handle, arguments[0], "reason", self.rig.now_ns)
        if name == "engine":
            size, binary = arguments
            return hub.send_engine(handle, b"4%d" % self.number + b"x" * size, binary)
        namespace, encoding = arguments
        owner = Owner(f"c{self.number}")
        owner.handle = hub.open_channel(handle, namespace.encode(), owner, encoding=encoding)
        if owner.handle:
            self.channels.append(owner)
        return owner.handle != 0

    def on_channel(self, name: str, channel: Owner, *arguments: Any) -> Any:
        hub, rig, handle = self.rig.hub, self.rig, channel.handle
        if name == "send":
            lane, size = arguments
            return hub.send_many([handle, handle], *self.both(size), lane)
        if name == "state":
            key, size = arguments
            return hub.send_many([handle], *self.both(size), Lane.LOW, key)
        if name == "attached":
            count, size = arguments
            parts = [b"%d" % self.number + bytes(size)] * count
            return hub.send_rendered(handle, b'45%d-["%d"]' % (count, self.number), parts)
        if name == "subscribe":
            change = hub.subscribe if arguments[0] else hub.unsubscribe
            return change(self.topic, handle)
        if name == "set_timer":
            return hub.set_timer(handle, rig.now_ns + arguments[0] * SECOND_NS)
        if name == "configure":
            return hub.configure(handle, tier=arguments[0])
        if name == "close":
            return hub.close(handle, arguments[0], "reason", rig.now_ns)
        return getattr(hub, name)(handle)

    def seen(self) -> list[Any]:
        """What each owner and each client saw, and what the calls returned."""
        self.do("tick", 6 * SECOND_NS)
        self.do("tick", 6 * SECOND_NS)
        events: dict[str, list[Any]] = {}
        for kind, owner, data in self.rig.events:
            assert isinstance(owner, Owner)
            events.setdefault(owner.name, []).append((kind, data))
        stats = self.rig.hub.stats()
        gauges = [stats[name] for name in ("channels", "blocked", "topics", "slices", "slow_closed_total")]
        closed = [bool(transport.closed_with) for transport in self.transports]
        return [events, self.messages, closed, self.results, gauges]


@settings(max_examples=250, deadline=None)
@given(st.booleans(), st.lists(actions, min_size=3, max_size=40))
def test_the_ways_agree(deflate: bool, todo: list[tuple[Any, ...]]) -> None:
    plays = [Play(way, deflate) for way in WAYS]
    try:
        for action in todo:
            for play in plays:
                play.do(*action)
        websocket, tls, polling = (play.seen() for play in plays)
        assert websocket == tls
        assert tls == polling
    finally:
        for play in plays:
            play.rig.end()
