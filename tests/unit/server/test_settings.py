"""Settings: the order of their sources, and one clear line for each mistake."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from fastim._core.hub import Hub
from fastim.errors import ConfigError
from fastim.im.storm import StormControl
from fastim.server import options
from fastim.server.heartbeat import Heartbeat
from fastim.server.settings import MASK, Settings, load_settings
from fastim.store.base import Append

SECRET = "a secret of at least 32 bytes - surely"


def refusal(file: Path | None = None, env: dict[str, str] | None = None, **flags: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_settings(file, env, {name.replace("__", "."): value for name, value in flags.items()})
    assert "\n" not in str(caught.value)
    return caught.value


def fields() -> list[tuple[str, Any]]:
    sections: dict[str, type[BaseModel]] = {name: f.annotation for name, f in Settings.model_fields.items()}  # type: ignore[misc]
    return [(f"{s}.{n}", field) for s, model in sections.items() for n, field in model.model_fields.items()]


def test_load_when_nothing_given_then_the_defaults_that_outside_checks_rely_on() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert (settings.server.host, settings.server.port, settings.server.data) == (
        "127.0.0.1",
        8765,
        Path("data"),
    )
    assert settings.limits.max_message_bytes == 102_400
    assert settings.bans.automatic
    assert settings.store.synchronous == "full"
    assert settings.auth.keys == ()


def test_load_when_sources_disagree_then_flags_over_environment_over_file_over_defaults(
    tmp_path: Path,
) -> None:
    file = tmp_path / "fastim.toml"
    file.write_text('[server]\nport = 1\nhost = "::1"\nbacklog = 7\n[limits]\nmessages_per_minute = 5\n')
    env = {"FASTIM_SERVER__PORT": "2", "FASTIM_SERVER__HOST": "localhost", "HOME": "/", "FASTIM_DEBUG": "1"}
    settings = load_settings(file, env, {"server.port": 3, "server.host": None})
    assert settings.server.port == 3
    assert settings.server.host == "localhost"
    assert settings.server.backlog == 7
    assert settings.limits.messages_per_minute == 5
    assert settings.server.path == "/ws"


def test_load_when_environment_is_set_but_not_given_then_it_has_no_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTIM_SERVER__PORT", "1")
    assert load_settings().server.port == 8765
    assert Settings().server.port == 8765


def test_load_when_limit_is_0_in_the_environment_then_0() -> None:
    env = {
        "FASTIM_LIMITS__MESSAGES_PER_MINUTE": "0",
        "FASTIM_LIMITS__CONNECTS_PER_MINUTE": "0",
        "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
        "FASTIM_BANS__AUTOMATIC": "false",
        "FASTIM_AUTH__DEV_LOGIN": "true",
    }
    settings = load_settings(env=env)
    assert settings.limits.messages_per_minute == 0
    assert settings.limits.connects_per_minute == 0
    assert settings.limits.connects_per_minute_per_address == 0
    assert not settings.bans.automatic
    assert settings.dev_login


@pytest.mark.parametrize(
    "text", ["https://a.example,https://b.example", '["https://a.example", "https://b.example"]']
)
def test_load_when_environment_has_a_list_then_both_spellings(text: str) -> None:
    origins = load_settings(env={"FASTIM_SERVER__ALLOWED_ORIGINS": text}).server.allowed_origins
    assert origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    ("env", "setting", "word"),
    [
        ({"FASTIM_LIMITS__MESSAGES_PER_MINUTE": "many"}, "limits.messages_per_minute", "'many'"),
        ({"FASTIM_LIMITS__MESSAGES_PER_MINUTE": ""}, "limits.messages_per_minute", "integer"),
        ({"FASTIM_LIMITS__MESSAGES_PER_MINUTE": "-1"}, "limits.messages_per_minute", "greater"),
        (
            {"FASTIM_LIMITS__MESSAGES": "1"},
            "limits.messages",
            "no such setting (from FASTIM_LIMITS__MESSAGES)",
        ),
        ({"FASTIM_NOPE__X": "1"}, "nope.x", "no such setting (from FASTIM_NOPE__X)"),
        ({"FASTIM_SERVER_PORT": "1"}, "FASTIM_SERVER_PORT", "FASTIM_SERVER__PORT"),
        ({"FASTIM_LIMITS": "{}"}, "FASTIM_LIMITS", "FASTIM_LIMITS__"),
        ({"FASTIM_LIMITS__MAX_FRAGMENTS__X": "1"}, "limits.max_fragments", "integer"),
        ({"FASTIM_SERVER__PORT": "65536"}, "server.port", "65535"),
        ({"FASTIM_SERVER__PATH": "ws"}, "server.path", "'ws'"),
        ({"FASTIM_SERVER__LOG_LEVEL": "loud"}, "server.log_level", "'debug'"),
        ({"FASTIM_SERVER__TLS_CERT": "c.pem"}, "server.tls_key", "server.tls_cert"),
        ({"FASTIM_SERVER__TLS_KEY": "k.pem"}, "server.tls_cert", "server.tls_key"),
        ({"FASTIM_DRAIN__DEADLINE_S": "nan"}, "drain.deadline_s", "finite"),
        ({"FASTIM_STORE__SYNCHRONOUS": "off"}, "store.synchronous", "'full'"),
        ({"FASTIM_SERVER__ALLOWED_ORIGINS": '["a"'}, "server.allowed_origins", "JSON"),
        ({"FASTIM_SERVER__ALLOWED_ORIGINS": "chat.example.com"}, "server.allowed_origins", "no origin"),
        ({"FASTIM_SERVER__DATA": ""}, "server.data", "name a folder"),
        ({"FASTIM_SERVER__NODE": "a\nb"}, "server.node", "pattern"),
        ({"FASTIM_SERVER__PORT": "x", "FASTIM_SERVER__BACKLOG": "y"}, "server.port", "and 1 more"),
    ],
)
def test_load_when_environment_is_wrong_then_the_setting_is_named(
    env: dict[str, str], setting: str, word: str
) -> None:
    error = refusal(env=env)
    assert error.setting == setting
    assert word in error.reason


@pytest.mark.parametrize(
    ("text", "setting", "word"),
    [
        ("[limits]\nmessages = 1\n", "limits.messages", "fastim.toml"),
        ("[nope]\n", "nope", "no such setting"),
        ("port = 1\n", "port", "no such setting"),
        ("limits = 5\n", "limits", "dictionary"),
        ("[server]\nport = 'x'\n", "server.port", "fastim.toml"),
        ("[server\n", "config", "no TOML"),
    ],
)
def test_load_when_file_is_wrong_then_setting_and_file_are_named(
    tmp_path: Path, text: str, setting: str, word: str
) -> None:
    file = tmp_path / "fastim.toml"
    file.write_text(text)
    error = refusal(file)
    assert error.setting == setting
    assert word in error.reason


def test_load_when_file_is_missing_or_binary_then_config_error(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.toml").reason
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "no TOML" in refusal(tmp_path / "bytes.toml").reason
    assert refusal(tmp_path).setting == "config"


def test_load_when_flag_is_wrong_then_the_command_line_is_named() -> None:
    error = refusal(server__port="x")
    assert error.setting == "server.port"
    assert "command line" in error.reason


@pytest.mark.parametrize("name", ["SECRET", "SECRETS", "API_KEY"])
def test_load_when_secret_is_bad_then_it_is_not_shown(name: str) -> None:
    error = refusal(env={f"FASTIM_AUTH__{name}": "hunter2"})
    assert error.setting == f"auth.{name.lower()}"
    assert "hunter2" not in str(error)
    assert "7 bytes" in error.reason


def test_auth_keys_when_both_given_then_secret_comes_first() -> None:
    env = {"FASTIM_AUTH__SECRET": SECRET, "FASTIM_AUTH__SECRETS": f"{SECRET}2,{SECRET}3"}
    assert load_settings(env=env).auth.keys == (
        SECRET.encode(),
        f"{SECRET}2".encode(),
        f"{SECRET}3".encode(),
    )


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("chat.example.com", False),
    ],
)
def test_dev_login_when_unset_then_on_only_for_loopback(host: str, loopback: bool) -> None:
    assert load_settings(flags={"server.host": host}).dev_login is loopback
    for explicit in (True, False):
        settings = load_settings(flags={"server.host": host, "auth.dev_login": explicit})
        assert settings.dev_login is explicit


def test_settings_when_changed_then_refused() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.limits.messages_per_minute = 0
    with pytest.raises(ValidationError):
        settings.limits = settings.limits


def test_to_toml_when_loaded_again_then_the_same_and_no_secret_in_it(tmp_path: Path) -> None:
    env = {"FASTIM_SERVER__DATA": 'a "b" \\ c', "FASTIM_SERVER__ALLOWED_ORIGINS": "https://a.example"}
    settings = load_settings(env=env)
    file = tmp_path / "fastim.toml"
    file.write_text(settings.to_toml())
    again = load_settings(file)
    assert again.to_toml() == settings.to_toml()
    assert again.server == settings.server

    secret = {"FASTIM_AUTH__SECRETS": SECRET, "FASTIM_AUTH__API_KEY": SECRET, "FASTIM_METRICS__KEY": SECRET}
    text = load_settings(env=secret).to_toml()
    assert SECRET not in text
    assert tomllib.loads(text)["auth"] == {
        "required": True,
        "decision_timeout_s": 5.0,
        "secrets": [MASK],
        "api_key": MASK,
        "dev_login": True,
        "token_in_url": False,
        "leeway_s": 10,
        "revocation_life_s": 2_592_000.0,
    }
    assert SECRET not in repr(load_settings(env=secret))


@pytest.mark.parametrize(("name", "field"), fields())
def test_field_when_documented_then_unit_and_meaning_of_0_are_told(name: str, field: Any) -> None:
    description = field.description or ""
    assert description.endswith((".", ")")), f"{name} has no description"
    low = [rule for rule in field.metadata if hasattr(rule, "ge")]
    if low and low[0].ge == 0:
        assert " 0: " in description, f"{name} does not say what 0 means"
    units = ("seconds", "milliseconds", "bytes", "count", "bits", "members", "unit", "port")
    if field.annotation in (int, float):
        assert any(unit in description for unit in units), f"{name} has no unit"
    if field.default is None:
        assert "Unset" in description or name == "server.tls_key", f"{name} does not say what unset means"


@pytest.mark.parametrize(("name", "field"), [item for item in fields() if item[1].annotation in (int, float)])
def test_number_when_described_then_it_has_an_upper_bound(name: str, field: Any) -> None:
    assert [rule.le for rule in field.metadata if hasattr(rule, "le")], f"{name} has no upper bound"


@pytest.mark.parametrize("value", [10**10, 10**18, 10**30])
@pytest.mark.parametrize(("name", "field"), [item for item in fields() if item[1].annotation in (int, float)])
def test_number_when_huge_then_refused_by_name_or_the_core_can_take_it(
    name: str, field: Any, value: int
) -> None:
    section, _, setting = name.partition(".")
    try:
        settings = load_settings(env={f"FASTIM_{section.upper()}__{setting.upper()}": str(value)})
    except ConfigError as error:
        assert error.setting == name  # noqa: PT017 - either of the two is right
        return
    hub = Hub(**options.hub_options(settings))
    service = options.service_options(settings, "node")
    now_ns = 10**15
    handle = hub.open_fed("peer", now_ns)
    hub.set_timer(handle, now_ns + service.hello_timeout_ns)
    Heartbeat(hub, service.heartbeat, service.tiers.values())
    for policy in service.tiers.values():
        hub.configure(handle, outbox_bytes=policy.outbox_bytes)
        hub.set_heartbeat(handle, policy.heartbeat_ns // 1_000_000, now_ns)
    hub.shutdown()
    options.connect_limiter(settings).attempt_address("192.0.2.1", now_ns)
    options.connect_limiter(settings).attempt_all(now_ns)
    options.admission(settings, options.block_list(settings, Hub()), lambda *_: None).offence(
        "192.0.2.1", now_ns
    )
    storm = options.storm_options(settings)
    if storm.limited:
        append = Append(1, 1, "u", "d", "text", b"x", 0, 1)
        StormControl(storm, print, print, lambda: False, lambda: now_ns).admits(append, "u", "", "c")
