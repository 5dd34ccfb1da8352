"""Who a hub's connections are: their addresses, whether their user is known, what they may ask for, who gives way."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastim._core cimport sockets
from fastim._core.addresses cimport ADDRESS_BYTES, in_range, parse_range
from fastim._core.idle cimport IDLE_NONE
from fastim._core.publisher cimport Publisher
from fastim._core.slab cimport (
    BODY,
    DECIDING,
    FINISHING,
    FREE,
    HELD,
    IS_PENDING,
    KIND_BATCH,
    KIND_CHANNEL,
    KIND_ENGINE,
    NO_SLOT,
    OPEN,
    TIERS,
    Row,
    carrier_of,
    handle_of,
    row_at,
)

cdef enum:
    NS_PER_S = 1_000_000_000


@cython.no_gc_clear
cdef class Admission(Publisher):
    """What the service learns and says of one connection among the others."""

    def peer(self, handle):
        """The peer's address as text; "" for a stale handle."""
        cdef Row *row = self._carrier(handle)
        return sockets.address_text(row.address) if row != NULL else ""

    def set_peer(self, handle, str peer not None):
        """Give it the address of whoever is behind a proxy. False if it is gone, or that is no address."""
        cdef Row *row = self._carrier(handle)
        cdef uint8_t address[ADDRESS_BYTES]
        if row == NULL or not sockets.text_address(peer.encode(), address):
            return False
        if row.flags & IS_PENDING:
            self._end_pending(row.address)
            self._begin_pending(address)
        memcpy(row.address, address, ADDRESS_BYTES)
        return True

    def is_pending(self, handle):
        """Whether its user is not known yet. False for a stale handle."""
        cdef Row *row = self._carrier(handle)
        return row != NULL and row.flags & IS_PENDING != 0

    def pending_at(self, str peer not None):
        """How many connections of an address, or of its /64, are pending."""
        cdef uint8_t address[ADDRESS_BYTES]
        self._enter()
        sockets.text_address(peer.encode(), address)
        return self.pending_by.c_count(address)

    def within(self, str network not None):
        """The owners, or handles where there is none, of the connections from a range that are not at their end.

        Of a transport of Engine.IO those of its channels; its handle if it has none.

        **Cost**: O(connections).

        Raises:
            ValueError: It is no range.
        """
        cdef uint8_t range_[ADDRESS_BYTES]
        cdef uint32_t bits = 0, slot
        cdef list found = []
        cdef Row *row
        self._enter()
        parse_range(network, range_, &bits)
        for slot in range(self.slab.capacity):
            row = row_at(self.slab, slot)
            if row.state == FREE or row.state == FINISHING:
                continue
            if not in_range(carrier_of(self.slab, row).address, range_, bits):
                continue
            if not row.kind & KIND_ENGINE:
                found.append(<object>row.owner if row.owner != NULL else handle_of(row))
            elif row.next == NO_SLOT:
                found.append(handle_of(row))
        return found

    def authenticated(self, handle):
        """Its user is known: it is not pending any more, or until its next request; nor is a channel's transport.

        False if it is gone.
        """
        cdef Row *row = self._carrier(handle)
        if row == NULL or not (
            row.state == OPEN or row.state == DECIDING or row.state == BODY or row.state == HELD
        ):
            return False
        self._authenticate(row)
        return True

    def charge(self, handle, uint32_t packets):
        """Count packets that came beside a frame's first, in a batch.

        False if they, or others before, were too many for one whose user is not known: it is closed for it. One whose
        user is known is not read until it is within its rate again.
        """
        cdef Row *row = self._carrier(handle)
        if row == NULL:
            return True
        if row.flags & IS_PENDING:
            return row.state == OPEN and self._meter_pending(row, packets, 0)
        if row.state == OPEN and self.packet_ns[row.tier]:
            self._meter_packets(row, packets)
        return True

    def set_packet_rate(self, tier, uint32_t per_second):
        """Set how many packets, of any kind, a connection of a tier (see Tier) may send; 0: any number.

        Each frame is one, and each packet of a batch (see ``charge``). Bursts of two seconds' worth are fine.
        """
        self._enter()
        if not 0 <= tier < TIERS:
            raise ValueError("no such tier")
        self.packet_ns[<int>tier] = NS_PER_S // per_second if per_second else 0

    def configure(self, handle, *, batch=None, outbox_bytes=None, tier=None):
        """Change whether it takes batches, its outbox's bound in bytes, its tier (see Tier). False if it is gone.

        A channel takes no batches. Of its transport's channels the largest bound and the highest tier hold.
        """
        cdef Row *row = self._row(handle)
        if tier is not None and not 0 <= tier < TIERS:
            raise ValueError("no such tier")
        if row == NULL or row.state != OPEN:
            return False
        if batch is not None and not row.kind & (KIND_CHANNEL | KIND_ENGINE):
            if row.kind & KIND_BATCH and not batch:
                self.framer.cut_batches(&row.outbox, row.kind)
                self.framer.forget_cuts()
            row.kind = (row.kind & ~KIND_BATCH) | (KIND_BATCH if batch else 0)
        if outbox_bytes is not None:
            row.outbox.bound_bytes = outbox_bytes
        if tier is not None:
            row.tier = tier
            if self.idle.c_contains(row.slot):
                self.idle.c_add(row.slot, row.tier)
        if row.kind & KIND_CHANNEL:
            self._settle_channels(row_at(self.slab, row.parent))
        return True

    def admit(self, handle, tier):
        """Count it among the connections of a tier (see Tier), as the one that was busy last; each message renews that.

        Returns:
            False if it is gone. One that ends, or is closed, is counted no longer from then on.
        """
        if not self.configure(handle, tier=tier):
            return False
        self.idle.c_add(<uint32_t><uint64_t>handle, tier)
        return True

    def dismiss(self, handle):
        """Count it no longer; False if it was not counted."""
        cdef Row *row = self._row(handle)
        if row == NULL or not self.idle.c_contains(row.slot):
            return False
        self.idle.c_remove(row.slot)
        return True

    def idlest(self, tier):
        """The handle of a tier's admitted connection that has sent no message for the longest; 0: there is none."""
        cdef uint32_t slot
        self._enter()
        if not 0 <= tier < TIERS:
            raise ValueError("no such tier")
        slot = self.idle.heads[<uint32_t>tier]
        return 0 if slot == IDLE_NONE else handle_of(row_at(self.slab, slot))

    @property
    def admitted(self):
        """How many connections each tier has."""
        self._enter()
        return self.idle.counts
