"""Native packets as channels get them: rendered in Socket.IO's two parsers.

    [event, body]           an EVENT
    [event, body, ref]      an EVENT that asks, with the id ref
    ["ok", body, ref]       an ACK of the id ref
    ["error", body, ref]    an ACK whose argument is {"error": body}

With the ref MESSAGE_SENT_REF it is the EVENT "message_sent", or "error", without an id; without a ref, an EVENT. In the
default parser that is text, ``42/chat,7["event",body]``; in the msgpack parser a map whose last key is the namespace,
so that namespaces differ in the tail only. A body is copied as it is, never decoded; the one exception is JSON with
keys that begin with ``$``, which hold bytes, or stand for others: the service's converter makes attachments of them.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp

from fastim._core.encoder cimport JSON, MSGPACK
from fastim._core.namespaces cimport Namespace
from fastim._core.outbox cimport Buffers, Span
from fastim._core.sink cimport (
    Sink,
    close_sink,
    finish,
    json_string,
    mp_array_head,
    mp_string,
    open_sink,
    put,
    put_byte,
)
from fastim._core.tokens cimport KIND_INTEGER, KIND_STRING, Head, json_string_end, read_head
from fastim._core.values cimport msgpack_skip


cdef extern from "string.h" nogil:
    const void *memmem(const void *data, size_t size, const void *sought, size_t sought_size)


cdef enum:
    EVENT = 2
    ACK = 3

cdef bytes _SENT_JSON = b"9007199254740991"  # MESSAGE_SENT_REF
cdef bytes _SENT_MSGPACK = b"\xcf\x00\x1f\xff\xff\xff\xff\xff\xff"
cdef bytes _SENT_NAME_JSON = b'"message_sent",'
cdef bytes _SENT_NAME_MSGPACK = b"\xacmessage_sent"
cdef bytes _ERROR_NAME_JSON = b'"error",'
cdef bytes _ERROR_NAME_MSGPACK = b"\xa5error"
cdef bytes _OK_NAME_MSGPACK = b"\xa2ok"
cdef bytes _ERROR_KEY_JSON = b'{"error":'
cdef bytes _ERROR_KEY_MSGPACK = b"\x81\xa5error"
cdef bytes _END_OF_MAP = b"}"


cdef inline Stretch _whole(bytes data) noexcept:
    """A stretch of bytes that outlive its use."""
    return Stretch(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef inline bint _is(Stretch stretch, bytes data) noexcept:
    return stretch.size == PyBytes_GET_SIZE(data) and not memcmp(
        stretch.data, PyBytes_AS_STRING(data), <size_t>stretch.size
    )


cdef inline int _put(Sink *sink, Stretch stretch) except -1:
    return put(sink, stretch.data, stretch.size) if stretch.size else 0


cdef inline int _put_bytes(Sink *sink, bytes data) except -1:
    return put(sink, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


@cython.final
@cython.no_gc  # it ends with the call that made it
@cython.freelist(8)
cdef class Letter:
    """A packet on its way to several channels, and where it stands for those of each kind and namespace."""

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(min(self.placed, <uint32_t>PLACES)):
            self.buffers.release(self.places[i].span.chunk)

    cdef Place *keep(self, PyObject *namespace, int kind, const Span *span) noexcept:
        """Keep where it stands for another kind or namespace; where there are too many, in the oldest one's place."""
        cdef Place *place = &self.places[self.placed % PLACES]
        if self.placed >= PLACES:
            self.buffers.release(place.span.chunk)
        self.placed += 1
        place.namespace = namespace
        place.kind = kind
        place.span = span[0]
        place.span.chunk.refs += 1
        self.latest = place
        return place


cdef Letter new_letter(Buffers buffers, bytes json, bytes msgpack, uint64_t key):
    """A letter of a native packet; None: it is not there in that encoding."""
    cdef Letter letter = Letter.__new__(Letter)
    letter.buffers = buffers
    letter.json = json
    letter.msgpack = msgpack
    letter.text_attachments = ()
    letter.offset = b""
    letter.key = key
    return letter


cdef int set_forms(Letter letter, object text, object packed, bytes offset) except -1:
    """Give a letter the Socket.IO packets, each bytes or (bytes, attachments), that go to channels instead.

    Args:
        offset: A last argument of what is rendered; b"": none.
    """
    if text is not None:
        letter.text, letter.text_attachments = (text, ()) if isinstance(text, bytes) else text
    if packed is not None:
        letter.packed = packed if isinstance(packed, bytes) else packed[0]
    letter.offset = offset
    return 0


@cython.final
cdef class Renderer:
    """Writes letters for channels."""

    def __cinit__(self):
        self.names = {}

    cdef int set_names(self, names) except -1:
        """The events' names by code, kept as they stand in msgpack."""
        cdef dict encoded = {}
        cdef bytes text
        cdef Sink sink
        for code, name in names.items():
            text = name.encode()
            open_sink(&sink)
            try:
                mp_string(&sink, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
                encoded[code] = finish(&sink)
            finally:
                close_sink(&sink)
        self.names = encoded
        return 0

    cdef bytes render(self, Letter letter, int encoding, Namespace namespace):
        """The packet for channels of a parser and namespace; None if the letter has none for that parser."""
        if encoding == JSON:
            if letter.text is None and letter.json is None:
                return None
            if letter.text is None and not letter.parsed[JSON]:
                if self.converter is not None and _has_dollar(letter.json):
                    if not self.convert(letter):
                        return None
                else:
                    _parse_json(&letter.parts[JSON], letter.json)
                    letter.parsed[JSON] = True
            if letter.text is not None:
                return _with_prefix(letter.text, namespace.prefix)
            return self.native_json(letter, namespace)
        if letter.packed is not None:
            return letter.packed + namespace.tail
        if letter.msgpack is None:
            return None
        if not letter.parsed[MSGPACK]:
            self.parse_msgpack(&letter.parts[MSGPACK], letter.msgpack)
            letter.parsed[MSGPACK] = True
        return self.native_msgpack(letter, namespace)

    cdef bint convert(self, Letter letter) noexcept:
        """Let the service convert a packet with `$` keys; what it raises is reported, and nobody gets the packet."""
        letter.text, letter.text_attachments = self.converter(letter.json)
        if PyBytes_GET_SIZE(letter.offset) and letter.text.endswith(b"]") and letter.text[1:2] in b"25":
            letter.text = letter.text[:len(letter.text) - 1] + _json_argument(letter.offset) + b"]"
        return True

    cdef bytes native_json(self, Letter letter, Namespace namespace):
        cdef const Parts *parts = &letter.parts[JSON]
        cdef Sink sink
        open_sink(&sink)
        try:
            put_byte(&sink, c"4")
            put_byte(&sink, c"0" + parts.type)
            _put_bytes(&sink, namespace.prefix)
            _put(&sink, parts.id)
            put_byte(&sink, c"[")
            _put(&sink, parts.before)
            _put(&sink, parts.middle)
            _put(&sink, parts.after)
            if PyBytes_GET_SIZE(letter.offset) and parts.type == EVENT:
                _put_bytes(&sink, _json_argument(letter.offset))
            put_byte(&sink, c"]")
            return finish(&sink)
        finally:
            close_sink(&sink)

    cdef bytes native_msgpack(self, Letter letter, Namespace namespace):
        cdef const Parts *parts = &letter.parts[MSGPACK]
        cdef Py_ssize_t offset_size = PyBytes_GET_SIZE(letter.offset) if parts.type == EVENT else 0
        cdef Sink sink
        open_sink(&sink)
        try:
            put_byte(&sink, 0x84 if parts.id.size else 0x83)
            put(&sink, b"\xa4type", 5)
            put_byte(&sink, parts.type)
            put(&sink, b"\xa4data", 5)
            mp_array_head(&sink, parts.count + (1 if offset_size else 0))
            _put(&sink, parts.before)
            _put(&sink, parts.middle)
            if offset_size:
                mp_string(&sink, PyBytes_AS_STRING(letter.offset), offset_size)
            if parts.id.size:
                put(&sink, b"\xa2id", 3)
                _put(&sink, parts.id)
            _put_bytes(&sink, namespace.tail)
            return finish(&sink)
        finally:
            close_sink(&sink)

    cdef int parse_msgpack(self, Parts *parts, bytes packet) except -1:
        """Find the parts of a native packet in msgpack."""
        cdef const uint8_t *p = packet
        cdef Py_ssize_t n = PyBytes_GET_SIZE(packet)
        cdef Py_ssize_t begin, end
        cdef uint8_t items = p[0] & 0x0F if n else 0
        cdef bytes named
        cdef Stretch name
        cdef Head head
        if not n or p[0] & 0xF0 != 0x90 or not 1 <= items <= 3:
            raise ValueError("not a packet")
        read_head(&head, p, n, 1)
        if head.kind != KIND_STRING and head.kind != KIND_INTEGER:
            raise ValueError("not a packet: its event is no name and no code")
        begin = head.end + <Py_ssize_t>head.count if head.kind == KIND_STRING else head.end
        if begin > n:
            raise ValueError("not a packet: its event is cut off")
        name = Stretch(p + 1, begin - 1)
        if head.kind == KIND_INTEGER:
            named = self.names.get(head.bits)
            if named is not None:
                name = _whole(named)  # the table keeps it
        end = msgpack_skip(p, n, begin) if items == 3 else n
        _clear(parts)
        parts.middle = Stretch(p + begin, end - begin)
        parts.id = Stretch(p + end, n - end)
        parts.count = min(items, 2)
        parts.before = name
        if parts.id.size and (_is(name, _OK_NAME_MSGPACK) or _is(name, _ERROR_NAME_MSGPACK)):
            if _is(parts.id, _SENT_MSGPACK):
                parts.id.size = 0
                if _is(name, _OK_NAME_MSGPACK):
                    parts.before = _whole(_SENT_NAME_MSGPACK)
                return 0
            parts.type = ACK
            parts.count = 1
            if _is(name, _OK_NAME_MSGPACK):
                parts.before.size = 0
            else:
                parts.before = _whole(_ERROR_KEY_MSGPACK)
        return 0


cdef int _parse_json(Parts *parts, bytes packet) except -1:
    """Find the parts of a native packet in JSON.

    Only what our encoder writes around a body: no white space. Behind the body are the ref's digits, if anything; a
    body that ends in digits is a number, and has no comma before them but the one behind the event.
    """
    cdef const uint8_t *p = packet
    cdef Py_ssize_t n = PyBytes_GET_SIZE(packet)
    cdef Py_ssize_t body, end, i
    cdef Stretch name
    cdef bint escaped = False
    if n < 4 or p[0] != c"[" or p[1] != c'"' or p[n - 1] != c"]":
        raise ValueError("not a packet")
    body = json_string_end(p, n, 2, False, &escaped) + 2  # behind the quote and a comma
    name = Stretch(p + 2, body - 4)
    end = i = n - 1
    while i - 1 > body and c"0" <= p[i - 1] <= c"9":
        i -= 1
    _clear(parts)
    parts.count = 2
    if i < end and i - 1 > body and p[i - 1] == c",":
        parts.id = Stretch(p + i, end - i)
        end = i - 1
    parts.middle = Stretch(p + 1, end - 1)
    if not parts.id.size or not (_is(name, b"ok") or _is(name, b"error")):
        return 0
    parts.middle = Stretch(p + body, end - body)
    if _is(parts.id, _SENT_JSON):
        parts.id.size = 0
        parts.before = _whole(_SENT_NAME_JSON if _is(name, b"ok") else _ERROR_NAME_JSON)
        return 0
    parts.type = ACK
    if _is(name, b"error"):
        parts.before = _whole(_ERROR_KEY_JSON)
        parts.after = _whole(_END_OF_MAP)
    return 0


cdef inline void _clear(Parts *parts) noexcept:
    cdef Stretch none = Stretch(NULL, 0)
    parts.type = EVENT
    parts.id = parts.before = parts.middle = parts.after = none


cdef bint _has_dollar(bytes packet) noexcept:
    """Whether a key, or an item of an array, may begin with `$`, as it is or escaped."""
    cdef const uint8_t *begin = packet
    cdef size_t n = <size_t>PyBytes_GET_SIZE(packet)
    return _opens(begin, n, b'"$', 2) or _opens(begin, n, b'"\\u0024', 7)


cdef bint _opens(const uint8_t *begin, size_t n, const char *opening, size_t size) noexcept:
    """Whether a string that is not the value of a key begins so."""
    cdef const uint8_t *at = begin
    cdef const uint8_t *before
    while True:
        at = <const uint8_t *>memmem(at, n - <size_t>(at - begin), opening, size)
        if at == NULL:
            return False
        before = at - 1
        while before > begin and (before[0] == c" " or c"\t" <= before[0] <= c"\r"):
            before -= 1
        if before[0] == c"{" or before[0] == c",":
            return True
        at += 1


cdef bytes _json_argument(bytes text):
    """A string as one more argument."""
    cdef Sink sink
    open_sink(&sink)
    try:
        put_byte(&sink, c",")
        json_string(&sink, <const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        return finish(&sink)
    finally:
        close_sink(&sink)


cdef bytes _with_prefix(bytes packet, bytes prefix):
    """A text packet with its namespace, which stands behind the type and the number of attachments."""
    cdef const uint8_t *p = packet
    cdef Py_ssize_t n = PyBytes_GET_SIZE(packet)
    cdef Py_ssize_t place = 2
    if not PyBytes_GET_SIZE(prefix):
        return packet
    if n > 2 and (p[1] == c"5" or p[1] == c"6"):
        while place < n and c"0" <= p[place] <= c"9":
            place += 1
        place += 1  # the dash
    return packet[:place] + prefix + packet[place:]
