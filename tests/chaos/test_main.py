"""The story comes true through deaths: at named points on PostgreSQL and Kafka, at random in the embedded suite."""

import signal
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from services.demo.city import END, START
from tests.chaos import embedded
from tests.chaos.harm import Harmed
from tests.chaos.judge import came_true, judge
from tests.chaos.main import counted
from tests.chaos.serve import DIES
from tests.chaos.telling import Telling, small_city
from tests.support.native import wait_until
from tests.support.stack import Process, Stack

FATES = {
    "in_time": 3,
    "enrols_before_sending": 5,
    "enrols_after_reminder": 3,
    "never_enrols": 6,
    "closed_before_sending": 1,
    "cancelled_after_deadline": 1,
    "no_phone": 1,
    "silent_phone": 1,
    "refused_phone": 1,
    "late_registered": 2,
    "late_registered_enrols": 1,
    "suspended_and_resumed": 1,
}
DEATHS: Mapping[str, Sequence[str]] = {
    "registry-1": (
        "unit written, not committed:1",
        "published, not marked:1",
        "participation written, not committed:2",
        "committed, not published:2",
    ),
    "matching-1": (
        "handled, offset not committed:2",
        "inbox written, not committed:2",
        "in the middle of writing lead:1",
        "published, not marked:2",
        "lead written, not committed:2",
    ),
    "notify-1": (
        "attempt written, not committed:1",
        "attempt committed, not submitted:1",
        "receipt written, not committed:1",
        "submitted, not recorded:1",
        "handled, offset not committed:2",
        "looked, no attempt yet:1",
    ),
    "targets-1": ("handled, offset not committed:3",),
    "sandbox": ("taken, not answered:3",),
}
SERVERS = (("database", 0.35), ("broker", 0.6))
"""Which server is killed, when so much of the story is told."""


class Mortals:
    """Processes that kill themselves at one point after the other, and are started again."""

    def __init__(self, deaths: Mapping[str, Sequence[str]]) -> None:
        self.left = {name: list(points) for name, points in deaths.items()}

    def arm(self, stack: Stack) -> None:
        """Gives every process its first point."""
        for process in stack.all:
            process.program = ("tests.chaos.serve",)
            process.settings[DIES] = next(iter(self.left.get(process.folder.name, ())), "")

    def tend(self, harmed: Harmed) -> None:
        """Starts what has died, with its next point."""
        for process in harmed.stack.all:
            if process.process.poll() is None:
                continue
            assert process.process.returncode == -signal.SIGKILL, process.folder / "server.log"
            points = self.left[process.folder.name]
            point = points.pop(0).rpartition(":")[0]
            process.settings[DIES] = next(iter(points), "")
            harmed.note_death(process.folder.name, point, partial(_begin_again, process))


def _begin_again(process: Process) -> None:
    """Starts it and waits until it answers, or has come to its next point even before that."""

    def died() -> bool:
        return process.process.poll() == -signal.SIGKILL

    process.launch()
    wait_until(
        lambda: died() or process.answers(),
        f"{process.folder.name} is up",
        alive=lambda: died() or process.process.poll() is None,
    )


def test_the_story_comes_true_through_deaths_at_named_points(tmp_path: Path) -> None:
    """Between insert and commit, commit and relay, publish and mark, submit and record …: no loss, no double."""
    mortals, servers = Mortals(DEATHS), list(SERVERS)
    with Harmed(tmp_path, prepare=mortals.arm) as harmed:
        driver = Telling(harmed.stack.addresses(), harmed.stack.token, harmed.folder, small_city(FATES))
        driver.start()
        while driver.is_alive():
            mortals.tend(harmed)
            told = (harmed.clock.now() - START) / (END - START)
            if servers and told >= servers[0][1] and harmed.kill(servers[0][0]):
                servers.pop(0)
            driver.join(0.02)
        driver.finish()
        mortals.tend(harmed)
        for harm in harmed.log:
            print(harm)
        figures = {**judge(harmed.evidence(), Console(width=200)), **counted(harmed)}
    print(figures)
    assert not any(mortals.left.values()), "points that were never reached"
    assert not servers
    assert came_true(figures, kills=12)


def test_the_story_comes_true_through_ten_deaths(tmp_path: Path) -> None:
    """Embedded: nothing lost, nothing doubled, nothing after an enrolment; every death had work in flight."""
    figures = embedded.run(tmp_path / "suite", kills=10, seed=7, console=Console())
    print(figures)
    assert figures["registered"] > 400
    assert came_true(figures, kills=10)
