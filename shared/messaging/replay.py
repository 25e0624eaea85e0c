"""Reads what services told from the beginning, for a listener that starts anew.

From outbox and logs, never from a topic: a topic forgets, and does not hold yet what is still to be published.
"""

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from shared.events.catalogue import PERSONAL
from shared.messaging.bus import Message
from shared.messaging.relay import fact_columns, message_of
from shared.storage.database import Database
from shared.storage.tables import Plumbing

PAGE = 2_000


@dataclass(frozen=True)
class Publisher:
    """A service's database as a source of facts; it is only read."""

    database: Database
    plumbing: Plumbing


def replay(publishers: Mapping[str, Publisher], types: Collection[str]) -> Iterator[Message]:
    """Every fact of these types, as it was or will be published, by the publisher's name.

    Facts of one publisher come in the order in which they were written, so those of one key in the order in
    which they were committed, and a broadcast where it stood; different publishers by time of birth. What is
    published or committed meanwhile may be missing or not, but nothing comes twice.
    """

    def facts(name: str, publisher: Publisher) -> Iterator[tuple[str, Any]]:
        return ((name, row) for row in _history(publisher, types))

    merged = heapq.merge(*(facts(*item) for item in publishers.items()), key=lambda fact: str(fact[1].id))
    return (message_of(name, row) for name, row in merged)


def _history(publisher: Publisher, types: Collection[str]) -> Iterator[Any]:
    """By seq: it is given out once for outbox and logs together."""
    plumbing = publisher.plumbing
    tables = [plumbing.event_log, plumbing.outbox]
    if PERSONAL.intersection(types):
        tables.append(plumbing.contact_log)
    behind = -1
    while True:
        # One statement sees one state: a row that the relay moves is in one of the tables, and never in two.
        parts = (
            sa.select(*fact_columns(table))
            .where(table.c.seq > behind, table.c.type.in_(types))
            .order_by(table.c.seq)
            .limit(PAGE)
            .subquery()
            for table in tables
        )
        page = sa.union_all(*(sa.select(part) for part in parts)).order_by("seq").limit(PAGE)
        with publisher.database.read() as db:
            rows = db.execute(page).all()
        yield from rows
        if len(rows) < PAGE:
            return
        behind = rows[-1].seq
