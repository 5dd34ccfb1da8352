"""Registering handlers."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastim.errors import ConfigError
from fastim.server.application.app import Context, FastIM, Identity
from fastim.server.application.handlers import HandlerMode
from fastim.server.application.loading import load_application

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
    modes = {event: handler.mode for event, handler in app.root.handlers.items()}
    assert modes == {
        "plain": HandlerMode.PLAIN,
        "waiting": HandlerMode.ASYNC,
        "thread": HandlerMode.THREAD,
        "callable": HandlerMode.ASYNC,
        "partial": HandlerMode.ASYNC,
        "default": HandlerMode.PLAIN,
    }


OURS = "ok error hello refresh receipt system fastim doc doc.x message_edit conversation.x presence_x"


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
        app.on("narrow")(lambda: None)
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


def test_handler_when_of_a_namespace_then_registered_there() -> None:
    app = FastIM()
    team = re.compile(r"/team-\d+")
    app.on("x", namespace="/chat")(plain)
    app.on("x", namespace=team)(plain)
    app.on("x")(plain)
    app.namespace("/chat").on("hello")(plain)  # native connections alone have another meaning for it
    app.on_connect(namespace="/chat")(lambda ctx: None)
    app.on_disconnect(namespace="/chat")(lambda ctx, reason: None)
    app.middleware(namespace="/chat")(lambda ctx: None)
    app.on_connect(lambda ctx: None)
    assert [namespace.title for namespace in app.namespaces.values()] == ["/", "/chat", r"/team-\d+"]
    chat = app.namespace("/chat")
    assert list(chat.handlers) == ["x", "hello"]
    assert [len(chat.connect_handlers), len(chat.disconnect_handlers), len(chat.middlewares)] == [1, 1, 1]
    assert app.namespace("/chat", messaging=False, parser="msgpack") is chat
    assert app.namespace("/chat") is chat
    assert (chat.messaging, chat.parser) == (False, "msgpack")


def test_namespace_when_wrong_then_says_what() -> None:
    app = FastIM()
    for name in ("", "chat", "/a,b", "/" + "x" * 256):
        with pytest.raises(ValueError, match="begins with '/'"):
            app.on("x", namespace=name)
    with pytest.raises(TypeError, match="int"):
        app.namespace(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="parser"):
        app.namespace("/x", parser="xml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="native"):
        app.on("x", namespace="/x", code=300)
    app.on("*", namespace="/x")(lambda ctx, event, *args: None)
    with pytest.raises(ValueError, match="already in /x"):
        app.on("*", namespace="/x")
    with pytest.raises(ValueError, match="code"):
        app.on("*", code=300)
    with pytest.raises(TypeError, match=r"\(ctx, event, \*args\)"):
        app.on("*")(lambda ctx: None)
    with pytest.raises(TypeError, match=r"\(ctx, reason\)"):
        app.on_disconnect(lambda ctx, reason, more: None)
    with pytest.raises(TypeError, match=r"\(handshake\)"):
        app.authenticate(lambda: None)
    with pytest.raises(TypeError, match="takes no arguments"):
        app.on_start(lambda ctx: None)
    app.authenticate(lambda handshake: None)
    with pytest.raises(ValueError, match="already"):
        app.authenticate(lambda handshake: None)


def test_identity_when_a_claim_breaks_the_rules_then_refused() -> None:
    for wrong in (
        {"user": ""},
        {"user": "a\n"},
        {"user": "a", "device": "x" * 129},
        {"user": "a", "tier": "best"},
        {"user": "a", "device_class": "watch"},
        {"user": "a", "scope": [""]},
        {"user": "a", "expires": -1},
    ):
        with pytest.raises(ValueError):
            Identity(**wrong)  # type: ignore[arg-type]
    claims = Identity("a", scope=["x"], expires=5.5).claims()
    assert (claims.user, claims.scope, claims.exp, claims.tier) == ("a", frozenset({"x"}), 5, "standard")


def test_call_when_not_served_then_refused() -> None:
    app = FastIM()
    for call in (
        lambda: app.broadcast("topic", "event"),
        lambda: app.emit("event"),
        lambda: app.disconnect("sid"),
    ):
        with pytest.raises(RuntimeError, match="not being served"):
            call()


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
        ("fastim.server.application.app:nothing", "has no nothing"),
        ("fastim.server.application.app:FastIM", "not a FastIM application"),
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


@pytest.mark.parametrize(
    ("event", "instead"),
    [
        ("connect", "@app.on_connect"),
        ("disconnect", "@app.on_disconnect"),
        ("disconnecting", "@app.on_disconnect"),
        ("connect_error", "@app.middleware"),
        ("newListener", "no event that clients can send"),
    ],
)
def test_event_when_clients_cannot_send_it_then_what_is_meant_is_named(event: str, instead: str) -> None:
    with pytest.raises(ValueError, match=instead):
        FastIM().on(event)
    with pytest.raises(ValueError, match=instead):
        FastIM().on(event, namespace="/chat")
