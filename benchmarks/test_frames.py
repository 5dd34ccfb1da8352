"""Frames in C beside their readable twins."""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastim._core import frames, inbound
from tests.reference import frames as reference

KEY = b"\x0a\xb1\x0c\xd3"
SMALL_FRAMES = b"".join(
    reference.encode_frame(reference.TEXT, b'["echo",{"n":%d},1]' % i, key=KEY) for i in range(100)
)
TEXT = ("Es grüßt die Welt, und κόσμος antwortet. " * 100).encode()


@pytest.mark.parametrize("reader", [inbound.FrameReader, reference.FrameReader], ids=["core", "twin"])
def test_parse_100_small_frames(benchmark: BenchmarkFixture, reader: type[inbound.FrameReader]) -> None:
    benchmark.group = "parse 100 frames of 20 bytes"
    items = benchmark(lambda: reader().receive_data(SMALL_FRAMES))
    assert len(items) == 100


@pytest.mark.parametrize("apply_mask", [frames.apply_mask, reference.apply_mask], ids=["core", "twin"])
def test_unmask_16_kib(benchmark: BenchmarkFixture, apply_mask: Callable[[bytes, bytes], bytes]) -> None:
    benchmark.group = "unmask 16 KiB"
    assert len(benchmark(apply_mask, bytes(16_384), KEY)) == 16_384


@pytest.mark.parametrize("data", [b"a" * 4_096, TEXT], ids=["ascii", "mixed"])
@pytest.mark.parametrize(
    "check",
    [lambda data: frames.utf8_state(data) == 0, reference.is_utf8],
    ids=["core", "twin"],
)
def test_utf8_4_kib(benchmark: BenchmarkFixture, check: Callable[[bytes], bool], data: bytes) -> None:
    benchmark.group = f"UTF-8 of {len(data)} bytes, {'ASCII' if data.isascii() else 'mixed'}"
    assert benchmark(check, data)
