"""JSON Web Tokens (RFC 7519), HS256 only: what a token must say, and how one is made.

Signing and checking are PyJWT's; taking the token apart is ours, because ``PyJWS.decode`` costs more than all
of this together (it walks each segment character by character, and does so again for every key of a
rotation). Base64 is read strictly: one token has one spelling (RFC 7515, section 2).
"""

from __future__ import annotations

import binascii
import time
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, NoReturn

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm

from fastim.errors import ConfigError, ErrorCode, RequestError

__all__ = [
    "MAX_TOKEN_BYTES",
    "Claims",
    "DeviceClass",
    "Tier",
    "TokenError",
    "TokenVerifier",
    "from_base64url",
    "issue",
    "to_base64url",
]

MAX_TOKEN_BYTES: Final = 8192
MAX_NAME_BYTES: Final = 128
MAX_SCOPES: Final = 64
MAX_TIME: Final = 1 << 53  # seconds; a float beyond it is no exact integer any more
KNOWN_HEADERS: Final = 16  # different spellings of a good header that are remembered


class Tier(StrEnum):
    CRITICAL = "critical"
    STANDARD = "standard"
    DEGRADED = "degraded"


class DeviceClass(StrEnum):
    DESKTOP = "desktop"
    MOBILE = "mobile"
    WEB = "web"


class TokenError(RequestError):
    """A token is refused; the message says why and never holds a part of the token.

    Args:
        reason: Why, in a few words.
        expired: The only fault is that its time is over; a new one is welcome (close code 4002).
    """

    def __init__(self, reason: str, *, expired: bool = False) -> None:
        super().__init__(ErrorCode.UNAUTHORIZED, f"token refused: {reason}")
        self.expired = expired


class Claims(msgspec.Struct, frozen=True, gc=False):
    """What a verified token says.

    Attributes:
        user: ``sub``; 1 to 128 bytes of UTF-8 without control characters.
        device: None where the token names none.
        device_class: ``class``; None where the token names none.
        scope: Names of what its bearer may do besides.
        exp: Seconds since the epoch; the token is refused ``leeway_s`` after it.
        jti: The token's id, or None.
        iat: When it was issued, seconds since the epoch; None where it does not say.
    """

    user: str
    device: str | None
    device_class: DeviceClass | None
    tier: Tier
    scope: frozenset[str]
    exp: int
    jti: str | None
    iat: int | None = None


class _Header(msgspec.Struct):
    alg: str
    typ: str | None = None
    crit: msgspec.Raw = msgspec.Raw(b"")
    b64: msgspec.Raw = msgspec.Raw(b"")


class _Payload(msgspec.Struct):
    """The claims as they are on the wire; others are ignored."""

    sub: str
    exp: int | float
    iat: int | float | None = None
    nbf: int | float | None = None
    jti: str | None = None
    device: str | None = None
    device_class: DeviceClass | None = msgspec.field(default=None, name="class")
    tier: Tier = Tier.STANDARD
    scope: list[str] = []


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_payload = msgspec.json.Decoder(_Payload).decode
_NO_SCOPE: Final[frozenset[str]] = frozenset()


class TokenVerifier:
    """Checks tokens against the server's secrets.

    Args:
        secrets: At least one; a token signed with any of them is good. The first is the one that signs.
        leeway_s: Difference of clocks that is forgiven, in seconds. 0: none.

    Raises:
        ConfigError: There is no secret, or one that must not be used with HS256 (a key pair's half, a JWK).
    """

    __slots__ = ("_headers", "_hmac", "_keys", "_leeway_s")

    def __init__(self, secrets: Sequence[bytes], leeway_s: float = 10) -> None:
        if not secrets:
            raise ConfigError("auth.secrets", "there is none")
        self._hmac = _algorithm()
        self._keys = tuple(_prepared(self._hmac, secret) for secret in secrets)
        self._leeway_s = leeway_s
        self._headers: set[bytes] = set()

    def verify(self, token: str, now_s: float) -> Claims:
        """Return what the token says.

        Args:
            token: The compact form, three segments.
            now_s: The time, in seconds since the epoch.

        Raises:
            TokenError: It is refused.

        **Cost**: one SHA-256 HMAC per secret tried and one pass over the token; see ``make bench``.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenError("it is too long")
        try:
            header, payload, signature = token.encode("ascii").split(b".")
        except ValueError:  # UnicodeEncodeError is one
            raise TokenError("it is no JSON Web Token") from None
        known = header in self._headers
        if not known:
            check_header(header)
        given = from_base64url(signature, "signature")
        signed = header + b"." + payload
        for key in self._keys:
            if self._hmac.verify(signed, key, given):
                break
        else:
            raise TokenError("its signature does not match")
        if not known and len(self._headers) < KNOWN_HEADERS:
            self._headers.add(header)  # only now: strangers must not fill the set
        return self._claims(from_base64url(payload, "payload"), now_s)

    def _claims(self, payload: bytes, now_s: float) -> Claims:
        try:
            claims = _decode_payload(payload)
        except msgspec.ValidationError as error:
            raise TokenError(_field_reason(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise TokenError("its claims cannot be read") from None
        check_times(claims, now_s, self._leeway_s)
        reason = (
            name_fault("sub", claims.sub)
            or (claims.device is not None and name_fault("device", claims.device))
            or (claims.jti is not None and name_fault("jti", claims.jti))
            or (claims.scope and scope_fault(claims.scope))
        )
        if reason:
            raise TokenError(reason)
        return Claims(
            claims.sub,
            claims.device,
            claims.device_class,
            claims.tier,
            frozenset(claims.scope) if claims.scope else _NO_SCOPE,
            int(claims.exp),
            claims.jti,
            None if claims.iat is None else int(claims.iat),
        )


def issue(
    secret: bytes,
    user: str,
    device: str | None = None,
    tier: str = Tier.STANDARD,
    ttl_s: float = 3600,
    scope: Iterable[str] = (),
    *,
    device_class: str | None = None,
    jti: str | None = None,
    now_s: float | None = None,
) -> str:
    """Make a token.

    Args:
        secret: The secret that signs.
        user: 1 to 128 bytes of UTF-8 without control characters.
        device: Name of the device, by the same rules; None: the client chooses.
        ttl_s: How long it is good, in seconds. 0 or less: it is over already.
        scope: Names of what its bearer may do besides.
        jti: An id for the token; None: it has none.
        now_s: The time, in seconds since the epoch; None: the system's clock.

    Raises:
        ValueError: A claim breaks the rules that ``TokenVerifier`` checks.
        ConfigError: The secret cannot be used.
    """
    names = list(scope)
    for fault in (
        name_fault("sub", user),
        device is not None and name_fault("device", device),
        jti is not None and name_fault("jti", jti),
        scope_fault(names),
    ):
        if fault:
            raise ValueError(fault)
    now = int(time.time() if now_s is None else now_s)
    claims: dict[str, object] = {"sub": user, "iat": now, "exp": int(now + ttl_s)}
    if device is not None:
        claims["device"] = device
    if device_class is not None:
        claims["class"] = DeviceClass(device_class).value
    if Tier(tier) is not Tier.STANDARD:
        claims["tier"] = Tier(tier).value
    if names:
        claims["scope"] = names
    if jti is not None:
        claims["jti"] = jti
    algorithm = _algorithm()
    key = _prepared(algorithm, secret)
    signed = to_base64url(b'{"alg":"HS256","typ":"JWT"}') + b"." + to_base64url(msgspec.json.encode(claims))
    return (signed + b"." + to_base64url(algorithm.sign(signed, key))).decode("ascii")


def check_header(segment: bytes) -> None:
    """Refuse what is not HS256, or has extensions (RFC 7515, section 4.1.11)."""
    try:
        header = _decode_header(from_base64url(segment, "header"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TokenError("its header cannot be read") from None
    if header.alg != "HS256":
        raise TokenError("its algorithm is not HS256")
    if header.typ is not None and header.typ.upper() != "JWT":
        raise TokenError("its type is not JWT")
    if bytes(header.crit) or bytes(header.b64):
        raise TokenError("its header asks for extensions")


def check_times(claims: _Payload, now_s: float, leeway_s: float) -> None:
    """Refuse a token whose time is over or has not come (RFC 7519, sections 4.1.4 to 4.1.6)."""
    if not -MAX_TIME < claims.exp < MAX_TIME:
        raise TokenError("exp is out of range")
    if now_s >= claims.exp + leeway_s:
        raise TokenError("it has expired", expired=True)
    if claims.nbf is not None and claims.nbf > now_s + leeway_s:
        raise TokenError("it is not valid yet (nbf)")
    if claims.iat is not None and claims.iat > now_s + leeway_s:
        raise TokenError("it was issued in the future (iat)")


def name_fault(claim: str, name: str) -> str | None:
    """Return what is wrong with a user id or another name, or None."""
    if name.isascii():
        size = len(name)
    else:
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            return f"{claim} has a lone surrogate"
    if not 0 < size <= MAX_NAME_BYTES:
        return f"{claim} needs 1 to {MAX_NAME_BYTES} bytes"
    if not name.isprintable() and any(is_control(char) for char in name):
        return f"{claim} has control characters"
    return None


def is_control(char: str) -> bool:
    """Tell whether a character is one of Unicode's category Cc."""
    return char < " " or "\x7f" <= char <= "\x9f"


def scope_fault(names: Sequence[str]) -> str | None:
    if len(names) > MAX_SCOPES:
        return f"scope has more than {MAX_SCOPES} names"
    return next((fault for name in names if (fault := name_fault("scope", name))), None)


def _field_reason(message: str) -> str:
    """Turn msgspec's complaint into ours; of its text only the name of one of our claims gets through."""
    for claim in ("sub", "exp", "iat", "nbf", "jti", "device", "class", "tier", "scope"):
        if f"$.{claim}`" in message or f"$.{claim}[" in message:
            return f"{claim} has a wrong type or value"
        if f"required field `{claim}`" in message:
            return f"{claim} is missing"
    return "its claims are no JSON object"


def _algorithm() -> HMACAlgorithm:
    algorithm = jwt.PyJWS(algorithms=["HS256"]).get_algorithm_by_name("HS256")
    assert isinstance(algorithm, HMACAlgorithm)
    return algorithm


def _prepared(algorithm: HMACAlgorithm, secret: bytes) -> bytes:
    """Let PyJWT judge the secret: it refuses empty ones, PEM, SSH and JWK texts."""
    try:
        return algorithm.prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ConfigError("auth.secrets", "one of them is empty or a key of another kind") from None


def from_base64url(segment: bytes, what: str) -> bytes:
    """Decode strictly: the URL alphabet, no padding, no bits left over."""
    try:
        if b"+" in segment or b"/" in segment or b"=" in segment:
            _raise_encoding(what)
        padded = segment.translate(_TO_STANDARD) + b"==="[: -len(segment) % 4]
        data = binascii.a2b_base64(padded, strict_mode=True)
    except binascii.Error:
        _raise_encoding(what)
    if len(segment) % 4 and to_base64url(data[-(len(data) % 3) :]) != segment[-(len(segment) % 4) :]:
        _raise_encoding(what)
    return data


_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")


def to_base64url(data: bytes) -> bytes:
    """Encode with the URL alphabet, without padding."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL)


def _raise_encoding(what: str) -> NoReturn:
    raise TokenError(f"its {what} is no base64url")
