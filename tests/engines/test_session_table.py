"""The compiled session table against its twin."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastim._core.sessions import SessionTable
from tests.reference.session_table import SessionTable as ReferenceTable

KEYS = st.one_of(st.sampled_from(["", "a", "b", "c", "d", "é", "\U0001f600"]), st.integers(0, 60).map(str))
# Any version the table may have given, and some that it has not.
VERSIONS = st.integers(0, 80)
STEPS = st.one_of(st.just(0), st.integers(-50, 50), st.integers(0, 3_000), st.just(2**61))


class SessionMachine(RuleBasedStateMachine):
    @initialize(capacity=st.sampled_from([0, 1, 2, 5, 30]), life_ns=st.sampled_from([0, 1, 100, 2**40]))
    def make(self, capacity: int, life_ns: int) -> None:
        self.table = SessionTable(capacity, life_ns)
        self.reference = ReferenceTable(capacity, life_ns)
        self.now_ns = 1_000
        self.leases: dict[str, int] = {}

    @rule(by_ns=STEPS)
    def wait(self, by_ns: int) -> None:
        self.now_ns = min(max(0, self.now_ns + by_ns), 2**63)

    @rule(key=KEYS, data_bytes=st.integers(0, 2**32 - 1))
    def put(self, key: str, data_bytes: int) -> None:
        data = [key]
        self.leases[key] = self.table.put(key, data, self.now_ns, data_bytes)
        assert self.leases[key] == self.reference.put(key, data, self.now_ns, data_bytes)

    @rule(first=st.integers(0, 60), count=st.integers(1, 40))
    def put_and_detach_many(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.put(str(number), 1)
            self.detach(str(number))

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        assert self.table.get(key, self.now_ns) == self.reference.get(key, self.now_ns)
        assert self.table.is_live(key, self.now_ns) == self.reference.is_live(key, self.now_ns)

    @rule(key=KEYS, version=VERSIONS, current=st.booleans(), data_bytes=st.integers(0, 99))
    def replace(self, key: str, version: int, current: bool, data_bytes: int) -> None:
        known = self.reference.get(key, self.now_ns)
        if current and known:
            version = known[1]
        data = (key, version)
        changed = self.table.replace(key, data, version, self.now_ns, data_bytes)
        assert changed == self.reference.replace(key, data, version, self.now_ns, data_bytes)

    @rule(key=KEYS)
    def attach(self, key: str) -> None:
        attached = self.table.attach(key, self.now_ns)
        assert attached == self.reference.attach(key, self.now_ns)
        if attached:
            self.leases[key] = attached[1]

    @rule(key=KEYS)
    def detach(self, key: str) -> None:
        lease = self.leases.get(key, 0)
        assert self.table.detach(key, lease, self.now_ns) == self.reference.detach(key, lease, self.now_ns)

    @rule(key=KEYS, lease=VERSIONS)
    def detach_with_any_lease(self, key: str, lease: int) -> None:
        assert self.table.detach(key, lease, self.now_ns) == self.reference.detach(key, lease, self.now_ns)

    @rule(key=KEYS)
    def touch(self, key: str) -> None:
        assert self.table.touch(key, self.now_ns) == self.reference.touch(key, self.now_ns)

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        assert self.table.remove(key, self.now_ns) == self.reference.remove(key, self.now_ns)

    @rule()
    def evict(self) -> None:
        assert self.table.evict() == self.reference.evict()

    @rule(at_most=st.sampled_from([0, 0, 1, 3]))
    def expire(self, at_most: int) -> None:
        ended = self.table.expire(self.now_ns, at_most)
        assert ended == self.reference.expire(self.now_ns, at_most)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.table) == len(self.reference)
        assert self.table.live_count == len(self.reference.live)
        assert self.table.detached_count == len(self.reference.detached)
        assert self.table.data_bytes == self.reference.data_bytes


SessionMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestSessionTable = SessionMachine.TestCase
