"""Appends and marks, in any order and cut into any batches, do what a dictionary does."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastim.errors import ErrorCode, RequestError
from fastim.store.base import Append, Mark, Write
from fastim.store.sqlite import SQLiteStore

APPEND = st.tuples(
    st.just("append"),
    st.integers(0, 1),  # conversation
    st.integers(0, 2),  # sender; the last one is no member
    st.sampled_from([b"a", b"b", None]),  # None cannot be stored
    st.sampled_from([None, None, "c1", "c2", "c3"]),
    st.sampled_from([None, None, 1, 4]),
)
MARK = st.tuples(
    st.just("mark"), st.integers(0, 1), st.integers(0, 2), st.integers(0, 9), st.sampled_from(["x", "y"])
)
STEPS = st.lists(st.one_of(APPEND, APPEND, MARK, st.just(("flush",)), st.just(("reopen",))), max_size=40)


class Model:
    """The same in dictionaries."""

    def __init__(self) -> None:
        self.logs: list[list[tuple[bytes, int]]] = [[], []]
        self.ids: dict[tuple[Any, ...], tuple[int, bytes]] = {}
        self.read = {(c, u): 0 for c in range(2) for u in range(2)}
        self.delivered = dict(self.read)

    def append(
        self, conversation: int, sender: int, content: bytes | None, client_id: str | None, reply: int | None
    ) -> tuple[int, bool] | ErrorCode:
        log = self.logs[conversation]
        known = self.ids.get((conversation, sender, client_id)) if client_id else None
        if known is not None:
            return (known[0], True) if known[1] == content else ErrorCode.CONFLICT
        if reply is not None and reply > len(log):
            return ErrorCode.BAD_REQUEST
        if content is None:
            return ErrorCode.BAD_REQUEST
        log.append((content, sender))
        if client_id:
            self.ids[conversation, sender, client_id] = (len(log), content)
        if (conversation, sender) in self.read:
            self.read[conversation, sender] = len(log)
        return len(log), False

    def mark(self, conversation: int, user: int, seq: int) -> None:
        if (conversation, user) in self.read:
            seq = min(seq, len(self.logs[conversation]))
            for marks in (self.read, self.delivered):
                marks[conversation, user] = max(marks[conversation, user], seq)


async def run(steps: list[tuple[Any, ...]], path: Path) -> None:
    model = Model()
    done: list[Write] = []
    expected: list[Any] = []
    store = SQLiteStore(path, synchronous="normal")
    await store.open(done.extend)
    groups = [(await store.create_conversation("group", "u0", ["u1"], "", 1))[0].key for _ in range(2)]
    users = [(await store.load_users([(f"u{n}", "")]))[f"u{n}", ""][0] for n in range(3)]
    for kind, *values in steps:
        if kind == "append":
            conversation, sender, content, client_id, reply = values
            expected.append(model.append(*values))
            store.submit(
                Append(
                    groups[conversation],
                    users[sender],
                    f"u{sender}",
                    "d",
                    "text",
                    content,
                    0,
                    10**15,
                    client_id,
                    reply,
                )
            )
        elif kind == "mark":
            conversation, user, seq, device = values
            model.mark(conversation, user, seq)
            expected.append(None)
            store.submit(Mark(groups[conversation], users[user], device, seq, seq))
        elif kind == "flush":
            await store.flush()
        else:
            await store.close()
            store = SQLiteStore(path, synchronous="normal")
            await store.open(done.extend)
    await store.flush()
    for write, want in zip(done, expected, strict=True):
        if isinstance(want, ErrorCode):
            assert isinstance(write.error, RequestError)
            assert write.error.code is want
        elif want is not None:
            assert isinstance(write, Append)
            assert (write.error, write.seq, write.duplicate) == (None, *want)
    for conversation, key in enumerate(groups):
        messages, _ = await store.history(key, after=0, limit=500)
        assert [(m.content, int(m.sender[1])) for m in messages] == model.logs[conversation]
        assert [m.seq for m in messages] == list(range(1, len(messages) + 1))
        for n, member in enumerate(await store.member_records(key, 10)):
            assert (member.read, member.delivered) == (
                model.read[conversation, n],
                model.delivered[conversation, n],
            )
    await store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_store_when_driven_at_random_then_it_agrees_with_the_model(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(steps, Path(folder) / "store.db"))
