"""RFC 6455 frames in C: headers, masking, UTF-8. Inline, so that the parser and the outbox pay no call."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum Opcode:
    OP_CONTINUATION = 0
    OP_TEXT = 1
    OP_BINARY = 2
    OP_CLOSE = 8
    OP_PING = 9
    OP_PONG = 10

cdef enum:
    FIN = 0x80
    RSV1 = 0x40
    MAX_HEADER = 14  # two bytes, a 64-bit length, the mask
    MAX_CONTROL = 125  # section 5.5

# Close codes that the core itself gives out (section 7.4.1).
cdef enum:
    CLOSE_PROTOCOL_ERROR = 1002
    CLOSE_NO_STATUS = 1005
    CLOSE_ABNORMAL = 1006
    CLOSE_INVALID_PAYLOAD = 1007
    CLOSE_TOO_BIG = 1009

# States of the UTF-8 automaton that have a name; the others are inside a character.
cdef enum:
    UTF8_ACCEPT = 0
    UTF8_REJECT = 12

cdef struct FrameHeader:
    uint64_t length  # of the payload, as the wire says: unsigned, never narrowed before it is checked
    uint32_t mask  # the masking key as it lies in memory
    uint8_t opcode
    uint8_t fin
    uint8_t rsv  # the three reserved bits, RSV1 = 4
    uint8_t masked

cdef const uint8_t *utf8_table


cdef inline int parse_header(const uint8_t *p, size_t n, FrameHeader *header) noexcept nogil:
    """Read a header from the n bytes at p; returns its size, or 0 while it is incomplete (section 5.2)."""
    cdef size_t size = 2
    cdef uint8_t length
    cdef int i
    if n < 2:
        return 0
    length = p[1] & 0x7F
    header.masked = p[1] >> 7
    if length == 126:
        size = 4
    elif length == 127:
        size = 10
    if header.masked:
        size += 4
    if n < size:
        return 0
    header.fin = p[0] >> 7
    header.rsv = (p[0] >> 4) & 7
    header.opcode = p[0] & 15
    if length < 126:
        header.length = length
    elif length == 126:
        header.length = (<uint64_t>p[2] << 8) | p[3]
    else:
        header.length = 0
        for i in range(8):
            header.length = (header.length << 8) | p[2 + i]
    header.mask = 0
    if header.masked:
        memcpy(&header.mask, p + size - 4, 4)
    return <int>size


cdef inline int header_size(uint64_t length) noexcept nogil:
    """Size of the header of an unmasked frame with `length` bytes of payload."""
    return 2 if length < 126 else 4 if length < 65536 else 10


cdef inline int write_header(uint8_t *p, uint8_t first, uint64_t length) noexcept nogil:
    """Write the header of an unmasked frame; `first` holds FIN, RSV1 and the opcode. Returns its size."""
    cdef int i
    p[0] = first
    if length < 126:
        p[1] = <uint8_t>length
        return 2
    if length < 65536:
        p[1] = 126
        p[2] = <uint8_t>(length >> 8)
        p[3] = <uint8_t>length
        return 4
    p[1] = 127
    for i in range(8):
        p[2 + i] = <uint8_t>(length >> (56 - 8 * i))
    return 10


cdef inline uint32_t rotate_mask(uint32_t mask, size_t count) noexcept nogil:
    """The mask as it continues `count` bytes later."""
    cdef uint8_t before[4]
    cdef uint8_t after[4]
    cdef int i
    memcpy(before, &mask, 4)
    for i in range(4):
        after[i] = before[(<size_t>i + count) & 3]
    memcpy(&mask, after, 4)
    return mask


cdef inline void unmask(uint8_t *p, size_t n, uint32_t mask) noexcept nogil:
    """XOR n bytes in place with the mask (section 5.3), eight at a time."""
    cdef uint64_t wide = (<uint64_t>mask << 32) | mask
    cdef uint64_t word
    cdef uint8_t key[4]
    cdef size_t i = 0
    while i + 8 <= n:
        memcpy(&word, p + i, 8)
        word ^= wide
        memcpy(p + i, &word, 8)
        i += 8
    memcpy(key, &mask, 4)
    while i < n:
        p[i] ^= key[i & 3]
        i += 1


cdef inline uint32_t utf8_feed(uint32_t state, const uint8_t *p, size_t n) noexcept nogil:
    """Advance the UTF-8 automaton over n bytes; UTF8_REJECT is final.

    Source: Björn Höhrmann, "Flexible and Economical UTF-8 Decoder" (2009); runs of ASCII are skipped eight at a time.
    """
    cdef size_t i = 0
    cdef uint64_t word
    while i < n:
        if state == UTF8_ACCEPT:
            while i + 8 <= n:
                memcpy(&word, p + i, 8)
                if word & <uint64_t>0x8080808080808080:
                    break
                i += 8
            if i == n:
                return state
        state = utf8_table[256 + state + utf8_table[p[i]]]
        if state == UTF8_REJECT:
            return state
        i += 1
    return state


cdef inline bint valid_close_code(uint16_t code) noexcept nogil:
    """Whether a peer may send this close code (section 7.4 and the IANA registry)."""
    return (1000 <= code <= 1003) or (1007 <= code <= 1014) or (3000 <= code <= 4999)
