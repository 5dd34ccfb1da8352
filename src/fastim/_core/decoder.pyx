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
    KIND_EXTENSION,
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
    check_head,
    json_colon,
    json_double_at,
    json_number,
    json_space,
    json_string_end,
    json_unescape,
    key_lead,
    read_head,
    wrong,
)
from fastim._core.values cimport MAX_DEPTH, MAX_SYNTAX_DEPTH, Found, json_value

from datetime import UTC, datetime, timedelta

__all__ = ["decode_value"]

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    CACHED_BYTES = 32  # longest text that is cached
    CACHE_ROWS = 512

cdef object EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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
    cdef Py_ssize_t end = json_string_end(at.data, at.size, begin, not at.is_plain, &escaped)
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
        end = json_string_end(at.data, at.size, begin, not at.is_plain, &escaped)
        lead = LEAD_PLAIN
        if not at.is_plain and (escaped or (end > begin and at.data[begin] == c'$')):
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
        if at.attachments != NULL and result.get("_placeholder") is True:
            return attachment(at, result, brace)
        return result


cdef object attachment(Cursor *at, dict placeholder, Py_ssize_t brace):
    """The attachment that a placeholder names; each may be named once, and is taken out of the list."""
    cdef list attachments = <list>at.attachments
    cdef object number = placeholder.get("num")
    cdef object data
    if type(number) is not int or not 0 <= number < len(attachments):
        wrong("a placeholder names no attachment", brace)
    data = attachments[number]
    if data is None:
        wrong("two placeholders name one attachment", brace)
    attachments[number] = None
    return data


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
        if at.is_plain:  # JavaScript writes its doubles below 10^21 without a point or an exponent
            return json_double_at(at.data, begin, at.pos, &number)
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

cdef int item_head(Head *head, Cursor *at, bint is_key) except -1:
    """Read the head at the cursor; plain values may be extensions, and doubles that are not finite."""
    read_head(head, at.data, at.size, at.pos)
    if at.is_plain and not is_key:
        if head.kind == KIND_DOUBLE:
            return 0
        if head.kind == KIND_EXTENSION:
            if head.count > <uint64_t>(at.size - head.end):
                wrong("truncated", at.size)
            return 0
    return check_head(head, at.data, at.size, at.pos, is_key)


cdef object extension(Cursor *at, const Head *head):
    """What notepack writes as extensions, all of type 0, told apart by their first byte."""
    cdef uint8_t first = at.data[at.pos]
    cdef const uint8_t *data = at.data + head.end + 1
    cdef uint64_t time_ms = 0
    cdef int i
    if at.data[head.end] != 0:
        wrong("unknown extension type", head.end)
    if first == 0xD4:
        return None  # undefined
    if first != 0xD7:
        return PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>head.count - 1)  # a typed array
    for i in range(8):
        time_ms = (time_ms << 8) | data[i]
    try:
        return EPOCH + timedelta(milliseconds=<int64_t>time_ms)
    except OverflowError:
        wrong("date out of range", at.pos)


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
        item_head(&key, at, True)
        name = cached_text(at.data + key.end, <Py_ssize_t>key.count)
        at.pos = key.end + <Py_ssize_t>key.count
        result[name] = msgpack_item(at, depth - 1)
    return result


cdef object msgpack_item(Cursor *at, int depth):
    """The value at the cursor, which may have `depth` levels."""
    cdef Head head
    cdef const char *text
    cdef object value
    item_head(&head, at, False)
    if head.kind == KIND_ARRAY or head.kind == KIND_MAP:
        return msgpack_container(at, &head, depth)
    if head.kind == KIND_EXTENSION:
        value = extension(at, &head)
        at.pos = head.end + <Py_ssize_t>head.count
        return value
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
    at.is_plain = False
    at.attachments = NULL
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
