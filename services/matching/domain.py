"""The legal clock of a unit and the lead that follows it: what the facts of one unit amount to. Pure.

Everything known of a unit is its `Case`. `consider` is the whole rule: it brings clock and lead in line with
the facts, the same from whatever side it is asked (an event, the passing of time, an official).
"""

from calendar import monthrange
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cache, cached_property
from typing import Any, NamedTuple

from services.matching.ladder import Course, Ladder, OnLadder
from shared.calendar import Calendar
from shared.clock import start_of, today

NO_TOWN = "市直/未划分"
"""Owner of the leads of units that no town is known for."""

_DAY = timedelta(days=1)
_CLOSED = frozenset({"closed", "revoked"})
_SUSPENDED = "suspended"
_INSURANCE_NAMES = {"pension": "职工养老", "unemployment": "失业", "injury": "工伤"}


class ClockState(StrEnum):
    """Where a legal clock stands. `waiting`: run out, but participations are not complete that far."""

    RUNNING = "running"
    WAITING = "waiting"
    HELD = "held"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    DUE = "due"


class Stop(StrEnum):
    """Why a clock is stopped. The last three are rulings of an official and outlast new facts.

    `exempt` is granted by an official too, but for a time, and gives way to enrolment or closure.
    """

    CLOSED = "closed"
    NOT_OBLIGED = "not_obliged"
    DATE_UNKNOWN = "date_unknown"
    ENROLLED = "enrolled"
    EXEMPT = "exempt"
    NO_OBLIGATION = "no_obligation"
    WRONG_DATA = "wrong_data"
    SETTLED_BY_INSPECTION = "settled_by_inspection"


RULINGS = frozenset({Stop.NO_OBLIGATION, Stop.WRONG_DATA, Stop.SETTLED_BY_INSPECTION})


class Hold(StrEnum):
    """Why messages about a lead are kept back. `visited`: because of what the town found there."""

    PAUSED = "paused"
    VISITED = "visited"
    CODE = "code"
    DISPUTED = "disputed"
    PARKED = "parked"
    SUSPENDED = "suspended"


class LeadState(StrEnum):
    """`held`: open, but its messages are kept back."""

    OPEN = "open"
    HELD = "held"
    ENDED = "ended"


class End(StrEnum):
    """How a lead ended."""

    ENROLLED = "enrolled"
    NO_OBLIGATION = "no_obligation"
    EXEMPT = "exempt"
    UNIT_CLOSED = "unit_closed"
    WRONG_DATA = "wrong_data"
    SETTLED_BY_INSPECTION = "settled_by_inspection"


_END_OF = {
    Stop.CLOSED: End.UNIT_CLOSED,
    Stop.NOT_OBLIGED: End.NO_OBLIGATION,
    Stop.DATE_UNKNOWN: End.WRONG_DATA,
    Stop.ENROLLED: End.ENROLLED,
    Stop.EXEMPT: End.EXEMPT,
}

BATCH = "batch"
"""Origin of the units that came in a file."""

STOCK = "stock"
"""Why a clock is held whose lead a person has to release."""


class Action(StrEnum):
    """What an official may do with a lead."""

    RESOLVE = "resolve"
    EXEMPT = "exempt"
    REOPEN = "reopen"
    PAUSE = "pause"
    RESUME = "resume"
    NOTE = "note"


@dataclass(frozen=True)
class Rule:
    """R01 as the city pack states it. Days are calendar days; `kinds` are the kinds of unit it obliges.

    A participation of any of `void_insurances` in one of `forms` leaves it without ground. Of a batch, what
    ran out before `go_live_on` is stock. Exemptions last `exemption_months` unless granted otherwise, and
    never longer than `exemption_longest_months`.
    """

    id: str
    name: str
    version: str
    source: str
    kinds: frozenset[str]
    days: int
    void_insurances: tuple[str, ...]
    forms: tuple[str, ...]
    evidence_class: str
    ladder: Ladder
    go_live_on: date
    exemption_months: int
    exemption_longest_months: int
    late_registration_wait: timedelta

    def is_voided_by(self, insurance: str, form: str) -> bool:
        """Whether such a participation counts as being insured."""
        return insurance in self.void_insurances and form in self.forms


class Unit(NamedTuple):
    """The facts of a unit, as registry last told them."""

    uscc: str
    name: str
    kind: str
    status: str
    established_on: date | None
    town: str | None
    code_confirmed: bool
    contact_version: int
    version: int
    origin: str


@dataclass
class Clock:
    """The legal clock of a unit.

    It ends with the day `deadline`, so it has run out from `due_at`, 00:00 of the day after. `look_at` is the
    next instant at which time alone changes something, None when only new facts can. `not_before` keeps the
    message back where the clock had run out before the unit was registered. `released`: out of the stock.
    """

    uscc: str
    partition: int
    recorded_at: datetime
    established_on: date | None = None
    deadline: date | None = None
    provisional: bool = False
    due_at: datetime | None = None
    look_at: datetime | None = None
    state: ClockState = ClockState.RUNNING
    reason: str | None = None
    not_before: datetime | None = None
    released: bool = False


@dataclass(kw_only=True)
class Lead(OnLadder):
    """A suspected breach, from its first opening on; `episode` counts how often it was opened.

    `reason` is a sentence an official can read, `evidence` what was known when it opened, `held` why its
    messages are kept back. While it is open it has an owner, a next step and a day for it. An official's hold
    outlasts an end that the data made: `held` keeps it for the next episode.
    """

    id: str
    rule: str
    uscc: str
    episode: int
    state: LeadState
    reason: str
    evidence: Mapping[str, Any]
    established_on: date
    deadline: date
    owner: str
    opened_at: datetime
    not_before: datetime | None
    end: str | None = None
    end_reason: str | None = None
    ended_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Open or held."""
        return self.state is not LeadState.ENDED

    def hold(self, reasons: list[str], course: Course) -> None:
        """Keeps messages back for these reasons, and no other. Meanwhile a wait stands still."""
        before, self.held = self.held, reasons
        self.state = LeadState.HELD if reasons else LeadState.OPEN
        if reasons and not before:
            course.stand_still(self)
        elif before and not reasons:
            course.go_on(self)

    def resolve(self, end: str, reason: str, *, now: datetime) -> None:
        """Ends the lead, and the holds with it."""
        self.held, self.state = [], LeadState.ENDED
        self.end, self.end_reason, self.ended_at = end, reason, now
        self.next_step = self.next_on = None
        self.wait_left = self.wait_from = self.act_at = self.waits_for = None


@dataclass
class Case:
    """All that matching knows of one unit.

    `enrolled_from` is the earliest start of a participation that leaves the rule without ground; it may lie
    in the future. `frozen`: messages about the unit are parked, so its facts may be out of date.
    `exempt_through` is the last day of an exemption, past or not. `disputed`: registry could not take in a
    row that may say that the unit insures somebody.
    """

    uscc: str
    unit: Unit | None = None
    clock: Clock | None = None
    lead: Lead | None = None
    enrolled_from: date | None = None
    frozen: bool = False
    exempt_through: date | None = None
    disputed: bool = False
    told: tuple[object, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.told = self._facts()

    def facts_have_changed(self) -> bool:
        """Whether facts of an open lead differ from those last told; from now on they are told."""
        before, self.told = self.told, self._facts()
        return before != self.told

    def _facts(self) -> tuple[object, ...]:
        unit, lead = self.unit, self.lead
        if unit is None or lead is None:
            return ()
        return (unit.name, unit.kind, unit.town, unit.contact_version, lead.established_on, lead.deadline)


class Fact(StrEnum):
    """What happened to a lead."""

    OPENED = "opened"
    CHANGED = "changed"
    ADVANCED = "advanced"
    HELD = "held"
    RELEASED = "released"
    RESOLVED = "resolved"
    CORRECTED = "corrected"


@dataclass(frozen=True)
class Step:
    """One thing that happened to the lead of a case.

    `detail` is the hold's reason, the end or the new stage; with `visit` the town is to look in.
    """

    fact: Fact
    detail: str = ""
    visit: bool = False


@dataclass(frozen=True)
class Circumstances:
    """What `consider` needs beside the case. `complete_through`: participations of its partition, None: never said.

    What follows from them alone is worked out once for all cases that share them.
    """

    now: datetime
    rule: Rule
    calendar: Calendar
    complete_through: date | None

    @cached_property
    def today(self) -> date:
        """The day it is."""
        return today(self.now)

    @cached_property
    def course(self) -> Course:
        """How leads move on the rule's ladder today."""
        return Course(self.rule.ladder, self.calendar, self.today)

    @cached_property
    def end_of_clock(self) -> Callable[[date], tuple[date, bool, datetime]]:
        """By the day of establishment: the deadline, whether it is provisional, and when it has passed."""

        @cache
        def end_of_clock(established_on: date) -> tuple[date, bool, datetime]:
            end = self.calendar.end_of_period(established_on, self.rule.days)
            return end.day, end.provisional, start_of(end.day + _DAY)

        return end_of_clock

    @cached_property
    def why(self) -> Callable[[date, date], tuple[str, dict[str, Any]]]:
        """By day of establishment and deadline: the sentence of a lead, and the evidence under it."""

        @cache
        def why(established_on: date, deadline: date) -> tuple[str, dict[str, Any]]:
            year = self.calendar.years.get(deadline.year)
            return _sentence(established_on, deadline, self), {
                "rule_version": self.rule.version,
                "established_on": established_on.isoformat(),
                "deadline": deadline.isoformat(),
                "calendar_source": year.source if year else None,
                "participations_complete_through": self.complete_through
                and self.complete_through.isoformat(),
            }

        return why


def start_clock(
    case: Case, unit: Unit, about: Circumstances, *, recorded_at: datetime, partition: int
) -> None:
    """Starts the clock of a unit. Who is overdue when registered is given time to declare its people."""
    clock = case.clock = Clock(case.uscc, partition, recorded_at)
    _set_deadline(clock, unit, about)
    if clock.due_at is not None and clock.due_at <= recorded_at:
        clock.not_before = recorded_at + about.rule.late_registration_wait


def consider(case: Case, about: Circumstances) -> Iterator[Step]:
    """Brings clock and lead of a case in line with its facts, step by step.

    Each step is yielded when the case stands as the step says, so the caller may read it there.
    """
    unit, clock = case.unit, case.clock
    if unit is None or clock is None:
        return
    before = clock.established_on
    _set_deadline(clock, unit, about)
    later = before is not None and clock.established_on is not None and clock.established_on > before
    if later and case.lead and case.lead.is_open:
        yield from _resolve(
            case, case.lead, End.WRONG_DATA, f"设立日期更正为 {clock.established_on}，原期限作废", about
        )
    stop = _stop(case, clock, unit, about)
    lead_is_open = case.lead is not None and case.lead.is_open
    if stop is not None:
        clock.state, clock.reason = ClockState.STOPPED, stop
        if case.lead and lead_is_open:
            yield from _resolve(case, case.lead, _END_OF[stop], _why_ended(stop, case), about)
    elif case.lead and lead_is_open:
        yield from _keep_current(case, case.lead, clock, unit, about)
    else:
        clock.state, clock.reason = _standing(case, clock, unit, about)
        if clock.state is ClockState.DUE:
            _open(case, clock, unit, about)
            yield Step(Fact.OPENED)
    clock.look_at = _next_look(case, clock, about)


def can_be_opened(case: Case, about: Circumstances) -> bool:
    """Whether nothing but a ruling of an official keeps the lead of a case closed."""
    unit, clock = case.unit, case.clock
    if unit is None or clock is None or clock.deadline is None:
        return False
    return (
        _stop_by_facts(case, unit, about) is None and _standing(case, clock, unit, about)[0] is ClockState.DUE
    )


def owes_correction(case: Case) -> bool:
    """Whether a message went out about a lead that turned out to be an error of the data."""
    lead, clock = case.lead, case.clock
    if lead is None or clock is None or not lead.messaged:
        return False
    by_facts = lead.end == End.NO_OBLIGATION and clock.reason == Stop.NOT_OBLIGED
    return lead.end == End.WRONG_DATA or by_facts


def months_after(day: date, months: int) -> date:
    """The same day of a later month, or its last one."""
    years, month = divmod(day.month - 1 + months, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def _set_deadline(clock: Clock, unit: Unit, about: Circumstances) -> None:
    """A day that messages have named stays, unless the date of establishment itself was wrong."""
    if clock.established_on == unit.established_on and clock.state is ClockState.DUE:
        return
    if clock.established_on != unit.established_on and clock.reason == Stop.WRONG_DATA:
        clock.reason = None
    clock.established_on = unit.established_on
    if unit.established_on is None:
        clock.deadline, clock.provisional, clock.due_at = None, False, None
        return
    clock.deadline, clock.provisional, clock.due_at = about.end_of_clock(unit.established_on)


def _stop(case: Case, clock: Clock, unit: Unit, about: Circumstances) -> Stop | None:
    if clock.reason in RULINGS:
        return Stop(clock.reason)
    return _stop_by_facts(case, unit, about)


def _stop_by_facts(case: Case, unit: Unit, about: Circumstances) -> Stop | None:
    if unit.status in _CLOSED:
        return Stop.CLOSED
    if unit.kind not in about.rule.kinds:
        return Stop.NOT_OBLIGED
    if unit.established_on is None:
        return Stop.DATE_UNKNOWN
    if case.enrolled_from is not None and case.enrolled_from <= about.today:
        return Stop.ENROLLED
    if case.exempt_through is not None and about.today <= case.exempt_through:
        return Stop.EXEMPT
    return None


def _standing(case: Case, clock: Clock, unit: Unit, about: Circumstances) -> tuple[ClockState, str | None]:
    """Where a clock stands that nothing stops, and why it is held."""
    assert clock.deadline is not None  # noqa: S101 - a clock without a date is stopped
    if case.frozen or case.disputed:
        return ClockState.HELD, Hold.PARKED if case.frozen else Hold.DISPUTED
    if unit.status == _SUSPENDED:
        return ClockState.SUSPENDED, None
    if about.today <= clock.deadline:
        return ClockState.RUNNING, None
    if _is_stock(clock, unit, about):
        return ClockState.HELD, STOCK
    if about.complete_through is None or about.complete_through < clock.deadline:
        return ClockState.WAITING, None
    return (ClockState.HELD, "provisional") if clock.provisional else (ClockState.DUE, None)


def _is_stock(clock: Clock, unit: Unit, about: Circumstances) -> bool:
    """Whether a clock that has run out waits for a person: it came with a batch, overdue or before going live."""
    assert clock.deadline is not None  # noqa: S101 - it has run out
    assert clock.due_at is not None  # noqa: S101
    late = clock.due_at <= clock.recorded_at or clock.deadline < about.rule.go_live_on
    return unit.origin == BATCH and late and not clock.released


def _next_look(case: Case, clock: Clock, about: Circumstances) -> datetime | None:
    if clock.state is ClockState.STOPPED:
        if clock.reason == Stop.EXEMPT and case.exempt_through is not None:
            return start_of(case.exempt_through + _DAY)
        return None
    looks = [clock.due_at] if clock.state is ClockState.RUNNING else []
    if case.enrolled_from is not None:  # it lies ahead: otherwise the clock were stopped
        looks.append(start_of(case.enrolled_from))
    return min((look for look in looks if look is not None), default=None)


def _open(case: Case, clock: Clock, unit: Unit, about: Circumstances) -> None:
    assert clock.deadline is not None  # noqa: S101
    assert clock.established_on is not None  # noqa: S101
    reason, evidence = about.why(clock.established_on, clock.deadline)
    kept = by_hand(case.lead) if case.lead else []
    first = about.rule.ladder.stages[0]
    lead = case.lead = Lead(
        id=f"{about.rule.id}-{case.uscc}",
        rule=about.rule.id,
        uscc=case.uscc,
        episode=case.lead.episode + 1 if case.lead else 1,
        stage=first.name,
        state=LeadState.OPEN,
        reason=reason,
        evidence_class=about.rule.evidence_class,
        evidence=evidence,
        established_on=clock.established_on,
        deadline=clock.deadline,
        held=[],
        owner=unit.town or NO_TOWN,
        opened_at=about.now,
        not_before=clock.not_before,
        next_step=None,
        next_on=None,
    )
    about.course.begin(lead, first)
    lead.hold(_holds(case, unit, kept), about.course)
    case.facts_have_changed()


def _keep_current(case: Case, lead: Lead, clock: Clock, unit: Unit, about: Circumstances) -> Iterator[Step]:
    clock.state, clock.reason = ClockState.DUE, None
    assert clock.deadline is not None  # noqa: S101
    assert clock.established_on is not None  # noqa: S101
    if lead.established_on != clock.established_on:
        lead.established_on, lead.deadline = clock.established_on, clock.deadline
        lead.reason, _ = about.why(clock.established_on, clock.deadline)
    lead.owner = unit.town or NO_TOWN
    before = lead.held
    lead.hold(_holds(case, unit, by_hand(lead)), about.course)
    if case.facts_have_changed():
        yield Step(Fact.CHANGED)
    for reason in lead.held:
        if reason not in before:
            yield Step(Fact.HELD, reason)
    for reason in before:
        if reason not in lead.held:
            yield Step(Fact.RELEASED, reason)
    about.course.date_step(lead)  # a year published since may have moved it
    if (stage := about.course.climb(lead, about.now, about.complete_through)) is not None:
        yield Step(Fact.ADVANCED, stage.name, visit=stage.visit)


def by_hand(lead: Lead) -> list[str]:
    """Those of its holds that only an official ends."""
    return [reason for reason in lead.held if reason in (Hold.PAUSED, Hold.VISITED)]


def _holds(case: Case, unit: Unit, kept: list[str]) -> list[str]:
    reasons = [
        (not unit.code_confirmed, Hold.CODE),
        (unit.status == _SUSPENDED, Hold.SUSPENDED),
        (case.frozen, Hold.PARKED),
        (case.disputed, Hold.DISPUTED),
    ]
    return sorted([*kept, *(reason.value for applies, reason in reasons if applies)])


def _resolve(case: Case, lead: Lead, end: End, reason: str, about: Circumstances) -> Iterator[Step]:
    paused = [held for held in lead.held if held == Hold.PAUSED]
    lead.resolve(end, reason, now=about.now)
    if end != End.EXEMPT:  # an end that the data made by itself, which no pause is over with
        lead.held = paused
    yield Step(Fact.RESOLVED, end)
    if owes_correction(case):
        yield Step(Fact.CORRECTED, end)


def _why_ended(stop: Stop, case: Case) -> str:
    return {
        Stop.CLOSED: "单位已注销或吊销",
        Stop.NOT_OBLIGED: "单位类型更正后不在应参保范围",
        Stop.DATE_UNKNOWN: "设立日期已撤销，期限无从计算",
        Stop.ENROLLED: f"自 {case.enrolled_from} 起有单位参保记录",
        Stop.EXEMPT: f"经核准豁免至 {case.exempt_through}",
    }[stop]


def _sentence(established_on: date, deadline: date, about: Circumstances) -> str:
    insurances = "、".join(_INSURANCE_NAMES.get(name, name) for name in about.rule.void_insurances)
    return (
        f"{established_on} 设立，至法定期限 {deadline} 届满仍无{insurances}保险的单位参保记录"
        f"（参保数据完整至 {about.complete_through}）。"
    )
