"""Fixtures of the hub's tests."""

from collections.abc import Callable, Iterator

import pytest

from tests.engines.hub_rig import Rig


@pytest.fixture(params=["epoll", "fed"])
def make_rig(request: pytest.FixtureRequest) -> Iterator[Callable[..., Rig]]:
    """Makes hubs over each of the two drivers."""
    rigs: list[Rig] = []

    def make(**options: object) -> Rig:
        rigs.append(Rig(request.param, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.end()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()
