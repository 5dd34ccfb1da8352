"""The suite's own guards: what they must catch, shown on small suites in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

CONFTEST = Path(__file__).parent.parent / "conftest.py"

SUITES = {
    "clean": (
        """
        async def test_it(): pass
        def test_plain(): pass
        """,
        None,
    ),
    "task": (
        """
        import asyncio
        keep = []
        async def test_it():
            keep.append(asyncio.create_task(asyncio.sleep(99)))
        """,
        "tasks left behind",
    ),
    "callback": (
        """
        import asyncio
        async def test_it():
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        """,
        "unhandled on the loop",
    ),
    "lost exception": (
        """
        import asyncio
        async def boom(): raise KeyError
        async def test_it():
            asyncio.create_task(boom())
        """,
        "unhandled on the loop",
    ),
    "descriptor": (
        """
        import os
        def test_it():
            os.open("/dev/null", os.O_RDONLY)
        """,
        "descriptors left open",
    ),
    "descriptor of an async test": (
        """
        import os
        async def test_it():
            os.open("/dev/null", os.O_RDONLY)
        """,
        "descriptors left open",
    ),
    "descriptor on purpose": (
        """
        import os, pytest
        @pytest.mark.keeps_descriptors
        def test_it():
            os.open("/dev/null", os.O_RDONLY)
        """,
        None,
    ),
}


@pytest.mark.parametrize("name", SUITES)
def test_guard_when_a_test_leaves_something_then_it_fails(name: str, tmp_path: Path) -> None:
    source, complaint = SUITES[name]
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_small.py").write_text(dedent(source))
    command = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    if complaint is None:
        assert done.returncode == 0, done.stdout
    else:
        assert done.returncode == 1, done.stdout
        assert complaint in done.stdout
