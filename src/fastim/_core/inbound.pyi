"""The receiving half of a connection: frames of RFC 6455 to messages and control frames."""

class FrameReader:
    """The receiving half alone, for tests and tools: bytes in, tuples out."""

    def __init__(
        self, *, max_message_bytes: int = 102_400, max_fragments: int = 0, deflate: bool = False
    ) -> None: ...
    def receive_data(self, data: bytes) -> list[tuple[object, ...]]: ...
    @property
    def idle(self) -> bool: ...
