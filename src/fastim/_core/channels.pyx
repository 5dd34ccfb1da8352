"""Channels: the namespaces of a transport of Engine.IO, each a connection of its own to the service.

A channel is a row without a socket, an outbox or a heartbeat. It has a handle, an owner, topics, a tier, a timer and a
place among the idle; what is queued for it is rendered for its parser and namespace and goes into the outbox of its
transport, beside what its siblings get. It ends with its transport, or before.
"""

from binascii import a2b_base64

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastim._core.encoder cimport JSON, MSGPACK
from fastim._core.idle cimport touch
from fastim._core.namespaces cimport Namespace
from fastim._core.outbox cimport LANE_HIGH, LANE_LOW, LANE_NORMAL, Span
from fastim._core.polling cimport Polling
from fastim._core.rendering cimport Letter, Place, find_place, new_letter, set_forms
from fastim._core.slab cimport (
    DUE_HEARTBEAT,
    IS_APART,
    IS_ASKED,
    IS_BLOCKED,
    IS_FED,
    IS_STOPPED,
    IS_PAUSED,
    IS_PENDING,
    KIND_CHANNEL,
    KIND_DEFLATE,
    KIND_ENGINE,
    KIND_MSGPACK,
    KIND_POLLING,
    NO_SLOT,
    OPEN,
    TIER_STANDARD,
    WANTS_DRAINED,
    Pulse,
    Row,
    handle_of,
    is_polling,
    row_at,
)

cdef bytes _DISCONNECT_TEXT = b"41"
cdef bytes _DISCONNECT_PACKED = b"\x82\xa4type\x01"  # the namespace is its other key


@cython.no_gc_clear
cdef class Channels(Polling):
    """Opens, ends and moves channels, and writes to one of them."""

    def set_channel_codes(self, codes):
        """Set the close codes that end a channel alone, by a DISCONNECT; all others close its transport."""
        self._enter()
        self.channel_codes = {int(code) for code in codes}

    def set_event_names(self, names):
        """Set the names of the events that native packets in msgpack call by a code; code → name."""
        self._enter()
        self.renderer.set_names(names)

    def set_converter(self, converter):
        """Set what renders a native JSON packet whose keys may begin with ``$``.

        Args:
            converter: Called with the packet, returns the Socket.IO packet as ``send_rendered`` takes it and a tuple
                of its attachments. It must not raise and cannot call the hub. None: such keys are sent as they are.
        """
        self._enter()
        self.renderer.converter = converter

    def open_channel(self, transport, bytes namespace not None, owner, *, int encoding=0):
        """Open a channel of a transport.

        Args:
            transport: The handle of one that is open.
            namespace: Its name, with the slash.
            owner: The subject of its events; kept until CLOSED, or ``drop_channel``.
            encoding: JSON for Socket.IO's default parser, MSGPACK for its msgpack parser.

        Returns:
            Its handle; 0 if the transport is gone.
        """
        cdef Row *row = self._row(transport)
        cdef Row *channel
        cdef Row *last
        cdef Namespace shared
        if row == NULL or row.state != OPEN or not row.kind & KIND_ENGINE:
            return 0
        shared = self.namespaces.c_get(namespace)
        channel = self.slab.take()
        channel.state = OPEN
        channel.kind = KIND_CHANNEL | row.kind & (KIND_DEFLATE | KIND_POLLING)
        channel.kind |= KIND_MSGPACK if encoding else 0
        channel.tier = TIER_STANDARD
        channel.parent = row.slot
        Py_INCREF(shared)
        channel.namespace = <PyObject *>shared
        shared.channels += 1
        self.channel_count += 1
        self._own(channel, owner)
        last = row
        while last.next != NO_SLOT:
            last = row_at(self.slab, last.next)
        last.next = channel.slot
        self._settle_channels(row)
        return handle_of(channel)

    def drop_channel(self, handle):
        """End a channel without a packet and without an event. False if it is gone."""
        cdef Row *channel = self._row(handle)
        if channel == NULL or not channel.kind & KIND_CHANNEL:
            return False
        self._free_row(channel)
        return True

    def touch(self, handle):
        """A message came for a channel: it is the one of its tier that was busy last."""
        cdef Row *row = self._row(handle)
        if row != NULL:
            touch(self.idle, row.slot)

    def send_rendered(self, handle, bytes packet not None, attachments=(), int lane=LANE_NORMAL, key=0):
        """Queue a Socket.IO packet for a channel; the hub adds the namespace.

        Args:
            packet: For the default parser text as it stands in a message of Engine.IO, without the namespace:
                ``42["event",…]``, ``4312[…]``, ``451-["event",{"_placeholder":true,"num":0}]``, ``41``. For the msgpack
                parser a map without ``nsp``, whose head counts it.
            attachments: Bytes, each sent as a message behind it; of the default parser.
            lane, key: As for ``send``.

        Returns:
            As ``send``; False for what is no channel.
        """
        cdef tuple attached = tuple(attachments)  # before the row is found: they may come from a generator
        cdef Row *channel = self._row(handle)
        cdef Letter letter
        if not 0 <= lane <= LANE_LOW or key and lane != LANE_LOW:
            raise ValueError("no such lane, or a key in a lane without states")
        if channel == NULL or not channel.kind & KIND_CHANNEL:
            return False
        letter = new_letter(self.buffers, None, None, <uint64_t>key)
        if channel.kind & KIND_MSGPACK:
            set_forms(letter, None, packet, b"")
        else:
            set_forms(letter, (packet, attached), None, b"")
        return self._post(channel, letter, lane)

    def write_apart(self, transport):
        """Write what is queued for a transport, and nothing more until ``write_on``: that comes in a read of its own.

        Returns:
            Whether anything is held back: not where the socket did not take all, nor where there is none.
        """
        cdef Row *row = self._row(transport)
        if row == NULL or row.state != OPEN or row.flags & (IS_FED | IS_BLOCKED):
            return False
        self._write(row)
        self._attend(row)
        if row.flags & IS_BLOCKED:
            return False
        row.flags |= IS_APART
        return True

    def write_on(self, transport):
        """Let what ``write_apart`` held back go out with the next flush."""
        cdef Row *row = self._row(transport)
        if row != NULL and row.flags & IS_APART:
            row.flags &= ~IS_APART
            self._mark_urgent(row)

    def send_engine(self, handle, bytes data not None, bint binary, int lane=LANE_NORMAL):
        """Queue a packet of Engine.IO for a transport as it is: text with its type, or a message's bytes.

        False if it is gone, is no transport of Engine.IO, or too slow and therefore closed now.
        """
        cdef Row *row = self._row(handle)
        cdef Span span
        if not LANE_HIGH <= lane <= LANE_LOW:
            raise ValueError("no such lane")
        if row == NULL or row.state != OPEN or not row.kind & KIND_ENGINE:
            return False
        self.framer.message(row.kind, binary, data, &span)
        self._push(row, lane, &span)
        if self.slow.count:
            self._end_slow()
        return row.state == OPEN

    def send_payload(self, handle, bytes payload not None):
        """Queue the packets of what ``take_payload`` gave for another transport, with nothing between them.

        False if it is gone, is no transport of Engine.IO, or too slow and therefore closed now.
        """
        cdef Row *row = self._row(handle)
        cdef Span span
        if row == NULL or row.state != OPEN or not row.kind & KIND_ENGINE:
            return False
        if not payload:
            return True
        self.framer.together(
            &self.framer.urgent,
            row.kind,
            [
                (True, a2b_base64(record[1:])) if record.startswith(b"b") else (False, record)
                for record in payload.split(b"\x1e")
            ],
            &span,
        )
        self._push(row, LANE_NORMAL, &span)
        if self.slow.count:
            self._end_slow()
        return row.state == OPEN

    def move_channels(self, source, target):
        """Let a WebSocket take the place of a polling transport: the session goes on over it.

        The channels, the owner, the heartbeat, pauses, the tier, the outbox's bound and what is metered go over. The
        old transport has no owner any more, and no events; what is still in it is the caller's to take, and to send
        again before anything else (``send_payload``), and the transport to close.

        Returns:
            False if either is gone, or no such transport.
        """
        cdef Row *row = self._row(source)
        cdef Row *to = self._row(target)
        if row == NULL or to == NULL or row == to or row.state != OPEN or to.state != OPEN:
            return False
        if not is_polling(row) or not to.kind & KIND_ENGINE or to.next != NO_SLOT:
            return False
        self._take_over(row, to)
        return True

    cdef int _take_over(self, Row *row, Row *to) except -1:
        cdef uint32_t slot = row.next
        cdef PyObject *owner = to.owner
        cdef Row *channel
        to.next = row.next
        row.next = NO_SLOT
        while slot != NO_SLOT:
            channel = row_at(self.slab, slot)
            channel.parent = to.slot
            channel.kind = channel.kind & ~(KIND_DEFLATE | KIND_POLLING) | to.kind & KIND_DEFLATE
            slot = channel.next
        to.owner = row.owner
        row.owner = NULL
        to.tier = row.tier
        to.outbox.bound_bytes = row.outbox.bound_bytes
        to.received_ns = max(to.received_ns, row.received_ns)
        memcpy(&to.pulse, &row.pulse, sizeof(Pulse))
        memset(&row.pulse, 0, sizeof(Pulse))
        self._schedule_last(row, 0)
        if to.pulse.interval_ms:
            self._schedule(to, DUE_HEARTBEAT, self._next_ping_ns(to))
        if not row.flags & IS_PENDING:
            self._authenticate(to)
            to.meter = row.meter
        self._take_over_waiting(row, to)
        if owner != NULL:
            Py_DECREF(<object>owner)
        return 0

    cdef int _take_over_waiting(self, Row *row, Row *to) except -1:
        """Let another transport wait for what one waited for: to be read again, to be drained."""
        to.pauses = row.pauses
        row.pauses = 0
        if row.flags & IS_PAUSED:
            to.flags |= row.flags & (IS_PAUSED | IS_STOPPED)
            row.flags &= ~(IS_PAUSED | IS_STOPPED)
            self._interest(to)
        if row.flags & WANTS_DRAINED:
            to.flags |= row.flags & (WANTS_DRAINED | IS_ASKED)
            row.flags &= ~(WANTS_DRAINED | IS_ASKED)
            to.outbox.awaited_bytes = row.outbox.awaited_bytes
            self._mark_urgent(to)
        return 0

    cdef Span *_address(self, Letter letter, const Row *channel, uint8_t common) except? NULL:
        """Where a letter stands for a channel, rendered and framed if it was not; NULL: not in its parser."""
        cdef Place *place = find_place(letter, channel.namespace, channel.kind)
        cdef bytes packet
        cdef Span span
        if place != NULL:
            return &place.span
        packet = self.renderer.render(
            letter, MSGPACK if channel.kind & KIND_MSGPACK else JSON, <Namespace>channel.namespace
        )
        if packet is None:
            return NULL
        if letter.text_attachments and not channel.kind & KIND_MSGPACK:
            self.framer.attached(channel.kind, common, packet, letter.text_attachments, &span)
        else:
            self.framer.packet(channel.kind, common, packet, &span)
        span.key = letter.key
        return &letter.keep(channel.namespace, channel.kind, &span).span

    cdef bint _post(self, Row *channel, Letter letter, int lane) except -1:
        """Queue a letter for one channel; whether the channel is still there."""
        cdef Span *span
        self.busy = True  # the converter must leave the channel where it is
        try:
            span = self._address(letter, channel, 0)
        finally:
            self.busy = False
        if span == NULL:
            return False
        self._push(row_at(self.slab, channel.parent), lane, span)
        if self.slow.count:
            self._end_slow()
        return channel.state == OPEN

    cdef int _disconnect(self, Row *channel) except -1:
        """Queue a DISCONNECT, behind all else that is queued for the channel."""
        cdef Row *row = row_at(self.slab, channel.parent)
        cdef Letter letter = new_letter(self.buffers, None, None, 0)
        set_forms(letter, _DISCONNECT_TEXT, _DISCONNECT_PACKED, b"")
        self.buffers.settle_low(&row.outbox)
        self._push(row, LANE_NORMAL, self._address(letter, channel, 0))
        return 0

    cdef int _close_channel(self, Row *channel, uint16_t code, str reason) except -1:
        """End a channel alone: its client is told, and does not come back."""
        self._let_go(channel, code, reason, False)
        self._disconnect(channel)
        self._free_row(channel)
        return self._end_slow() if self.slow.count else 0

    cdef int _close_transport(self, Row *row, uint16_t code, str reason) except -1:
        """Close a connection; where the code is one of a channel's, the clients of its channels are told before."""
        cdef uint32_t slot = row.next
        cdef Row *channel
        if slot != NO_SLOT and code in self.channel_codes:
            while slot != NO_SLOT:
                channel = row_at(self.slab, slot)
                self._disconnect(channel)
                slot = channel.next
            if self.slow.count:
                self._end_slow()
        return self._begin_close(row, code, reason) if row.state == OPEN else 0

    cdef int _pause_channel(self, Row *channel) except -1:
        cdef Row *row = row_at(self.slab, channel.parent)
        if not channel.flags & IS_PAUSED:
            channel.flags |= IS_PAUSED
            row.pauses += 1
            self._pause(row)
        return 0

    cdef int _resume_channel(self, Row *channel) except -1:
        cdef Row *row = row_at(self.slab, channel.parent)
        if channel.flags & IS_PAUSED:
            channel.flags &= ~IS_PAUSED
            row.pauses -= 1
            self._resume(row)
        return 0
