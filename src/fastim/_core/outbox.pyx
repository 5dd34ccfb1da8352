"""Outboxes: what waits to be sent, as slices of shared chunks.

A frame is written once, into the arena of its class (encoding, batch, deflate), and every recipient's outbox
gets a slice of it: a pointer, an offset and a size. Frames that follow each other in an arena extend the slice
that is there, so that k messages of a tick to one connection are one slice and one vector of its write.

A connection that stalls copies its slices (``privatize``) and pins no shared chunk. When a write ends inside a
frame, the rest of that frame becomes *begun*: it goes out before anything else and is never dropped.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.uio cimport iovec

from fastim._core.frames cimport FrameHeader, parse_header

cdef enum:
    SLICES_A_BLOCK = 1024
    FREE_CHUNKS_KEPT = 64
    PRIVATE_BYTES = 4096  # smallest private chunk
    MAX_FRAME_BYTES = 0x3FFFFFFF  # sizes are kept in 32 bits


@cython.final
@cython.no_gc_clear
cdef class Buffers:
    """The memory that all outboxes of a hub share.

    **Thread**: no locking; the hub's thread, which may have released the GIL.
    """

    def __cinit__(self):
        self.free_slices = NULL
        self.free_chunks = NULL
        self.free_chunk_count = 0
        self.chunk_bytes = 0
        self.slices_used = 0
        self.blocks = []

    def __dealloc__(self):
        cdef Chunk *chunk
        while self.free_chunks != NULL:
            chunk = self.free_chunks
            self.free_chunks = chunk.next_free
            free(chunk)
        if self.blocks is not None:
            for block in self.blocks:
                free(<void *><uintptr_t>block)

    cdef Chunk *new_chunk(self, size_t capacity, bint shared) except NULL nogil:
        """A chunk with one reference and room for `capacity` bytes."""
        cdef Chunk *chunk
        if shared and capacity == CHUNK_BYTES and self.free_chunks != NULL:
            chunk = self.free_chunks
            self.free_chunks = chunk.next_free
            self.free_chunk_count -= 1
        else:
            chunk = <Chunk *>malloc(sizeof(Chunk) + capacity)
            if chunk == NULL:
                with gil:
                    raise MemoryError()
            self.chunk_bytes += sizeof(Chunk) + capacity
            chunk.capacity = <uint32_t>capacity
            chunk.shared = shared
            chunk.data = <uint8_t *>(chunk + 1)
        chunk.refs = 1
        chunk.used = 0
        chunk.next_free = NULL
        return chunk

    cdef void release(self, Chunk *chunk) noexcept nogil:
        """Give one reference back."""
        chunk.refs -= 1
        if chunk.refs:
            return
        if chunk.shared and chunk.capacity == CHUNK_BYTES and self.free_chunk_count < FREE_CHUNKS_KEPT:
            chunk.next_free = self.free_chunks
            self.free_chunks = chunk
            self.free_chunk_count += 1
            return
        self.chunk_bytes -= sizeof(Chunk) + chunk.capacity
        free(chunk)

    cdef uint8_t *reserve(self, Chunk **arena, size_t size, Span *span) except NULL nogil:
        """Room for `size` bytes at the arena's end; a new chunk becomes the arena's where the old one is full.

        The span's count and framed are the caller's. What is larger than a chunk gets one of its own.
        """
        cdef Chunk *chunk = arena[0]
        if size > MAX_FRAME_BYTES:
            with gil:
                raise ValueError("larger than a frame may be")
        if chunk == NULL or chunk.used + size > chunk.capacity:
            chunk = self.new_chunk(size if size > CHUNK_BYTES else CHUNK_BYTES, True)
            if arena[0] != NULL:
                self.release(arena[0])
            arena[0] = chunk
        span.chunk = chunk
        span.offset = chunk.used
        span.size = <uint32_t>size
        chunk.used += <uint32_t>size
        return chunk.data + span.offset

    cdef void rewind(self, Chunk **arena) noexcept nogil:
        """The end of a tick: an arena that nobody refers to begins anew; an oversized one is given back."""
        cdef Chunk *chunk = arena[0]
        if chunk == NULL or chunk.refs > 1:
            return
        chunk.used = 0
        if chunk.capacity > CHUNK_BYTES:
            arena[0] = NULL
            self.release(chunk)

    cdef Slice *new_slice(self) except NULL nogil:
        cdef Slice *block
        cdef Slice *taken
        cdef int i
        if self.free_slices == NULL:
            block = <Slice *>malloc(SLICES_A_BLOCK * sizeof(Slice))
            if block == NULL:
                with gil:
                    raise MemoryError()
            with gil:
                self.blocks.append(<uintptr_t>block)
            for i in range(SLICES_A_BLOCK - 1, -1, -1):
                block[i].next = self.free_slices
                self.free_slices = &block[i]
        taken = self.free_slices
        self.free_slices = taken.next
        self.slices_used += 1
        return taken

    cdef void free_slice(self, Slice *slice) noexcept nogil:
        self.release(slice.chunk)
        slice.next = self.free_slices
        self.free_slices = slice
        self.slices_used -= 1

    cdef int push(self, Outbox *box, int lane, const Span *span) except -1 nogil:
        """Append a span to a lane. The caller has checked the bound."""
        cdef Slice *tail = box.lanes[lane].tail
        cdef Slice *added
        box.queued_bytes += span.size
        if (
            tail != NULL
            and tail.chunk == span.chunk
            and tail.offset + tail.size == span.offset
            and tail.framed == span.framed
            and (span.framed or (tail.count < MAX_BATCH_PACKETS and tail.size + span.size <= MAX_BATCH_BYTES))
        ):
            tail.size += span.size
            tail.count += span.count
            return 0
        added = self.new_slice()
        span.chunk.refs += 1
        added.chunk = span.chunk
        added.offset = span.offset
        added.size = span.size
        added.count = span.count
        added.framed = span.framed
        added.next = NULL
        if tail == NULL:
            box.lanes[lane].head = added
        else:
            tail.next = added
        box.lanes[lane].tail = added
        return 0

    cdef void drop_lane(self, Outbox *box, int lane) noexcept nogil:
        """Drop what a lane holds; nothing of it has begun."""
        cdef Slice *slice = box.lanes[lane].head
        cdef Slice *following
        while slice != NULL:
            following = slice.next
            box.queued_bytes -= slice.size
            self.free_slice(slice)
            slice = following
        box.lanes[lane].head = NULL
        box.lanes[lane].tail = NULL

    cdef void clear(self, Outbox *box) noexcept nogil:
        """Drop everything, also what has begun."""
        cdef int lane
        for lane in range(LANES):
            self.drop_lane(box, lane)
        free(box.begun)
        box.begun = NULL
        box.queued_bytes = 0

    cdef int begin_bytes(self, Outbox *box, const uint8_t *p, size_t n) except -1 nogil:
        """Append to what goes out before the lanes; counted as queued."""
        cdef Begun *begun = box.begun
        cdef size_t kept = begun.size - begun.offset if begun != NULL else 0
        cdef Begun *grown = <Begun *>malloc(sizeof(Begun) + kept + n)
        if grown == NULL:
            with gil:
                raise MemoryError()
        grown.offset = 0
        grown.size = <uint32_t>(kept + n)
        grown.capacity = grown.size
        grown.data = <uint8_t *>(grown + 1)
        if kept:
            memcpy(grown.data, begun.data + begun.offset, kept)
        memcpy(grown.data + kept, p, n)
        free(begun)
        box.begun = grown
        box.queued_bytes += <uint32_t>n
        return 0

    cdef int gather(self, Outbox *box, iovec *vectors, int limit) noexcept nogil:
        """Point vectors at the bytes to send, in order: begun, high, normal, low. Returns how many."""
        cdef int count = 0
        cdef int lane
        cdef Slice *slice
        if box.begun != NULL:
            vectors[0].iov_base = box.begun.data + box.begun.offset
            vectors[0].iov_len = box.begun.size - box.begun.offset
            count = 1
        for lane in range(LANES):
            slice = box.lanes[lane].head
            while slice != NULL and count < limit:
                vectors[count].iov_base = slice.chunk.data + slice.offset
                vectors[count].iov_len = slice.size
                count += 1
                slice = slice.next
        return count

    cdef int consume(self, Outbox *box, size_t sent) except -1 nogil:
        """`sent` bytes of what `gather` pointed at are gone; the rest of a cut frame becomes begun."""
        cdef size_t part
        cdef int lane
        cdef Slice *slice
        if box.begun != NULL:
            part = box.begun.size - box.begun.offset
            if sent < part:
                box.begun.offset += <uint32_t>sent
                box.queued_bytes -= <uint32_t>sent
                return 0
            sent -= part
            box.queued_bytes -= <uint32_t>part
            free(box.begun)
            box.begun = NULL
        for lane in range(LANES):
            slice = box.lanes[lane].head
            while slice != NULL:
                if sent < slice.size:
                    if sent:
                        self.cut(box, slice, sent)
                        if slice.size == 0:
                            self.pop(box, lane)
                    return 0
                sent -= slice.size
                box.queued_bytes -= slice.size
                slice.size = 0
                self.pop(box, lane)
                slice = box.lanes[lane].head
        return 0

    cdef void pop(self, Outbox *box, int lane) noexcept nogil:
        cdef Slice *slice = box.lanes[lane].head
        box.lanes[lane].head = slice.next
        if slice.next == NULL:
            box.lanes[lane].tail = NULL
        self.free_slice(slice)

    cdef int cut(self, Outbox *box, Slice *slice, size_t sent) except -1 nogil:
        """Take the first `sent` bytes off a slice, and the rest of the frame they end in to what has begun."""
        cdef uint8_t *p = slice.chunk.data + slice.offset
        cdef size_t end = 0
        cdef FrameHeader header
        header.length = 0
        while end < sent:
            end += parse_header(p + end, slice.size - end, &header)
            end += <size_t>header.length
        slice.offset += <uint32_t>end
        slice.size -= <uint32_t>end
        box.queued_bytes -= <uint32_t>end
        if end > sent:
            self.begin_bytes(box, p + sent, end - sent)
        return 0

    cdef int privatize(self, Outbox *box) except -1 nogil:
        """Copy what the lanes hold into chunks of this connection's own; frames only, packets are cut before."""
        cdef int lane
        cdef Slice *slice
        cdef Slice *before
        cdef Chunk *own
        cdef uint8_t *source
        cdef size_t room
        for lane in range(LANES):
            before = NULL
            slice = box.lanes[lane].head
            while slice != NULL:
                if not slice.chunk.shared:
                    before = slice
                    slice = slice.next
                    continue
                source = slice.chunk.data + slice.offset
                if (
                    before != NULL
                    and before.offset + before.size == before.chunk.used
                    and before.chunk.used + slice.size <= before.chunk.capacity
                ):
                    memcpy(before.chunk.data + before.chunk.used, source, slice.size)
                    before.chunk.used += slice.size
                    before.size += slice.size
                    before.count += slice.count
                    before.next = slice.next
                    if slice.next == NULL:
                        box.lanes[lane].tail = before
                    self.free_slice(slice)
                    slice = before.next
                    continue
                # Room to grow, so that a stalled reader of small frames does not cost an allocation a tick.
                room = <size_t>slice.size * 2
                if room < PRIVATE_BYTES:
                    room = PRIVATE_BYTES
                own = self.new_chunk(room, False)
                memcpy(own.data, source, slice.size)
                own.used = slice.size
                self.release(slice.chunk)
                slice.chunk = own
                slice.offset = 0
                before = slice
                slice = slice.next
        return 0
