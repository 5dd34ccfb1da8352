"""Finding an application by ``module:name``."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

from fastim.errors import ConfigError
from fastim.server.application.app import FastIM

__all__ = ["load_application"]

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")


def load_application(path: str) -> FastIM:
    """Import an application; the current folder comes first on the search path.

    Args:
        path: ``module:name``; the name may be dotted.

    Raises:
        ConfigError: in one line, what is wrong and, for an exception of the module's, where.
    """
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise ConfigError("APP", f"{path!r} is not of the form module:name")
    if module_name.endswith(".py") and os.path.exists(module_name):
        raise ConfigError("APP", f"{module_name} is a file; its module is {module_name[:-3]}:{attribute}")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: object = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            "APP", f"cannot import {module_name}: {type(error).__name__}: {reason}{_place(error)}"
        ) from None
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError("APP", f"{module_name} has no {attribute}") from None
    if not isinstance(found, FastIM):
        raise ConfigError("APP", f"{path} is a {type(found).__name__}, not a FastIM application")
    return found


def _place(error: BaseException) -> str:
    """Return where an import failed: the last line that is neither of the import system nor of fastim."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(("<frozen", importlib.__file__, PACKAGE)):
            return f" ({frame.filename}:{frame.lineno})"
    return ""
