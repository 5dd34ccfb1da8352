"""What a client's calls raise besides ``RequestError``, which is the server's own answer."""

from __future__ import annotations

from fastim.errors import FastimError

__all__ = ["CallTimeout", "ClientError", "ConnectionClosed", "ConnectionLost"]


class ClientError(FastimError):
    """The root of the errors that are made on the client's side."""


class ConnectionClosed(ClientError):
    """The connection is over for good: closed by the caller, or by the server not to be opened again.

    Args:
        code: The close code; 1000 if the caller closed it.
        reason: The server's reason, or ours.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"closed with {code}{f': {reason}' if reason else ''}")
        self.code = code
        self.reason = reason


class ConnectionLost(ClientError):
    """The connection broke while a call was on its way: it is not known whether the call was carried out.

    Args:
        code: The close code, or 1006 where there was none.
        reason: Why, in a few words.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason or f"the connection was lost ({code})")
        self.code = code
        self.reason = reason


class CallTimeout(ClientError, TimeoutError):
    """No answer came in time: it is not known whether the call was carried out.

    Args:
        event: The event that was asked.
        client_id: A message's ``client_id``: sending it again with this one stores it at most once.
    """

    def __init__(self, event: str, client_id: str | None = None) -> None:
        super().__init__(f"no answer to {event} in time")
        self.event = event
        self.client_id = client_id
