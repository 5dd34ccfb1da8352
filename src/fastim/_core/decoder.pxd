"""C interface of the decoder."""

from libc.stdint cimport uint8_t

# The str of valid UTF-8; short ones that came before are the same object.
cdef str cached_text(const uint8_t *data, Py_ssize_t size)
