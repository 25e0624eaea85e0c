"""Every statement that registry sends to its database. Seals people's data on the way in, opens it on the way out."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from services.registry.domain import (
    PENDING,
    Batch,
    BatchState,
    Contact,
    ContactRole,
    Declared,
    Effect,
    First,
    Form,
    Insurance,
    Participation,
    Person,
    RejectedRow,
    State,
    Trouble,
    Unit,
    UnitKind,
    UnitStatus,
)
from services.registry.tables import (
    BATCH,
    BATCH_EFFECT,
    CALENDAR_YEAR,
    CONTACT,
    DATASET,
    DISPUTE_KEY,
    FIRST_PARTICIPATION,
    PARTICIPATION,
    PERSON,
    REJECTED_ROW,
    UNIT,
)
from shared.calendar import Year
from shared.ids import new_token
from shared.privacy import Cipher, Index
from shared.storage.bulk import among, insert_rows
from shared.storage.database import insert_new, upsert


@dataclass(frozen=True)
class Vault:
    """What protects people's data.

    `records` seals what lies here, `people` finds a person by ID number, `letters` seals contacts on their way
    to other services.
    """

    records: Cipher
    people: Index
    letters: Cipher
    new_token: Callable[[], int] = new_token


class Store:
    """Reads and writes on one connection."""

    def __init__(self, db: sa.Connection, vault: Vault) -> None:
        self._db = db
        self._vault = vault

    # -- units ---------------------------------------------------------------------------------------

    def units(self, usccs: Iterable[str]) -> dict[str, Unit]:
        """The known units among these codes."""
        return {unit.uscc: unit for unit in self._units(UNIT.c.uscc.in_(set(usccs)))}

    def unit_page(
        self,
        *,
        towns: Collection[str],
        insured: bool | None,
        q: str | None,
        after: str,
        limit: int,
        today: date,
        skip: int = 0,
    ) -> list[Unit]:
        """Units behind the code `after`, by code, without so many of the first.

        Of all these towns (none given: of any), by part of the name or beginning of the code, and by whether
        anybody is insured through them as an employer today.
        """
        where: list[sa.ColumnElement[bool]] = [UNIT.c.uscc > after, *(UNIT.c.town == name for name in towns)]
        if q is not None:
            where.append(
                UNIT.c.name.contains(q, autoescape=True) | UNIT.c.uscc.startswith(q, autoescape=True)
            )
        if insured is not None:
            where.append(_insures(today) if insured else ~_insures(today))
        return self._units(*where, limit=limit, skip=skip)

    def units_with_contacts(self, usccs: Collection[str], *, after: str, limit: int) -> list[Unit]:
        """Those of the named units (none named: of all) that ever had contacts, behind `after`, by code."""
        where = [UNIT.c.contact_version > 0, UNIT.c.uscc > after]
        return self._units(*where, *([UNIT.c.uscc.in_(usccs)] if usccs else []), limit=limit)

    def count_units(self, today: date, *, insured: bool | None = None) -> int:
        """How many units `unit_page` has in all, of all towns."""
        where = [] if insured is None else [_insures(today) if insured else ~_insures(today)]
        return self._db.scalar(sa.select(sa.func.count()).select_from(UNIT).where(*where)) or 0

    def _units(
        self, *where: sa.ColumnElement[bool], limit: int | None = None, skip: int | None = None
    ) -> list[Unit]:
        rows = self._db.execute(sa.select(UNIT).where(*where).order_by(UNIT.c.uscc).limit(limit).offset(skip))
        return [
            Unit(**{**row._mapping, "kind": UnitKind(row.kind), "status": UnitStatus(row.status)})
            for row in rows
        ]

    def add_units(self, units: Sequence[Unit]) -> None:
        """New units."""
        insert_rows(self._db, UNIT, [_row(unit) for unit in units])

    def save_unit(self, unit: Unit) -> None:
        """A unit that changed."""
        self._db.execute(sa.update(UNIT).where(UNIT.c.uscc == unit.uscc).values(_row(unit)))

    def mark_wrong(self, marks: Mapping[str, datetime]) -> None:
        """Notes when the data of units was found wrong."""
        if marks:
            self._db.execute(
                sa.update(UNIT)
                .where(UNIT.c.uscc == sa.bindparam("code"))
                .values(wrong_data_at=sa.bindparam("at")),
                [{"code": uscc, "at": at} for uscc, at in marks.items()],
            )

    def contacts(self, usccs: Iterable[str]) -> dict[str, tuple[Contact, ...]]:
        """The contacts of those units that ever had any."""
        rows = self._db.execute(sa.select(CONTACT).where(CONTACT.c.uscc.in_(set(usccs))))
        return {row.uscc: self._open_contacts(row.uscc, row.sealed) for row in rows}

    def add_contacts(self, lists: Mapping[str, Sequence[Contact]]) -> None:
        """The first contacts of units."""
        insert_rows(self._db, CONTACT, self._contact_rows(lists))

    def save_contacts(self, lists: Mapping[str, Sequence[Contact]]) -> None:
        """Replaces the contacts of units."""
        upsert(self._db, CONTACT, self._contact_rows(lists), key=["uscc"], update=["sealed"])

    def _contact_rows(self, lists: Mapping[str, Sequence[Contact]]) -> list[dict[str, Any]]:
        sealed = self._vault.records.seal_all(_by_context(lists))
        return [{"uscc": uscc, "sealed": sealed[f"contacts:{uscc}"]} for uscc in lists]

    def _open_contacts(self, uscc: str, sealed: bytes) -> tuple[Contact, ...]:
        plain = json.loads(self._vault.records.open(sealed, context=f"contacts:{uscc}"))
        return tuple(Contact(ContactRole(item["role"]), item["name"], item["mobile"]) for item in plain)

    def letters(self, lists: Mapping[str, Sequence[Contact]]) -> dict[str, str]:
        """The contacts of units, sealed for the other services."""
        sealed = self._vault.letters.seal_texts(_by_context(lists))
        return {uscc: sealed[f"contacts:{uscc}"] for uscc in lists}

    # -- people --------------------------------------------------------------------------------------

    def people(self, id_numbers: Iterable[str]) -> dict[str, Person]:
        """Those of these people who are known, by ID number."""
        numbers = {self._vault.people.of(number): number for number in id_numbers}
        rows = self._db.execute(sa.select(PERSON).where(PERSON.c.id_index.in_(numbers)))
        return {numbers[row.id_index]: self._open_person(row.token, row.sealed) for row in rows}

    def person(self, token: int) -> Person | None:
        """The person behind a token."""
        row = self._db.execute(sa.select(PERSON).where(PERSON.c.token == token)).first()
        return self._open_person(token, row.sealed) if row else None

    def add_people(self, names: Mapping[str, str]) -> dict[str, Person]:
        """Gives new people (ID number → name) their tokens."""
        people = [Person(self._vault.new_token(), number, name) for number, name in names.items()]
        rows = [
            {
                "token": person.token,
                "id_index": self._vault.people.of(person.id_number),
                "sealed": self._vault.records.seal(
                    _json({"id_number": person.id_number, "name": person.name}),
                    context=f"person:{person.token}",
                ),
            }
            for person in people
        ]
        insert_rows(self._db, PERSON, rows)
        return {person.id_number: person for person in people}

    def _open_person(self, token: int, sealed: bytes) -> Person:
        return Person(token, **json.loads(self._vault.records.open(sealed, context=f"person:{token}")))

    # -- participations ------------------------------------------------------------------------------

    def participation(self, id_: int) -> Participation | None:
        """One participation, whatever its state."""
        return next(iter(self._participations(PARTICIPATION.c.id == id_)), None)

    def standing(self, people: Iterable[int]) -> list[Participation]:
        """Every participation of these people that was not cancelled."""
        return self._participations(
            PARTICIPATION.c.person.in_(set(people)), PARTICIPATION.c.state != State.CANCELLED.value
        )

    def earliest(self, person: int, insurance: Insurance) -> Participation | None:
        """The earliest participation of a person in an insurance that was not cancelled."""
        found = (item for item in self.standing([person]) if item.insurance is insurance)
        return min(found, key=lambda item: (item.started_on, item.id), default=None)

    def _participations(self, *where: sa.ColumnElement[bool]) -> list[Participation]:
        return [_participation(row) for row in self._db.execute(sa.select(PARTICIPATION).where(*where))]

    def has_participations(self, uscc: str) -> bool:
        """Whether anything was recorded through a unit that was not cancelled."""
        where = PARTICIPATION.c.uscc == uscc, PARTICIPATION.c.state != State.CANCELLED.value
        return bool(self._db.scalar(sa.select(sa.exists().where(*where))))

    def add_participations(self, participations: Sequence[Participation]) -> list[Participation]:
        """New participations, returned with the ids the database gave them, in order."""
        if not participations:
            return []
        rows = [{key: value for key, value in _row(item).items() if key != "id"} for item in participations]
        insert = sa.insert(PARTICIPATION).returning(PARTICIPATION.c.id, sort_by_parameter_order=True)
        ids = self._db.execute(insert, rows).scalars()
        return [replace(item, id=id_) for item, id_ in zip(participations, ids, strict=True)]

    def save_participation(self, participation: Participation) -> None:
        """A participation that ended or was cancelled."""
        self._db.execute(
            sa.update(PARTICIPATION)
            .where(PARTICIPATION.c.id == participation.id)
            .values(state=participation.state.value, ended_on=participation.ended_on)
        )

    def firsts(self, people: Iterable[int]) -> dict[tuple[int, Insurance], First]:
        """What counts as these people's firsts."""
        rows = self._db.execute(
            sa.select(FIRST_PARTICIPATION).where(FIRST_PARTICIPATION.c.person.in_(set(people)))
        )
        return {
            (row.person, Insurance(row.insurance)): First(row.participation_id, row.version) for row in rows
        }

    def save_firsts(self, firsts: Mapping[tuple[int, Insurance], First]) -> None:
        """New decisions about firsts."""
        rows = [
            {"person": person, "insurance": insurance.value, **asdict(first)}
            for (person, insurance), first in firsts.items()
        ]
        upsert(
            self._db,
            FIRST_PARTICIPATION,
            rows,
            key=["person", "insurance"],
            update=["participation_id", "version"],
        )

    def in_force(
        self, usccs: Iterable[str], today: date, *, ended: bool = False
    ) -> dict[str, dict[tuple[Insurance, Form], int]]:
        """How many people are insured today through each of these units, by insurance and form.

        With `ended`, those count too whose participation began and has ended since.
        """
        columns = (PARTICIPATION.c.uscc, PARTICIPATION.c.insurance, PARTICIPATION.c.form)
        rows = self._db.execute(
            sa.select(*columns, sa.func.count(PARTICIPATION.c.person.distinct()).label("people"))
            .where(PARTICIPATION.c.uscc.in_(set(usccs)), *_in_force(today)[: 2 if ended else 3])
            .group_by(*columns)
        )
        found: dict[str, dict[tuple[Insurance, Form], int]] = {}
        for row in rows:
            found.setdefault(row.uscc, {})[Insurance(row.insurance), Form(row.form)] = row.people
        return found

    # -- data sets and calendar ----------------------------------------------------------------------

    def complete_through(self) -> dict[str, date]:
        """How far each data set is known to be complete; one of which nothing was said is absent."""
        return {row.id: row.complete_through for row in self._db.execute(sa.select(DATASET))}

    def save_complete(self, dataset: str, through: date) -> None:
        """A data set is complete through a day."""
        row = {"id": dataset, "complete_through": through}
        upsert(self._db, DATASET, [row], key=["id"], update=["complete_through"])

    def calendar_year(self, year: int) -> Year | None:
        """An imported year."""
        row = self._db.execute(sa.select(CALENDAR_YEAR).where(CALENDAR_YEAR.c.year == year)).first()
        if row is None:
            return None
        holidays, makeup_days = (
            frozenset(map(date.fromisoformat, days)) for days in (row.holidays, row.makeup_days)
        )
        return Year(year, holidays, makeup_days, row.source)

    def save_calendar_year(self, year: Year) -> None:
        """An imported year."""
        row = {
            "year": year.year,
            "holidays": sorted(map(str, year.holidays)),
            "makeup_days": sorted(map(str, year.makeup_days)),
            "source": year.source,
        }
        upsert(self._db, CALENDAR_YEAR, [row], key=["year"], update=["holidays", "makeup_days", "source"])

    # -- batches -------------------------------------------------------------------------------------

    def batch(self, id_: str) -> Batch | None:
        """One batch."""
        return next(iter(self._batches(BATCH.c.id == id_)), None)

    def same_file(self, department: str, dataset: str, sha256: str) -> Batch | None:
        """The batch that this file became when its owner sent it before."""
        wanted = (BATCH.c.department == department, BATCH.c.dataset == dataset, BATCH.c.sha256 == sha256)
        return next(iter(self._batches(*wanted)), None)

    def pending_batches(self) -> list[Batch]:
        """Batches that are not over, in the order in which they came."""
        return self._batches(BATCH.c.state.in_(PENDING))

    def add_effects(self, effects: Sequence[Effect]) -> None:
        """Keeps what rows of a batch brought."""
        insert_rows(self._db, BATCH_EFFECT, [vars(effect) for effect in effects])

    def effects(self, batch_id: str, limit: int) -> list[Effect]:
        """What a batch brought and nobody has taken back yet, by line."""
        wanted = sa.select(BATCH_EFFECT).where(BATCH_EFFECT.c.batch_id == batch_id)
        rows = self._db.execute(wanted.order_by(BATCH_EFFECT.c.row).limit(limit))
        return [Effect(**row._mapping) for row in rows]

    def forget_effects(self, batch_id: str, through: int) -> None:
        """They were dealt with, up to a line."""
        where = BATCH_EFFECT.c.batch_id == batch_id, BATCH_EFFECT.c.row <= through
        self._db.execute(sa.delete(BATCH_EFFECT).where(*where))

    def count_batches(self) -> dict[tuple[str], int]:
        """How many batches are in each state; a state without any is not in it."""
        rows = self._db.execute(sa.select(BATCH.c.state, sa.func.count()).group_by(BATCH.c.state))
        return {(state,): number for state, number in rows}

    def batch_page(
        self, department: str | None, *, dataset: str | None, before: str | None, limit: int
    ) -> list[Any]:
        """Batches of a department, the newest first, those older than an id."""
        wanted = [BATCH.c.department == department]
        wanted += [BATCH.c.dataset == dataset] if dataset is not None else []
        wanted += [BATCH.c.id < before] if before is not None else []
        found = sa.select(BATCH).where(*wanted).order_by(BATCH.c.id.desc()).limit(limit)
        return list(self._db.execute(found))

    def _batches(self, *where: sa.ColumnElement[bool]) -> list[Batch]:
        rows = self._db.execute(sa.select(BATCH).where(*where).order_by(BATCH.c.id))  # ids grow with time
        return [
            Batch(
                **{
                    **row._mapping,
                    "state": BatchState(row.state),
                    "problems": tuple(Trouble(**item) for item in row.problems),
                }
            )
            for row in rows
        ]

    def add_batch(self, batch: Batch) -> None:
        """A new batch."""
        insert_rows(self._db, BATCH, [_batch_row(batch)])

    def save_batch(self, batch: Batch) -> None:
        """A batch that got on."""
        self._db.execute(sa.update(BATCH).where(BATCH.c.id == batch.id).values(_batch_row(batch)))

    def add_rejected(self, rejected: Sequence[RejectedRow]) -> None:
        """Keeps rows that were not applied, with what is wrong with them. One that is kept already stays."""
        rows = []
        for item in rejected:
            row = vars(item) | {"keys": list(item.keys)}
            secret = {
                "text": row.pop("text"),
                "troubles": [asdict(trouble) for trouble in row.pop("troubles")],
            }
            sealed = self._vault.records.seal(_json(secret), context=f"row:{item.batch_id}:{item.row}")
            rows.append({**row, "sealed": sealed})
        new = set(insert_new(self._db, REJECTED_ROW, rows, key=["batch_id", "row"]))
        keys = [
            {"digest": digest, "batch_id": item.batch_id, "row": item.row}
            for item in rejected
            if item.disputed and (item.batch_id, item.row) in new
            for digest in set(item.keys)
        ]
        insert_rows(self._db, DISPUTE_KEY, keys)

    def rejected(self, batch_id: str, *, after: int, limit: int) -> list[RejectedRow]:
        """Rejected rows of a batch behind a line, by line."""
        where = (REJECTED_ROW.c.batch_id == batch_id, REJECTED_ROW.c.row > after)
        return self._rejected(*where, limit=limit)

    def disputed(self, usccs: Iterable[str]) -> set[str]:
        """Those of these units that a disputed row speaks of."""
        where = (REJECTED_ROW.c.uscc.in_(set(usccs)), REJECTED_ROW.c.disputed)
        return set(self._db.scalars(sa.select(REJECTED_ROW.c.uscc).where(*where).distinct()))

    def disputes(self, digests: Collection[str]) -> list[RejectedRow]:
        """Disputed rows that have one of these among their keys."""
        if not digests:
            return []
        places = sa.select(DISPUTE_KEY.c.batch_id, DISPUTE_KEY.c.row).where(
            among(self._db, DISPUTE_KEY.c.digest, digests)
        )
        return self._rejected(sa.tuple_(REJECTED_ROW.c.batch_id, REJECTED_ROW.c.row).in_(places))

    def disputes_of(self, batch_id: str, limit: int) -> list[RejectedRow]:
        """Disputed rows of a batch, by line."""
        return self._rejected(REJECTED_ROW.c.batch_id == batch_id, REJECTED_ROW.c.disputed, limit=limit)

    def open_disputes(self, batch_id: str) -> int:
        """How many rows of a batch are disputed."""
        where = (REJECTED_ROW.c.batch_id == batch_id, REJECTED_ROW.c.disputed)
        return self._db.scalar(sa.select(sa.func.count()).select_from(REJECTED_ROW).where(*where)) or 0

    def settle(self, batch_id: str, row: int) -> None:
        """A row is disputed no more."""
        where = (REJECTED_ROW.c.batch_id == batch_id, REJECTED_ROW.c.row == row)
        self._db.execute(sa.update(REJECTED_ROW).where(*where).values(disputed=False))
        self._db.execute(
            sa.delete(DISPUTE_KEY).where(DISPUTE_KEY.c.batch_id == batch_id, DISPUTE_KEY.c.row == row)
        )

    def _rejected(self, *where: sa.ColumnElement[bool], limit: int | None = None) -> list[RejectedRow]:
        rows = self._db.execute(
            sa.select(REJECTED_ROW)
            .where(*where)
            .order_by(REJECTED_ROW.c.batch_id, REJECTED_ROW.c.row)
            .limit(limit)
        )
        return [self._open_row(row) for row in rows]

    def _open_row(self, row: sa.Row[Any]) -> RejectedRow:
        plain = json.loads(self._vault.records.open(row.sealed, context=f"row:{row.batch_id}:{row.row}"))
        return RejectedRow(
            batch_id=row.batch_id,
            row=row.row,
            text=plain["text"],
            troubles=tuple(Trouble(**item) for item in plain["troubles"]),
            uscc=row.uscc,
            keys=tuple(row.keys),
            disputed=row.disputed,
        )

    def row_keys(self, uscc: str, *names: str) -> tuple[str, ...]:
        """Keyed digests of what tells a person from the others of a unit: ID number, name."""
        return tuple(self._vault.people.of(f"{uscc}\n{name.strip().upper()}") for name in names if name)


def _insures(today: date) -> sa.ColumnElement[bool]:
    """Whether anybody is insured through a unit as an employer."""
    return sa.exists().where(
        PARTICIPATION.c.uscc == UNIT.c.uscc, PARTICIPATION.c.form == "employer", *_in_force(today)
    )


def _in_force(today: date) -> tuple[sa.ColumnElement[bool], ...]:
    table = PARTICIPATION.c
    return (
        table.state != State.CANCELLED.value,
        table.started_on <= today,
        table.ended_on.is_(None) | (table.ended_on >= today),
    )


def _row(value: Unit | Participation) -> dict[str, Any]:
    return {key: item.value if isinstance(item, StrEnum) else item for key, item in vars(value).items()}


def _participation(row: sa.Row[Any]) -> Participation:
    return Participation(
        **{
            **row._mapping,
            "insurance": Insurance(row.insurance),
            "form": Form(row.form),
            "kind": Declared(row.kind),
            "state": State(row.state),
        }
    )


def _batch_row(batch: Batch) -> dict[str, Any]:
    return {**vars(batch), "state": batch.state.value, "problems": [asdict(item) for item in batch.problems]}


def _by_context(lists: Mapping[str, Sequence[Contact]]) -> dict[str, bytes]:
    return {f"contacts:{uscc}": _contacts_json(contacts) for uscc, contacts in lists.items()}


def _contacts_json(contacts: Sequence[Contact]) -> bytes:
    return _json([{"role": item.role.value, "name": item.name, "mobile": item.mobile} for item in contacts])


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
