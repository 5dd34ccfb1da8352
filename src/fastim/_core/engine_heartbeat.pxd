"""The heartbeat of Engine.IO's transports; see engine_heartbeat.pyx for its rules."""

from libc.stdint cimport int64_t, uint32_t

from fastim._core.heartbeat cimport Heartbeat
from fastim._core.slab cimport Row

cdef struct EngineRules:
    uint32_t interval_ms  # announced: none is longer
    uint32_t min_ms
    int64_t timeout_ns  # announced: for a byte after a ping


cdef class EngineHeartbeat(Heartbeat):
    cdef EngineRules engine_rules

    cdef int _judge_engine(self, Row *row) except -1
    cdef bint _is_overdue(self, const Row *row, int64_t now_ns) noexcept
    cdef int64_t _unheard_ns(self, const Row *row) noexcept
    cdef int _schedule_beat(self, Row *row) except -1
    cdef int _engine_pong(self, Row *row) except -1
