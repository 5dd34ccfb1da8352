"""The settings, and how their sources are put together.

Defaults < a TOML file < the environment (``FASTIM_SECTION__NAME``) < flags. A name that is not known, in any
of them, is an error. The settings themselves stand in ``sections/``.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from fastim.errors import ConfigError
from fastim.server.sections import (
    AuthSettings,
    BansSettings,
    BatchingSettings,
    CacheSettings,
    CriticalTierSettings,
    DeflateSettings,
    DegradedTierSettings,
    DrainSettings,
    EngineIOSettings,
    HeartbeatSettings,
    LimitsSettings,
    MessagingSettings,
    MetricsSettings,
    PresenceSettings,
    PressureSettings,
    ServerSettings,
    SessionSettings,
    SocketIOSettings,
    StandardTierSettings,
    StoreSettings,
    StormSettings,
)

__all__ = ["Setting", "Settings", "load_settings"]

ENV_PREFIX = "FASTIM_"
ENV_DELIMITER = "__"
ENVIRONMENT = "the environment"
MASK = "********"


class Setting(NamedTuple):
    """One setting as it is in effect."""

    name: str  # section.field
    value: object  # None where unset; MASK for a secret
    description: str


class Settings(BaseSettings):
    """All sections, made from plain values; ``load_settings`` reads the environment and the rest."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
    )

    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitsSettings = LimitsSettings()
    bans: BansSettings = BansSettings()
    tier_critical: CriticalTierSettings = CriticalTierSettings()
    tier_standard: StandardTierSettings = StandardTierSettings()
    tier_degraded: DegradedTierSettings = DegradedTierSettings()
    pressure: PressureSettings = PressureSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    store: StoreSettings = StoreSettings()
    storm: StormSettings = StormSettings()
    cache: CacheSettings = CacheSettings()
    messaging: MessagingSettings = MessagingSettings()
    presence: PresenceSettings = PresenceSettings()
    batching: BatchingSettings = BatchingSettings()
    deflate: DeflateSettings = DeflateSettings()
    drain: DrainSettings = DrainSettings()
    session: SessionSettings = SessionSettings()
    engineio: EngineIOSettings = EngineIOSettings()
    socketio: SocketIOSettings = SocketIOSettings()
    metrics: MetricsSettings = MetricsSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @property
    def dev_login(self) -> bool:
        """``auth.dev_login`` or, where that is unset, whether the server is bound to loopback."""
        return self.server.is_loopback if self.auth.dev_login is None else self.auth.dev_login

    def effective(self) -> Iterator[Setting]:
        """Yield every setting with its value: secrets masked, ``auth.dev_login`` as it was decided."""
        for section_name in type(self).model_fields:
            section: BaseModel = getattr(self, section_name)
            for name, field in type(section).model_fields.items():
                full_name = f"{section_name}.{name}"
                value = self.dev_login if full_name == "auth.dev_login" else masked(getattr(section, name))
                yield Setting(full_name, value, field.description or "")

    def to_toml(self) -> str:
        """Return the effective settings as a settings file; secrets masked, what is unset as a comment."""
        lines: list[str] = []
        section = ""
        for setting in self.effective():
            head, name = setting.name.split(".")
            if head != section:
                lines += ([""] if section else []) + [f"[{head}]"]
                section = head
            if setting.value is None:
                unset = setting.description.partition("Unset")[2].lstrip(", ")
                lines.append(f"# {name} is unset{unset and ': '}{unset.removeprefix(': ')}")
            else:
                lines.append(f"{name} = {toml_value(setting.value)}")
        return "\n".join(lines) + "\n"


def masked(value: object) -> object:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return tuple(masked(item) for item in value)
    return value


def toml_value(value: object) -> str:
    """Write a setting's value as TOML; a TOML basic string has JSON's escapes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


Tree = dict[str, Any]


def load_settings(
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    flags_from: str = "the command line",
) -> Settings:
    """Put the sources together: defaults < ``file`` < ``env`` < ``flags``.

    Args:
        file: A TOML file with a table for each section; None: no file.
        env: The environment; None: nothing from it. Names that do not begin with ``FASTIM_`` are ignored.
        flags: Values by full name (``server.port``); None values are flags that were not given.
        flags_from: What errors call the place where the flags are.

    Raises:
        ConfigError: naming the first setting that is unknown or cannot be used, and where it came from.
    """
    from_file = {} if file is None else read_file(file)
    from_env = {} if env is None else read_environment(env)
    from_flags: Tree = {}
    for name, value in (flags or {}).items():
        if value is not None:
            section, _, field = name.partition(".")
            from_flags.setdefault(section, {})[field] = value
    origins = [(from_flags, flags_from), (from_env, ENVIRONMENT), (from_file, str(file))]
    merged: Tree = {}
    for tree, _ in reversed(origins):
        merge(merged, tree)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise config_error(error, merged, origins) from None


def read_file(file: Path) -> Tree:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError("config", f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config", f"{file} is no TOML: {error}") from None


def read_environment(env: Mapping[str, str]) -> Tree:
    """Return what the variables say as a tree; refuse those that can only be meant for us and are not known.

    ``FASTIM_DEBUG`` and the like, neither of the form ``FASTIM_SECTION__NAME`` nor beginning with a section,
    are switches of other things and are left alone.
    """
    ours = {name.lower(): value for name, value in env.items() if name.upper().startswith(ENV_PREFIX)}
    prefix = ENV_PREFIX.lower()
    for variable in sorted(ours):
        section, delimiter, field = variable.removeprefix(prefix).partition(ENV_DELIMITER)
        known = Settings.model_fields.get(section)
        if delimiter and known is None:
            raise ConfigError(f"{section}.{field}", f"no such setting (from {variable.upper()})")
        if not delimiter and (hint := misspelt(section)):
            raise ConfigError(variable.upper(), f"no such setting; did you mean {hint}?")
    source = EnvSettingsSource(Settings)
    source.env_vars = ours
    return source()


def misspelt(name: str) -> str | None:
    """Return what ``name`` should have been if it begins with a section but lacks the double underscore."""
    for section in Settings.model_fields:
        if name == section:
            return f"{ENV_PREFIX}{section}{ENV_DELIMITER}<NAME>".upper()
        if name.startswith(f"{section}_"):
            return f"{ENV_PREFIX}{section}{ENV_DELIMITER}{name[len(section) + 1 :]}".upper()
    return None


def merge(into: Tree, tree: Mapping[str, Any]) -> None:
    """Put ``tree`` over ``into``, section by section."""
    for name, value in tree.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, dict) else value


def config_error(error: ValidationError, merged: Tree, origins: Sequence[tuple[Tree, str]]) -> ConfigError:
    """Turn pydantic's report into the one line that names the setting, the reason and the source."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    location = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        name, reason = ".".join(location), "no such setting"
    else:
        name, reason = ".".join(location[:2]), first["msg"].removeprefix("Value error, ")
        if len(location) == 1 and (named := re.match(r"(\w+\.\w+) ", reason)):
            name, reason = (
                named[1],
                reason[named.end() :],
            )  # a rule of several fields begins with the one to blame
        reason = reason[:1].lower() + reason[1:] + shown_value(location, merged)
    source = next((where for tree, where in origins if look_up(tree, location[:2]) is not None), None)
    if source == ENVIRONMENT and len(location) > 1:
        source = f"{ENV_PREFIX}{ENV_DELIMITER.join(location[:2])}".upper()
    more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
    return ConfigError(name, f"{reason}{f' (from {source})' if source else ''}{more}")


def look_up(tree: Tree, location: Sequence[str]) -> object | None:
    value: object = tree
    for part in location:
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def shown_value(location: Sequence[str], merged: Tree) -> str:
    """Return the refused value for the message, unless it may be a secret."""
    if location[0] in {"auth", "metrics"} or len(location) < 2:
        return ""
    value = look_up(merged, location[:2])
    return "" if value is None else f", not {value!r}"[:80]
