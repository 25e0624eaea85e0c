"""The HTTP contract of registry. What is shown of people is masked."""

import re
import unicodedata
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from services.registry.domain import (
    Batch,
    BatchState,
    Contact,
    ContactRole,
    Declared,
    Doubt,
    Form,
    Insurance,
    Mode,
    Participation,
    Person,
    Question,
    State,
    Unit,
    UnitKind,
    UnitStatus,
)
from shared.http import Body, Choice, Day, Flag, Listing, Many, Text, Whole, refuse
from shared.identifiers import MobileProblem, UsccProblem, check_mobile, check_uscc
from shared.privacy import mask_id_number, mask_mobile, mask_name, scrub

_USCC_FAULTS = {
    UsccProblem.LENGTH: ("须为18位", "must have 18 characters"),
    UsccProblem.ALPHABET: (
        "只能含数字和大写字母（不含 I、O、S、V、Z）",
        "may hold digits and capital letters only, without I, O, S, V, Z",
    ),
}
_MOBILE_FAULTS = {
    MobileProblem.LENGTH: ("须为11位", "must have 11 digits"),
    MobileProblem.ALPHABET: ("只能含数字", "may hold digits only"),
    MobileProblem.RANGE: ("不是手机号段", "is no number of a mobile network"),
    MobileProblem.THING: ("是物联网号段", "is a number for things, not for people"),
}
_NOT_IN_A_NAME = re.compile(
    r"[【】]|http|www|\w(?<!\bco)[.。](?:[a-z]{2,}|中国|公司|网络)|\d{1,3}(?:\.\d{1,3}){3}", re.IGNORECASE
)


def _uscc(text: str) -> str:
    check = check_uscc(text)
    if check.problem is not None:
        zh, en = _USCC_FAULTS[check.problem]
        raise refuse(
            f"uscc_{check.problem}", zh=f"统一社会信用代码{zh}", en=f"unified social credit code: {en}"
        )
    return check.value


def _mobile(text: str) -> str:
    check = check_mobile(text)
    if check.problem is not None:
        zh, en = _MOBILE_FAULTS[check.problem]
        raise refuse(f"mobile_{check.problem}", zh=f"手机号码{zh}", en=f"mobile number: {en}")
    return check.value


def _registered_name(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name)
    if _NOT_IN_A_NAME.search(plain) or scrub(plain) != plain:
        raise refuse(
            "suspicious_name",
            zh="单位名称不得含有网址、【】、手机号码或身份证号码，请按登记的名称填写",
            en="a registered name holds no web address, no 【】, and no number of a phone or a person;"
            " give it as it is registered",
        )
    return _no_formula(name)


def _no_formula(name: str) -> str:
    """A spreadsheet would take it for something to work out."""
    if unicodedata.normalize("NFKC", name).startswith(("=", "+", "@")):
        raise refuse(
            "suspicious_name",
            zh="名称不得以 =、+、@ 开头，请按登记的名称填写",
            en="a name does not begin with =, + or @; give it as it is registered",
        )
    return name


Uscc = Annotated[str, AfterValidator(_uscc)]
"""A unified social credit code of the right length and alphabet; a wrong check character passes."""
Mobile = Annotated[str, Text(32), AfterValidator(_mobile)]
"""A mobile number; +86 and blanks are taken away."""
Name = Annotated[str, Text(200, name=True), AfterValidator(_registered_name)]
"""A unit's registered name: it goes into messages and lists, so it holds no address of the net, no 【】, which
would pass for another sender, and no number of a person."""
PersonName = Annotated[str, Text(100, name=True), AfterValidator(_no_formula)]
Town = Annotated[str, Text(32)]
Address = Annotated[str, Text(200)]
Industry = Annotated[str, Field(pattern=r"^[A-T]([0-9]{2,4})?$")]
"""A code of GB/T 4754, like C1361."""

# -- what comes in ---------------------------------------------------------------------------------------


class ContactIn(Body):
    """Somebody to write to at a unit."""

    role: Choice[ContactRole]
    name: PersonName
    mobile: Mobile

    def contact(self) -> Contact:
        """As the domain has it."""
        return Contact(self.role, self.name, self.mobile)


Contacts = Annotated[Many[ContactIn], Listing(20)]


class UnitRowIn(Body):
    """A unit as a row of a file has it: the date may be unknown, then it gets no clock."""

    uscc: Uscc
    name: Name
    kind: Choice[UnitKind]
    established_on: Day | None = None
    town: Town | None = None
    address: Address | None = None
    industry: Industry | None = None
    contacts: Contacts = ()

    def facts(self) -> dict[str, Any]:
        """The fields of the command."""
        return {**dict(self), "contacts": tuple(item.contact() for item in self.contacts)}


class UnitIn(UnitRowIn):
    """A unit as it is registered."""

    established_on: Day


_ABSENT: Any = None


class UnitPatch(Body):
    """Only what is to change. `contacts` is the whole new list; a code can be confirmed, never the opposite."""

    name: Name = _ABSENT
    kind: Choice[UnitKind] = _ABSENT
    established_on: Day = _ABSENT
    town: Town | None = _ABSENT
    address: Address | None = _ABSENT
    industry: Industry | None = _ABSENT
    code_confirmed: Literal[True] = _ABSENT
    contacts: Contacts = _ABSENT

    def changes(self) -> dict[str, Any]:
        """The fields that were sent, contacts apart."""
        return {key: getattr(self, key) for key in self.model_fields_set - {"contacts"}}

    def new_contacts(self) -> tuple[Contact, ...] | None:
        """The new list, None where none was sent."""
        if "contacts" not in self.model_fields_set:
            return None
        return tuple(item.contact() for item in self.contacts)


class CloseIn(Body):
    """When a unit ended."""

    closed_on: Day


class SuspendIn(Body):
    """From when on a unit is out of business."""

    suspended_on: Day


class ResumeIn(Body):
    """From when on a unit is in business again."""

    resumed_on: Day


class PersonIn(Body):
    """Who is insured."""

    id_number: Annotated[str, Text(32)]
    name: PersonName


class ParticipationIn(Body):
    """Somebody is insured. `uscc` is left out for flexible form."""

    uscc: Uscc | None = None
    person: PersonIn
    insurance: Choice[Insurance]
    form: Choice[Form]
    kind: Choice[Declared]
    started_on: Day

    def facts(self) -> dict[str, Any]:
        """The fields of the command."""
        return {key: value for key, value in (dict(self) | dict(self.person)).items() if key != "person"}


class EndIn(Body):
    """The last day of a participation."""

    ended_on: Day


class CancelIn(Body):
    """Why a participation was recorded in error."""

    reason: Annotated[str, Text(200)]


class SettleIn(Body):
    """What became of a rejected row."""

    reason: Annotated[str, Text(200)]


class CompleteIn(Body):
    """The day through which everything has been supplied."""

    through: Day


class YearIn(Body):
    """A year of the working-day calendar: days off that the notice names, weekend days worked, the notice."""

    holidays: Annotated[Many[Day], Listing(366)]
    makeup_days: Annotated[Many[Day], Listing(366)]
    source: Annotated[str, Text(200)]


class RepublishIn(Body):
    """Whose contacts to tell again: those of the named units, else of the next ones behind `after`."""

    uscc: Annotated[Many[Uscc], Listing(500)] = ()
    after: Uscc | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 500


class SubjectIn(Body):
    """Whom a message is about."""

    uscc: Uscc


class VoidIn(Body):
    """Participations that leave a message without ground: any or all of these insurances, in these forms."""

    insurances: Annotated[Many[Choice[Insurance]], Listing(len(Insurance)), Field(min_length=1)]
    mode: Literal["any", "all"] = "any"
    forms: Annotated[Many[Choice[Form]], Listing(len(Form)), Field(min_length=1)]


class FactsIn(Body):
    """What the message rests on."""

    established_on: Day | None
    kind: Choice[UnitKind]
    name: Annotated[str, Field(max_length=200)]  # only compared: one odd name must not hold a whole look
    town: Town | None
    contact_version: Whole


class QuestionIn(Body):
    """Whether a message about this subject may go."""

    subject: SubjectIn
    void: VoidIn
    facts: FactsIn

    def question(self) -> Question:
        """As the domain has it."""
        return Question(**dict(self.subject), **dict(self.void), **dict(self.facts))


class LastLookIn(Body):
    """What is about to leave."""

    items: Annotated[Many[QuestionIn], Listing(1000)]


# -- what goes out ---------------------------------------------------------------------------------------


class Warned(BaseModel):
    """Something accepted that somebody should look at."""

    code: str
    zh: str
    en: str


class RepublishedOut(BaseModel):
    """How many units' contacts were told again; `next`: where to go on, null when there is nothing more."""

    republished: int
    next: str | None


class ContactOut(BaseModel):
    """A contact, masked."""

    role: ContactRole
    name: str
    mobile: str


class UnitRow(BaseModel):
    """A unit in a list."""

    uscc: str
    name: str
    kind: UnitKind
    status: UnitStatus
    established_on: date | None
    town: str | None
    address: str | None
    industry: str | None
    code_confirmed: bool
    contact_version: int
    version: int
    recorded_at: datetime
    suspended_on: date | None
    resumed_on: date | None
    closed_on: date | None

    @classmethod
    def of(cls, unit: Unit) -> "UnitRow":
        """As it is shown."""
        return cls.model_validate(unit, from_attributes=True)


class UnitOut(UnitRow):
    """A unit after a change."""

    contacts: list[ContactOut]
    warnings: list[Warned]


class UnitDetail(UnitOut):
    """A unit. `insured`: how many people it insures today, by insurance, in any form."""

    insured: dict[Insurance, int]


def unit_out(unit: Unit, contacts: tuple[Contact, ...], doubts: tuple[Doubt, ...]) -> dict[str, Any]:
    """The fields of UnitOut."""
    return {
        **UnitRow.of(unit).model_dump(),
        "contacts": [
            ContactOut(role=item.role, name=mask_name(item.name), mobile=mask_mobile(item.mobile))
            for item in contacts
        ],
        "warnings": warned(doubts),
    }


def warned(doubts: tuple[Doubt, ...]) -> list[Warned]:
    """As it is shown."""
    return [Warned(**vars(doubt)) for doubt in doubts]


class PersonOut(BaseModel):
    """A person, masked."""

    id_number: str
    name: str


class ParticipationOut(BaseModel):
    """A participation. `first_ever`: it counts as the person's first of this insurance."""

    id: int
    person: PersonOut
    uscc: str | None
    insurance: Insurance
    form: Form
    kind: Declared
    started_on: date
    ended_on: date | None
    state: State
    town: str
    recorded_on: date
    first_ever: bool
    warnings: list[Warned] = []

    @classmethod
    def of(
        cls, participation: Participation, person: Person, *, first_ever: bool, doubts: tuple[Doubt, ...] = ()
    ) -> "ParticipationOut":
        """As it is shown."""
        shown = PersonOut(id_number=mask_id_number(person.id_number), name=mask_name(person.name))
        facts = {**vars(participation), "person": shown}
        return cls(**facts, first_ever=first_ever, warnings=warned(doubts))


class DataSetOut(BaseModel):
    """How far a data set is known to be complete; None where nothing was said yet."""

    id: str
    name: str
    owner: str
    mode: Mode
    complete_through: date | None


class TroubleOut(BaseModel):
    """What is wrong with a file, and what to do about it."""

    code: str
    zh: str
    en: str


class BatchRow(BaseModel):
    """A file in a list. `rows` are those below the headings, known once the file has been read."""

    id: str
    dataset: str
    state: BatchState
    received_at: datetime
    rows: int
    accepted: int
    unchanged: int
    rejected: int


class BatchOut(BaseModel):
    """A file and what became of it.

    `rows` are the rows below the headings, known once the file has been read; `done` of them were looked at.
    `open_disputes` are rejected rows that hold messages to their unit. Of a withdrawn file `taken_back` and
    `kept` count what it had brought; `replaced`: a corrected one is to take its place.
    """

    id: str
    dataset: str
    state: BatchState
    sha256: str
    complete_through: date | None
    rows: int
    done: int
    accepted: int
    unchanged: int
    rejected: int
    open_disputes: int
    problems: list[TroubleOut]
    received_at: datetime
    ended_at: datetime | None
    replaced: bool | None
    taken_back: int
    kept: int

    @classmethod
    def of(cls, batch: Batch, open_disputes: int) -> "BatchOut":
        """As it is shown."""
        shown = {
            **vars(batch),
            "done": batch.accepted + batch.unchanged + batch.rejected,
            "problems": [TroubleOut.model_validate(item, from_attributes=True) for item in batch.problems],
        }
        return cls(
            **{name: shown[name] for name in cls.model_fields if name in shown}, open_disputes=open_disputes
        )


class WithdrawIn(Body):
    """Why a file is taken back. `replaced`: a corrected one is to take its place.

    Until it has, no unit with a participation in it is told that it insures nobody.
    """

    reason: Annotated[str, Text(200)]
    replaced: Flag = True


class SettledOut(BaseModel):
    """A rejected row that holds nothing any more."""

    batch_id: str
    row: int
    uscc: str


class YearOut(BaseModel):
    """A year of the working-day calendar."""

    year: int
    holidays: list[date]
    makeup_days: list[date]
    source: str


class Look(BaseModel):
    """go, or hold and why."""

    answer: Literal["go", "hold"]
    reason: str | None = None


class LastLookOut(BaseModel):
    """One answer per item, in order, all true at `as_of` or later."""

    as_of: datetime
    items: list[Look]
