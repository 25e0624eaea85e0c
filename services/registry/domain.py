"""What registry knows and the rules it keeps: pure values and functions. Who asks says what day it is.

A rule that changes something returns the new value, or the very same one where nothing changes; it raises
Problem where the change is impossible.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
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


def unit_doubts(unit: Unit, contacts: Sequence[Contact]) -> tuple[Doubt, ...]:
    """What somebody should look at, by the unit as it stands."""
    expected = _KIND_BY_CODE.get(unit.uscc[:2], unit.kind)
    doubts = {
        not unit.code_confirmed: Doubt(
            "code_unconfirmed",
            "统一社会信用代码校验位不符，请核对；确认无误后以 code_confirmed 确认",
            "the check character of the code does not fit; confirm it with code_confirmed if it is right",
        ),
        not check_uscc(unit.uscc).org_code_ok: Doubt(
            "organisation_code",
            "代码中的组织机构代码校验位不符，请核对",
            "the organisation code inside the code does not fit; check it",
        ),
    }
    found = [doubt for applies, doubt in doubts.items() if applies]
    return tuple(found) if expected == unit.kind and contacts else tuple(found)


