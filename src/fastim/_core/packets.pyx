# cython: auto_pickle=False, autotestdict=False
"""Packets, as encoded bytes: split into their parts, and put together from values; see packets.pyi."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastim._core.decoder cimport cached_text
from fastim._core.encoder cimport JSON, MSGPACK, PACKET_DEPTH, known, put_packet_end, put_value
from fastim._core.sink cimport Sink, close_sink, finish, open_sink, put_byte
from fastim._core.tokens cimport (
    KIND_ARRAY,
    KIND_INTEGER,
    KIND_STRING,
    Head,
    json_space,
    json_string_end,
    json_unescape,
    read_head,
    utf8_valid,
)
from fastim._core.values cimport Found, json_value, msgpack_skip

from fastim.errors import ErrorCode, RequestError

__all__ = ["PacketCodec"]

cdef enum:
    MAX_REF = 9007199254740991  # 2^53 - 1

# Where a packet's parts are in its message.
cdef struct Parts:
    bint is_json
    bint too_deep
    Py_ssize_t items
    Py_ssize_t body
    Py_ssize_t body_end
    int64_t ref  # 0: none, -1: not a ref


cdef object bad(str message):
    return RequestError(ErrorCode.BAD_PACKET, message)


@cython.final
cdef class PacketCodec:
    """Splits messages into packets and makes packets."""

    cdef dict names  # by code
    cdef dict codes  # by name
    cdef Py_ssize_t max_packets
    cdef Py_ssize_t max_event_bytes

    def __init__(self, object names, *, Py_ssize_t max_packets=1000, Py_ssize_t max_event_bytes=64):
        self.names = dict(names)
        self.codes = {name: code for code, name in self.names.items()}
        self.max_packets = max_packets
        self.max_event_bytes = max_event_bytes

    # -- out

    def encode(self, object event, object body, int encoding, object ref=None):
        """Make a packet."""
        cdef Sink sink
        cdef PyObject *code
        known(encoding)
        open_sink(&sink)
        try:
            if encoding == JSON:
                put_byte(&sink, c'[')
                put_value(&sink, event, JSON, 0)
                put_byte(&sink, c',')
            else:
                put_byte(&sink, 0x92 if ref is None else 0x93)
                code = PyDict_GetItem(self.codes, event)
                put_value(&sink, event if code == NULL else <object>code, MSGPACK, 0)
            put_value(&sink, body, encoding, PACKET_DEPTH)
            put_packet_end(&sink, encoding, ref)
            return finish(&sink)
        finally:
            close_sink(&sink)

    # -- in

    def split(self, bytes payload not None, int encoding):
        """Split a message into its packets."""
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(payload)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        cdef list packets = []
        try:
            if encoding == JSON:
                self.split_json(data, size, packets)
            elif encoding == MSGPACK:
                self.split_msgpack(data, size, packets)
            else:
                raise RuntimeError(f"unknown encoding {encoding}")
        except ValueError as error:
            raise bad(str(error)) from None
        return packets

    cdef object event_name(self, const uint8_t *data, Py_ssize_t size):
        """The event's name, or a RequestError; `data` is valid UTF-8."""
        cdef Py_ssize_t i
        if size == 0 or size > self.max_event_bytes:
            return bad(f"an event's name has 1 to {self.max_event_bytes} bytes, not {size}")
        for i in range(size):
            if data[i] < 0x20 or data[i] == 0x7F or (data[i] == 0xC2 and data[i + 1] < 0xA0):
                return bad("control character in an event's name")
        return cached_text(data, size)

    cdef int append(self, list packets, object event, const uint8_t *data, Parts *parts) except -1:
        """Append the packet that the parts make, or what is wrong with it."""
        cdef object ref = parts.ref if parts.ref > 0 else None
        cdef object body = None
        if parts.items == 0:
            body = bad("an empty array is no packet")
        elif event is None:
            body = bad("an event is a string" + ("" if parts.is_json else " or a positive integer"))
        elif type(event) is RequestError:
            body = event
            event = None
        elif parts.items == 1:
            body = bad("a packet has a body: [event, body] or [event, body, ref]")
        elif parts.items > 3:
            body = bad("a packet has at most three items: [event, body, ref]")
        elif parts.ref < 0:
            body = bad("ref: expected a positive integer below 2^53")
        elif parts.too_deep:
            body = RequestError(ErrorCode.BAD_REQUEST, "body: nested too deeply")
        else:
            body = PyBytes_FromStringAndSize(<const char *>data + parts.body, parts.body_end - parts.body)
        packets.append((event, body, ref))
        return 0

    # -- JSON

    cdef int split_json(self, const uint8_t *data, Py_ssize_t size, list packets) except -1:
        cdef Py_ssize_t pos = json_space(data, size, 0), count = 1
        cdef Found found
        if pos >= size or data[pos] != c'[':
            raise ValueError("a message is an array: a packet or a batch of packets")
        pos = json_space(data, size, pos + 1)
        if pos >= size or data[pos] != c'[':
            pos = self.json_packet(data, size, pos, packets)
        else:
            while True:
                if pos < size and data[pos] == c'[':
                    pos = self.json_packet(data, size, json_space(data, size, pos + 1), packets)
                else:
                    pos = json_value(data, size, pos, False, NULL, &found)
                    packets.append((None, bad("a packet is an array"), None))
                pos = json_space(data, size, pos)
                if pos >= size or (data[pos] != c',' and data[pos] != c']'):
                    raise ValueError(f"expected , or ] (byte {pos})")
                pos += 1
                if data[pos - 1] == c']':
                    break
                count += 1
                if count > self.max_packets:
                    raise RequestError(
                        ErrorCode.TOO_LARGE, f"a batch holds at most {self.max_packets} packets"
                    )
                pos = json_space(data, size, pos)
        pos = json_space(data, size, pos)
        if pos != size:
            raise ValueError(f"data behind the message (byte {pos})")
        return 0

    cdef object json_event(self, const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, bint escaped):
        cdef uint8_t *copy
        cdef bint again
        cdef Py_ssize_t size
        if not escaped:
            return self.event_name(data + begin, end - begin)
        if end - begin > 6 * self.max_event_bytes:  # each byte may be an escape
            return bad(f"an event's name has 1 to {self.max_event_bytes} bytes")
        try:
            json_string_end(data, end + 1, begin, True, &again)
        except ValueError as error:
            return bad(f"event: {error}")
        copy = <uint8_t *>PyMem_Malloc(end - begin)
        if copy == NULL:
            raise MemoryError
        try:
            size = json_unescape(data, begin, end, copy)
            return self.event_name(copy, size)
        finally:
            PyMem_Free(copy)

    cdef Py_ssize_t json_packet(
        self, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, list packets
    ) except -1:
        """Append the packet whose first item (or closing bracket) is at pos; its end."""
        cdef Parts parts
        cdef Py_ssize_t begin
        cdef Found found
        cdef bint escaped = False
        cdef object event = None
        parts.is_json = True
        parts.items = parts.ref = 0
        parts.too_deep = False
        if pos < size and data[pos] == c']':
            self.append(packets, event, data, &parts)
            return pos + 1
        while True:
            begin = pos
            if parts.items == 0 and pos < size and data[pos] == c'"':
                pos = json_string_end(data, size, pos + 1, False, &escaped) + 1
                event = self.json_event(data, begin + 1, pos - 1, escaped)
            else:
                pos = json_value(data, size, pos, False, NULL, &found)
                if parts.items == 1:
                    parts.body = begin
                    parts.body_end = pos
                    parts.too_deep = found.too_deep
                elif parts.items == 2:
                    parts.ref = json_ref(data, begin, pos, found.kind)
            parts.items += 1
            pos = json_space(data, size, pos)
            if pos >= size or (data[pos] != c',' and data[pos] != c']'):
                raise ValueError(f"expected , or ] (byte {pos})")
            pos += 1
            if data[pos - 1] == c']':
                self.append(packets, event, data, &parts)
                return pos
            pos = json_space(data, size, pos)

    # -- msgpack

    cdef int split_msgpack(self, const uint8_t *data, Py_ssize_t size, list packets) except -1:
        cdef Head head, first
        cdef Py_ssize_t pos, _i, count
        read_head(&head, data, size, 0)
        if head.kind != KIND_ARRAY:
            raise ValueError("a message is an array: a packet or a batch of packets")
        pos = head.end
        first.kind = KIND_INTEGER
        if head.count:
            read_head(&first, data, size, pos)
        if first.kind != KIND_ARRAY:
            pos = self.msgpack_packet(data, size, &head, packets)
        else:
            if head.count > <uint64_t>self.max_packets:
                raise RequestError(ErrorCode.TOO_LARGE, f"a batch holds at most {self.max_packets} packets")
            count = <Py_ssize_t>head.count
            for _i in range(count):
                read_head(&head, data, size, pos)
                if head.kind == KIND_ARRAY:
                    pos = self.msgpack_packet(data, size, &head, packets)
                else:
                    pos = msgpack_skip(data, size, pos)
                    packets.append((None, bad("a packet is an array"), None))
        if pos != size:
            raise ValueError(f"data behind the message (byte {pos})")
        return 0

    cdef object msgpack_event(self, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Py_ssize_t end):
        """The event at pos, None if it is none, or a RequestError."""
        cdef Head head
        cdef PyObject *name
        read_head(&head, data, size, pos)
        if head.kind == KIND_STRING:
            if not utf8_valid(data + head.end, end - head.end):
                return bad("invalid UTF-8 in an event's name")
            return self.event_name(data + head.end, end - head.end)
        if head.kind != KIND_INTEGER or head.bits == 0 or (head.is_signed and <int64_t>head.bits < 0):
            return None
        code = head.bits
        name = PyDict_GetItem(self.names, code)
        return code if name == NULL else <object>name

    cdef Py_ssize_t msgpack_packet(
        self, const uint8_t *data, Py_ssize_t size, Head *array, list packets
    ) except -1:
        """Append the packet whose head is read; its end."""
        cdef Parts parts
        cdef Head head
        cdef Py_ssize_t pos = array.end, begin
        cdef object event = None
        parts.is_json = parts.too_deep = False
        parts.items = parts.ref = 0
        if array.count > <uint64_t>(size - pos):
            raise ValueError(f"truncated (byte {size})")
        while parts.items < <Py_ssize_t>array.count:
            begin = pos
            pos = msgpack_skip(data, size, pos)
            if parts.items == 0:
                event = self.msgpack_event(data, size, begin, pos)
            elif parts.items == 1:
                parts.body = begin
                parts.body_end = pos
            elif parts.items == 2:
                read_head(&head, data, size, begin)
                parts.ref = -1
                if head.kind == KIND_INTEGER and 0 < head.bits <= MAX_REF:  # a negative one has high bits
                    parts.ref = <int64_t>head.bits
            parts.items += 1
        self.append(packets, event, data, &parts)
        return pos


cdef int64_t json_ref(const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, int kind) noexcept nogil:
    """The ref that is written there, -1 if it is none."""
    cdef int64_t ref = 0
    cdef Py_ssize_t pos
    if kind != KIND_INTEGER or data[begin] == c'-' or end - begin > 16:
        return -1
    for pos in range(begin, end):
        ref = ref * 10 + (data[pos] - c'0')
    return ref if 0 < ref <= <int64_t>MAX_REF else -1
