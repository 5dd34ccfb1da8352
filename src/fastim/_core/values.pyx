# cython: autotestdict=False
"""Values that stay encoded: checked and transcoded in one pass over their bytes; see values.pyi."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memmove

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
    mp_string_head,
    mp_uint,
    open_sink,
    put,
    put_byte,
    reserve,
)
from fastim._core.tokens cimport (
    KIND_ARRAY,
    KIND_BOOLEAN,
    KIND_BYTES,
    KIND_DOUBLE,
    KIND_INTEGER,
    KIND_MAP,
    KIND_NONE,
    KIND_NULL,
    KIND_STRING,
    LEAD_BYTES,
    LEAD_WRONG,
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
    read_head,
    read_value_head,
    wrong,
)

from enum import IntEnum

__all__ = ["Encoding", "Kind", "check", "check_name", "is_string", "transcode"]

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


class Encoding(IntEnum):
    """How packets and values are encoded."""

    JSON = 0
    MSGPACK = 1


class Kind(IntEnum):
    """What a value is at its top."""

    NIL = 0
    BOOLEAN = 1
    INTEGER = 2
    DOUBLE = 3
    STRING = 4
    BYTES = 5
    ARRAY = 6
    MAP = 7


cdef tuple KINDS = tuple(Kind)

# A container that is open while its items are read.
cdef struct Open:
    bint is_map
    uint64_t left  # msgpack: values to come, a key being one
    Py_ssize_t count  # JSON to msgpack: items, a key and its value being one
    Py_ssize_t head  # JSON to msgpack: where in the sink its one-byte head is


# -- JSON

cdef Py_ssize_t json_number_value(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint rules, Sink *sink, Found *found
) except -1:
    cdef Number number
    cdef double value
    cdef Py_ssize_t end = json_number(data, size, pos, &number)
    found.kind = KIND_DOUBLE if number.is_double else KIND_INTEGER
    if not rules:
        return end
    if number.is_double:
        if sink == NULL and number.exponent_bound <= 308:
            return end  # finite
        value = json_double_at(data, pos, end, &number)
        if sink != NULL:
            mp_double(sink, value)
    elif number.out_of_range:
        wrong("integer out of range", pos)
    elif sink != NULL:
        if number.negative:
            mp_int(sink, <int64_t>(<uint64_t>0 - number.magnitude))
        else:
            mp_uint(sink, number.magnitude)
    return end


cdef int put_unescaped(
    Sink *sink, const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, bint escaped, bint is_key
) except -1:
    """Write a JSON string as msgpack, a key without the $ that escapes it."""
    cdef Py_ssize_t length, head
    cdef uint8_t *text
    if not escaped:
        if is_key and end > begin and data[begin] == c'$':
            begin += 1
        return mp_string(sink, data + begin, end - begin)
    reserve(sink, 5 + end - begin)
    text = sink.data + sink.size + 5
    length = json_unescape(data, begin, end, text)
    if is_key and length and text[0] == c'$':
        text += 1
        length -= 1
    head = text - sink.data
    mp_string_head(sink, length)  # at most the 5 bytes before the text
    memmove(sink.data + sink.size, sink.data + head, length)
    sink.size += length
    return 0


cdef Py_ssize_t bytes_text(
    const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, bint escaped, Sink *sink
) except -1:
    """Check the base64 text of bytes and write them to the sink, if there is one; their number."""
    cdef const uint8_t *text = data + begin
    cdef Py_ssize_t size = end - begin, length
    cdef uint8_t *copy = NULL
    if escaped:  # "\/" is what some encoders make of a slash
        copy = <uint8_t *>PyMem_Malloc(size)
        if copy == NULL:
            raise MemoryError
        size = json_unescape(data, begin, end, copy)
        text = copy
    try:
        length = base64_decode(text, size, NULL)
        if length < 0:
            wrong('"$bytes" is not base64', begin)
        if sink != NULL:
            mp_bytes_head(sink, length)
            reserve(sink, length)
            base64_decode(text, size, sink.data + sink.size)
            sink.size += length
        return length
    finally:
        PyMem_Free(copy)


cdef Py_ssize_t json_bytes_value(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Sink *sink, Found *found
) except -1:
    """The rest of {"$bytes": "..."} from the colon on; its end."""
    cdef bint escaped
    cdef Py_ssize_t begin, end
    found.kind = KIND_BYTES
    pos = json_colon(data, size, pos)
    if pos >= size or data[pos] != c'"':
        wrong('"$bytes" wants a string', pos)
    begin = pos + 1
    end = json_string_end(data, size, begin, True, &escaped)
    bytes_text(data, begin, end, escaped, sink)
    pos = json_space(data, size, end + 1)
    if pos >= size:
        wrong("map without end", size)
    if data[pos] == c',':
        wrong('"$bytes" stands alone in its map; other keys that begin with $ are written with $$', pos)
    if data[pos] != c'}':
        wrong("expected , or }", pos)
    return pos + 1


cdef inline Py_ssize_t json_key(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint rules, Sink *sink, Found *found
) except -1:
    """A key (white space before it allowed) and its colon; where its value begins."""
    cdef bint escaped
    cdef Py_ssize_t end
    cdef Lead lead
    pos = json_space(data, size, pos)
    if pos >= size or data[pos] != c'"':
        wrong("expected a string as key", pos)
    pos += 1
    end = json_string_end(data, size, pos, rules, &escaped)
    if rules and end > pos and (escaped or data[pos] == c'$'):
        lead = key_lead(data, pos, end)
        if lead == LEAD_BYTES:
            wrong('"$bytes" stands alone in its map; other keys that begin with $ are written with $$', pos)
        elif lead == LEAD_WRONG:
            wrong("a key that begins with $ is written with $$", pos)
    if sink != NULL:
        put_unescaped(sink, data, pos, end, escaped, True)
    return json_colon(data, size, end + 1)


cdef Py_ssize_t json_marked_bytes(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Sink *sink, Found *found
) except -1:
    """The end of {"$bytes": "..."} if its first key (at pos) says so; 0 if it is another map."""
    cdef bint escaped
    cdef Py_ssize_t end
    if pos + 1 >= size or data[pos] != c'"' or (data[pos + 1] != c'$' and data[pos + 1] != c'\\'):
        return 0
    end = json_string_end(data, size, pos + 1, True, &escaped)
    if key_lead(data, pos + 1, end) != LEAD_BYTES:
        return 0
    return json_bytes_value(data, size, end + 1, sink, found)


cdef Py_ssize_t json_count_brackets(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1:
    """The end of the array or map that begins at pos, strings skipped, brackets only counted."""
    cdef bint escaped
    cdef Py_ssize_t depth = 0
    while pos < size:
        if data[pos] == c'"':
            pos = json_string_end(data, size, pos + 1, False, &escaped)
        elif data[pos] == c'[' or data[pos] == c'{':
            depth += 1
        elif data[pos] == c']' or data[pos] == c'}':
            depth -= 1
        pos += 1
        if depth == 0:
            return pos
    wrong("array or map without end", size)
    return -1  # not reached


cdef Py_ssize_t json_literal(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Sink *sink, Found *found
) except -1:
    cdef Py_ssize_t left = size - pos
    cdef const uint8_t *at = data + pos
    if left >= 4 and memcmp(at, b"null", 4) == 0:
        found.kind = KIND_NULL
        if sink != NULL:
            put_byte(sink, 0xC0)
        return pos + 4
    found.kind = KIND_BOOLEAN
    if left >= 4 and memcmp(at, b"true", 4) == 0:
        if sink != NULL:
            put_byte(sink, 0xC3)
        return pos + 4
    if left >= 5 and memcmp(at, b"false", 5) == 0:
        if sink != NULL:
            put_byte(sink, 0xC2)
        return pos + 5
    wrong("expected a value", pos)
    return -1  # not reached


cdef int fix_head(Sink *sink, Open *container) except -1:
    """Put the count into the head of the container that was just written."""
    cdef Py_ssize_t count = container.count, body = container.head + 1
    cdef Py_ssize_t size = sink.size - body
    cdef int width = 2 if count < 0x10000 else 4
    if count < 16:
        sink.data[container.head] = <uint8_t>((0x80 if container.is_map else 0x90) | count)
        return 0
    reserve(sink, width)
    memmove(sink.data + body + width, sink.data + body, size)
    sink.size = container.head
    if container.is_map:
        mp_map_head(sink, count)
    else:
        mp_array_head(sink, count)
    sink.size += size
    return 0


cdef Py_ssize_t json_value(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint rules, Sink *sink, Found *found
) except -1:
    cdef Open[MAX_SYNTAX_DEPTH] open_
    cdef Open *top = NULL
    cdef Found inner
    cdef Found *at = found
    cdef Py_ssize_t depth = 0, limit = MAX_DEPTH if rules else MAX_SYNTAX_DEPTH, end, marked
    cdef bint escaped, is_map
    cdef uint8_t c
    found.too_deep = False
    while True:
        # A value begins; white space before it is behind.
        if pos >= size:
            wrong("a value is missing", size)
        c = data[pos]
        if c == c'"':
            at.kind = KIND_STRING
            end = json_string_end(data, size, pos + 1, rules, &escaped)
            if sink != NULL:
                put_unescaped(sink, data, pos + 1, end, escaped, False)
            pos = end + 1
        elif c == c'{' or c == c'[':
            is_map = c == c'{'
            at.kind = KIND_MAP if is_map else KIND_ARRAY
            end = json_space(data, size, pos + 1)
            if end < size and data[end] == (c'}' if is_map else c']') and depth < limit:
                if sink != NULL:
                    put_byte(sink, 0x80 if is_map else 0x90)
                pos = end + 1
            elif rules and is_map and (marked := json_marked_bytes(data, size, end, sink, at)):
                pos = marked
            elif depth == limit:
                if rules:
                    wrong("nested deeper than 64", pos)
                found.too_deep = True
                pos = json_count_brackets(data, size, pos)
            else:
                top = &open_[depth]
                depth += 1
                top.is_map = is_map
                top.count = 1
                if sink != NULL:
                    top.head = sink.size
                    put_byte(sink, 0)
                at = &inner
                pos = json_key(data, size, end, rules, sink, at) if is_map else end
                continue
        elif c == c'-' or c'0' <= c <= c'9':
            pos = json_number_value(data, size, pos, rules, sink, at)
        else:
            pos = json_literal(data, size, pos, sink, at)
        # A value ended: the containers it ends, or the next one.
        while True:
            if depth == 0:
                return pos
            pos = json_space(data, size, pos)
            if pos >= size:
                wrong("map without end" if top.is_map else "array without end", size)
            c = data[pos]
            if c == c',':
                top.count += 1
                if top.is_map:
                    pos = json_key(data, size, pos + 1, rules, sink, at)
                else:
                    pos = json_space(data, size, pos + 1)
                break
            if c != (c'}' if top.is_map else c']'):
                wrong("expected , or }" if top.is_map else "expected , or ]", pos)
            pos += 1
            if sink != NULL:
                fix_head(sink, top)
            depth -= 1
            if depth > 0:
                top = &open_[depth - 1]


# -- msgpack

cdef Py_ssize_t msgpack_skip(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1:
    cdef Head head
    cdef uint64_t left = 1  # values to come; never above size, each being a byte at least
    while left:
        read_head(&head, data, size, pos)
        pos = head.end
        left -= 1
        if head.kind == KIND_NONE:
            wrong("0xC1 is no value", pos - 1)
        if head.kind == KIND_ARRAY or head.kind == KIND_MAP:
            left += head.count * 2 if head.kind == KIND_MAP else head.count
            if left > <uint64_t>(size - pos):
                wrong("truncated", size)
        else:
            if head.count > <uint64_t>(size - pos):
                wrong("truncated", size)
            pos += <Py_ssize_t>head.count
    return pos


cdef int put_json_leaf(Sink *sink, Head *head, const uint8_t *data, bint is_key) except -1:
    """Write a value that is no container, or a key, as JSON."""
    if head.kind == KIND_STRING:
        if is_key and head.count and data[head.end] == c'$':
            put_byte(sink, c'"')
            put_byte(sink, c'$')
            json_string_part(sink, data + head.end, <Py_ssize_t>head.count)
            return put(sink, b'":', 2)
        json_string(sink, data + head.end, <Py_ssize_t>head.count)
        return put_byte(sink, c':') if is_key else 0
    if head.kind == KIND_BYTES:
        return json_bytes(sink, data + head.end, <Py_ssize_t>head.count)
    if head.kind == KIND_INTEGER:
        if head.is_signed:
            return json_int(sink, <int64_t>head.bits)
        return json_uint(sink, head.bits)
    if head.kind == KIND_DOUBLE:
        return json_double(sink, head.real)
    if head.kind == KIND_NULL:
        return put(sink, b"null", 4)
    if head.bits:
        return put(sink, b"true", 4)
    return put(sink, b"false", 5)


cdef Py_ssize_t msgpack_value(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Sink *sink, Found *found
) except -1:
    cdef Open[MAX_DEPTH] open_
    cdef Open *top = NULL
    cdef Head head
    cdef Py_ssize_t depth = 0
    cdef bint is_key = False, is_map
    found.too_deep = False
    while True:
        read_value_head(&head, data, size, pos, is_key)
        if top == NULL:
            found.kind = head.kind
        if head.kind != KIND_ARRAY and head.kind != KIND_MAP:
            if sink != NULL:
                put_json_leaf(sink, &head, data, is_key)
            pos = head.end + <Py_ssize_t>head.count
        else:
            if depth == MAX_DEPTH:
                wrong("nested deeper than 64", pos)
            is_map = head.kind == KIND_MAP
            top = &open_[depth]
            depth += 1
            top.is_map = is_map
            top.left = head.count * 2 if is_map else head.count
            top.count = 0
            pos = head.end
            if sink != NULL:
                put_byte(sink, c'{' if is_map else c'[')
        # The containers that ended, then what comes next.
        while depth and top.left == 0:
            if sink != NULL:
                put_byte(sink, c'}' if top.is_map else c']')
            depth -= 1
            if depth:
                top = &open_[depth - 1]
        if depth == 0:
            return pos
        top.left -= 1
        is_key = top.is_map and top.left & 1
        if sink != NULL and top.count and (is_key or not top.is_map):
            put_byte(sink, c',')
        top.count = 1


# -- what Python sees

cdef int check_whole(const uint8_t *data, Py_ssize_t size, int encoding, Sink *sink, Found *found) except -1:
    cdef Py_ssize_t end
    if encoding == 0:
        end = json_value(data, size, json_space(data, size, 0), True, sink, found)
        end = json_space(data, size, end)
    elif encoding == 1:
        end = msgpack_value(data, size, 0, sink, found)
    else:
        raise ValueError(f"unknown encoding {encoding}")
    if end != size:
        wrong("data behind the value", end)
    return 0


def check(object data not None, int encoding):
    """Check that data is exactly one value, and say of what kind."""
    cdef Py_buffer view
    cdef Found found
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        check_whole(<const uint8_t *>view.buf, view.len, encoding, NULL, &found)
    finally:
        PyBuffer_Release(&view)
    return KINDS[found.kind]


def transcode(object data not None, int source, int target):
    """Write a value in the other encoding."""
    cdef Py_buffer view
    cdef Found found
    cdef Sink sink
    if target != 0 and target != 1:
        raise ValueError(f"unknown encoding {target}")
    if source == target:
        check(data, source)
        return bytes(data)
    open_sink(&sink)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        check_whole(<const uint8_t *>view.buf, view.len, source, &sink, &found)
        return finish(&sink)
    finally:
        PyBuffer_Release(&view)
        close_sink(&sink)


def is_string(object data not None, int encoding):
    """Say whether a checked value is a string."""
    cdef Py_buffer view
    cdef const uint8_t *start
    cdef Py_ssize_t pos = 0
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        start = <const uint8_t *>view.buf
        if encoding == 0:
            pos = json_space(start, view.len, 0)
        if pos >= view.len:
            return False
        if encoding == 0:
            return start[pos] == c'"'
        return 0xA0 <= start[pos] <= 0xBF or 0xD9 <= start[pos] <= 0xDB
    finally:
        PyBuffer_Release(&view)


def check_name(str text not None, Py_ssize_t max_bytes):
    """Check an id or a name: its length in UTF-8 and that no control character is in it."""
    cdef Py_ssize_t size = 0, pos
    cdef const uint8_t *data
    try:
        data = <const uint8_t *>PyUnicode_AsUTF8AndSize(text, &size)
    except UnicodeEncodeError:
        return "expected no lone surrogates"
    if size == 0 or size > max_bytes:
        return f"expected 1 to {max_bytes} bytes, got {size}"
    for pos in range(size):
        if data[pos] < 0x20 or data[pos] == 0x7F:
            return "expected no control characters"
        if data[pos] == 0xC2 and data[pos + 1] < 0xA0:  # U+0080 to U+009F
            return "expected no control characters"
    return ""
