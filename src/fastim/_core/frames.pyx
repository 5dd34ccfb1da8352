"""Frames of RFC 6455: the automaton's tables, and a Python face of the inline functions for tests and tools."""

from libc.stdint cimport uint8_t, uint32_t

# First the class of each byte, then for each state (a multiple of 12) the next one by class. The grammar is
# that of RFC 3629, section 4; state 0 accepts, 12 rejects.
cdef uint8_t[364] _utf8_table = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    8, 8, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
    10, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 3, 3, 11, 6, 6, 6, 5, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8,
    0, 12, 24, 36, 60, 96, 84, 12, 12, 12, 48, 72,
    12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12,
    12, 0, 12, 12, 12, 12, 12, 0, 12, 0, 12, 12,
    12, 24, 12, 12, 12, 12, 12, 24, 12, 24, 12, 12,
    12, 12, 12, 12, 12, 12, 12, 24, 12, 12, 12, 12,
    12, 24, 12, 12, 12, 12, 12, 12, 12, 24, 12, 12,
    12, 12, 12, 12, 12, 12, 12, 36, 12, 36, 12, 12,
    12, 36, 12, 12, 12, 12, 12, 36, 12, 36, 12, 12,
    12, 36, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12,
]

utf8_table = _utf8_table


def encode_frame(int opcode, const uint8_t[:] payload, bint fin=True, bint rsv1=False):
    """Return an unmasked frame, as a server sends it.

    Args:
        opcode: 0 to 15.
        payload: Its bytes; copied.
        fin: Whether the message ends with this frame.
        rsv1: The reserved bit that permessage-deflate uses (RFC 7692, section 6).
    """
    cdef uint8_t header[MAX_HEADER]
    cdef uint8_t first = (FIN if fin else 0) | (RSV1 if rsv1 else 0) | (opcode & 15)
    cdef int size = write_header(header, first, <uint64_t>payload.shape[0])
    return header[:size] + bytes(payload)


def decode_header(const uint8_t[::1] data):
    """Return (size, fin, rsv, opcode, masked, length) of the header that data begins with, or None if cut off."""
    cdef FrameHeader header
    cdef int size = 0
    if data.shape[0]:
        size = parse_header(&data[0], <size_t>data.shape[0], &header)
    if size == 0:
        return None
    return size, bool(header.fin), header.rsv, header.opcode, bool(header.masked), header.length


def apply_mask(data, bytes key):
    """Return data XOR the repeated four-byte key.

    Raises:
        ValueError: The key has not four bytes.
    """
    cdef bytearray copy = bytearray(data)
    cdef uint32_t mask
    if len(key) != 4:
        raise ValueError("a masking key has 4 bytes")
    memcpy(&mask, <const uint8_t *>key, 4)
    cdef uint8_t[::1] view = copy
    if view.shape[0]:
        unmask(&view[0], <size_t>view.shape[0], mask)
    return bytes(copy)


def utf8_state(const uint8_t[::1] data, uint32_t state=0):
    """Advance the UTF-8 automaton: 0 at a character's end, 12 for good once the bytes are invalid.

    Raises:
        ValueError: `state` did not come from here.
    """
    if state % 12 or state > 96:
        raise ValueError("no state of the automaton")
    if data.shape[0] == 0 or state == UTF8_REJECT:
        return state
    return utf8_feed(state, &data[0], <size_t>data.shape[0])
