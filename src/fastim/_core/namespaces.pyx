"""Namespaces of Socket.IO: what they add to a packet, once for all channels of a name."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastim._core.sink cimport Sink, close_sink, finish, mp_string, open_sink


@cython.final
cdef class Namespace:
    """One namespace that has channels."""


@cython.final
@cython.no_gc_clear  # the hub needs it to the end
cdef class Namespaces:
    """Those of a hub; one is forgotten with its last channel, as clients may choose their names by pattern."""

    def __cinit__(self):
        self.by_name = {}

    cdef Namespace c_get(self, bytes name):
        """The namespace of a name; the caller counts its channel."""
        cdef Namespace namespace = self.by_name.get(name)
        if namespace is not None:
            return namespace
        namespace = Namespace.__new__(Namespace)
        namespace.name = name
        namespace.prefix = b"" if name == b"/" else name + b","
        namespace.tail = _tail(name)
        self.by_name[name] = namespace
        return namespace

    cdef void c_left(self, Namespace namespace) noexcept:
        """A channel of it is gone."""
        namespace.channels -= 1
        if not namespace.channels:
            self.by_name.pop(namespace.name, None)


cdef bytes _tail(bytes name):
    cdef Sink sink
    open_sink(&sink)
    try:
        mp_string(&sink, b"nsp", 3)
        mp_string(&sink, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        return finish(&sink)
    finally:
        close_sink(&sink)
