"""An HTTP request that is answered in the hub: no transport, no task and no ASGI cycle for it.

The front makes one for each request of a path that has an owner in ``Front.routes``. What cannot be served
raises ``Refusal``, which becomes the answer where the route, or what waits for the body, raises it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from fastim.server.front import handshake
from fastim.server.front.handshake import Head, Refusal

if TYPE_CHECKING:
    from fastim.server.front.front import Front

__all__ = ["TEXT", "HttpRequest"]

log = logging.getLogger("fastim.requests")

TEXT: Final = "text/plain; charset=UTF-8"
BODILESS: Final = frozenset({204, 304})  # RFC 9110, section 8.6: they have no length either
UNKNOWN: Final = -1  # length of a body that is told chunk by chunk

Header = tuple[str, str]

_FORGOTTEN: Final = Head(b"", b"", b"", b"", {})


class HttpRequest:
    """A request, its body and its answer.

    It has one answer: by ``reply`` or ``refuse``, or by the ``Refusal`` that is raised. One that does not
    come before the route returns needs ``hold``, or ``read_body``, first.

    **Lifetime**: of the head and its fields, until ``hold``; thousands of polls would keep theirs.

    Args:
        front: Where it came in.
        handle: Of its connection; the hub's.
        head: As parsed.
        peer: Address of who asks, behind the proxies.
        sender: Address of who sent it: a proxy's, or the same.

    Raises:
        Refusal: 400: it does not say where it ends, or says it twice; or it has no Host.

    Attributes:
        handle, head, peer: As above.
        method, path, query, fields: The head's.
        content_length: Size of the body as the head says, bytes; ``UNKNOWN`` if it is sent in chunks.
    """

    __slots__ = (
        "_front",
        "_keep",
        "_on_abort",
        "_sender",
        "_then",
        "_unread",
        "content_length",
        "fields",
        "handle",
        "head",
        "method",
        "path",
        "peer",
        "query",
    )

    def __init__(self, front: Front, handle: int, head: Head, peer: str, sender: str) -> None:
        if head.version == b"1.1" and b"host" not in head.fields:
            raise Refusal(400, "The header field Host is missing.")
        self._front = front
        self._sender = sender
        self.handle = handle
        self.head = head
        self.method, self.path, self.query, version, self.fields = head
        self.peer = peer
        self.content_length = handshake.content_length(head)
        self._keep = version == b"1.1" and not handshake.wants_close(head)
        self._unread = self.content_length != 0
        self._then: Callable[[HttpRequest, bytes], None] | None = None
        self._on_abort: Callable[[HttpRequest], None] | None = None

    def read_body(
        self,
        max_bytes: int,
        then: Callable[[HttpRequest, bytes], None],
        on_abort: Callable[[HttpRequest], None] | None = None,
    ) -> None:
        """Read the body, at once or when it has come; never if the client goes, or is too slow (408).

        Args:
            max_bytes: What it may have; 0: only an empty one.
            then: Called with the request and the body. It answers, or holds the request.
            on_abort: Called instead when the client goes, has gone, or is too slow; None: nobody minds.

        Raises:
            Refusal: 411 if it is sent in chunks, 413 if it is too large; nothing of it is kept then.
        """
        size = self.content_length
        if size == UNKNOWN:
            raise Refusal(411, "A request body needs a Content-Length.")
        if size > max_bytes:
            raise Refusal(413, f"The request body may have {max_bytes} bytes.")
        front = self._front
        # RFC 9110, section 10.1.1: a client of HTTP/1.0 is not told to go on, whatever it expects.
        expected = self.head.version == b"1.1" and self.fields.get(b"expect", b"").lower() == b"100-continue"
        body = front.hub.read_body(self.handle, size, self, front.body_deadline_ns(), expected=expected)
        if body is not None:
            self._unread = False
            then(self, body)
            return
        self._then = then
        self._on_abort = on_abort
        if front.hub.owner(self.handle) is not self:  # it has gone: no event will say so
            self.aborted()

    def hold(self, on_abort: Callable[[HttpRequest], None] | None = None) -> bool:
        """Let it wait for its answer, for as long as it takes.

        Args:
            on_abort: Called when the client goes before the answer; None: nobody minds. A client that shuts
                its write side has gone.

        Returns:
            False if it is gone already; ``on_abort`` is not called then.
        """
        self._on_abort = on_abort
        self.head, self.fields = _FORGOTTEN, _FORGOTTEN.fields
        return self._front.hub.hold(self.handle, self)

    def reply(
        self, status: int, body: bytes = b"", content_type: str = TEXT, headers: Iterable[Header] = ()
    ) -> bool:
        """Answer. The connection is kept for the next request where both sides want that.

        Args:
            status: Its HTTP status.
            body: Left out of the answer to a HEAD, of a 204 and of a 304.
            content_type: Of the body.
            headers: More header fields.

        Returns:
            False if the client has gone, or was answered already.

        Raises:
            ValueError: A header field would end before its end: it holds a CR or an LF.
        """
        front = self._front
        # What nobody reads of a body would be taken for the next request.
        keep = self._keep and not self._unread and front.keeps
        parts = [_begin(status, content_type, keep)]
        for name, value in headers:
            if "\n" in value or "\r" in value or "\n" in name or "\r" in name:
                raise ValueError("a header field must not hold a line break")
            parts.append(f"{name}: {value}\r\n".encode("latin-1"))
        if status in BODILESS:
            parts.append(b"\r\n")
        else:
            parts.append(b"Content-Length: %d\r\n\r\n" % len(body))
            if self.method != b"HEAD":
                parts.append(body)
        return self._answer(b"".join(parts), keep)

    def refuse(self, refusal: Refusal) -> bool:
        """Answer with a problem and close the connection; returns as ``reply`` does."""
        self._front.count(refusal)
        return self._answer(handshake.problem_response(refusal, self.method != b"HEAD"), False)

    def authenticated(self) -> None:
        """Say that it belongs to a known user: until the next request, its connection is not pending."""
        self._front.hub.authenticated(self.handle)

    def received(self, body: bytes) -> None:
        """Hand over the body that was waited for."""
        then, self._then = self._then, None
        self._on_abort = None
        self._unread = False
        if then is None:
            return
        try:
            then(self, body)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception:
            self.fail()

    def fail(self) -> None:
        """Answer for a mistake of ours, which is being handled."""
        log.exception("a request could not be served")
        self.refuse(Refusal(500, "The server made a mistake."))

    def aborted(self) -> None:
        """Tell whoever holds it that the client has gone."""
        self._then = None
        on_abort, self._on_abort = self._on_abort, None
        if on_abort is not None:
            on_abort(self)

    def _answer(self, response: bytes, keep: bool) -> bool:
        front = self._front
        self._then = self._on_abort = None
        answered = front.hub.reply(self.handle, response, keep, front.clock_ns())
        if keep and self.peer != self._sender:
            front.hub.set_peer(self.handle, self._sender)  # the next request may be another's
        return answered


@functools.lru_cache(maxsize=64)
def _begin(status: int, content_type: str, keep: bool) -> bytes:
    """Begin an answer's head with what does not depend on its body."""
    if "\n" in content_type or "\r" in content_type:
        raise ValueError("a content type must not hold a line break")
    lines = [f"HTTP/1.1 {status} {handshake.reason_of(status)}", "Cache-Control: no-store"]
    if status not in BODILESS:
        lines.append(f"Content-Type: {content_type}")
    if not keep:
        lines.append("Connection: close")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
