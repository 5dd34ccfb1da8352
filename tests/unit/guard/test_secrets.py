"""Secret files: made once and whole, for nobody else's eyes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from fastim.errors import ConfigError
from fastim.guard.secrets import API_KEY_FILE, SECRET_FILE, load_or_create, signing_secrets


def test_load_or_create_when_missing_then_made_for_the_owner_only(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    secret = load_or_create(data, SECRET_FILE)
    assert len(secret) >= 32
    assert (data / SECRET_FILE).stat().st_mode & 0o777 == 0o600
    assert data.stat().st_mode & 0o777 == 0o700
    assert load_or_create(data, SECRET_FILE) == secret
    assert load_or_create(data, API_KEY_FILE) != secret
    assert sorted(os.listdir(data)) == [API_KEY_FILE, SECRET_FILE]  # no draft is left behind


def test_load_or_create_when_umask_is_odd_then_still_0600(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create(tmp_path, SECRET_FILE)
    finally:
        os.umask(before)
    assert (tmp_path / SECRET_FILE).stat().st_mode & 0o777 == 0o600


def test_load_or_create_when_many_at_once_then_one_secret(tmp_path: Path) -> None:
    found: list[bytes] = []
    start = threading.Barrier(8)

    def load() -> None:
        start.wait()
        found.append(load_or_create(tmp_path, SECRET_FILE))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert os.listdir(tmp_path) == [SECRET_FILE]


@pytest.mark.parametrize(
    ("content", "mode", "word"),
    [
        (b"", 0o600, "empty"),
        (b" \n", 0o600, "empty"),
        (b"short\n", 0o600, "5 bytes"),
        (b"x" * 64, 0o644, "chmod 600"),
        (b"x" * 64, 0o620, "chmod 600"),
    ],
)
def test_load_or_create_when_file_is_unfit_then_refused_and_left_alone(
    tmp_path: Path, content: bytes, mode: int, word: str
) -> None:
    path = tmp_path / SECRET_FILE
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=word) as caught:
        load_or_create(tmp_path, SECRET_FILE)
    assert caught.value.setting == "auth.secret"
    assert str(path) in caught.value.reason
    assert path.read_bytes() == content


def test_load_or_create_when_mounted_readable_by_the_group_then_accepted(tmp_path: Path) -> None:
    path = tmp_path / SECRET_FILE
    path.write_bytes(b"x" * 64 + b"\n")
    path.chmod(0o440)
    assert load_or_create(tmp_path, SECRET_FILE) == b"x" * 64


def test_load_or_create_when_it_is_a_folder_then_config_error(tmp_path: Path) -> None:
    (tmp_path / SECRET_FILE).mkdir()
    with pytest.raises(ConfigError) as caught:
        load_or_create(tmp_path, SECRET_FILE)
    assert caught.value.setting == "auth.secret"


def test_load_or_create_when_data_is_a_file_then_server_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    for data in (tmp_path / "data", tmp_path / "data" / "below"):
        with pytest.raises(ConfigError) as caught:
            load_or_create(data, SECRET_FILE)
        assert caught.value.setting == "server.data"


def test_signing_secrets_when_configured_then_no_file_is_made(tmp_path: Path) -> None:
    assert signing_secrets((b"one", b"two"), tmp_path) == (b"one", b"two")
    assert os.listdir(tmp_path) == []
    assert signing_secrets((), tmp_path) == (load_or_create(tmp_path, SECRET_FILE),)
