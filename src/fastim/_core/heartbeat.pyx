"""The heartbeat: how a connection is found to be gone, and how long its round trip is.

One deadline of a row carries its only ping loop; there is no object for it, and nothing of it outlives the state
OPEN. A connection is pinged when it has been silent for its interval, and at the latest the longest interval after
the last ping, so that the peer too hears something in time and a busy connection's round trip is known.

Each ping carries a number and is timed by our clock alone: a pong counts for the ping whose number it brings, once,
however late. Other bytes prove life but are no round trip. What a round trip, or a miss, does to the interval:

    below `fast_ns`    × 1.2
    from `slow_ns` on  × 0.8
    missed             × 0.5; the last of `misses` in a row ends the connection

A ping is missed when no byte came within `timeout_ns`. The verdict is careful with what is our own fault: a process
that was stopped, or a loop that was busy, finds the deadline over and the answers unread. So bytes that wait in the
socket count as life, a verdict needs a second look, and a connection that is not read at the moment is not judged.
"""

cimport cython
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from fastim._core cimport sockets
from fastim._core.frames cimport OP_PING, valid_close_code
from fastim._core.sender cimport Sender
from fastim._core.slab cimport (
    DUE_HEARTBEAT,
    EARLIER_PINGS,
    IS_PAUSED,
    IS_THROTTLED,
    KIND_CHANNEL,
    OPEN,
    PULSE_ANSWERED,
    PULSE_DOUBTED,
    PULSE_SLOW,
    PULSE_WAITING,
    Pulse,
    Row,
    carrier_of,
    find,
)

cdef enum:
    NS_PER_MS = 1_000_000
    NS_PER_US = 1_000
    SECOND_LOOK_NS = 100_000_000
    PAYLOAD_BYTES = 4


@cython.no_gc_clear
cdef class Heartbeat(Sender):
    """Pings what is silent and ends what does not answer."""

    def __cinit__(self):
        self.heartbeat = HeartbeatRules(
            10_000, 60_000, 3, 10_000_000_000, 50 * <int64_t>NS_PER_MS, 200 * <int64_t>NS_PER_MS, 4009
        )
        self.round_trips = Histogram("From a WebSocket ping to its pong.")

    def set_heartbeat_rules(
        self,
        *,
        uint32_t min_ms=10_000,
        uint32_t max_ms=60_000,
        int64_t timeout_ns=10_000_000_000,
        uint32_t misses=3,
        int64_t fast_ns=50_000_000,
        int64_t slow_ns=200_000_000,
        uint16_t close_code=4009,
    ):
        """Set what holds for the heartbeats of all connections.

        Args:
            min_ms, max_ms: Bounds of the interval.
            timeout_ns: A ping is missed when no byte came for so long.
            misses: So many in a row end the connection, with `close_code`; at most 255.
            fast_ns, slow_ns: A shorter round trip makes the interval longer; this and longer ones, shorter.

        Raises:
            ValueError: no rules that can be kept.
        """
        if not 0 < min_ms <= max_ms:
            raise ValueError("min_ms must be within 1 and max_ms")
        if timeout_ns <= 0 or not 0 < misses <= 255:
            raise ValueError("timeout_ns must be positive, misses within 1 and 255")
        if not 0 <= fast_ns <= slow_ns:
            raise ValueError("fast_ns must be within 0 and slow_ns")
        if not valid_close_code(close_code):
            raise ValueError("not a code that a close frame may carry")
        self.heartbeat = HeartbeatRules(min_ms, max_ms, misses, timeout_ns, fast_ns, slow_ns, close_code)

    def set_heartbeat(self, handle, uint32_t interval_ms, int64_t now_ns):
        """Begin a connection's heartbeat, or set its interval anew; 0 ends it. False if the connection is gone.

        Silence of a little less than the interval leads to a ping, by the row's number: an eighth less at the most,
        of the first ping a half. So connections that came, or spoke, together are not pinged together.
        """
        cdef Row *row = self._row(handle)
        cdef bint on
        if row == NULL or row.state != OPEN:
            return False
        if row.kind & KIND_CHANNEL:
            return True  # its transport has one
        on = row.pulse.interval_ms != 0
        if not interval_ms:
            memset(&row.pulse, 0, sizeof(Pulse))
            self._schedule(row, DUE_HEARTBEAT, 0)
            return True
        row.pulse.interval_ms = self._clamp(row, interval_ms)
        if not on:
            row.pulse.pinged_ns = now_ns
            row.pulse.flags |= PULSE_ANSWERED
        if not row.pulse.flags & PULSE_WAITING:
            self._schedule(row, DUE_HEARTBEAT, self._next_ping_ns(row))
        return True

    def set_slow_heartbeat(self, handle, bint slow):
        """Whether the interval is the longest, whatever the round trips: for a client in the background.

        False if the connection is gone.
        """
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN:
            return False
        row = carrier_of(self.slab, row)
        row.pulse.flags = row.pulse.flags & ~PULSE_SLOW | (PULSE_SLOW if slow else 0)
        if row.pulse.interval_ms and not row.pulse.flags & PULSE_WAITING:
            self._schedule(row, DUE_HEARTBEAT, self._next_ping_ns(row))
        return True

    def round_trip_ns(self, handle):
        """The latest round trip of a ping, in whole microseconds; 0: none is known, or it is gone.

        **Thread**: any; a row never moves, and who holds the GIL sees it whole.
        """
        cdef Row *row = find(self.slab, <uint64_t>handle)
        if row != NULL:
            row = carrier_of(self.slab, row)
        return <int64_t>row.pulse.round_trip_us * NS_PER_US if row != NULL else 0

    def heartbeat_interval_ms(self, handle):
        """The interval as it is now; 0: there is no heartbeat, or the connection is gone."""
        cdef Row *row = self._row(handle)
        if row != NULL:
            row = carrier_of(self.slab, row)
        return self._rhythm_ms(row) if row != NULL and row.pulse.interval_ms else 0

    cdef uint32_t _rhythm_ms(self, const Row *row) noexcept:
        """The interval that holds now."""
        return self.heartbeat.max_ms if row.pulse.flags & PULSE_SLOW else row.pulse.interval_ms

    def heartbeat_stats(self):
        """Counters since the start: pings, those missed, and connections lost by them."""
        return {
            "pings_total": self.ping_count,
            "missed_total": self.missed_count,
            "lost_total": self.lost_count,
        }

    cdef uint32_t _clamp(self, const Row *row, uint64_t interval_ms) noexcept:
        if interval_ms < self.heartbeat.min_ms:
            return self.heartbeat.min_ms
        return <uint32_t>min(interval_ms, self.heartbeat.max_ms)

    cdef int _beat(self, Row *row) except -1:
        """The heartbeat's deadline has passed: judge the ping that is out, send the next if it is time."""
        cdef Pulse *pulse = &row.pulse
        cdef int64_t next_ns
        if row.state != OPEN or not pulse.interval_ms:
            return 0
        if row.flags & (IS_PAUSED | IS_THROTTLED):
            return self._beat_held(row)
        if row.received_ns >= pulse.pinged_ns:
            pulse.flags &= ~PULSE_WAITING
            pulse.misses = 0
        if pulse.flags & PULSE_WAITING and not self._judge(row):
            return 0
        next_ns = self._next_ping_ns(row)
        if next_ns <= self.now_ns:
            return self._send_ping(row)
        return self._schedule(row, DUE_HEARTBEAT, next_ns)

    cdef int _beat_held(self, Row *row) except -1:
        """The connection is not read: the peer must hear something, but what it says counts only later."""
        cdef int64_t longest_ns = self.heartbeat.max_ms * <int64_t>NS_PER_MS
        if self.now_ns >= row.pulse.pinged_ns + longest_ns:
            self._send_ping(row)
            if row.state != OPEN:
                return 0
        self._forget_pings(row)
        return self._schedule(
            row, DUE_HEARTBEAT, min(self.now_ns + self.heartbeat.timeout_ns, row.pulse.pinged_ns + longest_ns)
        )

    cdef int _judge(self, Row *row) except -1:
        """Whether the verdict on the ping that is out is spoken, and the connection lives on."""
        cdef Pulse *pulse = &row.pulse
        cdef int unread = 0
        if self.now_ns < pulse.pinged_ns + self.heartbeat.timeout_ns:
            self._schedule(row, DUE_HEARTBEAT, pulse.pinged_ns + self.heartbeat.timeout_ns)
            return 0
        if row.fd >= 0 and sockets.ioctl(row.fd, sockets.FIONREAD, &unread) < 0:
            unread = 0
        if unread or not pulse.flags & PULSE_DOUBTED:
            pulse.flags |= PULSE_DOUBTED
            self._schedule(row, DUE_HEARTBEAT, self.now_ns + SECOND_LOOK_NS)
            return 0
        return self._miss(row)

    cdef int _miss(self, Row *row) except -1:
        """Count a ping as missed; returns whether the connection lives on."""
        cdef Pulse *pulse = &row.pulse
        pulse.flags &= ~PULSE_WAITING
        pulse.misses += 1
        self.missed_count += 1
        if pulse.misses < self.heartbeat.misses:
            pulse.interval_ms = self._clamp(row, pulse.interval_ms // 2)
            return 1
        return self._end_silent(row)

    cdef int _end_silent(self, Row *row) except -1:
        self.lost_count += 1
        self._begin_close(row, self.heartbeat.close_code, "heartbeat lost")
        return 0

    cdef void _note_ping(self, Row *row) noexcept:
        """A ping is sent now."""
        cdef Pulse *pulse = &row.pulse
        cdef int place
        for place in range(EARLIER_PINGS - 1, 0, -1):
            pulse.earlier_ns[place] = pulse.earlier_ns[place - 1]
        pulse.earlier_ns[0] = 0 if pulse.flags & PULSE_ANSWERED else pulse.pinged_ns
        pulse.number += 1
        pulse.pinged_ns = self.now_ns
        pulse.flags = pulse.flags & ~(PULSE_ANSWERED | PULSE_DOUBTED) | PULSE_WAITING
        self.ping_count += 1

    cdef int _send_ping(self, Row *row) except -1:
        cdef Pulse *pulse = &row.pulse
        cdef uint8_t payload[PAYLOAD_BYTES]
        cdef int place
        self._note_ping(row)
        for place in range(PAYLOAD_BYTES):
            payload[place] = <uint8_t>(pulse.number >> (8 * (PAYLOAD_BYTES - 1 - place)))
        self._schedule(row, DUE_HEARTBEAT, self.now_ns + self.heartbeat.timeout_ns)
        return self._send_control(row, OP_PING, payload, PAYLOAD_BYTES)

    cdef int64_t _next_ping_ns(self, const Row *row) noexcept:
        """When the next ping is due, as it looks now."""
        cdef const Pulse *pulse = &row.pulse
        cdef uint64_t wait_ms = self._rhythm_ms(row)
        # Between two pings of which the first was missed lies an interval too.
        cdef int64_t silent_from_ns = pulse.pinged_ns if pulse.misses else row.received_ns
        wait_ms -= (wait_ms * spread(row.slot) >> 32) >> (3 if pulse.number else 1)
        return min(
            silent_from_ns + <int64_t>wait_ms * NS_PER_MS,
            pulse.pinged_ns + self.heartbeat.max_ms * <int64_t>NS_PER_MS,
        )

    cdef bint _pong(self, Row *row, const uint8_t *p, size_t n) except -1:
        """Take a pong; returns whether it answers a ping of the heartbeat."""
        cdef Pulse *pulse = &row.pulse
        cdef uint32_t number, back
        cdef int64_t sent_ns
        if n != PAYLOAD_BYTES or not pulse.interval_ms:
            return False
        number = <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]
        back = pulse.number - number
        if back > EARLIER_PINGS:
            return False
        if back:
            sent_ns = pulse.earlier_ns[back - 1]
            if not sent_ns:
                return False
            pulse.earlier_ns[back - 1] = 0
            pulse.misses = 0
            self._measured(row, sent_ns)
            return True
        if pulse.flags & PULSE_ANSWERED:
            return False
        self._measured(row, pulse.pinged_ns)
        if pulse.flags & PULSE_WAITING:  # a miss has changed the interval already
            self._adapt(row)
        self._forget_pings(row)
        pulse.misses = 0
        self._schedule(row, DUE_HEARTBEAT, self._next_ping_ns(row))
        return True

    cdef void _measured(self, Row *row, int64_t sent_ns) noexcept:
        # By when the bytes came, which may have waited here for their turn
        cdef int64_t round_trip_ns = max(<int64_t>0, row.received_ns - sent_ns)
        cdef int64_t us = max(<int64_t>1, round_trip_ns // NS_PER_US)
        row.pulse.round_trip_us = <uint32_t>min(us, <int64_t>UINT32_MAX)
        self.round_trips.c_observe(round_trip_ns)

    cdef void _adapt(self, Row *row) noexcept:
        cdef Pulse *pulse = &row.pulse
        cdef int64_t round_trip_ns = row.received_ns - pulse.pinged_ns
        if round_trip_ns < self.heartbeat.fast_ns:
            pulse.interval_ms = self._clamp(row, <uint64_t>pulse.interval_ms * 6 // 5)
        elif round_trip_ns >= self.heartbeat.slow_ns:
            pulse.interval_ms = self._clamp(row, <uint64_t>pulse.interval_ms * 4 // 5)

    cdef int _pause(self, Row *row) except -1:
        """Read a connection no further until ``_resume``; what it says meanwhile counts only then."""
        if not row.flags & IS_PAUSED:
            row.flags |= IS_PAUSED
            self._forget_pings(row)
            self._interest(row)
        return 0

    cdef void _forget_pings(self, Row *row) noexcept:
        """No pong is a round trip, and none is missed, until the next ping."""
        row.pulse.flags = row.pulse.flags & ~PULSE_WAITING | PULSE_ANSWERED
        memset(row.pulse.earlier_ns, 0, sizeof(row.pulse.earlier_ns))
