"""The C interface of the session table; see sessions.pyi for what it does."""

from cython cimport final
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastim._core.keytable cimport KeyTable


cdef struct SessionRow:  # 48 bytes
    uint64_t digest
    uint64_t version
    uint64_t lease
    uint64_t deadline_ns  # of a detached session
    uint32_t older        # neighbours in the list of detached sessions
    uint32_t newer
    uint32_t data_bytes
    uint8_t live


@final
cdef class SessionTable(KeyTable):
    cdef list keys     # by row number, as is data
    cdef list data
    cdef list ended    # (key, data, reason), until `expire` hands them out
    cdef uint32_t oldest
    cdef uint32_t newest
    cdef uint32_t capacity
    cdef uint32_t live
    cdef uint64_t life_ns
    cdef uint64_t now_ns
    cdef uint64_t last_version
    cdef uint64_t data_bytes_total

    cdef inline SessionRow* session(self, uint32_t number) noexcept nogil:
        return <SessionRow*>self.row(number)

    cdef uint32_t seek(self, str key, uint64_t now_ns) except? 0xFFFFFFFE
    cdef uint64_t renew(self, uint32_t number) noexcept nogil
    cdef void start_life(self, uint32_t number) noexcept nogil
    cdef void link(self, uint32_t number) noexcept nogil
    cdef void unlink(self, uint32_t number) noexcept nogil
    cdef void set_size(self, uint32_t number, uint32_t data_bytes) noexcept nogil
    cdef bint expired(self, uint32_t number) noexcept nogil
    cdef int end(self, uint32_t number) except -1
    cdef void drop(self, uint32_t number) noexcept
