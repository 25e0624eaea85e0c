"""When messages may leave: never outside the hours, always at the first instant inside them."""

from datetime import date, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.notify.domain import LEEWAY, Hours, again_at, is_open, next_opening
from shared.calendar import Calendar, Year, load_calendar
from shared.clock import ZONE
from shared.documents import pack

CITY = Hours(time(8, 30), time(18), time(21), time(8))
CALENDAR = load_calendar(pack(None))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZONE)


@pytest.mark.parametrize(
    ("now", "opening"),
    [
        ("2026-02-10T08:29:59", "2026-02-10T08:30:00"),
        ("2026-02-10T08:30:00", "2026-02-10T08:30:00"),
        ("2026-02-10T17:59:49", "2026-02-10T17:59:49"),
        ("2026-02-10T17:59:51", "2026-02-11T08:30:00"),
        ("2026-02-10T18:00:00", "2026-02-11T08:30:00"),
        ("2026-02-14T00:00:00", "2026-02-14T08:30:00"),
        ("2026-02-14T18:00:00", "2026-02-24T08:30:00"),
        ("2026-02-13T23:00:00", "2026-02-14T08:30:00"),
    ],
    ids=[
        "a second early",
        "on the dot",
        "late, but enough time",
        "too late to arrive",
        "closed",
        "a Saturday that is worked",
        "Spring Festival",
        "at night",
    ],
)
def test_the_next_opening(now: str, opening: str) -> None:
    """08:30 to 18:00 on working days, make-up days included."""
    assert at(opening) == next_opening(at(now), CALENDAR, CITY)


def test_the_hard_block_wins_over_the_hours() -> None:
    """Hours that begin at 07:00 and end at 23:00 still let nothing out from 21:00 to 08:00."""
    wide = Hours(time(7), time(23), time(21), time(8), working_days_only=False)
    assert at("2026-02-10T08:00") == next_opening(at("2026-02-10T07:00"), CALENDAR, wide)
    assert at("2026-02-11T08:00") == next_opening(at("2026-02-10T21:00"), CALENDAR, wide)


def test_hours_that_never_open_are_an_error() -> None:
    """Hours that lie inside the block are said to be wrong instead of waiting for ever."""
    with pytest.raises(ValueError, match="never open"):
        next_opening(at("2026-02-10T10:00"), CALENDAR, Hours(time(5), time(7), time(21), time(8)))


DAYS = st.dates(date(2026, 1, 1), date(2026, 12, 31))
MOMENTS = st.times().map(lambda t: t.replace(microsecond=0))
HOURS = st.builds(
    lambda opens, length, block, until, only: Hours(
        time(opens), time(min(opens + length, 23)), time(block), time(until), working_days_only=only
    ),
    st.integers(6, 12),
    st.integers(1, 12),
    st.integers(19, 23),
    st.integers(0, 6),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(now=st.builds(datetime.combine, DAYS, MOMENTS), holidays=st.sets(DAYS, max_size=40), hours=HOURS)
def test_the_opening_is_the_first_open_instant(now: datetime, holidays: set[date], hours: Hours) -> None:
    """It is open, not before now, and no full minute between is open, on any calendar."""
    now = now.replace(tzinfo=ZONE)
    calendar = Calendar({2026: Year(2026, frozenset(holidays), frozenset(), "test")})
    opening = next_opening(now, calendar, hours)
    assert opening >= now
    assert is_open(opening, calendar, hours)
    for leaves in (opening, opening + LEEWAY):
        local = leaves.astimezone(ZONE)
        assert hours.opens <= local.time() < hours.closes
        assert hours.blocked_until <= local.time() < hours.blocked_from
        if hours.working_days_only:
            assert local.weekday() < 5
            assert local.date() not in holidays
    minute = now.replace(second=0) + timedelta(minutes=1)
    steps = min(int((opening - minute).total_seconds() // 60), 5_000)
    assert not any(is_open(minute + timedelta(minutes=n), calendar, hours) for n in range(steps))


def test_holds_are_looked_at_less_and_less_often() -> None:
    """10 min, 30 min, 1 h, 4 h, then once on each day that opens."""
    now = at("2026-02-13T10:00")
    waits = [again_at("insured", n, now, CALENDAR, CITY) for n in range(6)]
    assert [now + timedelta(minutes=m) for m in (10, 30, 60, 240)] + [at("2026-02-14T08:30")] * 2 == waits


def test_what_an_event_mends_is_looked_at_soon() -> None:
    """A fact that differs is looked at after a minute, three times, and then like any other hold."""
    now = at("2026-02-13T10:00")
    waits = [again_at("fact_differs", n, now, CALENDAR, CITY) for n in range(4)]
    assert [now + timedelta(minutes=m) for m in (1, 1, 1, 10)] == waits
