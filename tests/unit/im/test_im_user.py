"""Memberships of a user, few and many."""

from __future__ import annotations

from fastim._core.hub import Hub
from fastim.im.conversation import Conversation
from fastim.im.session import Session
from fastim.im.user import Membership, User
from fastim.store.base import ConversationRecord


def membership(key: int) -> Membership:
    record = ConversationRecord(key, f"c{key}", "group", "", "", 2, 0, 0, None)
    return Membership(Conversation(record, key), 0, 0, 0, owner=False)


def test_memberships_when_they_grow_and_shrink_then_found_by_id() -> None:
    user = User("ann", 1)
    all_of_them = [membership(key) for key in range(20)]
    for count, one in enumerate(all_of_them):
        assert user.membership(one.conversation.id) is None
        user.join(one)
        assert set(user.memberships()) == set(all_of_them[: count + 1])
        assert all(user.membership(m.conversation.id) is m for m in all_of_them[: count + 1])
    for count, one in enumerate(all_of_them):
        user.leave(one)
        user.leave(one)
        assert user.membership(one.conversation.id) is None
        assert set(user.memberships()) == set(all_of_them[count + 1 :])


def test_shares_with_when_a_conversation_is_common_then_true_both_ways() -> None:
    ann, bob, eve = User("ann", 1), User("bob", 2), User("eve", 3)
    shared = membership(99)
    for key in range(10):
        ann.join(membership(key))
    ann.join(shared)
    bob.join(Membership(shared.conversation, 0, 0, 0, owner=False))
    assert ann.shares_with(bob)
    assert bob.shares_with(ann)
    assert not eve.shares_with(ann)
    assert not ann.shares_with(eve)
    assert eve.shares_with(eve)


def test_sessions_when_they_grow_and_shrink_then_in_the_order_they_came() -> None:
    hub, user = Hub(), User("ann", 1)
    sessions = [Session(hub, 0, 0) for _ in range(30)]
    for count, session in enumerate(sessions):
        user.enter(session)
        user.enter(session)
        assert list(user.sessions) == sessions[: count + 1]
    for count, session in enumerate(sessions):
        user.exit(session)
        user.exit(session)
        assert list(user.sessions) == sessions[count + 1 :]
    assert not user.sessions
    hub.shutdown()
