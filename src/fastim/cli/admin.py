"""``fastim ban``, ``unban`` and ``bans``: who is shut out, on the server that runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from fastim.cli.options import ConfigOption, DataOption
from fastim.errors import ConfigError

if TYPE_CHECKING:
    from fastim.cli.running import RunningServer

__all__ = ["add_commands"]

PAGE = 1000

SubjectArgument = Annotated[
    str | None, typer.Argument(metavar="ADDRESS", help="An address, or a range like 203.0.113.0/24.")
]
UserOption = Annotated[str | None, typer.Option("--user", metavar="U", help="A user instead of an address.")]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The server.", show_default="the one of the data folder"),
]


def ban(
    address: SubjectArgument = None,
    user: UserOption = None,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="How long: 90s, 15m, 1h, 7d.", show_default="for ever"),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="What those concerned are told.")
    ] = "",
    url: UrlOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Shut an address, a range of them or a user out.

    New connections are refused and live ones closed, at once and after a restart of the server.

    Examples:

        fastim ban 203.0.113.7 --for 1h --reason spam
        fastim ban 2001:db8::/32
        fastim ban --user mallory
    """
    from fastim.cli.durations import duration_option_s

    body: dict[str, Any] = _subject(address, user) | {"reason": reason}
    if for_ is not None:
        body["for_s"] = duration_option_s("for", for_)
    answer = _server(url, data, config).call("POST", "/v1/bans", body)
    closed = answer["closed"]
    typer.echo(f"banned {_line(answer)}; {closed} connection{'' if closed == 1 else 's'} closed")


def unban(
    address: SubjectArgument = None,
    user: UserOption = None,
    url: UrlOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Take a ban back.

    Examples:

        fastim unban 203.0.113.7
        fastim unban --user mallory
    """
    subject = _subject(address, user)
    _server(url, data, config).call("DELETE", f"/v1/bans?{urlencode(subject)}")
    typer.echo(f"took the ban of {next(iter(subject.values()))} back")


def bans(url: UrlOption = None, data: DataOption = None, config: ConfigOption = None) -> None:
    """Print who is shut out, the oldest ban first: address or user, end, who banned, why.

    Examples:

        fastim bans
    """
    server = _server(url, data, config)
    offset = 0
    while True:
        answer = server.call("GET", f"/v1/bans?limit={PAGE}&offset={offset}")
        for each in answer["bans"]:
            typer.echo(_line(each))
        if not answer["more"]:
            return
        offset += len(answer["bans"])


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (ban, unban, bans):
        app.command()(command)


def _server(url: str | None, data: str | None, config: Path | None) -> RunningServer:
    from fastim.cli.main import read_settings
    from fastim.cli.running import RunningServer

    return RunningServer(read_settings(config, {"server.data": data}), url)


def _subject(address: str | None, user: str | None) -> dict[str, str]:
    if address is not None and user is None:
        return {"address": address}
    if user is not None and address is None:
        return {"user": user}
    raise ConfigError("ADDRESS", "name an address or, with --user, a user")


def _line(ban: dict[str, Any]) -> str:
    subject = ban.get("address") or f"user {ban['user']}"
    until = ban["until"]
    end = "for ever" if until is None else f"until {datetime.fromtimestamp(until / 1000, UTC):%F %T} UTC"
    reason = f": {ban['reason']}" if ban["reason"] else ""
    return f"{subject} {end} ({ban['source']}){reason}"
