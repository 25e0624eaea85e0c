"""A service small enough to test the plumbing with: it keeps the last value of every key."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa

from shared.clock import ZONE, FrozenClock
from shared.errors import Problem
from shared.events.base import Event
from shared.messaging.consumer import Received
from shared.privacy import KeyRing, Purpose
from shared.storage.committer import Committer, list_command
from shared.storage.database import Database, upsert
from shared.storage.tables import plumbing_tables
from shared.storage.work import Cause, Work

START = datetime(2026, 1, 5, 10, tzinfo=ZONE)
CAUSE = Cause("tester", "correlation-1")

metadata = sa.MetaData()
PLUMBING = plumbing_tables(metadata)
value = sa.Table(
    "value", metadata, sa.Column("key", sa.String, primary_key=True), sa.Column("content", sa.String)
)


class ValueSet(Event):
    """A key got a value; content `poison` cannot be handled."""

    name: ClassVar[str] = "registry.value_set.v1"
    uscc: str
    content: str


class ValueCleared(Event):
    """A key lost its value."""

    name: ClassVar[str] = "registry.value_cleared.v1"
    uscc: str


class Announced(Event):
    """A fact for every partition."""

    name: ClassVar[str] = "registry.announced.v1"
    broadcast: ClassVar[bool] = True
    content: str


@dataclass(frozen=True)
class Put:
    key: str
    content: str
    cause: Cause = CAUSE


@list_command
def put_values(work: Work, items: Sequence[Put]) -> list[str | Problem]:
    """Sets values; content `refuse` is refused, `crash` fails for a reason nobody foresaw."""
    if any(item.content == "crash" for item in items):
        raise RuntimeError("crash")
    good = {
        item.key: {"key": item.key, "content": item.content} for item in items if item.content != "refuse"
    }
    upsert(work.db, value, list(good.values()), key=["key"], update=["content"])
    for item in items:
        if item.content != "refuse":
            work.emit(ValueSet(uscc=item.key, content=item.content), cause=item.cause)
            work.audit("value.set", item.key, cause=item.cause)
    return [
        Problem(409, "refused", zh="拒绝", en="refused") if item.content == "refuse" else f"set {item.key}"
        for item in items
    ]


def put_then_refuse(work: Work, item: Put) -> str:
    """Writes first and refuses afterwards: nothing of it may stay."""
    put_values(work, [item])
    raise Problem(409, "too_late", zh="太迟", en="too late")


def set_values(work: Work, received: Sequence[Received[ValueSet]]) -> None:
    """Keeps the last value of each key and repeats it to the others."""
    last = {}
    for item in received:
        if item.event.content == "poison":
            raise ValueError("poison")
        last[item.event.uscc] = {"key": item.event.uscc, "content": item.event.content}
        work.emit(ValueSet(uscc=item.event.uscc, content=f"seen {item.event.content}"), cause=item.cause)
    upsert(work.db, value, list(last.values()), key=["key"], update=["content"])


def clear_values(work: Work, received: Sequence[Received[ValueCleared]]) -> None:
    """Forgets keys."""
    work.db.execute(sa.delete(value).where(value.c.key.in_([item.event.uscc for item in received])))


def contents(db: sa.Connection) -> dict[str, str]:
    """Everything the probe keeps."""
    return {row.key: row.content for row in db.execute(sa.select(value))}


@dataclass
class Probe:
    """The probe with its committer; several on one database are processes of one service."""

    folder: Path
    clock: FrozenClock = field(default_factory=lambda: FrozenClock(START))
    url: str | None = None

    def __post_init__(self) -> None:
        self.database = Database(self.url or f"sqlite:///{self.folder / 'probe.db'}")
        with self.database.write() as db:
            metadata.create_all(db)
        self.commits = 0
        self.committer: Committer[Work] = Committer(
            self.database,
            PLUMBING,
            self.make_work,
            cipher=KeyRing.load_or_create(self.folder / "keys.json").cipher(Purpose.IDEMPOTENCY),
            committed=self._count,
        )

    def make_work(self, db: sa.Connection) -> Work:
        return Work(db, PLUMBING, now=self.clock.now(), wall=self.clock.wall())

    async def read(self, ask: Any) -> Any:
        with self.database.read() as db:
            return ask(db)

    def rows(self, table: sa.Table) -> list[Any]:
        with self.database.read() as db:
            return list(db.execute(sa.select(table).order_by(*table.primary_key.columns)))

    def contents(self) -> dict[str, str]:
        with self.database.read() as db:
            return contents(db)

    def _count(self) -> None:
        self.commits += 1
