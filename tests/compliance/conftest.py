"""One echo server for all conformance tests of a module."""

from collections.abc import Callable, Iterator

import pytest

from tests.compliance.raw_websocket import RawWebSocket, echo_server


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    with echo_server() as port:
        yield port


@pytest.fixture
def ws(echo_port: int) -> Iterator[RawWebSocket]:
    """A connection without extensions; the server must outlive whatever it is used for."""
    with RawWebSocket(echo_port) as connection:
        yield connection
    with RawWebSocket(echo_port) as other:
        other.expect_alive()


@pytest.fixture
def deflated(echo_port: int) -> Iterator[Callable[..., RawWebSocket]]:
    """Opens connections with permessage-deflate."""
    opened: list[RawWebSocket] = []

    def connect(offer: str = "permessage-deflate; client_max_window_bits") -> RawWebSocket:
        opened.append(RawWebSocket(echo_port, offer))
        return opened[-1]

    yield connect
    for connection in opened:
        with connection:
            pass
    with RawWebSocket(echo_port) as other:
        other.expect_alive()
