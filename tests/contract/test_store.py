"""What ``fastim.store.base`` promises, for each backend on its real medium."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastim.errors import ErrorCode, RequestError, StoreError
from fastim.store.base import (
    Append,
    BanRecord,
    ConversationRecord,
    Mark,
    RevocationRecord,
    Store,
    Write,
)
from fastim.store.sqlite import SQLiteStore
from fastim.store.sqlite_schema import connect_writer, migrate, migrations

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
        (first.id, 1, "ann", "d", "own", b"\x00\xff binary", 1, 1000, "c\0ü", None, 1, None),
        (second.id, 2, "bob", "d", "text", second.content, 0, 7, None, 1, 2, None),
        (messages[2].id, 3, "", "", "text", b"", 0, 8, None, None, 3, None),
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


async def test_key_when_messages_commit_then_counts_them_over_all_conversations(desk: Desk) -> None:
    groups = [await desk.group("ann") for _ in range(3)]
    writes = [desk.append(groups[n % 3], "ann", b"%d" % n, origin="s" if n % 2 else None) for n in range(300)]
    await desk.store.flush()
    keys = [write.key for write in writes]
    assert keys == list(range(keys[0], keys[0] + 300))
    messages, _ = await desk.store.history(groups[1].key, after=0, limit=500)
    assert [(m.key, m.origin) for m in messages] == [(w.key, w.origin) for w in writes[1::3]]
    duplicate = [desk.append(groups[0], "ann", b"1", client_id="c") for _ in range(2)][1]
    await desk.store.flush()
    assert (duplicate.duplicate, duplicate.key) == (True, 0)
    await desk.reopen()
    assert desk.store.last_key == keys[-1] + 1


async def test_last_key_when_there_is_no_message_then_is_0(desk: Desk) -> None:
    assert desk.store.last_key == 0


async def test_seqs_at_when_asked_for_a_moment_then_tells_where_each_stood(desk: Desk) -> None:
    groups = [await desk.group("ann") for _ in range(5)]
    # Of the last two one has no message at all, and one many that came in one go.
    writes = [desk.append(groups[n % 3], "ann", b"%d" % n) for n in range(60)]
    writes += [desk.append(groups[3], "ann", b"%d" % n) for n in range(30)]
    await desk.store.flush()
    wanted = [(group.key, count) for group, count in zip(groups, (20, 20, 20, 30, 0), strict=True)]
    for moment in (0, *(write.key for write in writes)):
        exact = [
            sum(1 for write in writes if write.conversation == group.key and write.key <= moment)
            for group in groups
        ]
        for limit in (0, 1, 5, 19, 20, 30, 100):
            expected = [
                seq if last - seq <= limit else None for seq, (_, last) in zip(exact, wanted, strict=True)
            ]
            asked = [(*pair, moment) for pair in wanted]
            assert await desk.store.seqs_at(asked, limit) == expected
    # What follows the last seq that is asked for does not count.
    assert await desk.store.seqs_at([(groups[3].key, 10, 0)] * 300, 10) == [0] * 300


async def test_changes_when_conversations_change_then_it_is_known_whose(desk: Desk) -> None:
    store = desk.store
    first = await desk.group("ann", "bob")
    before = store.last_change
    second = await desk.group("cat", "bob")
    assert store.last_change == before + 1

    async def changed(since: int) -> set[str]:
        return {user for user in ("ann", "bob", "cat") if await store.changed_since(desk.keys[user], since)}

    assert await changed(0) == {"ann", "bob", "cat"}
    assert await changed(before) == {"bob", "cat"}
    for title, add, remove, whose in (
        ("t", [], [], {"bob", "cat"}),
        (None, ["ann"], [], {"ann", "bob", "cat"}),
        (None, [], ["bob"], {"ann", "bob", "cat"}),
        ("u", [], [], {"ann", "cat"}),
    ):
        before = store.last_change
        await store.update_conversation(second.key, 2, title, add, remove)
        assert await changed(before) == whose
        assert await changed(store.last_change) == set()
    # What exists already, and what does not exist, is no change; neither is a message.
    before = store.last_change
    await store.create_conversation("group", "ann", [], "", 3, id=first.id)
    with pytest.raises(RequestError):
        await store.update_conversation(999, 3, "t", [], [])
    desk.append(first, "ann", b"1")
    await store.flush()
    assert store.last_change == before
    assert await changed(before) == set()
    await desk.reopen()
    assert desk.store.last_change == before


async def test_epoch_when_processes_begin_then_they_are_known_in_their_order(desk: Desk) -> None:
    store = desk.store
    assert await store.begin_epoch("a", [], 100, 0) == ({"a": 1}, {})
    assert await store.begin_epoch("b", ["/", "/x"], 200, 0) == ({"a": 1, "b": 2}, {"/": 2, "/x": 2})
    await store.use_namespace("/y", "b")
    await desk.reopen()
    store = desk.store
    # One that goes on where it ended is the same, and the last that used a namespace counts.
    assert (await store.begin_epoch("b", [], 300, 0)).starts == {"a": 1, "b": 2}
    known = await store.begin_epoch("c", ["/x"], 400, 0)
    assert known == ({"a": 1, "b": 2, "c": 3}, {"/": 2, "/x": 3, "/y": 2})
    await store.use_namespace("/x", "a")
    assert (await store.begin_epoch("c", [], 400, 300)).starts == {"b": 2, "c": 3}
    # Where all are forgotten their numbers are not given again.
    known = await store.begin_epoch("d", [], 900, 800)
    assert known.starts == {"d": 4}
    assert known.used["/x"] == 3


async def test_left_behind_when_taken_then_is_what_was_left_last_and_once(desk: Desk) -> None:
    assert await desk.store.take_left_behind() is None
    await desk.store.leave_behind(b"first")
    await desk.store.leave_behind(bytes(1_000_000))
    await desk.reopen()
    assert await desk.store.take_left_behind() == bytes(1_000_000)
    assert await desk.store.take_left_behind() is None


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


def ban(subject: str, kind: str = "address", until: int = 0, created: int = 1, reason: str = "") -> BanRecord:
    return BanRecord(kind, subject, until, reason, "operator", created)


async def test_bans_when_the_store_is_opened_again_then_those_that_last_are_there(desk: Desk) -> None:
    for_ever, ended = (
        ban("192.0.2.0/24", reason="spam é\U0001f600"),
        ban("192.0.2.1/32", until=100, created=2),
    )
    lasting = ban("ann", "user", until=101, created=3)
    await desk.store.put_bans([lasting, ended, for_ever], 50)
    await desk.reopen()
    assert list(await desk.store.bans(100)) == [for_ever, lasting]
    assert list(await desk.store.bans(99)) == [for_ever, ended, lasting]


async def test_bans_when_one_is_put_again_then_it_replaces_the_first_of_its_kind_only(desk: Desk) -> None:
    await desk.store.put_bans([ban("ann"), ban("ann", "user", reason="first")], 1)
    await desk.store.put_bans([ban("ann", "user", until=9, reason="second")], 1)
    assert set(await desk.store.bans(1)) == {ban("ann"), ban("ann", "user", until=9, reason="second")}


async def test_bans_when_one_is_removed_then_it_is_gone_and_a_second_time_none_is_found(desk: Desk) -> None:
    await desk.store.put_bans([ban("192.0.2.0/24"), ban("ann", "user")], 1)
    assert await desk.store.remove_ban("user", "ann")
    assert not await desk.store.remove_ban("user", "ann")
    assert not await desk.store.remove_ban("user", "192.0.2.0/24")
    assert list(await desk.store.bans(1)) == [ban("192.0.2.0/24")]


async def test_bans_when_others_are_put_then_what_has_ended_is_forgotten(desk: Desk) -> None:
    await desk.store.put_bans([ban("ann", "user", until=10)], 1)
    await desk.store.put_bans([ban("bob", "user")], 10)
    assert list(await desk.store.bans(1)) == [ban("bob", "user")]


async def test_bans_when_a_text_cannot_be_stored_then_nothing_of_the_call_is(desk: Desk) -> None:
    with pytest.raises(RequestError) as caught:
        await desk.store.put_bans([ban("bob", "user"), ban("a\0b", "user")], 1)
    assert caught.value.code == ErrorCode.BAD_REQUEST
    assert not await desk.store.bans(1)


async def test_reads_when_made_then_counted_by_kind(desk: Desk) -> None:
    store = desk.store
    before = store.stats()
    await store.conversation("nothing")
    await store.history(1, limit=1)
    await store.history(1, limit=1)
    after = store.stats()
    assert after["reads_total"] - before["reads_total"] == 3
    assert after["reads_history_total"] - before["reads_history_total"] == 2
    assert after["reads_conversation_total"] - before["reads_conversation_total"] == 1


async def test_cursors_when_devices_are_invented_then_the_latest_thirty_two_are_kept(desk: Desk) -> None:
    group = await desk.group("ann", "bob")
    for _ in range(40):
        desk.append(group, "ann", b'"x"')
    await desk.store.flush()
    for number in range(1, 41):
        desk.mark(group, "bob", device=f"d{number}", delivered=number)
        desk.mark(group, "ann", device="only", delivered=number)
        await desk.store.flush()
    loaded = await desk.store.load_users([("bob", f"d{number}") for number in range(1, 41)])
    kept = [loaded["bob", f"d{number}"][1][0].device_delivered for number in range(1, 41)]
    assert kept == [0] * 8 + list(range(9, 41))
    assert (await desk.store.load_users([("ann", "only")]))["ann", "only"][1][0].device_delivered == 40
    # One of those that are kept moves on and pushes nobody out.
    desk.mark(group, "bob", device="d9", delivered=40)
    await desk.store.flush()
    loaded = await desk.store.load_users([("bob", "d9"), ("bob", "d10")])
    assert [loaded["bob", name][1][0].device_delivered for name in ("d9", "d10")] == [40, 10]


async def test_cursors_when_the_file_is_from_before_they_were_bounded_then_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    known = migrations()
    connection = connect_writer(str(path), synchronous="normal", cache_kib=1024, busy_timeout_ms=1000)
    migrate(connection, lambda: known[:2])
    connection.execute("INSERT INTO users (id) VALUES ('ann')")
    connection.execute(
        "INSERT INTO conversations (id, kind, title, owner, member_count, created)"
        " VALUES ('c', 'group', '', 1, 1, 0)"
    )
    connection.execute("INSERT INTO tails VALUES (1, 9, 0)")
    connection.execute("INSERT INTO members VALUES (1, 1, 1, 0, 0, 0, 0)")
    connection.executemany(
        "INSERT INTO cursors VALUES (1, ?, 1, ?)", [(f"d{number}", number) for number in range(1, 41)]
    )
    connection.close()
    desk = Desk(lambda: SQLiteStore(path, synchronous="normal"))
    await desk.open()
    loaded = await desk.store.load_users([("ann", f"d{number}") for number in range(1, 41)])
    kept = [loaded["ann", f"d{number}"][1][0].device_delivered for number in range(1, 41)]
    assert kept == [0] * 8 + list(range(9, 41))
    await desk.store.close()


def revocation(subject: str, kind: str = "user", device: str = "", **fields: Any) -> RevocationRecord:
    given = {"before": 5, "until": 100, "reason": "why", "created": 1, **fields}
    return RevocationRecord(kind, subject, device, **given)


async def test_revocations_when_put_then_read_the_latest_of_each_subject_until_they_end(desk: Desk) -> None:
    store = desk.store
    records = [
        revocation("ann"),
        revocation("ann", "device", "d", created=2),
        revocation("j", "token", created=3),
    ]
    for record in records:
        await store.put_revocation(record, 1)
    assert list(await store.revocations(1)) == records
    later = revocation("ann", until=200, created=4)
    await store.put_revocation(later, 1)
    assert list(await store.revocations(1)) == [*records[1:], later]
    assert list(await store.revocations(100)) == [later]
    await store.put_revocation(revocation("bob", until=300, created=5), 100)
    assert [record.subject for record in await store.revocations(1)] == ["ann", "bob"]
    assert await store.remove_revocation("user", "bob", "")
    assert not await store.remove_revocation("user", "bob", "")
    assert not await store.remove_revocation("user", "ann", "d")


async def test_ticket_when_used_by_many_at_once_then_one_is_the_first(desk: Desk) -> None:
    uses = await asyncio.gather(*(desk.store.use_ticket("t", 100, 1) for _ in range(20)))
    assert sorted(uses) == [False] * 19 + [True]
    assert await desk.store.use_ticket("u", 300, 100)  # by then the first has expired, and is forgotten
    assert not await desk.store.use_ticket("u", 300, 101)


async def test_present_when_kept_over_a_restart_then_taken_once(desk: Desk) -> None:
    assert await desk.store.take_present() == ({}, 0)
    await desk.store.keep_present({"old": 1}, 5)
    await desk.store.keep_present({"ann": 2, 'b"\U0001f600': 3}, 7)
    await desk.reopen()
    assert await desk.store.take_present() == ({"ann": 2, 'b"\U0001f600': 3}, 7)
    assert await desk.store.take_present() == ({}, 0)
