"""The ladder of R01 as pure rules: how far evidence carries, which days a wait counts."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.matching.domain import months_after
from services.matching.ladder import Course, Evidence, OnLadder, Stage, Word
from services.matching.settings import read_rule
from shared.clock import start_of
from shared.documents import DocumentError, pack
from tests.support.matching import CALENDAR, RULE

LADDER = RULE.ladder
FIRST, SECOND = LADDER.stages[:2]
DAY = timedelta(days=1)
SENT = date(2026, 3, 2)


def course(day: date) -> Course:
    return Course(LADDER, CALENDAR, day)


def lead_at(stage: Stage, evidence: str = "weak") -> OnLadder:
    """A lead whose message of this stage was handed over on Monday 2026-03-02."""
    lead = OnLadder(stage=stage.name, evidence_class=evidence, held=[], next_step=None, next_on=None)
    course(SENT).begin(lead, stage)
    course(SENT).hear(lead, Word.HANDED_OVER, SENT)
    return lead


@pytest.mark.parametrize(
    ("evidence", "reached"),
    [
        ("weak", ["second_reminder"]),
        ("medium", ["second_reminder", "letter", "referral"]),
        ("strong", ["second_reminder", "letter", "referral", "credit_candidate"]),
    ],
)
def test_evidence_decides_how_far_the_ladder_goes(evidence: str, reached: list[str]) -> None:
    """Weak evidence never goes beyond the second reminder."""
    found, stage = [], FIRST
    while (after := LADDER.after(stage.name, Evidence(evidence))) is not None:
        found.append(after.name)
        stage = after
    assert found == reached


def test_what_no_message_does_waits_for_a_person() -> None:
    """With medium evidence the letter is the next step, and nothing takes it by itself."""
    lead = lead_at(SECOND, "medium")
    assert (lead.next_step, lead.next_on) == ("letter", date(2026, 3, 16))
    day = date(2026, 3, 16)
    assert course(day).climb(lead, start_of(day), day - DAY) is None
    assert (lead.stage, lead.next_step, lead.act_at) == ("second_reminder", "letter", None)
    assert lead.next_on == date(2026, 4, 14)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), max_size=4))
def test_days_on_which_a_lead_was_held_do_not_count(holds: list[tuple[int, int]]) -> None:
    """Whatever the holds: the step comes on the tenth working day that was free of them, told off one by one."""
    lead, day, held_on = lead_at(FIRST), SENT, set()
    for pause, length in holds:
        begin = day + pause * DAY
        if lead.act_at is not None and lead.act_at <= start_of(begin):
            break
        lead.held = ["paused"]
        course(begin).stand_still(lead)
        day = begin + length * DAY
        lead.held = []
        course(day).go_on(lead)
        held_on |= {begin + n * DAY for n in range(length + 1)}
    free, counted = SENT, 0
    while counted < 10:
        free += DAY
        counted += CALENDAR.is_working_day(free) and free not in held_on
    assert lead.act_at == start_of(free)


@pytest.mark.parametrize(
    ("day", "months", "expected"),
    [
        ("2026-02-10", 12, "2027-02-10"),
        ("2024-02-29", 12, "2025-02-28"),
        ("2026-12-31", 2, "2027-02-28"),
        ("2026-01-15", 0, "2026-01-15"),
        ("2026-11-30", 1, "2026-12-30"),
    ],
)
def test_months_later(day: str, months: int, expected: str) -> None:
    """The same day of the month, or the last one where it has none."""
    assert months_after(date.fromisoformat(day), months).isoformat() == expected


@pytest.mark.parametrize(
    ("first", "last", "days"),
    [
        ("2026-02-10", "2026-02-10", 0),
        ("2026-02-10", "2026-02-11", 0),
        ("2026-02-10", "2026-02-12", 1),
        ("2026-02-13", "2026-02-25", 2),
        ("2026-02-12", "2026-02-10", 0),
    ],
)
def test_working_days_between(first: str, last: str, days: int) -> None:
    """Neither end counts; the make-up Saturday 02-14 does, the Spring Festival does not."""
    assert CALENDAR.working_days_between(date.fromisoformat(first), date.fromisoformat(last)) == days


def test_a_stage_that_a_new_pack_has_dropped_counts_as_the_first() -> None:
    """A lead of an older ladder goes on instead of failing."""
    assert LADDER.at("gone") is FIRST
    shorter = replace(LADDER, stages=(FIRST,))
    assert shorter.after("second_reminder", Evidence.STRONG) is None


def test_an_unknown_evidence_class_is_named(tmp_path: Path) -> None:
    """With the file and the key."""
    for name in ("obliged.toml", "sending.toml"):
        text = (pack(None) / name).read_text("utf-8")
        (tmp_path / name).write_text(text.replace('minimum_evidence = "strong"', 'minimum_evidence = "sure"'))
    with pytest.raises(DocumentError, match=r"obliged.toml: rules.R01.ladder\[4\].minimum_evidence"):
        read_rule(tmp_path)
