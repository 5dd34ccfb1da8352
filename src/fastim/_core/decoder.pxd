"""C interface of the decoder."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

# Where a decoder is in its data, and what it makes of them. Plain values are those of other protocols, as
# JavaScript writes them: keys that begin with $ have no meaning and lone surrogates become U+FFFD; in JSON
# integers past 64 bits are doubles; in msgpack doubles may be infinite or none, and extensions of type 0 are
# undefined (None), dates (datetime, in UTC) and typed arrays (bytes).
cdef struct Cursor:
    const uint8_t *data
    Py_ssize_t size
    Py_ssize_t pos
    bint is_plain
    PyObject *attachments  # owner: the caller; a list that the placeholders of plain JSON number, or NULL

# The str of valid UTF-8; short ones that came before are the same object.
cdef str cached_text(const uint8_t *data, Py_ssize_t size)

# The value at the cursor, which may have `depth` levels of arrays and maps.
cdef object json_item(Cursor *at, int depth)
cdef object msgpack_item(Cursor *at, int depth)
