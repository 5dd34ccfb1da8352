"""C interface of the tokens of encoded values."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

# Raises ValueError: what, and at which byte.
cdef int wrong(str what, Py_ssize_t pos) except -1

# -- UTF-8

cdef bint utf8_valid(const uint8_t *data, Py_ssize_t size) noexcept nogil

# -- base64

# Decode to `out` (or only check, if NULL); the number of bytes, or -1 if it is not strictly base64.
cdef Py_ssize_t base64_decode(const uint8_t *text, Py_ssize_t size, uint8_t *out) noexcept nogil

# -- JSON

cdef struct Number:
    bint is_double
    bint negative
    bint out_of_range  # an integer past 64 bits
    uint64_t magnitude
    int64_t exponent_bound  # a double is below 10 to this power
    bint is_short  # a double that is `significand` divided by 10 to the power `decimals`, both exact doubles
    uint64_t significand
    Py_ssize_t decimals

cdef enum Lead:
    LEAD_PLAIN
    LEAD_ESCAPED  # "$$..."
    LEAD_BYTES  # "$bytes"
    LEAD_WRONG

cdef Py_ssize_t json_space(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) noexcept nogil
# The index of the quote that ends the string whose first character is at pos. Without `rules` lone
# surrogates pass.
cdef Py_ssize_t json_string_end(
    const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint rules, bint *escaped
) except -1
# Write the characters of a string that json_string_end has accepted; their bytes' number. A lone surrogate,
# which passes without the rules, becomes U+FFFD.
cdef Py_ssize_t json_unescape(
    const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, uint8_t *out
) noexcept nogil
# How a key begins, escapes resolved: its first seven characters decide.
cdef Lead key_lead(const uint8_t *data, Py_ssize_t begin, Py_ssize_t end) noexcept nogil
# The end of the number that begins at pos.
cdef Py_ssize_t json_number(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, Number *number) except -1
# The double that the number's text says; ValueError if it is not finite.
cdef double json_double_at(
    const uint8_t *data, Py_ssize_t begin, Py_ssize_t end, const Number *number
) except? -1.0
# From behind a key to its value.
cdef Py_ssize_t json_colon(const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1

# -- msgpack

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

cdef struct Head:
    int kind
    Py_ssize_t end  # behind the head and, of numbers, the number
    uint64_t count  # bytes of a string, of bytes or of an extension type; items of an array or map
    uint64_t bits  # a number's, sign-extended; a boolean's
    bint is_signed
    double real

cdef int read_head(Head *head, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos) except -1
# Check that a head that was read at pos may stand in a value: no extension type, finite, valid UTF-8, complete.
cdef int check_head(
    const Head *head, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint is_key
) except -1
# Both.
cdef int read_value_head(
    Head *head, const uint8_t *data, Py_ssize_t size, Py_ssize_t pos, bint is_key
) except -1
