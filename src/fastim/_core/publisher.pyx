"""What the service sends: a packet to one connection, to several, or to all of a topic."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastim._core.channels cimport Channels
from fastim._core.frames cimport OP_PING
from fastim._core.outbox cimport LANE_HIGH, LANE_LOW, LANE_NORMAL, Span
from fastim._core.rendering cimport Letter, new_letter, set_forms
from fastim._core.slab cimport (
    KIND_BATCH,
    KIND_CHANNEL,
    KIND_ENGINE,
    KIND_MSGPACK,
    NATIVE_KINDS,
    OPEN,
    Row,
    find,
    handle_of,
    row_at,
)
from fastim._core.topics cimport Topic

cdef enum:
    FEW = 8  # connections, a user's devices: their batches are put together with what else they get
    COMMON_TOPICS = 254  # numbers that topics share; those of a list are 255
    COMMON_LIST = 255


cdef uint64_t _state_key(int lane, key) except? 0xFFFFFFFFFFFFFFFF:
    """Check a lane, and the key of a state that may go with the low one."""
    if not 0 <= lane <= LANE_LOW:
        raise ValueError("no such lane")
    if key and lane != LANE_LOW:
        raise ValueError("only the low lane has states with a key")
    return <uint64_t>key


@cython.no_gc_clear
cdef class Publisher(Channels):
    """Frames packets once for each kind of connection, and queues them."""

    def send(self, handle, bytes packet, int lane=LANE_NORMAL, key=0):
        """Queue one encoded packet, in the connection's encoding.

        Args:
            key: With the low lane: 64 bits that name a state, whose latest value is in the packet. Where an older value
                still waits it is replaced, so the packet must say all that the older one said. 0: no state.

        Returns:
            False if it is gone, or too slow and therefore closed now. True says nothing about arrival; a packet in
            the low lane may be dropped.
        """
        cdef Row *row = self._row(handle)
        cdef Span span
        cdef uint64_t state = _state_key(lane, key)
        cdef int kind
        if row == NULL or row.state != OPEN:
            return False
        if row.kind & (KIND_CHANNEL | KIND_ENGINE):
            return self._send_to_channel(row, packet, lane, state)
        kind = row.kind if lane != LANE_HIGH else row.kind & ~KIND_BATCH
        self.framer.packet(kind, False, packet, &span)
        span.key = state
        self._push(row, lane, &span)
        if self.slow.count:
            self._end_slow()
        return row.state == OPEN

    cdef bint _send_to_channel(self, Row *row, bytes packet, int lane, uint64_t key) except -1:
        """Queue a native packet for a channel; a transport of Engine.IO takes none."""
        if row.kind & KIND_ENGINE:
            return False
        if row.kind & KIND_MSGPACK:
            return self._post(row, new_letter(self.buffers, None, packet, key), lane)
        return self._post(row, new_letter(self.buffers, packet, None, key), lane)

    def send_message(self, handle, bytes payload, bint binary):
        """Queue one WebSocket message as it is, whatever the connection's encoding. False if it is gone."""
        cdef Row *row = self._row(handle)
        cdef Span span
        if row == NULL or row.state != OPEN or row.kind & (KIND_CHANNEL | KIND_ENGINE):
            return False
        self.framer.message(row.kind, binary, payload, &span)
        self._push(row, LANE_NORMAL, &span)
        if self.slow.count:
            self._end_slow()
        return row.state == OPEN

    def ping(self, handle, bytes payload=b""):
        """Queue a ping with at most 125 bytes. False if the connection is gone."""
        cdef Row *row = self._row(handle)
        if len(payload) > 125:
            raise ValueError("a ping has at most 125 bytes")
        if row == NULL or row.state != OPEN or row.kind & (KIND_CHANNEL | KIND_ENGINE):
            return False
        self._send_control(
            row, OP_PING, <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>len(payload)
        )
        return row.state == OPEN

    def send_many(
        self,
        handles,
        bytes json,
        bytes msgpack,
        int lane=LANE_NORMAL,
        key=0,
        *,
        sio_json=None,
        sio_msgpack=None,
        bytes offset not None=b"",
    ):
        """Queue a packet for each of several connections, framed once for each kind of them.

        Args:
            handles: Whose; each gets it as often as it is named. Those that are gone are passed over.
            json, msgpack, key, sio_json, sio_msgpack, offset: As for ``publish`` and ``send``.

        Returns:
            To how many connections it was queued.
        """
        cdef uint64_t state = _state_key(lane, key)
        cdef list named = list(handles)
        cdef Span spans[NATIVE_KINDS]
        cdef int framed = 0  # bits of the kinds in spans
        cdef uint8_t common = COMMON_LIST if len(named) > FEW else 0
        cdef Letter letter = new_letter(self.buffers, json, msgpack, state)
        cdef size_t reached = 0
        cdef int kind
        cdef Row *row
        cdef Span *span
        self._enter()
        set_forms(letter, sio_json, sio_msgpack, offset)
        self.busy = True
        try:
            for handle in named:
                row = find(self.slab, <uint64_t>handle)
                if row == NULL or row.state != OPEN:
                    continue
                if row.kind & (KIND_CHANNEL | KIND_ENGINE):
                    span = self._address(letter, row, common) if row.kind & KIND_CHANNEL else NULL
                    if span != NULL:
                        reached += <size_t>self._push(row_at(self.slab, row.parent), lane, span)
                    continue
                kind = row.kind if lane != LANE_HIGH else row.kind & ~KIND_BATCH
                if not framed & (1 << kind):
                    if not self._frame(kind, common, json, msgpack, state, &spans[kind]):
                        continue
                    framed |= 1 << kind
                reached += <size_t>self._push(row, lane, &spans[kind])
        finally:
            self.busy = False
        if self.slow.count:
            self._end_slow()
        return reached

    cdef bint _frame(
        self, int kind, uint8_t common, bytes json, bytes msgpack, uint64_t key, Span *span
    ) except -1:
        """Frame a packet for the connections of a kind; False if it is not there in their encoding."""
        cdef bytes packet = msgpack if kind & KIND_MSGPACK else json
        if packet is None:
            return False
        self.framer.packet(kind, common, packet, span)
        span.key = key
        return True

    # -- topics

    def create_topic(self):
        """A new topic's id, never 0."""
        self._enter()
        return self.topics.create()

    def drop_topic(self, topic):
        """End a topic; its members stay connected. An id that is stale does nothing."""
        self._enter()
        self.topics.drop(<uint64_t>topic)

    def subscribe(self, topic, handle):
        """Make a connection a member; False if it is one already, or either is gone."""
        cdef Row *row = self._row(handle)
        if row == NULL or row.state != OPEN or row.kind & KIND_ENGINE:
            return False
        return self.topics.subscribe(<uint64_t>topic, row)

    def unsubscribe(self, topic, handle):
        """End a membership; False if there was none."""
        cdef Row *row = self._row(handle)
        return row != NULL and self.topics.unsubscribe(<uint64_t>topic, row)

    def topic_members(self, topic):
        """How many members take JSON and how many msgpack: the encodings that ``publish`` needs."""
        self._enter()
        cdef Topic *t = self.topics.find(<uint64_t>topic)
        if t == NULL:
            return 0, 0
        return t.count - t.msgpack_count, t.msgpack_count

    def topic_channels(self, topic):
        """How many members are channels, of the default and of the msgpack parser; ``topic_members`` has them, too."""
        cdef Topic *t
        self._enter()
        t = self.topics.find(<uint64_t>topic)
        if t == NULL:
            return 0, 0
        return t.channel_count - t.packed_count, t.packed_count

    def topic_handles(self, topic):
        """The handles of a topic's members. **Cost**: O(members)."""
        cdef Topic *t
        cdef uint32_t i
        self._enter()
        t = self.topics.find(<uint64_t>topic)
        return [] if t == NULL else [handle_of(row_at(self.slab, t.members[i])) for i in range(t.count)]

    def publish(
        self,
        topic,
        bytes json,
        bytes msgpack,
        exclude=0,
        int lane=LANE_NORMAL,
        key=0,
        *,
        sio_json=None,
        sio_msgpack=None,
        bytes offset not None=b"",
    ):
        """Queue a packet for every member of a topic but one.

        Framed once for each kind of member; keeps the order with other ``publish`` and ``send`` calls of the lane.
        Channels get it rendered, once for each of their namespaces.

        Args:
            json, msgpack: The encoded packet; None where no member needs it (a member that would gets nothing).
            exclude: A handle; 0: nobody is left out.
            key: As for ``send``.
            sio_json, sio_msgpack: What channels get instead, of the default and of the msgpack parser: a packet as
                ``send_rendered`` takes it, or a tuple of one and its attachments.
            offset: A string that is the last argument of the event where it is rendered; b"": none.

        Returns:
            To how many connections it was queued.
        """
        cdef Topic *t
        cdef uint64_t excluded = <uint64_t>exclude
        cdef Letter letter
        cdef size_t reached = 0
        letter = new_letter(self.buffers, json, msgpack, _state_key(lane, key))
        self._enter()
        t = self.topics.find(<uint64_t>topic)
        if t == NULL:
            return 0
        if not LANE_NORMAL <= lane <= LANE_LOW:
            raise ValueError("a topic has the lanes NORMAL and LOW")
        set_forms(letter, sio_json, sio_msgpack, offset)
        self.busy = True
        try:
            self._publish(t, letter, excluded, lane, &reached)
        finally:
            self.busy = False
        if self.slow.count:
            self._end_slow()
        return reached

    cdef int _publish(self, Topic *t, Letter letter, uint64_t excluded, int lane, size_t *reached) except -1:
        cdef Row *row
        cdef Span spans[NATIVE_KINDS]
        cdef Span *span
        cdef int framed = 0  # bits of the kinds in spans
        cdef uint8_t common = <uint8_t>(1 + (t - self.topics.table) % COMMON_TOPICS)
        cdef int kind
        cdef uint32_t i
        for i in range(t.count):
            row = row_at(self.slab, t.members[i])
            if excluded and handle_of(row) == excluded:
                continue
            kind = row.kind
            if kind & KIND_CHANNEL:
                span = self._address(letter, row, common)
                if span == NULL:
                    continue
                row = row_at(self.slab, row.parent)
            else:
                span = &spans[kind]
                if not framed & (1 << kind):
                    if not self._frame(kind, common, letter.json, letter.msgpack, letter.key, span):
                        continue
                    framed |= 1 << kind
            reached[0] += <size_t>self._push(row, lane, span)
        return 0
