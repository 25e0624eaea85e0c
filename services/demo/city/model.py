"""What a city is made of: people, units, the calls of the story, and the records of what was done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any, Final

from shared.clock import ZONE

START = datetime(2026, 1, 5, 10, tzinfo=ZONE)
END = START + timedelta(days=75)
# Nights on which the participation feed did not declare; it catches up on the next other night.
MISSED_NIGHTS = frozenset(
    {
        *(date(2026, 1, day) for day in (27, 28)),
        *(date(2026, 2, day) for day in (25, 26)),
        *(date(2026, 3, day) for day in (10, 11, 12)),
        *(date(2026, 3, day) for day in (20, 21)),
    }
)
DECLARES_AT = time(0, 20)

REGISTERS, INSURES = "ADM", "HRSS"  # the departments that act: approvals, social insurance


@dataclass(frozen=True)
class Person:
    """An invented person; no two share an ID number."""

    id_number: str
    name: str


@dataclass(frozen=True)
class Unit:
    """A unit as its department registers it, and what is true of it beside that.

    `phone` says what the carrier does to its number: ok, silent, refused, failing, dropped, duplicate, none;
    `wechat` what WeChat does to the follower that the phone belongs to: ok, silent, refused, failing, none.
    """

    uscc: str
    name: str
    kind: str
    established_on: date
    town: str
    industry: str
    address: str
    contact_role: str
    contact: Person
    mobile: str | None
    code_valid: bool
    phone: str
    fate: str
    openid: str | None = None
    wechat: str = "none"

    def body(self) -> dict[str, Any]:
        """The registration as HTTP wants it."""
        contact = {"role": self.contact_role, "name": self.contact.name, "mobile": self.mobile}
        return {
            "uscc": self.uscc,
            "name": self.name,
            "kind": self.kind,
            "established_on": self.established_on.isoformat(),
            "town": self.town,
            "address": self.address,
            "industry": self.industry,
            "contacts": [contact] if self.mobile else [],
        }


@dataclass(frozen=True)
class Find:
    """What `{id}` stands for: the id of the first item of a list that is as `where` says.

    With `names`, the reference number of the newest message that names one of them.
    """

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Action:
    """One call of the story, not before `at`. A body of bytes is a file.

    `{id}` in path and body is what was kept of the answer to the call `after`, or what `find` finds. `facts`
    are true once the call was answered 2xx, and a file applied; a fact without a uscc of its own is about
    `uscc`. `keeps` names the field of the answer that is kept.
    """

    key: str
    at: datetime
    method: str
    path: str
    body: Any
    department: str
    uscc: str | None = None
    after: str | None = None
    find: Find | None = None
    facts: tuple[Mapping[str, Any], ...] = ()
    keeps: str = "id"


@dataclass(frozen=True)
class Done:
    """An action that was answered: business instants before the request and after the answer, what was kept."""

    asked_at: datetime
    answered_at: datetime
    kept: Any = None


_OF_ALL: Final = {"declared": "declared", "sending": "sending", "verified": "answers", "errors": "answers"}
"""Where the records keep what is no fact of one unit."""


@dataclass(frozen=True)
class City:
    """Units, people and the story's actions in order of time."""

    units: tuple[Unit, ...]
    people: tuple[Person, ...]
    actions: tuple[Action, ...]

    def records(self, done: Mapping[str, Done], *, until: datetime) -> dict[str, Any]:
        """The truth for the check: facts of every unit and of all, as far as they came about."""
        facts: dict[str, list[dict[str, Any]]] = {u.uscc: [] for u in self.units}
        of_all: dict[str, list[dict[str, Any]]] = {name: [] for name in _OF_ALL.values()}
        for action in self.actions:
            for fact in action.facts if action.key in done else ():
                place = _OF_ALL.get(fact["fact"])
                found = _stamped(action, fact, done[action.key])
                if place is None:
                    facts[fact.get("uscc") or action.uscc or ""].append(found)
                else:
                    of_all[place].append(found)
        return {
            "until": until.isoformat(),
            **of_all,
            "units": [_record(u, facts[u.uscc]) for u in self.units],
        }

    def planned(self) -> dict[str, Done]:
        """Every action as if it had been answered at the instant it was planned for."""
        return {a.key: Done(a.at, a.at) for a in self.actions}


def _stamped(action: Action, fact: Mapping[str, Any], done: Done) -> dict[str, Any]:
    stamped = {
        "key": action.key,
        **fact,
        "asked_at": done.asked_at.isoformat(),
        "answered_at": done.answered_at.isoformat(),
    }
    return {**stamped, "answer": done.kept} if _OF_ALL.get(fact["fact"]) == "answers" else stamped


def _record(unit: Unit, facts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "uscc": unit.uscc,
        "name": unit.name,
        "kind": unit.kind,
        "town": unit.town,
        "established_on": unit.established_on.isoformat(),
        "mobile": unit.mobile,
        "phone": unit.phone,
        "openid": unit.openid,
        "wechat": unit.wechat,
        "code_valid": unit.code_valid,
        "fate": unit.fate,
        "facts": facts,
    }
