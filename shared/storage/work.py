"""One transaction of a service, and all that may be written in it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from shared.events.base import Event
from shared.events.catalogue import PARTITIONS
from shared.ids import new_event_ids
from shared.storage.bulk import JsonText, insert_rows
from shared.storage.database import KEYED, WRITES
from shared.storage.tables import Plumbing

LARGEST = 900_000
"""Most bytes of an event: a broker takes a megabyte, unless it is told otherwise."""


class Cause(NamedTuple):
    """Who wants something, and the id that follows the request through all services.

    `actor` is a client id, or the name of the service for its own doings.
    """

    actor: str
    correlation: str


class Work:
    """One transaction. Services subclass it and add their store.

    Domain rows are written at once; events and audit rows are collected and written once, by `flush`,
    because no command reads them. `now` is business time and stands still for the whole work.
    """

    def __init__(self, db: sa.Connection, plumbing: Plumbing, *, now: datetime, wall: datetime) -> None:
        self.db = db
        self.now = now
        self.wall = wall
        self._plumbing = plumbing
        self._outbox: list[dict[str, Any]] = []
        self._audit: list[dict[str, Any]] = []

    @property
    def writes(self) -> int:
        """How much was written so far; tells whether a refused command left something behind."""
        return int(self.db.info.get(WRITES, 0)) + len(self._outbox) + len(self._audit)

    def insert(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Inserts domain rows, all with the same columns, in one round trip."""
        insert_rows(self.db, table, rows)

    def emit(self, *events: Event, cause: Cause) -> None:
        """Tells the other services, once this work has committed.

        A broadcast stands behind every earlier fact, so only a work that has the database alone may send one.
        """
        for event in events:
            if event.broadcast and self.db.info.get(KEYED):
                raise RuntimeError(f"{event.name} is for every key: run this without naming keys")
            data = event.model_dump_json()
            if len(data.encode()) > LARGEST:  # or it would stand before everything else in the outbox
                raise ValueError(f"{event.name} is larger than a broker takes")
            row = {
                "type": event.name,
                "subject": event.subject,
                "time": self.now,
                "correlation": cause.correlation,
                "data": JsonText(data),
            }
            for partition in range(PARTITIONS) if event.broadcast else (None,):
                self._outbox.append({**row, "partition": partition})

    def unsay(self) -> None:
        """Forgets the events emitted so far: in a replay they were told when it happened."""
        self._outbox = []

    def audit(self, action: str, subject: str, *, cause: Cause, **details: Any) -> None:
        """Leaves a trace of who did what to what. Details are JSON data, never personal data in clear."""
        self._audit.append(
            {
                "at": self.now,
                "wall": self.wall,
                "actor": cause.actor,
                "action": action,
                "subject": subject,
                "correlation": cause.correlation,
                "details": details,
            }
        )

    def flush(self) -> bool:
        """Writes what was collected; True when there are events to publish."""
        emitted = bool(self._outbox)
        for row, id_ in zip(self._outbox, new_event_ids(len(self._outbox)), strict=True):
            row["id"] = id_
        self.insert(self._plumbing.outbox, self._outbox)
        self.insert(self._plumbing.audit, self._audit)
        self._outbox, self._audit = [], []
        return emitted
