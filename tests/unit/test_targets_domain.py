"""The arithmetic of targets: completion, pace, difference, and lines that add up."""

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.targets.domain import (
    UNASSIGNED,
    Actual,
    Decision,
    Tally,
    Target,
    Town,
    by_month,
    by_town,
    completion,
    difference,
    latest,
    pace,
    progress,
)
from services.targets.settings import read_plan
from shared.documents import pack

T1 = Target(
    "T1", "新增", "new_insured", "pension", "人", {2026: Decimal(9900)}, "首次参保", "待确认", "〔2024〕3号"
)
RATE = replace(T1, id="T4", metric="coverage_rate", insurance=None, by_year={2026: Decimal(100)})
TOWNS = (Town("371082101", "俚岛镇"), Town("371082009", "寻山街道"))
DAY = date(2026, 2, 10)


@pytest.mark.parametrize(
    ("actual", "goal", "shown"),
    [
        (0, "9900", "0.0"),
        (4950, "9900", "50.0"),
        (12000, "9900", "121.2"),
        # The second decimal 5 goes up: binary fractions and half-even would say 0.2, 12.2.
        (25, "10000", "0.3"),
        (49, "400", "12.3"),
        (1, "3", "33.3"),
        (2, "3", "66.7"),
    ],
)
def test_completion_is_rounded_half_up_and_may_exceed_100(actual: int, goal: str, shown: str) -> None:
    """完成率 in percent with one decimal."""
    assert str(completion(actual, Decimal(goal))) == shown


@pytest.mark.parametrize("goal", [None, Decimal(0)])
def test_without_a_target_there_is_no_completion(goal: Decimal | None) -> None:
    """A missing or zero target gives no number, never infinity."""
    assert completion(7, goal) is None
    assert difference(completion(7, goal), Decimal("11.2")) is None


@pytest.mark.parametrize(
    ("year", "day", "shown"),
    [
        (2026, date(2026, 1, 1), "0.3"),
        (2026, date(2026, 2, 10), "11.2"),
        (2026, date(2026, 12, 31), "100.0"),
        (2024, date(2024, 2, 29), "16.4"),  # day 60 of 366
        (2024, date(2024, 12, 31), "100.0"),
        (2025, date(2026, 1, 1), "100.0"),
        (2027, date(2026, 12, 31), "0.0"),
    ],
)
def test_pace_is_the_part_of_the_year_that_is_over(year: int, day: date, shown: str) -> None:
    """时序进度: day of year ÷ days of the year, leap years too; 100 after the year, 0 before it."""
    assert str(pace(year, day)) == shown


def test_difference_is_between_the_figures_shown() -> None:
    """A reader who subtracts what the board shows gets what the board shows, also below zero."""
    shown = progress(T1, 2026, DAY, [Tally("pension", "first", "俚岛镇", 1, 891)])
    assert (shown.completion, shown.pace, shown.difference) == (
        Decimal("9.0"),
        Decimal("11.2"),
        Decimal("-2.2"),
    )


def test_only_first_participations_are_actual() -> None:
    """Resumptions and transfers stand beside the actual, and another insurance stays out."""
    tallies = [
        Tally("pension", "first", "俚岛镇", 1, 5),
        Tally("pension", "resumed", "俚岛镇", 1, 3),
        Tally("pension", "transferred", "俚岛镇", 2, 2),
        Tally("injury", "first", "俚岛镇", 1, 50),
    ]
    assert progress(T1, 2026, DAY, tallies).actual == Actual(5, 3, 2)


def test_a_year_without_target_still_shows_its_actual() -> None:
    """2027 is not in the plan: the people are counted, the percentages are unknown."""
    shown = progress(T1, 2027, date(2027, 3, 1), [Tally("pension", "first", "俚岛镇", 1, 5)])
    assert (shown.goal, shown.completion, shown.difference) == (None, None, None)
    assert shown.actual == Actual(5)


def test_a_target_without_data_is_unknown_not_zero() -> None:
    """No actual, no completion, no lines; the target and the pace are known."""
    shown = progress(RATE, 2026, DAY, [])
    assert (shown.actual, shown.completion, shown.difference) == (None, None, None)
    assert shown.goal == 100
    assert by_town(RATE, TOWNS, []) == by_month(RATE, 2026, DAY, []) == ()


def test_every_town_has_a_line_in_the_plans_order_and_the_bucket_is_last() -> None:
    """Also towns with nobody; a town that the city doesn't know goes to 市直/未划分."""
    lines = by_town(
        T1,
        TOWNS,
        [Tally("pension", "first", "寻山街道", 1, 2), Tally("pension", "first", "老镇", 1, 4)],
    )
    assert [(line.town, line.code, line.actual) for line in lines] == [
        ("俚岛镇", "371082101", Actual(0)),
        ("寻山街道", "371082009", Actual(2)),
        (UNASSIGNED, None, Actual(4)),
    ]


def test_a_month_that_has_not_begun_has_no_actual() -> None:
    """Twelve lines; from March on nothing is known yet."""
    lines = by_month(T1, 2026, DAY, [Tally("pension", "first", "俚岛镇", 2, 2)])
    assert [line.month for line in lines] == list(range(1, 13))
    assert [line.actual for line in lines] == [Actual(0), Actual(2), *[None] * 10]


tallies_of_2026 = st.lists(
    st.builds(
        Tally,
        st.sampled_from(["pension", "injury"]),
        st.sampled_from(["first", "resumed", "transferred"]),
        st.sampled_from(["俚岛镇", "寻山街道", UNASSIGNED, "老镇"]),
        st.integers(1, 2),
        st.integers(1, 1000),
    )
)


@given(tallies_of_2026)
def test_towns_and_months_add_up_to_the_city(tallies: list[Tally]) -> None:
    """Σ towns + bucket = Σ months = the city's actual, in each column."""
    city = progress(T1, 2026, DAY, tallies).actual
    for lines in (by_town(T1, TOWNS, tallies), by_month(T1, 2026, DAY, tallies)):
        begun = [line.actual for line in lines if line.actual]
        assert city == Actual(
            sum(part.new for part in begun),
            sum(part.resumed for part in begun),
            sum(part.transferred for part in begun),
        )


@given(st.permutations([Decision(7, "pension", version, None) for version in range(1, 5)]))
def test_the_decision_with_the_highest_version_wins(decisions: list[Decision]) -> None:
    """In whatever order they come."""
    other = Decision(7, "injury", 1, None)
    assert latest([*decisions, other]) == [other, Decision(7, "pension", 4, None)]


def test_pace_never_falls_within_a_year() -> None:
    """Day by day through a leap year."""
    days = [date(2028, 1, 1) + timedelta(days=n) for n in range(366)]
    paces = [pace(2028, day) for day in days]
    assert paces == sorted(paces)
    assert paces[-1] == 100


def test_the_plan_of_the_city_pack_is_read_whole() -> None:
    """Eight targets by year without binary dust, three of them counted; 22 towns."""
    plan = read_plan(pack(None))
    assert [target.id for target in plan.targets] == [f"T{n}" for n in range(1, 9)]
    assert [target.id for target in plan.targets if target.is_counted] == ["T1", "T2", "T3"]
    assert plan.targets[0].by_year == {2024: 8500, 2025: 9200, 2026: 9900}
    assert plan.targets[5].by_year[2024] == Decimal("20.06")
    assert len(plan.towns) == 22
