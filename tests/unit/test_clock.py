"""Business time: frozen for tests, simulated for the demo, durable over a kill."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest

from shared.clock import ZONE, FrozenClock, SimulatedClock, start_of, today

START = datetime(2026, 1, 5, 10, tzinfo=ZONE)


def test_a_frozen_clock_moves_only_when_told_and_only_forward() -> None:
    """All three times move together."""
    clock = FrozenClock(START)
    assert clock.now() == clock.wall() == START
    clock.advance(timedelta(hours=1))
    assert (clock.now() - START, clock.monotonic()) == (timedelta(hours=1), 3600.0)
    clock.move_to(START)
    assert clock.now() == START + timedelta(hours=1)
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(timedelta(seconds=-1))


def test_a_simulated_clock_begins_at_its_start_and_ticks(tmp_path: Path) -> None:
    """Whatever the real date is, the first reading is the start."""
    clock = SimulatedClock(tmp_path / "clock.json", start=START)
    first, second = clock.now(), clock.now()
    assert START <= first <= second < START + timedelta(seconds=30)


def test_a_jump_is_seen_by_every_process_and_survives(tmp_path: Path) -> None:
    """Another clock on the same file, open before or after the jump, shows the same time."""
    file = tmp_path / "clock.json"
    one = SimulatedClock(file, start=START)
    two = SimulatedClock(file, start=START + timedelta(days=99))
    assert two.now() < START + timedelta(minutes=1)
    one.move_to(START + timedelta(days=31))
    later = SimulatedClock(file, start=START)
    for clock in (one, two, later):
        assert timedelta(days=31) <= clock.now() - START < timedelta(days=31, minutes=1)


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    """One of them makes the file, and nobody falls over the others or sees another time before."""
    for number in range(10):
        file, together = tmp_path / f"{number}" / "clock.json", Barrier(16)

        def day(n: int, file: Path = file, together: Barrier = together) -> int:
            together.wait()
            return (SimulatedClock(file, start=START + timedelta(days=n)).now() - START).days

        with ThreadPoolExecutor(together.parties) as threads:
            assert len(set(threads.map(day, range(together.parties)))) == 1
        assert [one.name for one in file.parent.iterdir()] == ["clock.json"]


def test_a_jump_backwards_changes_nothing(tmp_path: Path) -> None:
    """Time only goes forward."""
    clock = SimulatedClock(tmp_path / "clock.json", start=START)
    clock.move_to(START + timedelta(days=2))
    clock.move_to(START)
    assert clock.now() >= START + timedelta(days=2)


def test_the_day_is_shanghais_day() -> None:
    """16:30 UTC is already tomorrow in Shanghai."""
    late = datetime.fromisoformat("2026-02-09T16:30:00+00:00")
    assert today(late) == date(2026, 2, 10)
    assert start_of(date(2026, 2, 10)) == datetime.fromisoformat("2026-02-09T16:00:00+00:00")
