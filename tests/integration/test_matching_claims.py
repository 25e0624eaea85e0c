"""Several processes fire the clocks of one PostgreSQL database: each clock once, none waits, none is lost."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from services.matching import tables
from services.matching.app import build
from services.matching.commands import PORTION, advance_leads, look_at_clocks
from services.matching.domain import ClockState
from services.matching.handlers import take_started
from services.matching.settings import MatchingSettings
from services.matching.work import MatchingWork
from shared.events.registry import DataComplete, ParticipationStarted
from shared.messaging.consumer import Received
from shared.messaging.in_process import InProcessBus
from shared.privacy import KeyRing, Purpose
from shared.storage.committer import Committer
from shared.storage.database import Database
from shared.storage.work import Cause
from tests.support.matching import Matching, at, delivered, handed_over, registered, started
from tests.support.native import Postgres, wait_until

DUE = 3 * PORTION
USCCS = [f"unit-{n:05}" for n in range(DUE)]
DAY = at("2026-02-10", "00:00")


@pytest.fixture
def matching(postgres: Postgres) -> Iterator[Matching]:
    """So many clocks are due, and participations are complete."""
    made = Matching(postgres.new_database(), start=at("2026-01-12"))
    made.receive(*(made.message(registered(uscc=uscc)) for uscc in USCCS))
    made.tell(DataComplete(dataset="participations", through=date(2026, 2, 9)))
    made.clock.move_to(DAY)
    yield made
    made.close()


@contextmanager
def transaction(matching: Matching) -> Iterator[MatchingWork]:
    """One of several that run side by side."""
    with matching.database.write(keys=()) as db:
        work = matching.world.make_work(db)
        yield work
        work.flush()


def url_of(matching: Matching) -> str:
    return matching.database.url.render_as_string(hide_password=False)


def fire(matching: Matching) -> int:
    """What the duty of one process does, until it finds nothing; returns how many portions it took."""
    portions = 0
    while True:
        with transaction(matching) as work:
            if not look_at_clocks(work):
                return portions
        portions += 1


def opened(matching: Matching) -> list[str]:
    """The units of all leads; fails where outbox, history and audit do not hold the same."""
    usccs = sorted(row.uscc for row in matching.rows(tables.lead))
    assert sorted(row.subject for row in matching.rows(tables.PLUMBING.outbox)) == usccs
    for table, lead in ((tables.PLUMBING.audit, "subject"), (tables.lead_history, "lead_id")):
        assert sorted(getattr(row, lead) for row in matching.rows(table)) == [f"R01-{uscc}" for uscc in usccs]
    return usccs


def test_a_claim_passes_over_what_another_process_has_claimed(matching: Matching) -> None:
    """While one is in the middle of a portion, another fires all the rest without waiting for it."""
    with transaction(matching) as first:
        assert look_at_clocks(first)
        assert fire(matching) == DUE / PORTION - 1
        assert len(opened(matching)) == DUE - PORTION
    assert opened(matching) == USCCS


def test_the_duty_shares_the_database(matching: Matching, tmp_path: Path) -> None:
    """The running service fires what it can while another process is in the middle of a portion."""
    settings = MatchingSettings(mode="server", data_dir=tmp_path, database_url=url_of(matching))
    service = build(settings, bus=InProcessBus(), clock=matching.clock)

    async def fire_all() -> None:
        service.core.start()
        async with asyncio.timeout(20):
            while await service.duties[0].step():
                pass

    with transaction(matching) as first:
        assert look_at_clocks(first)
        asyncio.run(fire_all())
        assert len(opened(matching)) == DUE - PORTION
    service.core.stop()
    assert opened(matching) == USCCS


def test_two_committers_at_once_fire_every_clock_once(matching: Matching, tmp_path: Path) -> None:
    """Each has a thread and connections of its own, as two processes have."""
    keys = KeyRing.load_or_create(tmp_path / "keys").cipher(Purpose.IDEMPOTENCY)
    databases = [Database(url_of(matching)) for _ in range(2)]
    committers = [
        Committer(database, tables.PLUMBING, matching.world.make_work, cipher=keys, committed=lambda: None)
        for database in databases
    ]

    async def both() -> None:
        async def fire_all(committer: Committer[MatchingWork]) -> None:
            while await committer.run(look_at_clocks, keys=()):
                pass

        await asyncio.gather(*map(fire_all, committers))

    for committer in committers:
        committer.start()
    asyncio.run(both())
    for committer, database in zip(committers, databases, strict=True):
        committer.stop()
        database.close()
    assert opened(matching) == USCCS


def test_a_unit_that_is_being_changed_is_passed_over(matching: Matching) -> None:
    """An enrolment that is not committed yet decides: the clock is looked at after it, and opens no lead."""
    enrolment = started(uscc=USCCS[0], started_on=date(2026, 2, 9))
    received: Received[ParticipationStarted] = Received(
        enrolment, "event-1", 0, DAY, Cause("registry", "request-1")
    )
    with transaction(matching) as handling:
        take_started(handling, [received])
        fire(matching)
        assert opened(matching) == USCCS[1:]
    fire(matching)
    assert opened(matching) == USCCS[1:]
    clock = matching.case(USCCS[0]).clock
    assert clock
    assert clock.state is ClockState.STOPPED


def test_a_process_killed_in_the_middle_of_a_claim_loses_none(matching: Matching, tmp_path: Path) -> None:
    """Everything of its portion was written but not committed; another process fires those clocks."""
    script = """
import sys
from services.matching.commands import look_at_clocks
from tests.support.matching import Matching, at
matching = Matching(sys.argv[1], start=at("2026-02-10", "00:00"))
with matching.database.write(keys=()) as db:
    work = matching.world.make_work(db)
    look_at_clocks(work)
    work.flush()
    print("claimed", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, url_of(matching)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdin
    assert process.stdout.readline() == "claimed\n"
    fire(matching)
    assert len(opened(matching)) == DUE - PORTION
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    wait_until(lambda: fire(matching) == 1, "the claim falls with its process")
    assert opened(matching) == USCCS


def test_steps_of_the_ladder_are_claimed_alike(matching: Matching) -> None:
    """Two processes take the steps after the waits, each once."""
    fire(matching)
    told = [
        told(uscc=uscc, lead_id=f"R01-{uscc}", notice_id=f"notice-{uscc}")
        for uscc in USCCS[: PORTION + 10]
        for told in (handed_over, delivered)
    ]
    matching.receive(*map(matching.message, told))
    matching.clock.move_to(at("2026-04-01"))
    matching.tell(DataComplete(dataset="participations", through=date(2026, 3, 31)))
    matching.heard()
    with transaction(matching) as first:
        assert advance_leads(first)
        with transaction(matching) as second:
            assert advance_leads(second)
        with transaction(matching) as third:
            assert not advance_leads(third)
        assert len(matching.names()) == 10 * 2
    assert len(matching.names()) == PORTION * 2
