"""Storm control with a clock that a test moves."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim.errors import ErrorCode, LimitExceeded, RequestError
from fastim.im.options import StormOptions
from fastim.im.storm import MESSAGE_BYTES, StormControl
from fastim.store.base import Append
from tests.reference.fair_queue import deficit_round_robin

S = 1_000_000_000
MS = 1_000_000


class Rig:
    """Storm control, and what became of each message."""

    def __init__(self, **options: Any) -> None:
        self.now_ns = S
        self.blocked = False
        self.stored: list[str] = []
        self.refused: dict[str, RequestError] = {}
        self.storm = StormControl(
            StormOptions(**options),
            lambda append: self.stored.append(append.kind),
            lambda append, error: self.refused.__setitem__(append.kind, error),
            lambda: self.blocked,
            lambda: self.now_ns,
        )

    def send(
        self, name: str, user: str = "u", conversation: str = "c", size: int = 1, tier: str = "standard"
    ) -> str:
        """Send a message; tells whether it is ``stored``, ``waits`` or is ``refused``."""
        append = Append(1, 1, user, "d", name, b"x" * size, 0, 1)
        try:
            if not self.storm.admits(append, user, tier, conversation):
                return "waits"
        except LimitExceeded as error:
            self.refused[name] = error
            return "refused"
        self.stored.append(name)
        return "stored"

    def advance(self, seconds: float, step_s: float = 0.025) -> None:
        end_ns = self.now_ns + int(seconds * S)
        while self.now_ns < end_ns:
            self.now_ns = min(end_ns, self.now_ns + int(step_s * S))
            self.storm.serve(self.now_ns)


def test_messages_when_a_limit_of_5_is_flooded_then_not_500_of_500_pass() -> None:
    rig = Rig(user_per_minute=5)
    answers = [rig.send(str(n)) for n in range(500)]
    assert answers == ["stored"] * 5 + ["refused"] * 495
    error = rig.refused["5"]
    assert isinstance(error, LimitExceeded)
    assert error.code is ErrorCode.RATE_LIMITED
    assert error.retry_after_ms == 12_000
    assert rig.send("other", user="v") == "stored"
    rig.advance(12)
    assert rig.send("later") == "stored"


def test_messages_when_somebody_hammers_then_refusals_do_not_count() -> None:
    rig = Rig(user_per_minute=1, user_bytes_per_s=1, conversation_per_s=1, conversation_burst=1)
    assert rig.send("first") == "stored"
    for second in range(1, 57):
        rig.advance(1)
        assert rig.send(f"at {second}") == "refused"
    rig.advance(4)
    assert rig.send("a minute later") == "stored"


def test_messages_when_new_ones_come_while_others_wait_then_nothing_is_overtaken() -> None:
    """Elsewhere: 0,1,2,3,4,8,5,6,7."""
    rig = Rig(conversation_per_s=10, conversation_burst=5)
    answers = [rig.send(str(n)) for n in range(8)]
    assert answers == ["stored"] * 5 + ["waits"] * 3
    rig.advance(0.15)
    rig.send("8")
    rig.advance(2)
    assert rig.stored == [str(n) for n in range(9)]


def test_messages_when_only_time_passes_then_the_queue_drains_by_itself() -> None:
    rig = Rig(server_per_s=100, server_burst=3)
    for n in range(50):
        rig.send(str(n))
    rig.advance(0.5)
    assert rig.stored == [str(n) for n in range(50)]
    assert rig.storm.stats()["waiting"] == rig.storm.stats()["waiting_bytes"] == 0


def test_conversation_when_hot_then_a_quiet_one_goes_on() -> None:
    """One bucket for all lets a hot room starve the rest."""
    rig = Rig(conversation_per_s=10, conversation_burst=10, server_per_s=100, server_burst=10)
    for n in range(1_000):
        rig.send(f"hot {n}", conversation="hot")
    rig.advance(0.1)
    assert rig.send("quiet", conversation="quiet") == "stored"


def test_server_when_full_then_a_small_conversation_waits_one_round_only() -> None:
    rig = Rig(server_per_s=100, server_burst=1, quantum_bytes=MESSAGE_BYTES + 1)
    for n in range(150):
        rig.send(f"hot {n}", conversation="hot")
    rig.advance(0.1)
    before = len(rig.stored)
    assert rig.send("small", conversation="small") == "waits"
    rig.advance(0.05)
    assert "small" in rig.stored[before : before + 2]


def test_user_when_over_its_limit_then_others_of_the_conversation_do_not_wait() -> None:
    rig = Rig(user_per_minute=60)
    for n in range(60):
        assert rig.send(f"a{n}", user="a") == "stored"
    assert [rig.send(f"a{n}", user="a") for n in range(60, 63)] == ["waits", "waits", "refused"]
    assert rig.send("b", user="b") == "stored"
    rig.advance(3)
    assert rig.stored[-3:] == ["b", "a60", "a61"]


def test_bytes_when_used_up_then_large_messages_wait_or_are_refused() -> None:
    rig = Rig(user_bytes_per_s=1_000, user_burst_bytes=5_000)
    assert rig.send("large", size=9_000) == "stored"  # counts as the burst
    assert rig.send("small", size=100) == "waits"
    assert rig.send("too large", size=5_000) == "refused"
    assert rig.send("behind", size=100) == "waits"
    rig.advance(0.25)
    assert rig.stored == ["large", "small", "behind"]


def test_message_when_it_waits_too_long_then_refused_and_told_when_to_come_back() -> None:
    rig = Rig(server_per_s=1, server_burst=1)
    rig.send("first")
    for n in range(3):  # no conversation knows how many others there are
        assert rig.send(f"in {n}", conversation=f"c{n}") == "waits"
    rig.advance(3)
    assert rig.stored == ["first", "in 0", "in 1"]
    error = rig.refused["in 2"]
    assert isinstance(error, LimitExceeded)
    assert error.retry_after_ms > 0
    assert rig.storm.stats()["expired_total"] == 1


def test_message_when_it_would_surely_wait_too_long_then_refused_at_once() -> None:
    rig = Rig(conversation_per_s=2, conversation_burst=2)
    answers = [rig.send(str(n)) for n in range(10)]
    assert answers == ["stored"] * 2 + ["waits"] * 4 + ["refused"] * 4
    rig.advance(2)
    assert rig.stored == [str(n) for n in range(6)]


def test_message_when_nothing_may_wait_then_refused_at_once() -> None:
    rig = Rig(conversation_per_s=1, conversation_burst=1, server_per_s=100, server_burst=1, wait_ms=0)
    assert rig.send("first") == "stored"
    assert rig.send("of the conversation") == "refused"
    rig.now_ns += S
    assert rig.send("again", conversation="d") == "stored"
    assert rig.send("of the server", conversation="e") == "refused"
    assert "server" in rig.refused["of the server"].message


def test_conversation_when_its_bytes_are_used_up_then_refused() -> None:
    rig = Rig(server_per_s=1, server_burst=1, line_bytes=2 * (MESSAGE_BYTES + 1))
    assert [rig.send(str(n)) for n in range(3)] == ["stored", "waits", "waits"]
    assert rig.send("too much") == "refused"
    assert rig.send("elsewhere", conversation="d") == "waits"


def test_queue_when_full_then_the_newest_of_the_largest_conversation_gives_way() -> None:
    each = MESSAGE_BYTES + 1
    rig = Rig(server_per_s=100, server_burst=1, queue_bytes=10 * each)
    rig.send("first")
    assert {rig.send(f"hot {n}", conversation="hot") for n in range(10)} == {"waits"}
    assert rig.send("hot 10", conversation="hot") == "refused"
    assert rig.send("small", conversation="small") == "waits"
    assert list(rig.refused) == ["hot 10", "hot 9"]
    assert rig.storm.stats()["waiting_bytes"] == 10 * each
    assert rig.storm.stats()["evicted_total"] == 1
    rig.advance(1)
    assert [name for name in rig.stored if name.startswith("hot")] == [f"hot {n}" for n in range(9)]


def test_queue_when_the_store_takes_nothing_then_unavailable_and_goes_on_after() -> None:
    rig = Rig(conversation_per_s=10, conversation_burst=1)
    assert rig.send("0") == "stored"
    rig.blocked = True
    assert rig.send("1") == "waits"
    rig.advance(1)
    assert rig.send("2") == "waits"
    rig.advance(1.5)
    assert rig.refused["1"].code is ErrorCode.UNAVAILABLE
    rig.blocked = False
    rig.advance(0.1)
    assert rig.stored == ["0", "2"]


def test_drain_when_messages_wait_then_all_are_submitted_in_their_order() -> None:
    rig = Rig(user_per_minute=60, conversation_per_s=10, conversation_burst=10)
    for n in range(12):
        rig.send(f"a{n}", user="a")
    for n in range(60):
        rig.send(f"fill {n}", user="b", conversation=f"c{n}")
    for n in range(2):
        assert rig.send(f"b{n}", user="b", conversation="d") == "waits"
    rig.storm.drain()
    assert [name for name in rig.stored if name.startswith("a")] == [f"a{n}" for n in range(12)]
    assert rig.stored[-2:] == ["b0", "b1"]
    assert rig.storm.stats()["waiting"] == rig.storm.stats()["waiting_bytes"] == 0


@given(st.lists(st.lists(st.integers(0, 3_000), min_size=1, max_size=8), min_size=1, max_size=6))
def test_turns_when_many_conversations_wait_then_as_the_twin_has_them(sizes: list[list[int]]) -> None:
    rig = Rig(server_per_s=1_000, server_burst=1, quantum_bytes=1_000)
    rig.send("first", conversation="first")
    rig.blocked = True  # until all are here
    queues = []
    for number, of_one in enumerate(sizes):
        messages = [(f"{number}-{n}", size) for n, size in enumerate(of_one)]
        for name, size in messages:
            assert rig.send(name, conversation=str(number), size=size) == "waits"
        queues.append((str(number), [(name, size + MESSAGE_BYTES) for name, size in messages]))
    rig.blocked = False
    rig.advance(1, step_s=0.001)
    assert rig.stored[1:] == deficit_round_robin(queues, 1_000, 1_000)


STEPS = st.tuples(
    st.integers(0, 3),  # user
    st.integers(0, 2),  # conversation
    st.integers(1, 2_000),  # bytes
    st.sampled_from([0, 0, 0, 1, 30, 700, 2_500]),  # milliseconds that pass before
)


@given(
    st.lists(STEPS, max_size=120),
    st.sampled_from([0, 60, 600]),
    st.sampled_from([0, 5_000]),
    st.sampled_from([(0, 1), (10, 1), (20, 10)]),
    st.sampled_from([(0, 1), (25, 3)]),
    st.sampled_from([8_000, 1 << 20]),
)
def test_messages_when_they_come_in_any_way_then_each_has_one_end_in_order_and_in_time(
    steps: list[tuple[int, int, int, int]],
    per_minute: int,
    bytes_per_s: int,
    conversation: tuple[int, int],
    server: tuple[int, int],
    queue_bytes: int,
) -> None:
    options = StormOptions(
        user_per_minute=per_minute,
        user_bytes_per_s=bytes_per_s,
        user_burst_bytes=5_000,
        conversation_per_s=conversation[0],
        conversation_burst=conversation[1],
        server_per_s=server[0],
        server_burst=server[1],
        queue_bytes=queue_bytes,
    )
    now_ns = S
    sent: list[tuple[int, int, int]] = []  # user, conversation, time
    ends: dict[int, tuple[str, int]] = {}
    stored: list[int] = []

    def end(append: Append, how: str) -> None:
        number = int(append.kind)
        assert number not in ends
        ends[number] = (how, now_ns)
        if how == "stored":
            stored.append(number)

    storm = StormControl(
        options,
        lambda append: end(append, "stored"),
        lambda append, _: end(append, "refused"),
        lambda: False,
        lambda: now_ns,
    )
    for user, room, size, pause_ms in [*steps, (9, 9, 1, 2_500)]:
        for _ in range(-(-pause_ms // 25)):
            now_ns += min(25, pause_ms) * MS
            storm.serve(now_ns)
        append = Append(1, 1, str(user), "d", str(len(sent)), b"x" * size, 0, 1)
        sent.append((user, room, now_ns))
        try:
            if storm.admits(append, str(user), "standard", str(room)):
                end(append, "stored")
        except LimitExceeded as error:
            assert error.retry_after_ms > 0  # noqa: PT017 - all answers are looked at
            end(append, "refused")
    assert len(ends) == len(sent)
    assert storm.stats()["waiting"] == storm.stats()["waiting_bytes"] == 0
    assert max(ends[n][1] - sent[n][2] for n in ends) <= 2_025 * MS
    by_sender = defaultdict(list)
    for number in stored:
        by_sender[sent[number][:2]].append(number)
    assert all(numbers == sorted(numbers) for numbers in by_sender.values())
    if not per_minute and not bytes_per_s:  # then in each conversation as they came, whoever sent
        by_room = defaultdict(list)
        for number in stored:
            by_room[sent[number][1]].append(number)
        assert all(numbers == sorted(numbers) for numbers in by_room.values())
    for key, (rate, burst) in ((1, conversation), (None, server)):
        if not rate:
            continue
        times = defaultdict(list)
        for number in stored:
            times[sent[number][key] if key is not None else 0].append(ends[number][1])
        for of_one in times.values():
            for first in range(len(of_one) - burst):
                span_ns = of_one[first + burst] - of_one[first]
                assert span_ns >= S // rate - 1


def test_messages_when_no_limit_is_set_then_there_is_no_control() -> None:
    assert not StormOptions().limited
    assert StormOptions(server_per_s=1).limited


@pytest.mark.parametrize("user", ["", "u"])
def test_service_when_it_posts_then_no_user_is_charged(user: str) -> None:
    rig = Rig(user_per_minute=1)
    answers = {rig.send(str(n), user=user) for n in range(10)}
    assert answers == ({"stored"} if not user else {"stored", "refused"})


def test_tier_when_it_has_a_rate_of_its_own_then_that_holds() -> None:
    rig = Rig(user_per_minute=2, tier_per_minute={"critical": 4, "degraded": 0, "standard": 2})
    for tier, count in (("standard", 2), ("critical", 4), ("other", 2)):
        answers = [rig.send(f"{tier} {n}", user=tier, tier=tier) for n in range(6)]
        assert answers == ["stored"] * count + ["refused"] * (6 - count)
    assert {rig.send(str(n), user="d", tier="degraded") for n in range(100)} == {"stored"}
    assert StormOptions(tier_per_minute={"degraded": 1}).limited


def test_user_when_its_bytes_are_used_up_then_refused() -> None:
    rig = Rig(user_bytes_per_s=1_000_000, user_burst_bytes=1_000, line_bytes=3 * (MESSAGE_BYTES + 1_000))
    assert [rig.send(str(n), size=1_000) for n in range(5)] == ["stored", *["waits"] * 3, "refused"]
    assert rig.send("other", user="v", size=1_000) == "stored"
