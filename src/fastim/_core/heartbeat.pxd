"""The heartbeat's C interface; see heartbeat.pyx for its rules."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastim._core.histogram cimport Histogram
from fastim._core.sender cimport Sender
from fastim._core.slab cimport Row

cdef struct HeartbeatRules:
    uint32_t min_ms
    uint32_t max_ms
    uint32_t misses  # in a row that end a connection
    int64_t timeout_ns  # for a byte after a ping
    int64_t fast_ns  # a shorter round trip makes the interval longer
    int64_t slow_ns  # this one and longer ones make it shorter
    uint16_t close_code


cdef enum:
    # 2**32 / golden ratio: its multiples, as fractions of a whole, fill a circle evenly (Knuth, TAOCP 6.4).
    GOLDEN = 2_654_435_769


cdef inline uint64_t spread(uint32_t slot) noexcept nogil:
    """A fraction of 2**32: neighbouring slots lie far apart, any run of slots covers all of it evenly."""
    return <uint32_t>(slot * <uint64_t>GOLDEN)


cdef class Heartbeat(Sender):
    cdef HeartbeatRules heartbeat
    cdef readonly Histogram round_trips
    cdef size_t ping_count
    cdef size_t missed_count
    cdef size_t lost_count

    cdef uint32_t _clamp(self, const Row *row, uint64_t interval_ms) noexcept
    cdef uint32_t _rhythm_ms(self, const Row *row) noexcept
    cdef int _beat(self, Row *row) except -1
    cdef int _beat_held(self, Row *row) except -1
    cdef int _judge(self, Row *row) except -1
    cdef int _miss(self, Row *row) except -1
    cdef int _end_silent(self, Row *row) except -1
    cdef void _note_ping(self, Row *row) noexcept
    cdef int _send_ping(self, Row *row) except -1
    cdef int64_t _next_ping_ns(self, const Row *row) noexcept
    cdef bint _pong(self, Row *row, const uint8_t *p, size_t n) except -1
    cdef void _measured(self, Row *row, int64_t sent_ns) noexcept
    cdef void _adapt(self, Row *row) noexcept
    cdef int _pause(self, Row *row) except -1
    cdef void _forget_pings(self, Row *row) noexcept
