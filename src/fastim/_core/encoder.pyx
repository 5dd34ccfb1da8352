# cython: auto_pickle=False, autotestdict=False
"""Values and packets, encoded in one pass over Python objects; see encoder.pyi."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from libc.math cimport isfinite
from libc.stdint cimport uint8_t

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
from fastim._core.tokens cimport json_space
from fastim._core.values cimport Found, json_value, msgpack_value

__all__ = ["Encoded", "Shape", "encode_value"]

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(object number) except? 0xFFFFFFFFFFFFFFFF


# -- values

@cython.final
cdef class Encoded:
    """A value that is encoded already."""

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


cdef int put_packet_end(Sink *sink, int encoding, object ref) except -1:
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


cdef bytes json_key_of(object field):
    """A field's key with its colon."""
    cdef bytes whole = encode_value({field: 0}, JSON)
    return whole[1:len(whole) - 2]


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
        self.json_keys = tuple([json_key_of(field) for field in fields])
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
