"""The socket hub: every client connection, its frames, its outbox and its topics."""

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import final

from typing_extensions import Buffer

from fastim._core.addresses import AddressRanges
from fastim._core.histogram import Histogram
from fastim._core.values import Encoding as Encoding

class EventKind(IntEnum):
    """What ``Hub.poll`` reports; the first item of each tuple ``(kind, subject, data)``.

    ``subject`` is the connection's owner once ``upgrade`` has set one, and its handle before.
    """

    HEAD = 1  # data: (head: bytes up to and with the blank line, peer: str)
    TEXT = 2  # data: bytes, valid UTF-8
    BINARY = 3  # data: bytes
    CLOSED = 4  # data: (code: int, reason: str, clean: bool); exactly one for each owner, the last event
    TIMER = 5  # data: None; the deadline set by set_timer has passed
    DRAINED = 6  # data: None; asked for by want_drained
    PONG = 7  # data: bytes; payload of a pong
    ACCEPTED = 8  # subject: the listener; data: (fd: int, peer: str), which are the caller's
    BODY = 9  # data: bytes; asked for by read_body
    ENGINE_TEXT = 10  # data: bytes, valid UTF-8: a packet of Engine.IO with its type; pongs are the hub's
    ENGINE_BINARY = 11  # data: bytes of a binary message

# 2**53 - 1: an answer with this ref goes to a channel as the event "message_sent", or "error".
MESSAGE_SENT_REF: int

# A Socket.IO packet without its namespace, alone or with its attachments; see Hub.send_rendered.
_Rendered = bytes | tuple[bytes, tuple[bytes, ...]]

class Lane(IntEnum):
    HIGH = 0  # control frames and errors
    NORMAL = 1  # messages, answers, history: in order
    LOW = 2  # typing and presence: the latest of a key waits, what has none is dropped when it is behind

class Tier(IntEnum):
    """What a connection may ask for; those who may ask for the least are the first to give way."""

    CRITICAL = 0
    STANDARD = 1
    DEGRADED = 2

@final
class Hub:
    """All connections of a process, over an epoll driver (``listen``) and a fed driver (``open_fed``).

    **Thread**: belongs to the thread that made it; a call from another raises RuntimeError.
    """

    def __new__(
        cls,
        *,
        max_connections: int = 0,
        max_message_bytes: int = 102_400,
        head_bytes: int = 16_384,
        head_timeout_ns: int = 5_000_000_000,
        close_timeout_ns: int = 5_000_000_000,
        idle_timeout_ns: int = 30_000_000_000,
        read_budget_bytes: int = 65_536,
        message_budget: int = 100,
        tick_messages: int = 512,
        outbox_bytes: int = 1_048_576,
        max_fragments: int = 0,
        deflate_window_bits: int = 12,
        deflate_min_bytes: int = 256,
        deflate_level: int = 1,
        slow_close_code: int = 4008,
        max_pending: int = 0,
        max_pending_per_address: int = 0,
        pending_frames: int = 0,
        pending_bytes: int = 0,
        limit_close_code: int = 4011,
        max_packets: int = 1000,
        low_percent: int = 10,
        flush_rows: int = 0,
        tier_weights: tuple[int, int, int] = (4, 2, 1),
        on_dirty: Callable[[], None] | None = None,
    ) -> Hub: ...
    # -- the loop's side
    @property
    def on_dirty(self) -> Callable[[], None] | None: ...
    def fileno(self) -> int: ...
    @property
    def blocked(self) -> AddressRanges:
        """Whose connections are closed at accept, unread and unanswered."""

    @property
    def exempt(self) -> AddressRanges:
        """Who is neither blocked nor bounded by address."""

    def listen(self, fd: int, *, hand_out: bool = False) -> None: ...
    def release(self, peer: str) -> None: ...
    def unlisten(self, fd: int) -> None: ...
    def poll(self, now_ns: int) -> list[tuple[int, object, object]]: ...
    @property
    def pending(self) -> bool: ...
    def flush(self, now_ns: int, window_ns: int = 0, degraded_window_ns: int = 0) -> int: ...
    def shutdown(self) -> None: ...
    # -- a connection's beginning
    def adopt(self, fd: int, peer: str, now_ns: int) -> int: ...
    def upgrade(
        self,
        handle: int,
        response: bytes,
        owner: object,
        *,
        encoding: int = 0,
        deflate: bool = False,
        engine: bool = False,
        deadline_ns: int = 0,
    ) -> bool: ...
    def respond(self, handle: int, response: bytes, now_ns: int) -> bool: ...
    def detach(self, handle: int) -> tuple[int, bytes]: ...
    # -- HTTP requests
    def read_body(
        self, handle: int, size: int, owner: object, deadline_ns: int = 0, *, expected: bool = False
    ) -> bytes | None: ...
    def hold(self, handle: int, owner: object) -> bool: ...
    def reply(self, handle: int, response: bytes, keep: bool, now_ns: int) -> bool: ...
    def close_kept(self) -> int: ...
    def make_room(self) -> bool: ...
    # -- the fed driver
    def open_fed(self, peer: str, now_ns: int) -> int: ...
    def feed(self, handle: int, data: Buffer, now_ns: int) -> int: ...
    def feed_eof(self, handle: int, now_ns: int) -> None: ...
    def take(self, handle: int, max_bytes: int) -> bytes: ...
    def take_finished(self, handle: int) -> bool: ...
    def fed_ready(self) -> list[int]: ...
    # -- transports and channels of Engine.IO
    def open_polling(self, peer: str, owner: object, now_ns: int) -> int:
        """Open a polling transport of Engine.IO; it is pending until ``authenticated``.

        Listed by ``fed_ready`` when there is something to take; it is freed by ``take_finished``, or
        ``feed_eof``.

        Returns:
            Its handle; 0 if there are as many connections, or pending ones, as there may be.
        """

    def take_payload(self, handle: int) -> bytes:
        """All that is queued for a polling transport, as one payload; b"" if there is nothing.

        It counts as sent.
        """

    def receive_polled(self, handle: int, packets: int, size: int, pong: bool, now_ns: int) -> int:
        """Count what a POST brought, as frames are counted, and as a sign of life.

        Returns:
            For how many nanoseconds the answer to the POST has to wait, as it was ahead of its rate; 0: not
            at all. -1: it is closed for it, or it is gone.
        """

    def is_paused(self, handle: int) -> bool:
        """Whether its data is not wanted now, so that the answer to a POST should wait.

        False for a stale handle.
        """

    def write_apart(self, transport: int) -> bool:
        """Write what is queued for a transport now, and nothing more until ``write_on``.

        What is queued meanwhile comes in a read of its own. False where nothing is held back: the socket did
        not take all, or there is none.
        """

    def write_on(self, transport: int) -> None:
        """Let what ``write_apart`` held back go out with the next flush."""

    def send_engine(self, handle: int, data: bytes, binary: bool, lane: int = 1) -> bool:
        """Queue a packet of Engine.IO for a transport as it is: text with its type, or a message's bytes."""

    def send_payload(self, handle: int, payload: bytes) -> bool:
        """Queue the packets of what ``take_payload`` gave for another transport, nothing between them."""

    def open_channel(self, transport: int, namespace: bytes, owner: object, *, encoding: int = 0) -> int:
        """Open a channel: a namespace of a transport, which the other calls take as a connection of its own.

        ``send``, ``send_many``, ``publish``, ``subscribe``, ``set_timer``, ``admit``, ``dismiss`` and
        ``idlest`` are the channel's own. ``pause``, ``want_drained``, ``queued_bytes``, ``is_behind``,
        ``unsent_bytes``, ``peer``, ``last_received_ns``, ``round_trip_ns``, ``authenticated`` and ``abort``
        act on its transport; ``set_heartbeat`` does nothing.

        Args:
            transport: The handle of one that is open.
            namespace: Its name, with the slash.
            owner: The subject of its events; kept until CLOSED, or ``drop_channel``.
            encoding: JSON for Socket.IO's default parser, MSGPACK for its msgpack parser.

        Returns:
            Its handle; 0 if the transport is gone.
        """

    def drop_channel(self, handle: int) -> bool:
        """End a channel without a packet and without an event. False if it is gone."""

    def move_channels(self, source: int, target: int) -> bool:
        """Let a WebSocket take the place of a polling transport: the session goes on over it.

        The channels, the owner, the heartbeat, pauses, the tier, the outbox's bound and what is metered go
        over. The old transport has no owner any more, and no events; what is still in it is the caller's to
        take, and to send again before anything else, and the transport to close.

        Returns:
            False if either is gone, or no such transport.
        """

    def touch(self, handle: int) -> None:
        """A message came for a channel: it is the one of its tier that was busy last."""

    def send_rendered(
        self,
        handle: int,
        packet: bytes,
        attachments: Iterable[bytes] = (),
        lane: int = 1,
        key: int = 0,
    ) -> bool:
        """Queue a Socket.IO packet for a channel; the hub adds the namespace.

        Args:
            packet: For the default parser text as it stands in a message of Engine.IO, without the namespace:
                ``42["event",…]``, ``4312[…]``, ``451-["event",{"_placeholder":true,"num":0}]``, ``41``. For
                the msgpack parser a map without ``nsp``, whose head counts it.
            attachments: Bytes, each sent as a message behind it; of the default parser.

        Returns:
            As ``send``; False for what is no channel.
        """

    def set_channel_codes(self, codes: Iterable[int]) -> None:
        """Set the close codes that end a channel alone, by a DISCONNECT; all others close its transport.

        Where a transport is closed with one of them its channels get their DISCONNECT before.
        """

    def set_event_names(self, names: Mapping[int, str]) -> None:
        """Set the names of the events that native packets in msgpack call by a code."""

    def set_converter(self, converter: Callable[[bytes], tuple[bytes, tuple[bytes, ...]]] | None) -> None:
        """Set what renders a native JSON packet whose keys may begin with ``$``.

        Args:
            converter: Called with the packet, returns the Socket.IO packet as ``send_rendered`` takes it
                and its attachments. It must not raise and cannot call the hub. None: such keys are sent as
                they are.
        """

    def topic_channels(self, topic: int) -> tuple[int, int]:
        """How many members are channels, of the default and of the msgpack parser.

        ``topic_members`` counts them, too.
        """

    def topic_handles(self, topic: int) -> list[int]:
        """The handles of a topic's members. **Cost**: O(members)."""

    def set_engine_heartbeat_rules(
        self, interval_ms: int = 15_000, timeout_ms: int = 10_000, min_ms: int = 5_000
    ) -> None:
        """Set what holds for the heartbeats of all transports of Engine.IO.

        Args:
            interval_ms: The announced one, which none exceeds.
            timeout_ms: The announced one: a transport that is silent for so long after a ping is closed
                with the ``close_code`` of ``set_heartbeat_rules``.
            min_ms: The shortest interval, for those whose round trips are slow; at most ``interval_ms``.
        """

    def is_expired(self, handle: int, now_ns: int) -> bool:
        """Whether a transport's time to answer a ping is over, or it is gone.

        The verdict need not wait for a tick.
        """
    # -- one connection
    def alive(self, handle: int) -> bool: ...
    def owner(self, handle: int) -> object | None: ...
    def peer(self, handle: int) -> str: ...
    def set_peer(self, handle: int, peer: str) -> bool: ...
    def is_pending(self, handle: int) -> bool: ...
    def pending_at(self, peer: str) -> int: ...
    def within(self, network: str) -> list[object]: ...
    def authenticated(self, handle: int) -> bool: ...
    def charge(self, handle: int, packets: int) -> bool: ...
    def set_packet_rate(self, tier: int, per_second: int) -> None: ...
    def configure(
        self,
        handle: int,
        *,
        batch: bool | None = None,
        outbox_bytes: int | None = None,
        tier: int | None = None,
    ) -> bool: ...
    def admit(self, handle: int, tier: int) -> bool: ...
    def dismiss(self, handle: int) -> bool: ...
    def idlest(self, tier: int) -> int: ...
    @property
    def admitted(self) -> tuple[int, int, int]: ...
    def send(self, handle: int, packet: bytes, lane: int = 1, key: int = 0) -> bool: ...
    def send_many(
        self,
        handles: Iterable[int],
        json: bytes | None,
        msgpack: bytes | None,
        lane: int = 1,
        key: int = 0,
        *,
        sio_json: _Rendered | None = None,
        sio_msgpack: _Rendered | None = None,
        offset: bytes = b"",
    ) -> int: ...
    def send_message(self, handle: int, payload: bytes, binary: bool) -> bool: ...
    def ping(self, handle: int, payload: bytes = b"") -> bool: ...
    def close(self, handle: int, code: int, reason: str, now_ns: int) -> bool: ...
    def abort(self, handle: int) -> bool: ...
    def set_timer(self, handle: int, at_ns: int) -> bool: ...
    # -- the heartbeat
    @property
    def round_trips(self) -> Histogram: ...
    def set_heartbeat_rules(
        self,
        *,
        min_ms: int = 10_000,
        max_ms: int = 60_000,
        timeout_ns: int = 10_000_000_000,
        misses: int = 3,
        fast_ns: int = 50_000_000,
        slow_ns: int = 200_000_000,
        close_code: int = 4009,
    ) -> None: ...
    def set_heartbeat(self, handle: int, interval_ms: int, now_ns: int) -> bool: ...
    def set_slow_heartbeat(self, handle: int, slow: bool) -> bool: ...
    def round_trip_ns(self, handle: int) -> int: ...
    def heartbeat_interval_ms(self, handle: int) -> int: ...
    def heartbeat_stats(self) -> dict[str, int]: ...
    # -- more of one connection
    def last_received_ns(self, handle: int) -> int: ...
    def pause(self, handle: int) -> bool: ...
    def resume(self, handle: int) -> bool: ...
    def queued_bytes(self, handle: int) -> int: ...
    def is_behind(self, handle: int) -> bool: ...
    def unsent_bytes(self, handle: int) -> int: ...
    def want_drained(self, handle: int) -> bool: ...
    # -- topics
    def create_topic(self) -> int: ...
    def drop_topic(self, topic: int) -> None: ...
    def subscribe(self, topic: int, handle: int) -> bool: ...
    def unsubscribe(self, topic: int, handle: int) -> bool: ...
    def topic_members(self, topic: int) -> tuple[int, int]: ...
    def publish(
        self,
        topic: int,
        json: bytes | None,
        msgpack: bytes | None,
        exclude: int = 0,
        lane: int = 1,
        key: int = 0,
        *,
        sio_json: _Rendered | None = None,
        sio_msgpack: _Rendered | None = None,
        offset: bytes = b"",
    ) -> int: ...
    # -- what there is
    def pools_clean(self) -> bool: ...
    def shed_low(self, on: bool) -> None: ...
    def stats(self) -> dict[str, int]: ...
    @property
    def connections(self) -> int: ...
