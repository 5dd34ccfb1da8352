"""From packets to frames.

A packet is framed once for each kind of recipient (encoding, deflate, batch) and tick. For connections that take
batches it is stored bare; what has come together until the flush is cut into one frame: ``[a,b,c]`` in JSON, an array
header and the packets in msgpack. What was published to many is cut once for all of them; what was sent to one
connection, or to the few of one user, is put together with what lies beside it. Compression has no context (RFC 7692,
sections 7.1.1.1 and 7.1.1.2), so that one compressed frame serves every recipient.

For channels of a session that polls, a message is no frame but a record: text as it is, bytes as ``b`` and base64, and
behind it what separates it from the next one of a payload.
"""

import zlib

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from fastim._core.frames cimport (
    FIN,
    OP_BINARY,
    OP_TEXT,
    RSV1,
    header_size,
    write_header,
)
from fastim._core.outbox cimport BARE, FRAMES, LANE_LOW, LANE_NORMAL, MAX_BATCH_BYTES, WHOLE
from fastim._core.sink cimport base64_size, base64_write
from fastim._core.slab cimport KIND_BATCH, KIND_DEFLATE, KIND_MSGPACK, KIND_POLLING

cdef enum:
    RECORD_SEPARATOR = 0x1E  # Engine.IO, HTTP long-polling: between the packets of a payload

cdef bytes _FLUSH_TAIL = b"\x00\x00\xff\xff"  # RFC 7692, section 7.2.1: cut off, and put back


cdef inline uint8_t _first_byte(bint binary, bint compressed) noexcept:
    return FIN | (RSV1 if compressed else 0) | (OP_BINARY if binary else OP_TEXT)


@cython.final
@cython.no_gc_clear
cdef class Framer:
    """Writes frames into arenas.

    Args:
        window_bits: Of our compression, 9 to 15.
        min_bytes: Smaller messages are sent as they are.
        level: zlib's, 1 to 9.
    """

    def __cinit__(self, Buffers buffers, int window_bits, size_t min_bytes, int level):
        memset(self.published, 0, sizeof(self.published))
        memset(self.direct, 0, sizeof(self.direct))
        memset(self.cuts, 0, sizeof(self.cuts))
        self.urgent = NULL
        self.batches = NULL
        self.cuts_used = False
        self.cut_next = 0
        self.buffers = buffers
        self.window_bits = window_bits
        self.min_bytes = min_bytes
        self.level = level
        self.deflated_count = 0
        self.batches_cut = 0

    def __dealloc__(self):
        cdef int kind
        if self.buffers is None:
            return
        for kind in range(KINDS):
            if self.published[kind] != NULL:
                self.buffers.release(self.published[kind])
            if self.direct[kind] != NULL:
                self.buffers.release(self.direct[kind])
        if self.urgent != NULL:
            self.buffers.release(self.urgent)
        if self.batches != NULL:
            self.buffers.release(self.batches)

    cdef void end_tick(self) noexcept:
        """Let the arenas begin anew where nobody waits for what they hold."""
        cdef int kind
        for kind in range(KINDS):
            self.buffers.rewind(&self.published[kind])
            self.buffers.rewind(&self.direct[kind])
        self.buffers.rewind(&self.urgent)
        self.buffers.rewind(&self.batches)
        self.forget_cuts()

    cdef int frame(self, uint8_t first, const uint8_t *p, size_t n, Span *span) except -1:
        """Write one frame as it is: control frames, and messages of other protocols."""
        cdef uint8_t *out = self.buffers.reserve(&self.urgent, header_size(n) + n, span)
        out += write_header(out, first, n)
        memcpy(out, p, n)
        span.count = 1
        span.key = 0
        span.framed = FRAMES
        span.common = 0
        return 0

    cdef int packet(self, int kind, uint8_t common, bytes packet, Span *span) except -1:
        """Write a packet for connections of a kind: a frame, or bare where they take batches.

        Args:
            common: 0, or for what goes to many a number of those: batches keep it apart from what not all of them get.
        """
        cdef Chunk **arena = &self.published[kind] if common else &self.direct[kind]
        cdef size_t n = <size_t>len(packet)
        cdef uint8_t *out
        if not kind & KIND_BATCH:
            self.write(arena, kind, kind & KIND_MSGPACK, packet, span)
            span.common = common
            return 0
        span.count = 1
        span.key = 0
        span.common = common
        span.framed = BARE
        if kind & KIND_MSGPACK:
            memcpy(self.buffers.reserve(arena, n, span), <const uint8_t *>packet, n)
        else:
            out = self.buffers.reserve(arena, n + 1, span)
            memcpy(out, <const uint8_t *>packet, n)
            out[n] = c","
        return 0

    cdef int attached(
        self, int kind, uint8_t common, bytes packet, tuple attachments, Span *span
    ) except -1:
        """Write a packet for channels of a kind with its attachments, each a message of its own."""
        cdef Chunk **arena = &self.published[kind] if common else &self.direct[kind]
        self.together(arena, kind, [(False, packet), *[(True, data) for data in attachments]], span)
        span.common = common
        return 0

    cdef int together(self, Chunk **arena, int kind, list messages, Span *span) except -1:
        """Write messages, each (whether it is binary, its bytes), between which nothing may go out."""
        cdef list written = []
        cdef bytes whole
        cdef Span one
        for binary, data in messages:
            self.write(&self.urgent, kind, binary, data, &one)
            written.append((one.chunk.data + one.offset)[:one.size])
        whole = b"".join(written)
        memcpy(self.buffers.reserve(arena, <size_t>len(whole), span), <const uint8_t *>whole, <size_t>len(whole))
        span.count = 1
        span.key = 0
        span.common = 0
        span.framed = WHOLE
        return 0

    cdef int message(self, int kind, bint binary, bytes data, Span *span) except -1:
        """Write one message as it is, for a transport or connection of a kind."""
        return self.write(&self.urgent, kind, binary, data, span)

    cdef int write(self, Chunk **arena, int kind, bint binary, bytes data, Span *span) except -1:
        """Write a message: a frame, or a record."""
        cdef const uint8_t *p = data
        cdef size_t n = <size_t>len(data)
        cdef bint compressed = False
        cdef bytes smaller
        cdef uint8_t *out
        span.count = 1
        span.key = 0
        span.common = 0
        span.framed = FRAMES
        if kind & KIND_POLLING:
            return self.record(arena, binary, p, n, span)
        if kind & KIND_DEFLATE and n >= self.min_bytes:
            smaller = self.deflate(data)
            if <size_t>len(smaller) < n:
                compressed = True
                p = smaller
                n = <size_t>len(smaller)
        out = self.buffers.reserve(arena, header_size(n) + n, span)
        out += write_header(out, _first_byte(binary, compressed), n)
        memcpy(out, p, n)
        return 0

    cdef int record(
        self, Chunk **arena, bint binary, const uint8_t *p, size_t n, Span *span
    ) except -1:
        """Write a record of a polling payload, and the separator behind it."""
        cdef uint8_t *out
        if not binary:
            out = self.buffers.reserve(arena, n + 1, span)
            memcpy(out, p, n)
            out[n] = RECORD_SEPARATOR
            return 0
        out = self.buffers.reserve(arena, base64_size(n) + 2, span)
        out[0] = c"b"
        base64_write(out + 1, p, <Py_ssize_t>n)[0] = RECORD_SEPARATOR
        return 0

    cdef bytes deflate(self, bytes data):
        """Compress one message by itself (RFC 7692, section 7.2.1)."""
        compressor = zlib.compressobj(self.level, zlib.DEFLATED, -self.window_bits)
        cdef bytes packed = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        self.deflated_count += 1
        return packed[:len(packed) - 4]

    cdef bytes inflate(self, const uint8_t *p, size_t n, size_t limit):
        """Decompress one message (section 7.2.2).

        Returns:
            Its bytes; None if there are more than `limit`, of which no more than one is produced.

        Raises:
            zlib.error: not a deflate stream.
        """
        inflater = zlib.decompressobj(-15)
        cdef bytes data = inflater.decompress(p[:n] + _FLUSH_TAIL, limit + 1)
        return None if <size_t>len(data) > limit else data

    cdef void forget_cuts(self) noexcept:
        if self.cuts_used:
            memset(self.cuts, 0, sizeof(self.cuts))
            self.cuts_used = False

    cdef int cut_batches(self, Outbox *box, int kind) except -1:
        """Turn each run of bare packets of an outbox into one frame."""
        cdef int lane
        cdef Slice *slice
        for lane in range(LANE_NORMAL, LANE_LOW + 1):
            slice = box.lanes[lane].head
            while slice != NULL:
                if not slice.framed:
                    self.cut_run(box, lane, slice, kind)
                slice = slice.next
        return 0

    cdef Cut *find_cut(self, const Slice *slice, int kind, bint *known) noexcept:
        """The place of a slice that was cut in this flush, or of one that is to be."""
        cdef uint64_t place = <uint64_t><uintptr_t>slice.chunk ^ (<uint64_t>slice.offset << 32) ^ slice.size
        cdef Cut *cut
        cdef uint32_t first
        cdef int way
        first = <uint32_t>((place * 0x9E3779B97F4A7C15ULL) >> 40) % CUT_CACHE
        for way in range(CUT_WAYS):
            cut = &self.cuts[(first + <uint32_t>way) % CUT_CACHE]
            if (
                cut.chunk == slice.chunk
                and cut.offset == slice.offset
                and cut.size == slice.size
                and cut.kind == kind
            ):
                known[0] = True
                return cut
            if cut.chunk == NULL:
                known[0] = False
                return cut
        known[0] = False
        self.cut_next += 1
        return &self.cuts[(first + self.cut_next % CUT_WAYS) % CUT_CACHE]

    cdef int cut_run(self, Outbox *box, int lane, Slice *slice, int kind) except -1:
        """Make one frame of a bare slice and of those behind it that may be in the same batch."""
        cdef Cut made
        cdef Cut *cut = &made
        cdef bint known
        cdef Slice *last = slice
        cdef Slice *following
        cdef size_t size = slice.size
        cdef uint32_t count = slice.count
        if not slice.common and not slice.key:
            while (
                last.next != NULL
                and not last.next.framed
                and not last.next.common
                and not last.next.key
                and count + last.next.count <= self.buffers.max_batch_packets
                and size + last.next.size <= MAX_BATCH_BYTES
            ):
                last = last.next
                size += last.size
                count += last.count
        if last == slice:
            cut = self.find_cut(slice, kind, &known)
            if not known:
                cut.chunk = NULL
                self.cut_slices(slice, size, count, kind, &cut.span)
                cut.chunk = slice.chunk
                cut.offset = slice.offset
                cut.size = slice.size
                cut.kind = <uint8_t>kind
                self.cuts_used = True
        else:
            self.cut_slices(slice, size, count, kind, &cut.span)
        while last != slice:  # one frame, one slice
            following = slice.next
            slice.next = following.next
            if following == last:
                last = slice
                if last.next == NULL:
                    box.lanes[lane].tail = last
            self.buffers.free_slice(following)
        box.queued_bytes += <uint32_t>(cut.span.size - size)
        if lane == LANE_LOW:
            box.low_bytes += <uint32_t>(cut.span.size - size)
        cut.span.chunk.refs += 1
        self.buffers.release(slice.chunk)
        slice.chunk = cut.span.chunk
        slice.offset = cut.span.offset
        slice.size = cut.span.size
        slice.count = count
        slice.framed = FRAMES
        return 0

    cdef int cut_slices(
        self, const Slice *slice, size_t bare, uint32_t count, int kind, Span *span
    ) except -1:
        """Write one frame that holds the packets of slices: one packet as it is, more as an array.

        Args:
            slice: The first; those behind it follow up to `bare` bytes, which are `count` packets.
        """
        cdef uint8_t opening[5]
        cdef size_t opened = 0
        cdef bint json = not kind & KIND_MSGPACK
        cdef bint several = count > 1
        cdef size_t n = bare - (1 if json else 0)  # without the last comma
        cdef size_t size, part
        cdef bytes packed
        cdef uint8_t *out
        self.batches_cut += 1
        if several:
            opened = _open_array(opening, json, count)
        size = opened + n + (1 if json and several else 0)
        if kind & KIND_DEFLATE and size >= self.min_bytes:
            packed = self.deflate(opening[:opened] + _bare_bytes(slice, n) + (b"]" if json and several else b""))
            if <size_t>len(packed) < size:
                size = <size_t>len(packed)
                out = self.buffers.reserve(&self.batches, header_size(size) + size, span)
                out += write_header(out, _first_byte(kind & KIND_MSGPACK, True), size)
                memcpy(out, <const uint8_t *>packed, size)
                return 0
        out = self.buffers.reserve(&self.batches, header_size(size) + size, span)
        out += write_header(out, _first_byte(kind & KIND_MSGPACK, False), size)
        memcpy(out, opening, opened)
        out += opened
        while n:
            part = slice.size if slice.size < n else n
            memcpy(out, slice.chunk.data + slice.offset, part)
            out += part
            n -= part
            slice = slice.next
        if json and several:
            out[0] = c"]"
        return 0


cdef bytes _bare_bytes(const Slice *slice, size_t n):
    """The first n bytes of a slice and of those behind it."""
    cdef list parts = []
    cdef size_t part
    while n:
        part = slice.size if slice.size < n else n
        parts.append((slice.chunk.data + slice.offset)[:part])
        n -= part
        slice = slice.next
    return b"".join(parts)


cdef size_t _open_array(uint8_t *out, bint json, uint32_t count) noexcept:
    """What stands before the packets of a batch."""
    if json:
        out[0] = c"["
        return 1
    if count < 16:
        out[0] = <uint8_t>(0x90 | count)
        return 1
    out[0] = 0xDC  # array 16: a batch has at most 1,000 packets
    out[1] = <uint8_t>(count >> 8)
    out[2] = <uint8_t>count
    return 3
