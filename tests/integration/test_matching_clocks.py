"""Clocks and leads from event to event: what starts, moves, stops, holds and ends them."""

import asyncio
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.matching import tables
from services.matching.commands import PORTION
from shared.calendar import Calendar
from shared.errors import Problem
from shared.events.matching import LeadChanged, LeadOpened, LeadResolved, VisitRequested
from shared.events.registry import DataComplete
from shared.messaging.bus import partition_of
from tests.support.matching import (
    CALENDAR,
    LEAD,
    USCC,
    Matching,
    at,
    calendar,
    cancelled,
    changed,
    closed,
    delivered,
    disputed,
    ended,
    handed_over,
    registered,
    settled,
    started,
    unreached,
    withdrawn,
)


@pytest.fixture
def matching(tmp_path: Path) -> Iterator[Matching]:
    made = Matching(tmp_path, start=at("2026-01-12"))
    yield made
    made.close()


@pytest.fixture
def overdue(matching: Matching) -> Matching:
    """The example unit on the morning of 2026-02-10, its lead opened at midnight."""
    matching.tell(registered())
    matching.live_to("2026-02-10")
    assert matching.names() == ["lead_opened 1"]
    return matching


def state(matching: Matching) -> tuple[str, str | None]:
    clock = matching.case().clock
    assert clock
    return clock.state, clock.reason


# -- the main job ----------------------------------------------------------------------------------------


def test_nobody_insured_by_the_deadline_opens_a_lead_the_next_day(matching: Matching) -> None:
    """Established 2026-01-09, complete data every night: nothing through 02-09, the lead at 00:00 of 02-10."""
    matching.tell(registered())
    matching.live_to("2026-02-09")
    assert (matching.names(), state(matching)) == ([], ("running", None))
    matching.live_to("2026-02-10")
    (opened,) = matching.heard()
    assert isinstance(opened, LeadOpened)
    assert (opened.lead_id, opened.deadline, opened.stage) == (LEAD, date(2026, 2, 9), "reminder")
    assert opened.void.insurances == ["pension", "unemployment", "injury"]
    assert opened.void.forms == ["employer"]
    assert (opened.held, opened.not_before, opened.contact_version) == ([], None, 1)
    assert "（参保数据完整至 2026-02-09）" in opened.reason
    lead = matching.case().lead
    assert lead
    assert (lead.owner, lead.next_step, lead.next_on) == ("寻山街道", "reminder", date(2026, 2, 10))
    assert state(matching) == ("due", None)


def test_a_lead_is_opened_once(overdue: Matching) -> None:
    """Days later, and told again that the data is complete, the clock says nothing more."""
    overdue.live_to("2026-02-20")
    assert overdue.names() == []


def test_an_opened_lead_leaves_history_and_audit(overdue: Matching) -> None:
    """The change, its event and its trace commit together."""
    assert [(row.action, row.actor) for row in overdue.rows(tables.lead_history)] == [("opened", "matching")]
    assert [row.action for row in overdue.rows(tables.PLUMBING.audit)] == ["lead.opened"]


def test_an_event_is_kept_as_its_own_json(overdue: Matching) -> None:
    """What lies in the outbox is what the event's model writes, whole: days, nested facts, lists."""
    (row,) = overdue.rows(tables.PLUMBING.outbox)
    assert row.data == LeadOpened.model_validate(row.data).model_dump(mode="json")
    assert set(row.data) == set(LeadOpened.model_fields)


def test_after_downtime_everything_due_is_done_once_in_portions(matching: Matching) -> None:
    """What fell due while the system was off is done when it is back, at most 500 in a transaction."""
    usccs = [f"unit-{n:05}" for n in range(PORTION + 10)]
    matching.receive(*(matching.message(registered(uscc=uscc)) for uscc in usccs))
    matching.clock.move_to(at("2026-03-20"))
    assert matching.look() == 2  # nothing is known to be complete: all wait
    matching.tell(DataComplete(dataset="participations", through=date(2026, 3, 19)))
    assert matching.look() == 2
    assert matching.look() == 0
    assert matching.names() == ["lead_opened 1"] * len(usccs)


# -- waiting for data ------------------------------------------------------------------------------------


def test_a_clock_waits_until_participations_are_complete_through_its_deadline(matching: Matching) -> None:
    """Run out but one day short of data: it waits; with that day it goes on."""
    matching.tell(registered())
    matching.complete("2026-02-08")
    matching.move_to("2026-02-10")
    assert (matching.names(), state(matching)) == ([], ("waiting", None))
    matching.complete("2026-02-09")
    assert matching.names() == ["lead_opened 1"]


def test_a_waiting_clock_is_not_due(matching: Matching) -> None:
    """Only an event can move it on, so time has nothing to look at."""
    matching.tell(registered())
    matching.move_to("2026-02-10")
    clock = matching.case().clock
    assert clock
    assert (clock.state, clock.look_at) == ("waiting", None)
    assert matching.look() == 0


def test_only_the_units_own_partition_counts(matching: Matching) -> None:
    """Facts of another partition may still be under way here."""
    matching.tell(registered())
    matching.move_to("2026-02-10")
    own = matching.case().clock.partition  # type: ignore[union-attr]
    complete = DataComplete(dataset="participations", through=date(2026, 2, 9))
    matching.receive(matching.message(complete, (own + 1) % 6))
    assert matching.look() == 0
    assert state(matching) == ("waiting", None)
    matching.receive(matching.message(complete, own))
    matching.look()
    assert state(matching) == ("due", None)


def test_another_data_set_completes_nothing(matching: Matching) -> None:
    """Clocks wait for participations alone."""
    matching.tell(registered())
    matching.move_to("2026-02-10")
    matching.tell(DataComplete(dataset="tax_payments", through=date(2026, 2, 9)))
    matching.look()
    assert state(matching) == ("waiting", None)


def test_completeness_only_moves_forward(matching: Matching) -> None:
    """An older declaration that comes late takes nothing back."""
    matching.complete("2026-02-09")
    matching.complete("2026-02-01")
    matching.tell(registered())
    matching.move_to("2026-02-10")
    assert state(matching) == ("due", None)


def test_an_enrolment_of_the_deadline_day_that_arrives_later_opens_no_lead(matching: Matching) -> None:
    """While the clock waits for data, the late row comes: it stops, and no lead ever was."""
    matching.tell(registered())
    matching.move_to("2026-02-10")
    matching.move_to("2026-02-11")
    matching.tell(started(started_on=date(2026, 2, 9)))
    matching.complete("2026-02-11")
    assert (matching.names(), state(matching)) == ([], ("stopped", "enrolled"))


# -- participations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("insurance", ["pension", "unemployment", "injury"])
def test_any_of_three_insurances_stops_the_clock(matching: Matching, insurance: str) -> None:
    """One participation of employer form is enough."""
    matching.tell(registered(), started(insurance=insurance, started_on=date(2026, 1, 12)))
    assert state(matching) == ("stopped", "enrolled")
    matching.live_to("2026-02-12")
    assert matching.names() == []


@pytest.mark.parametrize(
    "given",
    [{"insurance": "medical"}, {"form": "project"}, {"insurance": "resident_pension"}],
)
def test_other_participations_stop_nothing(matching: Matching, given: dict[str, str]) -> None:
    """Medical insurance alone, or another form, is no enrolment."""
    matching.tell(registered(), started(**given))
    matching.live_to("2026-02-10")
    assert matching.names() == ["lead_opened 1"]


def test_a_flexible_participation_belongs_to_no_unit(matching: Matching) -> None:
    """It is passed over."""
    matching.tell(registered(), started(form="flexible", uscc=None))
    assert matching.rows(tables.participation) == []


def test_a_participation_waits_for_a_unit_that_is_not_known_yet(matching: Matching) -> None:
    """The unit comes later, insured from its first day here."""
    matching.tell(started(started_on=date(2026, 1, 10)), registered())
    assert state(matching) == ("stopped", "enrolled")


def test_an_ended_participation_brings_no_clock_back(matching: Matching) -> None:
    """It was true until it ended."""
    matching.tell(registered(), started(started_on=date(2026, 1, 12)), ended(started_on=date(2026, 1, 12)))
    matching.live_to("2026-02-12")
    matching.tell(changed(2, unit_name="新名"))
    assert (matching.names(), state(matching)) == ([], ("stopped", "enrolled"))


def test_enrolment_after_the_lead_resolves_it(overdue: Matching) -> None:
    """Clock and lead are closed at once."""
    overdue.tell(started(started_on=date(2026, 2, 10)))
    assert (overdue.names(), state(overdue)) == (["lead_resolved enrolled"], ("stopped", "enrolled"))
    lead = overdue.case().lead
    assert lead
    assert (lead.state, lead.next_step, lead.next_on) == ("ended", None, None)


def test_a_backdated_enrolment_resolves_the_lead(overdue: Matching) -> None:
    """Though it starts before the deadline, it came after the lead."""
    overdue.tell(started(started_on=date(2026, 1, 20)))
    assert overdue.names() == ["lead_resolved enrolled"]


def test_a_future_enrolment_stops_the_clock_on_its_day_only(matching: Matching) -> None:
    """Until then the clock goes on; on that day it stops by itself."""
    matching.tell(registered(), started(started_on=date(2026, 1, 20)))
    assert state(matching) == ("running", None)
    assert matching.case().clock.look_at == at("2026-01-20", "00:00")  # type: ignore[union-attr]
    matching.move_to("2026-01-20")
    assert state(matching) == ("stopped", "enrolled")


def test_an_enrolment_after_the_deadline_does_not_prevent_the_lead(matching: Matching) -> None:
    """The lead opens, and is resolved when the day of the enrolment begins."""
    matching.tell(registered(), started(started_on=date(2026, 2, 16)))
    matching.live_to("2026-02-16")
    assert matching.names() == ["lead_opened 1", "lead_resolved enrolled"]


def test_a_cancelled_enrolment_gives_the_old_deadline_back(matching: Matching) -> None:
    """Cancelled before the deadline, the clock is running again and ends when it would have."""
    matching.tell(registered(), started(started_on=date(2026, 1, 12)))
    matching.tell(cancelled(started_on=date(2026, 1, 12)))
    assert state(matching) == ("running", None)
    assert matching.case().clock.deadline == date(2026, 2, 9)  # type: ignore[union-attr]
    matching.live_to("2026-02-10")
    assert matching.names() == ["lead_opened 1"]


def test_a_cancellation_after_the_deadline_is_looked_at_at_once(matching: Matching) -> None:
    """The old deadline has passed, so the lead opens in the handler."""
    matching.tell(registered(), started(started_on=date(2026, 1, 12)))
    matching.live_to("2026-02-12")
    matching.tell(cancelled(started_on=date(2026, 1, 12)))
    assert matching.names() == ["lead_opened 1"]


def test_a_cancelled_enrolment_reopens_the_lead_it_had_ended(overdue: Matching) -> None:
    """As a new episode of the same lead, with a higher number."""
    overdue.tell(started(), cancelled())
    assert overdue.names() == ["lead_resolved enrolled", "lead_opened 2"]
    assert len(overdue.rows(tables.lead)) == 1


def test_a_cancellation_changes_nothing_while_another_enrolment_is_left(overdue: Matching) -> None:
    """The unit is still insured."""
    overdue.tell(started(1), started(2, insurance="injury"), cancelled(1))
    assert overdue.names() == ["lead_resolved enrolled"]
    overdue.tell(cancelled(2, insurance="injury"))
    assert overdue.names() == ["lead_opened 2"]


# -- the unit changes ------------------------------------------------------------------------------------


def test_suspension_and_resumption_keep_the_old_deadline(matching: Matching) -> None:
    """Suspended over its deadline the clock stands; resumed it is evaluated at once, one lead."""
    matching.tell(registered(), changed(2, status="suspended"))
    assert state(matching) == ("suspended", None)
    matching.live_to("2026-03-02")
    assert matching.names() == []
    matching.tell(changed(3, status="active"))
    assert matching.names() == ["lead_opened 1"]


def test_suspension_before_the_deadline_resumed_before_it(matching: Matching) -> None:
    """The days of suspension are counted: the deadline stays."""
    matching.tell(registered(), changed(2, status="suspended"), changed(3, status="active"))
    matching.live_to("2026-02-10")
    assert matching.names() == ["lead_opened 1"]


def test_suspension_holds_an_open_lead(overdue: Matching) -> None:
    """The same lead goes on when the unit does: no second episode."""
    overdue.tell(changed(2, status="suspended"))
    assert overdue.case().lead.state == "held"  # type: ignore[union-attr]
    overdue.tell(changed(3, status="active"))
    assert overdue.names() == ["lead_held suspended", "lead_released suspended"]
    assert overdue.case().lead.state == "open"  # type: ignore[union-attr]


def test_closure_stops_the_clock(matching: Matching) -> None:
    """A closed unit owes nothing."""
    matching.tell(registered(), closed())
    matching.live_to("2026-02-12")
    assert (matching.names(), state(matching)) == ([], ("stopped", "closed"))


def test_closure_resolves_the_lead(overdue: Matching) -> None:
    """The lead ends as unit_closed."""
    overdue.tell(closed())
    assert overdue.names() == ["lead_resolved unit_closed"]


def test_an_unconfirmed_code_holds_the_lead_until_it_is_confirmed(matching: Matching) -> None:
    """The lead opens held, and nothing leaves until the code is right."""
    matching.tell(registered(code_confirmed=False))
    matching.live_to("2026-02-10")
    (opened,) = matching.heard()
    assert isinstance(opened, LeadOpened)
    assert opened.held == ["code"]
    matching.tell(changed(2, code_confirmed=True))
    assert matching.names() == ["lead_released code"]


def test_a_later_date_of_establishment_ends_the_lead_and_starts_anew(overdue: Matching) -> None:
    """The old lead was wrong data; a later one is the next episode."""
    overdue.tell(changed(2, established_on=date(2026, 1, 26)))
    (resolved,) = overdue.heard()
    assert isinstance(resolved, LeadResolved)
    assert (resolved.end, resolved.episode) == ("wrong_data", 1)
    assert state(overdue) == ("running", None)
    overdue.live_to("2026-02-26")
    assert overdue.names() == ["lead_opened 2"]


def test_a_later_date_that_has_run_out_too_opens_the_next_episode_at_once(overdue: Matching) -> None:
    """Established a day later, the deadline is the same day."""
    overdue.tell(changed(2, established_on=date(2026, 1, 10)))
    first, second = overdue.heard()
    assert isinstance(first, LeadResolved)
    assert isinstance(second, LeadOpened)
    assert (first.episode, second.episode) == (1, 2)


def test_an_earlier_date_changes_the_facts_of_the_lead(overdue: Matching) -> None:
    """It stays open, with the new date, deadline and sentence."""
    overdue.tell(changed(2, established_on=date(2026, 1, 5)))
    (event,) = overdue.heard()
    assert isinstance(event, LeadChanged)
    assert (event.established_on, event.deadline) == (date(2026, 1, 5), date(2026, 2, 4))
    assert event.reason.startswith("2026-01-05 设立，至法定期限 2026-02-04")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"unit_name": "荣成市新名水产有限公司"}, "unit_name"),
        ({"town": "崖头街道"}, "town"),
        ({"kind": "cooperative"}, "kind"),
        ({"contact_version": 2}, "contact_version"),
    ],
)
def test_corrected_facts_are_told_again(overdue: Matching, given: dict[str, object], field: str) -> None:
    """Texts and the last look rest on them."""
    overdue.tell(changed(2, **given))
    (event,) = overdue.heard()
    assert isinstance(event, LeadChanged)
    assert getattr(event, field) == given[field]


def test_what_no_text_rests_on_is_not_told(overdue: Matching) -> None:
    """A change of industry leaves the lead as it is."""
    overdue.tell(changed(2, industry="C1361"))
    assert overdue.heard() == []


def test_an_older_version_of_a_unit_is_passed_over(overdue: Matching) -> None:
    """Facts never go back."""
    overdue.tell(changed(3, unit_name="新名"), changed(2, unit_name="旧名"))
    assert len(overdue.heard()) == 1
    assert overdue.case().unit.name == "新名"  # type: ignore[union-attr]


def test_a_kind_that_is_not_obliged_ends_the_lead(overdue: Matching) -> None:
    """And a kind that is obliged again starts the clock again."""
    overdue.tell(changed(2, kind="sole_trader"))
    assert (overdue.names(), state(overdue)) == (["lead_resolved no_obligation"], ("stopped", "not_obliged"))
    overdue.tell(changed(3, kind="enterprise"))
    assert overdue.names() == ["lead_opened 2"]


# -- registered late, provisional calendar, parked -----------------------------------------------------------


def test_a_unit_registered_overdue_is_evaluated_in_the_handler_and_waits(matching: Matching) -> None:
    """The lead opens at once; its message waits ten minutes for the participation call."""
    matching.complete("2026-01-11")
    matching.tell(registered(established_on=date(2025, 11, 20)))
    (opened,) = matching.heard()
    assert isinstance(opened, LeadOpened)
    assert opened.not_before == at("2026-01-12") + timedelta(minutes=10)


def test_the_wait_counts_from_the_registration_also_when_data_came_later(matching: Matching) -> None:
    """Waiting for data first does not put the message off any further."""
    matching.tell(registered(established_on=date(2025, 12, 10)))
    matching.move_to("2026-01-13")
    matching.complete("2026-01-12")
    (opened,) = matching.heard()
    assert isinstance(opened, LeadOpened)
    assert opened.not_before == at("2026-01-12") + timedelta(minutes=10)


def test_a_provisional_deadline_is_held_until_its_year_is_published(tmp_path: Path) -> None:
    """Beyond the published years nothing is sent; the calendar, once loaded, moves the deadline."""
    unpublished = Calendar({year: CALENDAR.years[year] for year in CALENDAR.years if year < 2026})
    matching = Matching(tmp_path, start=at("2026-01-12"), published=unpublished)
    matching.tell(registered(established_on=date(2026, 1, 20)))  # day 30 is 02-19, in the Festival
    matching.live_to("2026-02-21")
    assert (matching.names(), state(matching)) == ([], ("held", "provisional"))
    year = CALENDAR.years[2026]
    matching.tell(calendar(2026, year.holidays, year.makeup_days))
    assert matching.case().clock.deadline == date(2026, 2, 24)  # type: ignore[union-attr]
    assert state(matching) == ("running", None)
    matching.live_to("2026-02-25")
    assert matching.names() == ["lead_opened 1"]
    matching.close()


def test_a_calendar_moves_deadlines_set_earlier_in_the_same_batch(matching: Matching) -> None:
    """The clock was started in this very transaction, by the old calendar."""
    year = CALENDAR.years[2026]
    more = [*year.holidays, date(2026, 2, 9)]
    partition = partition_of(USCC)
    matching.receive(
        matching.message(registered()), matching.message(calendar(2026, more, year.makeup_days), partition)
    )
    assert matching.case().clock.deadline == date(2026, 2, 10)  # type: ignore[union-attr]


def test_a_new_holiday_moves_the_pending_deadlines_it_touches(matching: Matching) -> None:
    """Also published years may be corrected; a lead that was opened keeps the day its texts name."""
    matching.tell(registered(), registered(uscc="other", established_on=date(2026, 1, 12)))
    matching.live_to("2026-02-10")
    year = CALENDAR.years[2026]
    more = [*year.holidays, date(2026, 2, 9), date(2026, 2, 11)]
    matching.tell(calendar(2026, more, year.makeup_days))
    assert matching.case("other").clock.deadline == date(2026, 2, 12)  # type: ignore[union-attr]
    matching.tell(changed(2, unit_name="新名"))
    assert matching.case().clock.deadline == date(2026, 2, 9)  # type: ignore[union-attr]
    assert matching.names() == ["lead_opened 1", "lead_changed 1"]


def test_a_partition_that_lags_brings_no_older_calendar_back(matching: Matching) -> None:
    """Its own units go by the newer one at once, and what comes meanwhile elsewhere does so too."""
    here, elsewhere = partition_of("other"), partition_of(USCC)
    assert here != elsewhere
    year = CALENDAR.years[2026]
    matching.tell(registered(uscc="other"))
    older = matching.message(calendar(2026, year.holidays, year.makeup_days), here)
    matching.clock.move_to(matching.clock.now() + timedelta(minutes=1))
    more = [*year.holidays, date(2026, 2, 9)]
    matching.receive(matching.message(calendar(2026, more, year.makeup_days), elsewhere))
    matching.receive(older)
    matching.tell(registered())
    for uscc in (USCC, "other"):
        assert matching.case(uscc).clock.deadline == date(2026, 2, 10)  # type: ignore[union-attr]


def test_a_parked_message_holds_the_clock_until_it_is_through(matching: Matching) -> None:
    """Whatever the parked fact says may stop the clock, so nothing opens before it is read."""
    matching.tell(registered())
    matching.receive(matching.message(started(), torn=True))
    assert state(matching) == ("held", "parked")
    matching.live_to("2026-02-12")
    assert matching.names() == []
    _mend(matching, started(insurance="medical"))
    assert matching.names() == ["lead_opened 1"]


def test_a_parked_message_holds_an_open_lead(overdue: Matching) -> None:
    """Its messages are kept back, and let go when the key is."""
    overdue.receive(overdue.message(started(), torn=True))
    assert overdue.names() == ["lead_held parked"]
    _mend(overdue, started(insurance="medical"))
    assert overdue.names() == ["lead_released parked"]


def _mend(matching: Matching, event: object) -> None:
    """The operator's way: the parked message is made readable and sent again."""
    parked = tables.PLUMBING.parked
    good = matching.message(event).value  # type: ignore[arg-type]
    matching.run(lambda work: work.db.execute(sa.update(parked).values(value=good)))
    assert asyncio.run(matching.world.consumer.redrive("registry", USCC)) == 1


# -- rows in dispute -------------------------------------------------------------------------------------


def test_a_disputed_row_holds_the_clock_until_the_last_is_settled(matching: Matching) -> None:
    """It may say that the unit insures somebody; also where the row came before the unit. Told twice is once."""
    matching.tell(disputed(2), disputed(2), disputed(3), registered())
    assert state(matching) == ("held", "disputed")
    matching.live_to("2026-02-12")
    matching.tell(settled(2))
    assert (state(matching), matching.names()) == (("held", "disputed"), [])
    matching.tell(settled(3))
    assert matching.names() == ["lead_opened 1"]


def test_a_disputed_row_holds_an_open_lead(overdue: Matching) -> None:
    """Its messages are kept back; a pause of an official's outlasts the dispute."""
    overdue.tell(disputed(2))
    assert overdue.names() == ["lead_held disputed"]
    overdue.act("pause")
    overdue.tell(settled(2))
    assert overdue.names() == ["lead_held paused", "lead_released disputed"]
    assert overdue.case().lead.held == ["paused"]  # type: ignore[union-attr]


def test_an_enrolment_stops_the_clock_of_a_disputed_unit(matching: Matching) -> None:
    """One good row is enough."""
    matching.tell(registered(), disputed(2), started(started_on=date(2026, 1, 12)))
    assert state(matching) == ("stopped", "enrolled")


# -- notices -----------------------------------------------------------------------------------------------


def test_a_handed_over_reminder_dates_the_next_step(overdue: Matching) -> None:
    """Ten working days after 2026-02-10, over the Spring Festival and its make-up days."""
    overdue.tell(handed_over(), delivered())
    lead = overdue.case().lead
    assert lead
    assert (lead.next_step, lead.next_on) == ("second_reminder", date(2026, 3, 2))
    actions = [row.action for row in overdue.rows(tables.lead_history)]
    assert actions == ["opened", "notice_handed_over", "notice_delivered"]


def test_an_unreached_notice_asks_for_one_visit(overdue: Matching) -> None:
    """However often it is told; a second notice is on record as well, and one walk answers both."""
    overdue.tell(unreached(), unreached(), unreached(notice_id="notice-2", reason="no_contact"))
    (asked,) = overdue.heard()
    assert isinstance(asked, VisitRequested)
    assert (asked.town, asked.reason) == ("寻山街道", "silent")
    assert [(row.notice_id, row.state) for row in overdue.rows(tables.visit)] == [
        ("notice-1", "open"),
        ("notice-2", "joined"),
    ]
    assert overdue.case().lead.next_step == "visit"  # type: ignore[union-attr]


def test_a_notice_of_an_earlier_episode_dates_nothing(overdue: Matching) -> None:
    """It goes into the history and leaves the next step alone."""
    overdue.tell(started(), cancelled(), handed_over(episode=1))
    assert overdue.case().lead.next_step == "reminder"  # type: ignore[union-attr]


def test_a_withdrawn_notice_is_kept_in_the_history(overdue: Matching) -> None:
    """The lead had ended; that the text never left can be seen."""
    overdue.tell(started(), withdrawn())
    assert [row.action for row in overdue.rows(tables.lead_history)] == [
        "opened",
        "resolved",
        "notice_withdrawn",
    ]


def test_a_lead_that_ended_asks_for_no_visit(overdue: Matching) -> None:
    """Who has enrolled is not visited; the history keeps that the notice reached nobody."""
    overdue.tell(started(), unreached(reason="unknown"))
    assert overdue.names() == ["lead_resolved enrolled"]
    assert [visit.state for visit in overdue.rows(tables.visit)] == ["cancelled"]
    assert [row.action for row in overdue.rows(tables.lead_history)][-1] == "notice_unreached"


def test_a_notice_of_an_earlier_episode_asks_for_no_visit(overdue: Matching) -> None:
    """The next episode has a notice of its own."""
    overdue.tell(started(), cancelled(), unreached(episode=1))
    assert [visit.state for visit in overdue.rows(tables.visit)] == ["cancelled"]
    overdue.tell(unreached(episode=2, notice_id="notice-2"))
    assert [(v.notice_id, v.state) for v in overdue.rows(tables.visit)] == [
        ("notice-1", "cancelled"),
        ("notice-2", "open"),
    ]


# -- what officials do -------------------------------------------------------------------------------------


def test_a_lead_resolved_by_hand_stays_so_whatever_comes(overdue: Matching) -> None:
    """A ruling stops the clock and outlasts new facts."""
    overdue.act("resolve", "无雇工，张三已核实", end="no_obligation")
    (resolved,) = overdue.heard()
    assert isinstance(resolved, LeadResolved)
    assert resolved.end == "no_obligation"
    assert "张三" not in resolved.reason
    assert state(overdue) == ("stopped", "no_obligation")
    overdue.tell(changed(2, unit_name="新名"), started(), cancelled())
    overdue.live_to("2026-02-20")
    assert (overdue.names(), state(overdue)) == ([], ("stopped", "no_obligation"))


def test_wrong_data_ruled_by_hand_ends_with_the_corrected_date(overdue: Matching) -> None:
    """The corrected date starts a clock again."""
    overdue.act("resolve", end="wrong_data")
    overdue.tell(changed(2, established_on=date(2026, 1, 26)))
    assert state(overdue) == ("running", None)


def test_reopening_is_a_new_episode(overdue: Matching) -> None:
    """The clock is due again and the lead counts one more."""
    overdue.act("resolve", end="no_obligation")
    overdue.act("reopen", "发现用工")
    assert overdue.names() == ["lead_resolved no_obligation", "lead_opened 2"]
    assert state(overdue) == ("due", None)


def test_pause_and_resume(overdue: Matching) -> None:
    """An official keeps messages back, through other holds, until he lets them go."""
    overdue.act("pause")
    overdue.tell(changed(2, status="suspended"), changed(3, status="active"))
    assert overdue.case().lead.held == ["paused"]  # type: ignore[union-attr]
    overdue.act("resume")
    assert overdue.names() == [
        "lead_held paused",
        "lead_held suspended",
        "lead_released suspended",
        "lead_released paused",
    ]
    assert overdue.case().lead.state == "open"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("before", "action", "code"),
    [
        ([], "reopen", "lead_open"),
        ([], "resume", "lead_not_paused"),
        (["pause"], "pause", "lead_not_pausable"),
        (["resolve"], "resolve", "lead_ended"),
        (["resolve"], "pause", "lead_not_pausable"),
        (["resolve"], "resume", "lead_not_paused"),
    ],
)
def test_what_a_lead_does_not_allow_is_refused(
    overdue: Matching, before: list[str], action: str, code: str
) -> None:
    """A conflict says why, and nothing changes."""
    for earlier in before:
        overdue.act(earlier, end="no_obligation" if earlier == "resolve" else None)
    overdue.heard()
    with pytest.raises(Problem) as refused:
        overdue.act(action, end="no_obligation" if action == "resolve" else None)
    assert (refused.value.status, refused.value.code) == (409, code)
    assert overdue.heard() == []


def test_a_lead_without_ground_is_not_reopened(overdue: Matching) -> None:
    """The unit is insured: reopening would end at once."""
    overdue.tell(started())
    with pytest.raises(Problem) as refused:
        overdue.act("reopen")
    assert refused.value.code == "lead_without_ground"


def test_a_note_changes_nothing_but_the_history(overdue: Matching) -> None:
    """It is kept with its author."""
    overdue.act("note", "已电话联系")
    assert overdue.heard() == []
    note = overdue.rows(tables.lead_history)[-1]
    assert (note.action, note.actor, note.details) == ("note", "official", {"reason": "已电话联系"})


def test_an_action_leaves_one_line_and_one_audit_row(overdue: Matching) -> None:
    """With its author and his words in the history, and no words in the audit or in an event."""
    overdue.act("pause", "等待核实")
    overdue.act("resume", "核实完毕")
    overdue.act("resolve", "无雇工", end="no_obligation")
    overdue.act("reopen", "发现用工")
    lines = overdue.rows(tables.lead_history)[1:]
    assert [(row.action, row.actor, row.details["reason"]) for row in lines] == [
        ("held", "official", "等待核实"),
        ("released", "official", "核实完毕"),
        ("resolved", "official", "无雇工"),
        ("opened", "official", "发现用工"),
    ]
    audit = overdue.rows(tables.PLUMBING.audit)[1:]
    assert [row.action for row in audit] == ["lead.held", "lead.released", "lead.resolved", "lead.opened"]
    written = str([event.model_dump() for event in overdue.heard()] + [row.details for row in audit])
    assert not any(row.details["reason"] in written for row in lines)


def test_numbers_of_people_are_masked_before_words_are_kept(overdue: Matching) -> None:
    """Neither lead nor history holds an ID number or a mobile number, however it was written."""
    words = "法人 371082 19850315 0023，电话１３８００１３８０００"
    overdue.act("note", words)
    overdue.act("resolve", words, end="no_obligation")
    kept = "法人 371082********0023，电话138****8000"
    assert overdue.case().lead.end_reason == kept  # type: ignore[union-attr]
    assert [row.details["reason"] for row in overdue.rows(tables.lead_history)[1:]] == [kept, kept]


def test_a_pause_outlasts_an_end_that_the_data_made(overdue: Matching) -> None:
    """Enrolled by mistake and cancelled: the next episode is still paused, until the official resumes it."""
    overdue.act("pause")
    overdue.tell(started())
    with pytest.raises(Problem) as refused:
        overdue.act("resume")
    assert refused.value.code == "lead_not_paused"
    assert overdue.case().lead.state == "ended"  # type: ignore[union-attr]
    overdue.tell(cancelled())
    *_, opened = overdue.heard()
    assert isinstance(opened, LeadOpened)
    assert (opened.episode, opened.held) == (2, ["paused"])
    overdue.act("resume")
    assert overdue.case().lead.state == "open"  # type: ignore[union-attr]


def test_a_lead_of_another_town_is_not_there(overdue: Matching) -> None:
    """Row scope: the same answer as for no lead at all."""
    with pytest.raises(Problem) as refused:
        overdue.act("note", town="崖头街道")
    assert refused.value.status == 404
    overdue.act("note", town="寻山街道")


# -- cost --------------------------------------------------------------------------------------------------


def test_looking_for_due_clocks_reads_an_index_from_its_front(matching: Matching) -> None:
    """An idle poll costs the same however many clocks are pending."""
    with matching.database.read() as db:
        plan = "\n".join(
            str(row)
            for row in db.exec_driver_sql(
                "EXPLAIN QUERY PLAN SELECT uscc FROM clock WHERE look_at <= '2026' ORDER BY look_at LIMIT 500"
            )
        )
    assert "clock_look_at" in plan
    assert "TEMP B-TREE" not in plan
