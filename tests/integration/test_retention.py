"""What is kept for how long, on both databases, and the partitions that make forgetting cheap."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from services.targets.app import build
from services.targets.settings import TargetsSettings
from services.targets.tables import PLUMBING as TARGETS
from shared.clock import FrozenClock
from shared.events.catalogue import TOPIC_DAYS
from shared.ids import first_event_id, new_event_ids
from shared.messaging.in_process import InProcessBus
from shared.storage import retention
from shared.storage.database import Database, insert_new, is_transient
from shared.storage.retention import ANSWER_DAYS, INBOX_DAYS, PORTION, STAND_IN, add_partitions, prune
from shared.storage.tables import plumbing_tables
from tests.support.native import Postgres, wait_until

WALL = datetime(2026, 3, 20, 15, 30, tzinfo=UTC)
TODAY = date(2026, 3, 20)

metadata = sa.MetaData()
PLUMBING = plumbing_tables(metadata)
INBOX, LOG, CONTACTS, ANSWERS = (
    PLUMBING.inbox,
    PLUMBING.event_log,
    PLUMBING.contact_log,
    PLUMBING.idempotency,
)


def days(number: float) -> datetime:
    """So many days before the wall time of the tests."""
    return WALL - timedelta(days=number)


def born(at: datetime, number: int = 0) -> str:
    """An id as it is given at an instant."""
    return f"{first_event_id(at)}-7000-8000-{number:012d}"


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/plumbing.db")
    yield from opened(database)


@pytest.fixture
def postgresql(postgres: Postgres) -> Iterator[Database]:
    yield from opened(Database(postgres.new_database()))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(request.param)
    return found


def opened(database: Database) -> Iterator[Database]:
    with database.write() as db:
        metadata.create_all(db)
    yield database
    database.close()


def claim(database: Database, *ids: str, at: datetime = WALL) -> list[str]:
    """What a consumer does with the ids of a batch; gives those that are new."""
    with database.write() as db:
        rows = [{"id": id_, "received_at": at} for id_ in ids]
        return sorted(row[0] for row in insert_new(db, INBOX, rows, key=["id"]))


def publish(database: Database, table: sa.Table, *births: datetime) -> None:
    """What the relay leaves behind of facts of these births."""
    with database.write() as db:
        first = (db.scalar(sa.select(sa.func.max(table.c.seq))) or 0) + 1
        rows = [
            {
                "seq": seq,
                "id": born(at),
                "type": "registry.value_set.v1",
                "subject": "a",
                "partition": None,
                "time": at,
                "correlation": "c",
                "data": {},
                "published_at": at,
            }
            for seq, at in enumerate(births, first)
        ]
        db.execute(sa.insert(table), rows)


def kept(database: Database, table: sa.Table, column: str = "id") -> set[Any]:
    with database.read() as db:
        return set(db.scalars(sa.select(table.c[column])))


def partitions(database: Database, table: sa.Table) -> list[str]:
    with database.read() as db:
        return [period.name for period in retention._existing(db, table)]


def add(database: Database, wall: datetime = WALL) -> list[str]:
    with database.write() as db:
        return add_partitions(db, PLUMBING, wall=wall)


def rows_of(database: Database, partition: str) -> int:
    with database.read() as db:
        return int(db.scalar(sa.select(sa.func.count()).select_from(sa.table(partition))) or 0)


def test_ids_sort_by_birth() -> None:
    """The first id of an instant lies behind every earlier one and before what is born then."""
    ids = [born(at) for at in (days(400), days(1), WALL - timedelta(milliseconds=1))]
    assert ids == sorted(ids)
    assert ids[-1] < first_event_id(WALL) < born(WALL)
    assert first_event_id(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)) == "00000000-03e8"  # a thousand ms
    assert all(first_event_id(datetime(2026, 1, 1, tzinfo=UTC)) < id_ < STAND_IN for id_ in new_event_ids(3))


def test_a_message_that_comes_again_another_day_is_known(database: Database) -> None:
    """Whatever partition it lies in: one that was there, the default one, or one that was made since."""
    early, late = born(days(1)), born(WALL + timedelta(days=30))
    assert claim(database, early, late) == [early, late]
    add(database, days(2))
    assert claim(database, early, late, at=WALL + timedelta(days=9)) == []
    add(database, WALL + timedelta(days=29))
    assert claim(database, early, late, born(WALL)) == [born(WALL)]


def test_the_inbox_forgets_after_its_days(database: Database) -> None:
    """Not a day earlier, and never what arrived late: a topic may hold that yet."""
    old, late, young = born(days(INBOX_DAYS + 2)), born(days(INBOX_DAYS + 3)), born(days(INBOX_DAYS - 1))
    add(database, days(INBOX_DAYS + 4))
    claim(database, old, at=days(INBOX_DAYS + 2))
    claim(database, late, at=days(INBOX_DAYS - 1))
    claim(database, young, at=days(INBOX_DAYS - 1))
    prune(database, PLUMBING, wall=WALL)
    assert kept(database, INBOX) == {late, young}
    assert claim(database, late) == []


def test_the_inbox_remembers_longer_than_any_topic() -> None:
    """Whatever a topic brings again is known; the client's clock and the broker's may differ by days."""
    assert (INBOX_DAYS, TOPIC_DAYS) == (42, 35)


def test_what_arrived_late_shields_only_itself(database: Database) -> None:
    """Its day's partition stays, the other rows in it go."""
    at = days(INBOX_DAYS + 3)
    add(database, at)
    late = born(at, 1)
    claim(database, born(at, 2), at=at)
    claim(database, late)
    prune(database, PLUMBING, wall=WALL)
    assert kept(database, INBOX) == {late}


def test_ids_without_birth_are_kept_by_arrival(database: Database) -> None:
    """Those of unreadable messages."""
    claim(database, f"{STAND_IN}old", at=days(INBOX_DAYS + 1))
    claim(database, f"{STAND_IN}new", at=days(INBOX_DAYS - 1))
    prune(database, PLUMBING, wall=WALL)
    assert kept(database, INBOX) == {f"{STAND_IN}new"}


def test_contacts_are_forgotten_with_the_topic_and_other_facts_stay(database: Database) -> None:
    """35 days; the event log is kept until somebody says which months may go."""
    for table in (CONTACTS, LOG):
        publish(database, table, days(37), days(34), WALL)
    prune(database, PLUMBING, wall=WALL)
    assert kept(database, CONTACTS) == {born(days(34)), born(WALL)}
    assert kept(database, LOG) == {born(days(37)), born(days(34)), born(WALL)}


def test_the_log_goes_by_whole_months(database: Database) -> None:
    """What was born in the month of the given day stays."""
    births = [datetime(2025, 12, 31, 23, 59, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), WALL]
    add(database, births[0])
    publish(database, LOG, *births)
    pruned = prune(database, PLUMBING, wall=WALL, log_before=date(2026, 1, 20))
    assert kept(database, LOG) == {born(at) for at in births[1:]}
    dropped = [name for name in pruned.partitions if name.startswith("event_log")]
    assert dropped == ([] if database.is_sqlite else ["event_log_20251201"])


def test_answers_are_forgotten_after_a_week(database: Database) -> None:
    """The same request may be sent again until then."""
    with database.write() as db:
        for key, at in (("old", days(ANSWER_DAYS + 1)), ("new", days(ANSWER_DAYS - 1))):
            row = {
                "client": "c",
                "route": "r",
                "key": key,
                "fingerprint": "f",
                "answer": b"",
                "stored_at": at,
            }
            db.execute(sa.insert(ANSWERS), row)
    pruned = prune(database, PLUMBING, wall=WALL)
    assert kept(database, ANSWERS, "key") == {"new"}
    assert pruned.rows["idempotency"] == 1


def test_rows_go_in_portions(sqlite: Database) -> None:
    """However many there are, all go, a few in each transaction."""
    old, number = days(INBOX_DAYS + 5), PORTION + 10
    claim(sqlite, *(born(old, n) for n in range(number)), at=old)
    deleted: list[int] = []

    def count(_db: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("DELETE FROM inbox"):
            deleted.append(cursor.rowcount)

    sa.event.listen(sqlite._writer, "after_cursor_execute", count)
    assert prune(sqlite, PLUMBING, wall=WALL).rows == {"inbox": number}
    assert max(deleted) == PORTION
    assert kept(sqlite, INBOX) == set()


# -- PostgreSQL alone ------------------------------------------------------------------------------------


def test_partitions_are_there_ahead(postgresql: Database) -> None:
    """A day's for inbox and contacts, a month's for the log; a second look finds nothing to do."""
    added = add(postgresql)
    assert len(added) == 8 + 8 + 1
    assert partitions(postgresql, INBOX)[::7] == ["inbox_20260320", "inbox_20260327"]
    assert partitions(postgresql, LOG) == ["event_log_20260301"]
    assert add(postgresql) == []
    assert add(postgresql, WALL + timedelta(days=5))[-1] == "event_log_20260401"
    claim(postgresql, born(WALL))
    assert (rows_of(postgresql, "inbox_20260320"), rows_of(postgresql, "inbox_default")) == (1, 0)


def test_a_service_makes_them_when_it_starts(postgres: Postgres, tmp_path: Path) -> None:
    """By wall time, before anything of that day has come."""
    settings = TargetsSettings(data_dir=tmp_path, database_url=postgres.new_database())
    clock = FrozenClock(WALL)

    async def run() -> None:
        service = build(settings, bus=InProcessBus(), clock=clock)

        def made() -> bool:
            return partitions(service.core.database, TARGETS.inbox)[:1] == ["inbox_20260320"]

        await service.start()
        try:
            await asyncio.to_thread(wait_until, made, "today's partition is there")
        finally:
            await service.stop()

    asyncio.run(run())


def test_a_row_without_partition_finds_a_place_and_moves_later(postgresql: Database) -> None:
    """The default partition takes it; the new partition takes it over."""
    claim(postgresql, born(WALL), born(days(-30)))
    assert rows_of(postgresql, "inbox_default") == 2
    add(postgresql)
    assert (rows_of(postgresql, "inbox_20260320"), rows_of(postgresql, "inbox_default")) == (1, 1)


def test_old_partitions_are_dropped_and_young_ones_stay(postgresql: Database) -> None:
    """By day of birth."""
    add(postgresql, days(INBOX_DAYS + 1))
    pruned = prune(postgresql, PLUMBING, wall=WALL)
    gone = f"{TODAY - timedelta(days=INBOX_DAYS + 1):%Y%m%d}"
    assert [name for name in pruned.partitions if name.startswith("inbox")] == [f"inbox_{gone}"]
    assert partitions(postgresql, INBOX)[0] == f"inbox_{TODAY - timedelta(days=INBOX_DAYS):%Y%m%d}"


def test_a_partition_with_a_needed_row_stays(postgresql: Database) -> None:
    """And goes when the row is old as well."""
    birth = days(INBOX_DAYS + 3)
    add(postgresql, birth)
    claim(postgresql, born(birth))
    name = f"inbox_{birth:%Y%m%d}"
    assert name not in prune(postgresql, PLUMBING, wall=WALL).partitions
    later = WALL + timedelta(days=INBOX_DAYS + 1)
    assert name in prune(postgresql, PLUMBING, wall=later).partitions


def test_dropping_gives_way_to_whoever_holds_the_table(postgresql: Database) -> None:
    """It fails after a moment, as something to try again, and leaves everything."""
    add(postgresql, days(INBOX_DAYS + 1))
    with postgresql.read() as reader:
        reader.execute(sa.select(INBOX))
        with pytest.raises(OperationalError) as busy:
            prune(postgresql, PLUMBING, wall=WALL, patience=timedelta(milliseconds=50))
    assert is_transient(busy.value)
    assert f"inbox_{days(INBOX_DAYS + 1):%Y%m%d}" in partitions(postgresql, INBOX)


def test_an_id_is_unique_within_the_whole_table(postgresql: Database) -> None:
    """Also where partitions are."""
    add(postgresql)
    claim(postgresql, born(WALL))
    with pytest.raises(IntegrityError), postgresql.write() as db:
        db.execute(sa.insert(INBOX).values(id=born(WALL), received_at=days(-5)))
