"""Moves committed facts from the outbox to the bus, and then to the event log (personal ones: the contact log).

One relay per service publishes at a time: it holds a lease with an expiry and an epoch. It reads what is
not yet published, never "after the last position": a lower number can commit later than a higher one.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache, partial
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import sqlalchemy as sa

from shared.events.catalogue import PERSONAL
from shared.messaging.bus import Bus, Message, partition_of
from shared.storage.committer import Run
from shared.storage.lease import Lease
from shared.storage.tables import Plumbing
from shared.storage.work import Work

BATCH = 2_000


class Relay:
    """Publishes one service's facts. `run` runs a write, `read` a read of its database."""

    def __init__(
        self,
        *,
        source: str,
        holder: str,
        plumbing: Plumbing,
        bus: Bus,
        wall: Callable[[], datetime],
        run: Run,
        read: Callable[[Callable[[sa.Connection], Any]], Awaitable[Any]],
    ) -> None:
        self._source = source
        self._lease = Lease(plumbing, "relay", holder)
        self._plumbing = plumbing
        self._bus = bus
        self._wall = wall
        self._run = run
        self._read = read

    async def step(self) -> bool:
        """Publishes one batch; True when more is waiting. Raises when the bus or the database failed."""
        rows = await self._read(self._unpublished)
        if not rows:
            return False
        lease = self._lease
        if not lease.is_fresh(self._wall()) and not await self._run(lease.take, keys=[lease.key]):
            return False  # another process publishes
        await self._bus.publish([message_of(self._source, row) for row in rows])
        await self._run(partial(self._move, rows), keys=[self._lease.key])
        return len(rows) == BATCH

    async def stop(self) -> None:
        """Lets another process publish at once."""
        await self._run(self._lease.give_back, keys=[self._lease.key])

    def _unpublished(self, db: sa.Connection) -> list[Any]:
        outbox = self._plumbing.outbox
        return list(db.execute(sa.select(*fact_columns(outbox)).order_by(outbox.c.seq).limit(BATCH)).all())

    def _move(self, rows: list[Any], work: Work) -> None:
        outbox = self._plumbing.outbox
        if not self._lease.is_held(work):
            return  # the lease went on: its new holder publishes these again, and consumers know them
        for first, last in _runs([row.seq for row in rows]):
            these = outbox.c.seq.between(first, last)
            personal = outbox.c.type.in_(PERSONAL)
            self._log(self._plumbing.contact_log, these & personal, work)
            self._log(self._plumbing.event_log, these & ~personal, work)
            work.db.execute(sa.delete(outbox).where(these))

    def _log(self, log: sa.Table, these: sa.ColumnElement[bool], work: Work) -> None:
        outbox = self._plumbing.outbox
        published = sa.select(outbox, sa.literal(work.wall, log.c.published_at.type)).where(these)
        work.db.execute(sa.insert(log).from_select([*outbox.c.keys(), "published_at"], published))


def _runs(seqs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The runs of numbers without a gap, first and last of each: nothing that was not read lies within one."""
    first = last = seqs[0]
    for seq in seqs[1:]:
        if seq != last + 1:
            yield first, last
            first = seq
        last = seq
    yield first, last


def fact_columns(table: sa.Table) -> list[sa.ColumnElement[Any]]:
    """The columns of an outbox or a log as `message_of` reads them: a fact's data stays the text that it is."""
    names = ("seq", "id", "type", "subject", "time", "correlation", "partition")
    return [*(table.c[name] for name in names), sa.cast(table.c.data, sa.Text).label("data")]


def message_of(source: str, row: Any) -> Message:
    """What the relay of a service publishes of a fact: an `Envelope`, written without making one of its checks."""
    _, id_, type_, subject, time, correlation, partition, data = row
    place = ""
    if partition is None:
        partition = partition_of(subject)
    else:
        place = f'"partition":{partition},'
    value = (
        f'{{"specversion":"1.0","id":{quoted(id_)},"source":"/{source}","type":{quoted(type_)},'
        f'"subject":{quoted(subject)},"time":{_written(time)},"datacontenttype":"application/json",'
        f'"correlationid":{quoted(correlation)},{place}"data":{data}}}'
    )
    return Message(source, partition, subject, value.encode())


@lru_cache(maxsize=1_024)  # what was committed together has one time
def _written(time: datetime) -> str:
    return f'"{time.isoformat()}"'
