"""A growing byte buffer on the stack or the heap, and the two encodings' writers into it.

Only inline functions: a module that cimports them gets its own copy. After `open_sink`, `finish` gives the
bytes and `close_sink` frees them; it must be called.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

cdef extern from "Python.h":
    char *PyOS_double_to_string(double value, char format, int precision, int flags, int *kind) except NULL
    enum:
        Py_DTSF_ADD_DOT_0

cdef enum:
    SINK_INLINE_BYTES = 1024

cdef struct Sink:
    uint8_t *data  # owner: the sink; points to `room` until it grows past it
    Py_ssize_t size
    Py_ssize_t capacity
    uint8_t room[SINK_INLINE_BYTES]


cdef inline void open_sink(Sink *sink) noexcept:
    sink.data = sink.room
    sink.size = 0
    sink.capacity = SINK_INLINE_BYTES


cdef inline void close_sink(Sink *sink) noexcept:
    if sink.data != sink.room:
        PyMem_Free(sink.data)
    open_sink(sink)


cdef inline bytes finish(Sink *sink):
    return PyBytes_FromStringAndSize(<char *>sink.data, sink.size)


cdef inline int grow(Sink *sink, Py_ssize_t extra) except -1:
    cdef Py_ssize_t capacity = sink.capacity * 2
    cdef uint8_t *data
    if capacity < sink.size + extra:
        capacity = sink.size + extra
    if sink.data == sink.room:
        data = <uint8_t *>PyMem_Malloc(capacity)
        if data == NULL:
            raise MemoryError
        memcpy(data, sink.data, sink.size)
    else:
        data = <uint8_t *>PyMem_Realloc(sink.data, capacity)
        if data == NULL:
            raise MemoryError
    sink.data = data
    sink.capacity = capacity
    return 0


cdef inline int reserve(Sink *sink, Py_ssize_t extra) except -1:
    """Make room for `extra` more bytes."""
    if sink.capacity - sink.size < extra:
        grow(sink, extra)
    return 0


cdef inline int put(Sink *sink, const void *data, Py_ssize_t size) except -1:
    reserve(sink, size)
    memcpy(sink.data + sink.size, data, size)
    sink.size += size
    return 0


cdef inline int put_byte(Sink *sink, uint8_t byte) except -1:
    reserve(sink, 1)
    sink.data[sink.size] = byte
    sink.size += 1
    return 0


cdef inline int put_big_endian(Sink *sink, uint8_t head, uint64_t value, int width) except -1:
    """Append `head` and the low `width` bytes of `value`, the highest first."""
    cdef int i
    reserve(sink, width + 1)
    sink.data[sink.size] = head
    for i in range(width):
        sink.data[sink.size + 1 + i] = <uint8_t>(value >> (8 * (width - 1 - i)))
    sink.size += width + 1
    return 0


# -- msgpack

cdef inline int mp_uint(Sink *sink, uint64_t value) except -1:
    if value < 0x80:
        return put_byte(sink, <uint8_t>value)
    if value < 0x100:
        return put_big_endian(sink, 0xCC, value, 1)
    if value < 0x10000:
        return put_big_endian(sink, 0xCD, value, 2)
    if value < 0x100000000:
        return put_big_endian(sink, 0xCE, value, 4)
    return put_big_endian(sink, 0xCF, value, 8)


cdef inline int mp_int(Sink *sink, int64_t value) except -1:
    if value >= 0:
        return mp_uint(sink, <uint64_t>value)
    if value >= -32:
        return put_byte(sink, <uint8_t>value)
    if value >= -128:
        return put_big_endian(sink, 0xD0, <uint64_t>value, 1)
    if value >= -32768:
        return put_big_endian(sink, 0xD1, <uint64_t>value, 2)
    if value >= -2147483648:
        return put_big_endian(sink, 0xD2, <uint64_t>value, 4)
    return put_big_endian(sink, 0xD3, <uint64_t>value, 8)


cdef inline int mp_double(Sink *sink, double value) except -1:
    cdef uint64_t bits
    memcpy(&bits, &value, 8)
    return put_big_endian(sink, 0xCB, bits, 8)


cdef inline int mp_string_head(Sink *sink, Py_ssize_t size) except -1:
    if size < 32:
        return put_byte(sink, <uint8_t>(0xA0 | size))
    if size < 0x100:
        return put_big_endian(sink, 0xD9, size, 1)
    if size < 0x10000:
        return put_big_endian(sink, 0xDA, size, 2)
    if size > <Py_ssize_t>0xFFFFFFFF:
        raise ValueError("string of 4 GiB or more")
    return put_big_endian(sink, 0xDB, size, 4)


cdef inline int mp_string(Sink *sink, const void *data, Py_ssize_t size) except -1:
    mp_string_head(sink, size)
    return put(sink, data, size)


cdef inline int mp_bytes_head(Sink *sink, Py_ssize_t size) except -1:
    if size < 0x100:
        return put_big_endian(sink, 0xC4, size, 1)
    if size < 0x10000:
        return put_big_endian(sink, 0xC5, size, 2)
    if size > <Py_ssize_t>0xFFFFFFFF:
        raise ValueError("bytes of 4 GiB or more")
    return put_big_endian(sink, 0xC6, size, 4)


cdef inline int mp_array_head(Sink *sink, Py_ssize_t count) except -1:
    if count < 16:
        return put_byte(sink, <uint8_t>(0x90 | count))
    if count < 0x10000:
        return put_big_endian(sink, 0xDC, count, 2)
    return put_big_endian(sink, 0xDD, count, 4)


cdef inline int mp_map_head(Sink *sink, Py_ssize_t count) except -1:
    if count < 16:
        return put_byte(sink, <uint8_t>(0x80 | count))
    if count < 0x10000:
        return put_big_endian(sink, 0xDE, count, 2)
    return put_big_endian(sink, 0xDF, count, 4)


# -- JSON

cdef inline int json_uint(Sink *sink, uint64_t value) except -1:
    cdef uint8_t digits[20]
    cdef int i = 20
    while True:
        i -= 1
        digits[i] = <uint8_t>(c'0' + value % 10)
        value //= 10
        if value == 0:
            return put(sink, &digits[i], 20 - i)


cdef inline int json_int(Sink *sink, int64_t value) except -1:
    if value < 0:
        put_byte(sink, c'-')
        return json_uint(sink, <uint64_t>0 - <uint64_t>value)
    return json_uint(sink, <uint64_t>value)


cdef inline int json_short_double(Sink *sink, double value) except -1:
    """Append a double that has at most four decimals; False, and nothing is written, if it has more.

    A decimal of at most 15 digits that reads back as `value` is the only one of that length, so it is the
    shortest.
    Several times as fast as the general way.
    """
    cdef int64_t scaled
    cdef uint32_t fraction
    cdef uint8_t[5] digits
    cdef int count = 5
    if not 0.0 < value < 1e10:  # zero may have a sign
        return False
    scaled = <int64_t>(value * 1e4 + 0.5)
    if <double>scaled / 1e4 != value:
        return False
    fraction = <uint32_t>(scaled % 10000)
    digits[0] = c'.'
    digits[1] = <uint8_t>(c'0' + fraction // 1000)
    digits[2] = <uint8_t>(c'0' + fraction // 100 % 10)
    digits[3] = <uint8_t>(c'0' + fraction // 10 % 10)
    digits[4] = <uint8_t>(c'0' + fraction % 10)
    while count > 2 and digits[count - 1] == c'0':
        count -= 1
    json_uint(sink, <uint64_t>(scaled // 10000))
    put(sink, digits, count)
    return True


cdef inline int json_double(Sink *sink, double value) except -1:
    """Append the shortest decimal that reads back as `value` (finite), never looking like an integer."""
    if value < 0:
        put_byte(sink, c'-')
        value = -value
    if json_short_double(sink, value):
        return 0
    return json_long_double(sink, value)


cdef inline int json_long_double(Sink *sink, double value) except -1:
    cdef char *text = PyOS_double_to_string(value, c'r', 0, Py_DTSF_ADD_DOT_0, NULL)
    cdef Py_ssize_t size = 0
    while text[size] != 0:
        size += 1
    try:
        return put(sink, text, size)
    finally:
        PyMem_Free(text)


cdef inline bint word_is_plain(const uint8_t *data) noexcept nogil:
    """True if the 8 bytes are ASCII that a JSON string holds as it is (some that are plain may be denied)."""
    cdef uint64_t word, quote, slash
    memcpy(&word, data, 8)
    quote = word ^ <uint64_t>0x2222222222222222
    slash = word ^ <uint64_t>0x5C5C5C5C5C5C5C5C
    return (
        (
            word
            | (word - <uint64_t>0x2020202020202020)
            | (quote - <uint64_t>0x0101010101010101)
            | (slash - <uint64_t>0x0101010101010101)
        )
        & <uint64_t>0x8080808080808080
    ) == 0


cdef inline int json_escape(Sink *sink, uint8_t c) except -1:
    """Append the escape of a character that must have one."""
    cdef const uint8_t *hexadecimal = b"0123456789abcdef"
    reserve(sink, 6)
    cdef uint8_t *out = sink.data + sink.size
    out[0] = c'\\'
    sink.size += 2
    if c == c'"' or c == c'\\':
        out[1] = c
    elif c == c'\n':
        out[1] = c'n'
    elif c == c'\r':
        out[1] = c'r'
    elif c == c'\t':
        out[1] = c't'
    else:
        memcpy(out + 1, b"u00", 3)
        out[4] = hexadecimal[c >> 4]
        out[5] = hexadecimal[c & 15]
        sink.size += 4
    return 0


cdef inline int json_string_part(Sink *sink, const uint8_t *data, Py_ssize_t size) except -1:
    """Append valid UTF-8, escaped, without the quotes."""
    cdef Py_ssize_t pos = 0, begin = 0
    reserve(sink, size)
    while pos < size:
        if size - pos >= 8 and word_is_plain(data + pos):
            pos += 8
            continue
        if data[pos] >= 0x20 and data[pos] != c'"' and data[pos] != c'\\':
            pos += 1
            continue
        put(sink, data + begin, pos - begin)
        json_escape(sink, data[pos])
        pos += 1
        begin = pos
    return put(sink, data + begin, size - begin)


cdef inline int json_string(Sink *sink, const uint8_t *data, Py_ssize_t size) except -1:
    put_byte(sink, c'"')
    json_string_part(sink, data, size)
    return put_byte(sink, c'"')


cdef inline size_t base64_size(size_t size) noexcept nogil:
    return (size + 2) // 3 * 4


cdef inline uint8_t *base64_write(uint8_t *out, const uint8_t *data, Py_ssize_t size) noexcept nogil:
    """Write base64 with its padding (RFC 4648, section 4); returns where it ends."""
    cdef const uint8_t *alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef uint32_t group
    cdef Py_ssize_t pos = 0
    while pos + 3 <= size:
        group = (<uint32_t>data[pos] << 16) | (<uint32_t>data[pos + 1] << 8) | data[pos + 2]
        out[0] = alphabet[group >> 18]
        out[1] = alphabet[(group >> 12) & 63]
        out[2] = alphabet[(group >> 6) & 63]
        out[3] = alphabet[group & 63]
        out += 4
        pos += 3
    if pos < size:
        group = <uint32_t>data[pos] << 16
        if pos + 1 < size:
            group |= <uint32_t>data[pos + 1] << 8
        out[0] = alphabet[group >> 18]
        out[1] = alphabet[(group >> 12) & 63]
        out[2] = alphabet[(group >> 6) & 63] if pos + 1 < size else c'='
        out[3] = c'='
        out += 4
    return out


cdef inline int base64_part(Sink *sink, const uint8_t *data, Py_ssize_t size) except -1:
    reserve(sink, <Py_ssize_t>base64_size(<size_t>size))
    sink.size = base64_write(sink.data + sink.size, data, size) - sink.data
    return 0


cdef inline int json_bytes(Sink *sink, const uint8_t *data, Py_ssize_t size) except -1:
    """Append bytes as JSON has them: {"$bytes": "<base64>"}."""
    put(sink, b'{"$bytes":"', 11)
    base64_part(sink, data, size)
    return put(sink, b'"}', 2)
