"""From packets to frames.

A packet is framed once for each kind of recipient (encoding, deflate, batch) and tick. For connections that take
batches it is stored bare; what has come together until the flush is cut into one frame: ``[a,b,c]`` in JSON, an
array header and the packets in msgpack. Compression has no context (RFC 7692, sections 7.1.1.1 and 7.1.1.2), so
that one compressed frame serves every recipient.
"""

import zlib

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from libc.string cimport memcpy, memset

from fastim._core.frames cimport (
    FIN,
    OP_BINARY,
    OP_TEXT,
    RSV1,
    header_size,
    write_header,
)
from fastim._core.outbox cimport LANE_LOW, LANE_NORMAL
from fastim._core.slab cimport KIND_BATCH, KIND_DEFLATE, KIND_MSGPACK

cdef bytes _FLUSH_TAIL = b"\x00\x00\xff\xff"  # RFC 7692, section 7.2.1: cut off, and put back


cdef inline uint8_t _first_byte(int kind, bint compressed) noexcept:
    return FIN | (RSV1 if compressed else 0) | (OP_BINARY if kind & KIND_MSGPACK else OP_TEXT)


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
        self.buffers = buffers
        self.window_bits = window_bits
        self.min_bytes = min_bytes
        self.level = level
        self.deflated_count = 0

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
        span.framed = 1
        return 0

    cdef int packet(self, Chunk **arena, int kind, bytes packet, Span *span) except -1:
        """Write a packet for connections of a kind: a frame, or bare where they take batches."""
        cdef const uint8_t *p = packet
        cdef size_t n = <size_t>len(packet)
        cdef bint compressed = False
        cdef bytes smaller
        cdef uint8_t *out
        span.count = 1
        if kind & KIND_BATCH:
            span.framed = 0
            if kind & KIND_MSGPACK:
                memcpy(self.buffers.reserve(arena, n, span), p, n)
            else:
                out = self.buffers.reserve(arena, n + 1, span)
                memcpy(out, p, n)
                out[n] = c","
            return 0
        span.framed = 1
        if kind & KIND_DEFLATE and n >= self.min_bytes:
            smaller = self.deflate(packet)
            if <size_t>len(smaller) < n:
                compressed = True
                p = smaller
                n = <size_t>len(smaller)
        out = self.buffers.reserve(arena, header_size(n) + n, span)
        out += write_header(out, _first_byte(kind, compressed), n)
        memcpy(out, p, n)
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
        cdef Cut *cut
        for lane in range(LANE_NORMAL, LANE_LOW + 1):
            slice = box.lanes[lane].head
            while slice != NULL:
                if not slice.framed:
                    cut = &self.cuts[
                        ((<uintptr_t>slice.chunk >> 6) ^ (slice.offset * 31) ^ slice.size) % CUT_CACHE
                    ]
                    if (
                        cut.chunk != slice.chunk
                        or cut.offset != slice.offset
                        or cut.size != slice.size
                        or cut.kind != kind
                    ):
                        cut.chunk = NULL
                        self.cut_slice(slice, kind, &cut.span)
                        cut.chunk = slice.chunk
                        cut.offset = slice.offset
                        cut.size = slice.size
                        cut.kind = <uint8_t>kind
                        self.cuts_used = True
                    box.queued_bytes += cut.span.size - slice.size
                    cut.span.chunk.refs += 1
                    self.buffers.release(slice.chunk)
                    slice.chunk = cut.span.chunk
                    slice.offset = cut.span.offset
                    slice.size = cut.span.size
                    slice.framed = 1
                slice = slice.next
        return 0

    cdef int cut_slice(self, Slice *slice, int kind, Span *span) except -1:
        """Write one frame that holds a slice's packets: one as it is, more as an array."""
        cdef uint8_t opening[5]
        cdef size_t opened = 0
        cdef bint json = not kind & KIND_MSGPACK
        cdef bint several = slice.count > 1
        cdef const uint8_t *p = slice.chunk.data + slice.offset
        cdef size_t n = slice.size - (1 if json else 0)  # without the last comma
        cdef size_t size
        cdef bytes packed
        cdef uint8_t *out
        if several:
            opened = _open_array(opening, json, slice.count)
        size = opened + n + (1 if json and several else 0)
        if kind & KIND_DEFLATE and size >= self.min_bytes:
            packed = self.deflate(opening[:opened] + p[:n] + (b"]" if json and several else b""))
            if <size_t>len(packed) < size:
                size = <size_t>len(packed)
                out = self.buffers.reserve(&self.batches, header_size(size) + size, span)
                out += write_header(out, _first_byte(kind, True), size)
                memcpy(out, <const uint8_t *>packed, size)
                span.count = slice.count
                span.framed = 1
                return 0
        out = self.buffers.reserve(&self.batches, header_size(size) + size, span)
        out += write_header(out, _first_byte(kind, False), size)
        memcpy(out, opening, opened)
        memcpy(out + opened, p, n)
        if json and several:
            out[opened + n] = c"]"
        span.count = slice.count
        span.framed = 1
        return 0


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
