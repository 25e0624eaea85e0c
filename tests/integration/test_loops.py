"""The loops of a service look when something was committed, and rest between two looks."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.messaging.bus import Message, Subscription
from shared.messaging.kafka import KafkaBus
from shared.service import REST_SECONDS
from tests.support.native import free_port
from tests.support.registry import Registry


def test_a_loop_that_is_woken_without_end_rests_between_two_looks(tmp_path: Path) -> None:
    """Under load a look for each commit would cost as much as the commits. The first one comes at once."""
    looks: list[float] = []

    async def look() -> bool:
        looks.append(asyncio.get_running_loop().time())
        registry.service.core.wake()
        if len(looks) == 4:
            raise asyncio.CancelledError
        return False

    with Registry(tmp_path) as registry, pytest.raises(asyncio.CancelledError):
        registry._runner.run(registry.service._repeat("look", look))
    assert looks[-1] - looks[0] >= 2.9 * REST_SECONDS


def test_a_loop_that_has_more_to_do_does_not_rest(tmp_path: Path) -> None:
    """Portion after portion, until nothing is left."""
    looks: list[float] = []

    async def look() -> bool:
        looks.append(asyncio.get_running_loop().time())
        if len(looks) == 500:
            raise asyncio.CancelledError
        return True

    with Registry(tmp_path) as registry, pytest.raises(asyncio.CancelledError):
        registry._runner.run(registry.service._repeat("look", look))
    assert looks[-1] - looks[0] < 100 * REST_SECONDS


def test_a_service_whose_broker_is_away_is_not_quiet(tmp_path: Path) -> None:
    """Nobody knows what waits behind it; whoever drives the clock has to wait, not to give up."""

    async def receive(_batch: Sequence[Message]) -> None:
        raise AssertionError("nothing can come")

    with Registry(tmp_path, participations_mode="batch") as registry:
        assert registry._runner.run(registry.service.quiet()) == (True, None)
        registry.service.bus = KafkaBus(f"127.0.0.1:{free_port()}")
        registry.service.bus.subscribe(Subscription("registry", ("matching",), receive))
        assert registry._runner.run(registry.service.quiet()) == (False, None)
