# cython: autotestdict=False
"""The letters and words that encoded values are made of: UTF-8, base64, JSON's tokens, msgpack's heads.

Nothing here knows a whole value. Positions are byte offsets; every function takes the data's size and never
reads past it, but those that read what another one has accepted.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.math cimport isfinite
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastim._core.sink cimport word_is_plain

cdef extern from "Python.h":
    double PyOS_string_to_double(const char *text, char **end, PyObject *overflow) except? -1.0


cdef int wrong(str what, Py_ssize_t pos) except -1:
    raise ValueError(f"{what} (byte {pos})")


# -- UTF-8

cdef enum:
    REPLACEMENT = 0xFFFD  # what a lone surrogate becomes, where one may stand


cdef inline Py_ssize_t utf8_step(const uint8_t *data, Py_ssize_t left) noexcept nogil:
    """The length of the character that begins here, past ASCII; 0 if it is none (RFC 3629, section 4)."""
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

cdef inline bint is_space(uint8_t c) noexcept nogil:
    return c == c' ' or c == c'\n' or c == c'\t' or c == c'\r'


cdef Py_ssize_t json_space(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) noexcept nogil:
    while pos < size and is_space(data[pos]):
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


cdef inline uint32_t low_surrogate(const uint8_t *data, Py_ssize_t pos, Py_ssize_t end) noexcept nogil:
    """The second half of a surrogate pair, if it is escaped at pos, else 0."""
    cdef int unit
    if end - pos < 6 or data[pos] != c'\\' or data[pos + 1] != c'u':
        return 0
    unit = hex_unit(data + pos + 2, 4)
    return <uint32_t>unit if 0xDC00 <= unit <= 0xDFFF else 0


cdef Py_ssize_t json_unescape(
    const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, uint8_t *out
) noexcept nogil:
    cdef Py_ssize_t pos = begin, length = 0
    cdef uint32_t code, low
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
                low = low_surrogate(data, pos, end)
                pos += 6 if low else 0
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00) if low else REPLACEMENT
            elif 0xDC00 <= code <= 0xDFFF:
                code = REPLACEMENT
            length += utf8_write(code, out + length)
    return length


cdef double[16] POWERS_OF_TEN
POWERS_OF_TEN[:] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15]


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
    number.is_double = number.is_short = number.out_of_range = False
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
        begin = pos + 1
        pos = digits_end(data, size, begin)
        number.decimals = pos - begin
        # 10^15 < 2^53 and powers of ten are exact up to 10^22: one division rounds correctly (Clinger 1990).
        if number.exponent_bound + number.decimals <= 15:
            number.is_short = True
            number.significand = number.magnitude
            for at in range(begin, pos):
                number.significand = number.significand * 10 + (data[at] - c'0')
    if pos < size and (data[pos] == c'e' or data[pos] == c'E'):
        number.is_double = True
        number.is_short = False
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


cdef double json_double_at(
    const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, const Number *number
) except? -1.0:
    """Correctly rounded, whatever the locale."""
    cdef char[64] room
    cdef char *copy = room
    cdef Py_ssize_t size = end - begin
    cdef double value
    if number.is_short:
        value = <double>number.significand / POWERS_OF_TEN[number.decimals]
        return -value if number.negative else value
    if size >= 64:
        copy = <char *>PyMem_Malloc(size + 1)
        if copy == NULL:
            raise MemoryError
    memcpy(copy, data + begin, size)
    copy[size] = 0
    try:
        value = PyOS_string_to_double(copy, NULL, NULL)  # too large: infinite
    finally:
        if copy != room:
            PyMem_Free(copy)
    if not isfinite(value):
        wrong("double out of range", begin)
    return value


cdef Py_ssize_t json_colon(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1:
    """From behind a key to its value."""
    pos = json_space(data, size, pos)
    if pos >= size or data[pos] != c':':
        wrong("expected :", pos)
    return json_space(data, size, pos + 1)


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


# -- msgpack

cdef inline uint64_t big_endian(const uint8_t *data, int width) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(width):
        value = (value << 8) | data[i]
    return value


cdef int head_fields(
    Head *head, int kind, int width, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos
) except -1:
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


cdef int check_head(
    const Head *head, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint is_key
) except -1:
    cdef uint64_t least  # bytes that have to follow
    if is_key and head.kind != KIND_STRING:
        wrong("a key is not a string", pos)
    if head.kind == KIND_EXTENSION:
        wrong("extension types are no values", pos)
    if head.kind == KIND_NONE:
        wrong("0xC1 is no value", pos)
    least = head.count * 2 if head.kind == KIND_MAP else head.count
    if least > <uint64_t>(size - head.end):
        wrong("truncated", size)
    if head.kind == KIND_STRING and not utf8_valid(data + head.end, <Py_ssize_t>head.count):
        wrong("invalid UTF-8 in a string", pos)
    if head.kind == KIND_DOUBLE and not isfinite(head.real):
        wrong("double that is not finite", pos)
    return 0


cdef int read_value_head(
    Head *head, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint is_key
) except -1:
    read_head(head, data, size, pos)
    return check_head(head, data, size, pos, is_key)
