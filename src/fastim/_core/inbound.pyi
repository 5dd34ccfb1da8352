"""The receiving half of a connection: frames of RFC 6455 to messages and control frames."""

from typing import final

@final
class FrameReader:
    """The receiving half alone, for tests and tools: bytes in, tuples out."""

    def __new__(
        cls, *, max_message_bytes: int = 102_400, max_fragments: int = 0, deflate: bool = False
    ) -> FrameReader: ...
    def receive_data(self, data: bytes) -> list[tuple[object, ...]]: ...
    @property
    def idle(self) -> bool: ...
