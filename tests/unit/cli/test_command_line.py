"""The command line as a user meets it: a process, its output and its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastim._version import __version__
from fastim.cli.durations import parse_duration_s
from fastim.cli.main import default_url
from fastim.guard.secrets import load_or_create
from fastim.guard.tokens import DeviceClass, Tier, TokenVerifier
from fastim.server.settings import load_settings


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTIM_")}
    return subprocess.run(
        [sys.executable, "-m", "fastim", *arguments],
        cwd=cwd,
        env={**clean, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "120", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def refusal(*arguments: str, cwd: Path, **env: str) -> str:
    """Run what must fail over a setting; return the one line on standard error."""
    done = run(*arguments, cwd=cwd, **env)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fastim: ")
    return lines[0]


def test_version_when_asked_then_printed(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout == f"fastim {__version__}\n"


@pytest.mark.parametrize("command", [[], ["serve"], ["token"], ["config"], ["chat"]])
def test_help_when_asked_then_it_has_examples(command: list[str], tmp_path: Path) -> None:
    done = run(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Examples" in done.stdout
    assert f"fastim {' '.join(command)}".strip() in done.stdout
    assert os.listdir(tmp_path) == []


def test_token_when_no_secret_then_made_and_the_jwt_alone_is_printed(tmp_path: Path) -> None:
    done = run(
        *("token", "alice", "--device", "phone", "--tier", "critical", "--class", "mobile"),
        *("--scope", "a", "--scope", "b", "--ttl", "2h", "--data", "elsewhere"),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "elsewhere" / "secret").stat().st_mode & 0o777 == 0o600
    secret = load_or_create(tmp_path / "elsewhere", "secret")
    token = done.stdout.removesuffix("\n")
    assert token.count(".") == 2
    assert not any(char.isspace() for char in token)
    made_s = (tmp_path / "elsewhere" / "secret").stat().st_mtime
    claims = TokenVerifier([secret]).verify(token, made_s)
    assert (claims.user, claims.device, claims.tier) == ("alice", "phone", Tier.CRITICAL)
    assert (claims.device_class, claims.scope) == (DeviceClass.MOBILE, {"a", "b"})
    assert abs(claims.exp - made_s - 7200) < 60


def test_token_when_secret_is_configured_then_it_signs_and_no_file_is_made(tmp_path: Path) -> None:
    secret = "a secret of at least 32 bytes, surely"
    done = run("token", "alice", cwd=tmp_path, FASTIM_AUTH__SECRET=secret)
    assert TokenVerifier([secret.encode()]).verify(done.stdout.strip(), time.time()).user == "alice"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "begin"),
    [
        (["token", ""], "fastim: token: USER needs"),
        (["token", "x" * 129], "fastim: token: USER needs"),
        (["token", "a", "--tier", "gold"], "fastim: tier: 'gold'"),
        (["token", "a", "--class", "fridge"], "fastim: class: 'fridge'"),
        (["token", "a", "--ttl", "soon"], "fastim: ttl: 'soon'"),
        (["token", "a", "--data", "/dev/null"], "fastim: server.data: /dev/null is not a folder"),
        (["token", "a", "--config", "none.toml"], "fastim: config: cannot read none.toml"),
        (["config", "--config", "none.toml"], "fastim: config: cannot read none.toml"),
        (["chat", "a", "c", "--url", "foo"], "fastim: url: not an http"),
        (["serve", "--data", ""], "fastim: server.data: must name a folder"),
        (["serve", "--port", "x"], "fastim: server.port: "),
        (["serve", "--port", "70000"], "fastim: server.port: "),
        (["serve", "--tls-cert", "c.pem"], "fastim: server.tls_key: "),
    ],
)
def test_command_when_a_setting_is_bad_then_one_line_and_status_2(
    arguments: list[str], begin: str, tmp_path: Path
) -> None:
    assert refusal(*arguments, cwd=tmp_path).startswith(begin)


def test_command_when_environment_is_bad_then_one_line_and_status_2(tmp_path: Path) -> None:
    line = refusal("config", cwd=tmp_path, FASTIM_LIMITS__MESSAGES_PER_MINUTE="x")
    assert line.startswith("fastim: limits.messages_per_minute: ")
    line = refusal("serve", cwd=tmp_path, FASTIM_LIMITS__MESAGES_PER_MINUTE="0")
    assert line.startswith("fastim: limits.mesages_per_minute: no such setting")


def test_token_when_secret_file_is_open_to_others_then_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path / "data", "secret")
    (tmp_path / "data" / "secret").chmod(0o644)
    assert refusal("token", "alice", cwd=tmp_path).startswith("fastim: auth.secret: ")


def test_config_when_printed_then_it_is_a_settings_file_without_secrets(tmp_path: Path) -> None:
    secret = "a secret of at least 32 bytes, surely"
    env = {"FASTIM_AUTH__SECRET": secret, "FASTIM_STORE__SYNCHRONOUS": "normal"}
    done = run("config", "--data", "/srv/fastim", cwd=tmp_path, **env)
    assert done.returncode == 0
    assert secret not in done.stdout
    assert 'synchronous = "normal"' in done.stdout
    assert 'data = "/srv/fastim"' in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", [["--help"], ["config"], ["token", "alice"]])
def test_command_when_it_serves_nothing_then_the_server_is_not_imported(
    command: list[str], tmp_path: Path
) -> None:
    done = run(*command, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "fastim.cli.main" in imported
    assert not imported & {
        "fastapi",
        "uvicorn",
        "websockets",
        "uvloop",
        "fastim.server.process.run",
        "fastim._core.hub",
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("1h", 3600),
        ("1h30m", 5400),
        ("7d", 604_800),
        ("2w", 1_209_600),
    ],
)
def test_duration_when_well_written_then_seconds(text: str, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-1h", "1.5h", "h", "1y", "1h 30m", "1h30", "9" * 13, "99999w", "٣"]
)
def test_duration_when_badly_written_then_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration_s(text)


def test_duration_when_nothing_is_allowed_then_zero_but_not_no_number() -> None:
    assert parse_duration_s("0s", least_s=0) == 0
    with pytest.raises(ValueError):
        parse_duration_s("", least_s=0)


def test_drain_when_no_server_answers_then_one_line_and_status_2(tmp_path: Path) -> None:
    line = refusal("drain", "--url", "http://127.0.0.1:1", cwd=tmp_path)
    assert line.startswith("fastim: url: no server answers at http://127.0.0.1:1")
    assert refusal("drain", "--within", "soon", cwd=tmp_path).startswith("fastim: within: 'soon' is no")


@pytest.mark.parametrize(
    ("flags", "url"),
    [
        ({}, "ws://127.0.0.1:8765/ws"),
        ({"server.host": "0.0.0.0", "server.port": 80}, "ws://127.0.0.1:80/ws"),
        ({"server.host": "::"}, "ws://[::1]:8765/ws"),
        ({"server.host": "[::1]"}, "ws://[::1]:8765/ws"),
        ({"server.tls_cert": "c", "server.tls_key": "k", "server.path": "/x"}, "wss://127.0.0.1:8765/x"),
    ],
)
def test_default_url_when_settings_given_then_the_server_of_this_machine(
    flags: dict[str, object], url: str
) -> None:
    assert default_url(load_settings(flags=flags)) == url
