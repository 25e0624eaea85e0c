"""The working-day calendar and the Civil Code's periods."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.calendar import Calendar, PeriodEnd, Year, load_calendar
from shared.documents import pack

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def calendar() -> Calendar:
    return load_calendar(pack(None))


@pytest.mark.parametrize(
    ("established", "deadline"),
    [
        # Every weekday of a plain week: Monday to Friday end on their day, the weekend on Monday.
        (date(2026, 2, 7), date(2026, 3, 9)),
        (date(2026, 2, 8), date(2026, 3, 10)),
        (date(2026, 2, 9), date(2026, 3, 11)),
        (date(2026, 2, 10), date(2026, 3, 12)),
        (date(2026, 2, 11), date(2026, 3, 13)),
        (date(2026, 2, 12), date(2026, 3, 16)),
        (date(2026, 2, 13), date(2026, 3, 16)),
        # The written example: day 30 is a Sunday.
        (date(2026, 1, 9), date(2026, 2, 9)),
        # Make-up days, Saturday and Sunday, are worked.
        (date(2026, 1, 15), date(2026, 2, 14)),
        (date(2025, 12, 5), date(2026, 1, 4)),
        (date(2026, 1, 29), date(2026, 2, 28)),
        # A single-day holiday before a weekend; New Year across the year's end; National Day.
        (date(2026, 3, 5), date(2026, 4, 7)),
        (date(2025, 12, 2), date(2026, 1, 4)),
        (date(2026, 9, 1), date(2026, 10, 8)),
        # Month ends and the leap day.
        (date(2024, 1, 30), date(2024, 2, 29)),
        (date(2024, 1, 31), date(2024, 3, 1)),
        (date(2024, 2, 29), date(2024, 4, 1)),
        (date(2023, 1, 29), date(2023, 2, 28)),
        (date(2026, 7, 31), date(2026, 8, 31)),
    ],
)
def test_a_period_ends_on_its_last_day_or_the_next_working_day(
    calendar: Calendar, established: date, deadline: date
) -> None:
    """Day 30 after the first day, moved on when it is a rest day or holiday, not when it is a make-up day."""
    assert calendar.end_of_period(established, 30) == PeriodEnd(deadline, provisional=False)


@pytest.mark.parametrize("last", [date(2026, 2, day) for day in range(15, 24)])
def test_a_period_that_ends_in_spring_festival_ends_after_it(calendar: Calendar, last: date) -> None:
    """Day 30 on any of 15 to 23 February 2026: the period ends on the 24th."""
    assert calendar.end_of_period(last - 30 * DAY, 30) == PeriodEnd(date(2026, 2, 24), provisional=False)


def test_a_year_before_the_first_known_one_is_past_not_provisional() -> None:
    """Nobody will publish 1998 any more; a deadline of that year is over by any calendar."""
    calendar = Calendar({2026: Year(2026, frozenset(), frozenset(), "示例")})
    assert not calendar.end_of_period(date(1998, 5, 6), 30).provisional
    assert Calendar().end_of_period(date(1998, 5, 6), 30).provisional


def test_a_year_that_is_not_published_is_provisional() -> None:
    """Monday to Friday hold, and every answer that consulted such a day says so."""
    calendar = Calendar({2026: Year(2026, frozenset(), frozenset(), "")})
    assert calendar.is_working_day(date(2027, 1, 1))
    assert not calendar.is_working_day(date(2027, 1, 2))
    assert calendar.is_provisional(date(2027, 1, 1))
    assert not calendar.is_provisional(date(2026, 12, 31))
    assert calendar.end_of_period(date(2026, 12, 1), 30) == PeriodEnd(date(2026, 12, 31), provisional=False)
    assert calendar.end_of_period(date(2026, 12, 2), 30) == PeriodEnd(date(2027, 1, 1), provisional=True)
    assert calendar.add_working_days(date(2026, 12, 30), 1) == PeriodEnd(
        date(2026, 12, 31), provisional=False
    )
    assert calendar.add_working_days(date(2026, 12, 31), 1) == PeriodEnd(date(2027, 1, 1), provisional=True)


def test_an_answer_that_passed_through_an_unpublished_year_is_provisional() -> None:
    """Counting from a published year over an unpublished one into a published one is still a guess."""
    years = {year: Year(year, frozenset(), frozenset(), "") for year in (2025, 2027)}
    assert Calendar(years).add_working_days(date(2025, 12, 31), 300).provisional


def test_publishing_a_year_gives_a_new_calendar() -> None:
    """The calendar itself never changes; the new one is firm for that year."""
    before = Calendar()
    holiday = date(2027, 1, 1)
    after = before.with_year(Year(2027, frozenset({holiday}), frozenset({date(2027, 1, 3)}), "notice"))
    assert after.end_of_period(date(2026, 12, 2), 30) == PeriodEnd(date(2027, 1, 3), provisional=False)
    assert before.end_of_period(date(2026, 12, 2), 30) == PeriodEnd(holiday, provisional=True)
    with pytest.raises(TypeError):
        after.years[2028] = after.years[2027]  # type: ignore[index]


def test_waits_count_working_days_only(calendar: Calendar) -> None:
    """Ten working days after Tuesday 10 February 2026 include Saturday the 14th and skip Spring Festival."""
    assert calendar.add_working_days(date(2026, 2, 10), 10).day == date(2026, 3, 2)
    assert calendar.add_working_days(date(2026, 2, 13), 1).day == date(2026, 2, 14)
    assert calendar.add_working_days(date(2026, 2, 15), 0).day == date(2026, 2, 24)
    assert calendar.next_working_day(date(2026, 2, 14)) == date(2026, 2, 14)
    assert calendar.next_working_day(date(2026, 2, 15)) == date(2026, 2, 24)


@pytest.mark.parametrize(
    ("holidays", "makeup_days"),
    [
        ({date(2025, 12, 31)}, set()),
        (set(), {date(2027, 1, 2)}),
        ({date(2026, 2, 14)}, {date(2026, 2, 14)}),
        (set(), {date(2026, 2, 13)}),
    ],
)
def test_a_contradictory_year_is_refused(holidays: set[date], makeup_days: set[date]) -> None:
    """Days of another year, a day in both sets, a make-up day from Monday to Friday."""
    with pytest.raises(ValueError, match="calendar 2026"):
        Year(2026, frozenset(holidays), frozenset(makeup_days), "")


def test_negative_counts_are_refused() -> None:
    """A period or a wait never goes back."""
    with pytest.raises(ValueError, match="zero or more"):
        Calendar().end_of_period(date(2026, 1, 1), -1)
    with pytest.raises(ValueError, match="zero or more"):
        Calendar().add_working_days(date(2026, 1, 1), -1)


@st.composite
def years(draw: st.DrawFn) -> tuple[Calendar, set[date], set[date]]:
    """2025 and 2026 with random holidays and make-up days, 2027 unpublished."""
    days = [date(2025, 1, 1) + n * DAY for n in range(730)]
    off = draw(st.sets(st.sampled_from(days), max_size=120))
    worked = draw(st.sets(st.sampled_from([day for day in days if day.weekday() > 4]), max_size=40)) - off
    calendar = Calendar()
    for year in (2025, 2026):
        calendar = calendar.with_year(
            Year(
                year,
                frozenset(day for day in off if day.year == year),
                frozenset(day for day in worked if day.year == year),
                "",
            )
        )
    return calendar, off, worked


@given(years(), st.dates(date(2025, 1, 1), date(2027, 3, 1)), st.integers(0, 60))
def test_periods_agree_with_counting_day_by_day(
    drawn: tuple[Calendar, set[date], set[date]], start: date, count: int
) -> None:
    """The end, the wait and the mark agree with a walk over a plain table of days."""
    calendar, off, worked = drawn
    table = {
        day: (day in worked) if day.weekday() > 4 else (day not in off)
        for day in (date(2025, 1, 1) + n * DAY for n in range(1200))
    }
    assert all(calendar.is_working_day(day) == works for day, works in table.items())

    day = start
    for _ in range(count):
        day += DAY
    consulted = [day]
    while not table[day]:
        day += DAY
        consulted.append(day)
    assert calendar.end_of_period(start, count) == PeriodEnd(day, any(one.year > 2026 for one in consulted))

    working = [one for one, works in table.items() if works and one > start]
    if count:
        end = working[count - 1]
        assert calendar.add_working_days(start, count) == PeriodEnd(end, end.year > 2026)
