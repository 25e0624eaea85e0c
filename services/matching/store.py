"""Every SQL statement of matching."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from services.matching import tables as t
from services.matching.domain import Case, Clock, ClockState, Lead, Rule, Unit
from shared.calendar import Year
from shared.storage.database import insert_new, upsert

PARTICIPATIONS = "participations"
"""The data set that the clocks wait for."""

_PENDING = (ClockState.RUNNING, ClockState.WAITING, ClockState.HELD, ClockState.SUSPENDED)


class Store:
    """What one transaction asks and writes. `rule` says which participations count as being insured."""

    def __init__(self, db: sa.Connection, rule: Rule) -> None:
        self._db = db
        self._rule = rule
        self._loaded: dict[str, tuple[Unit | None, Clock | None, Lead | None]] = {}

    # -- cases -------------------------------------------------------------------------------------

    def cases(self, usccs: Collection[str]) -> dict[str, Case]:
        """A case for each of these units, known or not, in this order."""
        units = {row.uscc: Unit(**row._mapping) for row in self._of(t.unit, usccs)}
        clocks = {row.uscc: Clock(**row._mapping) for row in self._of(t.clock, usccs)}
        leads = {row.uscc: Lead(**row._mapping) for row in self._of(t.lead, usccs)}
        starts = {
            row.uscc: row.first
            for row in self._db.execute(
                sa.select(t.participation.c.uscc, sa.func.min(t.participation.c.started_on).label("first"))
                .where(*self._insured(usccs))
                .group_by(t.participation.c.uscc)
            )
        }
        frozen = set(
            self._db.scalars(sa.select(t.frozen_key.c.subject).where(t.frozen_key.c.subject.in_(usccs)))
        )
        disputed = set(
            self._db.scalars(sa.select(t.disputed_row.c.uscc).where(t.disputed_row.c.uscc.in_(usccs)))
        )
        cases = {}
        for uscc in usccs:
            unit, clock, lead = units.get(uscc), clocks.get(uscc), leads.get(uscc)
            self._loaded[uscc] = (unit, clock and replace(clock), lead and replace(lead))
            cases[uscc] = Case(uscc, unit, clock, lead, starts.get(uscc), uscc in frozen, uscc in disputed)
        return cases

    def save(self, cases: Iterable[Case]) -> None:
        """Writes what has changed since the cases were loaded."""
        # `vars`, not `asdict`: copying every value deeply took half the time of a portion.
        units, clocks, leads = [], [], []
        for case in cases:
            unit, clock, lead = self._loaded[case.uscc]
            if case.unit and case.unit != unit:
                units.append(vars(case.unit))
            if case.clock and case.clock != clock:
                clocks.append(vars(case.clock))
            if case.lead and case.lead != lead:
                leads.append(vars(case.lead))
        for table, rows, key in ((t.unit, units, "uscc"), (t.clock, clocks, "uscc"), (t.lead, leads, "id")):
            columns = [column.name for column in table.c if column.name != key]
            upsert(self._db, table, rows, key=[key], update=columns)

    def to_look_at(self, now: datetime, limit: int) -> list[str]:
        """Units whose clock time has changed something for, longest ago first."""
        return list(
            self._db.scalars(
                sa.select(t.clock.c.uscc)
                .where(t.clock.c.look_at <= now)
                .order_by(t.clock.c.look_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
        )

    def resting_on(self, year: int, partition: int, *, days: int) -> list[str]:
        """Units of a partition whose pending deadline the calendar of a year can change."""
        reaches = (t.clock.c.deadline >= date(year, 1, 1)) & (
            t.clock.c.established_on <= date(year, 12, 31) - timedelta(days=days)
        )
        return list(
            self._db.scalars(
                sa.select(t.clock.c.uscc)
                .where(t.clock.c.partition == partition, t.clock.c.state.in_(_PENDING))
                .where(reaches | t.clock.c.provisional)
                .order_by(t.clock.c.uscc)
            )
        )

    def lead_unit(self, lead_id: str) -> str | None:
        """The unit that a lead is about."""
        uscc: str | None = self._db.scalar(sa.select(t.lead.c.uscc).where(t.lead.c.id == lead_id))
        return uscc

    def add_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends to the history of leads."""
        if rows:
            self._db.execute(sa.insert(t.lead_history), list(rows))

    # -- participations ----------------------------------------------------------------------------

    def put_participations(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keeps participations; of several rows of one, the last."""
        upsert(
            self._db,
            t.participation,
            list({row["id"]: row for row in rows}.values()),
            key=["id"],
            update=["state"],
        )

    def starts(self, usccs: Collection[str]) -> dict[str, dict[int, date]]:
        """Per unit, id and start of every participation that counts as being insured."""
        found: dict[str, dict[int, date]] = {uscc: {} for uscc in usccs}
        columns = t.participation.c
        for row in self._db.execute(
            sa.select(columns.uscc, columns.id, columns.started_on).where(*self._insured(usccs))
        ):
            found[row.uscc][row.id] = row.started_on
        return found

    def _insured(self, usccs: Collection[str]) -> tuple[sa.ColumnElement[bool], ...]:
        columns = t.participation.c
        return (
            columns.uscc.in_(usccs),
            columns.insurance.in_(self._rule.void_insurances),
            columns.form.in_(self._rule.forms),
            columns.state != "cancelled",
        )

    # -- how complete, which days, what is frozen ------------------------------------------------------

    def complete(self, dataset: str) -> dict[int, date]:
        """How far a data set is complete, per partition."""
        return complete(self._db, dataset)

    def put_complete(self, dataset: str, through: Mapping[int, date]) -> None:
        """Keeps how far a data set is complete in some partitions."""
        rows = [{"dataset": dataset, "partition": p, "through": day} for p, day in through.items()]
        upsert(self._db, t.completeness, rows, key=["dataset", "partition"], update=["through"])

    def end_waiting(self, partition: int, through: date) -> None:
        """Lets the clocks go on that waited for data up to a day; they are due at once."""
        self._db.execute(
            sa.update(t.clock)
            .where(
                t.clock.c.partition == partition,
                t.clock.c.state == ClockState.WAITING,
                t.clock.c.deadline <= through,
            )
            .values(state=ClockState.RUNNING, look_at=t.clock.c.due_at)
        )

    def years(self) -> list[Year]:
        """The calendar years received since the start."""
        return [
            Year(row.year, _days(row.holidays), _days(row.makeup_days), row.source)
            for row in self._db.execute(sa.select(t.calendar_year))
        ]

    def put_year(self, year: Year) -> None:
        """Keeps a calendar year in place of any older one."""
        row = {
            "year": year.year,
            "holidays": sorted(day.isoformat() for day in year.holidays),
            "makeup_days": sorted(day.isoformat() for day in year.makeup_days),
            "source": year.source,
        }
        upsert(self._db, t.calendar_year, [row], key=["year"], update=["holidays", "makeup_days", "source"])

    def freeze(self, subject: str) -> None:
        """Notes that a message about a key is parked."""
        insert_new(self._db, t.frozen_key, [{"subject": subject}], key=["subject"])

    def thaw(self, subject: str) -> None:
        """Notes that no message about a key is parked any more."""
        self._db.execute(sa.delete(t.frozen_key).where(t.frozen_key.c.subject == subject))

    def dispute(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Notes rows that hold their unit."""
        insert_new(self._db, t.disputed_row, list(rows), key=["uscc", "batch_id", "row"])

    def settle(self, uscc: str, batch_id: str, row: int) -> bool:
        """Notes that a row holds its unit no more; whether another one still does."""
        of_unit = t.disputed_row.c.uscc == uscc
        this = (of_unit, t.disputed_row.c.batch_id == batch_id, t.disputed_row.c.row == row)
        self._db.execute(sa.delete(t.disputed_row).where(*this))
        return bool(self._db.scalar(sa.select(sa.exists().where(of_unit))))

    # -- visits ------------------------------------------------------------------------------------

    def add_visits(self, rows: Sequence[Mapping[str, Any]]) -> set[str]:
        """Adds a visit for each notice that has none; returns the notices that got one."""
        return {notice_id for (notice_id,) in insert_new(self._db, t.visit, rows, key=["notice_id"])}

    def _of(self, table: sa.Table, usccs: Collection[str]) -> sa.CursorResult[Any]:
        # Locked in one order, so that two writers never wait for each other in a circle.
        return self._db.execute(
            sa.select(table).where(table.c.uscc.in_(usccs)).order_by(table.c.uscc).with_for_update()
        )


# -- what the pages and routes read ----------------------------------------------------------------------


def next_look(db: sa.Connection) -> datetime | None:
    """The instant of the earliest look that time asks for."""
    found: datetime | None = db.scalar(
        sa.select(t.clock.c.look_at)
        .where(t.clock.c.look_at.is_not(None))
        .order_by(t.clock.c.look_at)
        .limit(1)
    )
    return found


def complete(db: sa.Connection, dataset: str = PARTICIPATIONS) -> dict[int, date]:
    """How far a data set is complete, per partition."""
    rows = db.execute(sa.select(t.completeness).where(t.completeness.c.dataset == dataset))
    return {row.partition: row.through for row in rows}


def find_clock(db: sa.Connection, uscc: str, *, town: str | None) -> Any | None:
    """The clock of a unit with its name, town and lead, if the town may see it."""
    return db.execute(
        sa.select(t.clock, t.unit.c.name.label("unit_name"), t.unit.c.town, t.lead.c.id.label("lead_id"))
        .join(t.unit, t.unit.c.uscc == t.clock.c.uscc)
        .outerjoin(t.lead, t.lead.c.uscc == t.clock.c.uscc)
        .where(t.clock.c.uscc == uscc, *_in_town(town))
    ).first()


def list_leads(
    db: sa.Connection, *, filters: Mapping[str, str | None], town: str | None, after: str, limit: int
) -> list[Any]:
    """Leads with their unit's name, kind and town, by id; one more than `limit` when there are more."""
    columns = {"rule": t.lead.c.rule, "uscc": t.lead.c.uscc, "state": t.lead.c.state, "town": t.unit.c.town}
    wanted = [columns[name] == value for name, value in filters.items() if value is not None]
    return list(
        db.execute(
            _leads()
            .where(t.lead.c.id > after, *wanted, *_in_town(town))
            .order_by(t.lead.c.id)
            .limit(limit + 1)
        )
    )


def find_lead(db: sa.Connection, lead_id: str, *, town: str | None) -> Any | None:
    """One lead, if the town may see it."""
    return db.execute(_leads().where(t.lead.c.id == lead_id, *_in_town(town))).first()


def history_of(db: sa.Connection, lead_id: str) -> list[Any]:
    """What happened to a lead, oldest first."""
    return list(
        db.execute(
            sa.select(t.lead_history)
            .where(t.lead_history.c.lead_id == lead_id)
            .order_by(t.lead_history.c.seq)
        )
    )


def participations_of(db: sa.Connection, uscc: str, *, opened_at: datetime, limit: int) -> list[Any]:
    """Participations through a unit, earliest first, and whether each was known at an instant."""
    columns = t.participation.c
    return list(
        db.execute(
            sa.select(t.participation, (columns.taken_in_at <= opened_at).label("seen_when_opened"))
            .where(columns.uscc == uscc)
            .order_by(columns.started_on, columns.id)
            .limit(limit)
        )
    )


def list_visits(
    db: sa.Connection,
    *,
    asked_town: str | None,
    state: str | None,
    town: str | None,
    after: int,
    limit: int,
) -> list[Any]:
    """Visits with unit's name and state of the lead, oldest first; one more than `limit` when there are more."""
    wanted = [
        column == value
        for column, value in (
            (t.visit.c.town, asked_town),
            (t.visit.c.town, town),
            (t.visit.c.state, state),
        )
        if value is not None
    ]
    return list(
        db.execute(
            sa.select(t.visit, t.unit.c.name.label("unit_name"), t.lead.c.state.label("lead_state"))
            .join(t.unit, t.unit.c.uscc == t.visit.c.uscc)
            .join(t.lead, t.lead.c.id == t.visit.c.lead_id)
            .where(t.visit.c.seq > after, *wanted)
            .order_by(t.visit.c.seq)
            .limit(limit + 1)
        )
    )


def _leads() -> sa.Select[Any]:
    return sa.select(t.lead, t.unit.c.name.label("unit_name"), t.unit.c.kind, t.unit.c.town).join(
        t.unit, t.unit.c.uscc == t.lead.c.uscc
    )


def _in_town(town: str | None) -> list[sa.ColumnElement[bool]]:
    return [] if town is None else [t.unit.c.town == town]


def _days(texts: Iterable[str]) -> frozenset[date]:
    return frozenset(date.fromisoformat(text) for text in texts)
