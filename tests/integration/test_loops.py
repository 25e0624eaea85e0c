"""The loops of a service look when something was committed, and rest between two looks."""

import asyncio
from pathlib import Path

import pytest

from shared.service import REST_SECONDS
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
