"""The receiving half of a connection: a byte stream in, one item after the other out."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastim._core.frames cimport FrameHeader
from fastim._core.pools cimport Pools

cdef enum ItemKind:
    ITEM_NONE = 0  # all bytes are consumed and nothing is complete
    ITEM_MESSAGE = 1  # opcode, data, compressed
    ITEM_PING = 2
    ITEM_PONG = 3
    ITEM_CLOSE = 4  # code, data: the reason
    ITEM_FAIL = 5  # code, why: the connection cannot go on
    ITEM_FRAME = 6  # a frame ended that completes nothing

cdef struct Item:
    int kind
    uint8_t opcode
    uint8_t compressed
    uint16_t code
    const uint8_t *data  # borrowed: until the next call for this connection, or the buffer's reuse
    size_t size
    const char *why  # static

cdef struct Rules:
    uint64_t max_message_bytes
    uint32_t max_fragments  # 0: no limit
    uint8_t deflate  # negotiated

# What is kept between two reads; NULL while nothing is unfinished, which is nearly always.
cdef struct Inbound:
    uint8_t header[14]
    uint8_t header_size
    uint8_t in_payload
    FrameHeader frame
    uint64_t remaining  # of the frame's payload, or of a request's body
    uint8_t message_opcode  # 0: no message has begun
    uint8_t compressed
    uint32_t utf8
    uint32_t fragments
    uint8_t *message  # owned
    size_t message_size
    size_t message_capacity
    uint8_t control[125]
    uint8_t control_size
    uint8_t *left  # owned: bytes that a budget left unparsed
    size_t left_capacity
    size_t left_offset
    size_t left_size  # counted from left_offset
    uint16_t failed_code  # not 0: a failure that waits for its turn
    const char *failed_why  # static

cdef int next_item(
    Pools *pools, Inbound **state, const Rules *rules, uint8_t *p, size_t n, size_t *used, Item *item
) except -1 nogil
cdef int keep_left(Pools *pools, Inbound **state, const uint8_t *p, size_t n) except -1 nogil
cdef size_t head_end(const Inbound *s, const uint8_t *p, size_t n) noexcept nogil
cdef int keep_head(Pools *pools, Inbound **state, const uint8_t *p, size_t n) except -1 nogil
cdef int keep_body(Pools *pools, Inbound *s, const uint8_t *p, size_t n) except -1 nogil
cdef int keep_failure(Pools *pools, Inbound **state, const Item *item) except -1 nogil
cdef void settle(Pools *pools, Inbound **state) noexcept nogil
cdef void discard(Pools *pools, Inbound **state) noexcept nogil
cdef void forget_message(Pools *pools, Inbound *s) noexcept nogil
