"""Writes down units and the calls about them, and knows when things happen to a unit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from random import Random
from typing import Any, Final

from services.demo.check import deadline, is_working_day, next_working_day
from services.demo.city.inventor import KINDS, Inventor
from services.demo.city.model import (
    DECLARES_AT,
    END,
    INSURES,
    MISSED_NIGHTS,
    REGISTERS,
    START,
    Action,
    City,
    Find,
    Person,
    Unit,
)
from shared.clock import ZONE

# the first day of establishment whose clock ended after going live on 2026-01-01, and that deadline
FIRST, FIRST_LAST = date(2025, 12, 2), date(2026, 1, 4)
# of twelve obliged units in a row, which kinds
_OBLIGED = ("enterprise",) * 7 + (
    "cooperative",
    "private_non_enterprise",
    "social_organisation",
    "foundation",
    "law_firm",
)
# what the carrier does to a number, and WeChat to a follower
_SMS_SCRIPT: dict[str, dict[str, Any]] = {
    "silent": {"action": "silent"},
    "refused": {"action": "refuse", "code": "InvalidMessage"},
    "failing": {"action": "fail", "code": "CM:2007"},
    "dropped": {"action": "accept_and_drop", "times": 1},
    "duplicate": {"action": "duplicate_receipt"},
}
_WECHAT_SCRIPT: dict[str, dict[str, Any]] = {
    "silent": {"action": "silent"},
    "refused": {"action": "refuse", "code": "43101"},
    "failing": {"action": "fail", "code": "failed:user block"},
}
BY_FILE: Final = datetime.max.replace(tzinfo=ZONE)
"""Registered by nobody's call: a file brings it."""


def lead_day(last: date) -> date:
    """The day in whose first hour the participations are declared complete through a deadline day."""
    night = max(last + timedelta(days=1), START.date())
    while night in MISSED_NIGHTS:
        night += timedelta(days=1)
    return night


def sending_day(last: date) -> date:
    """The day on which the reminder for a deadline leaves when nothing comes between."""
    return next_working_day(lead_day(last))


def working_days_after(day: date, number: int) -> date:
    """So many working days later."""
    for _ in range(number):
        day = next_working_day(day + timedelta(days=1))
    return day


def second_day(last: date) -> date:
    """The day on which the second reminder leaves when nothing comes between."""
    return working_days_after(sending_day(last), 10)


@dataclass
class Plan:
    """A unit in the making: when it was established, when its clock ends, when it is registered."""

    unit: Unit
    last: date
    registered: datetime
    prefix: str
    calls: int = field(default=0)

    @property
    def registration(self) -> dict[str, Any]:
        """The fact of its registration."""
        return {"fact": "registered", "origin": "batch" if self.registered == BY_FILE else "single"}


class Builder:
    """The city in the making."""

    def __init__(self, rng: Random, towns: Sequence[str]) -> None:
        self.rng = rng
        self.inventor = Inventor(rng, towns)
        self.units: list[Unit] = []
        self.actions: list[Action] = []
        self.nights_by_file: set[date] = set()
        self._obliged = 0

    def build(self) -> City:
        """All of it, in order of time."""
        self._script()
        self._declare_nights()
        order = sorted(self.actions, key=lambda a: (a.at, a.key))
        return City(tuple(self.units), tuple(self.inventor.people), tuple(order))

    # -- units ----------------------------------------------------------------------------------------------

    def unit(
        self,
        fate: str,
        established_on: date,
        *,
        kind: str | None = None,
        registered: datetime | None = None,
        valid: bool = True,
        mobile: str | None = "",
        role: str | None = None,
        phone: str = "ok",
        wechat: str = "none",
    ) -> Plan:
        """A unit and its registration. `mobile`: of its own unless given, None: it has no phone."""
        if kind is None:
            kind = _OBLIGED[self._obliged % len(_OBLIGED)]
            self._obliged += 1
        make = self.inventor
        code, industry, name = self.rng.choice(KINDS[kind])
        word = make.word()
        town = make.towns[len(self.units) % len(make.towns)]
        roles = ("legal_representative", "legal_representative", "hr", "finance", "contact")
        unit = Unit(
            uscc=make.uscc(code, valid=valid),
            name=name.format(word),
            kind=kind,
            established_on=established_on,
            town=town,
            industry=industry,
            address=f"荣成市{town}{word}路{self.rng.randint(1, 300)}号",
            contact_role=role or self.rng.choice(roles),
            contact=make.person(),
            mobile=make.mobile() if mobile == "" else mobile,
            code_valid=valid,
            phone=phone if mobile is not None else "none",
            fate=fate,
            openid=make.openid() if wechat != "none" else None,
            wechat=wechat,
        )
        registered = registered or self._registration(established_on)
        plan = Plan(unit, deadline(established_on), registered, f"{len(self.units):03}")
        self.units.append(unit)
        if registered != BY_FILE:
            request = ("POST", "/registry/v1/units", unit.body())
            self.call(plan, registered, request, plan.registration, department=REGISTERS)
        return plan

    def established(self, low: date, high: date, fits: Callable[[date], bool] = lambda _: True) -> date:
        """A day of establishment whose deadline lies in a span and fits."""
        days = (low - timedelta(days=45) + timedelta(days=n) for n in range((high - low).days + 46))
        # founded on a working day, as offices register them; earlier than this is before going live
        choices = [d for d in days if d >= FIRST and low <= deadline(d) <= high and fits(deadline(d))]
        on_working_days = [d for d in choices if is_working_day(d)]
        return self.rng.choice(on_working_days or choices)

    def _registration(self, established_on: date) -> datetime:
        """Units from before the story come with its first calls; others within a working week."""
        if established_on < START.date():
            return START
        day = next_working_day(established_on + timedelta(days=self.rng.randint(1, 5)))
        return self.clock(day)

    # -- calls ----------------------------------------------------------------------------------------------

    def call(
        self,
        plan: Plan,
        at: datetime,
        request: tuple[str, str, Any],
        fact: Mapping[str, Any],
        *,
        department: str,
        after: str | None = None,
        find: Find | None = None,
    ) -> str:
        """Adds an action about a unit; returns its key. `request` is method, path, body."""
        method, path, body = request
        key = f"{plan.prefix}-{plan.calls:02}-{fact['fact']}"
        plan.calls += 1
        self.actions.append(
            Action(key, at, method, path, body, department, plan.unit.uscc, after, find, (fact,))
        )
        return key

    def participation(
        self,
        plan: Plan,
        at: datetime,
        started_on: date,
        insurance: str,
        *,
        form: str = "employer",
        person: Person | None = None,
    ) -> str:
        """Somebody is insured through the unit."""
        person = person or self.inventor.person()
        kind = self.rng.choices(("first", "resumed", "transferred"), (75, 15, 10))[0]
        body: dict[str, Any] = {
            "person": {"id_number": person.id_number, "name": person.name},
            "insurance": insurance,
            "form": form,
            "kind": kind,
            "started_on": started_on.isoformat(),
        }
        if form != "flexible":
            body = {"uscc": plan.unit.uscc, **body}
        request = ("POST", "/registry/v1/participations", body)
        return self.call(plan, at, request, spell(insurance, started_on, form=form), department=INSURES)

    def enrol(self, plan: Plan, at: datetime, started_on: date) -> None:
        """One to three people, in all or one of the insurances that stop a clock, some also in medical."""
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            person = self.inventor.person()
            insurances = self.rng.choice((("pension", "unemployment", "injury"), ("pension",), ("injury",)))
            for insurance in (*insurances, *(("medical",) if self.rng.random() < 0.3 else ())):
                self.participation(plan, at, started_on, insurance, person=person)

    def end(self, plan: Plan, at: datetime, participation: str) -> None:
        """The last day of a participation."""
        path = "/registry/v1/participations/{id}/end"
        ended_on = at.date().isoformat()
        fact = {"fact": "ended", "of": participation, "ended_on": ended_on}
        request = ("POST", path, {"ended_on": ended_on})
        self.call(plan, at, request, fact, department=INSURES, after=participation)

    def cancel(self, plan: Plan, at: datetime, participation: str) -> None:
        """A participation never was."""
        path = "/registry/v1/participations/{id}/cancel"
        fact = {"fact": "cancelled", "of": participation}
        request = ("POST", path, {"reason": "录入错误"})
        self.call(plan, at, request, fact, department=INSURES, after=participation)

    def close(self, plan: Plan, at: datetime) -> None:
        """The unit ended."""
        self._unit_call(plan, at, "close", "closed", "closed_on")

    def suspend(self, plan: Plan, at: datetime) -> None:
        """The unit is out of business for a while."""
        self._unit_call(plan, at, "suspend", "suspended", "suspended_on")

    def resume(self, plan: Plan, at: datetime) -> None:
        """The unit is in business again."""
        self._unit_call(plan, at, "resume", "resumed", "resumed_on")

    def _unit_call(self, plan: Plan, at: datetime, verb: str, fact: str, on: str) -> None:
        body = {on: at.date().isoformat()}
        path = f"/registry/v1/units/{plan.unit.uscc}/{verb}"
        self.call(plan, at, ("POST", path, body), {"fact": fact, **body}, department=REGISTERS)

    def correct(self, plan: Plan, at: datetime, established_on: date) -> None:
        """The date of establishment was another one."""
        body = {"established_on": established_on.isoformat()}
        path = f"/registry/v1/units/{plan.unit.uscc}"
        self.call(plan, at, ("PATCH", path, body), {"fact": "corrected", **body}, department=REGISTERS)

    def confirm(self, plan: Plan, at: datetime) -> None:
        """The code is the unit's, whatever its check character says."""
        path = f"/registry/v1/units/{plan.unit.uscc}"
        request = ("PATCH", path, {"code_confirmed": True})
        self.call(plan, at, request, {"fact": "confirmed"}, department=REGISTERS)

    def _script(self) -> None:
        rules = [
            {"match": {"channel": "sms", "mobile": u.mobile}, **_SMS_SCRIPT[u.phone]}
            for u in self.units
            if u.phone in _SMS_SCRIPT
        ]
        rules += [
            {"match": {"channel": "wechat", "openid": u.openid}, **_WECHAT_SCRIPT[u.wechat]}
            for u in self.units
            if u.wechat in _WECHAT_SCRIPT
        ]
        self.actions.append(Action("000-script", START, "PUT", "/sandbox/script", rules, REGISTERS))

    def _declare_nights(self) -> None:
        # what was known before the story is complete once its first calls are in
        self._declare(START + timedelta(minutes=20), START.date() - timedelta(days=1))
        night = START.date() + timedelta(days=1)
        while night <= END.date():
            if night not in MISSED_NIGHTS | self.nights_by_file:
                self._declare(datetime.combine(night, DECLARES_AT, ZONE), night - timedelta(days=1))
            night += timedelta(days=1)

    def _declare(self, at: datetime, through: date) -> None:
        body = {"through": through.isoformat()}
        path = "/registry/v1/datasets/participations/complete-through"
        key = f"declared-{through.isoformat()}"
        facts = ({"fact": "declared", **body},)
        self.actions.append(Action(key, at, "PUT", path, body, INSURES, facts=facts))

    # -- when things happen to a unit -----------------------------------------------------------------------

    def clock(self, day: date, first: tuple[int, int] = (9, 0), last: tuple[int, int] = (16, 30)) -> datetime:
        """An instant of a day between two times; in a long span half hours, since each instant takes its time."""
        span = (last[0] - first[0]) * 60 + last[1] - first[1]
        step = 30 if span > 120 else 1
        at = datetime.combine(day, time(*first), ZONE)
        return at + timedelta(minutes=step * self.rng.randint(0, span // step))

    def between(self, low: date, high: date) -> date:
        """A day of a span, its ends included; a working day when there is one."""
        days = [low + timedelta(days=n) for n in range((high - low).days + 1)]
        return self.rng.choice([d for d in days if is_working_day(d)] or days)

    def before_deadline(self, plan: Plan) -> datetime:
        """After its registration and before the deadline day."""
        return self.clock(
            self.between(plan.registered.date() + timedelta(days=1), plan.last - timedelta(days=1))
        )

    def before_sending(self, plan: Plan) -> datetime:
        """After its lead opened, before the hours in which messages leave."""
        day = lead_day(plan.last)
        return self.clock(day, (6, 30), (8, 10)) if is_working_day(day) else self.clock(day)

    def after_sending(self, plan: Plan, within: int) -> datetime:
        """From the second day after the reminder on, before the story's last day."""
        first = sending_day(plan.last) + timedelta(days=2)
        last = min(first + timedelta(days=within), END.date() - timedelta(days=1))
        return self.clock(self.between(first, last))


def spell(insurance: str, started_on: date, *, form: str = "employer") -> dict[str, Any]:
    """The fact of a participation."""
    return {
        "fact": "participation",
        "insurance": insurance,
        "form": form,
        "started_on": started_on.isoformat(),
    }
