"""What may be done to registry's facts, one function per use case.

The two that come in great numbers take a list and answer per item; a later item sees what an earlier one did.
`within` is the town that the caller is limited to, None for no limit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from operator import itemgetter
from typing import Any

from services.registry.domain import (
    UNDIVIDED,
    Contact,
    Declared,
    Doubt,
    First,
    Form,
    Insurance,
    Participation,
    Person,
    RejectedRow,
    Spell,
    Unit,
    UnitKind,
    UnitStatus,
    cancelled,
    closed,
    corrected,
    ended,
    live_day,
    participation_doubts,
    read_id_number,
    resumed,
    spell_faults,
    suspended,
    unit_doubts,
    unit_faults,
    year_faults,
)
from services.registry.store import Store
from services.registry.work import RegistryWork
from shared.calendar import Year
from shared.errors import FieldError, Problem, not_found, unprocessable
from shared.events.registry import (
    ContactChanged,
    Counted,
    DataComplete,
    IntakeSettled,
    ParticipationCancelled,
    ParticipationEnded,
    ParticipationStarted,
    ReferenceChanged,
    UnitChanged,
    UnitClosed,
    UnitRegistered,
)
from shared.identifiers import check_uscc
from shared.privacy import scrub
from shared.storage.committer import list_command, touches
from shared.storage.work import Cause

# -- units -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RegisterUnit:
    """A unit as a department supplies it."""

    cause: Cause
    within: str | None
    uscc: str
    name: str
    kind: UnitKind
    established_on: date | None
    town: str | None = None
    address: str | None = None
    industry: str | None = None
    contacts: tuple[Contact, ...] = ()
    origin: str = "single"


@dataclass(frozen=True)
class ChangeUnit:
    """Corrections: `changes` holds fields of Unit, `contacts` the whole new list or None to keep it."""

    cause: Cause
    within: str | None
    uscc: str
    changes: Mapping[str, Any]
    contacts: tuple[Contact, ...] | None
    if_match: int | None = None


@dataclass(frozen=True)
class MoveUnit:
    """A unit is closed, suspended or resumed on a day."""

    cause: Cause
    within: str | None
    uscc: str
    on: date
    if_match: int | None = None


@dataclass(frozen=True)
class Registered:
    """A unit as it stands afterwards."""

    unit: Unit
    contacts: tuple[Contact, ...]
    is_new: bool = False

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """What somebody should look at."""
        return unit_doubts(self.unit, self.contacts)


@touches(lambda item: (item.uscc,))
@list_command
def register_units(work: RegistryWork, items: Sequence[RegisterUnit]) -> list[Registered | Problem]:
    """New units. One that is known already with the same facts stays as it is; with others it is a problem."""
    units = work.store.units(item.uscc for item in items)
    contacts = work.store.contacts(units) if units else {}
    new: list[tuple[RegisterUnit, Unit]] = []
    outcomes: list[Registered | Problem] = []
    for item in items:
        problem = _registration_problem(work, item, units.get(item.uscc), contacts.get(item.uscc, ()))
        if problem is None and item.uscc not in units:
            unit = units[item.uscc] = _unit(work, item)
            contacts[item.uscc] = item.contacts
            new.append((item, unit))
            outcomes.append(Registered(unit, item.contacts, is_new=True))
        else:
            outcomes.append(problem or Registered(units[item.uscc], item.contacts))
    supplied = {item.uscc: item.contacts for item, _ in new if item.contacts}
    work.store.add_units([unit for _, unit in new])
    work.store.add_contacts(supplied)
    letters = work.store.letters(supplied)
    for item, unit in new:
        _tell_registered(work, item, unit, letters.get(item.uscc))
    return outcomes


def change_unit(work: RegistryWork, item: ChangeUnit) -> Registered:
    """Corrects facts, contacts, or confirms the code. What changes nothing leaves no trace."""
    before, contacts = _known(work, item)
    after = corrected(before, item.changes, work.city, work.today)
    changed = sorted(key for key in item.changes if getattr(after, key) != getattr(before, key))
    if item.contacts is not None and item.contacts != contacts:
        contacts = item.contacts
        after = replace(after, contact_version=after.contact_version + 1)
        work.store.save_contacts({item.uscc: contacts})
        letter = work.store.letters({item.uscc: contacts})[item.uscc]
        _tell_contacts(work, item.cause, after, letter)
        changed.append("contacts")
    if not changed:
        return Registered(before, contacts)
    after = replace(after, version=before.version + 1)
    work.store.save_unit(after)
    work.emit(UnitChanged(**_facts(after), changed=changed), cause=item.cause)
    work.audit("unit_changed", item.uscc, cause=item.cause, changed=changed, version=after.version)
    return Registered(after, contacts)


def suspend_unit(work: RegistryWork, item: MoveUnit) -> Registered:
    """Out of business for a while."""
    return _move(work, item, suspended)


def resume_unit(work: RegistryWork, item: MoveUnit) -> Registered:
    """In business again."""
    return _move(work, item, resumed)


def close_unit(work: RegistryWork, item: MoveUnit) -> Registered:
    """Ended for good."""
    return _move(work, item, closed)


def _move(work: RegistryWork, item: MoveUnit, rule: Callable[[Unit, date, date], Unit]) -> Registered:
    before, contacts = _known(work, item)
    after = rule(before, item.on, work.today)
    if after is before:
        return Registered(before, contacts)
    after = replace(after, version=before.version + 1)
    work.store.save_unit(after)
    if after.status is UnitStatus.CLOSED:
        work.emit(UnitClosed(**_facts(after), closed_on=item.on), cause=item.cause)
    else:
        work.emit(UnitChanged(**_facts(after), changed=["status"]), cause=item.cause)
    work.audit(f"unit_{rule.__name__}", item.uscc, cause=item.cause, on=str(item.on), version=after.version)
    return Registered(after, contacts)


@dataclass(frozen=True)
class RepublishContacts:
    """A portion of at most `limit` units whose contacts are to be told again: of the named ones, else of all."""

    cause: Cause
    limit: int
    usccs: tuple[str, ...] = ()
    after: str = ""


def republish_contacts(work: RegistryWork, item: RepublishContacts) -> list[str]:
    """Tells the contacts of units as they stand, under the version they have; gives the units, by code.

    Whoever has them already does nothing; who lost them has them again.
    """
    units = work.store.units_with_contacts(item.usccs, after=item.after, limit=item.limit)
    contacts = work.store.contacts(unit.uscc for unit in units)
    letters = work.store.letters(contacts)
    for unit in units:
        _tell_contacts(work, item.cause, unit, letters[unit.uscc])
    if units:
        work.audit(
            "contacts_republished", units[0].uscc, cause=item.cause, units=len(units), last=units[-1].uscc
        )
    return [unit.uscc for unit in units]


def _known(work: RegistryWork, item: ChangeUnit | MoveUnit) -> tuple[Unit, tuple[Contact, ...]]:
    """The unit that the caller may see, in the version it insists on."""
    unit = work.store.units([item.uscc]).get(item.uscc)
    if unit is None or item.within not in (None, unit.town):
        raise no_such_unit()
    if item.if_match not in (None, unit.version):
        raise Problem(
            412,
            "precondition_failed",
            zh="该单位已被更改，请重新读取后再改",
            en="the unit was changed meanwhile; read it again, then change it",
        )
    return unit, work.store.contacts([item.uscc]).get(item.uscc, ())


def no_such_unit() -> Problem:
    """404 for a unit that is not registered, or not the caller's to see."""
    return not_found("没有该统一社会信用代码的单位", "there is no unit with this code")


_SUPPLIED = ("name", "kind", "established_on", "town", "address", "industry")


def _registration_problem(
    work: RegistryWork, item: RegisterUnit, known: Unit | None, contacts: tuple[Contact, ...]
) -> Problem | None:
    if faults := unit_faults(vars(item), work.city, work.today):
        return unprocessable(faults)
    if item.within not in (None, item.town) or (known and item.within not in (None, known.town)):
        return _outside_town()
    if known is None:
        return None
    differing = [name for name in _SUPPLIED if getattr(item, name) != getattr(known, name)]
    if item.contacts != contacts:
        differing.append("contacts")
    if not differing:
        return None
    return Problem(
        409,
        "unit_differs",
        zh="该单位已登记且内容不同，更正请用 PATCH",
        en="the unit is registered with other facts; correct it with PATCH",
        errors=[
            FieldError(f"/{name}", "differs", "与已登记的不同", "is not as registered") for name in differing
        ],
    )


def _outside_town() -> Problem:
    return Problem(403, "outside_town", zh="只能办理本镇街的单位", en="only for units of your own town")


def _unit(work: RegistryWork, item: RegisterUnit) -> Unit:
    return Unit(
        uscc=item.uscc,
        name=item.name,
        kind=item.kind,
        established_on=item.established_on,
        town=item.town,
        address=item.address,
        industry=item.industry,
        code_confirmed=check_uscc(item.uscc).check_ok,
        contact_version=1 if item.contacts else 0,
        recorded_at=work.now,
        origin=item.origin,
    )


def _tell_registered(work: RegistryWork, item: RegisterUnit, unit: Unit, letter: str | None) -> None:
    work.emit(UnitRegistered(**_facts(unit)), cause=item.cause)
    if letter is not None:
        _tell_contacts(work, item.cause, unit, letter)
    work.audit("unit_registered", unit.uscc, cause=item.cause, contacts=len(item.contacts))


def _tell_contacts(work: RegistryWork, cause: Cause, unit: Unit, letter: str) -> None:
    work.emit(ContactChanged(uscc=unit.uscc, version=unit.contact_version, sealed=letter), cause=cause)


def _facts(unit: Unit) -> dict[str, Any]:
    return {
        "uscc": unit.uscc,
        "unit_name": unit.name,
        "kind": unit.kind.value,
        "status": unit.status.value,
        "established_on": unit.established_on,
        "town": unit.town,
        "industry": unit.industry,
        "code_confirmed": unit.code_confirmed,
        "contact_version": unit.contact_version,
        "version": unit.version,
        "origin": unit.origin,
        "recorded_at": unit.recorded_at,
    }


# -- participations --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecordParticipation:
    """Somebody is insured, as the owner of the data says. The ID number comes as it was written.

    `batch_id` is the file that it stands in.
    """

    cause: Cause
    within: str | None
    uscc: str | None
    id_number: str
    name: str
    insurance: Insurance
    form: Form
    kind: Declared
    started_on: date
    batch_id: str | None = None


@dataclass(frozen=True)
class EndParticipation:
    """A participation ended on a day."""

    cause: Cause
    within: str | None
    id: int
    ended_on: date


@dataclass(frozen=True)
class CancelParticipation:
    """A participation was recorded in error."""

    cause: Cause
    within: str | None
    id: int
    reason: str


@dataclass(frozen=True)
class Recorded:
    """A participation as it stands afterwards. `first_ever`: it counts as the person's first of the insurance."""

    participation: Participation
    person: Person
    first_ever: bool
    doubts: tuple[Doubt, ...] = ()
    is_new: bool = False


@dataclass(frozen=True)
class _Claim:
    """An item that is sound in itself."""

    item: RecordParticipation
    id_number: str
    unit: Unit | None
    doubts: tuple[Doubt, ...]


@list_command
def record_participations(
    work: RegistryWork, items: Sequence[RecordParticipation]
) -> list[Recorded | Problem]:
    """New participations, registering their people on the way. One that is known already stays as it is.

    Either settles what earlier files said of the same unit and person and could not be read.
    """
    units = work.store.units(item.uscc for item in items if item.uscc)
    claims = [_claim(work, item, units.get(item.uscc or "")) for item in items]
    people = _people(work, [claim for claim in claims if isinstance(claim, _Claim)])
    tokens = [person.token for person in people.values()]
    standing = {known.spell: known for known in work.store.standing(tokens)}
    firsts = work.store.firsts(tokens)
    whom, disputes = _disputes(work, items)

    # Ids come from the database, so the new ones are told apart first, inserted, and only then spoken of.
    new: dict[Spell, Participation] = {}
    found: list[tuple[_Claim, Spell] | Problem] = []
    for claim in claims:
        if isinstance(claim, Problem):
            found.append(claim)
            continue
        wanted = _participation(work, claim, people[claim.id_number])
        known = standing.setdefault(wanted.spell, wanted)
        if known is wanted:
            new[wanted.spell] = wanted
        found.append((claim, wanted.spell) if known.kind is wanted.kind else _other_kind())
    standing.update((added.spell, added) for added in work.store.add_participations(list(new.values())))

    outcomes: list[Recorded | Problem] = []
    decided: dict[tuple[int, Insurance], First] = {}
    for entry, digests in zip(found, whom, strict=True):
        if isinstance(entry, Problem):
            outcomes.append(entry)
            continue
        claim, spell = entry
        participation, person = standing[spell], people[claim.id_number]
        who = (person.token, participation.insurance)
        is_new = new.pop(spell, None) is not None
        if is_new and firsts.get(who, First()).participation_id is None:
            firsts[who] = decided[who] = First(participation.id, firsts.get(who, First()).version + 1)
        first = firsts[who]
        doubts = participation_doubts(
            unit_known=claim.unit is not None or participation.uscc is None,
            same_name=person.name == claim.item.name,
            before_unit=_is_before_unit(participation, claim.unit),
            others=claim.doubts,
        )
        outcome = Recorded(participation, person, first.participation_id == participation.id, doubts, is_new)
        if is_new:
            _tell_started(work, claim.item.cause, outcome, first)
        _settle_corrected(work, claim.item, digests, disputes)
        outcomes.append(outcome)
    work.store.save_firsts(decided)
    return outcomes


_Disputes = dict[str, dict[tuple[str, int], RejectedRow]]
"""Disputed rows by place, under each digest of whom they are about."""


def _disputes(
    work: RegistryWork, items: Sequence[RecordParticipation]
) -> tuple[list[tuple[str, ...]], _Disputes]:
    """For each item the digests of whom it is about, where its unit has disputes; and the disputes about them."""
    held = work.store.disputed(item.uscc for item in items if item.uscc)
    whom = [
        work.store.row_keys(item.uscc, item.id_number, item.name) if item.uscc in held else ()
        for item in items
    ]
    disputes: _Disputes = {}
    for row in work.store.disputes({digest for digests in whom for digest in digests}):
        for digest in row.keys:
            disputes.setdefault(digest, {})[row.batch_id, row.row] = row
    return whom, disputes


def _settle_corrected(
    work: RegistryWork, item: RecordParticipation, digests: Sequence[str], disputes: _Disputes
) -> None:
    """Settles the rows that this one corrects, and takes them out. Rows of its own file it leaves alone."""
    about = {
        place: row
        for digest in digests
        for place, row in disputes.get(digest, {}).items()
        if row.batch_id != item.batch_id
    }
    by = f"batch {item.batch_id}" if item.batch_id else "a single call"
    for place, row in sorted(about.items(), key=itemgetter(0)):
        settle_dispute(work, row, item.cause, reason=f"corrected by {by}")
        for digest in set(row.keys):  # number and name are one where columns are shifted
            del disputes[digest][place]


def settle_dispute(work: RegistryWork, row: RejectedRow, cause: Cause, *, reason: str) -> None:
    """A rejected row holds its unit no more."""
    assert row.uscc is not None  # noqa: S101 - a dispute is about a unit
    work.store.settle(row.batch_id, row.row)
    work.emit(IntakeSettled(uscc=row.uscc, batch_id=row.batch_id, row=row.row), cause=cause)
    work.audit("row_settled", row.uscc, cause=cause, batch=row.batch_id, row=row.row, reason=reason)


def end_participation(work: RegistryWork, item: EndParticipation) -> Recorded:
    """It ended on a day; it was true until then."""
    before = _existing(work, item)
    after = ended(before, item.ended_on, work.today)
    first = work.store.firsts([after.person]).get((after.person, after.insurance), First())
    if after is not before:
        work.store.save_participation(after)
        work.emit(ParticipationEnded(**_spell_facts(after, first), ended_on=item.ended_on), cause=item.cause)
        work.audit("participation_ended", str(item.id), cause=item.cause, ended_on=str(item.ended_on))
    return recorded(work.store, after)


def cancel_participation(work: RegistryWork, item: CancelParticipation) -> Recorded:
    """It never was. If it counted as the person's first, the earliest that is left counts from now on."""
    before = _existing(work, item)
    after = cancelled(before)
    who = (after.person, after.insurance)
    first = work.store.firsts([after.person]).get(who, First())
    if after is not before:
        work.store.save_participation(after)
        if first.participation_id == after.id:
            heir = work.store.earliest(*who)
            first = First(heir.id if heir else None, first.version + 1)
            work.store.save_firsts({who: first})
        counts_now = _counted(work, first)
        work.emit(
            ParticipationCancelled(**_spell_facts(after, first), counts_now=counts_now), cause=item.cause
        )
        work.audit("participation_cancelled", str(item.id), cause=item.cause, reason=scrub(item.reason))
    return recorded(work.store, after)


def _claim(work: RegistryWork, item: RecordParticipation, unit: Unit | None) -> _Claim | Problem:
    faults = spell_faults(item.form, item.uscc, item.started_on, work.today)
    number = read_id_number(item.id_number, work.today)
    if isinstance(number, FieldError):
        return unprocessable([*faults, number])
    if faults:
        return unprocessable(faults)
    if item.within not in (None, _town(unit)):
        return _outside_town()
    return _Claim(item, number[0], unit, number[1])


def _town(unit: Unit | None) -> str:
    return (unit.town if unit else None) or UNDIVIDED


def _people(work: RegistryWork, claims: Sequence[_Claim]) -> dict[str, Person]:
    known = work.store.people(claim.id_number for claim in claims)
    new: dict[str, str] = {}
    for claim in claims:
        if claim.id_number not in known:
            new.setdefault(claim.id_number, claim.item.name)
    return known | work.store.add_people(new)


def _participation(work: RegistryWork, claim: _Claim, person: Person) -> Participation:
    item = claim.item
    return Participation(
        id=0,
        person=person.token,
        insurance=item.insurance,
        form=item.form,
        uscc=item.uscc,
        started_on=item.started_on,
        kind=item.kind,
        town=_town(claim.unit),
        recorded_on=work.today,
    )


def _other_kind() -> Problem:
    return Problem(
        409,
        "participation_differs",
        zh="该参保记录已存在，但参保性质（kind）不同；如前次有误请先撤销",
        en="this participation is recorded with another kind; cancel that one first if it is wrong",
        errors=[FieldError("/kind", "differs", "与已记录的不同", "is not as recorded")],
    )


def _is_before_unit(participation: Participation, unit: Unit | None) -> bool:
    begins = unit.established_on if unit else None
    return begins is not None and participation.started_on < begins


def _tell_started(work: RegistryWork, cause: Cause, outcome: Recorded, first: First) -> None:
    facts = _spell_facts(outcome.participation, first)
    work.emit(ParticipationStarted(**facts, first_ever=outcome.first_ever), cause=cause)
    work.audit(
        "participation_recorded",
        str(outcome.participation.id),
        cause=cause,
        person=outcome.person.token,
        uscc=outcome.participation.uscc,
    )


def _existing(work: RegistryWork, item: EndParticipation | CancelParticipation) -> Participation:
    found = work.store.participation(item.id)
    if found is None or item.within not in (None, found.town):
        raise no_such_participation()
    return found


def no_such_participation() -> Problem:
    """404 for a participation that is not recorded, or not the caller's to see."""
    return not_found("没有该编号的参保记录", "there is no participation with this id")


def recorded(store: Store, participation: Participation) -> Recorded:
    """A participation as it stands, with its person."""
    # A person who was deleted on request leaves the participation under the token alone.
    person = store.person(participation.person) or Person(participation.person, "", "")
    first = store.firsts([person.token]).get((person.token, participation.insurance), First())
    return Recorded(participation, person, first.participation_id == participation.id)


def _counted(work: RegistryWork, first: First) -> Counted | None:
    counts = work.store.participation(first.participation_id) if first.participation_id else None
    if counts is None:
        return None
    return Counted(
        participation_id=counts.id,
        kind=counts.kind.value,
        town=counts.town,
        started_on=counts.started_on,
        recorded_on=counts.recorded_on,
    )


def _spell_facts(participation: Participation, first: First) -> dict[str, Any]:
    return {
        "participation_id": participation.id,
        "person": participation.person,
        "insurance": participation.insurance.value,
        "form": participation.form.value,
        "uscc": participation.uscc,
        "kind": participation.kind.value,
        "started_on": participation.started_on,
        "town": participation.town,
        "recorded_on": participation.recorded_on,
        "first_version": first.version,
    }


# -- data sets and calendar ------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeclareComplete:
    """A department says that everything about days up to `through` has been supplied."""

    cause: Cause
    department: str | None
    dataset: str
    through: date


@dataclass(frozen=True)
class PublishYear:
    """A year of the working-day calendar."""

    cause: Cause
    year: int
    holidays: tuple[date, ...]
    makeup_days: tuple[date, ...]
    source: str


def declare_complete(work: RegistryWork, item: DeclareComplete) -> date:
    """Moves a batch data set's day of completeness forward."""
    before = check_declaration(work, item)
    if item.through != before:
        _complete(work, item.dataset, item.through, item.cause)
    return item.through


def check_declaration(work: RegistryWork, item: DeclareComplete) -> date | None:
    """What was declared before. Raises Problem where this may not be declared now."""
    dataset = work.city.datasets.get(item.dataset)
    if dataset is None:
        raise not_found("没有该数据集", "there is no such data set")
    if item.department != dataset.owner:
        raise Problem(
            403,
            "not_the_owner",
            zh="只能由数据集的责任部门声明",
            en="only the department that owns it may say so",
        )
    if dataset.mode == "live":
        raise Problem(
            409,
            "live_dataset",
            zh="该数据集为实时方式，每日自动完整，无需声明",
            en="the data set is live: each day is complete by itself when it is over",
        )
    if item.through >= work.today:
        raise unprocessable(
            [
                FieldError(
                    "/through",
                    "not_over",
                    "须早于今天：当天结束后才能声明完整",
                    "must lie before today; declare a day when it is over",
                )
            ]
        )
    before = work.store.complete_through().get(item.dataset)
    if before is not None and item.through < before:
        raise Problem(
            409,
            "only_forward",
            zh=f"已声明完整至 {before}，不能后退",
            en=f"it was declared complete through {before} already; it only moves forward",
        )
    return before


def complete_live_days(work: RegistryWork, _item: None = None) -> bool:
    """Says of each live data set that yesterday is complete, once. True when something was said.

    One of which a file is still being applied waits for it.
    """
    marks = work.store.complete_through()
    pending = {batch.dataset for batch in work.store.pending_batches()}
    days = {
        dataset.id: day
        for dataset in work.city.datasets.values()
        if dataset.mode == "live"
        and dataset.id not in pending
        and (day := live_day(marks.get(dataset.id), work.today))
    }
    for dataset, day in days.items():
        _complete(work, dataset, day, Cause("registry", f"complete:{dataset}:{day}"))
    return bool(days)


def _complete(work: RegistryWork, dataset: str, through: date, cause: Cause) -> None:
    work.store.save_complete(dataset, through)
    work.emit(DataComplete(dataset=dataset, through=through), cause=cause)
    work.audit("data_complete", dataset, cause=cause, through=str(through))


def publish_year(work: RegistryWork, item: PublishYear) -> Year:
    """Imports a year of the calendar; the other services' copies follow."""
    if faults := year_faults(item.year, item.holidays, item.makeup_days):
        raise unprocessable(faults)
    year = Year(item.year, frozenset(item.holidays), frozenset(item.makeup_days), item.source)
    if year != work.store.calendar_year(item.year):
        work.store.save_calendar_year(year)
        work.emit(
            ReferenceChanged(
                reference="calendar",
                year=year.year,
                holidays=sorted(year.holidays),
                makeup_days=sorted(year.makeup_days),
                source=year.source,
            ),
            cause=item.cause,
        )
        work.audit("calendar_published", str(year.year), cause=item.cause, source=year.source)
    return year
