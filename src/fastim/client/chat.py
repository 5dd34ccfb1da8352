"""A conversation in a terminal: lines from standard input, messages on standard output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from rich.console import Console
from rich.text import Text

from fastim.client.connection import Connection, connect
from fastim.client.errors import ClientError, ConnectionClosed
from fastim.client.events import Event
from fastim.errors import ErrorCode, FastimError, RequestError

__all__ = ["chat", "run"]

HISTORY_SHOWN = 20  # messages shown at the start
LINE_QUEUE = 100  # lines read ahead of the server
JOIN_TIMEOUT_S = 10.0
PATIENCE_S = 1.0  # then whoever waits for a connection is told so
HELP = (
    "/quit leaves, /history shows more, /members who is here, /add USER lets somebody in, //text sends /text"
)


def run(url: str, token: str, conversation: str, user: str, api_key: str | None = None) -> int:
    """Talk in a conversation over standard input and output; return the exit status (see ``chat``)."""
    try:
        return asyncio.run(chat(url, token, conversation, user, api_key=api_key))
    except KeyboardInterrupt:
        return 0


async def chat(
    url: str,
    token: str,
    conversation: str,
    user: str,
    *,
    api_key: str | None = None,
    console: Console | None = None,
    input_fd: int | None = None,
) -> int:
    """Talk in a conversation until ``/quit`` or the end of the input.

    The conversation is created if there is none and the server lets us choose its id. One that we are not in
    is joined with the API key; without it we wait until a member adds us.

    Args:
        url: The server's address.
        token: The user's token.
        conversation: The conversation's id.
        user: The user's id, to tell own messages.
        api_key: The server's, which lets its operator join; None: there is none.
        console: Where to print; None: standard output.
        input_fd: What to read lines from; None: standard input.

    Returns:
        The exit status: 0, or 1 if the server turned us away.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    no_answer = Text(f"no answer from {url} yet", style="yellow")
    waiting = asyncio.get_running_loop().call_later(PATIENCE_S, console.print, no_answer)
    try:
        async with connect(url, token=token) as client:
            waiting.cancel()
            await _enter(client, url, conversation, user, api_key, console)
            terminal = Chat(client, conversation, user, console)
            await terminal.show_history(HISTORY_SHOWN)
            await terminal.talk(read_lines(sys.stdin.fileno() if input_fd is None else input_fd))
    except (ClientError, RequestError) as error:
        console.print(Text(f"fastim chat: {error}", style="red"))
        return 1
    finally:
        waiting.cancel()
    return 0


async def _enter(
    client: Connection, url: str, conversation: str, user: str, api_key: str | None, console: Console
) -> None:
    """Become a member, one way or another."""
    try:
        await client.create_conversation(conversation=conversation, title=conversation)
        return
    except RequestError as error:
        if error.code not in (ErrorCode.FORBIDDEN, ErrorCode.CONFLICT):
            raise
    with contextlib.suppress(RequestError):
        await client.history(conversation, limit=1)
        return
    if api_key is not None:
        await asyncio.to_thread(_join, url, conversation, user, api_key)
        return
    console.print(Text(f"not in {conversation} yet: a member has to type /add {user}", style="yellow"))
    async for name, body in client:
        if name == "conversation" and body["conversation"]["conversation"] == conversation:
            return


def _join(url: str, conversation: str, user: str, api_key: str) -> None:
    """Add the user over ``/v1``, as an operator does."""
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    request = Request(
        f"{scheme}://{parts.netloc}/v1/conversations/{quote(conversation, safe='')}/members",
        data=json.dumps({"members": [user]}).encode(),
        headers={"X-API-Key": api_key, "Content-Type": "application/json"},
    )
    try:
        with urlopen(request, timeout=JOIN_TIMEOUT_S):
            return
    except OSError as error:  # HTTPError is one
        raise RequestError(
            ErrorCode.FORBIDDEN, f"not in {conversation}, and joining failed: {error}"
        ) from None


async def read_lines(fd: int) -> AsyncIterator[str]:
    """Yield the lines of a file descriptor: a terminal, a pipe or a file.

    A thread reads: files cannot be waited for, and a terminal set to non-blocking is so for the shell, too.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    room = threading.Semaphore(LINE_QUEUE)

    def read() -> None:
        with contextlib.suppress(RuntimeError, OSError):  # the loop is closed, or the terminal gone
            with os.fdopen(os.dup(fd), encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    room.acquire()
                    loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, name="fastim-stdin", daemon=True).start()
    while (line := await lines.get()) is not None:
        room.release()
        yield line.rstrip("\r\n")


class Chat:
    """One terminal in one conversation."""

    def __init__(self, client: Connection, conversation: str, user: str, console: Console) -> None:
        self._client = client
        self._conversation = conversation
        self._user = user
        self._console = console
        self._oldest: int | None = None
        self._typing: set[str] = set()

    async def talk(self, lines: AsyncIterator[str]) -> None:
        """Send lines and show events until either ends."""
        self._note(f"in {self._conversation} as {self._user}; {HELP}")
        jobs = {asyncio.create_task(self._send_lines(lines)), asyncio.create_task(self._show_events())}
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)

    async def _send_lines(self, lines: AsyncIterator[str]) -> None:
        async for line in lines:
            if line == "/quit":
                return
            try:
                await self._command_or_message(line)
            except ConnectionClosed:
                raise
            except FastimError as error:
                self._note(f"not sent: {error}", style="red")

    async def _command_or_message(self, line: str) -> None:
        if line == "/history":
            await self.show_history(HISTORY_SHOWN)
        elif line == "/members":
            page = await self._client.members(self._conversation)
            self._note(", ".join(member["user"] for member in page["members"]))
        elif line.startswith("/add "):
            await self._client.update_conversation(self._conversation, add=line.split()[1:])
        elif line.startswith("/") and not line.startswith("//"):
            self._note(HELP)
        elif line.strip():
            await self._client.send(self._conversation, line.removeprefix("/") if line[0] == "/" else line)

    async def _show_events(self) -> None:
        async for event in self._client:
            await self._show_event(event)

    async def _show_event(self, event: Event) -> None:
        name, body = event
        if name == "new_message" and body["conversation"] == self._conversation:
            self._typing.discard(body["sender"])
            self._show_message(body)
            await self._client.mark_read(self._conversation, body["seq"])
        elif name == "state_batch" and body.get("conversation") == self._conversation:
            self._show_typing(body["updates"])
        elif name == "system":
            self._note(f"{body.get('level', 'info')}: {body['text']}", style="yellow")
        elif name == "fastim.disconnected":
            self._note("the connection is gone, trying again", style="yellow")
        elif name == "fastim.connected":
            self._note("connected again", style="green")

    async def show_history(self, count: int) -> None:
        """Show the messages before the oldest one shown."""
        page = await self._client.history(self._conversation, before=self._oldest, limit=count)
        for message in reversed(page["messages"]):
            self._show_message(message)
        if page["messages"]:
            self._oldest = page["messages"][-1]["seq"]
            await self._client.mark_read(self._conversation, page["messages"][0]["seq"])

    def _show_message(self, message: dict[str, Any]) -> None:
        clock = datetime.fromtimestamp(message["time"] / 1000).strftime("%H:%M")
        sender = message["sender"] or "system"
        style = "bold green" if sender == self._user else "bold cyan"
        text = message["content"] if isinstance(message["content"], str) else repr(message["content"])
        self._console.print(Text.assemble((f"{clock} ", "dim"), (sender, style), ": ", printable(text)))

    def _show_typing(self, updates: list[dict[str, Any]]) -> None:
        for update in updates:
            if update["type"] != "typing" or update["user"] == self._user:
                continue
            if update["typing"] and update["user"] not in self._typing:
                self._note(f"{update['user']} is typing …")
            (self._typing.add if update["typing"] else self._typing.discard)(update["user"])

    def _note(self, text: str, style: str = "dim") -> None:
        self._console.print(Text(printable(text), style=style))


def printable(text: str) -> str:
    """Return ``text`` without control characters: another user must not steer this terminal."""
    return "".join(char if char in "\n\t" or char.isprintable() else "�" for char in text)
