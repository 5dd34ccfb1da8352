"""``app.run``: a program that serves itself."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.e2e.serving import ROOT, START_S, WAIT_S, make_environment

PROGRAM = """
import sys
from fastim import FastIM
app = FastIM()
@app.on("echo")
def echo(ctx, body):
    return body
app.run(port=0, limits={"hello_timeout_s": 30})
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_when_signalled_then_it_ends_and_returns(tmp_path: Path, number: signal.Signals) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=make_environment({"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path)}),
    ) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], START_S)[0]
        line = process.stdout.readline().decode().strip()
        assert line.startswith("fastim listening on http://127.0.0.1:")
        with connect(f"ws{line.removeprefix('fastim listening on http')}/ws", proxy=None):
            assert list(tmp_path.glob("fastim-*/secret"))
        process.send_signal(number)
        out, _ = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (0, b"ended\n")
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]  # nothing is left, nothing was made


def test_run_when_a_setting_is_wrong_then_it_is_named() -> None:
    from fastim import FastIM
    from fastim.errors import ConfigError

    with pytest.raises(ConfigError, match=r"limits\.no_such"):
        FastIM().run(port=0, limits={"no_such": 1})
    with pytest.raises(ConfigError, match=r"engineio\.no_such: .* \(from app\.run\)"):
        FastIM().run(port=0, engineio={"no_such": 1})
    with pytest.raises(ConfigError, match=r"cors_allowed_origins: no such section .*allowed_origins"):
        FastIM().run(port=0, cors_allowed_origins="*")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"limits: a dict of settings, not int"):
        FastIM().run(port=0, limits=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"server\.port"):
        FastIM().run(port=-1)
