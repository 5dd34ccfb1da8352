# cython: auto_pickle=False, autotestdict=False
"""A request's head, taken apart (RFC 9112, sections 3 and 5).

Strict: a bare CR or LF, a NUL, a folded line, a space before a colon are refused, as what two parsers read differently
is how requests are smuggled.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem, PyDict_SetItem
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t
from libc.string cimport memcmp

# What a byte may be part of
cdef enum:
    TOKEN = 1
    TARGET = 2
    VALUE = 4

cdef uint8_t _PARTS[256]


cdef int _fill_parts() except -1:
    cdef int byte
    for byte in range(256):
        _PARTS[byte] = 0
        if byte >= 0x80 or 0x21 <= byte <= 0x7E:
            _PARTS[byte] = TARGET | VALUE
    for byte in b"\t ":
        _PARTS[byte] = VALUE
    for byte in b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        _PARTS[byte] |= TOKEN
    return 0


_fill_parts()


cdef inline const uint8_t *_skip(const uint8_t *p, const uint8_t *end, uint8_t part) noexcept nogil:
    """The first byte that is no such part."""
    while p < end and _PARTS[p[0]] & part:
        p += 1
    return p


cdef inline bytes _slice(const uint8_t *begin, const uint8_t *end):
    return PyBytes_FromStringAndSize(<const char *>begin, end - begin)


cdef inline bytes _lowered(const uint8_t *begin, const uint8_t *end):
    cdef bytes name = PyBytes_FromStringAndSize(NULL, end - begin)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(name)
    while begin < end:
        out[0] = begin[0] | 0x20 if c"A" <= begin[0] <= c"Z" else begin[0]
        out += 1
        begin += 1
    return name


cdef inline bytes _stripped(const uint8_t *begin, const uint8_t *end):
    """A value without the blanks around it."""
    while begin < end and (begin[0] == c" " or begin[0] == c"\t"):
        begin += 1
    while begin < end and ((end - 1)[0] == c" " or (end - 1)[0] == c"\t"):
        end -= 1
    return _slice(begin, end)


def split_head(bytes data not None, frozenset single not None):
    """Take a head apart, up to and with its blank line, with nothing behind that.

    Args:
        single: Fields that may stand once, their names in lower case.

    Returns:
        (method, target, version: "1.0" or "1.1", fields): names in lower case; the values of a field that stands more
        than once are joined by a comma. All are copies.

    Raises:
        ValueError: It is malformed; the message is one for the client.
    """
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef const uint8_t *end = p + len(data)
    cdef const uint8_t *mark = _skip(p, end, TOKEN)
    cdef const uint8_t *behind
    cdef bytes method, target, version, name
    cdef bytes twice = None
    cdef dict fields
    if mark == p or mark == end or mark[0] != c" ":
        raise ValueError("The request line is malformed.")
    method = _slice(p, mark)
    p = mark + 1
    mark = _skip(p, end, TARGET)
    if mark == p or end - mark < 11 or memcmp(mark, b" HTTP/1.", 8) or not c"0" <= mark[8] <= c"1":
        raise ValueError("The request line is malformed.")
    if mark[9] != c"\r" or mark[10] != c"\n":
        raise ValueError("The request line is malformed.")
    target = _slice(p, mark)
    version = _slice(mark + 6, mark + 9)
    p = mark + 11
    fields = {}
    while end - p > 2:
        mark = _skip(p, end, TOKEN)
        if mark == p or mark == end or mark[0] != c":":
            break
        behind = _skip(mark + 1, end, VALUE)
        if end - behind < 2 or behind[0] != c"\r" or behind[1] != c"\n":
            break
        name = _lowered(p, mark)
        if not _put(fields, name, _stripped(mark + 1, behind)) and twice is None and name in single:
            twice = name
        p = behind + 2
    if end - p != 2 or p[0] != c"\r" or p[1] != c"\n":
        raise ValueError("A header field is malformed.")
    if twice is not None:
        raise ValueError(f"The header field {twice.decode()} stands twice.")
    return method, target, version, fields


cdef bint _put(dict fields, bytes name, bytes value) except -1:
    """Add a field, or to it; False if it is there already."""
    cdef PyObject *before = PyDict_GetItem(fields, name)
    if before != NULL:
        value = <bytes>before + b", " + value
    PyDict_SetItem(fields, name, value)
    return before == NULL
