"""How events are served: handlers by the values they take, and namespaces that patterns make."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fastim.errors import RequestError
from fastim.im.messaging import Builtin
from fastim.server.application.app import FastIM
from fastim.server.application.handlers import Args, Handler
from fastim.server.application.tables import Mode, Tables
from fastim.wire import bodies

Call = Any


def none(ctx: Any) -> Any:
    return []


def one(ctx: Any, body: Any) -> Any:
    return [body]


def two(ctx: Any, a: Any, b: Any) -> Any:
    return [a, b]


def two_or_three(ctx: Any, a: Any, b: Any, c: Any = "-") -> Any:
    return [a, b, c]


def many(ctx: Any, *args: Any) -> Any:
    return list(args)


def maybe(ctx: Any, a: Any = "-", b: Any = "-") -> Any:
    return [a, b]


def handler_of(call: Call) -> Handler:
    app = FastIM()
    app.on("x")(call)
    return app.root.handlers["x"]


@pytest.mark.parametrize(
    ("call", "body", "expected"),
    [
        (none, None, []),
        (none, [], []),
        (none, 1, "takes none"),
        (one, 1, [1]),
        (one, None, [None]),
        (one, [1, 2], [[1, 2]]),
        (two, [1, 2], [1, 2]),
        (two, [1], "a list of 2, got one of 1"),
        (two, {"a": 1}, "a list of 2, got something else"),
        (two, None, "a list of 2, got one of 0"),
        (two_or_three, [1, 2], [1, 2, "-"]),
        (two_or_three, [1, 2, 3, 4], "a list of 2 to 3, got one of 4"),
        (many, [1, 2], [[1, 2]]),
        (many, None, [None]),
        (maybe, 1, [1, "-"]),
    ],
)
def test_body_when_native_then_spread_where_several_are_needed(call: Call, body: Any, expected: Any) -> None:
    handler = handler_of(call)
    if isinstance(expected, str):
        with pytest.raises(RequestError, match=expected):
            handler.with_body(None, body)
    else:
        assert handler.with_body(None, body) == expected


@pytest.mark.parametrize(
    ("call", "args", "expected"),
    [
        (none, [], []),
        (none, [1], "'x' takes 0, got 1"),
        (one, [], [None]),
        (one, [[1, 2]], [[1, 2]]),
        (one, [1, 2], "'x' takes 1, got 2"),
        (two, [1, 2], [1, 2]),
        (two, [], "'x' takes 2, got 0"),
        (two_or_three, [1, 2, 3], [1, 2, 3]),
        (many, [], []),
        (many, [1, 2], [1, 2]),
        (maybe, [], ["-", "-"]),
    ],
)
def test_arguments_when_decoded_then_passed_one_by_one(call: Call, args: list[Any], expected: Any) -> None:
    handler = handler_of(call)
    if isinstance(expected, str):
        with pytest.raises(RequestError, match=expected):
            handler.with_args(None, Args(args))
    else:
        assert handler.with_args(None, Args(args)) == expected


def test_catch_all_when_there_is_one_then_it_serves_the_rest_with_their_names() -> None:
    app = FastIM()
    app.on("x")(one)
    app.on("*")(many)
    app.on("*", namespace="/pair")(two)
    tables = Tables(app)
    tables.add_builtins({"typing": Builtin(bodies.Typing, lambda *args: None)})
    for table in (tables.native, tables.get("/")):
        assert table is not None
        assert table.find("x") == (Mode.PLAIN, one, app.root.handlers["x"])
        assert table.find("typing") is not None
        entry = table.find("other")
        assert entry is not None
        assert entry[1](None, 5) == ["other", 5]
        assert entry[2].with_args(None, Args([1, 2])) == ["other", 1, 2]
        assert table.find(300) is None
    pair = tables.get("/pair")
    assert pair is not None
    entry = pair.find("y")
    assert entry is not None
    assert entry[1](None, 5) == ["y", 5]
    with pytest.raises(RequestError):
        entry[2].with_args(None, Args([1, 2]))
    tables.refuse_work()
    for event in ("x", "typing", "other"):
        entry = tables.native.find(event)
        assert entry is not None
        assert entry[0] == Mode.REFUSE


def test_builtin_when_replaced_or_not_wanted_then_not_served() -> None:
    app = FastIM()
    app.on("typing")(one)
    app.namespace("/bare", messaging=False)
    app.namespace("/full")
    builtins = {name: Builtin(bodies.Typing, lambda *args: None) for name in ("typing", "history")}
    tables = Tables(app)
    tables.add_builtins(builtins)
    found = {name: tables.get(name) for name in ("/", "/bare", "/full")}
    modes = {
        name: [entry and entry[0] for entry in (table.find("typing"), table.find("history"))]
        for name, table in found.items()
        if table is not None
    }
    assert modes == {
        "/": [Mode.PLAIN, Mode.BUILTIN],
        "/bare": [None, None],
        "/full": [Mode.BUILTIN, Mode.BUILTIN],
    }
    assert [tables.serves_messaging(name) for name in ("/", "/bare", "/full", "/none")] == [1, 0, 1, 0]
    off = Tables(app, messaging=False)
    off.add_builtins(builtins)
    assert off.native.find("history") is None
    assert not off.serves_messaging("/")


def test_namespace_when_a_pattern_covers_it_then_there_while_somebody_is_in_it() -> None:
    app = FastIM()
    app.on("a", namespace=re.compile(r"/team-\d+"))(one)
    app.on("b", namespace=lambda name: name.startswith("/t"))(one)
    app.on("c", namespace="/team-0")(one)
    tables = Tables(app, max_dynamic=2)

    def events(name: str) -> list[Any]:
        table = tables.get(name)
        return [] if table is None else list(table.entries)

    assert tables.open("/nothing") is None
    assert tables.open("/team-1x") is not None  # only the function covers it
    assert tables.open("/team-1") is not None
    assert tables.open("/team-1") is not None
    assert [events(name) for name in ("/team-1x", "/team-1", "/team-0")] == [["b"], ["a"], ["c"]]
    assert tables.open("/team-2") is None  # there are two
    assert tables.open("/team-0") is not None
    tables.close("/team-0")
    tables.close("/team-1")
    assert events("/team-1") == ["a"]
    tables.close("/team-1")
    tables.close("/team-1")
    assert events("/team-1") == []
    assert tables.open("/team-2") is not None


def test_pattern_when_it_fails_for_a_name_then_is_logged_and_does_not_cover_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    application = FastIM()
    application.namespace(lambda name: int(name.removeprefix("/team-")) > 0)
    tables = Tables(application)
    assert tables.open("/team-1") is not None
    assert tables.open("/team-x") is None
    assert "fails for the namespace '/team-x'" in caplog.text
