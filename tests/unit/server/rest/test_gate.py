"""What counts as a request from this machine."""

from __future__ import annotations

import pytest

from fastim.server.rest.gate import is_local


def request(
    address: str, host: str, *headers: tuple[bytes, bytes], version: str = "1.1"
) -> dict[str, object]:
    return {
        "client": (address, 1),
        "http_version": version,
        "headers": [(b"host", host.encode()), *headers],
    }


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    "host", ["127.0.0.1:8765", "localhost", "LOCALHOST:1", "box:8765", "[::1]:8765", "[::1]", "a.localhost"]
)
def test_request_when_from_this_machine_then_local(address: str, host: str) -> None:
    assert is_local(request(address, host))


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "", "testclient"])
def test_request_when_from_elsewhere_then_not_local(address: str) -> None:
    assert not is_local(request(address, "127.0.0.1"))


@pytest.mark.parametrize("host", ["", "rebound.example", "rebound.example:8765", "127.0.0.1.evil.example"])
def test_request_when_for_a_name_that_somebody_may_have_bound_to_us_then_not_local(host: str) -> None:
    assert not is_local(request("127.0.0.1", host))


@pytest.mark.parametrize(
    "name",
    [b"forwarded", b"via", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"],
)
def test_request_when_through_a_proxy_that_says_so_then_not_local(name: bytes) -> None:
    assert not is_local(request("127.0.0.1", "127.0.0.1", (name, b"x")))


def test_request_when_in_http_1_0_then_not_local() -> None:
    """nginx brings clients so, and adds no header, unless told otherwise."""
    assert not is_local(request("127.0.0.1", "127.0.0.1", version="1.0"))
