"""The opening handshake, from bytes to bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim._core.hub import Encoding
from fastim.server.front.handshake import (
    Refusal,
    accept_key,
    accept_response,
    asked_path,
    check_upgrade,
    choose_subprotocol,
    content_length,
    negotiate_deflate,
    origin_allowed,
    parse_head,
    problem_response,
    query_value,
    wants_close,
    wants_upgrade,
)

HEAD = (
    b"GET /ws?x=1 HTTP/1.1\r\nHost: example.com\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def test_head_when_well_formed_then_parsed() -> None:
    head = parse_head(HEAD)
    assert (head.method, head.path, head.query, head.version) == (b"GET", b"/ws", b"x=1", b"1.1")
    assert head.fields[b"host"] == b"example.com"
    assert wants_upgrade(head)
    assert check_upgrade(head) == b"dGhlIHNhbXBsZSBub25jZQ=="


def test_head_when_repeated_fields_then_joined_or_refused() -> None:
    head = parse_head(b"GET / HTTP/1.1\r\nA: 1\r\na:2 \r\n\r\n")
    assert head.fields == {b"a": b"1, 2"}
    with pytest.raises(Refusal):
        parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n")


def test_head_when_the_target_is_odd_then_read() -> None:
    assert parse_head(b"GET http://example.com/ws?a HTTP/1.1\r\n\r\n").path == b"/ws"
    assert parse_head(b"GET /%77s HTTP/1.1\r\n\r\n").path == b"/ws"
    assert parse_head(b"OPTIONS * HTTP/1.1\r\n\r\n").path == b"*"


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nA : 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: 1\nB: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: 1\rB: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\r\n\r\n",
        b"GET / HTTP/1.1\r\n: 1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"G(T / HTTP/1.1\r\n\r\n",
    ],
)
def test_head_when_malformed_then_refused(data: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse_head(data)
    assert caught.value.status == 400


@given(st.binary(max_size=300))
def test_head_when_arbitrary_then_parsed_or_refused(data: bytes) -> None:
    for candidate in (data, b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n"):
        try:
            parse_head(candidate)
            answer = b"HTTP/1.1 400 "
        except Refusal as refusal:
            answer = problem_response(refusal)
        assert answer.startswith(b"HTTP/1.1 400 ")


def test_head_when_16_kib_of_one_byte_then_no_regular_expression_explodes() -> None:
    for byte in (b" ", b"\t", b":", b"a", b";", b'"', b","):
        try:
            head = parse_head(b"GET / HTTP/1.1\r\nA: " + byte * 16_000 + b"\r\n\r\n")
            negotiate_deflate(head.fields[b"a"], 12)
            negotiate_deflate(b"permessage-deflate" + byte * 16_000 + b"x", 12)
        except Refusal:
            pass


def test_key_when_answered_then_as_in_the_rfc() -> None:
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_response_when_made_then_names_what_was_chosen() -> None:
    response = accept_response(b"dGhlIHNhbXBsZSBub25jZQ==", "fastim.v1.json", b"permessage-deflate")
    assert response.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in response
    assert b"\r\nSec-WebSocket-Protocol: fastim.v1.json\r\n" in response
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n" in response
    assert b"Protocol" not in accept_response(b"k", None, None).partition(b"\r\n")[2]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, (None, Encoding.JSON)),
        (b"fastim.v1.json", ("fastim.v1.json", Encoding.JSON)),
        (b"x, fastim.v1.msgpack , fastim.v1.json", ("fastim.v1.msgpack", Encoding.MSGPACK)),
    ],
)
def test_subprotocol_when_offered_then_the_first_known(
    offered: bytes | None, chosen: tuple[str | None, Encoding]
) -> None:
    assert choose_subprotocol(offered) == chosen


@pytest.mark.parametrize("offered", [b"", b"x", b"fastim.v2.json", b"\xff"])
def test_subprotocol_when_unknown_then_400_names_the_two(offered: bytes) -> None:
    with pytest.raises(Refusal, match=r"fastim\.v1\.json and fastim\.v1\.msgpack"):
        choose_subprotocol(offered)


PLAIN = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        (None, None),
        (b"", None),
        (b"permessage-deflate", PLAIN),
        (b"permessage-deflate; client_max_window_bits", PLAIN + b"; client_max_window_bits=12"),
        (b"permessage-deflate; client_max_window_bits=15", PLAIN + b"; client_max_window_bits=12"),
        (b"permessage-deflate; client_max_window_bits=9", PLAIN + b"; client_max_window_bits=9"),
        (b'permessage-deflate; client_max_window_bits="10"', PLAIN + b"; client_max_window_bits=10"),
        (b"permessage-deflate; server_max_window_bits=12", PLAIN + b"; server_max_window_bits=12"),
        (b"permessage-deflate;server_no_context_takeover ;client_no_context_takeover", PLAIN),
        (b"permessage-deflate; server_max_window_bits=11", None),
        (b"permessage-deflate; server_max_window_bits=8, permessage-deflate", PLAIN),
        (b"x-other; a=1, permessage-deflate", PLAIN),
        (b",, permessage-deflate ,", PLAIN),
        # Values that RFC 7692 does not allow: the offer is declined.
        (b"permessage-deflate; server_max_window_bits", None),
        (b"permessage-deflate; server_max_window_bits=7", None),
        (b"permessage-deflate; server_max_window_bits=16", None),
        (b"permessage-deflate; server_max_window_bits=012", None),
        (b"permessage-deflate; client_max_window_bits=0", None),
        (b"permessage-deflate; client_max_window_bits=x", None),
        (b"permessage-deflate; server_no_context_takeover=1", None),
        (b"permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
        (b"permessage-deflate; unknown", None),
    ],
)
def test_deflate_when_offered_then_negotiated(offered: bytes | None, answer: bytes | None) -> None:
    assert negotiate_deflate(offered, 12) == answer


@pytest.mark.parametrize(
    "offered",
    [
        b"permessage-deflate; =",
        b"permessage-deflate;",
        b'permessage-deflate; a="',
        b'permessage-deflate; a="x y"',
        b"permessage deflate",
        b"=",
        b"permessage-deflate; a=1 b",
    ],
)
def test_deflate_when_the_grammar_is_broken_then_400(offered: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        negotiate_deflate(offered, 12)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "answer"),
    [
        (None, b"a", (), True),
        (b"http://a", b"a", (), True),
        (b"HTTP://A", b"a", (), True),
        (b"http://a:80", b"a", (), True),
        (b"https://a", b"a:443", (), True),
        (b"https://a", b"a", (), True),
        (b"http://a:81", b"a", (), False),
        (b"http://[::1]:8765", b"[::1]:8765", (), True),
        (b"http://[::1]", b"[::1]:80", (), True),
        (b"http://b", b"a", (), False),
        (b"http://b", b"a", ("*",), True),
        (b"http://b", b"a", ("http://b/",), True),
        (b"https://b:443", b"a", ("https://b",), True),
        (b"http://b", b"a", ("https://b",), False),
        (b"null", b"null", (), False),
        (b"", b"", (), False),
        (b"://", b"", (), False),
        (b"http://", b"", (), False),
    ],
)
def test_origin_when_given_then_judged(
    origin: bytes | None, host: bytes, allowed: tuple[str, ...], answer: bool
) -> None:
    assert origin_allowed(origin, host, allowed) is answer


def test_query_when_read_then_the_first_value() -> None:
    assert query_value(b"a=1&token=x.y-z_&token=2", "token") == "x.y-z_"
    assert query_value(b"a=1", "token") is None


@pytest.mark.parametrize("target", [b"/who", b"/who?", b"/who?a=/b", b"/%77ho", b"http://x/who?y", b"/"])
def test_path_when_the_request_comes_byte_by_byte_then_as_the_whole_head_says(target: bytes) -> None:
    data = b"GET " + target + b" HTTP/1.1\r\n\r\n"
    end = len(b"GET " + target + b" ")
    assert [asked_path(data[:at]) for at in range(end)] == [None] * end
    assert {asked_path(data[:at]) for at in range(end, len(data) + 1)} == {parse_head(data).path}


@pytest.mark.parametrize("data", [b"\n", b"GET\r\n", b"nonsense\n GET /who HTTP/1.1", b"GET /who\r\n"])
def test_path_when_it_is_no_request_then_none_that_anybody_has(data: bytes) -> None:
    assert asked_path(data) == b""


def with_lines(*lines: bytes) -> bytes:
    return b"\r\n".join((b"POST / HTTP/1.1", *lines, b"", b""))


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        ([], 0),
        ([b"Content-Length: 0"], 0),
        ([b"Content-Length: 007"], 7),
        ([b"content-length:\t12 "], 12),
        ([b"Transfer-Encoding: chunked"], -1),
        ([b"Transfer-Encoding: gzip, chunked"], -1),
    ],
)
def test_length_when_it_is_told_then_read(lines: list[bytes], size: int) -> None:
    assert content_length(parse_head(with_lines(*lines))) == size


@pytest.mark.parametrize(
    "value", [b"", b"x", b"-1", b"+1", b"1.0", b"0x1", b"1 1", b"1,1", b"\xb2", b"1" * 16]
)
def test_length_when_it_is_none_then_400(value: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        content_length(parse_head(with_lines(b"Content-Length: " + value)))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(b"close", True), (b"x,\tClose", True), (b"keep-alive", False), (b"closed", False), (b"", False)],
)
def test_close_when_the_client_says_so_then_wanted(value: bytes, wanted: bool) -> None:
    assert wants_close(parse_head(with_lines(b"Connection: " + value))) == wanted
