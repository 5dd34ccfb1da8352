"""Tokens: what they must say, and everything that is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim.errors import ConfigError, ErrorCode
from fastim.guard.tokens import Claims, DeviceClass, Tier, TokenError, TokenVerifier, issue

NOW_S = 1_800_000_000
SECRET = b"a secret of at least 32 bytes, surely"
OTHER = b"another secret, at least 32 bytes too"


def encode(claims: dict[str, Any], secret: bytes = SECRET, **options: Any) -> str:
    return jwt.encode(claims, secret, algorithm=options.pop("algorithm", "HS256"), **options)


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_raw(payload: bytes, header: bytes = b'{"alg":"HS256"}') -> str:
    """Sign bytes that no library would write."""
    text = f"{segment(header)}.{segment(payload)}"
    algorithm = jwt.PyJWS().get_algorithm_by_name("HS256")
    return f"{text}.{segment(algorithm.sign(text.encode(), SECRET))}"


def good(**claims: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": NOW_S + 60, **claims}


def verify(token: str, now_s: float = NOW_S) -> Claims:
    return TokenVerifier([SECRET]).verify(token, now_s)


def refusal(token: str, now_s: float = NOW_S) -> TokenError:
    with pytest.raises(TokenError) as caught:
        verify(token, now_s)
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    for part in token.split("."):
        assert len(part) < 4 or part not in str(caught.value)
    return caught.value


def test_verify_when_minimal_then_defaults() -> None:
    assert verify(encode(good())) == Claims("alice", None, None, Tier.STANDARD, frozenset(), NOW_S + 60, None)


def test_verify_when_all_claims_then_all_returned() -> None:
    claims = good(
        iat=NOW_S, nbf=NOW_S, jti="j1", device="phone", tier="critical", scope=["a", "b"], unknown={"x": [1]}
    )
    claims["class"] = "mobile"
    assert verify(encode(claims)) == Claims(
        "alice", "phone", DeviceClass.MOBILE, Tier.CRITICAL, frozenset({"a", "b"}), NOW_S + 60, "j1", NOW_S
    )


def test_issue_when_verified_by_the_library_then_same_claims() -> None:
    token = issue(SECRET, "ålice", "phone", "degraded", 90, ["x"], device_class="web", jti="1", now_s=NOW_S)
    options = {"verify_exp": False, "verify_iat": False}
    assert jwt.decode(token, SECRET, algorithms=["HS256"], options=options) == {
        "sub": "ålice",
        "iat": NOW_S,
        "exp": NOW_S + 90,
        "device": "phone",
        "class": "web",
        "tier": "degraded",
        "scope": ["x"],
        "jti": "1",
    }
    assert verify(token).user == "ålice"


def test_verify_when_secrets_rotated_then_old_tokens_stay_good() -> None:
    verifier = TokenVerifier([OTHER, SECRET])
    assert verifier.verify(encode(good()), NOW_S).user == "alice"
    assert verifier.verify(encode(good(), OTHER), NOW_S).user == "alice"


def test_verify_when_signed_with_another_key_then_refused() -> None:
    assert "signature" in str(refusal(encode(good(), OTHER)))


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_verify_when_other_algorithm_then_refused(algorithm: str) -> None:
    key = None if algorithm == "none" else SECRET * 2
    token = jwt.encode(good(), key, algorithm=algorithm)
    assert "algorithm" in str(refusal(token))


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"HS256","crit":["exp"],"exp":1}',
        b'{"alg":"HS256","b64":false,"crit":["b64"]}',
        b'{"alg":"HS256","typ":"at+jwt"}',
        b'{"alg":"hs256"}',
        b'{"alg":null}',
        b'{"typ":"JWT"}',
        b"[]",
        b"\xff",
        b"",
        b"[" * 3000,
    ],
)
def test_verify_when_header_is_odd_then_refused(header: bytes) -> None:
    refusal(signed_raw(json.dumps(good()).encode(), header))


def test_verify_when_stripped_of_signature_then_refused() -> None:
    header, payload, _ = encode(good()).split(".")
    refusal(f"{header}.{payload}.")


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b.c", "a.b.c.d", "æ.b.c", "\ud800", "a b.c.d", "x" * 9000, "=.=.=", "\0.\0.\0"],
)
def test_verify_when_no_token_at_all_then_refused(token: str) -> None:
    refusal(token)


def test_verify_when_one_bit_differs_in_spelling_then_refused() -> None:
    """Base64 leaves bits over at a segment's end; another spelling of the same bytes is no token."""
    token = encode(good())
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    assert "base64url" in str(refusal(token[:-1] + alphabet[last ^ 1]))
    refusal(token + "=")


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"exp": NOW_S + 60}, "sub is missing"),
        ({"sub": "alice"}, "exp is missing"),
        (good(sub=""), "sub"),
        (good(sub="x" * 129), "sub"),
        (good(sub="é" * 65), "sub"),
        (good(sub=17), "sub"),
        (good(sub=None), "sub"),
        (good(sub=["alice"]), "sub"),
        (good(sub="a\nb"), "control"),
        (good(sub="a\x00"), "control"),
        (good(sub="a\x7f"), "control"),
        (good(sub="a\x9f"), "control"),
        (good(device=1), "device"),
        (good(device=""), "device"),
        (good(device="d" * 129), "device"),
        (good(jti=5), "jti"),
        (good(tier="gold"), "tier"),
        (good(tier=1), "tier"),
        (good(scope="a"), "scope"),
        (good(scope=[1]), "scope"),
        (good(scope=[""]), "scope"),
        (good(scope=["s"] * 65), "scope"),
        (good(**{"class": "fridge"}), "class"),
        (good(exp="soon"), "exp"),
        (good(exp=True), "exp"),
        (good(exp=None), "exp"),
        (good(exp=10**30), "exp"),
        (good(nbf="x"), "nbf"),
        (good(iat=[]), "iat"),
    ],
)
def test_verify_when_a_claim_is_wrong_then_the_reason_names_it(claims: dict[str, Any], word: str) -> None:
    token = signed_raw(json.dumps(claims).encode())
    assert word in str(refusal(token))


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b"null",
        b'"x"',
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 4000,
        b'{"sub":"\\ud800","exp":1}',
        b'{"sub":"\xff"}',
    ],
)
def test_verify_when_payload_is_no_claims_then_refused(payload: bytes) -> None:
    refusal(signed_raw(payload))


def test_verify_when_sub_is_128_bytes_then_accepted() -> None:
    assert verify(encode(good(sub="é" * 64))).user == "é" * 64


@pytest.mark.parametrize(
    ("claims", "now_s", "ok"),
    [
        (good(exp=NOW_S), NOW_S + 9.9, True),
        (good(exp=NOW_S), NOW_S + 10, False),
        (good(exp=NOW_S + 0.5), NOW_S, True),
        (good(nbf=NOW_S + 10), NOW_S, True),
        (good(nbf=NOW_S + 11), NOW_S, False),
        (good(iat=NOW_S + 10), NOW_S, True),
        (good(iat=NOW_S + 11), NOW_S, False),
    ],
)
def test_verify_when_at_the_edge_of_the_leeway_then_as_specified(
    claims: dict[str, Any], now_s: float, ok: bool
) -> None:
    token = encode(claims)
    if ok:
        verify(token, now_s)
    else:
        error = refusal(token, now_s)
        assert error.expired is ("exp" in str(error) or "expired" in str(error))


def test_verify_when_headers_vary_without_end_then_the_memory_of_them_is_bounded() -> None:
    verifier = TokenVerifier([SECRET])
    for number in range(100):
        verifier.verify(encode(good(), headers={"kid": str(number)}), NOW_S)
    assert len(verifier._headers) <= 16


@given(st.binary(max_size=200))
def test_verify_when_payload_is_arbitrary_then_only_token_errors(payload: bytes) -> None:
    with pytest.raises(TokenError):
        verify(signed_raw(payload))


@given(st.text(max_size=300))
def test_verify_when_text_is_arbitrary_then_only_token_errors(text: str) -> None:
    with pytest.raises(TokenError):
        verify(text)


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("", {}),
        ("x" * 129, {}),
        ("a\nb", {}),
        ("\ud800", {}),
        ("a", {"device": ""}),
        ("a", {"tier": "gold"}),
        ("a", {"device_class": "fridge"}),
        ("a", {"scope": [""]}),
        ("a", {"jti": "\0"}),
    ],
)
def test_issue_when_a_claim_is_wrong_then_value_error(user: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        issue(SECRET, user, now_s=NOW_S, **options)


@pytest.mark.parametrize(
    "secrets", [[], [b""], [SECRET, b"-----BEGIN PUBLIC KEY-----\nxx\n-----END PUBLIC KEY-----"]]
)
def test_verifier_when_secrets_are_unusable_then_config_error(secrets: list[bytes]) -> None:
    with pytest.raises(ConfigError) as caught:
        TokenVerifier(secrets)
    assert caught.value.setting == "auth.secrets"
