"""The heartbeat of Engine.IO's transports: the same loop with the protocol's packets, and its word kept.

The handshake announces an interval and a timeout. The client closes if no ping came within both together since the
last one, whatever else came, so a ping is due by when the last one was sent. It is gone with the first ping that is
not followed by anything within the timeout: at the latest both together after the last it was heard of. Pongs (``3``)
have no number; they come in order, so each answers the oldest ping that waits for one. Round trips move the interval
as they do elsewhere, between `min_ms` and what was announced.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastim._core cimport sockets
from fastim._core.heartbeat cimport Heartbeat, spread
from fastim._core.outbox cimport LANE_HIGH, Span
from fastim._core.slab cimport (
    DUE_HEARTBEAT,
    EARLIER_PINGS,
    IS_PAUSED,
    IS_THROTTLED,
    KIND_ENGINE,
    OPEN,
    PULSE_ANSWERED,
    PULSE_DOUBTED,
    PULSE_SLOW,
    PULSE_WAITING,
    Pulse,
    Row,
)

cdef enum:
    NS_PER_MS = 1_000_000
    LOOK_NS = 10_000_000  # a tick of the wheel
    STALL_NS = 100_000_000  # a verdict so late says that we were away
    LATE_NS = 80_000_000  # what the wheel's ticks and those of who polls add to a ping and to its verdict, at most


@cython.no_gc_clear
cdef class EngineHeartbeat(Heartbeat):
    """Pings Engine.IO's transports and ends those that are silent."""

    def __cinit__(self):
        self.engine_rules = EngineRules(15_000, 5_000, 10_000 * <int64_t>NS_PER_MS)

    def set_engine_heartbeat_rules(
        self, uint32_t interval_ms=15_000, uint32_t timeout_ms=10_000, uint32_t min_ms=5_000
    ):
        """Set what holds for the heartbeats of all transports of Engine.IO.

        Args:
            interval_ms: The announced one, which none exceeds.
            timeout_ms: The announced one: a transport that is silent for so long after a ping is closed with the
                `close_code` of ``set_heartbeat_rules``.
            min_ms: The shortest interval, for those whose round trips are slow; at most `interval_ms`.

        Raises:
            ValueError: no rules that can be kept.
        """
        if not 0 < min_ms <= interval_ms:
            raise ValueError("min_ms must be within 1 and interval_ms")
        if not timeout_ms:
            raise ValueError("timeout_ms must be positive")
        self.engine_rules = EngineRules(interval_ms, min_ms, timeout_ms * <int64_t>NS_PER_MS)

    def is_expired(self, handle, int64_t now_ns):
        """Whether a transport's time to answer a ping is over, or it is gone: its verdict need not wait for a tick.

        One that was closed for something else, and has its last packets to send, has not expired.
        """
        cdef Row *row = self._row(handle)
        return row == NULL or self._is_overdue(row, now_ns)

    cdef bint _is_overdue(self, const Row *row, int64_t now_ns) noexcept:
        cdef int64_t unheard_ns = self._unheard_ns(row)
        return unheard_ns != 0 and now_ns >= unheard_ns + self.engine_rules.timeout_ns

    cdef int64_t _unheard_ns(self, const Row *row) noexcept:
        """When the first ping was sent behind which nothing came; 0: there is none."""
        cdef const Pulse *pulse = &row.pulse
        cdef int place
        if not pulse.flags & PULSE_WAITING or row.received_ns >= pulse.pinged_ns:
            return 0
        for place in range(EARLIER_PINGS - 1, -1, -1):
            if pulse.earlier_ns[place] > row.received_ns:
                return pulse.earlier_ns[place]
        return pulse.pinged_ns

    cdef uint32_t _clamp(self, const Row *row, uint64_t interval_ms) noexcept:
        if not row.kind & KIND_ENGINE:
            return Heartbeat._clamp(self, row, interval_ms)
        if interval_ms < self.engine_rules.min_ms:
            return self.engine_rules.min_ms
        return <uint32_t>min(interval_ms, self.engine_rules.interval_ms)

    cdef uint32_t _rhythm_ms(self, const Row *row) noexcept:
        if row.kind & KIND_ENGINE and row.pulse.flags & PULSE_SLOW:
            return self.engine_rules.interval_ms
        return Heartbeat._rhythm_ms(self, row)

    cdef int64_t _next_ping_ns(self, const Row *row) noexcept:
        """An interval after the last ping, less the spread of ``set_heartbeat`` and what ticks may add."""
        cdef int64_t wait_ns
        if not row.kind & KIND_ENGINE:
            return Heartbeat._next_ping_ns(self, row)
        wait_ns = self._rhythm_ms(row) * <int64_t>NS_PER_MS
        wait_ns -= (wait_ns >> 16) * <int64_t>(spread(row.slot) >> 16) >> (3 if row.pulse.number else 1)
        return row.pulse.pinged_ns + max(wait_ns - LATE_NS, wait_ns >> 1)

    cdef int _beat(self, Row *row) except -1:
        if not row.kind & KIND_ENGINE:
            return Heartbeat._beat(self, row)
        if row.state != OPEN or not row.pulse.interval_ms:
            return 0
        if row.flags & (IS_PAUSED | IS_THROTTLED):
            self._forget_pings(row)  # it is not read: pings go on, but there is no verdict
        if self._is_overdue(row, self.now_ns):
            return self._judge_engine(row)
        if self._next_ping_ns(row) <= self.now_ns:
            return self._send_ping(row)
        return self._schedule_beat(row)

    cdef int _schedule_beat(self, Row *row) except -1:
        """Look again when the next ping is due, or a verdict."""
        cdef int64_t at_ns = self._next_ping_ns(row)
        cdef int64_t unheard_ns = self._unheard_ns(row)
        if unheard_ns:
            at_ns = min(at_ns, unheard_ns + self.engine_rules.timeout_ns)
        return self._schedule(row, DUE_HEARTBEAT, at_ns)

    cdef int _judge_engine(self, Row *row) except -1:
        """A ping's time is over: end the transport, if it is no fault of ours."""
        cdef Pulse *pulse = &row.pulse
        cdef int unread = 0
        if row.fd >= 0 and sockets.ioctl(row.fd, sockets.FIONREAD, &unread) < 0:
            unread = 0
        if unread:
            return self._schedule(row, DUE_HEARTBEAT, self.now_ns + LOOK_NS)
        if not pulse.flags & PULSE_DOUBTED and self._is_overdue(row, self.now_ns - STALL_NS):
            # What came meanwhile over TLS, or in a POST, is not here yet.
            pulse.flags |= PULSE_DOUBTED
            return self._schedule(row, DUE_HEARTBEAT, self.now_ns + STALL_NS)
        self.missed_count += 1
        return self._end_silent(row)

    cdef int _send_ping(self, Row *row) except -1:
        cdef Pulse *pulse = &row.pulse
        cdef int64_t oldest_ns = pulse.earlier_ns[EARLIER_PINGS - 1]
        cdef Span span
        if not row.kind & KIND_ENGINE:
            return Heartbeat._send_ping(self, row)
        self._note_ping(row)
        if oldest_ns:
            pulse.earlier_ns[EARLIER_PINGS - 1] = oldest_ns  # the verdict is that one's
        self._schedule_beat(row)
        self.framer.message(row.kind, False, b"2", &span)
        self._push(row, LANE_HIGH, &span)
        return self._end_slow() if self.slow.count else 0

    cdef int _engine_pong(self, Row *row) except -1:
        """Take a pong; one that nobody asked for is thrown away."""
        cdef Pulse *pulse = &row.pulse
        cdef int64_t sent_ns
        cdef int place
        if not pulse.interval_ms:
            return 0
        for place in range(EARLIER_PINGS - 1, -1, -1):
            if pulse.earlier_ns[place]:
                sent_ns = pulse.earlier_ns[place]
                pulse.earlier_ns[place] = 0
                self._measured(row, sent_ns)
                return 0
        if pulse.flags & PULSE_ANSWERED:
            return 0
        self._measured(row, pulse.pinged_ns)
        self._adapt(row)
        self._forget_pings(row)
        return self._schedule_beat(row)
