"""The address of a client behind proxies: only what trusted ones say, from the right."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim.guard.proxies import ForwardedHeader, TrustedProxies

TRUSTED = ("10.0.0.0/8", "2001:db8:f::/48")
PEER = "10.0.0.1"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (b"203.0.113.7", "203.0.113.7"),
        (b"127.0.0.1, 203.0.113.7", "203.0.113.7"),  # the client wrote the first
        (b"203.0.113.7, 10.2.3.4", "203.0.113.7"),
        (b"127.0.0.1, 203.0.113.7,10.2.3.4 , 10.9.9.9", "203.0.113.7"),
        (b"10.1.1.1, 10.2.2.2", "10.1.1.1"),  # proxies all the way
        (b"203.0.113.7:4711", "203.0.113.7"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"[2001:db8::1]:4711", "2001:db8::1"),
        (b"203.0.113.7, 2001:db8:f::9", "203.0.113.7"),
        (b"::ffff:203.0.113.7", "::ffff:203.0.113.7"),
        # malformed: the nearest trusted hop
        (b"", PEER),
        (b"unknown", PEER),
        (b"203.0.113.7, unknown", PEER),
        (b"203.0.113.7, nonsense, 10.2.3.4", "10.2.3.4"),
        (b"203.0.113.7,,10.2.3.4", "10.2.3.4"),
        (b"203.0.113.7 10.2.3.4", PEER),
        (b"203.0.113.7\x00", PEER),
        (b"\xff\xfe", PEER),
    ],
)
def test_x_forwarded_for_when_from_a_trusted_proxy_then_walked_from_the_right(
    value: bytes, address: str
) -> None:
    assert TrustedProxies(TRUSTED).client_address(PEER, value) == address


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (b"for=203.0.113.7", "203.0.113.7"),
        (b"For=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7"),
        (b"for=127.0.0.1, for=203.0.113.7;proto=http, for=10.2.3.4", "203.0.113.7"),
        (b'for="203.0.113.7:4711"', "203.0.113.7"),
        (b'for="[2001:db8::1]:4711"', "2001:db8::1"),
        (b'for="[2001:db8::1]"', "2001:db8::1"),
        (b'host="a,b;for=10.9.9.9";for=203.0.113.7', "203.0.113.7"),
        (b'host="a\\",for=127.0.0.1";for=203.0.113.7', "203.0.113.7"),
        (b'for="127.0.0.1, for=203.0.113.7', "203.0.113.7"),  # a quote that the client left open
        (b'for=127.0.0.1;by=", for="[2001:db8::1]:4711"', "2001:db8::1"),
        (b'for="a\\, for=203.0.113.7, for="10.2.3.4"', "203.0.113.7"),
        # malformed, or hidden: the nearest trusted hop
        (b"for=203.0.113.7, for=_hidden", PEER),
        (b"for=203.0.113.7, for=unknown, for=10.2.3.4", "10.2.3.4"),
        (b"for=203.0.113.7, proto=https", PEER),
        (b"203.0.113.7", PEER),
        (b'for="203.0.113.7', PEER),
        (b"for=203.0.113.7;for=203.0.113.8", PEER),
        (b"", PEER),
    ],
)
def test_forwarded_when_from_a_trusted_proxy_then_walked_from_the_right(value: bytes, address: str) -> None:
    proxies = TrustedProxies(TRUSTED, ForwardedHeader.FORWARDED)
    assert proxies.client_address(PEER, value) == address


@pytest.mark.parametrize("peer", ["192.0.2.1", "127.0.0.1", "11.0.0.1", "", "2001:db8:e::1"])
def test_header_when_the_peer_is_no_trusted_proxy_then_it_is_not_looked_at(peer: str) -> None:
    assert TrustedProxies(TRUSTED).client_address(peer, b"127.0.0.1") == peer
    assert TrustedProxies().client_address(peer, b"127.0.0.1") == peer


@given(st.binary(max_size=60) | st.text(alphabet='for="[]:.,; 0127\\', max_size=60).map(str.encode))
def test_header_whatever_it_holds_then_an_address_comes_of_it(value: bytes) -> None:
    for header in ForwardedHeader:
        ipaddress.ip_address(TrustedProxies(TRUSTED, header).client_address(PEER, value))
