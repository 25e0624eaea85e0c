"""What registry knows and the rules it keeps: pure values and functions. Who asks says what day it is.

A rule that changes something returns the new value, or the very same one where nothing changes; it raises
Problem where the change is impossible.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from shared.calendar import Calendar
from shared.clock import start_of
from shared.errors import FieldError, Problem, unprocessable
from shared.identifiers import IdProblem, check_id_number, check_uscc

UNDIVIDED = "市直/未划分"
"""The town of a participation that belongs to no town."""
EARLIEST_START = date(1990, 1, 1)
"""No participation began before."""
AHEAD = timedelta(days=366)
"""How far ahead a participation may start or end."""


class UnitKind(StrEnum):
    """What sort of employer a unit is."""

    ENTERPRISE = "enterprise"
    SOLE_TRADER = "sole_trader"
    COOPERATIVE = "cooperative"
    SOCIAL_ORGANISATION = "social_organisation"
    PRIVATE_NON_ENTERPRISE = "private_non_enterprise"
    FOUNDATION = "foundation"
    LAW_FIRM = "law_firm"
    PUBLIC_INSTITUTION = "public_institution"
    GOVERNMENT_BODY = "government_body"
    VILLAGE_COLLECTIVE = "village_collective"
    OTHER = "other"


class UnitStatus(StrEnum):
    """active, suspended 歇业, revoked 吊销, closed 注销."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    CLOSED = "closed"


class ContactRole(StrEnum):
    """Who a contact is for the unit; agent is a bookkeeping agent 代账."""

    LEGAL_REPRESENTATIVE = "legal_representative"
    HR = "hr"
    FINANCE = "finance"
    AGENT = "agent"
    CONTACT = "contact"


class Insurance(StrEnum):
    """The branches of social insurance; pension is that of enterprises' workers."""

    PENSION = "pension"
    INSTITUTION_PENSION = "institution_pension"
    UNEMPLOYMENT = "unemployment"
    INJURY = "injury"
    MEDICAL = "medical"
    RESIDENT_PENSION = "resident_pension"
    OCCUPATIONAL_INJURY = "occupational_injury"


class Form(StrEnum):
    """Through whom somebody is insured; flexible is by oneself, without a unit."""

    EMPLOYER = "employer"
    FLEXIBLE = "flexible"
    PROJECT = "project"


class Declared(StrEnum):
    """What the owner of the data says a participation is."""

    FIRST = "first"
    RESUMED = "resumed"
    TRANSFERRED = "transferred"


class State(StrEnum):
    """A participation is in force, has ended, or never was (recorded in error)."""

    IN_FORCE = "in_force"
    ENDED = "ended"
    CANCELLED = "cancelled"


Mode = Literal["live", "batch"]


@dataclass(frozen=True)
class DataSet:
    """How a data set is known to be complete, and which department may say so."""

    id: str
    mode: Mode
    owner: str
    name: str


@dataclass(frozen=True)
class City:
    """What the city pack says."""

    towns: frozenset[str]
    datasets: Mapping[str, DataSet]
    calendar: Calendar


@dataclass(frozen=True)
class Doubt:
    """Something accepted that somebody should look at."""

    code: str
    zh: str
    en: str


@dataclass(frozen=True)
class Contact:
    """Somebody to write to at a unit; the mobile is 11 digits."""

    role: ContactRole
    name: str
    mobile: str


@dataclass(frozen=True)
class Unit:
    """An employer. `version` grows with every change, `contact_version` with every list of contacts."""

    uscc: str
    name: str
    kind: UnitKind
    established_on: date | None
    town: str | None
    address: str | None
    industry: str | None
    code_confirmed: bool
    contact_version: int
    recorded_at: datetime
    status: UnitStatus = UnitStatus.ACTIVE
    suspended_on: date | None = None
    resumed_on: date | None = None
    closed_on: date | None = None
    wrong_data_at: datetime | None = None
    version: int = 1
    origin: str = "single"


@dataclass(frozen=True)
class Person:
    """Somebody, by the token that stands for them everywhere else."""

    token: int
    id_number: str
    name: str


@dataclass(frozen=True)
class Spell:
    """What makes a participation the same one: a resumed spell never overwrites an ended one."""

    person: int
    insurance: Insurance
    form: Form
    uscc: str | None
    started_on: date


@dataclass(frozen=True)
class Participation:
    """One spell of one person in one insurance. `town` is fixed when recorded."""

    id: int
    person: int
    insurance: Insurance
    form: Form
    uscc: str | None
    started_on: date
    kind: Declared
    town: str
    recorded_on: date
    state: State = State.IN_FORCE
    ended_on: date | None = None

    @property
    def spell(self) -> Spell:
        """Its key."""
        return Spell(self.person, self.insurance, self.form, self.uscc, self.started_on)


@dataclass(frozen=True)
class First:
    """Which participation counts as a person's first of an insurance; the highest `version` holds."""

    participation_id: int | None = None
    version: int = 0


# -- units -----------------------------------------------------------------------------------------------

# First two characters of a code: who registered it as what (GB 32100-2015, annex A).
_KIND_BY_CODE = {
    "91": UnitKind.ENTERPRISE,
    "92": UnitKind.SOLE_TRADER,
    "93": UnitKind.COOPERATIVE,
    "51": UnitKind.SOCIAL_ORGANISATION,
    "52": UnitKind.PRIVATE_NON_ENTERPRISE,
    "53": UnitKind.FOUNDATION,
    "31": UnitKind.LAW_FIRM,
    "11": UnitKind.GOVERNMENT_BODY,
    "12": UnitKind.PUBLIC_INSTITUTION,
    "N1": UnitKind.VILLAGE_COLLECTIVE,
    "N2": UnitKind.VILLAGE_COLLECTIVE,
    "N3": UnitKind.VILLAGE_COLLECTIVE,
}


_CODE_UNCONFIRMED = Doubt(
    "code_unconfirmed",
    "统一社会信用代码校验位不符，请核对；确认无误后以 code_confirmed 确认",
    "the check character of the code does not fit; if the code is right, confirm it with code_confirmed",
)
_ORGANISATION_CODE = Doubt(
    "organisation_code",
    "代码第9至17位（主体标识码）校验不符，请核对",
    "characters 9 to 17 of the code (the organisation code) do not fit each other; check them",
)
_KIND_MISMATCH = Doubt(
    "kind_mismatch",
    "单位类型与统一社会信用代码前两位不符，请核对",
    "the kind is not the one that the code's first two characters stand for; check both",
)
_NO_CONTACT = Doubt(
    "no_contact",
    "没有联系人，无法发送提醒，请补充",
    "there is no contact, so no reminder can be sent; add one",
)
_MARKED_WRONG = Doubt(
    "marked_wrong",
    "数据比对认定该单位信息有误，请核对更正",
    "matching found the data of this unit wrong; check and correct it",
)
_UNKNOWN_UNIT = Doubt(
    "unknown_unit",
    "该统一社会信用代码的单位尚未登记，参保记录先行保留",
    "no unit with this code is registered yet; the record is kept until it is",
)
_BEFORE_UNIT = Doubt(
    "before_unit",
    "参保开始日期早于该单位成立日期，请核对；记录已接收并停止该单位期限计算",
    "it began before the unit was established; it is taken all the same and stops the unit's clock: check both",
)
_AREA_CODE = Doubt(
    "area_code",
    "身份证号码前两位不是已知的省级代码，请核对",
    "the first two digits of the ID number are no known province",
)
_NAME_DIFFERS = Doubt(
    "name_differs",
    "该身份证号码此前登记的姓名不同，请核对；姓名未更改",
    "this ID number was recorded with another name, which stays; check both",
)


def unit_doubts(unit: Unit, contacts: Sequence[Contact]) -> tuple[Doubt, ...]:
    """What somebody should look at, by the unit as it stands."""
    checks = (
        (not unit.code_confirmed, _CODE_UNCONFIRMED),
        (not check_uscc(unit.uscc).org_code_ok, _ORGANISATION_CODE),
        (_KIND_BY_CODE.get(unit.uscc[:2], unit.kind) != unit.kind, _KIND_MISMATCH),
        (not contacts, _NO_CONTACT),
        (unit.wrong_data_at is not None, _MARKED_WRONG),
    )
    return tuple(doubt for applies, doubt in checks if applies)


def unit_faults(facts: Mapping[str, Any], city: City, today: date) -> list[FieldError]:
    """What is wrong with supplied facts of a unit that depends on the day or the city."""
    faults = []
    if facts.get("town") is not None and facts["town"] not in city.towns:
        faults.append(
            FieldError(
                "/town",
                "unknown_town",
                "不是本市镇街名称，请按镇街名单填写，市直单位不填",
                "not the name of a town of this city; take it from the list, or leave it out",
            )
        )
    if facts.get("established_on") is not None and facts["established_on"] > today:
        faults.append(_in_future("/established_on"))
    return faults


def corrected(unit: Unit, changes: Mapping[str, Any], city: City, today: date) -> Unit:
    """The unit with some facts corrected. A correction takes the mark of wrong data away."""
    faults = unit_faults(changes, city, today)
    established_on = changes.get("established_on")
    if established_on and unit.closed_on and established_on > unit.closed_on:
        faults.append(_too_early("/established_on", "closed_on", before=False))
    if faults:
        raise unprocessable(faults)
    after = replace(unit, **changes)
    return unit if after == unit else replace(after, wrong_data_at=None)


def suspended(unit: Unit, on: date, today: date) -> Unit:
    """The unit out of business for a while (歇业) from a day on."""
    if unit.status is UnitStatus.SUSPENDED and unit.suspended_on == on:
        return unit
    if unit.status is not UnitStatus.ACTIVE:
        raise _wrong_status(unit, "只有正常经营的单位可以歇业", "only an active unit can be suspended")
    _check_day("/suspended_on", on, today, unit.resumed_on or unit.established_on)
    return replace(unit, status=UnitStatus.SUSPENDED, suspended_on=on, resumed_on=None)


def resumed(unit: Unit, on: date, today: date) -> Unit:
    """The unit in business again from a day on."""
    if unit.status is UnitStatus.ACTIVE and unit.resumed_on == on:
        return unit
    if unit.status is not UnitStatus.SUSPENDED:
        raise _wrong_status(unit, "只有歇业的单位可以恢复经营", "only a suspended unit can be resumed")
    _check_day("/resumed_on", on, today, unit.suspended_on)
    return replace(unit, status=UnitStatus.ACTIVE, resumed_on=on)


def closed(unit: Unit, on: date, today: date) -> Unit:
    """The unit ended (注销) on a day."""
    if unit.status is UnitStatus.CLOSED:
        if unit.closed_on == on:
            return unit
        raise _wrong_status(unit, "该单位已注销，注销日期不同", "the unit is closed already, on another day")
    _check_day("/closed_on", on, today, unit.established_on)
    return replace(unit, status=UnitStatus.CLOSED, closed_on=on)


def _wrong_status(unit: Unit, zh: str, en: str) -> Problem:
    return Problem(
        409, "wrong_status", zh=f"{zh}（当前状态：{unit.status}）", en=f"{en}; it is {unit.status}"
    )


def _check_day(pointer: str, day: date, today: date, not_before: date | None) -> None:
    if day > today:
        raise unprocessable([_in_future(pointer)])
    if not_before and day < not_before:
        raise unprocessable([_too_early(pointer, str(not_before))])


def _in_future(pointer: str) -> FieldError:
    return FieldError(pointer, "in_future", "日期不得晚于今天", "must not lie in the future")


def _too_early(pointer: str, limit: str, *, before: bool = True) -> FieldError:
    if before:
        return FieldError(pointer, "too_early", f"日期不得早于 {limit}", f"must not be before {limit}")
    return FieldError(pointer, "too_late", f"日期不得晚于 {limit}", f"must not be after {limit}")


# -- participations --------------------------------------------------------------------------------------

_ID_FAULTS = {
    IdProblem.LENGTH: ("须为18位（或15位旧号码）", "must have 18 characters (or the 15 of an old number)"),
    IdProblem.ALPHABET: ("须为数字，末位可为X", "must be digits; the last may be X"),
    IdProblem.DATE: ("其中的出生日期不存在", "the date of birth in it does not exist"),
    IdProblem.TOO_EARLY: ("其中的出生日期早于1900年", "the date of birth in it lies before 1900"),
    IdProblem.FUTURE: ("其中的出生日期晚于今天", "the date of birth in it lies in the future"),
    IdProblem.CHECK_DIGIT: ("校验位不符，请核对", "the check digit does not fit; check the number"),
}


def read_id_number(text: str, today: date) -> tuple[str, tuple[Doubt, ...]] | FieldError:
    """An ID number with its 18 characters and doubts about it, or why it is none."""
    check = check_id_number(text, today=today)
    if check.problem is not None:
        zh, en = _ID_FAULTS[check.problem]
        return FieldError(
            "/person/id_number", f"id_number_{check.problem}", f"身份证号码{zh}", f"ID number: {en}"
        )
    return check.value, () if check.area_known else (_AREA_CODE,)


def spell_faults(form: Form, uscc: str | None, started_on: date, today: date) -> list[FieldError]:
    """What is wrong with a participation whatever the person."""
    faults = []
    if form is Form.FLEXIBLE and uscc is not None:
        faults.append(
            FieldError(
                "/uscc", "not_expected", "灵活就业参保不填单位代码", "leave it out: flexible form has no unit"
            )
        )
    if form is not Form.FLEXIBLE and uscc is None:
        faults.append(FieldError("/uscc", "required", "单位或项目参保须填单位代码", "this form needs a unit"))
    if started_on < EARLIEST_START:
        faults.append(_too_early("/started_on", str(EARLIEST_START)))
    if started_on > today + AHEAD:
        faults.append(_too_early("/started_on", str(today + AHEAD), before=False))
    return faults


def participation_doubts(
    *, unit_known: bool, same_name: bool, before_unit: bool, others: Sequence[Doubt] = ()
) -> tuple[Doubt, ...]:
    """What somebody should look at in a participation."""
    checks = (
        (not unit_known, _UNKNOWN_UNIT),
        (not same_name, _NAME_DIFFERS),
        (before_unit, _BEFORE_UNIT),
    )
    return (*others, *(doubt for applies, doubt in checks if applies))


def ended(participation: Participation, on: date, today: date) -> Participation:
    """The participation ended on a day; it was true until then."""
    if participation.state is State.ENDED and participation.ended_on == on:
        return participation
    if participation.state is not State.IN_FORCE:
        raise Problem(
            409,
            "wrong_state",
            zh="该参保记录已终止（日期不同）或已撤销",
            en="the participation has ended on another day, or was cancelled",
        )
    if on < participation.started_on:
        raise unprocessable([_too_early("/ended_on", str(participation.started_on))])
    if on > today + AHEAD:
        raise unprocessable([_too_early("/ended_on", str(today + AHEAD), before=False)])
    return replace(participation, state=State.ENDED, ended_on=on)


def cancelled(participation: Participation) -> Participation:
    """The participation was recorded in error: it never was."""
    if participation.state is State.CANCELLED:
        return participation
    return replace(participation, state=State.CANCELLED)


# -- completeness ----------------------------------------------------------------------------------------


def live_day(through: date | None, today: date) -> date | None:
    """The day that a live set is to be called complete through, None when that is said already."""
    yesterday = today - timedelta(days=1)
    return yesterday if through is None or through < yesterday else None


def live_due(through: date | None, now: datetime) -> datetime:
    """When the next day of a live set is over; `now` when nothing was ever said."""
    return now if through is None else start_of(through + timedelta(days=2))


def late_days(mode: Mode, through: date | None, today: date) -> int:
    """How many days a batch set lags behind the day before yesterday; 1 when nothing was ever declared."""
    if mode == "live":
        return 0
    expected = today - timedelta(days=2)
    return 1 if through is None else max((expected - through).days, 0)


def year_faults(year: int, holidays: Sequence[date], makeup_days: Sequence[date]) -> list[FieldError]:
    """What is wrong with a year of the working-day calendar."""
    faults = [
        FieldError(f"/{name}/{n}", "other_year", f"须为 {year} 年的日期", f"must be a day of {year}")
        for name, days in (("holidays", holidays), ("makeup_days", makeup_days))
        for n, day in enumerate(days)
        if day.year != year
    ]
    for n, day in enumerate(makeup_days):
        if day.isoweekday() <= 5:
            faults.append(
                FieldError(
                    f"/makeup_days/{n}",
                    "not_a_weekend",
                    "补班日须为周六或周日",
                    "must be a Saturday or Sunday",
                )
            )
        if day in holidays:
            faults.append(
                FieldError(
                    f"/makeup_days/{n}", "also_a_holiday", "该日同时列为放假", "is a holiday too; decide"
                )
            )
    return faults


# -- the last look ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """May a message about this unit go? What would void its ground, and the facts it rests on."""

    uscc: str
    insurances: Collection[Insurance]
    mode: Literal["any", "all"]
    forms: Collection[Form]
    name: str
    kind: UnitKind
    established_on: date | None
    town: str | None
    contact_version: int


Hold = Literal[
    "unknown_subject",
    "insured",
    "row_disputed",
    "not_active",
    "code_unconfirmed",
    "fact_differs",
    "contact_newer",
]


def look(
    question: Question,
    unit: Unit | None,
    in_force: Collection[tuple[Insurance, Form]],
    *,
    disputed: bool = False,
) -> Hold | None:
    """Why the message must wait, None when it may go.

    `in_force` is what the unit's people have today, or had: an enrolment that has ended ends a lead all the
    same, so its message must not slip out before the event arrives. `disputed`: a row that could not be read
    may say that somebody is insured.
    """
    covered = {
        insurance
        for insurance, form in in_force
        if insurance in question.insurances and form in question.forms
    }
    asked = set(question.insurances)
    void = bool(covered) if question.mode == "any" else covered == asked
    if void:
        return "insured"
    if unit is None:
        return "unknown_subject"
    facts = (question.name, question.kind, question.established_on, question.town)
    checks: tuple[tuple[bool, Hold], ...] = (
        (disputed, "row_disputed"),
        (unit.status is not UnitStatus.ACTIVE, "not_active"),
        (not unit.code_confirmed, "code_unconfirmed"),
        (facts != (unit.name, unit.kind, unit.established_on, unit.town), "fact_differs"),
        (question.contact_version != unit.contact_version, "contact_newer"),
    )
    return next((reason for applies, reason in checks if applies), None)


# -- batches ---------------------------------------------------------------------------------------------


WITHDRAWN = "withdrawn"
"""Origin of a unit that only a file spoke of which was withdrawn."""


class BatchState(StrEnum):
    """What became of a file: refused as a whole, or applied row by row; and perhaps taken back again."""

    RECEIVED = "received"
    APPLYING = "applying"
    APPLIED = "applied"
    REFUSED = "refused"
    WITHDRAWING = "withdrawing"
    WITHDRAWN = "withdrawn"


PENDING = frozenset({BatchState.RECEIVED, BatchState.APPLYING, BatchState.WITHDRAWING})
"""States of a batch of which more will come."""


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a file or a row, and what to do about it; `column` is the heading it stands under."""

    code: str
    zh: str
    en: str
    column: str = ""


@dataclass(frozen=True)
class Batch:
    """A file that a department sent, and how far it is applied.

    `position` and `line` are the byte and the line behind the last row applied, `layout` how it is read,
    `rows` how many there are. `client` and `correlation` are those of the request that brought it, or that
    withdrew it: then `taken_back` and `kept` count what it had brought, and `replaced` says whether another
    file is to take its place. `file` is the id that the file is kept under since it was sent again.
    """

    id: str
    dataset: str
    department: str
    sha256: str
    size: int
    complete_through: date | None
    client: str
    correlation: str
    received_at: datetime
    state: BatchState = BatchState.RECEIVED
    layout: Mapping[str, Any] = field(default_factory=dict)
    position: int = 0
    line: int = 0
    rows: int = 0
    accepted: int = 0
    unchanged: int = 0
    rejected: int = 0
    problems: tuple[Trouble, ...] = ()
    ended_at: datetime | None = None
    replaced: bool | None = None
    taken_back: int = 0
    kept: int = 0
    file: str | None = None

    @property
    def is_over(self) -> bool:
        """Nothing more will come of it by itself."""
        return self.state not in PENDING

    @property
    def file_id(self) -> str:
        """The id that its file is kept under."""
        return self.file or self.id


@dataclass(frozen=True)
class Effect:
    """What a row of a batch brought: a unit (in a version), a participation, or only the end of a known one."""

    batch_id: str
    row: int
    uscc: str | None = None
    participation_id: int | None = None
    version: int | None = None
    recorded: bool = True
    ended_on: date | None = None


@dataclass(frozen=True)
class RejectedRow:
    """A row that was not applied: the line itself and what is wrong with it.

    `uscc` is the unit of a participation that may be insured after all, `keys` are digests of who it is about.
    `disputed`: messages to the unit wait until it is settled; None where the row concerns no unit.
    """

    batch_id: str
    row: int
    text: str
    troubles: tuple[Trouble, ...]
    uscc: str | None = None
    keys: tuple[str, ...] = ()
    disputed: bool | None = None
