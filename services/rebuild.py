"""Builds the figures of targets anew from what the other services told.

An operator's command: it opens the publishers' databases read-only, which no service ever does. Only targets
can be rebuilt so. What it told others when it happened is not told again, and a replay never reaches notify:
nothing here publishes, and the only listener is targets itself.
"""

from collections.abc import Callable, Collection, Mapping
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from services import targets
from services.targets.handlers import SUBSCRIPTIONS
from services.targets.tables import PLUMBING, metadata
from services.targets.work import TargetsWork
from shared.clock import Clock
from shared.messaging.consumer import Consumer, Reaction
from shared.messaging.replay import Publisher, replay
from shared.storage.database import Database
from shared.storage.migrations import upgrade
from shared.storage.retention import add_partitions

T = TypeVar("T")

BATCH = 1_000

FIGURES = tuple(
    table
    for table in metadata.sorted_tables
    if table not in {getattr(PLUMBING, name) for name in vars(PLUMBING)}
)
"""The tables that are built from events."""


class NotEmptyError(Exception):
    """The database to build into holds something already."""


async def rebuild_targets(
    into: Database,
    publishers: Mapping[str, Publisher],
    clock: Clock,
    *,
    reactions: tuple[Reaction, ...] = SUBSCRIPTIONS,
    told: Callable[[int], None] = lambda number: None,
) -> Mapping[str, int]:
    """Replays every fact that targets listens to into an empty database; says what became of the messages.

    `told` hears how many messages went in, batch by batch. Afterwards targets can be started on `into`: its
    inbox knows what was replayed. Raises NotEmptyError.
    """
    with into.read() as db:
        if sa.inspect(db).get_table_names():
            raise NotEmptyError
    upgrade(into, Path(targets.__file__).parent / "migrations")
    with into.write() as db:
        add_partitions(db, PLUMBING, wall=clock.wall())

    async def run(do: Callable[[Any], T], *, keys: Collection[str] | None = None) -> T:
        with into.write() as db:
            work = TargetsWork(db, PLUMBING, now=clock.now(), wall=clock.wall())
            result = do(work)
            work.unsay()
            work.flush()
            return result

    consumer = Consumer("targets", reactions, PLUMBING, run)
    heard = {topic: publishers[topic] for topic in consumer.topics}
    messages = replay(heard, [reaction.event.name for reaction in reactions])
    while batch := list(islice(messages, BATCH)):
        await consumer.receive(batch)
        told(len(batch))
    return consumer.counts


def differing(one: Database, other: Database) -> list[str]:
    """Names of the tables of figures in which two databases of targets differ."""
    with one.read() as here, other.read() as there:
        return [table.name for table in FIGURES if not _same(here, there, table)]


def _same(here: sa.Connection, there: sa.Connection, table: sa.Table) -> bool:
    rows = sa.select(table).order_by(*table.primary_key)
    streams = (db.execution_options(yield_per=BATCH).execute(rows) for db in (here, there))
    return all(row == twin for row, twin in zip_longest(*streams))
