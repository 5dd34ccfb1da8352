"""The receiving half of a connection: frames of RFC 6455 to messages and control frames.

Bytes are unmasked where they lie. A message that is whole within one read is handed out in place; only what
is cut off by the end of a read is copied, into a state that exists no longer than it is needed. Every limit is
checked as soon as the header says the size, before a byte is allocated for it, and invalid UTF-8 fails at the
byte that makes it so.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from fastim._core.frames cimport (
    CLOSE_INVALID_PAYLOAD,
    CLOSE_NO_STATUS,
    CLOSE_PROTOCOL_ERROR,
    CLOSE_TOO_BIG,
    MAX_CONTROL,
    MAX_HEADER,
    OP_CLOSE,
    OP_CONTINUATION,
    OP_PING,
    OP_TEXT,
    UTF8_ACCEPT,
    UTF8_REJECT,
    parse_header,
    rotate_mask,
    unmask,
    utf8_feed,
    valid_close_code,
)
from fastim._core.pools cimport Memory, Pools, give_bytes, give_piece, take_bytes, take_piece


cdef inline Inbound *_begin(Pools *pools, Inbound **state) except NULL nogil:
    """The connection's state, made if there is none."""
    if state[0] == NULL:
        state[0] = <Inbound *>take_piece(pools, &pools.inbounds)
    return state[0]


cdef void settle(Pools *pools, Inbound **state) noexcept nogil:
    """Give the state back if nothing is unfinished."""
    cdef Inbound *s = state[0]
    if s == NULL or s.header_size or s.in_payload or s.message_opcode or s.left_size or s.message_size:
        return
    discard(pools, state)


cdef void discard(Pools *pools, Inbound **state) noexcept nogil:
    """Give back the state and all that it holds."""
    cdef Inbound *s = state[0]
    if s != NULL:
        give_bytes(pools, s.message, s.message_capacity)
        give_bytes(pools, s.left, s.left_capacity)
        give_piece(pools, &pools.inbounds, s)
        state[0] = NULL


cdef void forget_message(Pools *pools, Inbound *s) noexcept nogil:
    """Give back what was collected of a message, or of a request head."""
    give_bytes(pools, s.message, s.message_capacity)
    s.message = NULL
    s.message_size = 0
    s.message_capacity = 0


cdef int _append(Pools *pools, Inbound *s, const uint8_t *p, size_t n, size_t limit) except -1 nogil:
    """Append to the message; its capacity doubles, and never passes `limit` by a declared size alone.

    The smallest capacities are the pools'.
    """
    cdef size_t need = s.message_size + n
    cdef size_t capacity
    cdef uint8_t *grown
    if need > s.message_capacity:
        capacity = s.message_capacity * 2
        if capacity < 512:
            capacity = 512
        if capacity > limit:
            capacity = limit
        if capacity < need:
            capacity = need
        grown = take_bytes(pools, capacity, &capacity)
        if s.message_size:
            memcpy(grown, s.message, s.message_size)
        give_bytes(pools, s.message, s.message_capacity)
        s.message = grown
        s.message_capacity = capacity
    memcpy(s.message + s.message_size, p, n)
    s.message_size = need
    return 0


cdef int keep_head(Pools *pools, Inbound **state, const uint8_t *p, size_t n) except -1 nogil:
    """Keep the beginning of a request head, which is not framed yet."""
    return _append(pools, _begin(pools, state), p, n, 0)


cdef size_t head_end(const Inbound *s, const uint8_t *p, size_t n) noexcept nogil:
    """Where in p the request head ends whose beginning is kept, behind its blank line; 0: it goes on."""
    cdef size_t at
    cdef int matched = 0  # bytes of the blank line, and of the line's end before it
    if s != NULL:
        for at in range(s.message_size - 3 if s.message_size > 3 else 0, s.message_size):
            matched = _match_blank(matched, s.message[at])
    for at in range(n):
        matched = _match_blank(matched, p[at])
        if matched == 4:
            return at + 1
    return 0


cdef inline int _match_blank(int matched, uint8_t byte) noexcept nogil:
    """One step of finding CR LF CR LF."""
    if byte == c"\r":
        return 3 if matched == 2 else 1
    if byte == c"\n" and matched & 1:
        return matched + 1
    return 0


cdef int keep_body(Pools *pools, Inbound *s, const uint8_t *p, size_t n) except -1 nogil:
    """Keep a part of a request's body, of which `remaining` bytes are still to come."""
    if n:
        _append(pools, s, p, n, s.message_size + <size_t>s.remaining)
        s.remaining -= n
    return 0


cdef int keep_failure(Pools *pools, Inbound **state, const Item *item) except -1 nogil:
    """Keep a failure for a later turn."""
    cdef Inbound *s = _begin(pools, state)
    s.failed_code = item.code
    s.failed_why = item.why
    return 0


cdef int keep_left(Pools *pools, Inbound **state, const uint8_t *p, size_t n) except -1 nogil:
    """Keep bytes that were read but are for a later turn; what was kept before comes first.

    `p` may lie inside what is kept already: it is then its unconsumed tail.
    """
    cdef Inbound *s
    cdef size_t capacity
    cdef uint8_t *grown
    if n == 0 and state[0] == NULL:
        return 0
    s = _begin(pools, state)
    if s.left != NULL and s.left <= p and p <= s.left + s.left_offset + s.left_size:
        s.left_offset = <size_t>(p - s.left)
        s.left_size = n
    elif n:
        if s.left_size + n > s.left_capacity:
            grown = take_bytes(pools, s.left_size + n, &capacity)
            if s.left_size:
                memcpy(grown, s.left + s.left_offset, s.left_size)
            give_bytes(pools, s.left, s.left_capacity)
            s.left = grown
            s.left_capacity = capacity
            s.left_offset = 0
        elif s.left_offset + s.left_size + n > s.left_capacity:
            memmove(s.left, s.left + s.left_offset, s.left_size)
            s.left_offset = 0
        memcpy(s.left + s.left_offset + s.left_size, p, n)
        s.left_size += n
    if s.left_size == 0:
        give_bytes(pools, s.left, s.left_capacity)
        s.left = NULL
        s.left_capacity = 0
        s.left_offset = 0
    return 0


cdef inline int _fail(Item *item, uint16_t code, const char *why) noexcept nogil:
    item.kind = ITEM_FAIL
    item.code = code
    item.why = why
    return 0


cdef bint _check(const FrameHeader *frame, const Inbound *s, const Rules *rules, Item *item) noexcept nogil:
    """Check a header against the protocol and the limits; False: `item` says what is wrong with it."""
    cdef bint control = frame.opcode >= OP_CLOSE
    cdef bint fragmented = s != NULL and s.message_opcode != 0
    if frame.rsv & ~(4 if rules.deflate else 0):
        _fail(item, CLOSE_PROTOCOL_ERROR, b"reserved bits set")
    elif frame.opcode > 10 or 3 <= frame.opcode <= 7:
        _fail(item, CLOSE_PROTOCOL_ERROR, b"unknown opcode")
    elif not frame.masked:
        _fail(item, CLOSE_PROTOCOL_ERROR, b"frame not masked")
    elif control and (frame.length > MAX_CONTROL or not frame.fin):
        _fail(item, CLOSE_PROTOCOL_ERROR, b"control frame too long or fragmented")
    elif frame.rsv and (control or frame.opcode == OP_CONTINUATION):
        _fail(item, CLOSE_PROTOCOL_ERROR, b"RSV1 outside a message's first frame")
    elif frame.length >> 63:
        _fail(item, CLOSE_PROTOCOL_ERROR, b"most significant bit of the length set")
    elif control:
        return True
    elif (frame.opcode == OP_CONTINUATION) != fragmented:
        _fail(item, CLOSE_PROTOCOL_ERROR, b"continuation out of place")
    elif frame.length > rules.max_message_bytes - (s.message_size if fragmented else 0):
        _fail(item, CLOSE_TOO_BIG, b"message too big")
    elif fragmented and rules.max_fragments and s.fragments >= rules.max_fragments:
        _fail(item, CLOSE_TOO_BIG, b"too many fragments")
    else:
        return True
    return False


cdef int _control(uint8_t opcode, const uint8_t *p, size_t n, Item *item) noexcept nogil:
    """Fill `item` from a whole control frame (section 5.5)."""
    item.data = p
    item.size = n
    if opcode != OP_CLOSE:
        item.kind = ITEM_PING if opcode == OP_PING else ITEM_PONG
        return 0
    item.kind = ITEM_CLOSE
    item.code = CLOSE_NO_STATUS
    if n == 0:
        return 0
    if n == 1:
        return _fail(item, CLOSE_PROTOCOL_ERROR, b"close code cut off")
    item.code = (<uint16_t>p[0] << 8) | p[1]
    item.data = p + 2
    item.size = n - 2
    if not valid_close_code(item.code):
        return _fail(item, CLOSE_PROTOCOL_ERROR, b"invalid close code")
    if utf8_feed(UTF8_ACCEPT, item.data, item.size) != UTF8_ACCEPT:
        return _fail(item, CLOSE_INVALID_PAYLOAD, b"close reason is not UTF-8")
    return 0


cdef int _whole(
    const FrameHeader *frame, uint8_t *payload, Item *item
) noexcept nogil:
    """Fill `item` from a frame that lies whole in the buffer and is a message, or a control frame."""
    cdef size_t n = <size_t>frame.length
    unmask(payload, n, frame.mask)
    if frame.opcode >= OP_CLOSE:
        return _control(frame.opcode, payload, n, item)
    item.kind = ITEM_MESSAGE
    item.opcode = frame.opcode
    item.compressed = frame.rsv != 0
    item.data = payload
    item.size = n
    if frame.opcode == OP_TEXT and not frame.rsv and utf8_feed(UTF8_ACCEPT, payload, n) != UTF8_ACCEPT:
        return _fail(item, CLOSE_INVALID_PAYLOAD, b"text is not UTF-8")
    return 0


cdef int _end_frame(Inbound *s, Item *item) noexcept nogil:
    """The frame's payload is complete: hand out what it completes."""
    s.in_payload = 0
    if s.frame.opcode >= OP_CLOSE:
        _control(s.frame.opcode, s.control, s.control_size, item)
        s.control_size = 0
        return 0
    if not s.frame.fin:
        item.kind = ITEM_FRAME
        return 0
    item.kind = ITEM_MESSAGE
    item.opcode = s.message_opcode
    item.compressed = s.compressed
    item.data = s.message
    item.size = s.message_size
    s.message_opcode = 0
    s.message_size = 0  # the bytes stay until the next call
    s.fragments = 0
    if s.utf8 != UTF8_ACCEPT:
        return _fail(item, CLOSE_INVALID_PAYLOAD, b"text is not UTF-8")
    return 0


cdef int _payload(
    Pools *pools, Inbound *s, const Rules *rules, uint8_t *p, size_t n, Item *item
) except -1 nogil:
    """Take n bytes of the current frame's payload, all of them its own."""
    unmask(p, n, s.frame.mask)
    s.frame.mask = rotate_mask(s.frame.mask, n)
    s.remaining -= n
    if s.frame.opcode >= OP_CLOSE:
        memcpy(s.control + s.control_size, p, n)
        s.control_size += <uint8_t>n
    else:
        if s.message_opcode == OP_TEXT and not s.compressed:
            s.utf8 = utf8_feed(s.utf8, p, n)
            if s.utf8 == UTF8_REJECT:
                return _fail(item, CLOSE_INVALID_PAYLOAD, b"text is not UTF-8")
        _append(pools, s, p, n, <size_t>rules.max_message_bytes)
    if s.remaining == 0:
        _end_frame(s, item)
    return 0


cdef int _enter(Inbound *s, Item *item) noexcept nogil:
    """A checked header begins a frame whose payload comes in pieces, or a fragment."""
    s.header_size = 0
    s.in_payload = 1
    s.remaining = s.frame.length
    if s.frame.opcode < OP_CLOSE:
        if s.frame.opcode != OP_CONTINUATION:
            s.message_opcode = s.frame.opcode
            s.compressed = s.frame.rsv != 0
            s.utf8 = UTF8_ACCEPT
        s.fragments += 1
    if s.remaining == 0:
        _end_frame(s, item)
    return 0


cdef int _header(
    Pools *pools, Inbound **state, const Rules *rules, uint8_t *p, size_t n, size_t *used, Item *item
) except -1 nogil:
    """Between two frames: read a header, and the payload with it where it is all there."""
    cdef FrameHeader frame
    cdef Inbound *s = state[0]
    cdef size_t take
    cdef int size
    if s == NULL or s.header_size == 0:
        size = parse_header(p, n, &frame)
        if size:
            used[0] = <size_t>size
            if not _check(&frame, s, rules, item):
                return 0
            if frame.length <= n - <size_t>size and (
                frame.opcode >= OP_CLOSE or (frame.fin and (s == NULL or not s.message_opcode))
            ):
                used[0] += <size_t>frame.length
                return _whole(&frame, p + size, item)
            s = _begin(pools, state)
            s.frame = frame
            return _enter(s, item)
    # The header itself is cut off: collect it byte by byte, at most 14 of them.
    s = _begin(pools, state)
    take = MAX_HEADER - <size_t>s.header_size
    if take > n:
        take = n
    memcpy(s.header + s.header_size, p, take)
    size = parse_header(s.header, s.header_size + take, &s.frame)
    if size == 0:
        s.header_size += <uint8_t>take
        used[0] = take
        return 0
    used[0] = <size_t>(size - s.header_size)
    s.header_size = 0
    if not _check(&s.frame, s, rules, item):
        return 0
    return _enter(s, item)


cdef int next_item(
    Pools *pools, Inbound **state, const Rules *rules, uint8_t *p, size_t n, size_t *used, Item *item
) except -1 nogil:
    """Consume bytes up to the end of the next frame.

    Args:
        state: The connection's; NULL at first and whenever nothing is unfinished.
        p, n: Bytes as received; unmasked in place.
        used: How many were consumed. ITEM_NONE consumes all of them.
        item: What came of them; `data` is borrowed.
    """
    cdef Inbound *s
    cdef size_t done = 0
    cdef size_t part
    item.kind = ITEM_NONE
    used[0] = 0
    while done < n and item.kind == ITEM_NONE:
        s = state[0]
        if s != NULL and s.in_payload:
            part = n - done
            if part > s.remaining:
                part = <size_t>s.remaining
            _payload(pools, s, rules, p + done, part, item)
        else:
            _header(pools, state, rules, p + done, n - done, &part, item)
        done += part
    used[0] = done
    return 0


@cython.final
@cython.no_gc_clear  # __dealloc__ needs the memory
cdef class FrameReader:
    """The receiving half alone, for tests and tools: bytes in, tuples out.

    Args:
        max_message_bytes: A larger message fails with 1009.
        max_fragments: Frames a message may have; 0: no limit.
        deflate: Whether RSV1 marks compressed messages; they come out as they are, compressed.
    """

    cdef Memory _memory
    cdef Inbound *_state
    cdef Rules _rules
    cdef bint _failed

    def __cinit__(self, *, uint64_t max_message_bytes=102_400, uint32_t max_fragments=0, bint deflate=False):
        self._memory = Memory()
        self._state = NULL
        self._rules = Rules(max_message_bytes, max_fragments, deflate)
        self._failed = False

    def __dealloc__(self):
        if self._memory is not None:
            discard(&self._memory.pools, &self._state)

    def receive_data(self, bytes data):
        """Return what is complete now: ("message", opcode, compressed, bytes), ("ping", bytes), ("pong", bytes),
        ("close", code, reason: bytes) or ("fail", code, why: str), after which nothing more comes."""
        cdef bytearray copy = bytearray(data)
        cdef uint8_t[::1] view = copy
        cdef size_t done = 0
        cdef size_t used
        cdef Item item
        cdef list items = []
        while done < <size_t>view.shape[0] and not self._failed:
            next_item(
                &self._memory.pools,
                &self._state,
                &self._rules,
                &view[done],
                <size_t>view.shape[0] - done,
                &used,
                &item,
            )
            done += used
            if item.kind == ITEM_MESSAGE:
                items.append(("message", item.opcode, bool(item.compressed), item.data[:item.size]))
            elif item.kind == ITEM_PING:
                items.append(("ping", item.data[:item.size]))
            elif item.kind == ITEM_PONG:
                items.append(("pong", item.data[:item.size]))
            elif item.kind == ITEM_CLOSE:
                items.append(("close", item.code, item.data[:item.size]))
            elif item.kind == ITEM_FAIL:
                items.append(("fail", item.code, item.why.decode()))
                self._failed = True
            settle(&self._memory.pools, &self._state)
        return items

    @property
    def idle(self):
        """Whether nothing is unfinished, so that no memory is held."""
        return self._state == NULL
