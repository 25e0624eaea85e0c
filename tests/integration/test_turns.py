"""Several processes on one PostgreSQL database take turns: per key where they name keys, else one at a time."""

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared.messaging.consumer import on
from shared.storage.database import Database
from shared.storage.lease import LEASE, Lease
from shared.storage.work import Work
from tests.support.cutting import World, message
from tests.support.native import Postgres, started, wait_until
from tests.support.probe import (
    CAUSE,
    PLUMBING,
    START,
    Announced,
    Probe,
    ValueSet,
    contents,
    metadata,
    set_values,
    value,
)

WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

MANY = 1_000
"""More locks than the smallest server has room for."""


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


class Turn:
    """A process that begins a transaction on its keys and ends it when told."""

    def __init__(self, database: Database, keys: Collection[str] | None) -> None:
        self.began, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(database, keys))
        self._thread.start()

    def _run(self, database: Database, keys: Collection[str] | None) -> None:
        with database.write(keys=keys):
            self.began.set()
            self._end.wait(8)

    def end(self) -> None:
        """Commits."""
        self._end.set()
        self._thread.join()


def waits(database: Database) -> Callable[[], bool]:
    """Whether somebody waits for a turn."""

    def ask() -> bool:
        with database.read() as db:
            return bool(db.scalar(sa.text(WAITING)))

    return ask


@pytest.mark.parametrize(("mine", "theirs"), [(["a"], ["b"]), ([], ["a"]), (["a", "b"], ["c"])])
def test_different_keys_go_side_by_side(database: Database, mine: list[str], theirs: list[str]) -> None:
    """Neither waits for the other."""
    turns = [Turn(database, mine), Turn(database, theirs)]
    both = [turn.began.wait(8) for turn in turns]
    for turn in turns:
        turn.end()
    assert both == [True, True]


@pytest.mark.parametrize(
    ("mine", "theirs"), [(["a"], ["b", "a"]), (None, ["a"]), (["a"], None), (None, None), ([], None)]
)
def test_the_same_key_or_everything_waits(
    database: Database, mine: list[str] | None, theirs: list[str] | None
) -> None:
    """The second begins only when the first has ended."""
    first = Turn(database, mine)
    assert first.began.wait(8)
    second = Turn(database, theirs)
    wait_until(waits(database), "the second waits for its turn")
    early = second.began.is_set()
    first.end()
    late = second.began.wait(8)
    second.end()
    assert (early, late) == (False, True)


def test_a_server_with_few_locks_takes_a_large_batch_in_pieces(tmp_path: Path) -> None:
    """Each key is a lock; what has no room is handled in halves, whole and once."""
    server = started(
        Postgres(tmp_path / "small", ["-c", "max_locks_per_transaction=10", "-c", "max_connections=20"])
    )
    try:
        database = Database(server.new_database())
        with database.write() as db:
            metadata.create_all(db)
        world = World(
            database,
            metadata,
            PLUMBING,
            lambda db: Work(db, PLUMBING, now=START, wall=START),
            (on(ValueSet, set_values),),
            keyed=True,
        )
        batch = [
            message(ValueSet(uscc=f"k{n}", content="1"), id=f"m{n}", time=START) for n in range(4 * MANY)
        ]
        asyncio.run(world.consumer.receive(batch))
        with database.read() as db:
            assert len(contents(db)) == len(batch)
        assert world.consumer.counts == {"handled": len(batch), "duplicate": 0, "diverted": 0}
        assert world.consumer.splits
        database.close()
    finally:
        server.stop()


def test_two_that_insert_the_same_key_both_end_well(url: str, tmp_path: Path) -> None:
    """Whoever comes second is tried again, and sees the first."""
    one, two = Probe(tmp_path, url=url), Probe(tmp_path, url=url)
    looked = threading.Barrier(2)

    def insert_if_absent(work: object, *, first_try: list[bool]) -> str:
        db = work.db  # type: ignore[attr-defined]
        there = db.scalar(sa.select(value.c.content).where(value.c.key == "a"))
        if first_try:
            first_try.clear()
            looked.wait(20)  # both have looked and found nothing
        if there is None:
            db.execute(sa.insert(value).values(key="a", content="x"))
        return "new" if there is None else "there"

    async def run() -> list[str]:
        for probe in (one, two):
            probe.committer.start()
        tries: list[list[bool]] = [[True], [True]]
        return await asyncio.gather(
            *(
                probe.committer.run(lambda work, own=own: insert_if_absent(work, first_try=own), keys=[])
                for probe, own in zip((one, two), tries, strict=True)
            )
        )

    try:
        assert sorted(asyncio.run(run())) == ["new", "there"]
    finally:
        for probe in (one, two):
            probe.committer.stop()
            probe.database.close()


def test_a_broadcast_needs_the_database_alone(probe: Probe) -> None:
    """It has to stand behind every earlier fact of its partition, so a work among others may not send one."""

    async def run(keys: Collection[str] | None) -> None:
        await probe.committer.run(lambda work: work.emit(Announced(content="x"), cause=CAUSE), keys=keys)

    asyncio.run(run(None))
    with pytest.raises(RuntimeError, match="without naming keys"):
        asyncio.run(run(["a"]))


def test_a_lease_is_one_process_s_until_it_expires(probe: Probe) -> None:
    """A holder keeps it by asking; one that was away too long finds that it went on."""
    one, two = Lease(PLUMBING, "duty", "one"), Lease(PLUMBING, "duty", "two")
    other = Lease(PLUMBING, "other", "two")

    def take(lease: Lease) -> bool:
        return asyncio.run(probe.committer.run(lease.take, keys=[lease.key]))

    def holds(lease: Lease) -> bool:
        return asyncio.run(probe.committer.run(lease.is_held, keys=[lease.key]))

    assert take(one)
    assert take(other)
    assert not take(two)
    probe.clock.advance(LEASE * 0.75)
    assert take(one)
    probe.clock.advance(LEASE * 0.75)
    assert not take(two)
    probe.clock.advance(LEASE / 4 + timedelta(seconds=1))
    assert take(two)
    assert not holds(one)
    assert not take(one)
    assert holds(two)


def test_an_epoch_that_another_process_has_is_not_ones_own(probe: Probe) -> None:
    """Where the commit that took a lease failed, the next holder gets the same number."""
    one, two = Lease(PLUMBING, "duty", "one"), Lease(PLUMBING, "duty", "two")

    def taken_in_vain(work: Work) -> None:
        one.take(work)
        raise RuntimeError("the commit fails")

    with pytest.raises(RuntimeError):
        asyncio.run(probe.committer.run(taken_in_vain, keys=[one.key]))
    assert asyncio.run(probe.committer.run(two.take, keys=[two.key]))
    assert not asyncio.run(probe.committer.run(one.is_held, keys=[one.key]))
    assert asyncio.run(probe.committer.run(two.is_held, keys=[two.key]))


def test_each_asking_renews_a_lease_and_giving_back_ends_it(probe: Probe) -> None:
    """So a step begins with the whole time before it; and a process that stops keeps nobody waiting."""
    one, two, none = (Lease(PLUMBING, "duty", holder) for holder in ("one", "two", "none"))

    def run(do: Callable[[Work], object]) -> object:
        return asyncio.run(probe.committer.run(do, keys=[one.key]))

    assert run(one.take)
    probe.clock.advance(LEASE * 0.25)
    assert run(one.take)
    probe.clock.advance(LEASE * 0.9)
    assert not run(two.take)
    run(none.give_back)
    assert not run(two.take)
    run(one.give_back)
    assert not run(one.take)  # it was asked for before, and comes too late
    assert run(two.take)
    assert not run(one.is_held)
