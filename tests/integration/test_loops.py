"""The loops of a service look when something was committed, and rest between two looks."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from shared.messaging.bus import Message, Subscription
from shared.messaging.kafka import KafkaBus
from shared.service import LONGEST_REST_SECONDS, REST_SECONDS
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

    with Registry(tmp_path) as registry:
        registry.service.rest_s = 2 * REST_SECONDS
        with pytest.raises(asyncio.CancelledError):
            registry._runner.run(registry.service._repeat("look", look))
    assert looks[-1] - looks[0] >= 5.8 * REST_SECONDS


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


class Watched:
    """A registry whose looks at what is due are counted; each takes as long as it is told, and may meet something."""

    def __init__(self, registry: Registry) -> None:
        self.service = registry.service
        self.looks = 0
        self.took = timedelta(0)
        self.meets: Callable[[], None] = lambda: None
        self._clock = registry.clock
        self._read = self.service.core.read
        self.service.core.read = self._counted  # type: ignore[method-assign]

    async def _counted(self, ask: Callable[[sa.Connection], Any]) -> Any:
        self.looks += 1
        found = await self._read(ask)
        self._clock.advance(self.took)
        self.meets()
        return found

    async def duties(self) -> list[bool | BaseException]:
        """What each duty's loop gets when all are woken together."""
        steps = map(self.service._when_due, self.service.duties)
        return await asyncio.gather(*steps, return_exceptions=True)


@pytest.mark.parametrize(
    ("took", "rest"), [(0.001, REST_SECONDS), (0.004, 0.08), (0.1, LONGEST_REST_SECONDS)]
)
def test_loops_rest_longer_when_a_look_takes_long(tmp_path: Path, took: float, rest: float) -> None:
    """By what a look took, within bounds."""
    with Registry(tmp_path) as registry:
        watched = Watched(registry)
        watched.took = timedelta(seconds=took)
        registry._runner.run(watched.duties())
        assert watched.service.rest_s == pytest.approx(rest)


def test_duties_that_are_woken_together_look_once(tmp_path: Path) -> None:
    """One snapshot answers them all; whoever asks while it is read may know of something newer, and looks again."""
    later: list[asyncio.Future[list[bool | BaseException]]] = []

    async def run() -> None:
        watched.meets = lambda: later or later.append(asyncio.ensure_future(watched.duties()))  # type: ignore[func-returns-value]
        assert await watched.duties() == [False, False]
        assert await later[0] == [False, False]

    with Registry(tmp_path, participations_mode="batch") as registry:
        watched = Watched(registry)
        registry._runner.run(run())
    assert watched.looks == 2


def test_a_duty_that_can_not_say_when_it_is_due_stops_no_other(tmp_path: Path) -> None:
    """Its own loop fails, and is shown as failing."""

    def defect(_db: sa.Connection, _now: datetime) -> None:
        raise PermissionError("no folder")

    with Registry(tmp_path, participations_mode="batch") as registry:
        watched = Watched(registry)
        first, second = watched.service.duties
        watched.service.duties = (replace(first, next_due=defect), second)
        error, other = registry._runner.run(watched.duties())
    assert isinstance(error, PermissionError)
    assert other is False
