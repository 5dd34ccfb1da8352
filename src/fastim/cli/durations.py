"""Durations as people write them on a command line."""

from __future__ import annotations

import re
from typing import Final

from fastim.errors import ConfigError

__all__ = ["duration_option_s", "parse_duration_s"]

UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LONGEST_S: Final = 100 * 366 * 86_400


def parse_duration_s(text: str, *, least_s: int = 1) -> int:
    """Return the seconds of ``90``, ``90s``, ``15m``, ``1h``, ``1h30m``, ``7d`` or ``2w``.

    Raises:
        ValueError: It is none of these, less than ``least_s``, or more than a century.
    """
    matched = re.fullmatch(r"[0-9]+|([0-9]+[smhdw])+", text)
    parts = re.findall(r"([0-9]{1,12})([smhdw]?)", text) if matched else []
    total = sum(int(count) * UNITS_S[unit] for count, unit in parts)
    if not parts or not least_s <= total <= LONGEST_S:
        raise ValueError(f"{text!r} is no duration like 90s, 15m, 1h or 7d")
    return total


def duration_option_s(flag: str, text: str, *, least_s: int = 1) -> int:
    """Return the seconds of what an option was given; see ``parse_duration_s``.

    Raises:
        ConfigError: It is no duration.
    """
    try:
        return parse_duration_s(text, least_s=least_s)
    except ValueError as error:
        raise ConfigError(flag, str(error)) from None
