"""The HTTP contract of targets."""

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Literal, Self

from pydantic import BaseModel

from services.targets.domain import COUNTED_THROUGH, Actual, Line, Progress

By = Literal["town", "department", "month"]


class LineOut(BaseModel):
    """One part of a target's actual: by town (the bucket 市直/未划分 has no code) or by month.

    `target` is null: no split of the targets is imported. `actual` is null for a month that has not begun.
    """

    town: str | None = None
    code: str | None = None
    month: int | None = None
    target: float | None = None
    actual: int | None
    resumed: int | None
    transferred: int | None

    @classmethod
    def of(cls, line: Line) -> Self:
        """A line as it is shown."""
        return cls(
            town=line.town,
            code=line.code,
            month=line.month,
            **_counts(line.actual),
        )


class TargetOut(BaseModel):
    """The city's line of one target.

    `actual` counts people newly insured; `resumed` and `transferred` count participations and are not in it.
    `completion_pct` (完成率) and `pace_pct` (时序进度) are in percent, `difference_pp` in percentage points.
    A null is unknown, never zero; `reason` says why `actual` is.
    """

    id: str
    name: str
    metric: str
    insurance: str | None
    unit: str
    target: int | float | None
    actual: int | None
    resumed: int | None
    transferred: int | None
    completion_pct: float | None
    pace_pct: float
    difference_pp: float | None
    reason: str | None
    definition: str | None
    confirm: str | None
    source: str
    lines: list[LineOut]

    @classmethod
    def of(cls, progress: Progress) -> Self:
        """A target's progress as it is shown."""
        target, actual = progress.target, progress.actual
        noted = (target.definition, COUNTED_THROUGH if target.is_counted else None)
        return cls(
            id=target.id,
            name=target.name,
            metric=target.metric,
            insurance=target.insurance,
            unit=target.unit,
            target=_number(progress.goal),
            **_counts(actual),
            completion_pct=_percent(progress.completion),
            pace_pct=float(progress.pace),
            difference_pp=_percent(progress.difference),
            reason=None if actual else "尚无数据 · no data yet",
            definition="；".join(part for part in noted if part) or None,
            confirm=target.confirm,
            source=target.source,
            lines=[LineOut.of(line) for line in progress.lines],
        )


class ProgressOut(BaseModel):
    """Every target of a year as of the business day, each with its lines where `by` asks for them."""

    year: int
    as_of: date
    by: By | None
    targets: list[TargetOut]

    @classmethod
    def of(cls, year: int, day: date, by: By | None, found: Iterable[Progress]) -> Self:
        """The answer to GET /v1/progress."""
        return cls(year=year, as_of=day, by=by, targets=[TargetOut.of(item) for item in found])


def _counts(actual: Actual | None) -> dict[str, int | None]:
    if actual is None:
        return {"actual": None, "resumed": None, "transferred": None}
    return {"actual": actual.new, "resumed": actual.resumed, "transferred": actual.transferred}


def _percent(number: Decimal | None) -> float | None:
    return None if number is None else float(number)


def _number(goal: Decimal | None) -> int | float | None:
    if goal is None:
        return None
    return int(goal) if goal == goal.to_integral_value() else float(goal)
