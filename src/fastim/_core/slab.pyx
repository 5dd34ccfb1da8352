"""The slab of connections.

A row is a slot of a chunk that is never moved or freed, so a pointer to it stays good. A handle is the slot and
the generation it had; the generation changes when a row is given back, so that a handle kept too long finds
nothing instead of the connection that came after (2,147,483,648 uses of a slot later it would).
"""

cimport cython
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset


@cython.final
@cython.no_gc_clear
cdef class Slab:
    """Rows for connections; the owner of their memory, not of what they point to."""

    def __cinit__(self):
        memset(self.chunks, 0, sizeof(self.chunks))
        self.capacity = 0
        self.used = 0
        self.free_head = NO_SLOT

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.capacity // ROWS_A_CHUNK):
            free(self.chunks[i])

    cdef Row *take(self) except NULL:
        """A zeroed row with a new generation.

        Raises:
            MemoryError: no memory, or 4,194,304 connections.
        """
        cdef Row *chunk
        cdef Row *row
        cdef uint32_t i
        if self.free_head == NO_SLOT:
            if self.capacity // ROWS_A_CHUNK == MAX_ROW_CHUNKS:
                raise MemoryError("the slab is full")
            chunk = <Row *>calloc(ROWS_A_CHUNK, sizeof(Row))
            if chunk == NULL:
                raise MemoryError()
            self.chunks[self.capacity // ROWS_A_CHUNK] = chunk
            for i in range(<uint32_t>ROWS_A_CHUNK):
                chunk[i].slot = self.capacity + i
                chunk[i].next = self.capacity + i + 1
            chunk[ROWS_A_CHUNK - 1].next = NO_SLOT
            self.free_head = self.capacity
            self.capacity += ROWS_A_CHUNK
        row = row_at(self, self.free_head)
        self.free_head = row.next
        row.generation += 1
        row.next = NO_SLOT
        row.fd = -1
        self.used += 1
        return row

    cdef void give_back(self, Row *row) noexcept:
        """Free a row; every handle to it is stale from now on. What it pointed to is the caller's to free."""
        cdef uint32_t slot = row.slot
        cdef uint32_t generation = row.generation
        memset(row, 0, sizeof(Row))
        row.slot = slot
        row.generation = generation + 1
        row.next = self.free_head
        self.free_head = slot
        self.used -= 1
