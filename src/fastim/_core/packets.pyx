"""Packets, as encoded bytes: split into their parts, and put together from values; see packets.pyi."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem, PyDict_Next
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastim._core.sink cimport (
    Sink,
    close_sink,
    finish,
    json_bytes,
    json_double,
    json_int,
    json_string,
    json_string_part,
    json_uint,
    mp_array_head,
    mp_bytes_head,
    mp_double,
    mp_int,
    mp_map_head,
    mp_string,
    mp_uint,
    open_sink,
    put,
    put_byte,
)
from fastim._core.values cimport (
    KIND_ARRAY,
    KIND_INTEGER,
    KIND_STRING,
    MAX_DEPTH,
    Found,
    Head,
    json_space,
    json_string_end,
    json_unescape,
    json_value,
    msgpack_skip,
    msgpack_value,
    read_head,
    utf8_valid,
)

from fastim.errors import ErrorCode, RequestError

__all__ = ["Encoded", "PacketCodec", "Shape", "encode_value"]

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(object number) except? 0xFFFFFFFFFFFFFFFF

cdef enum:
    JSON = 0
    MSGPACK = 1
    PACKET_DEPTH = MAX_DEPTH + 8  # a body holds content, which may have the full depth

cdef enum:
    MAX_REF = 9007199254740991  # 2^53 - 1


# -- values

@cython.final
cdef class Encoded:
    """A value that is encoded already."""

    cdef readonly bytes data
    cdef readonly int encoding

    def __init__(self, bytes data not None, int encoding):
        if encoding != JSON and encoding != MSGPACK:
            raise ValueError(f"unknown encoding {encoding}")
        self.data = data
        self.encoding = encoding


cdef int put_encoded(Sink *sink, Encoded value, int encoding) except -1:
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(value.data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value.data)
    cdef Found found
    if value.encoding == encoding:
        return put(sink, data, size)
    if value.encoding == JSON:
        json_value(data, size, json_space(data, size, 0), True, sink, &found)
    else:
        msgpack_value(data, size, 0, sink, &found)
    return 0


cdef inline int put_text(Sink *sink, object text, int encoding) except -1:
    cdef Py_ssize_t size = 0
    cdef const uint8_t *data = <const uint8_t *>PyUnicode_AsUTF8AndSize(text, &size)
    if encoding == JSON:
        return json_string(sink, data, size)
    return mp_string(sink, data, size)


cdef inline int put_number(Sink *sink, object number, int encoding) except -1:
    cdef int overflow = 0
    cdef long long value = PyLong_AsLongLongAndOverflow(number, &overflow)
    cdef unsigned long long large
    if overflow == 0:
        return json_int(sink, value) if encoding == JSON else mp_int(sink, value)
    try:
        large = PyLong_AsUnsignedLongLong(number)
    except OverflowError:
        raise ValueError("integer out of range") from None
    return json_uint(sink, large) if encoding == JSON else mp_uint(sink, large)


cdef int put_buffer(Sink *sink, object data, int encoding) except -1:
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if encoding == JSON:
            return json_bytes(sink, <const uint8_t *>view.buf, view.len)
        mp_bytes_head(sink, view.len)
        return put(sink, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef int put_key(Sink *sink, object key, int encoding) except -1:
    cdef Py_ssize_t size = 0
    cdef const uint8_t *data
    if not isinstance(key, str):
        raise ValueError(f"a key is not a string but {type(key).__name__}")
    data = <const uint8_t *>PyUnicode_AsUTF8AndSize(key, &size)
    if encoding == MSGPACK:
        return mp_string(sink, data, size)
    put_byte(sink, c'"')
    if size and data[0] == c'$':
        put_byte(sink, c'$')
    json_string_part(sink, data, size)
    return put(sink, b'":', 2)


cdef int put_map(Sink *sink, dict value, int encoding, int depth) except -1:
    cdef PyObject *key
    cdef PyObject *item
    cdef Py_ssize_t at = 0
    cdef bint first = True
    if depth == 0:
        raise ValueError("nested too deeply")
    if encoding == MSGPACK:
        mp_map_head(sink, len(value))
    else:
        put_byte(sink, c'{')
    while PyDict_Next(value, &at, &key, &item):
        if encoding == JSON and not first:
            put_byte(sink, c',')
        first = False
        put_key(sink, <object>key, encoding)
        put_value(sink, <object>item, encoding, depth - 1)
    return put_byte(sink, c'}') if encoding == JSON else 0


cdef int put_array(Sink *sink, object value, int encoding, int depth) except -1:
    cdef bint first = True
    if depth == 0:
        raise ValueError("nested too deeply")
    if encoding == MSGPACK:
        mp_array_head(sink, len(value))
    else:
        put_byte(sink, c'[')
    for item in <tuple>value if isinstance(value, tuple) else <list>value:
        if encoding == JSON and not first:
            put_byte(sink, c',')
        first = False
        put_value(sink, item, encoding, depth - 1)
    return put_byte(sink, c']') if encoding == JSON else 0


cdef int put_value(Sink *sink, object value, int encoding, int depth) except -1:
    """Write a value that may hold `depth` levels of arrays and maps."""
    cdef double real
    if isinstance(value, str):
        return put_text(sink, value, encoding)
    if value is None:
        return put(sink, b"null", 4) if encoding == JSON else put_byte(sink, 0xC0)
    if value is True:
        return put(sink, b"true", 4) if encoding == JSON else put_byte(sink, 0xC3)
    if value is False:
        return put(sink, b"false", 5) if encoding == JSON else put_byte(sink, 0xC2)
    if isinstance(value, int):
        return put_number(sink, value, encoding)
    if isinstance(value, dict):
        return put_map(sink, <dict>value, encoding, depth)
    if isinstance(value, (list, tuple)):
        return put_array(sink, value, encoding, depth)
    if isinstance(value, Encoded):
        return put_encoded(sink, <Encoded>value, encoding)
    if isinstance(value, float):
        real = value
        if not isfinite(real):
            raise ValueError("double that is not finite")
        return json_double(sink, real) if encoding == JSON else mp_double(sink, real)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return put_buffer(sink, value, encoding)
    raise ValueError(f"{type(value).__name__} is no value")


cdef int known(int encoding) except -1:
    if encoding != JSON and encoding != MSGPACK:
        raise ValueError(f"unknown encoding {encoding}")
    return 0


def encode_value(object value, int encoding):
    """Encode a value, Encoded parts inserted."""
    cdef Sink sink
    known(encoding)
    open_sink(&sink)
    try:
        put_value(&sink, value, encoding, MAX_DEPTH)
        return finish(&sink)
    finally:
        close_sink(&sink)


# -- packets, out

cdef inline int put_packet_head(Sink *sink, bytes head, int encoding, object ref) except -1:
    """`head`: the encoded event, in JSON with the bracket before and the comma behind it."""
    if encoding == MSGPACK:
        put_byte(sink, 0x92 if ref is None else 0x93)
    return put(sink, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))


cdef inline int put_packet_end(Sink *sink, int encoding, object ref) except -1:
    if encoding == JSON:
        if ref is not None:
            put_byte(sink, c',')
            put_number(sink, ref, JSON)
        return put_byte(sink, c']')
    if ref is not None:
        put_number(sink, ref, MSGPACK)
    return 0


cdef bytes event_head(object event, object code, int encoding):
    """What put_packet_head wants for an event."""
    if encoding == JSON:
        return b"[" + encode_value(event, JSON) + b","
    return encode_value(event if code is None else code, MSGPACK)


@cython.final
cdef class Shape:
    """Makes packets of one event whose body is a map of known fields."""

    cdef bytes json_head
    cdef bytes msgpack_head
    cdef tuple json_keys  # each with its colon
    cdef tuple msgpack_keys
    cdef tuple optional
    cdef Py_ssize_t count

    def __init__(self, str event not None, object code, object fields, object optional=()):
        self.json_head = event_head(event, code, JSON)
        self.msgpack_head = event_head(event, code, MSGPACK)
        self.json_keys = tuple([encode_value(field, JSON) + b":" for field in fields])
        self.msgpack_keys = tuple([encode_value(field, MSGPACK) for field in fields])
        self.optional = tuple([field in optional for field in fields])
        self.count = len(self.json_keys)

    cdef int put_body(self, Sink *sink, int encoding, tuple values) except -1:
        cdef Py_ssize_t i, present = self.count
        cdef bint first = True
        cdef tuple keys = self.json_keys if encoding == JSON else self.msgpack_keys
        cdef bytes key
        if len(values) != self.count:
            raise ValueError(f"expected {self.count} values, got {len(values)}")
        if encoding == MSGPACK:
            for i in range(self.count):
                if values[i] is None and self.optional[i] is True:
                    present -= 1
            mp_map_head(sink, present)
        else:
            put_byte(sink, c'{')
        for i in range(self.count):
            if values[i] is None and self.optional[i] is True:
                continue
            if encoding == JSON and not first:
                put_byte(sink, c',')
            first = False
            key = <bytes>keys[i]
            put(sink, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
            put_value(sink, values[i], encoding, PACKET_DEPTH)
        return put_byte(sink, c'}') if encoding == JSON else 0

    def packet(self, int encoding, tuple values not None, object ref=None):
        """Make a packet of the values, one for each field."""
        cdef Sink sink
        known(encoding)
        open_sink(&sink)
        try:
            put_packet_head(&sink, self.json_head if encoding == JSON else self.msgpack_head, encoding, ref)
            self.put_body(&sink, encoding, values)
            put_packet_end(&sink, encoding, ref)
            return finish(&sink)
        finally:
            close_sink(&sink)

    def body(self, int encoding, tuple values not None):
        """Make the body alone."""
        cdef Sink sink
        known(encoding)
        open_sink(&sink)
        try:
            self.put_body(&sink, encoding, values)
            return finish(&sink)
        finally:
            close_sink(&sink)


# -- packets, in

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
    cdef list seen  # event names, by hash of their bytes: most events come again

    def __init__(self, object names, *, Py_ssize_t max_packets=1000, Py_ssize_t max_event_bytes=64):
        self.names = dict(names)
        self.codes = {name: code for code, name in self.names.items()}
        self.max_packets = max_packets
        self.max_event_bytes = max_event_bytes
        self.seen = [""] * 256

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
        cdef uint32_t mixed = 2166136261
        cdef Py_ssize_t i, known_size = 0
        cdef const char *known_data
        if size == 0 or size > self.max_event_bytes:
            return bad(f"an event's name has 1 to {self.max_event_bytes} bytes, not {size}")
        for i in range(size):
            mixed = (mixed ^ data[i]) * 16777619
        mixed = (mixed ^ (mixed >> 16)) & 255
        name = self.seen[mixed]
        known_data = PyUnicode_AsUTF8AndSize(name, &known_size)
        if known_size == size and memcmp(known_data, data, size) == 0:
            return name
        for i in range(size):
            if data[i] < 0x20 or data[i] == 0x7F or (data[i] == 0xC2 and data[i + 1] < 0xA0):
                return bad("control character in an event's name")
        name = PyUnicode_DecodeUTF8(<const char *>data, size, NULL)
        self.seen[mixed] = name
        return name

    cdef int append(self, list packets, object event, const uint8_t *data, Parts *parts) except -1:
        """Append the packet that the parts make, or what is wrong with it."""
        cdef object ref = parts.ref if parts.ref > 0 else None
        cdef object body = None
        if parts.items == 0:
            body = bad("an empty array is no packet")
        elif event is None:
            body = bad("an event is a string" if parts.is_json else "an event is a string or a positive integer")
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
        cdef Py_ssize_t pos, i, count
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
            for i in range(count):
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
