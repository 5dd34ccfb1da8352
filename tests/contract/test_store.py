"""What ``fastim.store.base`` promises, for each backend on its real medium."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from fastim.errors import ErrorCode, RequestError, StoreError
from fastim.store.base import Append, ConversationRecord, Mark, Store, Write
from fastim.store.sqlite import SQLiteStore

DAY_MS = 86_400_000


class Desk:
    """A store, what it has reported, and short ways to write to it."""

    def __init__(self, make: Callable[[], Store]) -> None:
        self.make = make
        self.store = make()
        self.reported: list[Write] = []
        self.keys: dict[str, int] = {}

    async def open(self) -> None:
        await self.store.open(self.on_commit)

    async def reopen(self) -> None:
        await self.store.close()
        self.store = self.make()
        await self.open()

    def on_commit(self, writes: Sequence[Write]) -> None:
        self.reported += writes

    async def group(self, *users: str, time: int = 1) -> ConversationRecord:
        record, new = await self.store.create_conversation("group", users[0], users[1:], "", time)
        assert new
        for member in await self.store.member_records(record.key, 100):
            self.keys[member.user] = member.key
        return record

    def append(self, conversation: ConversationRecord, sender: str, content: bytes, **more: object) -> Append:
        values = {"device": "d", "kind": "text", "encoding": 0, "time": 1000, **more}
        write = Append(conversation.key, self.keys[sender], sender, content=content, **values)  # type: ignore[arg-type]
        self.store.submit(write)
        return write

    def mark(self, conversation: ConversationRecord, user: str, **more: object) -> Mark:
        write = Mark(conversation.key, self.keys[user], **more)  # type: ignore[arg-type]
        self.store.submit(write)
        return write

    async def member(self, conversation: ConversationRecord, user: str) -> tuple[int, int]:
        for member in await self.store.member_records(conversation.key, 100):
            if member.user == user:
                return member.read, member.delivered
        raise LookupError(user)


@pytest.fixture(params=["sqlite", "sqlite-single"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    group_commit = request.param == "sqlite"
    made = Desk(lambda: SQLiteStore(tmp_path / "store.db", synchronous="normal", group_commit=group_commit))
    await made.open()
    yield made
    await made.store.close()


async def test_append_when_committed_then_seq_is_dense_and_reported_in_order(desk: Desk) -> None:
    one, two = await desk.group("ann", "bob"), await desk.group("ann")
    writes = [desk.append(one if n % 3 else two, "ann", b'"%d"' % n, time=1000 + n) for n in range(100)]
    assert desk.store.queued_count == 100
    assert desk.reported == []
    await desk.store.flush()
    assert desk.store.queued_count == 0
    assert desk.reported == writes
    for conversation in (one, two):
        mine = [write for write in writes if write.conversation == conversation.key]
        assert [write.seq for write in mine] == list(range(1, len(mine) + 1))
        found = await desk.store.conversation(conversation.id)
        assert found is not None
        assert (found.last_seq, found.last_time) == (len(mine), mine[-1].time)
    assert len({write.id for write in writes}) == 100
    assert [write.id for write in writes] == sorted(write.id for write in writes)
    assert all(len(write.id) == 36 and write.id[14] == "7" and write.id[19] in "89ab" for write in writes)


async def test_history_when_read_then_every_field_comes_back(desk: Desk) -> None:
    group = await desk.group("ann", "bob")
    first = desk.append(group, "ann", b"\x00\xff binary", encoding=1, kind="own", client_id="c\0ü")
    second = desk.append(group, "bob", '"grüße \U0001f600"'.encode(), reply_to=1, time=7)
    desk.store.submit(Append(group.key, 0, "", "", "text", b"", 0, 8))
    await desk.store.flush()
    messages, more = await desk.store.history(group.key, after=0, limit=10)
    assert not more
    assert messages == [
        (first.id, 1, "ann", "d", "own", b"\x00\xff binary", 1, 1000, "c\0ü", None),
        (second.id, 2, "bob", "d", "text", second.content, 0, 7, None, 1),
        (messages[2].id, 3, "", "", "text", b"", 0, 8, None, None),
    ]


async def test_history_when_paged_then_both_ways_agree_and_bytes_are_bounded(desk: Desk) -> None:
    group = await desk.group("ann")
    for n in range(10):
        desk.append(group, "ann", b"x" * (10 * n))
    await desk.store.flush()

    async def seqs(**more: int) -> tuple[list[int], bool]:
        messages, follows = await desk.store.history(group.key, **more)  # type: ignore[arg-type]
        return [message.seq for message in messages], follows

    assert await seqs(limit=3) == ([10, 9, 8], True)
    assert await seqs(before=8, limit=7) == ([7, 6, 5, 4, 3, 2, 1], False)
    assert await seqs(before=1, limit=7) == ([], False)
    assert await seqs(after=0, limit=4) == ([1, 2, 3, 4], True)
    assert await seqs(after=6, limit=4) == ([7, 8, 9, 10], False)
    assert await seqs(after=10, limit=4) == ([], False)
    assert await seqs(after=0, limit=10, max_bytes=30) == ([1, 2, 3], True)
    assert await seqs(after=0, limit=10, max_bytes=29) == ([1, 2], True)
    assert await seqs(limit=10, max_bytes=5) == ([10], True)
    assert await seqs(before=2, limit=10, max_bytes=5) == ([1], False)
    assert await desk.store.history(999, limit=5) == ([], False)


async def test_replay_when_many_conversations_then_each_is_cut_alone(desk: Desk) -> None:
    groups = [await desk.group("ann") for _ in range(5)]
    for group in groups:
        for n in range(6):
            desk.append(group, "ann", b"%d" % n)
    await desk.store.flush()
    wanted = [(group.key, n, 5) for n, group in enumerate(groups)] * 120 + [(999, 0, 5)]
    found = await desk.store.replay(wanted, 3)
    assert len(found) == len(wanted)
    for (_, after, up_to), messages in zip(wanted[:-1], found[:-1], strict=True):
        assert [message.seq for message in messages] == list(range(after + 1, min(up_to, after + 3) + 1))
    assert found[-1] == []


async def test_client_id_when_repeated_then_nothing_is_stored_twice(desk: Desk) -> None:
    group, other = await desk.group("ann", "bob"), await desk.group("ann", "bob")
    first = desk.append(group, "ann", b'"a"', client_id="c1")
    same_batch = desk.append(group, "ann", b'"a"', client_id="c1", time=2000)
    wrong = desk.append(group, "ann", b'"b"', client_id="c1")
    await desk.store.flush()
    later = desk.append(group, "ann", b'"a"', client_id="c1", time=3000)
    other_content = desk.append(group, "ann", b'"z"', client_id="c1")
    no_content = desk.append(group, "ann", None, client_id="c1")  # type: ignore[arg-type]
    other_kind = desk.append(group, "ann", b'"a"', client_id="c1", kind="own")
    free = [
        desk.append(group, "bob", b'"a"', client_id="c1"),
        desk.append(other, "ann", b'"a"', client_id="c1"),
        desk.append(group, "ann", b'"a"', client_id="c2"),
        desk.append(group, "ann", b'"a"'),
    ]
    await desk.reopen()
    after_restart = desk.append(group, "ann", b'"a"', client_id="c1")
    await desk.store.flush()
    for write in (same_batch, later, after_restart):
        assert write.error is None
        assert (write.id, write.seq, write.time, write.duplicate) == (first.id, 1, 1000, True)
    for write in (wrong, other_content, other_kind, no_content):
        assert isinstance(write.error, RequestError)
        assert write.error.code is ErrorCode.CONFLICT
    assert [(write.seq, write.duplicate) for write in free] == [
        (2, False),
        (1, False),
        (3, False),
        (4, False),
    ]
    assert not first.duplicate


async def test_client_id_when_a_storm_repeats_everything_then_all_are_duplicates(desk: Desk) -> None:
    group = await desk.group("ann")
    first = [desk.append(group, "ann", b"%d" % n, client_id=f"c{n}") for n in range(300)]
    await desk.store.flush()
    again = [desk.append(group, "ann", b"%d" % n, client_id=f"c{n}") for n in range(310)]
    await desk.store.flush()
    assert [write.id for write in again[:300]] == [write.id for write in first]
    assert all(write.duplicate for write in again[:300])
    assert [write.seq for write in again[300:]] == list(range(301, 311))


async def test_append_when_refused_then_the_others_are_stored_without_holes(desk: Desk) -> None:
    group = await desk.group("ann")
    writes = [desk.append(group, "ann", b"%d" % n, client_id=f"c{n}") for n in range(20)]
    bad = [
        desk.append(group, "ann", b"", reply_to=10_000),
        desk.append(group, "ann", b"", reply_to=0),
        desk.append(group, "ann", b"", kind="\ud800"),
        desk.append(group, "ann", b"", client_id="\udfff"),
        desk.append(group, "ann", b"", encoding=2**70),
        desk.append(group, "ann", b"", encoding=None),
        desk.append(group, "ann", object()),  # type: ignore[arg-type]
        desk.append(group, "ann", b"", client_id=b"bytes", encoding=None),
        desk.append(group, "ann", b"", client_id=7, encoding=None),
    ]
    writes += [desk.append(group, "ann", b"%d" % n, client_id=f"d{n}") for n in range(20)]
    missing = Append(12345, 1, "ann", "d", "text", b"", 0, 1)
    desk.store.submit(missing)
    await desk.store.flush()
    assert [write.seq for write in writes] == list(range(1, 41))
    assert all(write.error is None for write in writes)
    for write in bad:
        assert isinstance(write.error, RequestError), write.error
        assert write.error.code is ErrorCode.BAD_REQUEST
        assert (write.seq, write.id) == (0, "")
    assert isinstance(missing.error, RequestError)
    assert missing.error.code is ErrorCode.FORBIDDEN
    assert desk.store.health.ok
    messages, _ = await desk.store.history(group.key, after=0, limit=500)
    assert [(m.seq, m.id) for m in messages] == [(write.seq, write.id) for write in writes]


async def test_repeat_when_its_first_is_refused_then_it_is_stored_instead(desk: Desk) -> None:
    group = await desk.group("ann")
    poison = desk.append(group, "ann", b"a", client_id="c", encoding=None)
    heir = desk.append(group, "ann", b"a", client_id="c")
    await desk.store.flush()
    assert poison.error is not None
    assert (heir.error, heir.seq, heir.duplicate) == (None, 1, False)


async def test_marks_when_moved_then_only_forwards_and_never_past_the_end(desk: Desk) -> None:
    group = await desk.group("ann", "bob")
    for n in range(5):
        desk.append(group, "ann", b"%d" % n)
    desk.mark(group, "bob", read=2, device="x", delivered=4)
    desk.mark(group, "bob", read=1, device="x", delivered=3)
    desk.mark(group, "bob", device="y", delivered=1)
    await desk.store.flush()
    assert await desk.member(group, "ann") == (5, 0)
    assert await desk.member(group, "bob") == (2, 4)
    over = desk.mark(group, "bob", read=99, device="y", delivered=99)
    await desk.store.flush()
    assert (over.read, over.delivered, over.error) == (5, 5, None)
    assert await desk.member(group, "bob") == (5, 5)
    loaded = await desk.store.load_users([("bob", "x"), ("bob", "y"), ("bob", "new")])
    assert [loaded["bob", device][1][0].device_delivered for device in ("x", "y", "new")] == [4, 5, 0]


async def test_marks_when_the_user_is_no_member_then_nothing_appears(desk: Desk) -> None:
    group = await desk.group("ann")
    await desk.group("eve")
    desk.append(group, "ann", b"")
    desk.mark(group, "eve", read=1, device="x", delivered=1)
    await desk.store.flush()
    assert [member.user for member in await desk.store.member_records(group.key, 10)] == ["ann"]
    added = await desk.store.update_conversation(group.key, 5, None, ["eve"], [])
    assert [(m.user, m.read, m.delivered, m.joined_seq) for m in added[1]] == [("eve", 1, 1, 1)]


async def test_create_when_repeated_then_the_existing_one_comes_back(desk: Desk) -> None:
    store = desk.store
    one, new = await store.create_conversation("group", "ann", ["bob", "bob", "ann"], "T", 5, client_id="k")
    assert new
    assert (one.kind, one.title, one.owner, one.member_count, one.last_seq) == ("group", "T", "ann", 2, 0)
    assert (one.last_time, one.peers) == (5, None)
    assert await store.create_conversation("group", "ann", [], "U", 6, client_id="k") == (one, False)
    assert (await store.create_conversation("group", "bob", [], "U", 6, client_id="k"))[1]
    named, new = await store.create_conversation("group", "", ["ann"], "", 7, id="room")
    assert (new, named.id, named.owner, named.member_count) == (True, "room", "", 1)
    assert await store.create_conversation("group", "bob", ["eve"], "", 8, id="room") == (named, False)
    direct, new = await store.create_conversation("direct", "zoe", ["ann"], "", 9)
    assert (new, direct.peers) == (True, ("ann", "zoe"))
    assert await store.create_conversation("direct", "ann", ["zoe"], "", 9) == (direct, False)
    with pytest.raises(RequestError):
        await store.create_conversation("direct", "ann", ["ann"], "", 9)
    with pytest.raises(RequestError):
        await store.create_conversation("group", "a\ud800", [], "", 9)
    assert await store.conversation("room") == named
    assert await store.conversation("nowhere") is None


async def test_update_when_members_change_then_cursors_start_at_the_end(desk: Desk) -> None:
    group = await desk.group("ann", "bob")
    desk.append(group, "ann", b"1")
    desk.mark(group, "bob", device="x", delivered=1, read=1)
    desk.append(group, "ann", b"2")
    record, added, removed = await desk.store.update_conversation(
        group.key, 50, "New", ["eve", "ann"], ["bob", "stranger"]
    )
    assert (record.title, record.member_count, record.last_seq, removed) == ("New", 2, 2, ["bob"])
    assert [tuple(m)[0:1] + tuple(m)[2:] for m in added] == [("eve", "member", 2, 2, 50, 2)]
    desk.append(group, "ann", b"3")
    _, back, _ = await desk.store.update_conversation(group.key, 60, None, ["bob"], [])
    assert [(m.user, m.read, m.delivered, m.joined_seq) for m in back] == [("bob", 3, 3, 3)]
    loaded = await desk.store.load_users([("bob", "x")])
    assert loaded["bob", "x"][1][0].device_delivered == 3
    record, _, removed = await desk.store.update_conversation(group.key, 70, None, [], ["ann"])
    assert (record.owner, removed) == ("eve", ["ann"])
    with pytest.raises(RequestError):
        await desk.store.update_conversation(999, 1, "x", [], [])


async def test_load_users_when_many_ask_at_once_then_each_gets_its_own(desk: Desk) -> None:
    group = await desk.group("ann", "bob")
    names = [f"user{n}" for n in range(600)]
    asked = [desk.store.load_users([(name, "d")]) for name in names]
    found = await asyncio.gather(*asked, desk.store.load_users([("ann", "d"), ("bob", "")]))
    keys = {found[n][name, "d"][0] for n, name in enumerate(names)}
    assert len(keys) == 600
    assert [m.conversation.id for m in found[-1]["ann", "d"][1]] == [group.id]
    assert found[-1]["bob", ""][1][0].member.role == "member"
    again = await desk.store.load_users([(names[7], "other")])
    assert again[names[7], "other"] == (found[7][names[7], "d"][0], [])
    with pytest.raises(RequestError):
        await desk.store.load_users([("\ud800", "")])


async def test_inbox_when_paged_then_newest_activity_comes_first(desk: Desk) -> None:
    groups = [await desk.group("ann", "bob", time=10 + n) for n in range(6)]
    last = desk.append(groups[1], "bob", b'"x"', time=500)
    await desk.store.flush()
    page, more = await desk.store.inbox(desk.keys["ann"], 2, None)
    assert more
    assert [row.conversation.id for row in page] == [groups[1].id, groups[5].id]
    assert page[0].last is not None
    assert (page[0].last.id, page[0].last.sender, page[0].read) == (last.id, "bob", 0)
    assert page[1].last is None
    rest, more = await desk.store.inbox(desk.keys["ann"], 10, groups[5].id)
    assert not more
    assert [row.conversation.id for row in rest] == [groups[n].id for n in (4, 3, 2, 0)]
    with pytest.raises(RequestError):
        await desk.store.inbox(desk.keys["ann"], 10, "nowhere")


async def test_members_when_paged_then_by_user_id(desk: Desk) -> None:
    group = await desk.group(*(f"u{n:02}" for n in range(30)))
    first = await desk.store.member_records(group.key, 10)
    second = await desk.store.member_records(group.key, 100, first[-1].user)
    assert [member.user for member in first + second] == [f"u{n:02}" for n in range(30)]
    assert first[0].role == "owner"


async def test_readers_when_writing_goes_on_then_each_page_is_consistent(desk: Desk) -> None:
    group = await desk.group("ann")
    for n in range(50):
        for _ in range(20):
            desk.append(group, "ann", b"%d" % n)
        pages = await asyncio.gather(*(desk.store.history(group.key, limit=500) for _ in range(4)))
        for messages, _ in pages:
            assert [m.seq for m in messages] == list(range(len(messages), 0, -1))[: len(messages)] or (
                len(messages) == 500
            )
    await desk.store.flush()
    assert (await desk.store.history(group.key, limit=1))[0][0].seq == 1000


async def test_close_when_writes_wait_then_they_are_stored_and_reported(desk: Desk) -> None:
    group = await desk.group("ann")
    writes = [desk.append(group, "ann", b"%d" % n) for n in range(50)]
    await desk.store.close()
    assert desk.reported == writes
    assert [write.seq for write in writes] == list(range(1, 51))
    late = desk.append(group, "ann", b"late")
    await asyncio.sleep(0)
    assert isinstance(late.error, StoreError)
    assert desk.reported[-1] is late
    with pytest.raises(StoreError):
        await desk.store.history(group.key, limit=1)
    desk.store = desk.make()
    await desk.open()
    assert (await desk.store.history(group.key, limit=1))[0][0].seq == 50
