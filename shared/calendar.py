"""The working-day calendar, and periods by the Civil Code. Pure: who asks says which day.

A year that is not published counts Monday to Friday and makes every answer that rests on it provisional.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from types import MappingProxyType

from shared.documents import read_toml

_DAY = timedelta(days=1)
_SATURDAY = 5


@dataclass(frozen=True)
class Year:
    """One published year: days off that a notice names, weekend days that are worked, and the notice.

    `holidays` may hold weekend days, which changes nothing. Days of another year, a day in both sets, and a
    make-up day from Monday to Friday are refused with ValueError.
    """

    year: int
    holidays: frozenset[date]
    makeup_days: frozenset[date]
    source: str

    def __post_init__(self) -> None:
        alien = [day for day in self.holidays | self.makeup_days if day.year != self.year]
        if alien:
            raise ValueError(f"calendar {self.year}: {min(alien)} is a day of another year")
        if both := self.holidays & self.makeup_days:
            raise ValueError(f"calendar {self.year}: {min(both)} is both a holiday and a make-up day")
        if wrong := [day for day in self.makeup_days if day.weekday() < _SATURDAY]:
            raise ValueError(f"calendar {self.year}: make-up day {min(wrong)} is no Saturday or Sunday")


@dataclass(frozen=True)
class PeriodEnd:
    """The last day of a period; provisional when it rests on a year that is not published yet."""

    day: date
    provisional: bool


@dataclass(frozen=True)
class Calendar:
    """Which days are worked. Immutable: a newly published year gives a new calendar."""

    years: Mapping[int, Year] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "years", MappingProxyType(dict(self.years)))

    def is_working_day(self, day: date) -> bool:
        """Monday to Friday unless a holiday; Saturday and Sunday only as a make-up day."""
        year = self.years.get(day.year)
        if day.weekday() < _SATURDAY:
            return year is None or day not in year.holidays
        return year is not None and day in year.makeup_days

    def is_provisional(self, day: date) -> bool:
        """Whether the year of this day is not published yet. A year before the first known one is past."""
        return day.year not in self.years and day.year > min(self.years, default=0)

    def next_working_day(self, day: date) -> date:
        """The day itself if it is worked, else the first worked day after it."""
        while not self.is_working_day(day):
            day += _DAY
        return day

    def end_of_period(self, start: date, days: int) -> PeriodEnd:
        """Where a period of `days` calendar days that began on `start` ends.

        The first day is not counted (Civil Code art. 201); a last day that is a holiday or rest day gives way
        to the next working day (art. 203).
        """
        if days < 0:
            raise ValueError("a period has zero or more days")
        last = start + timedelta(days=days)
        end = self.next_working_day(last)
        return PeriodEnd(end, self._rests_on_unpublished(last, end))

    def add_working_days(self, day: date, n: int) -> PeriodEnd:
        """The n-th working day after `day`, not counting it; n = 0: the next working day on or after it."""
        if n < 0:
            raise ValueError("a wait has zero or more working days")
        if n == 0:
            return self.end_of_period(day, 0)
        end = day
        for _ in range(n):
            end = self.next_working_day(end + _DAY)
        return PeriodEnd(end, self._rests_on_unpublished(day + _DAY, end))

    def working_days_between(self, first: date, last: date) -> int:
        """How many working days lie after `first` and before `last`; none where `last` is not later."""
        days = range(1, (last - first).days)
        return sum(self.is_working_day(first + n * _DAY) for n in days)

    def with_year(self, year: Year) -> "Calendar":
        """The same calendar with one year published or replaced."""
        return Calendar({**self.years, year.year: year})

    def _rests_on_unpublished(self, first: date, last: date) -> bool:
        return any(self.is_provisional(date(year, 1, 1)) for year in range(first.year, last.year + 1))


def load_calendar(pack: Path) -> Calendar:
    """The calendar of a city pack (`calendar.toml`)."""
    return read_calendar(pack / "calendar.toml")


def read_calendar(file: Path) -> Calendar:
    """The years of a TOML file with `[[year]]`: year, holidays, makeup_days, source. Raises DocumentError."""
    years = (
        Year(
            table.need("year", int),
            frozenset(table.values("holidays", date)),
            frozenset(table.values("makeup_days", date)),
            table.need("source", str),
        )
        for table in read_toml(file).parts("year")
    )
    return Calendar({year.year: year for year in years})
