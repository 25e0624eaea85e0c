"""The loops of a service look when something was committed, and rest between two looks."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from shared.messaging.bus import Message, Subscription
from shared.messaging.kafka import KafkaBus
from shared.service import LOOK_SHARE, REST_SECONDS
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


def test_a_loop_whose_look_takes_long_rests_longer(tmp_path: Path) -> None:
    """Looking takes a twentieth of its time at most, when time is short; but it never rests for long."""

    def rest_after(took: float) -> float:
        looks: list[float] = []

        async def look() -> bool:
            looks.append(asyncio.get_running_loop().time())
            if len(looks) == 2:
                raise asyncio.CancelledError
            registry.clock.advance(timedelta(seconds=took))
            registry.service.core.wake()
            return False

        with pytest.raises(asyncio.CancelledError):
            registry._runner.run(registry.service._repeat("look", look))
        return looks[1] - looks[0] + took  # the clock stood still while the loop rested

    with Registry(tmp_path) as registry:
        rests = [rest_after(took) for took in (0.001, 0.006, 0.1)]
    assert [rest >= least for rest, least in zip(rests, (REST_SECONDS, 0.11, 0.49), strict=True)] == [
        True
    ] * 3
    assert rests[2] < 0.1 / LOOK_SHARE


def test_duties_that_are_woken_together_look_once(tmp_path: Path) -> None:
    """One snapshot answers them all; whoever asks later is told what was committed since."""
    looks = 0

    async def run() -> None:
        nonlocal looks
        service = registry.service
        read = service.core.read

        async def counted(ask: Callable[[sa.Connection], Any]) -> Any:
            nonlocal looks
            looks += 1
            return await read(ask)

        service.core.read = counted  # type: ignore[method-assign]
        assert len(service.duties) == 2
        for _ in range(2):
            assert await asyncio.gather(*map(service._when_due, service.duties)) == [False, False]

    with Registry(tmp_path, participations_mode="batch") as registry:
        registry._runner.run(run())
    assert looks == 2
