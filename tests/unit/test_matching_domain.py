"""The legal clock of R01 as pure rules: on which day it runs out, for whom, and what an official reads."""

from datetime import date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.matching.domain import (
    Case,
    Circumstances,
    ClockState,
    Fact,
    Unit,
    consider,
    start_clock,
)
from services.matching.settings import MatchingSettings, read_rule
from shared.clock import start_of
from shared.documents import pack
from tests.support.matching import CALENDAR, RULE, USCC, at

DAY = timedelta(days=1)


def unit(established_on: date | None, **given: object) -> Unit:
    base = Unit(USCC, "示例公司", "enterprise", "active", established_on, "寻山街道", True, 1, 1, "single")
    return base._replace(**given)  # type: ignore[arg-type]


def circumstances(now: datetime, complete_through: date | None = date(2200, 1, 1)) -> Circumstances:
    return Circumstances(now, RULE, CALENDAR, complete_through)


def case_of(established_on: date | None, now: datetime, **given: object) -> Case:
    case = Case(USCC)
    case.unit = unit(established_on, **given)
    start_clock(case, case.unit, circumstances(now), recorded_at=now, partition=0)
    return case


def opening_day(established_on: date) -> date:
    """The first day on which the clock opens a lead, found by asking every day."""
    case = case_of(established_on, start_of(established_on))
    day = established_on
    while True:
        steps = [step.fact for step in consider(case, circumstances(start_of(day)))]
        if steps:
            assert steps == [Fact.OPENED]
            return day
        day += DAY


@pytest.mark.parametrize(
    ("established_on", "opens_on", "why"),
    [
        ("2026-01-09", "2026-02-10", "day 30 is Sunday 02-08, so the clock ends with Monday"),
        ("2026-01-10", "2026-02-10", "day 30 is Monday"),
        ("2026-01-11", "2026-02-11", "day 30 is Tuesday"),
        ("2026-01-12", "2026-02-12", "day 30 is Wednesday"),
        ("2026-01-13", "2026-02-13", "day 30 is Thursday"),
        ("2026-01-14", "2026-02-14", "day 30 is Friday"),
        ("2026-01-15", "2026-02-15", "day 30 is Saturday 02-14, a make-up working day"),
        *(
            (f"2026-01-{day}", "2026-02-25", "day 30 is in the Spring Festival: the clock ends on 02-24")
            for day in range(16, 25)
        ),
        ("2026-01-25", "2026-02-25", "day 30 is the first working day after the Festival"),
        ("2026-03-01", "2026-04-01", "day 30 is the last of March"),
        ("2026-04-02", "2026-05-07", "day 30 is in the May holidays"),
        ("2025-12-02", "2026-01-05", "day 30 is New Year's Day; Sunday 01-04 is a make-up day"),
        ("2024-01-30", "2024-03-01", "day 30 is Thursday 29 February of a leap year"),
        ("2024-02-29", "2024-04-02", "day 30 is Saturday 03-30, so the clock ends with Monday 04-01"),
    ],
)
def test_the_lead_opens_on_the_day_after_the_deadline(established_on: str, opens_on: str, why: str) -> None:
    """Thirty days, the first not counted; a rest day gives way to the next working day; then one day more."""
    assert opening_day(date.fromisoformat(established_on)).isoformat() == opens_on, why


OFF_2026 = {date(2026, 1, 1) + DAY * n for n in range(3)}
OFF_2026 |= {date(2026, 2, 15) + DAY * n for n in range(9)}
OFF_2026 |= {date(2026, 4, 4) + DAY * n for n in range(3)}
OFF_2026 |= {date(2026, 5, 1) + DAY * n for n in range(5)}
OFF_2026 |= {date(2026, 6, 19) + DAY * n for n in range(3)}
OFF_2026 |= {date(2026, 9, 25) + DAY * n for n in range(3)}
OFF_2026 |= {date(2026, 10, 1) + DAY * n for n in range(7)}
WORKED_2026 = {
    date(2026, 1, 4),
    date(2026, 2, 14),
    date(2026, 2, 28),
    date(2026, 5, 9),
    date(2026, 9, 20),
    date(2026, 10, 10),
}


def reference_opening_day(established_on: date) -> date:
    """The same by counting days on fingers, with the notice of 2026 typed off."""
    day = established_on
    for _ in range(30):
        day += DAY
    while not (day in WORKED_2026 or (day.weekday() < 5 and day not in OFF_2026)):
        day += DAY
    return day + DAY


@settings(max_examples=60, deadline=None)
@given(st.dates(date(2025, 12, 5), date(2026, 11, 20)))
def test_any_date_opens_on_the_day_a_day_by_day_count_gives(established_on: date) -> None:
    """The whole rule agrees with a count of days that shares no code with it."""
    assert opening_day(established_on) == reference_opening_day(established_on)


def test_one_microsecond_before_the_end_of_the_deadline_day_nothing_happens() -> None:
    """The deadline day belongs to the employer whole."""
    case = case_of(date(2026, 1, 9), at("2026-01-12"))
    assert not list(consider(case, circumstances(at("2026-02-10", "00:00") - timedelta(microseconds=1))))
    assert case.clock
    assert case.clock.state is ClockState.RUNNING
    assert case.clock.look_at == at("2026-02-10", "00:00")


@pytest.mark.parametrize(
    ("kind", "state", "reason"),
    [
        ("enterprise", "running", None),
        ("private_non_enterprise", "running", None),
        ("social_organisation", "running", None),
        ("foundation", "running", None),
        ("law_firm", "running", None),
        ("cooperative", "running", None),
        ("sole_trader", "stopped", "not_obliged"),
        ("public_institution", "stopped", "not_obliged"),
        ("government_body", "stopped", "not_obliged"),
        ("village_collective", "stopped", "not_obliged"),
        ("other", "stopped", "not_obliged"),
    ],
)
def test_only_obliged_kinds_have_a_clock(kind: str, state: str, reason: str | None) -> None:
    """The city pack says who must insure as soon as established; a sole trader is not among them."""
    case = case_of(date(2026, 1, 9), at("2026-01-12"), kind=kind)
    list(consider(case, circumstances(at("2026-01-12"))))
    assert case.clock
    assert (case.clock.state, case.clock.reason) == (state, reason)


def test_the_reason_is_a_sentence_an_official_can_read() -> None:
    """It names the date, the deadline, the insurances and how far the data reaches."""
    case = case_of(date(2026, 1, 9), at("2026-01-12"))
    list(consider(case, circumstances(at("2026-02-10", "00:00"), date(2026, 2, 9))))
    assert case.lead
    assert case.lead.reason == (
        "2026-01-09 设立，至法定期限 2026-02-09 届满仍无职工养老、失业、工伤保险的单位参保记录"
        "（参保数据完整至 2026-02-09）。"
    )


def test_considering_again_changes_nothing() -> None:
    """The rule is a function of the facts: asked twice at one instant, it says nothing new."""
    case = case_of(date(2026, 1, 9), at("2026-01-12"))
    now = circumstances(at("2026-02-10", "00:00"))
    assert [step.fact for step in consider(case, now)] == [Fact.OPENED]
    assert list(consider(case, now)) == []


def test_without_a_date_of_establishment_there_is_no_deadline() -> None:
    """A unit whose date nobody knows is listed as such, and nothing runs."""
    case = case_of(None, at("2026-01-12"))
    assert not list(consider(case, circumstances(at("2027-01-12"))))
    assert case.clock
    assert (case.clock.state, case.clock.reason, case.clock.look_at) == ("stopped", "date_unknown", None)


def test_the_late_registration_wait_can_be_set() -> None:
    """A setting overrides the city pack's ten minutes, down to nothing."""
    assert RULE.late_registration_wait == timedelta(minutes=10)
    given = MatchingSettings(late_registration_wait_s=0)
    rule = read_rule(pack(None), late_registration_wait_s=given.late_registration_wait_s)
    assert rule.late_registration_wait == timedelta(0)
