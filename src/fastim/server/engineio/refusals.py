"""What Engine.IO answers to a request that it does not take."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Final

from fastim.server.front.handshake import Refusal

__all__ = ["EngineError", "EngineRefusal"]


class EngineError(IntEnum):
    """The protocol's errors, as clients are told them."""

    UNKNOWN_TRANSPORT = 0
    UNKNOWN_SID = 1
    BAD_HANDSHAKE_METHOD = 2
    BAD_REQUEST = 3
    FORBIDDEN = 4
    UNSUPPORTED_VERSION = 5


MESSAGES: Final = {
    EngineError.UNKNOWN_TRANSPORT: "Transport unknown",
    EngineError.UNKNOWN_SID: "Session ID unknown",
    EngineError.BAD_HANDSHAKE_METHOD: "Bad handshake method",
    EngineError.BAD_REQUEST: "Bad request",
    EngineError.FORBIDDEN: "Forbidden",
    EngineError.UNSUPPORTED_VERSION: "Unsupported protocol version",
}


class EngineRefusal(Refusal):
    """A request that gets one of the protocol's errors.

    Args:
        code: Which.
        message: What is told; None: what the protocol has for the code.
    """

    def __init__(self, code: EngineError, message: str | None = None) -> None:
        super().__init__(403 if code is EngineError.FORBIDDEN else 400, message or MESSAGES[code])
        self.code = code

    def body(self) -> tuple[str, bytes]:
        content = {"code": int(self.code), "message": self.detail}
        return "application/json", json.dumps(content, separators=(",", ":")).encode()
