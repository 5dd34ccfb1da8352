"""C interface of the value scanners; see values.pyi for the rules they keep."""

from libc.stdint cimport uint8_t, uint64_t

from fastim._core.sink cimport Sink

cdef enum:
    MAX_DEPTH = 64  # of a value
    MAX_SYNTAX_DEPTH = 128  # followed exactly by json_value without `rules`

# What json_value, msgpack_value found out about a value besides where it ends.
cdef struct Found:
    int kind  # a Kind
    bint escaped  # JSON: bytes or a key that begins with "$" are inside; decoding needs a second look
    bint too_deep  # JSON without `rules`: deeper than MAX_SYNTAX_DEPTH, brackets only counted

cdef enum:
    KIND_NULL = 0
    KIND_BOOLEAN = 1
    KIND_INTEGER = 2
    KIND_DOUBLE = 3
    KIND_STRING = 4
    KIND_BYTES = 5
    KIND_ARRAY = 6
    KIND_MAP = 7
    KIND_EXTENSION = -1
    KIND_NONE = -2  # msgpack's 0xC1

# The head of a msgpack value.
cdef struct Head:
    int kind
    Py_ssize_t end  # behind the head and, of numbers, the number
    uint64_t count  # bytes of a string, of bytes or of an extension type; items of an array or map
    uint64_t bits  # a number's, sign-extended; a boolean's
    bint is_signed
    double real

# A value's end. With `rules` all rules of values, else (JSON only) the grammar and UTF-8. With a sink the value
# is written to it in the other encoding. Raises ValueError at what is wrong.
cdef Py_ssize_t json_value(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint rules, Sink *sink, Found *found
) except -1
cdef Py_ssize_t msgpack_value(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Sink *sink, Found *found
) except -1

# The end of a msgpack value that is only skipped: no rules, any depth.
cdef Py_ssize_t msgpack_skip(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1

cdef int read_head(Head *head, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1

cdef Py_ssize_t json_space(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) noexcept nogil
# The index of the quote that ends the string whose first character is at pos.
cdef Py_ssize_t json_string_end(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint rules, bint *escaped
) except -1
# Write the characters of a string that json_string_end has accepted; returns their bytes' number.
cdef Py_ssize_t json_unescape(const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, uint8_t *out) noexcept nogil
cdef bint utf8_valid(const uint8_t *data, Py_ssize_t size) noexcept nogil
