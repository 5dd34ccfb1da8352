# cython: auto_pickle=False, autotestdict=False
"""The session table: who is connected or may come back; see sessions.pyi.

All sessions live equally long from their detaching or touching, so the list in order of use is also the list
in order of expiry: the oldest one is the first to go for either reason, and everything is O(1).
"""

cimport cython
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t

from enum import IntEnum

from fastim._core.keytable cimport NO_ROW, KeyTable


class EndReason(IntEnum):
    EVICTED = 1
    EXPIRED = 2


cdef object _evicted = EndReason.EVICTED
cdef object _expired = EndReason.EXPIRED


# Destructors of the caller's data may call back into the table: a method that drops a reference holds it in a
# local variable until the table is whole again, and allocates no container while it holds a row's number.
# no_gc_clear: the collector must not take the lists away from a table that such a destructor may still use.
@cython.final
@cython.no_gc_clear
cdef class SessionTable(KeyTable):

    def __cinit__(self, uint32_t capacity, uint64_t life_ns, *, bytes hash_key=None):
        self.keys = []
        self.data = []
        self.ended = []
        self.oldest = self.newest = NO_ROW
        self.capacity = capacity
        self.life_ns = life_ns
        self.setup(sizeof(SessionRow), hash_key)

    @property
    def live_count(self):
        return self.live

    @property
    def detached_count(self):
        return self.count - self.live

    @property
    def data_bytes(self):
        return self.data_bytes_total

    def put(self, str key not None, data, uint64_t now_ns, uint32_t data_bytes=0):
        cdef uint64_t digest = 0
        cdef uint32_t number = self.seek(key, now_ns)
        if number == NO_ROW:
            self.digest(key, &digest)
            self.keys.append(key)
            try:
                self.data.append(data)
                number = self.insert_row(digest)
            except MemoryError:
                del self.data[self.count:]
                self.keys.pop()
                raise
        else:
            if self.session(number).live:
                self.live -= 1
            else:
                self.unlink(number)
            _previous, self.data[number] = self.data[number], data
        self.session(number).live = True
        self.live += 1
        self.set_size(number, data_bytes)
        self.session(number).lease = self.renew(number)
        return self.session(number).lease

    def get(self, str key not None, uint64_t now_ns):
        cdef uint32_t number = self.seek(key, now_ns)
        if number == NO_ROW:
            return None
        return self.data[number], self.session(number).version

    def is_live(self, str key not None, uint64_t now_ns):
        cdef uint32_t number = self.seek(key, now_ns)
        return number != NO_ROW and self.session(number).live != 0

    def replace(self, str key not None, data, uint64_t version, uint64_t now_ns, uint32_t data_bytes=0):
        cdef uint32_t number = self.seek(key, now_ns)
        cdef uint64_t renewed
        if number == NO_ROW or self.session(number).version != version:
            return 0
        self.set_size(number, data_bytes)
        renewed = self.renew(number)
        _previous, self.data[number] = self.data[number], data
        return renewed

    def attach(self, str key not None, uint64_t now_ns):
        cdef uint32_t number = self.seek(key, now_ns)
        if number == NO_ROW:
            return None
        if not self.session(number).live:
            self.unlink(number)
            self.session(number).live = True
            self.live += 1
        self.session(number).lease = self.renew(number)
        return self.data[number], self.session(number).lease

    def detach(self, str key not None, uint64_t lease, uint64_t now_ns):
        cdef uint32_t number = self.seek(key, now_ns)
        if number == NO_ROW or not self.session(number).live or self.session(number).lease != lease:
            return False
        self.session(number).live = False
        self.live -= 1
        self.start_life(number)
        if self.capacity and self.count - self.live > self.capacity:
            self.end(self.oldest)
        return True

    def touch(self, str key not None, uint64_t now_ns):
        cdef uint32_t number = self.seek(key, now_ns)
        if number == NO_ROW:
            return False
        if not self.session(number).live:
            self.unlink(number)
            self.start_life(number)
        return True

    def remove(self, str key not None, uint64_t now_ns):
        cdef uint32_t number = self.seek(key, now_ns)
        if number == NO_ROW:
            return False
        _data = self.data[number]
        self.drop(number)
        return True

    def evict(self):
        if self.oldest == NO_ROW:
            return False
        self.end(self.oldest)
        return True

    def expire(self, uint64_t now_ns, uint32_t at_most=0):
        cdef uint32_t left = at_most if at_most else NO_ROW
        self.now_ns = max(self.now_ns, now_ns)
        while left and self.oldest != NO_ROW and self.expired(self.oldest):
            left -= 1
            self.end(self.oldest)
        ended, self.ended = self.ended, []
        return ended

    def next_expiry_ns(self):
        if self.ended:
            return max(self.now_ns, <uint64_t>1)
        if self.oldest == NO_ROW or not self.life_ns:
            return 0
        return self.session(self.oldest).deadline_ns

    def clear(self):
        _held = self.keys, self.data, self.ended
        self.keys, self.data, self.ended = [], [], []
        self.clear_rows()
        self.oldest = self.newest = NO_ROW
        self.live = 0
        self.data_bytes_total = 0

    cdef uint32_t seek(self, str key, uint64_t now_ns) except? 0xFFFFFFFE:
        """Return the row of a session that is there, NO_ROW otherwise; end it if its life is over."""
        cdef uint64_t digest = 0
        cdef uint32_t number
        self.digest(key, &digest)
        self.now_ns = max(self.now_ns, now_ns)
        number = self.find(digest, key)
        if number != NO_ROW and self.expired(number):
            self.end(number)
            return NO_ROW
        return number

    cdef uint64_t renew(self, uint32_t number) noexcept nogil:
        """Give the session a version that no session ever had, so that no earlier one can be taken for it."""
        self.last_version += 1
        self.session(number).version = self.last_version
        return self.last_version

    cdef void start_life(self, uint32_t number) noexcept nogil:
        cdef uint64_t life_ns = self.life_ns if self.life_ns else UINT64_MAX
        self.session(number).deadline_ns = self.now_ns + min(life_ns, UINT64_MAX - self.now_ns)
        self.link(number)

    cdef void link(self, uint32_t number) noexcept nogil:
        cdef SessionRow* row = self.session(number)
        row.older = self.newest
        row.newer = NO_ROW
        if self.newest == NO_ROW:
            self.oldest = number
        else:
            self.session(self.newest).newer = number
        self.newest = number

    cdef void unlink(self, uint32_t number) noexcept nogil:
        cdef SessionRow* row = self.session(number)
        if row.older == NO_ROW:
            self.oldest = row.newer
        else:
            self.session(row.older).newer = row.newer
        if row.newer == NO_ROW:
            self.newest = row.older
        else:
            self.session(row.newer).older = row.older

    cdef void set_size(self, uint32_t number, uint32_t data_bytes) noexcept nogil:
        self.data_bytes_total += data_bytes
        self.data_bytes_total -= self.session(number).data_bytes
        self.session(number).data_bytes = data_bytes

    cdef bint expired(self, uint32_t number) noexcept nogil:
        cdef SessionRow* row = self.session(number)
        return self.life_ns != 0 and not row.live and row.deadline_ns <= self.now_ns

    cdef int end(self, uint32_t number) except -1:
        """Drop a session whose life is over, or that makes room, and keep it for the next `expire`."""
        reason = _expired if self.expired(number) else _evicted
        key = self.keys[number]
        data = self.data[number]
        self.drop(number)
        self.ended.append((key, data, reason))
        return 0

    cdef void drop(self, uint32_t number) noexcept:
        """Remove a session whose data the caller holds."""
        if self.session(number).live:
            self.live -= 1
        else:
            self.unlink(number)
        self.set_size(number, 0)
        self.remove_row(number)

    cdef bint same(self, uint32_t number, object key) noexcept:
        return <str>self.keys[number] == <str>key

    cdef void moved(self, uint32_t last, uint32_t number) noexcept:
        cdef SessionRow* row
        if last != number:
            self.keys[number] = self.keys[last]
            self.data[number] = self.data[last]
            row = self.session(number)
            if not row.live:
                if row.older == NO_ROW:
                    self.oldest = number
                else:
                    self.session(row.older).newer = number
                if row.newer == NO_ROW:
                    self.newest = number
                else:
                    self.session(row.newer).older = number
        self.keys.pop()
        self.data.pop()
