"""How long a typing state is on its way: typists and listeners, and short visits beside them.

    python -m benchmarks.system.typing_load --port P --tokens FILE --churn-tokens FILE
        [--connects 500] [--secs 4]

A connection for each token; when all are there it says so, and begins with a line on its standard input.
Connection i is user wi, and conversation tN has the users w4N to w4N+3. In each
conversation one of them begins to type every 3 s, in turn, so that the state of the one before has ended; the
other three are to hear of it. Beside that, so many visitors a second connect, say hello and go. Latencies are
from just before the sending to just behind the reading, so this process's own delays are in them.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.support.swarm import TEXT, Peer, Phase, Swarm, frame

MEMBERS = 4
EVERY_S = 3.0
SETTLE_S = 1.0
MAX_INSIDE = 500
LEAD_S = 2.0  # for the load beside this to have begun


class Typists:
    """Begins to type in one conversation after the other, and notes when it is heard of."""

    def __init__(self, swarm: Swarm, conversations: int) -> None:
        self.swarm = swarm
        self.conversations = conversations
        self.latencies_us: list[float] = []
        self.expected = 0
        self._typed_s: dict[tuple[str, str], float] = {}
        self._next = 0
        swarm.on_packet = self.hear

    def type_until(self, passed_s: float) -> None:
        """Send what is due, spread evenly over the time."""
        while self._next < passed_s * self.conversations / EVERY_S:
            turn, number = divmod(self._next, self.conversations)
            at = number * MEMBERS + turn % MEMBERS
            packet = ["typing", {"conversation": f"t{number}", "typing": True}]
            self._typed_s[f"t{number}", f"w{at}"] = time.monotonic()
            self.swarm.write(self.swarm.peers[at], frame(TEXT, json.dumps(packet).encode()))
            self.expected += MEMBERS - 1
            self._next += 1

    def hear(self, peer: Peer, packet: list[Any], now_s: float) -> None:
        if packet[0] != "state_batch":
            return
        for update in packet[1]["updates"]:
            if update["type"] == "typing" and update["typing"]:
                typed_s = self._typed_s[packet[1]["conversation"], update["user"]]
                self.latencies_us.append((time.monotonic() - typed_s) * 1e6)


class Visitors:
    """Connects so many times a second, and goes once hello is answered."""

    def __init__(self, swarm: Swarm, tokens: list[str], rate: float) -> None:
        self.swarm = swarm
        self.rate = rate
        self.count = 0
        self._opened = 0
        self._inside: deque[Peer] = deque()
        self._next = self._visitors(tokens).__next__

    def _visitors(self, tokens: list[str]) -> Iterator[Peer]:
        for number, token in enumerate(cycle(tokens)):
            yield Peer(1_000_000 + number, token)

    def visit_until(self, passed_s: float) -> None:
        """Let those come that are due, as long as not too many wait to be let in, and those go that were."""
        inside = self._inside
        while self._opened < passed_s * self.rate and len(inside) < MAX_INSIDE:
            peer = self._next()
            self.swarm.open(peer)
            inside.append(peer)
            self._opened += 1
        while inside and inside[0].phase not in (Phase.CONNECTING, Phase.ENTERING):
            peer = inside.popleft()
            if peer.phase == Phase.READY:
                self.count += 1
                self.swarm.leave(peer)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--churn-tokens", type=Path, required=True)
    parser.add_argument("--connects", type=float, default=500.0)
    parser.add_argument("--secs", type=float, default=4.0)
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    swarm = Swarm()
    answer = swarm.connect(arguments.port, str(arguments.tokens))
    print(f"connect: {answer['ready']} ready of {len(swarm.peers)}", flush=True)
    sys.stdin.readline()
    swarm.run_until(lambda: False, LEAD_S)
    typists = Typists(swarm, len(swarm.peers) // MEMBERS)
    visitors = Visitors(swarm, arguments.churn_tokens.read_text().split(), arguments.connects)
    begin_s, cpu_s = time.monotonic(), time.process_time()
    while (passed_s := time.monotonic() - begin_s) < arguments.secs:
        typists.type_until(passed_s)
        visitors.visit_until(passed_s)
        swarm.turn(0.001)
    seconds = time.monotonic() - begin_s
    busy = (time.process_time() - cpu_s) / seconds * 100
    swarm.run_until(lambda: len(typists.latencies_us) >= typists.expected, SETTLE_S)
    found = sorted(typists.latencies_us)
    p50, p99 = (found[int(len(found) * part)] if found else 0 for part in (0.5, 0.99))
    print(
        f"typing: {len(found)} of {typists.expected} delivered; lat us p50 {p50:.0f} p99 {p99:.0f}\n"
        f"churn: {visitors.count} in {seconds:.1f} s = {visitors.count / seconds:.0f}/s; "
        f"client busy {busy:.0f}%"
    )
    swarm.close()


if __name__ == "__main__":
    main()
