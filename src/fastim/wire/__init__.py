"""Sans-I/O encodings of the same events: bytes in, values out, and back."""
