"""Bans over a fed service: what holds beside what, and whom they end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fastim._core.addresses import AddressRanges
from fastim.guard.blocklist import ADDRESS, USER, BlockList
from fastim.server.entrance.bans import Bans
from tests.unit.server.fed_service import World, running


@asynccontextmanager
async def banning(folder: Path) -> AsyncIterator[tuple[World, Bans]]:
    async with running(folder) as world:
        blocklist = BlockList(AddressRanges())
        yield world, Bans(world.service, blocklist, world.store, lambda: int(world.time_s() * 1000))


@pytest.mark.parametrize(("kind", "subject"), [(ADDRESS, "192.0.2.9"), (USER, "mallory")])
async def test_ban_by_hand_when_the_same_is_banned_for_what_was_counted_then_it_stays(
    tmp_path: Path, kind: str, subject: str
) -> None:
    async with banning(tmp_path) as (world, bans):
        record, _ = await bans.ban(kind, subject, 0, "for good")
        bans.ban_automatically(kind, subject, 1, "counted")
        await world.store.flush()
        assert bans.records() == [record]
        assert [tuple(kept) for kept in await world.store.bans(0)] == [tuple(record)]
        world.ns += 2_000_000_000
        assert bans.records() == [record]


async def test_ban_by_hand_when_it_has_ended_then_what_is_counted_leads_to_another(tmp_path: Path) -> None:
    async with banning(tmp_path) as (world, bans):
        await bans.ban(USER, "mallory", 1, "")
        assert bans.stats()["users"] == 1
        world.ns += 2_000_000_000
        assert bans.stats()["users"] == 0
        bans.ban_automatically(USER, "mallory", 60, "counted")
        await world.turns()
        await world.store.flush()
        assert [record.source for record in bans.records()] == ["automatic"]
