"""What is kept for how long, and the partitions that make forgetting cheap.

On PostgreSQL inbox and contact log lie in a partition per day, the event log in one per month, split by the
birth that an event id carries (UTC): a message that comes again finds its own partition, so the id alone stays
the unique key. What has no partition lies in the default one. SQLite keeps plain tables and deletes rows.
All of it runs on wall time. See docs/adr/0018-partitions-by-birth.md.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import sqlalchemy as sa

from shared.events.catalogue import TOPIC_DAYS
from shared.ids import first_event_id
from shared.storage.database import Database
from shared.storage.tables import PERIOD, Plumbing

INBOX_DAYS: Final = TOPIC_DAYS + 7
"""Longer than any topic: what a topic still holds must be known when it comes again."""

ANSWER_DAYS: Final = 7
"""How long a request with an Idempotency-Key may be sent again."""

AHEAD: Final = timedelta(days=7)
"""How far ahead partitions are made."""

PORTION: Final = 5_000
"""Most rows deleted in one transaction, so that nobody waits long for the write lock."""

STAND_IN: Final = "f"
"""First letter of ids that stand in for unreadable ones: they carry no birth, and sort behind all that do."""


@dataclass(frozen=True)
class Pruned:
    """What was removed: names of whole partitions, and numbers of single rows by table."""

    partitions: Sequence[str] = ()
    rows: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Pruned") -> "Pruned":
        return Pruned([*self.partitions, *other.partitions], dict(Counter(self.rows) + Counter(other.rows)))


PARTITIONS_KEY = "partitions"


def add_partitions(db: sa.Connection, plumbing: Plumbing, *, wall: datetime) -> list[str]:
    """Makes the partitions of today and the coming days that are missing; returns their names.

    Rows that went to the default partition meanwhile move to where they belong. One process at a time: the
    transaction's ordering key is `PARTITIONS_KEY`.
    """
    if db.dialect.name == "sqlite":
        return []
    added = []
    for table in (plumbing.inbox, plumbing.contact_log, plumbing.event_log):
        there = {period.name for period in _existing(db, table)}
        for period in _periods(table, _day(wall), _day(wall + AHEAD)):
            if period.name not in there:
                _add(db, period)
                added.append(period.name)
    return added


def prune(
    database: Database,
    plumbing: Plumbing,
    *,
    wall: datetime,
    log_before: date | None = None,
    patience: timedelta = timedelta(seconds=5),
) -> Pruned:
    """Removes what was kept long enough, in many short transactions.

    The event log stays, unless `log_before` says that what was born before its month may go; what rests on
    that can't be rebuilt any more. To drop a partition takes its table alone: everybody waits behind whoever
    waits for that, so after `patience` it raises OperationalError, and may be run again.
    """
    inbox, answers = plumbing.inbox, plumbing.idempotency
    today = _day(wall)
    known, topics = today - timedelta(days=INBOX_DAYS), today - timedelta(days=TOPIC_DAYS)
    # A fact that waited long in an outbox was born early, but a topic may hold it yet.
    late = inbox.c.received_at >= _start(known)
    pruned = _forget(database, inbox, known, patience, needed=late)
    pruned += _delete(database, inbox, (inbox.c.id >= STAND_IN) & sa.not_(late))
    pruned += _forget(database, plumbing.contact_log, topics, patience)
    if log_before is not None:
        pruned += _forget(database, plumbing.event_log, log_before.replace(day=1), patience)
    expired = answers.c.stored_at < _start(today - timedelta(days=ANSWER_DAYS))
    return pruned + _delete(database, answers, expired)


def _forget(
    database: Database,
    table: sa.Table,
    since: date,
    patience: timedelta,
    *,
    needed: sa.ColumnElement[bool] = sa.false(),  # noqa: B008 - a constant
) -> Pruned:
    """Removes what was born before a day: whole partitions in which nothing is needed, else single rows."""
    dropped = []
    if not database.is_sqlite:
        with database.read() as db:
            old = [period for period in _existing(db, table) if period.behind <= since]
        dropped = [period.name for period in old if _drop(database, period, needed, patience)]
    return Pruned(dropped) + _delete(database, table, (table.c.id < _first_id(since)) & sa.not_(needed))


def _delete(database: Database, table: sa.Table, where: sa.ColumnElement[bool]) -> Pruned:
    key = sa.tuple_(*table.primary_key.columns)
    some = sa.select(*table.primary_key.columns).where(where).limit(PORTION)
    total = 0
    while True:
        with database.write(keys=()) as db:
            gone = db.execute(sa.delete(table).where(key.in_(some))).rowcount
        total += gone
        if gone < PORTION:
            return Pruned(rows={table.name: total} if total else {})


# -- partitions of PostgreSQL ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Period:
    """The births of one partition, from the `first` day up to the one `behind` the last."""

    table: sa.Table
    first: date
    behind: date

    @property
    def name(self) -> str:
        return f"{self.table.name}_{self.first:%Y%m%d}"

    @property
    def births(self) -> sa.ColumnElement[bool]:
        return (self.table.c.id >= _first_id(self.first)) & (self.table.c.id < _first_id(self.behind))


def _period(table: sa.Table, day: date) -> _Period:
    if table.info[PERIOD] == "day":
        return _Period(table, day, day + timedelta(days=1))
    first = day.replace(day=1)
    return _Period(table, first, (first + timedelta(days=31)).replace(day=1))


def _periods(table: sa.Table, day: date, last: date) -> Iterator[_Period]:
    while day <= last:
        period = _period(table, day)
        yield period
        day = period.behind


def _existing(db: sa.Connection, table: sa.Table) -> list[_Period]:
    """The partitions of a table but for the default one, oldest first."""
    names = db.scalars(
        sa.text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(:name)"),
        {"name": table.name},
    )
    days = sorted(name.removeprefix(f"{table.name}_") for name in names)
    return [_period(table, date.fromisoformat(day)) for day in days if day.isdigit()]


def _add(db: sa.Connection, period: _Period) -> None:
    table, name = period.table, period.name
    default = table.to_metadata(sa.MetaData(), name=f"{table.name}_default")
    partition = table.to_metadata(sa.MetaData(), name=name)
    # Made beside the table and then attached: making it in its place would wait for every reader and writer.
    db.execute(sa.text(f"CREATE TABLE {name} (LIKE {table.name} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"))
    db.execute(sa.text(f"LOCK TABLE {default.name} IN ACCESS EXCLUSIVE MODE"))
    births = (default.c.id >= _first_id(period.first)) & (default.c.id < _first_id(period.behind))
    moved = sa.delete(default).where(births).returning(*default.c).cte()
    db.execute(sa.insert(partition).from_select(moved.c.keys(), sa.select(moved)))
    db.execute(
        sa.text(
            f"ALTER TABLE {table.name} ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{_first_id(period.first)}') TO ('{_first_id(period.behind)}')"
        )
    )


def _drop(database: Database, period: _Period, needed: sa.ColumnElement[bool], patience: timedelta) -> bool:
    """Drops a partition, unless a row of it is needed yet."""
    table = period.table
    with database.write(keys=()) as db:
        db.execute(sa.text(f"SET LOCAL lock_timeout = '{patience // timedelta(milliseconds=1)}ms'"))
        # The whole table first, as whoever inserts does, so that nothing comes between the look and the drop.
        db.execute(sa.text(f"LOCK TABLE ONLY {table.name} IN ACCESS EXCLUSIVE MODE"))
        if db.scalar(sa.select(sa.exists().select_from(table).where(period.births & needed))):
            return False
        db.execute(sa.text(f"DROP TABLE {period.name}"))
        return True


def _day(wall: datetime) -> date:
    return wall.astimezone(UTC).date()


def _start(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _first_id(day: date) -> str:
    return first_event_id(_start(day))
