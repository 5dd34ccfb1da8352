"""What a server under pressure does, step by step; the readings are the test's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastim.guard.pressure import PressurePolicy, Step
from fastim.guard.tokens import issue
from fastim.server.process.memory import memory_limit_bytes, read_limit, resident_bytes
from fastim.server.process.pressure import Relief, ReliefOptions
from tests.unit.server.fed_service import SECRET, Peer, World, running

POLICY = PressurePolicy(memory_bytes=1_000, rise_ns=0, fall_ns=0)


class Pressed:
    """A world whose memory a test fills."""

    def __init__(self, world: World, leave_s: float) -> None:
        self.world = world
        self.memory_bytes = 0
        self.relief = world.service.relief = Relief(
            world.service, POLICY, ReliefOptions(leave_s, 30_000), lambda: self.memory_bytes
        )

    def look(self, memory_bytes: int) -> Step:
        self.memory_bytes = memory_bytes
        self.relief.look(0, self.world.ns)
        return self.relief.step

    async def come(self, user: str, tier: str) -> tuple[Peer, list[Any]]:
        peer = Peer(self.world)
        token = issue(SECRET, user, tier=tier, now_s=self.world.time_s())
        peer.send("hello", {"token": token}, 1)
        return peer, await peer.receive()


async def test_degraded_tier_when_under_pressure_then_it_leaves_in_even_parts_the_idlest_first(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as world:
        pressed = Pressed(world, leave_s=1.0)  # four looks
        standard, _ = await pressed.come("s", "standard")
        peers = [(await pressed.come(f"u{number}", "degraded"))[0] for number in range(8)]
        assert pressed.look(999) is Step.NONE
        for turn in range(4):
            pressed.look(1_000)
            codes = [peer.close_code for peer in peers]
            assert codes == [4012] * (2 * turn + 2) + [None] * (6 - 2 * turn)
        pauses_ms = [body["retry_after_ms"] for peer in peers for event, body, *_ in peer.packets]
        assert len(pauses_ms) == 8
        assert all(30_000 <= pause_ms <= 60_000 for pause_ms in pauses_ms)
        assert len(set(pauses_ms)) > 1  # spread: they do not come back together
        assert {event for peer in peers for event, *_ in peer.packets} == {"server_shutdown"}
        assert standard.close_code is None
        assert pressed.relief.stats()["sent_off_total"] == 8


async def test_degraded_tier_when_the_pressure_ends_before_all_have_left_then_the_rest_stays(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as world:
        pressed = Pressed(world, leave_s=1.0)
        peers = [(await pressed.come(f"u{number}", "degraded"))[0] for number in range(8)]
        pressed.look(1_000)
        pressed.look(0)
        for _ in range(5):
            assert pressed.look(0) is Step.NONE
        assert [peer.close_code for peer in peers].count(None) == 6
        _, (event, body, _) = await pressed.come("u9", "degraded")
        assert (event, body["tier"]) == ("ok", "degraded")


async def test_hello_when_it_would_be_degraded_under_pressure_then_4012_and_later(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        pressed = Pressed(world, leave_s=0.0)
        pressed.look(1_000)
        peer, (event, error, _) = await pressed.come("u", "degraded")
        assert (event, error["code"]) == ("error", "unavailable")
        assert 30_000 <= error["retry_after_ms"] <= 60_000
        assert peer.close_code == 4012
        _, (event, _, _) = await pressed.come("u", "standard")
        assert event == "ok"


async def test_steps_when_they_are_taken_then_metrics_and_log_say_which_and_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fastim.pressure")
    async with running(tmp_path) as world:
        pressed = Pressed(world, leave_s=1.0)
        for memory_bytes, step in [(1_500, 1), (1_500, 2), (1_500, 3), (1_500, 3), (900, 3), (0, 2), (0, 1)]:
            assert pressed.look(memory_bytes) == step
            assert pressed.relief.stats()["step"] == step
            assert pressed.relief.stats()["memory_percent"] == memory_bytes // 10
            assert bool(pressed.relief.reason) == (step == 3)
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == pressed.relief.stats()["changes_total"] == 5
        assert lines[2].startswith("pressure: step 3, new connections are refused; was 2, because of memory")
        assert "memory 0 MiB, 150 %" in lines[2]
        assert lines[4].startswith("pressure: step 1, the degraded tier is told to come back later; was 2")


def test_memory_when_read_then_what_the_process_holds_and_no_more_than_there_is(tmp_path: Path) -> None:
    held = resident_bytes()
    assert 1 << 20 < held < memory_limit_bytes()
    assert memory_limit_bytes() > 1 << 26
    limit = tmp_path / "memory.max"
    assert read_limit(limit) == 0
    for text, number in [("max\n", 0), ("1048576\n", 1_048_576)]:
        limit.write_text(text)
        assert read_limit(limit) == number
