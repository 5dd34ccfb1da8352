"""The secret and the API key in the data folder: made once, readable by nobody else."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fastim.errors import ConfigError

__all__ = ["API_KEY_FILE", "SECRET_FILE", "load_or_create", "make_data_folder", "signing_secrets"]

SECRET_FILE: Final = "secret"
API_KEY_FILE: Final = "api_key"
MIN_SECRET_BYTES: Final = 32
RANDOM_BYTES: Final = 48  # 64 characters of base64url
SETTINGS: Final = {SECRET_FILE: "auth.secret", API_KEY_FILE: "auth.api_key"}


def make_data_folder(data_dir: Path) -> None:
    """Make the data folder, mode 0700, unless it is there.

    Raises:
        ConfigError: ``server.data``: it cannot be made, is no folder, or cannot be written.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError("server.data", f"{data_dir} is not a folder") from None
    except OSError as error:
        raise ConfigError("server.data", f"cannot make {data_dir}: {error.strerror}") from None
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError("server.data", f"{data_dir} is not readable and writable")


def signing_secrets(configured: Sequence[bytes], data_dir: Path) -> tuple[bytes, ...]:
    """Return the secrets for tokens, the signing one first: the configured ones, else the data folder's."""
    return tuple(configured) or (load_or_create(data_dir, SECRET_FILE),)


def load_or_create(data_dir: Path, name: str) -> bytes:
    """Return a secret of the data folder; make it, and the folder, if it is not there.

    Of several processes that make it at the same time one wins, and all return its secret.

    Args:
        data_dir: The data folder.
        name: ``SECRET_FILE`` or ``API_KEY_FILE``; another name is a file of that name.

    Raises:
        ConfigError: It cannot be read or made, others may read or change it, or it is too short.
    """
    setting = SETTINGS.get(name, "server.data")
    make_data_folder(data_dir)
    path = data_dir / name
    try:
        if not path.exists():
            create(path, secrets.token_urlsafe(RANDOM_BYTES).encode())
        return read(path, setting)
    except OSError as error:
        raise ConfigError(setting, f"cannot use {path}: {error.strerror}") from None


def create(path: Path, secret: bytes) -> None:
    """Put a new file at ``path``, whole and synced; leave one that somebody else put there meanwhile."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename, never over another's file
        except FileExistsError:
            return
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path, setting: str) -> bytes:
    """Read a secret file after looking at the rights of the very file that is open."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(setting, f"{path} is not a regular file")
        # Readable by the group is left to the operator: mounted secrets come like that.
        if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigError(setting, f"{path} is open to other users (mode {mode:04o}); chmod 600 it")
        secret = file.read().strip()
    if not secret:
        raise ConfigError(setting, f"{path} is empty")
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(setting, f"{path} has {len(secret)} bytes, needs at least {MIN_SECRET_BYTES}")
    return secret
