"""Each compiled module has a stub, and mypy.stubtest finds it true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "src"
ALLOWED = ROOT / "scripts" / "stubtest-allowlist.txt"
CORE = SOURCE / "fastim" / "_core"


def stubbed() -> list[str]:
    return sorted(path.stem for path in CORE.glob("*.pyi"))


def test_stubs_when_a_module_is_compiled_then_it_has_one() -> None:
    """A module without a stub offers nothing to Python: its sources have no def and no public class."""
    for source in CORE.glob("*.pyx"):
        if source.stem in stubbed():
            continue
        lines = source.read_text().splitlines()
        offered = [line for line in lines if line.startswith(("def ", "class ", "cpdef "))]
        assert not offered, f"{source.name} has no stub and offers {offered}"


def test_stubs_when_compared_by_stubtest_then_true(tmp_path: Path) -> None:
    modules = [f"fastim._core.{name}" for name in stubbed()]
    allowed = ["--ignore-unused-allowlist", "--allowlist", str(ALLOWED)]
    command = [sys.executable, "-m", "mypy.stubtest", "--concise", *allowed, *modules]
    env = {**os.environ, "MYPYPATH": str(SOURCE), "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
