"""Twenty thousand visits of every kind leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count

import httpx

from tests.e2e.serving import ServerProcess, Start, wait_until
from tests.support.visits import GOING_AWAY, HEAD, Script, Visitor, frame, hello, visit

VISITS = 20_000
WARM_UP = 6_000
AT_A_TIME = 400
USERS = 2000
FREE_BUFFERS_BYTES = 64 * (65_536 + 64)
TIMEOUTS = {
    "FASTIM_LIMITS__HEAD_TIMEOUT_S": "0.7",
    "FASTIM_LIMITS__HELLO_TIMEOUT_S": "0.7",
    "FASTIM_LIMITS__CLOSE_TIMEOUT_S": "0.5",
    "FASTIM_HEARTBEAT__INTERVAL_S": "1.0",
    "FASTIM_HEARTBEAT__TIMEOUT_S": "0.5",
    "FASTIM_PRESENCE__GRACE_S": "0.1",
    "FASTIM_SESSION__LIFE_S": "2.0",
    "FASTIM_SERVER__LOG_LEVEL": "warning",
}
Kind = Callable[["Visits", Visitor], Script]


class Visits:
    """The scripts: how visitors come, and above all how they go."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._users = count()

    def token(self) -> str:
        """One user after the other: what is remembered of each, by design, is so after the warm-up."""
        return self._server.token(f"visitor-{next(self._users) % USERS}")

    def clean(self, visitor: Visitor) -> Script:
        visitor.send(hello(self.token()))
        yield b'"resumed"'
        visitor.send(frame(0x81, b'["echo","x",2]'))
        yield b'["ok","x",2]'
        visitor.send(GOING_AWAY)
        yield None

    def clean_msgpack(self, visitor: Visitor) -> Script:
        visitor.send(hello(self.token(), binary=True, device="phone", acks=True))
        yield b"resumed"
        visitor.send(GOING_AWAY)
        yield None

    def resumed(self, visitor: Visitor) -> Script:
        resume = {"session": "0123456789abcdef", "seen": {"nowhere": 1}}
        visitor.send(hello(self.token(), resume=resume))
        yield b'"resumed"'
        visitor.send(GOING_AWAY)
        yield None

    def reset(self, visitor: Visitor) -> Script:
        visitor.send(hello(self.token()))
        yield b'"resumed"'
        visitor.reset()

    def reset_while_entering(self, visitor: Visitor) -> Script:
        visitor.send(hello(self.token()))
        yield b"101 "
        visitor.reset()

    def reset_unread(self, visitor: Visitor) -> Script:
        visitor.send(hello(self.token()))
        visitor.reset()
        yield from ()

    def gone_without_a_close(self, visitor: Visitor) -> Script:
        visitor.send(hello(self.token()))
        yield b'"resumed"'

    def gone_at_once(self, visitor: Visitor) -> Script:
        yield from ()

    def half_a_frame(self, visitor: Visitor) -> Script:
        visitor.send(hello(self.token()) + frame(0x81, b"x" * 100)[:50])
        yield b'"resumed"'
        visitor.reset()

    def bad_token_in_the_head(self, visitor: Visitor) -> Script:
        visitor.send(HEAD.format(encoding="json", more="Authorization: Bearer no.such.token\r\n").encode())
        yield b"401 "
        yield None

    def bad_token_in_hello(self, visitor: Visitor) -> Script:
        visitor.send(hello(self.token()[:-9] + "forgotten"))
        yield b'"unauthorized"'

    def broken_frame(self, visitor: Visitor) -> Script:
        visitor.send(hello(self.token()) + b"\xff\xff")
        yield b"\x88"
        yield None

    def http(self, visitor: Visitor) -> Script:
        visitor.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        yield b'"ok"'
        yield None

    def http_reset(self, visitor: Visitor) -> Script:
        visitor.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /he")
        yield b'"ok"'
        visitor.reset()

    def silent_from_the_start(self, visitor: Visitor) -> Script:
        yield None

    def silent_in_the_head(self, visitor: Visitor) -> Script:
        visitor.send(b"GET /ws HTTP/1.1\r\nHost")
        yield None

    def silent_before_hello(self, visitor: Visitor) -> Script:
        visitor.send(HEAD.format(encoding="json", more="").encode())
        yield b"\x88"
        yield None

    def silent_after_hello(self, visitor: Visitor) -> Script:
        visitor.send(hello(self.token()))
        yield b'"resumed"'
        yield None  # pinged, closed with 4009, and reset: we answer nothing

    def scripts(self, total: int) -> Iterator[tuple[str, Callable[[Visitor], Script]]]:
        mix: list[tuple[Callable[[Visitor], Script], int]] = [
            (self.clean, 8),
            (self.clean_msgpack, 6),
            (self.resumed, 2),
            (self.reset, 6),
            (self.reset_while_entering, 2),
            (self.reset_unread, 2),
            (self.gone_without_a_close, 3),
            (self.gone_at_once, 1),
            (self.half_a_frame, 1),
            (self.bad_token_in_the_head, 2),
            (self.bad_token_in_hello, 1),
            (self.broken_frame, 1),
            (self.http, 1),
            (self.http_reset, 1),
            (self.silent_from_the_start, 1),
            (self.silent_in_the_head, 1),
            (self.silent_before_hello, 1),
            (self.silent_after_hello, 1),
        ]
        cycle = [script for script, times in mix for _ in range(times)]
        for number in range(total):
            script = cycle[number * 7 % len(cycle)]
            yield script.__name__, script


def metrics(server: ServerProcess) -> dict[str, float]:
    text = httpx.get(f"{server.http}/metrics", trust_env=False).text
    found = re.findall(r"^(\w+(?:\{.*\})?) ([\d.e+-]+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def descriptors(server: ServerProcess) -> Counter[str]:
    """Count what is open: sockets, files by name; the store's, whose readers come as needed, by presence."""
    folder = f"/proc/{server.process.pid}/fd"
    found: Counter[str] = Counter()
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            what = os.readlink(f"{folder}/{name}").partition(":[")[0]
            found[what] = 1 if "fastim.db" in what else found[what] + 1
    return found


def resident_bytes(server: ServerProcess) -> int:
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_connections_when_20000_came_and_went_then_all_is_as_before(start: Start) -> None:
    server = start("examples.echo_app:app", **TIMEOUTS)
    visits = Visits(server)

    def settled() -> bool:
        now = metrics(server)
        return not (now["fastim_hub_connections"] or now["fastim_connections"] or now["fastim_im_users"])

    def figures() -> tuple[dict[str, float], Counter[str], int]:
        wait_until(settled, "every row is free")
        now = metrics(server)
        wait_until(lambda: descriptors(server)["socket"] == sockets, "every socket is closed")
        return now, descriptors(server), resident_bytes(server)

    sockets = descriptors(server)["socket"]
    visit(server.port, visits.scripts(WARM_UP), AT_A_TIME, 60)
    warm, warm_descriptors, warm_bytes = figures()
    played = visit(server.port, visits.scripts(VISITS), AT_A_TIME, 100)
    assert played.total() == VISITS
    now, now_descriptors, now_bytes = figures()
    assert now_descriptors == warm_descriptors
    for name in ("slices", "topics", "blocked"):
        assert now[f"fastim_hub_{name}"] == 0, name
    # Free buffers are kept for the next burst, at most so many; how many it came to is chance.
    chunk_bytes = now["fastim_hub_chunk_bytes"]
    assert chunk_bytes <= FREE_BUFFERS_BYTES
    grown_bytes = now_bytes - warm_bytes - max(0, chunk_bytes - warm["fastim_hub_chunk_bytes"])
    assert now["fastim_sessions_detached"] == now["fastim_sessions_live"] == 0
    assert now["fastim_im_conversations"] == 0
    accepted = now["fastim_hub_accepted_total"] - warm["fastim_hub_accepted_total"]
    assert accepted >= VISITS
    print(f"resident: {warm_bytes} bytes, then {now_bytes}", now_bytes - warm_bytes)
    if not os.environ.get("FASTIM_SANITIZED"):  # the sanitizer keeps what was freed in quarantine
        assert grown_bytes < 3 << 20  # 157 bytes a visit; what the store caches is in it
    assert server.stop() == 0
