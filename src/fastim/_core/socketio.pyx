# cython: auto_pickle=False, autotestdict=False
"""Packets of Socket.IO: read to Python values, and written from them; see socketio.pyi."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastim._core.decoder cimport Cursor, cached_text, json_item, msgpack_item
from fastim._core.encoder cimport JSON, MSGPACK, PACKET_DEPTH, known, put_value
from fastim._core.sink cimport (
    Sink,
    close_sink,
    finish,
    json_int,
    json_string,
    json_uint,
    mp_array_head,
    mp_double,
    mp_map_head,
    mp_string,
    mp_uint,
    open_sink,
    put,
    put_big_endian,
    put_byte,
)
from fastim._core.tokens cimport (
    KIND_INTEGER,
    KIND_MAP,
    Head,
    json_space,
    json_string_end,
    read_head,
    read_value_head,
    utf8_valid,
    wrong,
)
from fastim._core.values cimport msgpack_skip

from datetime import UTC, datetime, timedelta

__all__ = ["PacketWriter", "complete", "native_body", "read_map", "read_text"]

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6
    NO_ID = -1
    MAX_ID = 9007199254740990  # 2^53 - 2; the next one is what the service answers by where there is none
    MAX_NAMESPACE_BYTES = 256
    MAX_HEAD_BYTES = 48  # "45", a count, "-" and an id

cdef frozenset RESERVED = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")
)
cdef object EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
cdef object MILLISECOND = timedelta(milliseconds=1)


# -- in

# What stands before a packet's data.
cdef struct Intro:
    int type
    int64_t id
    int64_t attachments


cdef inline void place(Cursor *at, bytes packet) noexcept:
    at.data = <const uint8_t *>PyBytes_AS_STRING(packet)
    at.size = PyBytes_GET_SIZE(packet)
    at.pos = 0
    at.is_plain = True
    at.attachments = NULL


cdef inline bint is_digit(const Cursor *at) noexcept:
    return at.pos < at.size and c'0' <= at.data[at.pos] <= c'9'


cdef int64_t read_digits(Cursor *at, int64_t most) except -1:
    """The number at the cursor, which has a digit there."""
    cdef int64_t number = 0
    cdef Py_ssize_t begin = at.pos
    while is_digit(at):
        number = number * 10 + (at.data[at.pos] - c'0')
        if number > most:
            wrong(f"a number above {most}", begin)
        at.pos += 1
    return number


cdef str read_namespace(Cursor *at):
    """The namespace at the cursor, which is behind it and its comma afterwards."""
    cdef Py_ssize_t begin = at.pos, end
    if begin >= at.size or at.data[begin] != c'/':
        return "/"
    while at.pos < at.size and at.data[at.pos] != c',':
        at.pos += 1
    end = at.pos
    at.pos += at.pos < at.size
    return namespace_text(at, begin, end)


cdef str namespace_text(const Cursor *at, Py_ssize_t begin, Py_ssize_t end):
    if end - begin > MAX_NAMESPACE_BYTES:
        wrong(f"a namespace of more than {MAX_NAMESPACE_BYTES} bytes", begin)
    if not utf8_valid(at.data + begin, end - begin):
        wrong("invalid UTF-8 in a namespace", begin)
    return cached_text(at.data + begin, end - begin)


cdef str read_intro(Cursor *at, Intro *intro):
    """Read a text packet up to its data; its namespace."""
    cdef str namespace
    intro.id = NO_ID
    intro.attachments = 0
    if at.size == 0 or not c'0' <= at.data[0] <= c'6':
        wrong("unknown packet type", 0)
    intro.type = at.data[0] - c'0'
    at.pos = 1
    if intro.type >= BINARY_EVENT:
        if not is_digit(at):
            wrong("the number of attachments is missing", 1)
        intro.attachments = read_digits(at, MAX_ID)
        if at.pos >= at.size or at.data[at.pos] != c'-':
            wrong("expected - behind the number of attachments", at.pos)
        at.pos += 1
    namespace = read_namespace(at)
    if is_digit(at):
        intro.id = read_digits(at, MAX_ID)
    return namespace


cdef str checked_event(object event, Py_ssize_t pos):
    if type(event) is not str:
        wrong("an event's name is a string", pos)
    if event in RESERVED:
        wrong("the event's name is reserved", pos)
    return event


cdef str json_event(Cursor *at):
    """The name of an event, which is the first of its items."""
    cdef Py_ssize_t begin = at.pos, end
    cdef bint escaped
    if begin < at.size and at.data[begin] == c'"':
        end = json_string_end(at.data, at.size, begin + 1, False, &escaped)
        if not escaped:
            at.pos = end + 1
            return checked_event(cached_text(at.data + begin + 1, end - begin - 1), begin)
    return checked_event(json_item(at, PACKET_DEPTH), begin)


cdef tuple json_items(Cursor *at, bint is_event):
    """The array at the cursor: an event's name, or an empty string, and the other items."""
    cdef list items = []
    cdef str event = ""
    cdef bint first = True
    if at.pos >= at.size or at.data[at.pos] != c'[':
        wrong("expected an array", at.pos)
    at.pos = json_space(at.data, at.size, at.pos + 1)
    if at.pos < at.size and at.data[at.pos] == c']':
        if is_event:
            wrong("an event has a name", at.pos)
        at.pos += 1
        return event, items
    while True:
        if first and is_event:
            event = json_event(at)
        else:
            items.append(json_item(at, PACKET_DEPTH))
        first = False
        at.pos = json_space(at.data, at.size, at.pos)
        if at.pos < at.size and at.data[at.pos] == c',':
            at.pos = json_space(at.data, at.size, at.pos + 1)
            continue
        if at.pos >= at.size or at.data[at.pos] != c']':
            wrong("expected , or ]", at.pos)
        at.pos += 1
        return event, items


cdef object json_auth(Cursor *at):
    """The object of a CONNECT, None if there is none."""
    if at.pos == at.size:
        return None
    if at.data[at.pos] != c'{':
        wrong("expected an object", at.pos)
    return json_item(at, PACKET_DEPTH)


cdef int check_id(int type, int64_t id) except -1:
    """Only events may and acknowledgements must have an id."""
    if type == ACK and id == NO_ID:
        wrong("an acknowledgement has an id", 1)
    if (type == CONNECT or type == DISCONNECT) and id != NO_ID:
        wrong("an id where none can be", 1)
    return 0


cdef tuple text_packet(Cursor *at, Intro *intro, str namespace):
    """The packet whose data are at the cursor; binary types as those without attachments."""
    cdef int type = intro.type if intro.type < BINARY_EVENT else intro.type - 3
    cdef str event = ""
    cdef object data = None
    check_id(type, intro.id)
    if type == EVENT or type == ACK:
        event, data = json_items(at, type == EVENT)
    elif type == CONNECT:
        data = json_auth(at)
    elif type == CONNECT_ERROR:
        wrong("a client sends no CONNECT_ERROR", 0)
    if type != DISCONNECT:
        at.pos = json_space(at.data, at.size, at.pos)
    if at.pos != at.size:
        wrong("data behind the packet", at.pos)
    return type, namespace, None if intro.id == NO_ID else intro.id, event, data


def read_text(bytes packet not None, int max_attachments):
    """Read a packet of the default parser."""
    cdef Cursor at
    cdef Intro intro
    cdef list wanted
    cdef tuple whole
    place(&at, packet)
    cdef str namespace = read_intro(&at, &intro)
    if intro.type < BINARY_EVENT:
        return text_packet(&at, &intro, namespace)
    if intro.attachments > max_attachments:
        wrong(f"more than {max_attachments} attachments", 1)
    # The placeholders are checked at once, against attachments that are still to come.
    wanted = [b""] * intro.attachments
    at.attachments = <PyObject *>wanted
    whole = text_packet(&at, &intro, namespace)
    if intro.attachments == 0:
        return whole
    return intro.type, namespace, whole[2], whole[3], intro.attachments


def complete(bytes packet not None, list attachments not None):
    """Read a packet whose attachments have come."""
    cdef Cursor at
    cdef Intro intro
    place(&at, packet)
    cdef str namespace = read_intro(&at, &intro)
    if intro.attachments != len(attachments):
        raise ValueError(f"{intro.attachments} attachments are named, {len(attachments)} came")
    at.attachments = <PyObject *>attachments
    return text_packet(&at, &intro, namespace)


# Where the fields of a msgpack packet are; 0: it has no such field.
cdef struct Fields:
    Py_ssize_t type
    Py_ssize_t namespace
    Py_ssize_t id
    Py_ssize_t data


cdef inline bint key_is(const Cursor *at, const Head *key, bytes name) noexcept:
    cdef Py_ssize_t i, size = PyBytes_GET_SIZE(name)
    cdef const char *text = PyBytes_AS_STRING(name)
    if <Py_ssize_t>key.count != size:
        return False
    for i in range(size):
        if at.data[key.end + i] != <uint8_t>text[i]:
            return False
    return True


cdef int find_fields(Cursor *at, Fields *fields) except -1:
    """Find the fields; those of other names are skipped."""
    cdef Head head
    cdef uint64_t left
    fields.type = fields.namespace = fields.id = fields.data = 0
    read_value_head(&head, at.data, at.size, 0, False)
    if head.kind != KIND_MAP:
        wrong("a packet is a map", 0)
    at.pos = head.end
    left = head.count
    while left:
        left -= 1
        read_value_head(&head, at.data, at.size, at.pos, True)
        at.pos = head.end + <Py_ssize_t>head.count
        if key_is(at, &head, b"type"):
            fields.type = at.pos
        elif key_is(at, &head, b"nsp"):
            fields.namespace = at.pos
        elif key_is(at, &head, b"id"):
            fields.id = at.pos
        elif key_is(at, &head, b"data"):
            fields.data = at.pos
        at.pos = msgpack_skip(at.data, at.size, at.pos)
    if at.pos != at.size:
        wrong("data behind the packet", at.pos)
    return 0


cdef bint is_absent(const Cursor *at, Py_ssize_t pos) noexcept:
    """Whether a field is not there, null, or undefined as notepack writes it."""
    return pos == 0 or at.data[pos] == 0xC0 or (at.data[pos] == 0xD4 and at.data[pos + 1] == 0)


cdef int64_t integer_at(const Cursor *at, Py_ssize_t pos, int64_t most) except -1:
    cdef Head head
    if pos == 0:
        wrong("a field is missing", 0)
    read_head(&head, at.data, at.size, pos)
    if head.kind != KIND_INTEGER or head.bits > <uint64_t>most:  # a negative one has high bits
        wrong(f"expected an integer from 0 to {most}", pos)
    return <int64_t>head.bits


cdef str namespace_at(const Cursor *at, Py_ssize_t pos):
    cdef Head head
    if is_absent(at, pos):
        return "/"
    read_value_head(&head, at.data, at.size, pos, True)
    return namespace_text(at, head.end, head.end + <Py_ssize_t>head.count)


cdef tuple map_items(object data, bint is_event, Py_ssize_t pos):
    cdef list items
    if type(data) is not list:
        wrong("expected an array", pos)
    items = <list>data
    if not is_event:
        return "", items
    if not items:
        wrong("an event has a name", pos)
    return checked_event(items.pop(0), pos), items


def read_map(bytes packet not None):
    """Read a packet of the msgpack parser."""
    cdef Cursor at
    cdef Fields fields
    cdef int type
    cdef int64_t id = NO_ID
    cdef str namespace, event = ""
    cdef object data = None
    place(&at, packet)
    find_fields(&at, &fields)
    type = <int>integer_at(&at, fields.type, CONNECT_ERROR)
    namespace = namespace_at(&at, fields.namespace)
    if not is_absent(&at, fields.id):
        id = integer_at(&at, fields.id, MAX_ID)
    check_id(type, id)
    if not is_absent(&at, fields.data):
        at.pos = fields.data
        data = msgpack_item(&at, PACKET_DEPTH + 1)
    if type == EVENT or type == ACK:
        event, data = map_items(data, type == EVENT, fields.data)
    elif type == CONNECT_ERROR:
        wrong("a client sends no CONNECT_ERROR", 0)
    elif data is not None and (type == DISCONNECT or not isinstance(data, dict)):
        wrong("data where none can be, or no map", fields.data)
    return type, namespace, None if id == NO_ID else id, event, data


def native_body(object value, int encoding):
    """Encode an argument as the body of a native packet."""
    cdef Sink sink
    known(encoding)
    open_sink(&sink)
    try:
        put_value(&sink, value, encoding, PACKET_DEPTH)
        return finish(&sink)
    finally:
        close_sink(&sink)


# -- out

cdef object date_text(object date):
    """As JavaScript's JSON has dates."""
    if date.tzinfo is None:
        raise ValueError("a datetime without a time zone says no time")
    return date.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


cdef int put_date(Sink *sink, object date) except -1:
    """As notepack has dates: an extension of type 0, milliseconds since the epoch."""
    if date.tzinfo is None:
        raise ValueError("a datetime without a time zone says no time")
    cdef int64_t time_ms = (date - EPOCH) // MILLISECOND
    put_byte(sink, 0xD7)
    return put_big_endian(sink, 0, <uint64_t>time_ms, 8)


@cython.final
cdef class PacketWriter:
    """Writes packets."""

    cdef object convert

    def __init__(self, object convert):
        self.convert = convert

    def event(self, str event not None, object arguments, int encoding, object ref=None):
        """Write an EVENT."""
        return self.packet(EVENT, event, arguments, encoding, NO_ID if ref is None else ref)

    def ack(self, int64_t ref, object arguments, int encoding):
        """Write an ACK."""
        return self.packet(ACK, None, arguments, encoding, ref)

    def answer(self, int type, dict data not None, int encoding):
        """Write the CONNECT or the CONNECT_ERROR that answers a CONNECT."""
        cdef Sink sink
        known(encoding)
        open_sink(&sink)
        try:
            if encoding == JSON:
                put_byte(&sink, c'4')
                json_int(&sink, type)
            else:
                put(&sink, b"\x83\xa4type", 6)  # nsp is the third, and comes behind
                mp_uint(&sink, type)
                put(&sink, b"\xa4data", 5)
            self.put_any(&sink, data, encoding, PACKET_DEPTH, None)
            return finish(&sink)
        finally:
            close_sink(&sink)

    cdef tuple packet(self, int type, str event, object arguments, int encoding, int64_t ref):
        cdef Sink sink
        cdef list attachments = []
        known(encoding)
        open_sink(&sink)
        try:
            if encoding == JSON:
                sink.size = MAX_HEAD_BYTES  # the number of attachments is known in the end
                self.put_items(&sink, event, arguments, JSON, attachments)
                return finish_text(&sink, type, len(attachments), ref), tuple(attachments)
            put(&sink, b"\x83\xa4type" if ref == NO_ID else b"\x84\xa4type", 6)  # with nsp, which comes behind
            put_byte(&sink, <uint8_t>type)
            put(&sink, b"\xa4data", 5)
            self.put_items(&sink, event, arguments, MSGPACK, attachments)
            if ref != NO_ID:
                put(&sink, b"\xa2id", 3)
                mp_uint(&sink, <uint64_t>ref)
            return finish(&sink), ()
        finally:
            close_sink(&sink)

    cdef int put_items(
        self, Sink *sink, str event, object arguments, int encoding, list attachments
    ) except -1:
        """Write the array of an event's name, if there is one, and the arguments."""
        cdef bint first = event is None
        if encoding == MSGPACK:
            mp_array_head(sink, len(arguments) + (event is not None))
        else:
            put_byte(sink, c'[')
        if event is not None:
            put_value(sink, event, encoding, 0)
        for item in arguments:
            if encoding == JSON and not first:
                put_byte(sink, c',')
            first = False
            self.put_any(sink, item, encoding, PACKET_DEPTH, attachments)
        return put_byte(sink, c']') if encoding == JSON else 0

    cdef int put_any(self, Sink *sink, object value, int encoding, int depth, list attachments) except -1:
        """Write a value that may hold `depth` levels of arrays and maps."""
        if isinstance(value, dict):
            return self.put_map(sink, <dict>value, encoding, depth, attachments)
        if isinstance(value, float):
            if encoding == MSGPACK:
                return mp_double(sink, value)
            return put_value(sink, value if isfinite(value) else None, JSON, 0)
        if value is None or isinstance(value, (str, int)):
            return put_value(sink, value, encoding, 0)
        if isinstance(value, (list, tuple)):
            return self.put_array(sink, value, encoding, depth, attachments)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return put_data(sink, value, encoding, attachments)
        if isinstance(value, datetime):
            return put_value(sink, date_text(value), JSON, 0) if encoding == JSON else put_date(sink, value)
        if depth == 0:
            raise ValueError("nested too deeply")
        return self.put_any(sink, self.convert(value), encoding, depth - 1, attachments)

    cdef int put_map(self, Sink *sink, dict value, int encoding, int depth, list attachments) except -1:
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
            self.put_any(sink, <object>item, encoding, depth - 1, attachments)
        return put_byte(sink, c'}') if encoding == JSON else 0

    cdef int put_array(self, Sink *sink, object value, int encoding, int depth, list attachments) except -1:
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
            self.put_any(sink, item, encoding, depth - 1, attachments)
        return put_byte(sink, c']') if encoding == JSON else 0


cdef int put_key(Sink *sink, object key, int encoding) except -1:
    """Write a key; numbers as json.dumps has them, since JavaScript knows only strings."""
    cdef Py_ssize_t size = 0
    cdef const uint8_t *text
    if type(key) is int:
        key = str(key)
    if not isinstance(key, str):
        raise ValueError(f"a key is not a string but {type(key).__name__}")
    text = <const uint8_t *>PyUnicode_AsUTF8AndSize(key, &size)
    if encoding == MSGPACK:
        return mp_string(sink, text, size)
    json_string(sink, text, size)
    return put_byte(sink, c':')


cdef int put_data(Sink *sink, object data, int encoding, list attachments) except -1:
    """Write bytes; in JSON a placeholder, and they are attached."""
    if encoding == MSGPACK:
        return put_value(sink, data, MSGPACK, 0)
    if attachments is None:
        raise ValueError("no bytes can be attached here")
    put(sink, b'{"_placeholder":true,"num":', 27)
    json_int(sink, len(attachments))
    attachments.append(bytes(data))
    return put_byte(sink, c'}')


cdef bytes finish_text(Sink *sink, int type, Py_ssize_t attachments, int64_t ref):
    """The text packet whose array stands in the sink behind room for its head."""
    cdef Sink head
    cdef uint8_t *begin = sink.data + MAX_HEAD_BYTES
    cdef Py_ssize_t i
    open_sink(&head)
    put_byte(&head, c'4')
    json_int(&head, type + 3 if attachments else type)
    if attachments:
        json_int(&head, attachments)
        put_byte(&head, c'-')
    if ref != NO_ID:
        json_uint(&head, <uint64_t>ref)
    begin -= head.size
    for i in range(head.size):
        begin[i] = head.data[i]
    i = head.size
    close_sink(&head)
    return PyBytes_FromStringAndSize(<const char *>begin, sink.size - MAX_HEAD_BYTES + i)
