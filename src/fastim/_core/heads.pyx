"""A connection's beginning: a socket that is taken over, a request head that is answered."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t

from fastim._core cimport sockets
from fastim._core.receiver cimport Receiver
from fastim._core.slab cimport (
    DECIDING,
    DUE_LIFE,
    KIND_DEFLATE,
    KIND_ENGINE,
    KIND_MSGPACK,
    OPEN,
    Row,
    handle_of,
)


@cython.no_gc_clear
cdef class Heads(Receiver):
    """What becomes of those whose head has come: a WebSocket, a response, or somebody else's."""

    def adopt(self, int fd, str peer, int64_t now_ns):
        """Take over a connected socket, in the state in which its request head is read.

        Args:
            fd: Becomes the hub's, also if this fails.
            peer: Its address, as text; "" if it has none.

        Returns:
            Its handle.
        """
        cdef uint8_t address[16]
        cdef Row *row
        self._enter()
        self.now_ns = now_ns
        sockets.text_address(peer.encode(), address)
        sockets.set_nonblocking(fd)
        row = self._open(fd, address)
        try:
            self._interest(row, True)
        except OSError:
            self._free_row(row)
            raise
        return handle_of(row)

    def upgrade(
        self,
        handle,
        bytes response not None,
        owner,
        *,
        int encoding=0,
        bint deflate=False,
        bint engine=False,
        int64_t deadline_ns=0,
    ):
        """Answer a request head with 101; the connection is a WebSocket from here.

        Args:
            handle: Of a connection whose HEAD event has come.
            response: The whole response head.
            owner: The subject of all further events; kept until CLOSED.
            encoding: Of its packets.
            deflate: Whether permessage-deflate was negotiated.
            engine: Whether it is a transport of Engine.IO: its messages are events ENGINE_TEXT and ENGINE_BINARY.
            deadline_ns: As for set_timer; 0: none.

        Returns:
            False if the connection is gone or was answered already.
        """
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != DECIDING:
            return False
        row.state = OPEN
        row.kind = (KIND_MSGPACK if encoding else 0) | (KIND_DEFLATE if deflate else 0)
        row.kind |= KIND_ENGINE if engine else 0
        self._own(row, owner)
        self._listen_again(row)
        self._forget_head(row)
        self.buffers.begin_bytes(
            &row.outbox, <const uint8_t *>PyBytes_AS_STRING(response), <size_t>len(response)
        )
        self._mark_urgent(row)
        self._schedule(row, DUE_LIFE, deadline_ns)
        return True

    def respond(self, handle, bytes response not None, int64_t now_ns):
        """Answer a request head with a whole HTTP response, and close. Returns False if it is gone."""
        cdef Row *row = self._row(handle)
        self.now_ns = now_ns
        if row == NULL or row.state != DECIDING:
            return False
        self._respond(row, response)
        return True

    def detach(self, handle):
        """Give a connection away whose HEAD event has come.

        Returns:
            (fd, bytes): the descriptor, now the caller's (-1 in the fed driver), and all that was read.

        Raises:
            LookupError: gone, or answered already.
        """
        cdef Row *row = self._row(handle)
        cdef bytes data
        cdef int fd
        if row == NULL or row.state != DECIDING:
            raise LookupError("no connection waits for an answer under this handle")
        data = row.inbound.message[:row.inbound.message_size]
        if row.inbound.left_size:
            data += (row.inbound.left + row.inbound.left_offset)[:row.inbound.left_size]
        fd = row.fd
        if fd >= 0:
            sockets.epoll_ctl(self.epoll, sockets.EPOLL_CTL_DEL, fd, NULL)
        row.fd = -1
        self._free_row(row)
        return fd, data
