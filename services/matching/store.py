"""Every SQL statement of matching."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from services.matching import tables as t
from services.matching.domain import STOCK, Case, Clock, ClockState, Lead, LeadState, Rule, Unit
from services.matching.ladder import VisitState
from shared.calendar import Year
from shared.storage.bulk import among, each, insert_rows, upsert_rows
from shared.storage.database import insert_new, upsert

PARTICIPATIONS = "participations"
"""The data set that the clocks wait for."""

_STANDS = (VisitState.OPEN, VisitState.JOINED)
_PENDING = (ClockState.RUNNING, ClockState.WAITING, ClockState.HELD, ClockState.SUSPENDED)

_Columns = Sequence[sa.ColumnElement[Any]]

_UNIT: _Columns = [t.unit.c[name] for name in Unit._fields]
_CLOCK: _Columns = [t.clock.c[field.name] for field in fields(Clock)]
_VISIT: _Columns = [
    t.visit.c[name] for name in ("id", "notice_id", "lead_id", "episode", "uscc", "town", "state", "reason")
]
_LEAD_NAMES = sorted((field.name for field in fields(Lead)), key=lambda name: name != "id")
_LEAD: _Columns = [t.lead.c[name] for name in _LEAD_NAMES]


class Store:
    """What one transaction asks and writes. `rule` says which participations count as being insured."""

    def __init__(self, db: sa.Connection, rule: Rule) -> None:
        self._db = db
        self._rule = rule
        self._loaded: dict[str, tuple[Unit | None, dict[str, Any] | None, dict[str, Any] | None]] = {}

    # -- cases -------------------------------------------------------------------------------------

    def cases(self, usccs: Collection[str]) -> dict[str, Case]:
        """A case for each of these units, known or not, in this order.

        The lock on the unit's own row is the lock on everything of it, so it is taken before the rest is read.
        """
        own = self._db.execute(
            sa.select(*_UNIT)
            .where(among(self._db, t.unit.c.uscc, usccs))
            .order_by(t.unit.c.uscc)
            .with_for_update()
        ).all()
        units = {row[0]: Unit._make(row) for row in own}
        found = {row[0]: row for row in self._db.execute(self._rest(usccs)).all()}
        cases = {}
        for uscc in usccs:
            _, enrolled_from, frozen, exempt_through, disputed, *record = found[uscc]
            unit = units.get(uscc)
            clock = Clock(*record[: len(_CLOCK)]) if record[0] is not None else None
            of_lead = record[len(_CLOCK) :]
            lead = Lead(**dict(zip(_LEAD_NAMES, of_lead, strict=True))) if of_lead[0] is not None else None
            self._loaded[uscc] = (unit, _as_loaded(clock), _as_loaded(lead))
            cases[uscc] = Case(uscc, unit, clock, lead, enrolled_from, frozen, exempt_through, disputed)
        return cases

    def _rest(self, usccs: Collection[str]) -> sa.Select[Any]:
        """Per unit all but its own row: USCC, the other facts of a `Case`, the clock, the lead."""
        asked = each(self._db, usccs).subquery()
        uscc = asked.c.text
        # Looked up for each unit by the index: joined, it was read whole for each batch while it was new.
        first_start = (
            sa.select(sa.func.min(t.participation.c.started_on))
            .where(t.participation.c.uscc == uscc, *self._insured())
            .scalar_subquery()
        )
        exempt = (t.exemption.c.uscc == uscc) & t.exemption.c.lifted_at.is_(None)
        return sa.select(
            uscc,
            first_start,
            sa.exists().where(t.frozen_key.c.subject == uscc),
            t.exemption.c.expires_on,
            sa.exists().where(t.disputed_row.c.uscc == uscc),
            *_CLOCK,
            *_LEAD,
        ).select_from(
            asked.outerjoin(t.clock, t.clock.c.uscc == uscc)
            .outerjoin(t.lead, t.lead.c.uscc == uscc)
            .outerjoin(t.exemption, exempt)
        )

    def save(self, cases: Iterable[Case]) -> None:
        """Writes what has changed since the cases were loaded."""
        # `vars`, not `asdict`: copying every value deeply took half the time of a portion.
        units: list[dict[str, Any]] = []
        clocks: list[dict[str, Any]] = []
        leads: list[dict[str, Any]] = []
        new: dict[sa.Table, list[dict[str, Any]]] = {t.unit: [], t.clock: [], t.lead: []}
        for case in cases:
            unit, clock, lead = self._loaded.pop(case.uscc)  # saved once: it is loaded again, or an error
            if case.unit and case.unit != unit:
                (units if unit else new[t.unit]).append(case.unit._asdict())
            if case.clock and vars(case.clock) != clock:
                (clocks if clock else new[t.clock]).append(vars(case.clock))
            if case.lead and vars(case.lead) != lead:
                (leads if lead else new[t.lead]).append(vars(case.lead))
        for table, rows in new.items():
            insert_rows(self._db, table, rows)
        for table, rows, key in ((t.unit, units, "uscc"), (t.clock, clocks, "uscc"), (t.lead, leads, "id")):
            columns = [column.name for column in table.c if column.name != key]
            upsert_rows(self._db, table, rows, key=key, update=columns)

    def to_look_at(self, now: datetime, limit: int) -> list[str]:
        """Claims units whose clock time has changed something for, longest ago first."""
        return self._claim(t.clock, t.clock.c.look_at, now, limit)

    def to_advance(self, now: datetime, limit: int) -> list[str]:
        """Claims units whose lead has a step to take, longest ago first."""
        return self._claim(t.lead, t.lead.c.act_at, now, limit)

    def _claim(self, table: sa.Table, due: sa.Column[Any], now: datetime, limit: int) -> list[str]:
        """Units of which something is due, without those that another process has claimed or is changing.

        The claim is the lock on the unit's own row. Whoever changes anything of a unit takes that one first
        and keeps it to the end of the transaction, so its facts keep their order, and a claim dies with its process.
        """
        return list(
            self._db.scalars(
                sa.select(t.unit.c.uscc)
                .join_from(table, t.unit, t.unit.c.uscc == table.c.uscc)
                .where(due <= now)
                .order_by(due)
                .limit(limit)
                .with_for_update(of=t.unit, skip_locked=True)
            )
        )

    def oldest_stock(self, limit: int, *, towns: Collection[str]) -> list[str]:
        """Units in the stock queue, in all of these towns, whose clock ran out longest ago."""
        return list(
            self._db.scalars(
                sa.select(t.clock.c.uscc)
                .join(t.unit, t.unit.c.uscc == t.clock.c.uscc)
                .where(_IN_STOCK, *(t.unit.c.town == town for town in towns))
                .order_by(t.clock.c.due_at, t.clock.c.uscc)
                .limit(limit)
                .with_for_update(skip_locked=True, of=t.unit)
            )
        )

    def resting_on(self, year: int, partition: int, *, days: int) -> list[str]:
        """Units of a partition whose pending deadline, or running wait, the calendar of a year can change."""
        reaches = (t.clock.c.deadline >= date(year, 1, 1)) & (
            t.clock.c.established_on <= date(year, 12, 31) - timedelta(days=days)
        )
        waits = (t.lead.c.wait_from <= date(year, 12, 31)) & (
            t.lead.c.act_at.is_(None) | (t.lead.c.next_on >= date(year, 1, 1))
        )
        pending = (
            sa.select(t.clock.c.uscc)
            .where(t.clock.c.partition == partition, t.clock.c.state.in_(_PENDING))
            .where(reaches | t.clock.c.provisional)
        )
        waiting = (
            sa.select(t.lead.c.uscc)
            .join(t.clock, t.clock.c.uscc == t.lead.c.uscc)
            .where(t.clock.c.partition == partition, waits)
        )
        return sorted(self._db.scalars(sa.union(pending, waiting)))

    def lead_unit(self, lead_id: str) -> str | None:
        """The unit that a lead is about."""
        uscc: str | None = self._db.scalar(sa.select(t.lead.c.uscc).where(t.lead.c.id == lead_id))
        return uscc

    def add_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends to the history of leads."""
        insert_rows(self._db, t.lead_history, rows)

    # -- participations ----------------------------------------------------------------------------

    def put_participations(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keeps participations; of several rows of one, the last."""
        last = list({row["id"]: row for row in rows}.values())
        upsert_rows(self._db, t.participation, last, key="id", update=["state"])

    def starts(self, usccs: Collection[str]) -> dict[str, dict[int, date]]:
        """Per unit, id and start of every participation that counts as being insured."""
        found: dict[str, dict[int, date]] = {uscc: {} for uscc in usccs}
        columns = t.participation.c
        for row in self._db.execute(
            sa.select(columns.uscc, columns.id, columns.started_on).where(
                among(self._db, columns.uscc, usccs), *self._insured()
            )
        ):
            found[row.uscc][row.id] = row.started_on
        return found

    def _insured(self) -> tuple[sa.ColumnElement[bool], ...]:
        columns = t.participation.c
        return (
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

    def end_waiting(self, partition: int, through: date, *, now: datetime) -> None:
        """Lets the clocks and ladders go on that waited for data up to a day; they are due at once."""
        self._db.execute(
            sa.update(t.clock)
            .where(
                t.clock.c.partition == partition,
                t.clock.c.state == ClockState.WAITING,
                t.clock.c.deadline <= through,
            )
            .values(state=ClockState.RUNNING, look_at=t.clock.c.due_at)
        )
        here = sa.select(t.clock.c.uscc).where(t.clock.c.partition == partition)
        waits = t.lead.c.waits_for <= through, t.lead.c.uscc.in_(here)
        self._db.execute(sa.update(t.lead).where(*waits).values(waits_for=None, act_at=now))

    def years(self) -> list[Year]:
        """The calendar years received since the start."""
        return [
            Year(row.year, _days(row.holidays), _days(row.makeup_days), row.source)
            for row in self._db.execute(sa.select(t.calendar_year))
        ]

    def put_year(self, year: Year, told_at: datetime) -> bool:
        """Keeps a calendar year, unless a later one is kept; says whether it did."""
        kept = self._db.scalar(
            sa.select(t.calendar_year.c.told_at).where(t.calendar_year.c.year == year.year)
        )
        if kept is not None and told_at < kept:
            return False
        row = {
            "year": year.year,
            "holidays": sorted(day.isoformat() for day in year.holidays),
            "makeup_days": sorted(day.isoformat() for day in year.makeup_days),
            "source": year.source,
            "told_at": told_at,
        }
        upsert(
            self._db, t.calendar_year, [row], key=["year"], update=[name for name in row if name != "year"]
        )
        return True

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

    def add_visits(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds the visits that are not there yet."""
        insert_new(self._db, t.visit, rows, key=["id"])

    def visited_for(self, notice_ids: Collection[str]) -> set[str]:
        """Which of these notices a visit was asked for."""
        return set(
            self._db.scalars(sa.select(t.visit.c.notice_id).where(t.visit.c.notice_id.in_(notice_ids)))
        )

    def visit(self, id_: str) -> Any | None:
        """One visit."""
        return self._db.execute(sa.select(t.visit).where(t.visit.c.id == id_).with_for_update()).first()

    def loaded_leads(self) -> set[str]:
        """The leads of the cases that were loaded."""
        return {lead["id"] for _, _, lead in self._loaded.values() if lead}

    def standing_visits(self, leads: Collection[str]) -> list[Any]:
        """The visits of some leads that nobody has made yet, first asked first."""
        return list(
            self._db.execute(
                sa.select(*_VISIT)
                .where(among(self._db, t.visit.c.lead_id, leads), t.visit.c.state.in_(_STANDS))
                .order_by(t.visit.c.seq)
            )
        )

    def move_visit(self, id_: str, state: VisitState, *, now: datetime) -> None:
        """Opens a visit that had joined another, or cancels one."""
        closed_at = now if state is VisitState.CANCELLED else None
        self._db.execute(
            sa.update(t.visit).where(t.visit.c.id == id_).values(state=state, closed_at=closed_at)
        )

    def close_visit(self, id_: str, *, result: str, note: str | None, now: datetime) -> None:
        """Writes down what a visit found."""
        self._db.execute(
            sa.update(t.visit)
            .where(t.visit.c.id == id_)
            .values(state=VisitState.DONE, result=result, note=note, closed_at=now)
        )

    def cancel_visits(self, episodes: Collection[tuple[str, int]], *, now: datetime) -> None:
        """Nobody has to look in for these episodes of leads any more."""
        if episodes:
            # One statement for all of them: the leads by the index, then of each lead the episodes meant.
            named = t.visit.c.lead_id + ":" + sa.cast(t.visit.c.episode, sa.Text)
            self._db.execute(
                sa.update(t.visit)
                .where(
                    among(self._db, t.visit.c.lead_id, sorted({lead for lead, _ in episodes})),
                    among(self._db, named, [f"{lead}:{episode}" for lead, episode in sorted(episodes)]),
                    t.visit.c.state.in_(_STANDS),
                )
                .values(state=VisitState.CANCELLED, closed_at=now)
            )

    # -- exemptions --------------------------------------------------------------------------------

    def put_exemption(self, row: Mapping[str, Any]) -> bool:
        """Keeps the exemption of a unit in place of an earlier one; True when there was none."""
        known = self._db.scalar(sa.select(t.exemption.c.uscc).where(t.exemption.c.uscc == row["uscc"]))
        upsert(self._db, t.exemption, [row], key=["uscc"], update=[name for name in row if name != "uscc"])
        return known is None

    def lift_exemption(self, uscc: str, *, now: datetime) -> None:
        """Takes the exemption of a unit back."""
        self._db.execute(
            sa.update(t.exemption)
            .where(t.exemption.c.uscc == uscc, t.exemption.c.lifted_at.is_(None))
            .values(lifted_at=now)
        )

    # -- the daily check ---------------------------------------------------------------------------

    def put_check(self, row: Mapping[str, Any]) -> None:
        """Keeps the result of a day's check."""
        upsert(self._db, t.funnel_check, [row], key=["day"], update=[name for name in row if name != "day"])


def _as_loaded(record: Clock | Lead | None) -> dict[str, Any] | None:
    return dict(vars(record)) if record else None


_IN_STOCK = (t.clock.c.reason == sa.literal_column(f"'{STOCK}'")) & (t.clock.c.state == ClockState.HELD)
# Written out, not bound: only so SQLite sees that the partial index holds the answer.


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


def next_advance(db: sa.Connection) -> datetime | None:
    """The instant of the earliest step of a lead that a wait leads up to."""
    found: datetime | None = db.scalar(
        sa.select(t.lead.c.act_at).where(t.lead.c.act_at.is_not(None)).order_by(t.lead.c.act_at).limit(1)
    )
    return found


def count_due(db: sa.Connection, now: datetime) -> int:
    """Clocks that time has changed something for."""
    return db.scalar(sa.select(sa.func.count()).select_from(t.clock).where(t.clock.c.look_at <= now)) or 0


def count_clocks(db: sa.Connection) -> list[Any]:
    """How many clocks stand alike: state, reason, number."""
    alike = (t.clock.c.state, t.clock.c.reason)
    return list(db.execute(sa.select(*alike, sa.func.count().label("number")).group_by(*alike)))


def count_leads(db: sa.Connection, *, town: str | None) -> list[Any]:
    """How many leads stand alike: state, end, stage, notice, messaged, number."""
    alike = [t.lead.c[name] for name in _ALIKE]
    return list(
        db.execute(
            sa.select(*alike, sa.func.count().label("number"))
            .join(t.unit, t.unit.c.uscc == t.lead.c.uscc)
            .where(*_in_town(town))
            .group_by(*alike)
        )
    )


def count_all_leads(db: sa.Connection) -> int:
    """How many leads there are, whatever is known of their unit."""
    return db.scalar(sa.select(sa.func.count()).select_from(t.lead)) or 0


def count_overdue(db: sa.Connection, day: date, *, town: str | None) -> int:
    """Open leads whose next date lies before a day."""
    return (
        db.scalar(
            sa.select(sa.func.count())
            .select_from(t.lead.join(t.unit, t.unit.c.uscc == t.lead.c.uscc))
            .where(t.lead.c.state != LeadState.ENDED, t.lead.c.next_on < day, *_in_town(town))
        )
        or 0
    )


def count_lost(db: sa.Connection) -> int:
    """Open leads that nobody owns, or that lack a next step or a date for it."""
    lacks = (t.lead.c.owner == "") | t.lead.c.next_step.is_(None) | t.lead.c.next_on.is_(None)
    return (
        db.scalar(
            sa.select(sa.func.count()).select_from(t.lead).where(t.lead.c.state != LeadState.ENDED, lacks)
        )
        or 0
    )


def last_check(db: sa.Connection) -> Any | None:
    """The newest daily check."""
    return db.execute(sa.select(t.funnel_check).order_by(t.funnel_check.c.day.desc()).limit(1)).first()


def stock(db: sa.Connection, *, town: str | None) -> list[Any]:
    """The stock queue by town: town, number, oldest deadline."""
    return list(
        db.execute(
            sa.select(
                t.unit.c.town,
                sa.func.count().label("number"),
                sa.func.min(t.clock.c.deadline).label("oldest"),
            )
            .join(t.unit, t.unit.c.uscc == t.clock.c.uscc)
            .where(_IN_STOCK, *_in_town(town))
            .group_by(t.unit.c.town)
            .order_by(t.unit.c.town)
        )
    )


def list_exemptions(
    db: sa.Connection, *, uscc: str | None, town: str | None, after: str, limit: int
) -> list[Any]:
    """Exemptions with their unit's name and town, by USCC; one more than `limit` when there are more."""
    wanted = [] if uscc is None else [t.exemption.c.uscc == uscc]
    return list(
        db.execute(
            sa.select(t.exemption, t.unit.c.name.label("unit_name"), t.unit.c.town)
            .join(t.unit, t.unit.c.uscc == t.exemption.c.uscc)
            .where(t.exemption.c.uscc > after, *wanted, *_in_town(town))
            .order_by(t.exemption.c.uscc)
            .limit(limit + 1)
        )
    )


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
    uscc: str | None = None,
    skip: int = 0,
) -> list[Any]:
    """Visits with unit's name and state of the lead, oldest first; one more than `limit` when there are more.

    One that joined another is the same walk: it is there only where its state is asked for.
    """
    towns = {where for where in (asked_town, town) if where is not None}
    wanted = [
        t.visit.c.state == state if state else t.visit.c.state != VisitState.JOINED,
        *(t.visit.c.town == where for where in towns),
        *([] if uscc is None else [t.visit.c.uscc == uscc]),
    ]
    return list(
        db.execute(
            sa.select(t.visit, t.unit.c.name.label("unit_name"), t.lead.c.state.label("lead_state"))
            .join(t.unit, t.unit.c.uscc == t.visit.c.uscc)
            .join(t.lead, t.lead.c.id == t.visit.c.lead_id)
            .where(t.visit.c.seq > after, *wanted)
            .order_by(t.visit.c.seq)
            .limit(limit + 1)
            .offset(skip)
        )
    )


def leads_alike(db: sa.Connection, alike: Sequence[Any], limit: int, *, skip: int) -> list[Any]:
    """Leads that stand as one of these rows of `count_leads`, the earliest deadline first."""
    groups = [
        sa.and_(*(t.lead.c[name].is_not_distinct_from(getattr(row, name)) for name in _ALIKE))
        for row in alike
    ]
    return _first_leads(db, sa.or_(sa.false(), *groups), limit, skip)


def overdue_leads(db: sa.Connection, day: date, limit: int, *, skip: int) -> list[Any]:
    """The leads of `count_overdue`, the earliest deadline first."""
    return _first_leads(db, (t.lead.c.state != LeadState.ENDED) & (t.lead.c.next_on < day), limit, skip)


def _first_leads(db: sa.Connection, where: sa.ColumnElement[bool], limit: int, skip: int) -> list[Any]:
    ordered = _leads().where(where).order_by(t.lead.c.deadline, t.lead.c.id)
    return list(db.execute(ordered.limit(limit).offset(skip)))


def count_held(db: sa.Connection) -> list[Any]:
    """Held leads by why they are held: held (the list as JSON text), number."""
    why = sa.cast(t.lead.c.held, sa.Text).label("why")
    return list(
        db.execute(
            sa.select(why, sa.func.count().label("number"))
            .where(t.lead.c.state == LeadState.HELD)
            .group_by(why)
            .order_by(why)
        )
    )


def count_standing(db: sa.Connection) -> list[Any]:
    """Clocks that have run out, or stand still, and go on by a fact alone.

    By state and reason: state, reason, number, and for those that wait for data the day through which it is
    complete (None: never declared), the earliest of theirs.
    """
    complete_here = (t.completeness.c.dataset == PARTICIPATIONS) & (
        t.completeness.c.partition == t.clock.c.partition
    )
    return list(
        db.execute(
            sa.select(
                t.clock.c.state,
                t.clock.c.reason,
                sa.func.count().label("number"),
                sa.func.min(t.completeness.c.through).label("through"),
            )
            .select_from(_CLOCKS.outerjoin(t.completeness, complete_here))
            .where(t.clock.c.state.in_(_STANDING))
            .group_by(t.clock.c.state, t.clock.c.reason)
            .order_by(t.clock.c.state, t.clock.c.reason)
        )
    )


def standing_clocks(
    db: sa.Connection, state: str, reason: str | None, limit: int, *, skip: int
) -> tuple[int, list[Any]]:
    """How many clocks stand so, and the first of them."""
    return _first_clocks(
        db, (t.clock.c.state == state) & t.clock.c.reason.is_not_distinct_from(reason), limit, skip
    )


def clocks_ending(
    db: sa.Connection, first: date, last: date, limit: int, *, skip: int = 0
) -> tuple[int, list[Any]]:
    """How many clocks run out on these days, and the first of them."""
    ends = (t.clock.c.state == ClockState.RUNNING) & t.clock.c.deadline.between(first, last)
    return _first_clocks(db, ends, limit, skip)


def _first_clocks(
    db: sa.Connection, where: sa.ColumnElement[bool], limit: int, skip: int
) -> tuple[int, list[Any]]:
    total = db.scalar(sa.select(sa.func.count()).select_from(_CLOCKS).where(where)) or 0
    rows = db.execute(
        sa.select(t.clock, t.unit.c.name.label("unit_name"), t.unit.c.town)
        .select_from(_CLOCKS)
        .where(where)
        .order_by(t.clock.c.deadline, t.clock.c.uscc)
        .limit(limit)
        .offset(skip)
    )
    return total, list(rows)


def open_visits(db: sa.Connection, limit: int, *, skip: int = 0) -> tuple[int, list[Any]]:
    """How many visits are open, and the first of them."""
    state = VisitState.OPEN.value
    total = db.scalar(sa.select(sa.func.count()).select_from(t.visit).where(t.visit.c.state == state)) or 0
    found = list_visits(db, asked_town=None, state=state, town=None, after=0, limit=limit, skip=skip)
    return total, found[:limit]


_CLOCKS = t.clock.join(t.unit, t.unit.c.uscc == t.clock.c.uscc)
_STANDING = (ClockState.WAITING, ClockState.HELD, ClockState.SUSPENDED)
_ALIKE = ("state", "end", "stage", "notice", "messaged")


def _leads() -> sa.Select[Any]:
    return sa.select(t.lead, t.unit.c.name.label("unit_name"), t.unit.c.kind, t.unit.c.town).join(
        t.unit, t.unit.c.uscc == t.lead.c.uscc
    )


def _in_town(town: str | None) -> list[sa.ColumnElement[bool]]:
    return [] if town is None else [t.unit.c.town == town]


def _days(texts: Iterable[str]) -> frozenset[date]:
    return frozenset(date.fromisoformat(text) for text in texts)
