"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ConfigOption", "DataOption"]

DataOption = Annotated[
    str | None,  # a Path would take "" for the current folder
    typer.Option("--data", metavar="DIR", help="Folder of the data.", show_default="data"),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file (TOML).", show_default="none")
]
