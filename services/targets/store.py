"""Every SQL statement of targets."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import sqlalchemy as sa

from services.targets.domain import Decision, Kind, Spell, SpellState, Tally
from services.targets.tables import counted, spell
from shared.storage.database import insert_new

_KEY = ("person", "insurance")
_FIRST = ("participation_id", "kind", "town", "started_on", "recorded_on", "baseline")
_NOBODY: dict[str, Any] = dict.fromkeys(_FIRST)


class Figures:
    """Who counts, and how many."""

    def __init__(self, db: sa.Connection) -> None:
        self._db = db

    def add_spells(self, spells: Sequence[Spell]) -> None:
        """Keeps participations as they started; one that is known already stays as it is."""
        rows = {item.participation_id: {**vars(item), "state": SpellState.IN_FORCE} for item in spells}
        insert_new(self._db, spell, list(rows.values()), key=["participation_id"])

    def set_state(self, participations: Sequence[int], state: SpellState) -> None:
        """Says that these participations ended or were cancelled."""
        self._db.execute(
            sa.update(spell).where(spell.c.participation_id.in_(participations)).values(state=state)
        )

    def decide(self, decisions: Sequence[Decision]) -> None:
        """Keeps each decision unless a newer one of its person and insurance is known. Keys are distinct."""
        rows = {(item.person, item.insurance): _row(item) for item in decisions}
        added = set(insert_new(self._db, counted, list(rows.values()), key=_KEY))
        older = [row for key, row in rows.items() if key not in added]
        if older:
            # The comparison is part of the write: two writers may hold decisions of one person.
            statement = sa.update(counted).where(
                counted.c.person == sa.bindparam("_person"),
                counted.c.insurance == sa.bindparam("_insurance"),
                counted.c.version < sa.bindparam("_version"),
            )
            columns: dict[str, Any] = {name: sa.bindparam(f"_{name}") for name in ("version", *_FIRST)}
            self._db.execute(
                statement.values(**columns),
                [{f"_{name}": value for name, value in row.items()} for row in older],
            )

    def tallies(self, year: int, day: date) -> list[Tally]:
        """What counts in a year as of a business day, by insurance, declared kind, town and month.

        The month is that of `started_on`: no month is published yet, so none is closed to late records.
        """
        new = sa.and_(counted.c.kind == Kind.FIRST, counted.c.baseline.is_(False))
        others = sa.and_(
            spell.c.kind.in_([Kind.RESUMED, Kind.TRANSFERRED]),
            spell.c.state != SpellState.CANCELLED,
            spell.c.baseline.is_(False),
        )
        begun = (date(year, 1, 1), min(day, date(year, 12, 31)))
        both = sa.union_all(
            _tally(counted).where(new, counted.c.started_on.between(*begun)),
            _tally(spell).where(others, spell.c.started_on.between(*begun)),
        )
        return [Tally(*row) for row in self._db.execute(both)]


def _row(decision: Decision) -> dict[str, Any]:
    first = vars(decision.first) if decision.first else _NOBODY
    key = {"person": decision.person, "insurance": decision.insurance}
    return {**key, "version": decision.version, **first}


def _tally(table: sa.Table) -> sa.Select[Any]:
    month = sa.cast(sa.extract("month", table.c.started_on), sa.Integer)
    parts = (table.c.insurance, table.c.kind, table.c.town, month)
    return sa.select(*parts, sa.func.count()).group_by(*parts)
