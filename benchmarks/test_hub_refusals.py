"""Connections of a blocked address: accepted and reset, beside the connects that cause them.

Each round is a thousand connects and their refusals in one thread, so a median in milliseconds reads as
microseconds a refused connection, the client's half included.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from fastim._core.hub import Hub

CONNECTS = 1_000
AT_A_TIME = 100


def test_refusals_of_a_blocked_address(benchmark: Any) -> None:
    hub = Hub()
    hub.blocked.add("127.0.0.0/8")
    now_ns = 1
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        hub.listen(listener.fileno())
        address = listener.getsockname()

        def refuse() -> None:
            nonlocal now_ns
            for _ in range(CONNECTS // AT_A_TIME):
                clients = []
                for _ in range(AT_A_TIME):
                    client = socket.socket()
                    with contextlib.suppress(ConnectionError):
                        client.connect(address)
                    clients.append(client)
                now_ns += 1_000_000
                hub.poll(now_ns)
                for client in clients:
                    client.close()

        benchmark.pedantic(refuse, rounds=20, warmup_rounds=2)
        hub.poll(now_ns)
    assert hub.stats()["blocked_peers_total"] % CONNECTS == 0
    assert hub.connections == 0
    hub.shutdown()
