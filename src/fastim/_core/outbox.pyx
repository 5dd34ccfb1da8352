"""Outboxes: what waits to be sent, as slices of shared chunks.

A frame is written once, into the arena of its class (encoding, batch, deflate), and every recipient's outbox
gets a slice of it: a pointer, an offset and a size. Frames that follow each other in an arena extend the slice
that is there, so that k messages of a tick to one connection are one slice and one vector of its write.

What waits goes out by lanes: first what has begun, then the high lane, then the normal one. The low lane comes last,
but has a turn before the normal one as soon as its share of what that one has sent is due. It holds states: a newer one
takes the place of an older one of the same key, so that a slow reader has at most one of each.

A connection that stalls copies its slices (``privatize``) and pins no shared chunk. When a write ends inside a
frame, the rest of that frame becomes *begun*: it goes out before anything else and is never dropped.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.uio cimport iovec

from fastim._core.frames cimport FrameHeader, parse_header
from fastim._core.pools cimport Memory, give_bytes, give_piece, take_bytes, take_piece

cdef enum:
    FREE_CHUNKS_KEPT = 64
    PRIVATE_BYTES = 4096  # smallest private chunk
    MAX_FRAME_BYTES = 0x3FFFFFFF  # sizes are kept in 32 bits
    MAX_CREDIT = 0x3FFFFFFF
    MAX_PACKETS_COUNTED = 0x7FFF
    ALL = 0x7FFFFFFF


cdef inline int point_at(iovec *vectors, int count, Slice *slice) noexcept nogil:
    """Let the next vector be a slice's bytes; returns the new count."""
    vectors[count].iov_base = slice.chunk.data + slice.offset
    vectors[count].iov_len = slice.size
    return count + 1


@cython.final
@cython.no_gc_clear
cdef class Buffers:
    """The memory that all outboxes of a hub share.

    **Thread**: no locking; the hub's thread, which may have released the GIL.

    Args:
        memory: Where slices and private chunks come from.
        max_batch_packets: Of one batch, 1 to 1,000.
        low_percent: The low lane's share of what a connection that is behind is sent, 0 to 50; 0: it goes last.
    """

    def __cinit__(self, Memory memory, uint32_t max_batch_packets, uint32_t low_percent):
        self.memory = memory
        self.pools = &memory.pools
        self.free_chunks = NULL
        self.free_chunk_count = 0
        self.chunk_count = 0
        self.private_count = 0
        self.chunk_bytes = 0
        self.max_batch_packets = max_batch_packets
        self.low_percent = low_percent
        self.states_merged = 0
        self.states_dropped = 0

    def __dealloc__(self):
        cdef Chunk *chunk
        while self.free_chunks != NULL:
            chunk = self.free_chunks
            self.free_chunks = chunk.next_free
            free(chunk)

    cdef size_t held_bytes(self) noexcept nogil:
        """What chunks hold that are in use."""
        return self.chunk_bytes - self.free_chunk_count * (sizeof(Chunk) + CHUNK_BYTES)

    cdef Chunk *new_chunk(self, size_t capacity) except NULL nogil:
        """A shared chunk with one reference and room for `capacity` bytes."""
        cdef Chunk *chunk
        if capacity == CHUNK_BYTES and self.free_chunks != NULL:
            chunk = self.free_chunks
            self.free_chunks = chunk.next_free
            self.free_chunk_count -= 1
        else:
            chunk = <Chunk *>malloc(sizeof(Chunk) + capacity)
            if chunk == NULL:
                with gil:
                    raise MemoryError()
            self.pools.allocations += 1
            self.chunk_bytes += sizeof(Chunk) + capacity
            self.chunk_count += 1
            chunk.capacity = <uint32_t>capacity
            chunk.shared = True
            chunk.data = <uint8_t *>(chunk + 1)
        chunk.refs = 1
        chunk.used = 0
        chunk.next_free = NULL
        return chunk

    cdef Chunk *new_private(self, size_t capacity) except NULL nogil:
        """A stalled connection's own chunk, with one reference and room for at least `capacity` bytes."""
        cdef size_t size
        cdef Chunk *chunk = <Chunk *>take_bytes(self.pools, sizeof(Chunk) + capacity, &size)
        self.chunk_bytes += size
        self.private_count += 1
        chunk.capacity = <uint32_t>(size - sizeof(Chunk))
        chunk.shared = False
        chunk.data = <uint8_t *>(chunk + 1)
        chunk.refs = 1
        chunk.used = 0
        chunk.next_free = NULL
        return chunk

    cdef void release(self, Chunk *chunk) noexcept nogil:
        """Give one reference back."""
        cdef size_t size
        chunk.refs -= 1
        if chunk.refs:
            return
        size = sizeof(Chunk) + chunk.capacity
        if not chunk.shared:
            self.private_count -= 1
            self.chunk_bytes -= size
            give_bytes(self.pools, chunk, size)
        elif chunk.capacity == CHUNK_BYTES and self.free_chunk_count < FREE_CHUNKS_KEPT:
            chunk.used = 0
            chunk.next_free = self.free_chunks
            self.free_chunks = chunk
            self.free_chunk_count += 1
        else:
            self.chunk_count -= 1
            self.chunk_bytes -= size
            free(chunk)

    cdef bint clean(self) noexcept nogil:
        """Whether the free chunks are as new ones are: nobody refers to them, nothing of theirs counts as written."""
        cdef const Chunk *chunk = self.free_chunks
        while chunk != NULL:
            if chunk.refs or chunk.used or not chunk.shared:
                return False
            chunk = chunk.next_free
        return True

    cdef uint8_t *reserve(self, Chunk **arena, size_t size, Span *span) except NULL nogil:
        """Room for `size` bytes at the arena's end; a new chunk becomes the arena's where the old one is full.

        The span's count and framed are the caller's. What is larger than a chunk gets one of its own.
        """
        cdef Chunk *chunk = arena[0]
        if size > MAX_FRAME_BYTES:
            with gil:
                raise ValueError("larger than a frame may be")
        if chunk == NULL or chunk.used + size > chunk.capacity:
            chunk = self.new_chunk(size if size > CHUNK_BYTES else CHUNK_BYTES)
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

    cdef void free_slice(self, Slice *slice) noexcept nogil:
        self.release(slice.chunk)
        give_piece(self.pools, &self.pools.slices, slice)

    cdef int push(self, Outbox *box, int lane, const Span *span) except -1 nogil:
        """Append a span to a lane. The caller has checked the bound."""
        cdef Slice *tail = box.lanes[lane].tail
        cdef Slice *added
        box.queued_bytes += span.size
        if lane == LANE_LOW:
            box.low_bytes += span.size
        if box.packets < MAX_PACKETS_COUNTED:
            box.packets += <uint16_t>span.count
        if (
            tail != NULL
            and tail.chunk == span.chunk
            and tail.offset + tail.size == span.offset
            and tail.framed == span.framed
            and span.framed != WHOLE
            and not tail.key
            and not span.key
            and (
                span.framed
                or (
                    tail.common == span.common
                    and tail.count < self.max_batch_packets
                    and tail.size + span.size <= MAX_BATCH_BYTES
                )
            )
        ):
            tail.size += span.size
            tail.count += span.count
            return 0
        added = <Slice *>take_piece(self.pools, &self.pools.slices)
        span.chunk.refs += 1
        added.chunk = span.chunk
        added.key = span.key
        added.offset = span.offset
        added.size = span.size
        added.count = span.count
        added.framed = span.framed
        added.common = span.common
        added.next = NULL
        if tail == NULL:
            box.lanes[lane].head = added
        else:
            tail.next = added
        box.lanes[lane].tail = added
        return 0

    cdef int push_state(self, Outbox *box, const Span *span) except -1 nogil:
        """Put a state into the low lane: in the place of the one with its key, else behind the others.

        Where that leaves too much, those that have waited longest are dropped. Cost: O(states in the lane).
        """
        cdef Slice *slice = box.lanes[LANE_LOW].head
        while slice != NULL and slice.key != span.key:
            slice = slice.next
        if slice == NULL:
            self.push(box, LANE_LOW, span)
            box.states += 1
        else:
            span.chunk.refs += 1
            self.release(slice.chunk)
            box.queued_bytes += span.size - slice.size
            box.low_bytes += span.size - slice.size
            slice.chunk = span.chunk
            slice.offset = span.offset
            slice.size = span.size
            slice.count = span.count
            slice.framed = span.framed
            slice.common = span.common
            self.states_merged += 1
        while (
            box.states > MAX_STATES or box.low_bytes > box.bound_bytes >> 2
        ) and box.lanes[LANE_LOW].head != box.lanes[LANE_LOW].tail:
            self.pop(box, LANE_LOW)
            self.states_dropped += 1
        return 0

    cdef void settle_low(self, Outbox *box) noexcept nogil:
        """Let what is in the low lane go out in its order with the normal one: nothing may come behind what follows."""
        cdef Slice *slice = box.lanes[LANE_LOW].head
        if slice == NULL:
            return
        if box.lanes[LANE_NORMAL].tail == NULL:
            box.lanes[LANE_NORMAL].head = slice
        else:
            box.lanes[LANE_NORMAL].tail.next = slice
        box.lanes[LANE_NORMAL].tail = box.lanes[LANE_LOW].tail
        while slice != NULL:
            slice.key = 0
            slice = slice.next
        box.lanes[LANE_LOW].head = box.lanes[LANE_LOW].tail = NULL
        box.low_bytes = 0
        box.states = 0

    cdef void drop_lane(self, Outbox *box, int lane) noexcept nogil:
        """Drop what a lane holds; nothing of it has begun."""
        while box.lanes[lane].head != NULL:
            self.pop(box, lane)

    cdef void clear(self, Outbox *box) noexcept nogil:
        """Drop everything, also what has begun."""
        cdef int lane
        for lane in range(LANES):
            self.drop_lane(box, lane)
        self.drop_begun(box)
        box.queued_bytes = 0

    cdef void drop_begun(self, Outbox *box) noexcept nogil:
        """Give back what has begun; the caller counts its bytes."""
        if box.begun != NULL:
            give_bytes(self.pools, box.begun, sizeof(Begun) + box.begun.capacity)
            box.begun = NULL

    cdef int begin_bytes(self, Outbox *box, const uint8_t *p, size_t n) except -1 nogil:
        """Append to what goes out before the lanes; counted as queued."""
        cdef Begun *begun = box.begun
        cdef size_t kept = begun.size - begun.offset if begun != NULL else 0
        cdef size_t size
        cdef Begun *grown = <Begun *>take_bytes(self.pools, sizeof(Begun) + kept + n, &size)
        grown.offset = 0
        grown.size = <uint32_t>(kept + n)
        grown.capacity = <uint32_t>(size - sizeof(Begun))
        grown.data = <uint8_t *>(grown + 1)
        if kept:
            memcpy(grown.data, begun.data + begun.offset, kept)
        memcpy(grown.data + kept, p, n)
        self.drop_begun(box)
        box.begun = grown
        box.queued_bytes += <uint32_t>n
        return 0

    cdef uint32_t low_turn(self, const Outbox *box) noexcept nogil:
        """How many slices of the low lane go before the normal one now."""
        cdef const Slice *slice = box.lanes[LANE_LOW].head
        cdef uint64_t share
        cdef uint32_t count = 0
        if slice == NULL or box.lanes[LANE_NORMAL].head == NULL:
            return 0
        share = <uint64_t>box.normal_bytes * self.low_percent // (100 - self.low_percent)
        while slice != NULL and slice.size <= share:
            share -= slice.size
            count += 1
            slice = slice.next
        return count

    cdef int gather(self, Outbox *box, iovec *vectors, int limit) noexcept nogil:
        """Point vectors at the bytes to send, in order; returns how many.

        Begun, high, the low lane's turn if it has one, normal, low.
        """
        cdef uint32_t turn = self.low_turn(box)
        cdef uint32_t _
        cdef int count = 0
        cdef int lane
        cdef Slice *low = box.lanes[LANE_LOW].head
        cdef Slice *slice
        if box.begun != NULL:
            vectors[0].iov_base = box.begun.data + box.begun.offset
            vectors[0].iov_len = box.begun.size - box.begun.offset
            count = 1
        for lane in range(LANES):
            if lane == LANE_NORMAL:
                for _ in range(turn):
                    if count < limit:
                        count = point_at(vectors, count, low)
                    low = low.next
            slice = box.lanes[lane].head if lane != LANE_LOW else low
            while slice != NULL and count < limit:
                count = point_at(vectors, count, slice)
                slice = slice.next
        return count

    cdef int consume(self, Outbox *box, size_t sent) except -1 nogil:
        """`sent` bytes of what `gather` pointed at are gone; the rest of a cut frame becomes begun."""
        cdef uint32_t turn = self.low_turn(box)
        cdef size_t part
        # A batch that is cut, or a state that gives way, leaves less to wait for: never more than there is.
        box.awaited_bytes = min(box.awaited_bytes, box.queued_bytes)
        box.awaited_bytes -= <uint32_t>sent if sent < box.awaited_bytes else box.awaited_bytes
        if box.begun != NULL:
            part = box.begun.size - box.begun.offset
            if sent < part:
                box.begun.offset += <uint32_t>sent
                box.queued_bytes -= <uint32_t>sent
                return 0
            sent -= part
            box.queued_bytes -= <uint32_t>part
            self.drop_begun(box)
        if not self.consume_lane(box, LANE_HIGH, ALL, &sent):
            return 0
        if turn:
            box.normal_bytes = 0
            if not self.consume_lane(box, LANE_LOW, turn, &sent):
                return 0
        part = sent
        if not self.consume_lane(box, LANE_NORMAL, ALL, &sent):
            if box.lanes[LANE_LOW].head != NULL and box.normal_bytes < MAX_CREDIT:
                box.normal_bytes += <uint32_t>part
            return 0
        box.normal_bytes = 0
        self.consume_lane(box, LANE_LOW, ALL, &sent)
        return 0

    cdef bint consume_lane(self, Outbox *box, int lane, uint32_t limit, size_t *sent) except -1 nogil:
        """Take what was sent off a lane, of its first `limit` slices; True if they are all gone."""
        cdef Slice *slice = box.lanes[lane].head
        while slice != NULL and limit:
            if sent[0] < slice.size:
                if sent[0]:
                    self.cut(box, lane, sent[0])
                return False
            sent[0] -= slice.size
            self.pop(box, lane)
            limit -= 1
            slice = box.lanes[lane].head
        return True

    cdef void pop(self, Outbox *box, int lane) noexcept nogil:
        """Take the first slice off a lane."""
        cdef Slice *slice = box.lanes[lane].head
        box.queued_bytes -= slice.size
        if lane == LANE_LOW:
            box.low_bytes -= slice.size
            if slice.key:
                box.states -= 1
        box.lanes[lane].head = slice.next
        if slice.next == NULL:
            box.lanes[lane].tail = NULL
        self.free_slice(slice)

    cdef int cut(self, Outbox *box, int lane, size_t sent) except -1 nogil:
        """Take `sent` bytes off a lane's first slice, and the rest of the frame they end in to what has begun.

        Of frames that belong together all that is left has begun.
        """
        cdef Slice *slice = box.lanes[lane].head
        cdef uint8_t *p = slice.chunk.data + slice.offset
        cdef size_t end = 0
        cdef FrameHeader header
        header.length = 0
        while end < sent:
            end += parse_header(p + end, slice.size - end, &header)
            end += <size_t>header.length
        if slice.framed == WHOLE:
            end = slice.size
        if end > sent:
            self.begin_bytes(box, p + sent, end - sent)
        slice.offset += <uint32_t>end
        slice.size -= <uint32_t>end
        box.queued_bytes -= <uint32_t>end
        if lane == LANE_LOW:
            box.low_bytes -= <uint32_t>end
        if slice.size == 0:
            self.pop(box, lane)
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
                    and not before.key
                    and not slice.key
                    and before.framed == slice.framed
                    and slice.framed != WHOLE
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
                # Room to grow, so that a stalled reader of small frames does not cost an allocation a tick. A state
                # does not grow: it is replaced.
                room = slice.size
                if not slice.key:
                    room = room * 2 if room > PRIVATE_BYTES >> 1 else PRIVATE_BYTES
                own = self.new_private(room)
                memcpy(own.data, source, slice.size)
                own.used = slice.size
                self.release(slice.chunk)
                slice.chunk = own
                slice.offset = 0
                before = slice
                slice = slice.next
        return 0
