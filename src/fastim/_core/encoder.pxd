"""C interface of the encoder."""

from fastim._core.sink cimport Sink
from fastim._core.values cimport MAX_DEPTH

cdef enum:
    JSON = 0
    MSGPACK = 1
    PACKET_DEPTH = MAX_DEPTH + 8  # a body holds content, which may have the full depth


cdef class Encoded:
    cdef readonly bytes data
    cdef readonly int encoding


# Write a value that may hold `depth` levels of arrays and maps.
cdef int put_value(Sink *sink, object value, int encoding, int depth) except -1
# Write what comes behind a packet's body.
cdef int put_packet_end(Sink *sink, int encoding, object ref) except -1
# Raise ValueError for an encoding that there is not.
cdef int known(int encoding) except -1
