"""Values that stay encoded: checked and transcoded in one pass over their bytes; see values.pyi."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.math cimport isfinite
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

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
    word_is_plain,
)

from enum import IntEnum

__all__ = ["Encoding", "Kind", "check", "check_name", "is_string", "needs_unescaping", "transcode"]

cdef extern from "Python.h":
    double PyOS_string_to_double(const char *text, char **end, PyObject *overflow) except? -1.0
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


cdef inline int wrong(str what, Py_ssize_t pos) except -1:
    raise ValueError(f"{what} (byte {pos})")


# -- UTF-8

cdef inline Py_ssize_t utf8_step(const uint8_t *data, Py_ssize_t left) noexcept nogil:
    """The length of the character that begins here with a byte >= 0x80; 0 if it is none (RFC 3629, section 4)."""
    cdef uint8_t c = data[0]
    if c < 0xC2 or left < 2:
        return 0
    if c < 0xE0:
        return 2 if data[1] & 0xC0 == 0x80 else 0
    if left < 3 or data[1] & 0xC0 != 0x80 or data[2] & 0xC0 != 0x80:
        return 0
    if c < 0xF0:
        if (c == 0xE0 and data[1] < 0xA0) or (c == 0xED and data[1] >= 0xA0):
            return 0  # overlong; a surrogate
        return 3
    if left < 4 or data[3] & 0xC0 != 0x80 or c > 0xF4:
        return 0
    if (c == 0xF0 and data[1] < 0x90) or (c == 0xF4 and data[1] >= 0x90):
        return 0  # overlong; past U+10FFFF
    return 4


cdef bint utf8_valid(const uint8_t *data, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t pos = 0, step
    cdef uint64_t word
    while pos < size:
        if size - pos >= 8:
            memcpy(&word, data + pos, 8)
            if word & <uint64_t>0x8080808080808080 == 0:
                pos += 8
                continue
        if data[pos] < 0x80:
            pos += 1
            continue
        step = utf8_step(data + pos, size - pos)
        if step == 0:
            return False
        pos += step
    return True


cdef inline Py_ssize_t utf8_write(uint32_t code, uint8_t *out) noexcept nogil:
    if code < 0x80:
        out[0] = <uint8_t>code
        return 1
    if code < 0x800:
        out[0] = <uint8_t>(0xC0 | (code >> 6))
        out[1] = <uint8_t>(0x80 | (code & 0x3F))
        return 2
    if code < 0x10000:
        out[0] = <uint8_t>(0xE0 | (code >> 12))
        out[1] = <uint8_t>(0x80 | ((code >> 6) & 0x3F))
        out[2] = <uint8_t>(0x80 | (code & 0x3F))
        return 3
    out[0] = <uint8_t>(0xF0 | (code >> 18))
    out[1] = <uint8_t>(0x80 | ((code >> 12) & 0x3F))
    out[2] = <uint8_t>(0x80 | ((code >> 6) & 0x3F))
    out[3] = <uint8_t>(0x80 | (code & 0x3F))
    return 4


# -- base64 (RFC 4648, section 4)

cdef uint8_t[256] SEXTETS  # 0xFF: not in the alphabet


cdef int fill_sextets() except -1:
    cdef const uint8_t *alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef int i
    for i in range(256):
        SEXTETS[i] = 0xFF
    for i in range(64):
        SEXTETS[alphabet[i]] = <uint8_t>i
    return 0

fill_sextets()


cdef inline int base64_group(const uint8_t *text, int count) noexcept nogil:
    """The value of `count` letters, or -1."""
    cdef int i, value = 0
    for i in range(count):
        if SEXTETS[text[i]] == 0xFF:
            return -1
        value = (value << 6) | SEXTETS[text[i]]
    return value


cdef Py_ssize_t base64_decode(const uint8_t *text, Py_ssize_t size, uint8_t *out) noexcept nogil:
    """Decode to `out` (or only check, if NULL); the number of bytes, or -1 if it is not strictly base64."""
    cdef Py_ssize_t pos, length = 0
    cdef int group, letters
    if size % 4:
        return -1
    for pos in range(0, size, 4):
        letters = 4
        if pos + 4 == size:
            if text[pos + 3] == c'=':
                letters = 2 if text[pos + 2] == c'=' else 3
        group = base64_group(text + pos, letters)
        if group < 0 or (letters == 3 and group & 3) or (letters == 2 and group & 15):
            return -1  # a letter of no value; pad bits that are not zero
        group <<= 6 * (4 - letters)
        if out != NULL:
            out[length] = <uint8_t>(group >> 16)
            if letters > 2:
                out[length + 1] = <uint8_t>(group >> 8)
            if letters > 3:
                out[length + 2] = <uint8_t>group
        length += letters - 1
    return length


# -- JSON (RFC 8259): tokens

cdef Py_ssize_t json_space(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) noexcept nogil:
    while pos < size and (data[pos] == c' ' or data[pos] == c'\n' or data[pos] == c'\t' or data[pos] == c'\r'):
        pos += 1
    return pos


cdef inline int hex_digit(uint8_t c) noexcept nogil:
    if c'0' <= c <= c'9':
        return c - c'0'
    c |= 0x20
    if c'a' <= c <= c'f':
        return c - c'a' + 10
    return -1


cdef int hex_unit(const uint8_t *data, Py_ssize_t left) noexcept nogil:
    """The UTF-16 unit of four hexadecimal digits, or -1."""
    cdef int i, digit, unit = 0
    if left < 4:
        return -1
    for i in range(4):
        digit = hex_digit(data[i])
        if digit < 0:
            return -1
        unit = (unit << 4) | digit
    return unit


cdef inline bint is_escape(uint8_t c) noexcept nogil:
    return (
        c == c'"' or c == c'\\' or c == c'/' or c == c'n' or c == c't' or c == c'r' or c == c'b' or c == c'f'
    )


cdef Py_ssize_t escape_end(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint rules) except -1:
    """The index behind the escape whose backslash is at pos."""
    cdef int unit, second
    if pos + 1 >= size:
        wrong("string without end", size)
    if data[pos + 1] != c'u':
        if is_escape(data[pos + 1]):
            return pos + 2
        wrong("invalid escape in a string", pos)
    unit = hex_unit(data + pos + 2, size - pos - 2)
    if unit < 0:
        wrong("invalid \\u escape in a string", pos)
    if not rules or unit < 0xD800 or unit > 0xDFFF:
        return pos + 6
    if unit < 0xDC00 and pos + 7 < size and data[pos + 6] == c'\\' and data[pos + 7] == c'u':
        second = hex_unit(data + pos + 8, size - pos - 8)
        if 0xDC00 <= second <= 0xDFFF:
            return pos + 12
    wrong("lone surrogate in a string", pos)
    return -1  # not reached


cdef Py_ssize_t json_string_end(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint rules, bint *escaped
) except -1:
    cdef uint8_t c
    cdef Py_ssize_t step
    escaped[0] = False
    while True:
        if size - pos >= 8 and word_is_plain(data + pos):
            pos += 8
            continue
        if pos >= size:
            wrong("string without end", size)
        c = data[pos]
        if c == c'"':
            return pos
        if c == c'\\':
            escaped[0] = True
            pos = escape_end(data, size, pos, rules)
        elif c < 0x20:
            wrong("control character in a string", pos)
        elif c < 0x80:
            pos += 1
        else:
            step = utf8_step(data + pos, size - pos)
            if step == 0:
                wrong("invalid UTF-8", pos)
            pos += step


cdef inline uint8_t escaped_character(uint8_t c) noexcept nogil:
    if c == c'n':
        return c'\n'
    if c == c't':
        return c'\t'
    if c == c'r':
        return c'\r'
    if c == c'b':
        return 8
    if c == c'f':
        return 12
    return c


cdef Py_ssize_t json_unescape(const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, uint8_t *out) noexcept nogil:
    cdef Py_ssize_t pos = begin, length = 0
    cdef uint32_t code
    while pos < end:
        if data[pos] != c'\\':
            out[length] = data[pos]
            length += 1
            pos += 1
        elif data[pos + 1] != c'u':
            out[length] = escaped_character(data[pos + 1])
            length += 1
            pos += 2
        else:
            code = <uint32_t>hex_unit(data + pos + 2, 4)
            pos += 6
            if 0xD800 <= code <= 0xDBFF:
                code = 0x10000 + ((code - 0xD800) << 10) + (<uint32_t>hex_unit(data + pos + 2, 4) - 0xDC00)
                pos += 6
            length += utf8_write(code, out + length)
    return length


cdef struct Number:
    bint is_double
    bint negative
    bint out_of_range  # an integer past 64 bits
    uint64_t magnitude
    Py_ssize_t exponent_bound  # a double is below 10 to this power


cdef inline Py_ssize_t digits_end(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1:
    cdef Py_ssize_t begin = pos
    while pos < size and c'0' <= data[pos] <= c'9':
        pos += 1
    if pos == begin:
        wrong("a digit is missing in a number", pos)
    return pos


cdef Py_ssize_t json_number(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Number *number) except -1:
    """Parse a number's text; its end."""
    cdef Py_ssize_t begin, at
    cdef int64_t exponent = 0
    cdef bint negative_exponent = False
    number.is_double = number.out_of_range = False
    number.magnitude = 0
    number.negative = data[pos] == c'-'
    pos += number.negative
    begin = pos
    pos = digits_end(data, size, pos)
    if data[begin] == c'0' and pos - begin > 1:
        wrong("number with a leading zero", begin)
    number.exponent_bound = pos - begin
    for at in range(begin, pos):
        if number.magnitude > (<uint64_t>0xFFFFFFFFFFFFFFFF - (data[at] - c'0')) // 10:
            number.out_of_range = True
            break
        number.magnitude = number.magnitude * 10 + (data[at] - c'0')
    if pos < size and data[pos] == c'.':
        number.is_double = True
        pos = digits_end(data, size, pos + 1)
    if pos < size and (data[pos] == c'e' or data[pos] == c'E'):
        number.is_double = True
        pos += 1
        if pos < size and (data[pos] == c'+' or data[pos] == c'-'):
            negative_exponent = data[pos] == c'-'
            pos += 1
        begin = pos
        pos = digits_end(data, size, pos)
        for at in range(begin, pos):
            if exponent < 1000000000:
                exponent = exponent * 10 + (data[at] - c'0')
        number.exponent_bound += -exponent if negative_exponent else exponent
    if not number.is_double and number.negative and number.magnitude > <uint64_t>0x8000000000000000:
        number.out_of_range = True
    return pos


cdef double parse_double(const uint8_t *text, Py_ssize_t size) except? -1.0:
    """Correctly rounded, whatever the locale; an infinity where it is too large."""
    cdef char room[64]
    cdef char *copy = room
    if size >= 64:
        copy = <char *>PyMem_Malloc(size + 1)
        if copy == NULL:
            raise MemoryError
    memcpy(copy, text, size)
    copy[size] = 0
    try:
        return PyOS_string_to_double(copy, NULL, NULL)
    finally:
        if copy != room:
            PyMem_Free(copy)


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
        value = parse_double(data + pos, end - pos)
        if not isfinite(value):
            wrong("double out of range", pos)
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


cdef enum Lead:
    LEAD_PLAIN
    LEAD_ESCAPED  # "$$..."
    LEAD_BYTES  # "$bytes"
    LEAD_WRONG


cdef Lead key_lead(const uint8_t *data, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """How a key begins, escapes resolved: its first seven characters decide."""
    cdef int[7] units
    cdef const uint8_t *marker = b"$bytes"
    cdef int count = 0, i
    cdef Py_ssize_t pos = begin
    while pos < end and count < 7:
        if data[pos] != c'\\':
            units[count] = data[pos]
            pos += 1
        elif data[pos + 1] == c'u':
            units[count] = hex_unit(data + pos + 2, 4)
            pos += 6
        else:
            units[count] = escaped_character(data[pos + 1])
            pos += 2
        if units[0] != c'$':
            return LEAD_PLAIN
        count += 1
    if count == 0:
        return LEAD_PLAIN
    if count > 1 and units[1] == c'$':
        return LEAD_ESCAPED
    if count != 6 or pos != end:
        return LEAD_WRONG
    for i in range(6):
        if units[i] != marker[i]:
            return LEAD_WRONG
    return LEAD_BYTES


# -- JSON: values

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
    found.escaped = True
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


cdef inline Py_ssize_t json_colon(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1:
    """From behind a key to its value."""
    pos = json_space(data, size, pos)
    if pos >= size or data[pos] != c':':
        wrong("expected :", pos)
    return json_space(data, size, pos + 1)


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
        if lead == LEAD_ESCAPED:
            found.escaped = True
        elif lead == LEAD_BYTES:
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


cdef Py_ssize_t json_literal(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Sink *sink, Found *found) except -1:
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
    found.escaped = found.too_deep = inner.escaped = inner.too_deep = False
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
                found.escaped |= inner.escaped
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

cdef inline uint64_t big_endian(const uint8_t *data, int width) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(width):
        value = (value << 8) | data[i]
    return value


cdef int head_fields(Head *head, int kind, int width, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1:
    """Set kind and count from a length of `width` bytes behind the first byte."""
    if size - pos - 1 < width:
        wrong("truncated", size)
    head.kind = kind
    head.count = big_endian(data + pos + 1, width)
    head.end = pos + 1 + width
    return 0


cdef int head_number(Head *head, uint8_t c, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1:
    """0xCA to 0xD3: floating point, unsigned, signed."""
    cdef int width = 1 << (c & 3)
    cdef float single
    cdef uint32_t word
    if c <= 0xCB:
        width = 4 if c == 0xCA else 8
    if size - pos - 1 < width:
        wrong("truncated", size)
    head.bits = big_endian(data + pos + 1, width)
    head.end = pos + 1 + width
    head.kind = KIND_INTEGER
    if c == 0xCA:
        word = <uint32_t>head.bits
        memcpy(&single, &word, 4)
        head.real = single
        head.kind = KIND_DOUBLE
    elif c == 0xCB:
        memcpy(&head.real, &head.bits, 8)
        head.kind = KIND_DOUBLE
    elif c >= 0xD0:
        head.is_signed = True
        if c == 0xD0:
            head.bits = <uint64_t><int64_t><int8_t>head.bits
        elif c == 0xD1:
            head.bits = <uint64_t><int64_t><int16_t>head.bits
        elif c == 0xD2:
            head.bits = <uint64_t><int64_t><int32_t>head.bits
    return 0


cdef int read_head(Head *head, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1:
    cdef uint8_t c
    if pos >= size:
        wrong("truncated", size)
    c = data[pos]
    head.end = pos + 1
    head.count = 0
    head.is_signed = False
    if c < 0x80 or c >= 0xE0:
        head.kind = KIND_INTEGER
        head.is_signed = True
        head.bits = <uint64_t><int64_t><int8_t>c
    elif c < 0x90:
        head.kind = KIND_MAP
        head.count = c & 15
    elif c < 0xA0:
        head.kind = KIND_ARRAY
        head.count = c & 15
    elif c < 0xC0:
        head.kind = KIND_STRING
        head.count = c & 31
    elif c == 0xC0:
        head.kind = KIND_NULL
    elif c == 0xC1:
        head.kind = KIND_NONE
    elif c <= 0xC3:
        head.kind = KIND_BOOLEAN
        head.bits = c & 1
    elif c <= 0xC6:
        head_fields(head, KIND_BYTES, 1 << (c - 0xC4), data, size, pos)
    elif c <= 0xC9:
        head_fields(head, KIND_EXTENSION, 1 << (c - 0xC7), data, size, pos)
        head.count += 1  # the type
    elif c <= 0xD3:
        head_number(head, c, data, size, pos)
    elif c <= 0xD8:
        head.kind = KIND_EXTENSION
        head.count = 1 + (1 << (c - 0xD4))
    elif c <= 0xDB:
        head_fields(head, KIND_STRING, 1 << (c - 0xD9), data, size, pos)
    elif c <= 0xDD:
        head_fields(head, KIND_ARRAY, 2 << (c - 0xDC), data, size, pos)
    else:
        head_fields(head, KIND_MAP, 2 << (c - 0xDE), data, size, pos)
    return 0


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


cdef Py_ssize_t msgpack_leaf(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Head *head, bint is_key, Sink *sink
) except -1:
    """Check a value that is no container, whose head is read; its end."""
    if is_key and head.kind != KIND_STRING:
        wrong("a key is not a string", pos)
    if head.kind == KIND_EXTENSION:
        wrong("extension types are no values", pos)
    if head.kind == KIND_NONE:
        wrong("0xC1 is no value", pos)
    if head.count > <uint64_t>(size - head.end):
        wrong("truncated", size)
    if head.kind == KIND_STRING and not utf8_valid(data + head.end, <Py_ssize_t>head.count):
        wrong("invalid UTF-8 in a string", pos)
    if head.kind == KIND_DOUBLE and not isfinite(head.real):
        wrong("double that is not finite", pos)
    if sink != NULL:
        put_json_leaf(sink, head, data, is_key)
    return head.end + <Py_ssize_t>head.count


cdef Py_ssize_t msgpack_value(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Sink *sink, Found *found
) except -1:
    cdef Open[MAX_DEPTH] open_
    cdef Open *top = NULL
    cdef Head head
    cdef Py_ssize_t depth = 0
    cdef bint is_key = False, is_map
    found.escaped = found.too_deep = False
    while True:
        read_head(&head, data, size, pos)
        if top == NULL:
            found.kind = head.kind
        if head.kind != KIND_ARRAY and head.kind != KIND_MAP or is_key:
            pos = msgpack_leaf(data, size, pos, &head, is_key, sink)
        else:
            if depth == MAX_DEPTH:
                wrong("nested deeper than 64", pos)
            is_map = head.kind == KIND_MAP
            if head.count * (2 if is_map else 1) > <uint64_t>(size - head.end):
                wrong("truncated", size)
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


def needs_unescaping(object data not None, int encoding):
    """Check, and say whether $bytes maps or $$ keys are inside."""
    cdef Py_buffer view
    cdef Found found
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        check_whole(<const uint8_t *>view.buf, view.len, encoding, NULL, &found)
    finally:
        PyBuffer_Release(&view)
    return found.escaped


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
