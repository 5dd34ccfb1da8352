# cython: autotestdict=False
"""Encoded values, decoded to Python objects; see decoder.pyi."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastim._core.tokens cimport (
    KIND_ARRAY,
    KIND_BOOLEAN,
    KIND_BYTES,
    KIND_DOUBLE,
    KIND_INTEGER,
    KIND_MAP,
    KIND_STRING,
    LEAD_BYTES,
    LEAD_ESCAPED,
    LEAD_PLAIN,
    Head,
    Lead,
    Number,
    base64_decode,
    json_colon,
    json_double_at,
    json_number,
    json_space,
    json_string_end,
    json_unescape,
    key_lead,
    read_value_head,
    wrong,
)
from fastim._core.values cimport MAX_DEPTH, MAX_SYNTAX_DEPTH, Found, json_value

__all__ = ["decode_value"]

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    CACHED_BYTES = 32  # longest text that is cached
    CACHE_ROWS = 512

cdef list CACHE = [""] * CACHE_ROWS  # by hash; a row holds the latest text of its hash


cdef str cached_text(const uint8_t *data, Py_ssize_t size):
    cdef uint32_t mixed = 2166136261
    cdef Py_ssize_t i, cached_size = 0
    cdef const char *cached
    cdef str text
    if size > CACHED_BYTES:
        return PyUnicode_DecodeUTF8(<const char *>data, size, NULL)
    for i in range(size):
        mixed = (mixed ^ data[i]) * 16777619
    mixed = (mixed ^ (mixed >> 16)) % CACHE_ROWS
    text = <str>CACHE[mixed]
    cached = PyUnicode_AsUTF8AndSize(text, &cached_size)
    if cached_size == size and memcmp(cached, data, size) == 0:
        return text
    text = PyUnicode_DecodeUTF8(<const char *>data, size, NULL)
    CACHE[mixed] = text
    return text


# Where a decoder is in its data.
cdef struct Cursor:
    const uint8_t *data
    Py_ssize_t size
    Py_ssize_t pos


# -- JSON

cdef object unescaped(Cursor *at, Py_ssize_t begin, Py_ssize_t end, bint is_bytes):
    """The str of a string that has escapes, or the bytes of base64 that may have some."""
    cdef uint8_t *copy = <uint8_t *>PyMem_Malloc(end - begin + 1)
    cdef Py_ssize_t size
    if copy == NULL:
        raise MemoryError
    try:
        size = json_unescape(at.data, begin, end, copy)
        if not is_bytes:
            return PyUnicode_DecodeUTF8(<const char *>copy, size, NULL)
        size = base64_decode(copy, size, copy)  # what is written is behind what is read
        if size < 0:
            wrong('"$bytes" is not base64', begin)
        return PyBytes_FromStringAndSize(<const char *>copy, size)
    finally:
        PyMem_Free(copy)


cdef str json_text(Cursor *at):
    """The string whose quote is at the cursor."""
    cdef bint escaped
    cdef Py_ssize_t begin = at.pos + 1
    cdef Py_ssize_t end = json_string_end(at.data, at.size, begin, True, &escaped)
    at.pos = end + 1
    if escaped:
        return unescaped(at, begin, end, False)
    return PyUnicode_DecodeUTF8(<const char *>at.data + begin, end - begin, NULL)


cdef object json_rest_of_bytes(Cursor *at):
    """The bytes of {"$bytes": "..."}; the cursor is at the brace. What is wrong with it, json_value says."""
    cdef bint escaped
    cdef Found found
    cdef Py_ssize_t begin, end
    cdef Py_ssize_t close = json_value(at.data, at.size, at.pos, True, NULL, &found)
    begin = json_space(at.data, at.size, at.pos + 1)
    end = json_string_end(at.data, at.size, begin + 1, True, &escaped)
    begin = json_colon(at.data, at.size, end + 1)
    end = json_string_end(at.data, at.size, begin + 1, True, &escaped)
    at.pos = close
    return unescaped(at, begin + 1, end, True)


cdef object json_map(Cursor *at, int depth):
    cdef Py_ssize_t brace = at.pos, begin, end
    cdef bint escaped
    cdef Lead lead
    cdef dict result = {}
    cdef str key
    at.pos = json_space(at.data, at.size, at.pos + 1)
    if at.pos < at.size and at.data[at.pos] == c'}':
        if depth == 0:
            wrong("nested too deeply", brace)
        at.pos += 1
        return result
    while True:
        if at.pos >= at.size or at.data[at.pos] != c'"':
            wrong("expected a string as key", at.pos)
        begin = at.pos + 1
        end = json_string_end(at.data, at.size, begin, True, &escaped)
        lead = LEAD_PLAIN
        if escaped or (end > begin and at.data[begin] == c'$'):
            lead = key_lead(at.data, begin, end)
            if lead == LEAD_BYTES and not result:
                at.pos = brace
                return json_rest_of_bytes(at)
            if lead != LEAD_PLAIN and lead != LEAD_ESCAPED:
                wrong('a key that begins with $ is written with $$; "$bytes" stands alone in its map', begin)
        if depth == 0:
            wrong("nested too deeply", brace)
        if escaped:
            key = unescaped(at, begin, end, False)
            if lead == LEAD_ESCAPED:
                key = key[1:]
        else:
            begin += lead == LEAD_ESCAPED
            key = cached_text(at.data + begin, end - begin)
        at.pos = json_colon(at.data, at.size, end + 1)
        result[key] = json_item(at, depth - 1)
        at.pos = json_space(at.data, at.size, at.pos)
        if at.pos < at.size and at.data[at.pos] == c',':
            at.pos = json_space(at.data, at.size, at.pos + 1)
            continue
        if at.pos >= at.size or at.data[at.pos] != c'}':
            wrong("expected , or }", at.pos)
        at.pos += 1
        return result


cdef object json_array(Cursor *at, int depth):
    cdef list result = []
    if depth == 0:
        wrong("nested too deeply", at.pos)
    at.pos = json_space(at.data, at.size, at.pos + 1)
    if at.pos < at.size and at.data[at.pos] == c']':
        at.pos += 1
        return result
    while True:
        result.append(json_item(at, depth - 1))
        at.pos = json_space(at.data, at.size, at.pos)
        if at.pos < at.size and at.data[at.pos] == c',':
            at.pos = json_space(at.data, at.size, at.pos + 1)
            continue
        if at.pos >= at.size or at.data[at.pos] != c']':
            wrong("expected , or ]", at.pos)
        at.pos += 1
        return result


cdef object json_numeric(Cursor *at):
    cdef Number number
    cdef Py_ssize_t begin = at.pos
    at.pos = json_number(at.data, at.size, begin, &number)
    if number.is_double:
        return json_double_at(at.data, begin, at.pos, &number)
    if number.out_of_range:
        wrong("integer out of range", begin)
    if number.negative:
        return <int64_t>(<uint64_t>0 - number.magnitude)
    return number.magnitude


cdef object json_item(Cursor *at, int depth):
    """The value at the cursor, which may have `depth` levels."""
    cdef uint8_t c
    cdef const uint8_t *word = at.data + at.pos
    cdef Py_ssize_t left = at.size - at.pos
    if left <= 0:
        wrong("a value is missing", at.size)
    c = word[0]
    if c == c'"':
        return json_text(at)
    if c == c'{':
        return json_map(at, depth)
    if c == c'[':
        return json_array(at, depth)
    if c == c'-' or c'0' <= c <= c'9':
        return json_numeric(at)
    at.pos += 4
    if left >= 4 and memcmp(word, b"null", 4) == 0:
        return None
    if left >= 4 and memcmp(word, b"true", 4) == 0:
        return True
    at.pos += 1
    if left >= 5 and memcmp(word, b"false", 5) == 0:
        return False
    wrong("expected a value", at.pos - 5)


# -- msgpack

cdef object msgpack_container(Cursor *at, Head *head, int depth):
    cdef uint64_t _i
    cdef list items
    cdef dict result
    cdef Head key
    cdef str name
    cdef uint64_t count = head.count
    if depth == 0:
        wrong("nested too deeply", at.pos)
    at.pos = head.end
    if head.kind == KIND_ARRAY:
        items = []
        for _i in range(count):
            items.append(msgpack_item(at, depth - 1))
        return items
    result = {}
    for _i in range(count):
        read_value_head(&key, at.data, at.size, at.pos, True)
        name = cached_text(at.data + key.end, <Py_ssize_t>key.count)
        at.pos = key.end + <Py_ssize_t>key.count
        result[name] = msgpack_item(at, depth - 1)
    return result


cdef object msgpack_item(Cursor *at, int depth):
    """The value at the cursor, which may have `depth` levels."""
    cdef Head head
    cdef const char *text
    read_value_head(&head, at.data, at.size, at.pos, False)
    if head.kind == KIND_ARRAY or head.kind == KIND_MAP:
        return msgpack_container(at, &head, depth)
    text = <const char *>at.data + head.end
    at.pos = head.end + <Py_ssize_t>head.count
    if head.kind == KIND_STRING:
        return PyUnicode_DecodeUTF8(text, <Py_ssize_t>head.count, NULL)
    if head.kind == KIND_INTEGER:
        if head.is_signed:
            return <int64_t>head.bits
        return head.bits
    if head.kind == KIND_DOUBLE:
        return head.real
    if head.kind == KIND_BYTES:
        return PyBytes_FromStringAndSize(text, <Py_ssize_t>head.count)
    if head.kind == KIND_BOOLEAN:
        return head.bits != 0
    return None


def decode_value(bytes data not None, int encoding, *, int max_depth=MAX_DEPTH):
    """Decode exactly one value."""
    cdef Cursor at
    cdef object value
    at.data = <const uint8_t *>PyBytes_AS_STRING(data)
    at.size = PyBytes_GET_SIZE(data)
    at.pos = 0
    if not 0 <= max_depth <= MAX_SYNTAX_DEPTH:
        raise ValueError(f"max_depth is not between 0 and {MAX_SYNTAX_DEPTH}")
    if encoding == 0:
        at.pos = json_space(at.data, at.size, 0)
        value = json_item(&at, max_depth)
        at.pos = json_space(at.data, at.size, at.pos)
    elif encoding == 1:
        value = msgpack_item(&at, max_depth)
    else:
        raise ValueError(f"unknown encoding {encoding}")
    if at.pos != at.size:
        wrong("data behind the value", at.pos)
    return value
