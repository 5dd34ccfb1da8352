"""One server a data folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fastim.errors import ConfigError
from fastim.guard.secrets import make_data_folder

__all__ = ["LOCK_FILE", "DataLock"]

LOCK_FILE: Final = "lock"
MAX_NOTE_BYTES: Final = 256


class DataLock:
    """Holds ``DATA/lock`` (flock) until ``release`` or the end of the process.

    The file tells who holds it; it stays when the lock is released, and means nothing then. It is never
    removed: two servers could hold locks on two files of the same name.

    Args:
        data_dir: The data folder; made when missing.

    Raises:
        ConfigError: ``server.data``: another process holds the lock (it is named), or the folder is unusable.
    """

    def __init__(self, data_dir: Path) -> None:
        make_data_folder(data_dir)
        self._path = data_dir / LOCK_FILE
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError("server.data", f"cannot open {self._path}: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, MAX_NOTE_BYTES, 0).decode("utf-8", "replace").strip()
            os.close(self._descriptor)
            if isinstance(error, BlockingIOError):
                reason = f"{data_dir} is in use by {holder or 'another process'}"
            else:
                reason = f"cannot lock {self._path}: {error.strerror}"
            raise ConfigError("server.data", reason) from None
        self.announce("")

    def announce(self, address: str) -> None:
        """Write who holds the lock, for whoever comes second; ``address`` stays empty until there is one."""
        place = f", listening on {address}" if address else ""
        note = f"fastim with process id {os.getpid()}{place}\n".encode()[:MAX_NOTE_BYTES]
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, note, 0)

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        if self._descriptor >= 0:
            # Said, not left to the close: a child just being started may share the descriptor a moment.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
