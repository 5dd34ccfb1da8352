"""Talking in a terminal, with a pipe for the keyboard and a scripted peer for the server."""

import io
import os

from rich.console import Console

from fastim.client.chat import chat, printable
from tests.unit.client.scripted_peer import Talk, message, scripted


async def answer(talk: Talk, event: str, body: object) -> object:
    asked, ref = await talk.expect(event)
    await talk.send("ok", body, ref)
    return asked


async def talk_through_a_pipe(url: str, typed: bytes) -> tuple[int, str]:
    """Type ``typed``, then end the input; return the exit status and what was shown."""
    out = io.StringIO()
    reader, writer = os.pipe()
    try:
        os.write(writer, typed)
        os.close(writer)
        status = await chat(url, "t", "c", "ann", console=Console(file=out, width=200), input_fd=reader)
    finally:
        os.close(reader)
    return status, out.getvalue()


async def test_chat_when_lines_are_typed_then_sends_them_and_shows_what_was_said():
    sent = []

    async def script(talk: Talk) -> None:
        await talk.welcome()
        created = await answer(talk, "conversation_create", {"conversation": "c"})
        assert created["conversation"] == "c"
        assert created["kind"] == "group"
        history = [message(2, content="second \x1b[31m"), message(1, content="first", sender="ann")]
        await answer(talk, "history", {"messages": history, "more": False})
        assert (await answer(talk, "read_receipt", {}))["seq"] == 2
        for ok in (message(3), message(4)):
            said = await answer(talk, "message", ok | {"duplicate": False})
            sent.append(said["content"])
        await talk.until_closed()

    async with scripted(script) as url:
        status, shown = await talk_through_a_pipe(url, b"hello\n\n//me\n/quit\nnever\n")
    assert status == 0
    assert sent == ["hello", "/me"]
    assert shown.index("ann: first") < shown.index("bob: second")
    assert "\x1b" not in shown


async def test_chat_when_others_type_and_write_then_shows_it_and_marks_it_read():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        await answer(talk, "conversation_create", {})
        await answer(talk, "history", {"messages": [], "more": False})
        _, ref = await talk.expect("members")
        update = {"type": "typing", "user": "bob", "typing": True, "time": 1}
        await talk.send("state_batch", {"conversation": "c", "updates": [update]})
        await talk.message(1, content="hi ann")
        assert (await answer(talk, "read_receipt", {}))["seq"] == 1
        await talk.send("ok", {"members": [{"user": "ann"}, {"user": "bob"}], "more": False}, ref)
        await talk.until_closed()

    async with scripted(script) as url:
        status, shown = await talk_through_a_pipe(url, b"/members\n")
    assert status == 0
    assert shown.index("bob is typing") < shown.index("bob: hi ann") < shown.index("ann, bob")


async def test_chat_when_the_id_cannot_be_chosen_but_one_is_in_it_then_talks():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        _, ref = await talk.expect("conversation_create")
        await talk.send("error", {"code": "forbidden", "message": "no"}, ref)
        await answer(talk, "history", {"messages": [], "more": False})
        await answer(talk, "history", {"messages": [], "more": False})
        await talk.until_closed()

    async with scripted(script) as url:
        assert (await talk_through_a_pipe(url, b""))[0] == 0


async def test_chat_when_not_a_member_then_waits_until_one_adds_us():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        for event in ("conversation_create", "history"):
            _, ref = await talk.expect(event)
            await talk.send("error", {"code": "forbidden", "message": "not a member"}, ref)
        await talk.send("conversation", {"change": "added", "conversation": {"conversation": "other"}})
        await talk.send("conversation", {"change": "added", "conversation": {"conversation": "c"}})
        await answer(talk, "history", {"messages": [], "more": False})
        assert (await answer(talk, "conversation_update", {}))["add"] == ["eve"]
        await talk.until_closed()

    async with scripted(script) as url:
        status, shown = await talk_through_a_pipe(url, b"/add eve\n")
    assert status == 0
    assert "a member has to type /add ann" in shown


async def test_chat_when_turned_away_then_says_why_and_fails():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        _, ref = await talk.expect("conversation_create")
        await talk.send("error", {"code": "bad_request", "message": "not a member"}, ref)
        await talk.until_closed()

    async with scripted(script) as url:
        status, shown = await talk_through_a_pipe(url, b"hello\n")
    assert status == 1
    assert "not a member" in shown


def test_printable_when_text_steers_a_terminal_then_is_made_harmless():
    assert printable("a\x1b[2Jb\u202e\ttab\nline") == "a�[2Jb�\ttab\nline"
