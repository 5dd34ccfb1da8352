"""The lock of the data folder: one holder, named to whoever comes second, gone with its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastim.errors import ConfigError
from fastim.server.process.lock import LOCK_FILE, DataLock

HOLDER = """
import sys
from pathlib import Path
from fastim.server.process.lock import DataLock
lock = DataLock(Path(sys.argv[1]))
lock.announce("http://127.0.0.1:1234")
print("held", flush=True)
sys.stdin.read()
"""


def test_lock_when_held_by_another_process_then_the_holder_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError) as caught:
            DataLock(tmp_path)
        assert caught.value.setting == "server.data"
        assert f"process id {holder.pid}" in caught.value.reason
        assert "http://127.0.0.1:1234" in caught.value.reason
        assert "\n" not in caught.value.reason
        holder.kill()
    with DataLock(tmp_path):  # what a killed process leaves behind is no obstacle
        pass


def test_lock_when_held_in_this_process_then_refused_until_released(tmp_path: Path) -> None:
    first = DataLock(tmp_path / "data")
    with pytest.raises(ConfigError, match=f"process id {os.getpid()}"):
        DataLock(tmp_path / "data")
    first.release()
    first.release()
    with DataLock(tmp_path / "data"):
        pass


def test_lock_when_refused_then_no_descriptor_is_left(tmp_path: Path) -> None:
    with DataLock(tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(ConfigError):
                DataLock(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == before


def test_release_when_a_copy_of_the_descriptor_is_open_then_the_lock_is_free(tmp_path: Path) -> None:
    """A child between fork and exec has such a copy."""
    lock = DataLock(tmp_path)
    copy = os.dup(lock._descriptor)
    try:
        lock.release()
        with DataLock(tmp_path):
            pass
    finally:
        os.close(copy)


def test_lock_when_the_file_is_a_folder_then_config_error(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(ConfigError) as caught:
        DataLock(tmp_path)
    assert caught.value.setting == "server.data"


def test_lock_when_announced_shorter_then_nothing_of_the_old_note_is_left(tmp_path: Path) -> None:
    with DataLock(tmp_path) as lock:
        lock.announce("http://a.very.long.name.example:12345")
        lock.announce("")
        assert (tmp_path / LOCK_FILE).read_text() == f"fastim with process id {os.getpid()}\n"
