"""Targets, who counts towards them, and the arithmetic of progress. Pure: the day is an argument."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Final

NEW_INSURED: Final = "new_insured"
"""The metric that is counted from participations; no data of the others has a way in yet."""

UNASSIGNED: Final = "市直/未划分"
"""The bucket of people whose participation names none of the city's towns."""

COUNTED_THROUGH: Final = "统计至业务当日，开始日期晚于当日的到期后计入"
"""Added to the definition of what is counted: a start in the future is no actual yet."""


class Kind(StrEnum):
    """How a participation was declared: 首次参保, 续保, 转入."""

    FIRST = "first"
    RESUMED = "resumed"
    TRANSFERRED = "transferred"


class SpellState(StrEnum):
    """Whether a participation holds, held until some day, or was recorded in error."""

    IN_FORCE = "in_force"
    ENDED = "ended"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class First:
    """The participation that counts as a person's first of an insurance. `town` was fixed when recorded."""

    participation_id: int
    kind: str
    town: str
    started_on: date
    recorded_on: date
    baseline: bool


@dataclass(frozen=True)
class Decision:
    """Registry's answer to which participation is the first of this person and insurance; None: none is.

    Participations of one person travel under different keys, so decisions come in any order.
    """

    person: int
    insurance: str
    version: int
    first: First | None


@dataclass(frozen=True)
class Spell:
    """One participation of one person, as it started."""

    participation_id: int
    person: int
    insurance: str
    kind: str
    town: str
    started_on: date
    recorded_on: date
    baseline: bool


def latest(decisions: Iterable[Decision]) -> list[Decision]:
    """Of each person and insurance the decision with the highest version, in order of these keys.

    In order, so that rows are locked in the same one whoever writes them.
    """
    newest: dict[tuple[int, str], Decision] = {}
    for decision in decisions:
        key = (decision.person, decision.insurance)
        if key not in newest or decision.version > newest[key].version:
            newest[key] = decision
    return [newest[key] for key in sorted(newest)]


@dataclass(frozen=True)
class Town:
    """A town or sub-district of the city, in the plan's order."""

    code: str
    name: str


@dataclass(frozen=True)
class Target:
    """A yearly target of the plan. `by_year` is per year, not cumulative; `insurance` only where it has one."""

    id: str
    name: str
    metric: str
    insurance: str | None
    unit: str
    by_year: dict[int, Decimal]
    definition: str | None
    confirm: str | None
    source: str

    @property
    def is_counted(self) -> bool:
        """Whether actuals are known: people newly insured in one insurance."""
        return self.metric == NEW_INSURED and self.insurance is not None


@dataclass(frozen=True)
class Plan:
    """What the city pack says: the targets, and the towns that share them."""

    targets: tuple[Target, ...]
    towns: tuple[Town, ...]


@dataclass(frozen=True)
class Tally:
    """How many participations of one declared kind began in a month and town. Kind `first` holds new people.

    Only kinds `first`, `resumed` and `transferred`, and only what counts: not cancelled, not baseline, begun.
    """

    insurance: str
    kind: str
    town: str
    month: int
    count: int


@dataclass(frozen=True)
class Actual:
    """People newly insured, and beside them, not in them, the resumptions and transfers."""

    new: int = 0
    resumed: int = 0
    transferred: int = 0


@dataclass(frozen=True)
class Line:
    """One part of a target's actual: a town (with its code; the bucket has none) or a month.

    `actual` is None for a month that has not begun.
    """

    actual: Actual | None
    town: str | None = None
    code: str | None = None
    month: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far a target is. Percentages have one decimal; None where there is no number to give."""

    target: Target
    goal: Decimal | None
    actual: Actual | None
    completion: Decimal | None
    pace: Decimal
    difference: Decimal | None
    lines: tuple[Line, ...] = ()


def completion(actual: int, goal: Decimal | None) -> Decimal | None:
    """完成率: actual ÷ annual target × 100, may exceed 100; None where there is no target or it is 0."""
    return _one_decimal(Decimal(actual) * 100 / goal) if goal else None


def pace(year: int, day: date) -> Decimal:
    """时序进度 as of a day: day of year ÷ days of the year × 100; 100 once the year is over, 0 before it."""
    if day.year != year:
        return Decimal("100.0") if day.year > year else Decimal("0.0")
    days = (date(year + 1, 1, 1) - date(year, 1, 1)).days
    return _one_decimal(Decimal(day.timetuple().tm_yday) * 100 / days)


def difference(completed: Decimal | None, paced: Decimal) -> Decimal | None:
    """超欠序时: completion − pace in percentage points (百分点), of the figures shown, so that they add up."""
    return None if completed is None else completed - paced


def _one_decimal(number: Decimal) -> Decimal:
    return number.quantize(Decimal("0.1"), ROUND_HALF_UP)


def progress(target: Target, year: int, day: date, tallies: Iterable[Tally]) -> Progress:
    """The city's line of one target in a year as of a business day."""
    actual = _sum(_of(target, tallies)) if target.is_counted else None
    goal = target.by_year.get(year)
    completed = None if actual is None else completion(actual.new, goal)
    paced = pace(year, day)
    return Progress(target, goal, actual, completed, paced, difference(completed, paced))


def by_town(target: Target, towns: Sequence[Town], tallies: Iterable[Tally]) -> tuple[Line, ...]:
    """A line per town in the plan's order, then the bucket; together they are the city's actual."""
    if not target.is_counted:
        return ()
    known = {town.name for town in towns}
    parts: dict[str, list[Tally]] = {}
    for tally in _of(target, tallies):
        parts.setdefault(tally.town if tally.town in known else UNASSIGNED, []).append(tally)
    places = [(town.name, town.code) for town in towns] + [(UNASSIGNED, None)]
    return tuple(Line(_sum(parts.get(name, ())), town=name, code=code) for name, code in places)


def by_month(target: Target, year: int, day: date, tallies: Iterable[Tally]) -> tuple[Line, ...]:
    """A line per month of the year; together they are the city's actual."""
    if not target.is_counted:
        return ()
    own = _of(target, tallies)
    return tuple(
        Line(
            _sum(tally for tally in own if tally.month == month) if date(year, month, 1) <= day else None,
            month=month,
        )
        for month in range(1, 13)
    )


def _of(target: Target, tallies: Iterable[Tally]) -> list[Tally]:
    return [tally for tally in tallies if tally.insurance == target.insurance]


def _sum(tallies: Iterable[Tally]) -> Actual:
    counts = dict.fromkeys(Kind, 0)
    for tally in tallies:
        counts[Kind(tally.kind)] += tally.count
    return Actual(counts[Kind.FIRST], counts[Kind.RESUMED], counts[Kind.TRANSFERRED])
