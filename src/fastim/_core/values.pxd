"""C interface of the value scanners; see values.pyi for the rules they keep."""

from libc.stdint cimport uint8_t

from fastim._core.sink cimport Sink

cdef enum:
    MAX_DEPTH = 64  # of a value
    MAX_SYNTAX_DEPTH = 128  # followed exactly by json_value without `rules`

# What json_value, msgpack_value found out about a value besides where it ends.
cdef struct Found:
    int kind  # a Kind
    bint too_deep  # JSON without `rules`: deeper than MAX_SYNTAX_DEPTH, brackets only counted

# A value's end. With `rules` all rules of values, else (JSON only) the grammar and UTF-8. With a sink the
# value is written to it in the other encoding. Raises ValueError at what is wrong.
cdef Py_ssize_t json_value(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint rules, Sink *sink, Found *found
) except -1
cdef Py_ssize_t msgpack_value(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Sink *sink, Found *found
) except -1

# The end of a msgpack value that is only skipped: no rules, any depth.
cdef Py_ssize_t msgpack_skip(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1
