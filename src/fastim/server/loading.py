"""Finding an application by ``module:name``."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

from fastim.errors import ConfigError
from fastim.server.app import FastIM

__all__ = ["load_application"]


def load_application(path: str) -> FastIM:
    """Import an application; the current folder comes first on the search path.

    Args:
        path: ``module:name``; the name may be dotted.

    Raises:
        ConfigError: in one line, what is wrong and, for an exception of the module's, where.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ConfigError("APP", f"{path!r} is not of the form module:name")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if place.filename.startswith("<frozen") else f" ({place.filename}:{place.lineno})"
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            "APP", f"cannot import {module_name}: {type(error).__name__}: {reason}{where}"
        ) from None
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError("APP", f"{module_name} has no {attribute}") from None
    if not isinstance(found, FastIM):
        raise ConfigError("APP", f"{path} is a {type(found).__name__}, not a FastIM application")
    return found
