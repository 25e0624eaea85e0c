"""Every lead is in exactly one place of the funnel."""

import itertools

import pytest

from services.matching.domain import End, LeadState
from services.matching.funnel import Place, place_of
from services.matching.ladder import Word
from tests.support.matching import RULE


@pytest.mark.parametrize(
    ("state", "end", "stage", "notice", "messaged", "place"),
    [
        ("open", None, "reminder", None, False, "opened_not_sent"),
        ("open", None, "reminder", "withdrawn", False, "opened_not_sent"),
        ("open", None, "reminder", "handed_over", True, "reminded"),
        ("open", None, "reminder", "delivered", True, "reminded"),
        ("open", None, "reminder", "unreached", False, "unreached_visit"),
        ("open", None, "reminder", "unreached", True, "unreached_visit"),
        ("open", None, "second_reminder", None, True, "reminded"),
        ("open", None, "second_reminder", "delivered", True, "second_reminded"),
        ("open", None, "second_reminder", "unreached", True, "unreached_visit"),
        ("held", None, "second_reminder", "delivered", True, "held"),
        ("ended", "enrolled", "reminder", "handed_over", True, "enrolled"),
        ("ended", "exempt", "reminder", None, False, "exempt"),
        ("ended", "wrong_data", "reminder", None, False, "ended_other"),
        ("ended", "unit_closed", "second_reminder", None, True, "ended_other"),
    ],
)
def test_where_a_lead_is(
    *, state: str, end: str | None, stage: str, notice: str | None, messaged: bool, place: str
) -> None:
    """By its state, its end and the last word on its notice."""
    found = place_of(RULE.ladder, state=state, end=end, stage=stage, notice=notice, messaged=messaged)
    assert found == place


def test_no_lead_is_without_a_place() -> None:
    """Whatever a lead may look like."""
    looks = itertools.product(
        LeadState, [*End, None], ["reminder", "letter", "gone"], [*Word, None], [True, False]
    )
    for state, end, stage, notice, messaged in looks:
        found = place_of(RULE.ladder, state=state, end=end, stage=stage, notice=notice, messaged=messaged)
        assert found in set(Place)
