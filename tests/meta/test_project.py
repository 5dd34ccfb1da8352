"""The project's pages and files agree with its code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from setuptools.command.egg_info import FileList

from fastim._version import __version__
from fastim.server.settings import Settings
from scripts.settings_reference import PAGE, render

ROOT = Path(__file__).parent.parent.parent
# What belongs to the people who happened to write the code: tracker numbers, their machines' paths, notes.
FORBIDDEN = re.compile(r"/work/|/home/\w|\bissue #?\d|\bTODO\b|\bFIXME\b|\bXXX\b|\bHACK\b")
TEXT = {".py", ".pyi", ".pyx", ".pxd", ".toml", ".md", ".sql", ".sh", ".h", ".c", ".js", ".mjs", ""}


def tracked() -> list[Path]:
    """Return the project's files: those git knows, or in a source archive those that are there."""
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return [path for name in ("src", "tests", "docs", "scripts") for path in (ROOT / name).rglob("*.py")]
    return [ROOT / name for name in listing.decode().split("\0") if name and (ROOT / name).is_file()]


def test_settings_page_when_generated_then_it_is_the_one_in_docs() -> None:
    assert PAGE.read_text() == render(), "run: make docs"


def test_settings_page_when_read_then_every_setting_is_there() -> None:
    page = PAGE.read_text()
    for setting in Settings().effective():
        assert f"| `{setting.name}` |" in page


def test_changelog_when_read_then_its_top_version_is_the_packages() -> None:
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__


def test_license_when_read_then_the_whole_apache_license() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_manifest_when_applied_then_a_source_distribution_has_the_whole_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    shipped = FileList()
    for line in Path("MANIFEST.in").read_text().splitlines():
        if line and not line.startswith("#"):
            shipped.process_template_line(line)
    core = {str(path) for suffix in ("pyx", "pxd") for path in Path("src").rglob(f"*.{suffix}")}
    assert core
    assert core <= set(shipped.files)


@pytest.mark.parametrize("suffix", sorted(TEXT), ids=lambda suffix: suffix or "none")
def test_sources_when_searched_then_no_forbidden_words(suffix: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path.suffix == suffix and path != Path(__file__)
        for match in FORBIDDEN.finditer(path.read_text(errors="replace"))
    ]
    assert not found
