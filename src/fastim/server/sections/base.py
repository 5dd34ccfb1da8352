"""What all sections of the settings share: bounds, and the types that their values have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr
from pydantic_settings import NoDecode

from fastim.guard.blocklist import normal_network

__all__ = [
    "MAX_BYTES",
    "MAX_COUNT",
    "MAX_S",
    "MIN_SECRET_BYTES",
    "Folder",
    "NetworkList",
    "OriginList",
    "SecretList",
    "SecretText",
    "Section",
]

MAX_S = 31_536_000  # a year: nanoseconds since the machine's start, plus this, still fit the core's integers
MAX_COUNT = 2_147_483_647  # so does this
MAX_BYTES = 1_099_511_627_776  # a tebibyte: of files, and of memory that all connections share
MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2: no shorter than HS256's output


def split_list(value: object) -> object:
    """Take ``a,b`` or a JSON array where a list is wanted; flags and the environment have only strings."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"no JSON array: {error}") from None
    return tuple(part.strip() for part in value.split(",") if part.strip())


def check_secret(value: SecretStr) -> SecretStr:
    size = len(value.get_secret_value().encode())
    if size < MIN_SECRET_BYTES:
        raise ValueError(f"has {size} bytes, needs at least {MIN_SECRET_BYTES}")
    return value


def check_origin(value: str) -> str:
    if value in ("*", "null") or re.fullmatch(r"[A-Za-z][\w+.-]*://[^/\s]+/?", value):
        return value
    raise ValueError(f"{value!r} is no origin like https://chat.example.com")


def check_network(value: str) -> str:
    try:
        return normal_network(value)
    except ValueError:
        raise ValueError(f"{value!r} is no address and no CIDR range like 10.0.0.0/8") from None


def check_folder(value: object) -> object:
    if value == "":
        raise ValueError("must name a folder; '.' is the current one")
    return value


OriginList = Annotated[
    tuple[Annotated[str, AfterValidator(check_origin)], ...], NoDecode, BeforeValidator(split_list)
]
NetworkList = Annotated[
    tuple[Annotated[str, AfterValidator(check_network)], ...], NoDecode, BeforeValidator(split_list)
]
Folder = Annotated[Path, BeforeValidator(check_folder)]
SecretText = Annotated[SecretStr, AfterValidator(check_secret)]
SecretList = Annotated[tuple[SecretText, ...], NoDecode, BeforeValidator(split_list)]


class Section(BaseModel):
    """What all sections share: frozen, unknown names refused, finite numbers, no secret in an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, validate_default=True
    )
