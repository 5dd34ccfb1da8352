"""Fixtures of the hub's tests."""

from collections.abc import Callable, Iterator

import pytest

from tests.engines.engine_rig import WAYS, EngineRig
from tests.engines.hub_rig import Rig

MakeRig = Callable[..., Rig]


def rigs_over(driver: str) -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(**options: object) -> Rig:
        rigs.append(Rig(driver, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.end()


@pytest.fixture(params=["epoll", "fed"])
def make_rig(request: pytest.FixtureRequest) -> Iterator[MakeRig]:
    """Makes hubs over each of the two drivers."""
    yield from rigs_over(request.param)


@pytest.fixture
def make_epoll() -> Iterator[MakeRig]:
    """Makes hubs over sockets."""
    yield from rigs_over("epoll")


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()


@pytest.fixture(params=WAYS)
def make_engine(request: pytest.FixtureRequest) -> Iterator[Callable[..., EngineRig]]:
    """Makes hubs whose clients speak Engine.IO, over each of the ways."""
    rigs: list[EngineRig] = []

    def make(**options: object) -> EngineRig:
        rigs.append(EngineRig(request.param, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.end()


@pytest.fixture
def engine(make_engine: Callable[..., EngineRig]) -> EngineRig:
    return make_engine()
