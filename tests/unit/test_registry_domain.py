"""Registry's pure rules: doubts, days of completeness, the last look, years of the calendar."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.registry.domain import (
    Contact,
    ContactRole,
    Form,
    Insurance,
    Question,
    Unit,
    UnitKind,
    UnitStatus,
    closed,
    late_days,
    live_day,
    live_due,
    look,
    resumed,
    suspended,
    unit_doubts,
    year_faults,
)
from services.registry.settings import RegistrySettings
from shared.clock import ZONE, start_of, today
from shared.errors import Problem

TODAY = date(2026, 2, 10)
UNIT = Unit(
    uscc="91371082MA3XTE5T8Q",
    name="示例",
    kind=UnitKind.ENTERPRISE,
    established_on=date(2026, 1, 9),
    town=None,
    address=None,
    industry=None,
    code_confirmed=True,
    contact_version=1,
    recorded_at=datetime(2026, 1, 9, tzinfo=ZONE),
)
CONTACTS = (Contact(ContactRole.HR, "李示例", "13900139000"),)


@pytest.mark.parametrize(
    ("uscc", "kind"),
    [
        ("91371082MA3XTE5T8Q", UnitKind.ENTERPRISE),
        ("92371082MA3XTE5T8M", UnitKind.SOLE_TRADER),
        ("93371082MA3XTE5U6D", UnitKind.COOPERATIVE),
        ("52371082MJE123451U", UnitKind.PRIVATE_NON_ENTERPRISE),
        ("11371082004260010F", UnitKind.GOVERNMENT_BODY),
        ("12371082494260012J", UnitKind.PUBLIC_INSTITUTION),
        ("31371082MD01234549", UnitKind.LAW_FIRM),
        ("N2371082MF4123459Y", UnitKind.VILLAGE_COLLECTIVE),
    ],
)
def test_a_code_says_what_kind_of_unit_it_is(uscc: str, kind: UnitKind) -> None:
    """The kind that belongs to the first two characters is no doubt; any other is."""
    assert unit_doubts(replace(UNIT, uscc=uscc, kind=kind), CONTACTS) == ()
    doubts = unit_doubts(replace(UNIT, uscc=uscc, kind=UnitKind.OTHER), CONTACTS)
    assert [doubt.code for doubt in doubts] == ["kind_mismatch"]


def test_codes_without_a_kind_of_their_own_raise_no_doubt() -> None:
    """Trade unions, temples and others may be of any kind."""
    assert "kind_mismatch" not in [
        doubt.code for doubt in unit_doubts(replace(UNIT, uscc="81371082MA3XTE5T8Q"), CONTACTS)
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)).map(lambda at: at.replace(tzinfo=ZONE)),
    st.one_of(st.none(), st.integers(1, 40)),
)
def test_a_live_day_is_due_exactly_when_it_is_over(now: datetime, back: int | None) -> None:
    """Something is to be said if and only if its due instant has come; nothing is due right after."""
    through = None if back is None else today(now) - timedelta(days=back)
    day, due = live_day(through, today(now)), live_due(through, now)
    assert (day is not None) == (due <= now)
    if day is not None:
        assert day == today(now) - timedelta(days=1)
        assert live_due(day, now) == start_of(today(now) + timedelta(days=1))


@pytest.mark.parametrize(
    ("through", "late"),
    [(TODAY, 0), (date(2026, 2, 8), 0), (date(2026, 2, 7), 1), (date(2026, 1, 31), 8), (None, 1)],
)
def test_a_batch_set_is_late_behind_the_day_before_yesterday(through: date | None, late: int) -> None:
    """A night's grace; a live set is never late."""
    assert late_days("batch", through, TODAY) == late
    assert late_days("live", through, TODAY) == 0


def test_a_year_of_the_pack_has_no_faults() -> None:
    """What the city pack holds would pass as an import."""
    for year in RegistrySettings().city().calendar.years.values():
        assert year_faults(year.year, sorted(year.holidays), sorted(year.makeup_days)) == []


def test_a_unit_may_be_suspended_again_but_not_before_it_resumed() -> None:
    """Spells of suspension do not overlap."""
    once = resumed(suspended(UNIT, date(2026, 1, 20), TODAY), date(2026, 1, 25), TODAY)
    assert suspended(once, date(2026, 1, 25), TODAY).status is UnitStatus.SUSPENDED
    with pytest.raises(Problem):
        suspended(once, date(2026, 1, 24), TODAY)


@pytest.mark.parametrize("status", [UnitStatus.ACTIVE, UnitStatus.SUSPENDED, UnitStatus.REVOKED])
def test_every_unit_that_is_not_closed_can_be_closed(status: UnitStatus) -> None:
    """Also a suspended or revoked one."""
    assert closed(replace(UNIT, status=status), TODAY, TODAY).closed_on == TODAY


def question(**facts: Any) -> Question:
    given = {
        "uscc": UNIT.uscc,
        "insurances": (Insurance.PENSION, Insurance.INJURY),
        "mode": "any",
        "forms": (Form.EMPLOYER, Form.PROJECT),
        "name": UNIT.name,
        "kind": UNIT.kind,
        "established_on": UNIT.established_on,
        "town": UNIT.town,
        "contact_version": 1,
    }
    return Question(**{**given, **facts})


def test_being_insured_outweighs_everything_else() -> None:
    """Also where registry does not know the unit, or the facts differ."""
    in_force = {(Insurance.PENSION, Form.EMPLOYER)}
    assert look(question(), None, in_force) == "insured"
    assert look(question(name="另一名称"), UNIT, in_force) == "insured"


def test_all_is_reached_across_forms() -> None:
    """Pension by the employer and injury by the project are both insurances."""
    in_force = {(Insurance.PENSION, Form.EMPLOYER), (Insurance.INJURY, Form.PROJECT)}
    assert look(question(mode="all"), UNIT, in_force) == "insured"
    assert look(question(mode="all"), UNIT, {(Insurance.PENSION, Form.EMPLOYER)}) is None
