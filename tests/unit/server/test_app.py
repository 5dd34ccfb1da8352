"""Registering handlers."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastim.errors import ConfigError
from fastim.server.app import Context, FastIM, HandlerMode
from fastim.server.loading import load_application

ROOT = Path(__file__).parents[3]


def plain(ctx: Context, body: Any) -> Any:
    return body


async def waiting(ctx: Context, body: Any) -> Any:
    return body


class Callable_:
    async def __call__(self, ctx: Context, body: Any) -> Any:
        return body


def test_handler_when_registered_then_runs_where_it_belongs() -> None:
    app = FastIM()
    assert app.on("plain")(plain) is plain
    app.on("waiting")(waiting)
    app.on("thread", thread=True)(plain)
    app.on("callable")(Callable_())
    app.on("partial")(partial(waiting))
    app.on("default")(lambda ctx, body, more=1: body)
    modes = {event: handler.mode for event, handler in app.handlers.items()}
    assert modes == {
        "plain": HandlerMode.PLAIN,
        "waiting": HandlerMode.ASYNC,
        "thread": HandlerMode.THREAD,
        "callable": HandlerMode.ASYNC,
        "partial": HandlerMode.ASYNC,
        "default": HandlerMode.PLAIN,
    }


OURS = "ok error hello typing ping fastim doc document message messages conversation.x presence2"


@pytest.mark.parametrize("event", ["", "x" * 65, "ä" * 33, *OURS.split()])
def test_name_when_reserved_or_unusable_then_refused(event: str) -> None:
    with pytest.raises(ValueError):
        FastIM().on(event)


def test_registration_when_wrong_then_says_what() -> None:
    app = FastIM()
    app.on("twice")(plain)
    with pytest.raises(ValueError, match="already"):
        app.on("twice")
    with pytest.raises(ValueError, match="async"):
        app.on("other", thread=True)(waiting)
    with pytest.raises(TypeError, match=r"\(ctx, body\)"):
        app.on("narrow")(lambda ctx: None)
    with pytest.raises(TypeError, match=r"\(ctx\)"):
        app.on_connect(plain)
    with pytest.raises(TypeError):
        app.on("nothing")(None)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="256"):
        app.on("low", code=255)
    app.on("first", code=256)(plain)
    with pytest.raises(ValueError, match="taken"):
        app.on("second", code=256)
    with pytest.raises(ValueError):
        FastIM(threads=0)


def test_broadcast_when_not_served_then_refused() -> None:
    with pytest.raises(RuntimeError):
        FastIM().broadcast("topic", "event")


def test_import_when_of_the_package_alone_then_cheap() -> None:
    program = "import sys, fastim; assert 'fastapi' not in sys.modules and 'asyncio' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": str(ROOT / "src")})


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nothing", "module:name"),
        (":app", "module:name"),
        (".relative:app", "module:name"),
        ("no.such.module:app", "No module named"),
        ("fastim.server.app:nothing", "has no nothing"),
        ("fastim.server.app:FastIM", "not a FastIM application"),
    ],
)
def test_application_when_it_cannot_be_loaded_then_one_line(path: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        load_application(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import sys\nsys.exit(7)", r"SystemExit: 7 \(.*broken_app\.py:2\)$"),
        ("1 +", "SyntaxError"),
        ("raise KeyError('a\\nb')", r"KeyError: .*broken_app\.py:1\)$"),
        (
            "import fastim\nfastim.FastIM().on('fastim.x')(print)",
            r"reserved for fastim \(.*broken_app\.py:2\)$",
        ),
    ],
)
def test_application_when_its_module_fails_then_one_line_says_where_in_it(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_app.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_application("broken_app:app")
    assert "\n" not in str(caught.value)


def test_application_when_a_file_is_named_then_its_module_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="shop:app"):
        load_application("shop.py:app")


def test_application_when_named_then_loaded() -> None:
    assert isinstance(load_application("examples.echo_app:app"), FastIM)
