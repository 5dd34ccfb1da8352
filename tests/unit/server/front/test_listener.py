"""The listening socket."""

from __future__ import annotations

import socket

import pytest

from fastim.errors import ConfigError
from fastim.server.front.listener import format_url, open_listener


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "[::1]", "::"])
def test_listener_when_opened_then_its_options_are_set(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with open_listener(host, 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not listener.getblocking()
        if hasattr(socket, "TCP_CONGESTION"):
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).startswith(b"cubic")
        url = format_url(listener, host, False)
        assert url.endswith(f":{listener.getsockname()[1]}")
        assert url.startswith("http://[" if ":" in host else f"http://{host}")


@pytest.mark.parametrize(
    ("host", "setting"), [("no.such.host.invalid", "server.host"), ("192.0.2.1", "server.host")]
)
def test_host_when_unusable_then_named(host: str, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_listener(host, 0)
    assert caught.value.setting == setting


def test_port_when_in_use_then_named() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        with pytest.raises(ConfigError, match="in use") as caught:
            open_listener("127.0.0.1", listener.getsockname()[1])
        assert caught.value.setting == "server.port"
