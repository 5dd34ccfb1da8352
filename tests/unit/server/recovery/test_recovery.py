"""Recovery: a client that comes back gets what it missed, once and in order, or a new connection."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastim.guard.pids import Pids
from fastim.im.missed import MissedMessage
from fastim.server.recovery.eventlog import Entry
from fastim.server.recovery.offsets import offset_text
from fastim.server.recovery.options import RecoveryOptions
from fastim.server.recovery.recovery import PID_LIFE_MS, Claim, Recovery, everybody, room_of, user_room
from fastim.server.recovery.refusals import NotRecovered, Refusal
from fastim.server.recovery.restarts import Restarts

SECRET, OTHER_SECRET = b"a secret of the unit tests, 32 bytes.", b"another one of the unit tests, 32 bytes"
S = 1_000_000_000


class Connection:
    """What recovery wants to know of a connection."""

    def __init__(
        self, sid: str, user: str = "", namespace: str = "/", device: str = "", encoding: int = 0
    ) -> None:
        self.sid = sid
        self.user_id = user
        self.namespace = namespace
        self.device = device
        self.encoding = encoding
        self.session_id = f"session of {sid}"
        self.origin: str | None = None


class Server:
    """A process: its recovery, and time that stands still unless it is moved."""

    def __init__(self, secret: bytes = SECRET, last_key: int = 0, **options: Any) -> None:
        self.now_ns = 1_000 * S
        self.now_ms = 1_700_000_000_000
        self.last_key = last_key
        self.last_change = 0
        self.recovery = Recovery(
            RecoveryOptions(**options),
            Pids([secret]),
            clock_ns=lambda: self.now_ns,
            time_ms=lambda: self.now_ms,
            last_key=lambda: self.last_key,
            last_change=lambda: self.last_change,
        )

    def send(self, *rooms: Any, skip: tuple[Any, ...] = ()) -> tuple[int, str]:
        """Send an event; its number, and the offset that it carries."""
        offset = self.recovery.count()
        number = self.recovery.log.number
        self.recovery.keep(rooms, number, 100, skip)
        return number, offset

    def refusal(self, *arguments: Any) -> Refusal:
        with pytest.raises(NotRecovered) as caught:
            self.recovery.claim(*arguments)
        return caught.value.refusal


def events(recovery: Recovery, claim: Claim) -> list[int]:
    return [entry.event for entry in recovery.missed_events(claim)]


def test_connection_when_it_comes_back_then_gets_what_it_missed_with_their_offsets() -> None:
    server = Server()
    recovery = server.recovery
    ann = Connection("ann", "ann")
    pid = recovery.begin(ann, complete=True)
    assert ann.origin == ann.session_id
    recovery.join(ann, room_of("/", "a"))
    _, offset = server.send(room_of("/", "a"))
    recovery.gone(ann, may_return=True, data=None)
    missed = [
        server.send(everybody("/")),
        server.send(room_of("/", "a"), room_of("/", "b")),
        server.send(user_room("ann")),
        server.send(recovery.address("ann")),
    ]
    server.send(everybody("/other"))
    server.send(room_of("/", "b"))
    claim = recovery.claim("/", 0, pid, offset)
    recovery.check(claim, "ann", None)
    entries = recovery.missed_events(claim)
    assert [entry.event for entry in entries] == [number for number, _ in missed]
    assert [place.decode() for _, place in recovery.merged(claim, entries, [])] == [
        text for _, text in missed
    ]
    back = Connection("ann", "ann")
    assert recovery.take(claim, back).connection is back
    recovery.gone(ann, may_return=True, data=None)  # the old one is noticed late
    track = recovery.tracks.get("ann")
    assert track is not None
    assert track.connection is back
    assert (recovery.stats()["recovered_total"], recovery.stats()["records"]) == (1, 0)


def test_connection_when_no_event_was_sent_before_then_starts_where_it_began() -> None:
    server = Server()
    ann = Connection("ann")
    server.send(everybody("/"))
    pid = server.recovery.begin(ann, complete=True)
    server.recovery.gone(ann, may_return=True, data=None)
    number, _ = server.send(everybody("/"))
    assert events(server.recovery, server.recovery.claim("/", 0, pid, None)) == [number]


def test_offset_when_it_is_from_before_the_connection_then_does_not_count() -> None:
    """Clients do not forget the last offset when they get a new private id."""
    server = Server()
    ann = Connection("ann")
    _, old = server.send(everybody("/"))
    elsewhere = offset_text("0123456789ab", 1_000, 1_000, 9)
    server.send(everybody("/"))
    pid = server.recovery.begin(ann, complete=True)
    number, _ = server.send(everybody("/"))
    for offset in (old, elsewhere, None):
        claim = server.recovery.claim("/", 0, pid, offset)
        assert events(server.recovery, claim) == [number]
        assert claim.place.key == 0


def test_claim_when_anything_is_wrong_then_says_what() -> None:
    server = Server(last_key=7)
    ann = Connection("ann", "ann", device="phone")
    pid = server.recovery.begin(ann, complete=True)
    epoch = server.recovery.epoch
    assert server.refusal("/other", 0, pid, None) == Refusal.NAMESPACE
    assert server.refusal("/", 1, pid, None) == Refusal.PARSER
    assert server.refusal("/", 0, pid[:-1], None) == Refusal.FORGED
    assert server.refusal("/", 0, None, None) == Refusal.FORGED
    assert server.refusal("/", 0, ["x"], None) == Refusal.FORGED
    assert server.refusal("/", 0, pid, "hello") == Refusal.OFFSET
    assert server.refusal("/", 0, pid, 7) == Refusal.OFFSET
    assert server.refusal("/", 0, pid, offset_text(epoch, 1, 0, 0)) == Refusal.OFFSET
    assert server.refusal("/", 0, pid, offset_text(epoch, 0, 8, 0)) == Refusal.OFFSET
    assert server.refusal("/", 0, pid, offset_text(epoch, 0, 0, 1)) == Refusal.OFFSET
    claim = server.recovery.claim("/", 0, pid, None)
    server.recovery.check(claim, "ann", "phone")
    for user, device in (("bob", None), ("", None), ("ann", "tablet")):
        with pytest.raises(NotRecovered) as caught:
            server.recovery.check(claim, user, device)
        assert caught.value.refusal == Refusal.USER
    server.now_ms += PID_LIFE_MS
    assert server.refusal("/", 0, pid, None) == Refusal.EXPIRED
    assert Server(OTHER_SECRET).refusal("/", 0, pid, None) == Refusal.FORGED
    assert Server().refusal("/", 0, pid, None) == Refusal.UNKNOWN


def test_claim_when_its_connection_was_ended_for_good_then_nothing_is_known() -> None:
    server = Server()
    ann = Connection("ann")
    pid = server.recovery.begin(ann, complete=True)
    server.recovery.gone(ann, may_return=False, data=None)
    assert server.refusal("/", 0, pid, None) == Refusal.UNKNOWN
    assert server.recovery.log.room_count == 0


def test_claim_when_it_ended_while_it_was_looked_at_then_is_refused() -> None:
    server = Server()
    ann = Connection("ann")
    pid = server.recovery.begin(ann, complete=True)
    claim = server.recovery.claim("/", 0, pid, None)
    server.recovery.gone(ann, may_return=False, data=None)
    with pytest.raises(NotRecovered):
        server.recovery.missed_events(claim)


def test_record_when_its_time_is_over_then_goes_with_its_rooms() -> None:
    server = Server(life_ns=10 * S)
    ann = Connection("ann", "ann")
    pid = server.recovery.begin(ann, complete=True)
    server.recovery.gone(ann, may_return=True, data={"cart": [1, 2]})
    server.send(everybody("/"))
    assert server.recovery.stats()["record_bytes"] > 0
    server.now_ns += 10 * S - 1
    server.recovery.tick(server.now_ns)
    assert server.recovery.claim("/", 0, pid, None)
    server.now_ns += 1
    server.recovery.tick(server.now_ns)
    assert server.refusal("/", 0, pid, None) == Refusal.UNKNOWN
    stats = server.recovery.stats()
    assert (stats["records"], stats["record_bytes"], stats["log_events"], stats["log_rooms"]) == (0, 0, 0, 0)
    assert stats["expired_total"] == 1


@pytest.mark.parametrize("bound", [{"max_count": 3}, {"max_bytes": 3 * 10_000}])
def test_records_when_they_are_too_many_then_who_left_first_goes(bound: dict[str, int]) -> None:
    server = Server(**bound)
    pids = []
    for n in range(5):
        connection = Connection(f"c{n}")
        pids.append(server.recovery.begin(connection, complete=True))
        server.recovery.gone(connection, may_return=True, data={"x": "x" * 4_000})
    found = [n for n, pid in enumerate(pids) if server.recovery.tracks.get(f"c{n}") is not None]
    assert found == [2, 3, 4]
    assert server.recovery.stats()["evicted_total"] == 2


def test_data_when_it_cannot_be_measured_then_counts_for_something() -> None:
    server = Server()
    ann = Connection("ann")
    server.recovery.begin(ann, complete=True)
    circle: dict[str, Any] = {"object": object()}
    circle["itself"] = circle
    server.recovery.gone(ann, may_return=True, data=circle)
    assert server.recovery.stats()["record_bytes"] > 4_096


def test_refused_when_it_was_its_own_client_then_what_was_kept_is_forgotten() -> None:
    server = Server(room_bytes=1_000)
    ann = Connection("ann")
    pid = server.recovery.begin(ann, complete=True)
    server.recovery.gone(ann, may_return=True, data=None)
    for _ in range(5):
        server.send(everybody("/"))
    claim = server.recovery.claim("/", 0, pid, None)
    with pytest.raises(NotRecovered) as caught:
        server.recovery.missed_events(claim)
    assert caught.value.refusal == Refusal.EVENTS
    server.recovery.refuse(Refusal.USER)
    assert server.recovery.tracks.get("ann") is not None
    server.recovery.refuse(Refusal.EVENTS, claim)
    assert server.recovery.tracks.get("ann") is None
    stats = server.recovery.stats()
    assert (stats["refused_events_total"], stats["refused_user_total"], stats["records"]) == (1, 1, 0)


def test_room_when_left_before_its_events_had_arrived_then_it_cannot_be_told_what_is_missing() -> None:
    server = Server()
    recovery = server.recovery
    ann = Connection("ann")
    pid = recovery.begin(ann, complete=True)
    recovery.join(ann, room_of("/", "a"))
    _, offset = server.send(room_of("/", "a"))
    recovery.leave(ann, room_of("/", "a"))
    server.send(room_of("/", "a"))
    recovery.gone(ann, may_return=True, data=None)
    assert events(recovery, recovery.claim("/", 0, pid, offset)) == []
    with pytest.raises(NotRecovered):
        events(recovery, recovery.claim("/", 0, pid, None))


# -- after a restart


def restarted(first: Server, last_key: int, used: dict[str, int] | None = None, life_s: int = 60) -> Server:
    """The next process on the same store."""
    server = Server(last_key=last_key)
    starts = {first.recovery.epoch: 1, server.recovery.epoch: 2}
    server.recovery.restarts = Restarts(starts, used or {}, server.now_ns + life_s * S)
    return server


def test_restart_when_there_were_messages_alone_then_goes_on_behind_the_last_one() -> None:
    first = Server(last_key=3)
    ann = Connection("ann", "ann", device="phone")
    pid = first.recovery.begin(ann, complete=True)
    for offset, key in ((None, 3), (first.recovery.message_offset(5).decode(), 5)):
        second = restarted(first, last_key=9)
        claim = second.recovery.claim("/", 0, pid, offset)
        assert (claim.track, claim.place.key) == (None, key)
        second.recovery.check(claim, "ann", None)
        messages = [MissedMessage(n, b"") for n in range(key + 1, 10)]
        merged = list(second.recovery.merged(claim, second.recovery.missed_events(claim), messages))
        back = Connection("ann", "ann", device="phone")
        second.recovery.take(claim, back)
        assert back.origin == claim.pid.session
        # Cut off behind the second of them, or before anything came.
        second.recovery.gone(back, may_return=True, data=None)
        assert second.recovery.claim("/", 0, pid, merged[1][1].decode()).place.key == key + 2
        assert second.recovery.claim("/", 0, pid, offset).place.key == key


def test_restart_when_the_application_had_a_part_then_is_refused() -> None:
    first = Server()
    pid = first.recovery.begin(Connection("ann", "ann"), complete=True)
    assert restarted(first, 0, {"/": 1}).refusal("/", 0, pid, None) == Refusal.RESTART
    assert restarted(first, 0, {"/": 2}).refusal("/", 0, pid, None) == Refusal.RESTART
    assert restarted(first, 0, {"*": 1}).refusal("/", 0, pid, None) == Refusal.RESTART
    assert restarted(first, 0, {"/chat": 2}).recovery.claim("/", 0, pid, None)


def test_restart_when_this_process_begins_to_send_meanwhile_then_is_refused() -> None:
    first = Server()
    pid = first.recovery.begin(Connection("ann", "ann"), complete=True)
    second = restarted(first, 0)
    claim = second.recovery.claim("/", 0, pid, None)
    assert second.recovery.restarts is not None
    second.recovery.restarts.use("/chat")
    assert events(second.recovery, claim) == []
    second.recovery.restarts.use("/")
    with pytest.raises(NotRecovered) as caught:
        events(second.recovery, claim)
    assert caught.value.refusal == Refusal.RESTART
    assert second.refusal("/", 0, pid, None) == Refusal.RESTART


def test_restart_when_it_went_on_in_the_next_process_then_what_was_before_does_not_count() -> None:
    first = Server()
    pid = first.recovery.begin(Connection("ann", "ann"), complete=True)
    second = restarted(first, 0)
    offset = second.recovery.message_offset(0).decode()
    third = Server()
    starts = {first.recovery.epoch: 1, second.recovery.epoch: 2, third.recovery.epoch: 3}
    third.recovery.restarts = Restarts(starts, {"/": 1}, third.now_ns + S)
    assert third.recovery.claim("/", 0, pid, offset)
    assert third.refusal("/", 0, pid, None) == Refusal.RESTART


def test_restart_when_it_cannot_be_so_then_is_refused() -> None:
    first = Server(last_key=3)
    anonymous = first.recovery.begin(Connection("anonymous"), complete=True)
    in_replay = first.recovery.begin(Connection("ann", "ann"), complete=False)
    pid = first.recovery.begin(Connection("bob", "bob"), complete=True)
    second = restarted(first, 3)
    assert second.refusal("/", 0, in_replay, None) == Refusal.RESTART
    claim = second.recovery.claim("/", 0, anonymous, None)
    with pytest.raises(NotRecovered):
        second.recovery.check(claim, "bob", None)
    # An offset behind all that the store has, and one of a server that the store does not know.
    assert second.refusal("/", 0, pid, first.recovery.message_offset(4).decode()) == Refusal.OFFSET
    assert second.recovery.claim("/", 0, pid, offset_text("0123456789ab", 1, 1 << 40, 9)).place.key == 3
    second.now_ns += 60 * S
    assert second.refusal("/", 0, pid, None) == Refusal.UNKNOWN
    stranger = Server(last_key=3)
    stranger.recovery.restarts = Restarts({stranger.recovery.epoch: 1}, {}, stranger.now_ns + S)
    assert stranger.refusal("/", 0, pid, None) == Refusal.UNKNOWN


# -- whatever happens


class Client:
    """A client: what it got, in order, and what it was sent and has not got yet."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.connection = Connection(name, name)
        self.pid = server.recovery.begin(self.connection, complete=True)
        self.offset: str | None = None
        self.rooms: set[str] = set()
        self.online = True
        self.due: list[Any] = []  # all that it is to get, in order
        self.got: list[Any] = []
        self.wire: list[tuple[Any, str | None]] = []

    def receive(self, count: int) -> None:
        for what, offset in self.wire[:count]:
            self.got.append(what)
            self.offset = offset or self.offset
        del self.wire[:count]

    def cut(self) -> None:
        if self.online:
            self.online = False
            self.wire.clear()
            self.server.recovery.gone(self.connection, may_return=True, data=None)

    def come_back(self, messages: list[int]) -> bool:
        recovery = self.server.recovery
        try:
            claim = recovery.claim("/", 0, self.pid, self.offset)
            recovery.check(claim, self.name, None)
            entries = recovery.missed_events(claim)
        except NotRecovered:
            return False
        self.connection = Connection(self.name, self.name)
        recovery.take(claim, self.connection)
        missed = [MissedMessage(key, b"") for key in messages if key > claim.place.key]
        for what, offset in recovery.merged(claim, entries, missed):
            name = ("event", what.event) if isinstance(what, Entry) else ("message", what.key)
            self.wire.append((name, offset.decode()))
        self.online = True
        return True


NAMES, ROOMS = ("ann", "bob", "cat"), ("a", "b")
STEPS = st.one_of(
    st.tuples(st.just("message")),
    st.tuples(
        st.just("event"),
        st.lists(st.sampled_from((*ROOMS, *NAMES, "all")), min_size=1, max_size=2, unique=True),
        st.one_of(st.none(), st.sampled_from(NAMES)),
    ),
    st.tuples(st.just("join"), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
    st.tuples(st.just("leave"), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
    st.tuples(st.just("receive"), st.sampled_from(NAMES), st.integers(1, 4)),
    st.tuples(st.just("cut"), st.sampled_from(NAMES)),
    st.tuples(st.just("come_back"), st.sampled_from(NAMES)),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(STEPS, max_size=80), st.sampled_from([2_000, 1 << 20]))
def test_client_when_anything_happens_then_gets_all_once_and_in_order(
    steps: list[Any], log_bytes: int
) -> None:
    """Messages to all and events to rooms, cut off anywhere, in a replay too, back at any time.

    A client that is not recovered is out of the test: it begins anew.
    """
    server = Server(log_bytes=log_bytes)
    recovery = server.recovery
    clients = {name: Client(server, name) for name in NAMES}
    messages: list[int] = []
    for kind, *more in steps:
        if kind == "message":
            server.last_key += 1
            messages.append(server.last_key)
            offset = recovery.message_offset(server.last_key).decode()
            deliver(clients.values(), ("message", server.last_key), offset)
        elif kind == "event":
            rooms, skip = more
            keys = [room_key(recovery, name) for name in rooms]
            skipped = () if skip is None else (recovery.address(skip),)
            number, offset = server.send(*[key for key in keys if key], skip=tuple(filter(None, skipped)))
            members = [
                client
                for client in clients.values()
                if client.name != skip
                and ("all" in rooms or not {client.name, *client.rooms}.isdisjoint(rooms))
            ]
            deliver(members, ("event", number), offset)
        elif more[0] not in clients:
            continue
        elif kind == "join" and clients[more[0]].online:
            clients[more[0]].rooms.add(more[1])
            recovery.join(clients[more[0]].connection, room_of("/", more[1]))
        elif kind == "leave" and clients[more[0]].online:
            clients[more[0]].rooms.discard(more[1])
            recovery.leave(clients[more[0]].connection, room_of("/", more[1]))
        elif kind == "receive":
            clients[more[0]].receive(more[1])
        elif kind == "cut":
            clients[more[0]].cut()
        elif kind == "come_back" and not clients[more[0]].online and not clients[more[0]].come_back(messages):
            del clients[more[0]]
    for client in list(clients.values()):
        if client.online or client.come_back(messages):
            client.receive(len(client.wire))
            assert client.got == client.due


def room_key(recovery: Recovery, name: str) -> Any:
    if name == "all":
        return everybody("/")
    return recovery.address(name) if name in NAMES else room_of("/", name)


def deliver(clients: Any, what: Any, offset: str) -> None:
    for client in clients:
        client.due.append(what)
        if client.online:
            client.wire.append((what, offset))


def test_numbers_when_events_and_messages_take_turns_then_offsets_only_grow() -> None:
    server = Server()
    places = []
    for n in itertools.islice(itertools.cycle((0, 1, 1)), 30):
        if n:
            server.last_key += 1
            places.append(server.recovery.message_offset(server.last_key).decode())
        else:
            places.append(server.send()[1])
    numbers = [tuple(int(part, 16) for part in place.split("-")[1:]) for place in places]
    assert numbers == sorted(set(numbers))
