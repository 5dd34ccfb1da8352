"""Seals: texts that this server, or another of the same secret, has signed for one purpose."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from fastim.guard.tokens import TokenError, from_base64url, to_base64url

__all__ = ["Seal"]


class Seal:
    """Signs bytes, and checks them: HMAC with SHA-256 (RFC 2104), by keys derived from the secrets.

    Args:
        secrets: As the server's tokens have them: the first signs, all are accepted.
        purpose: What is sealed: a text of one purpose is none of another.
        signature_bytes: Kept of each signature, at most 32.
    """

    __slots__ = ("_keys", "_signature_bytes")

    def __init__(self, secrets: Sequence[bytes], purpose: bytes, signature_bytes: int = 32) -> None:
        self._keys = [hmac.digest(secret, purpose, hashlib.sha256) for secret in secrets]
        self._signature_bytes = signature_bytes

    def _signature(self, key: bytes, payload: bytes) -> bytes:
        return hmac.digest(key, payload, hashlib.sha256)[: self._signature_bytes]

    def sign(self, data: bytes) -> str:
        """Return data and their signature as text: ``<base64url>.<base64url>``."""
        payload = to_base64url(data)
        return (payload + b"." + to_base64url(self._signature(self._keys[0], payload))).decode("ascii")

    def open(self, text: str) -> bytes:
        """Return the data of a text, which is ASCII.

        Raises:
            TokenError: It was not signed here for this purpose.
        """
        payload, _, signature = text.encode("ascii").partition(b".")
        given = from_base64url(signature, "signature")
        if not any(hmac.compare_digest(self._signature(key, payload), given) for key in self._keys):
            raise TokenError("its signature does not match")
        return from_base64url(payload, "payload")
