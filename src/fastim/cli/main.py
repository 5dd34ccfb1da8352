"""``fastim``: serve, drain, token, config and chat.

What costs time to import (settings, the server, the client) is imported by the command that needs it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastim._version import __version__
from fastim.cli.admin import add_commands
from fastim.cli.options import ConfigOption, DataOption
from fastim.errors import ConfigError, FastimError

if TYPE_CHECKING:
    from fastim.guard.tokens import DeviceClass, Tier
    from fastim.server.settings import Settings

__all__ = ["app", "main"]

EXIT_REFUSED = 1
EXIT_CONFIG = 2

app = typer.Typer(
    name="fastim",
    epilog="Settings: defaults < --config FILE < FASTIM_SECTION__NAME < flags. See 'fastim config'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastim {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Real-time messaging for teams who write Python.

    One process, one data folder.

    Examples:

        fastim serve
        fastim token alice
        fastim chat alice lobby
    """


@app.command()
def serve(
    application: Annotated[
        str | None,
        typer.Argument(metavar="APP", help="An application, as module:name; none: messaging alone."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="H", help="Address to listen on.", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[
        str | None,  # so that a bad one is reported like any other setting
        typer.Option("--port", metavar="P", help="TCP port; 0: a free one.", show_default="8765"),
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain (PEM).")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="The certificate's private key (PEM).")
    ] = None,
) -> None:
    """Start the server.

    Prints `fastim listening on http://HOST:PORT` when it is ready; logs go to standard error.
    SIGTERM drains it and ends it in order, SIGINT quickly, a second signal at once.

    Examples:

        fastim serve
        fastim serve examples.echo_app:app --port 0
        fastim serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
        FASTIM_LIMITS__MESSAGES_PER_MINUTE=0 fastim serve
    """
    settings = read_settings(
        config,
        {
            "server.host": host,
            "server.port": port,
            "server.data": data,
            "server.tls_cert": tls_cert,
            "server.tls_key": tls_key,
        },
    )
    from fastim.server.process.run import serve as run_server

    raise typer.Exit(run_server(settings, application))


@app.command()
def drain(
    within: Annotated[
        str | None,
        typer.Option(
            "--within",
            metavar="TIME",
            help="Close connections over so long, evenly: 30s, 2m; 0s: at once.",
            show_default="drain.within_s",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="URL", help="The server that takes the clients over.", show_default="drain.to"
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="The server.", show_default="where the data folder says"),
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """End the running server in order.

    Clients are told when to come back and are closed a few at a time; then the process ends. Returns once the
    server has begun.

    Examples:

        fastim drain
        fastim drain --within 30s
        fastim drain --within 30s --to wss://b.example.com/ws
    """
    settings = read_settings(config, {"server.data": data})
    from fastim.cli.durations import duration_option_s
    from fastim.cli.running import RunningServer

    body: dict[str, object] = {}
    if within is not None:
        body["within_s"] = duration_option_s("within", within, least_s=0)
    if to is not None:
        body["to"] = to
    state = RunningServer(settings, url).call("POST", "/v1/drain", body)
    typer.echo(f"draining {state['connections']} connections within {state['within_s']:g} s")


@app.command()
def token(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="D", help="The device's name.", show_default="the client chooses"),
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option("--tier", metavar="T", help="critical, standard or degraded.", show_default="standard"),
    ] = None,
    device_class: Annotated[
        str | None, typer.Option("--class", metavar="C", help="desktop, mobile or web.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="S", help="What the bearer may do besides; may be repeated."),
    ] = None,
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="TIME", help="How long it is good: 90s, 15m, 1h, 7d.")
    ] = "1h",
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Print a token (JWT) for a user.

    Signed with the configured secret, or with the data folder's, which is made if it is not there yet.

    Examples:

        fastim token alice
        fastim token alice --device phone --class mobile --ttl 7d
        fastim token bot --tier critical --scope name_conversations
    """
    settings = read_settings(config, {"server.data": data})
    typer.echo(make_token(settings, user, device, tier, device_class, scope or [], ttl))


@app.command()
def config(
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Print the effective settings as TOML, secrets masked.

    They are the defaults, changed by the settings file, by the environment and by flags, in this order.

    Examples:

        fastim config
        fastim config --config fastim.toml
        FASTIM_STORE__SYNCHRONOUS=normal fastim config
    """
    typer.echo(read_settings(config, {"server.data": data}).to_toml(), nl=False)


@app.command()
def chat(
    user: Annotated[str, typer.Argument(metavar="USER", help="Who you are.")],
    conversation: Annotated[
        str, typer.Argument(metavar="CONVERSATION", help="Where to talk; made if it does not exist.")
    ],
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="The server.", show_default="where the settings say"),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="JWT", help="A token.", show_default="one is made, as by 'token'"),
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Talk in a terminal.

    Lines are sent, messages are shown; `/quit` leaves. A lost connection comes back by itself.

    Examples:

        fastim chat alice lobby
        fastim chat bob lobby --url wss://chat.example.com/ws --token "$TOKEN"
    """
    settings = read_settings(config, {"server.data": data})
    from fastim.cli.running import read_api_key
    from fastim.client.chat import run
    from fastim.client.options import websocket_url

    try:
        address = websocket_url(url or default_url(settings))
    except ValueError as error:
        raise ConfigError("url", str(error)) from None
    api_key = None
    if token is None:
        token = make_token(settings, user, None, None, None, ["name_conversations"], "1d")
        api_key = read_api_key(settings)
    raise typer.Exit(run(address, token, conversation, user, api_key))


def read_settings(config: Path | None, flags: dict[str, object]) -> Settings:
    from fastim.server.settings import load_settings

    return load_settings(config, os.environ, flags)


def make_token(
    settings: Settings,
    user: str,
    device: str | None,
    tier: str | None,
    device_class: str | None,
    scope: list[str],
    ttl: str,
) -> str:
    """Sign a token with the secret that ``fastim serve`` of the same settings uses."""
    from fastim.cli.durations import duration_option_s
    from fastim.guard.secrets import signing_secrets
    from fastim.guard.tokens import DeviceClass, Tier, issue

    chosen_tier = choose("tier", Tier, tier or Tier.STANDARD)
    chosen_class = None if device_class is None else choose("class", DeviceClass, device_class)
    ttl_s = duration_option_s("ttl", ttl)
    secret = signing_secrets(settings.auth.keys, settings.server.data)[0]
    try:
        return issue(secret, user, device, chosen_tier, ttl_s, scope, device_class=chosen_class)
    except ValueError as error:
        fault = str(error)
        raise ConfigError(
            "token", fault.replace("sub", "USER", 1) if fault[:4] == "sub " else fault
        ) from None


def choose(flag: str, options: type[Tier] | type[DeviceClass], given: str) -> str:
    """Return the option that was given, or say which there are."""
    try:
        return options(given).value
    except ValueError:
        raise ConfigError(flag, f"{given!r} is none of {', '.join(options)}") from None


def default_url(settings: Settings) -> str:
    """Return the address of a server that runs with these settings on this machine."""
    from fastim.cli.running import settings_url

    return f"ws{settings_url(settings).removeprefix('http')}{settings.server.path}"


add_commands(app)


def main() -> None:
    """Run the command line; an error is one line on standard error.

    Exit status 2: a ConfigError; 1: the running server did not do what it was asked.
    """
    try:
        app()
    except ConfigError as error:
        print(f"fastim: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except FastimError as error:
        print(f"fastim: {error}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)
