"""The ladder from event to event: waits, holds, visits, exemptions, corrections, stock, new episodes."""

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from services.matching import tables
from services.matching.commands import PORTION
from services.matching.domain import Lead
from services.matching.store import next_advance
from shared.calendar import Calendar
from shared.errors import Problem
from shared.events.matching import LeadAdvanced, LeadCorrected, LeadResolved, VisitRequested
from shared.events.registry import DataComplete
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
    handed_over,
    registered,
    started,
    unreached,
    withdrawn,
)

OTHER = "91371082MA3XTE5T9N"


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


@pytest.fixture
def reminded(overdue: Matching) -> Matching:
    """Its reminder was handed over on 2026-02-10 at 08:30; ten working days later is 2026-03-02."""
    overdue.tell(handed_over())
    return overdue


@pytest.fixture
def twice(reminded: Matching) -> Matching:
    """Its second reminder was handed over on 2026-03-02; ten working days later is 2026-03-16."""
    reminded.live_to("2026-03-02")
    reminded.tell(handed_over(stage="second_reminder", at=at("2026-03-02", "08:30"), notice_id="notice-2"))
    reminded.heard()
    return reminded


def lead(matching: Matching) -> Lead:
    found = matching.case().lead
    assert found
    return found


def next_of(matching: Matching) -> tuple[str | None, date | None]:
    return lead(matching).next_step, lead(matching).next_on


def visits(matching: Matching) -> list[str]:
    return [row.state for row in matching.rows(tables.visit)]


# -- waits -------------------------------------------------------------------------------------------------


def test_the_second_reminder_comes_on_the_tenth_working_day_with_a_visit(reminded: Matching) -> None:
    """Over the Spring Festival and two make-up days: not a day earlier, once, and the town is asked too."""
    reminded.live_to("2026-03-01")
    assert reminded.names() == []
    reminded.live_to("2026-03-02")
    advanced, visit = reminded.heard()
    assert isinstance(advanced, LeadAdvanced)
    assert isinstance(visit, VisitRequested)
    assert (advanced.stage, advanced.episode, advanced.uscc, advanced.held) == (
        "second_reminder",
        1,
        USCC,
        [],
    )
    assert (visit.reason, visit.town, visit.lead_id) == ("second_reminder", "寻山街道", LEAD)
    assert next_of(reminded) == ("second_reminder", date(2026, 3, 2))
    assert [(row.state, row.notice_id) for row in reminded.rows(tables.visit)] == [("open", None)]
    reminded.live_to("2026-04-10")
    assert reminded.names() == []


def test_the_second_reminder_waits_for_complete_participations(reminded: Matching) -> None:
    """Unknown is no breach: complete through the day before the step, whenever that is said, and not earlier."""
    reminded.live_to("2026-02-28")
    reminded.move_to("2026-03-02")
    reminded.complete("2026-02-28")
    assert reminded.names() == []
    assert lead(reminded).waits_for == date(2026, 3, 1)
    with reminded.database.read() as db:
        assert next_advance(db) is None  # nothing that time could bring on
    reminded.move_to("2026-03-04")
    reminded.tell(delivered())
    assert reminded.names() == []
    reminded.complete("2026-03-01")
    assert reminded.names() == ["lead_advanced 1", "visit_requested second_reminder"]
    assert lead(reminded).waits_for is None


def test_enrolment_ends_the_wait_for_data(reminded: Matching) -> None:
    """What came with the data counts; nothing is left to wait for."""
    reminded.live_to("2026-02-28")
    reminded.move_to("2026-03-02")
    reminded.tell(started(started_on=date(2026, 3, 1)))
    reminded.complete("2026-03-02")
    assert reminded.names() == ["lead_resolved enrolled"]
    assert lead(reminded).waits_for is None


def test_an_unreached_notice_starts_the_wait_as_well(overdue: Matching) -> None:
    """First the town looks in; the second reminder follows all the same."""
    overdue.tell(unreached(reason="no_contact"))
    assert next_of(overdue) == ("visit", date(2026, 2, 24))
    overdue.live_to("2026-03-02")
    assert overdue.names() == [
        "visit_requested no_contact",
        "lead_advanced 1",
    ]
    assert visits(overdue) == ["open", "joined"]  # the stage asks too: it is one walk


def test_silence_after_the_hand_over_does_not_restart_the_wait(reminded: Matching) -> None:
    """The wait counts from the first end of the notice; the visit comes before its step."""
    reminded.tell(unreached(at=at("2026-02-13", "08:30")))
    assert next_of(reminded)[0] == "visit"
    assert lead(reminded).act_at == at("2026-03-02", "00:00")


def test_weak_evidence_ends_with_a_visit_after_the_second_reminder(twice: Matching) -> None:
    """When its wait is over nothing more is sent: the town visits, and somebody looks again at the re-check."""
    assert next_of(twice) == ("visit", date(2026, 3, 16))
    twice.live_to("2026-05-20")
    assert twice.names() == []
    assert lead(twice).stage == "second_reminder"
    assert next_of(twice) == ("visit", date(2026, 4, 14))
    with twice.database.read() as db:
        assert next_advance(db) is None


def test_a_late_word_about_the_first_notice_leaves_the_second_stage_alone(reminded: Matching) -> None:
    """The second reminder has not left yet, so no wait runs."""
    reminded.live_to("2026-03-02")
    reminded.tell(delivered(), unreached())
    assert next_of(reminded) == ("second_reminder", date(2026, 3, 2))
    assert lead(reminded).act_at is None


def test_enrolment_ends_the_wait(reminded: Matching) -> None:
    """No step is left to take."""
    reminded.tell(started())
    reminded.live_to("2026-03-10")
    assert reminded.names() == ["lead_resolved enrolled"]
    with reminded.database.read() as db:
        assert next_advance(db) is None


def test_a_withdrawn_notice_of_an_open_lead_waits_for_a_decision(overdue: Matching) -> None:
    """It was recalled: what happens next an official decides, on the next working day."""
    overdue.tell(withdrawn(reason="recalled"))
    assert next_of(overdue) == ("decide", date(2026, 2, 11))
    overdue.live_to("2026-03-10")
    assert overdue.names() == []


def test_after_downtime_each_step_is_taken_once_in_portions(matching: Matching) -> None:
    """However long the system was off; the wait of the next stage begins with its own notice."""
    usccs = [f"unit-{n:05}" for n in range(PORTION + 10)]
    matching.receive(*(matching.message(registered(uscc=uscc)) for uscc in usccs))
    matching.clock.move_to(at("2026-02-10"))
    matching.complete("2026-02-09")
    notices = [handed_over(uscc=uscc, lead_id=f"R01-{uscc}", notice_id=uscc) for uscc in usccs]
    matching.receive(*map(matching.message, notices))
    matching.heard()
    matching.clock.move_to(at("2026-03-20"))
    matching.tell(DataComplete(dataset="participations", through=date(2026, 3, 19)))
    assert (matching.climb(), matching.climb()) == (2, 0)
    names = matching.names()
    assert names.count("lead_advanced 1") == names.count("visit_requested second_reminder") == len(usccs)
    assert len(names) == 2 * len(usccs)
    assert matching.case(usccs[0]).lead.next_on == date(2026, 3, 20)  # type: ignore[union-attr]


def test_a_new_holiday_moves_a_running_wait(reminded: Matching) -> None:
    """The step comes a working day later."""
    year = CALENDAR.years[2026]
    reminded.tell(calendar(2026, [*year.holidays, date(2026, 3, 2)], year.makeup_days))
    assert next_of(reminded) == ("second_reminder", date(2026, 3, 3))
    reminded.live_to("2026-03-02")
    assert reminded.names() == []
    reminded.live_to("2026-03-03")
    assert reminded.names()[0] == "lead_advanced 1"


def test_a_wait_into_an_unpublished_year_takes_no_step_until_it_is_published(tmp_path: Path) -> None:
    """By guess it would end on 2026-01-05; the notice of 2026 moves it to 01-06."""
    unpublished = Calendar({year: CALENDAR.years[year] for year in CALENDAR.years if year < 2026})
    matching = Matching(tmp_path, start=at("2025-11-12"), published=unpublished)
    matching.tell(registered(established_on=date(2025, 11, 10)))
    matching.live_to("2025-12-22")
    matching.tell(handed_over(at=at("2025-12-22", "08:30")))
    matching.live_to("2026-01-06")
    assert matching.names() == ["lead_opened 1"]
    with matching.database.read() as db:
        assert next_advance(db) is None
    year = CALENDAR.years[2026]
    matching.tell(calendar(2026, year.holidays, year.makeup_days))
    matching.climb()
    assert matching.names()[0] == "lead_advanced 1"
    matching.close()


def test_looking_for_due_steps_reads_an_index_from_its_front(matching: Matching) -> None:
    """Leads that wait for news are not in it."""
    with matching.database.read() as db:
        asked = "EXPLAIN QUERY PLAN SELECT uscc FROM lead WHERE act_at <= '2026' ORDER BY act_at LIMIT 500"
        plan = "\n".join(str(row) for row in db.exec_driver_sql(asked))
    assert "lead_act_at" in plan
    assert "TEMP B-TREE" not in plan


# -- holds -------------------------------------------------------------------------------------------------


def _pause(matching: Matching) -> None:
    matching.act("pause")


def _resume(matching: Matching) -> None:
    matching.act("resume")


def _suspend(matching: Matching) -> None:
    matching.tell(changed(2, status="suspended"))


def _go_on(matching: Matching) -> None:
    matching.tell(changed(3))


def _freeze(matching: Matching) -> None:
    matching.run(lambda work: matching.world.on_parked(work, USCC))


def _thaw(matching: Matching) -> None:
    matching.run(lambda work: matching.world.on_released(work, USCC))


@pytest.mark.parametrize(
    ("hold", "release"),
    [(_pause, _resume), (_suspend, _go_on), (_freeze, _thaw)],
    ids=["paused", "suspended", "parked"],
)
def test_days_on_hold_are_not_counted(
    reminded: Matching, hold: Callable[[Matching], None], release: Callable[[Matching], None]
) -> None:
    """Held from 02-12 to 02-26: 02-11 counted, nine working days are left, and the step comes on 03-10."""
    reminded.live_to("2026-02-12")
    hold(reminded)
    assert (lead(reminded).act_at, lead(reminded).next_on) == (None, date(2026, 3, 18))
    reminded.live_to("2026-02-26")
    release(reminded)
    assert next_of(reminded) == ("second_reminder", date(2026, 3, 10))
    reminded.heard()
    reminded.live_to("2026-03-09")
    assert reminded.names() == []
    reminded.live_to("2026-03-10")
    assert reminded.names()[0] == "lead_advanced 1"


def test_a_hold_past_the_end_of_the_wait_takes_no_step(reminded: Matching) -> None:
    """However long it lasts."""
    reminded.act("pause")
    reminded.live_to("2026-04-20")
    assert reminded.names() == ["lead_held paused"]


def test_a_second_reason_to_hold_stops_nothing_twice(reminded: Matching) -> None:
    """Nor does it put off the day to look again; the wait goes on when the last reason is gone."""
    reminded.live_to("2026-02-12")
    reminded.act("pause")
    look_again = lead(reminded).next_on
    reminded.live_to("2026-02-13")
    reminded.tell(changed(2, status="suspended"))
    reminded.act("resume")
    assert (lead(reminded).act_at, lead(reminded).next_on) == (None, look_again)
    reminded.live_to("2026-02-26")
    reminded.tell(changed(3))
    assert next_of(reminded) == ("second_reminder", date(2026, 3, 10))


def test_a_notice_handed_over_while_the_lead_is_held_waits_from_its_release(overdue: Matching) -> None:
    """It had left just before."""
    overdue.act("pause")
    overdue.tell(handed_over())
    assert lead(overdue).act_at is None
    overdue.live_to("2026-02-26")
    overdue.act("resume")
    assert next_of(overdue) == ("second_reminder", date(2026, 3, 11))


def test_a_lead_released_before_its_notice_has_the_notice_as_next_step(overdue: Matching) -> None:
    """Due again on the next working day."""
    overdue.act("pause")
    overdue.live_to("2026-02-15")
    overdue.act("resume")
    assert next_of(overdue) == ("reminder", date(2026, 2, 24))


# -- visits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "step", "within", "goes_on"),
    [
        ("enrolled", "recheck", date(2026, 3, 17), False),
        ("insured_elsewhere", "resolve", date(2026, 2, 25), False),
        ("no_employees", "exemption", date(2026, 2, 25), False),
        ("moved", "correct_data", date(2026, 2, 25), False),
        ("promised", "recheck", date(2026, 3, 17), True),
        ("refused", "decide", date(2026, 2, 25), True),
        ("not_found", "correct_data", date(2026, 2, 25), True),
    ],
)
def test_the_next_step_follows_from_what_the_town_found(
    overdue: Matching, result: str, step: str, within: date, goes_on: bool
) -> None:
    """What the next message would contradict stops it until an official decides; else it comes in its time."""
    overdue.tell(unreached())
    overdue.live_to("2026-02-11")
    overdue.report(result, note="门店老板张三")
    assert next_of(overdue) == (step, within)
    (visit,) = overdue.rows(tables.visit)
    assert (visit.state, visit.result, visit.note) == ("done", result, "门店老板张三")
    assert lead(overdue).held == ([] if goes_on else ["visited"])
    assert overdue.rows(tables.lead_history)[-1].action == "visited"
    audit = overdue.rows(tables.PLUMBING.audit)[-1]
    assert (audit.action, audit.actor) == ("visit.reported", "official")
    assert "张三" not in str(audit.details)
    overdue.heard()
    overdue.live_to("2026-03-10")
    assert overdue.names()[:1] == (["lead_advanced 1"] if goes_on else [])


def test_numbers_of_people_in_the_note_of_a_visit_are_masked(overdue: Matching) -> None:
    """In the visit and in the lead's history; the other words stay."""
    overdue.tell(unreached())
    overdue.report("moved", note="找 13800138000，身份证 371082198503150023")
    masked = "找 138****8000，身份证 371082********0023"
    assert [row.note for row in overdue.rows(tables.visit)] == [masked]
    assert overdue.rows(tables.lead_history)[-1].details["reason"] == masked


@pytest.mark.parametrize(
    ("result", "action", "then"),
    [
        ("moved", "resume", ["lead_released visited"]),
        ("no_employees", "resume", ["lead_released visited"]),
        ("no_employees", "exempt", ["lead_resolved exempt"]),
        ("enrolled", "pause", ["lead_held paused"]),
    ],
)
def test_what_a_visit_found_holds_what_is_queued_until_an_official_decides(
    reminded: Matching, result: str, action: str, then: list[str]
) -> None:
    """The second reminder waits to leave: it is held by the report, and goes on only when somebody says so."""
    reminded.live_to("2026-03-02")
    reminded.heard()
    reminded.report(result)
    assert reminded.names() == ["lead_held visited"]
    reminded.tell(changed(name="荣成市改名水产有限公司"))  # other news does not end it
    assert "lead_released visited" not in reminded.names()
    reminded.act(action)
    assert reminded.names() == then
    if action == "pause":
        reminded.act("resume")
        assert reminded.names() == ["lead_released paused", "lead_released visited"]


def test_what_a_visit_found_does_not_hold_the_next_episode(reminded: Matching) -> None:
    """The exemption that followed is over: the message of the new episode may leave."""
    reminded.live_to("2026-03-02")
    reminded.report("no_employees")
    reminded.exempt(expires_on=date(2026, 3, 10))
    reminded.heard()
    reminded.live_to("2026-03-11")
    assert reminded.names() == ["lead_opened 2"]
    assert lead(reminded).held == []


def test_a_step_an_official_owes_outlasts_the_end_of_the_ladder(twice: Matching) -> None:
    """The town said what to do; that the wait is over does not hide it."""
    twice.report("refused")
    twice.live_to("2026-03-20")
    assert next_of(twice)[0] == "decide"


def test_one_report_answers_all_visits_of_the_lead(overdue: Matching) -> None:
    """Nobody goes twice for the same."""
    overdue.tell(unreached(), unreached(notice_id="notice-2"))
    overdue.report()
    assert visits(overdue) == ["done", "cancelled"]


def test_the_visits_of_an_ended_lead_are_cancelled(overdue: Matching) -> None:
    """And a report about one is refused; the visits of the next episode are its own."""
    overdue.tell(unreached(), started())
    assert visits(overdue) == ["cancelled"]
    with pytest.raises(Problem) as refused:
        overdue.report()
    assert (refused.value.status, refused.value.code) == (409, "visit_closed")
    overdue.tell(cancelled(), unreached(notice_id="notice-2", episode=2))
    assert visits(overdue) == ["cancelled", "open"]


def test_a_visit_of_an_episode_that_is_over_is_cancelled_from_the_start(overdue: Matching) -> None:
    """The notice ended after its lead: it is on record, and nobody is sent."""
    overdue.tell(started(), unreached())
    assert visits(overdue) == ["cancelled"]
    overdue.tell(cancelled(), unreached(notice_id="notice-2", episode=1))
    assert visits(overdue) == ["cancelled", "cancelled"]
    assert "visit_requested silent" not in overdue.names()


def test_a_late_receipt_cancels_the_visit_and_the_ladder_goes_on(reminded: Matching) -> None:
    """The notice had arrived after all: back to the second reminder, on its old day."""
    reminded.tell(unreached(at=at("2026-02-13", "08:30")))
    assert visits(reminded) == ["open"]
    reminded.tell(delivered(at=at("2026-02-14", "08:30")))
    assert visits(reminded) == ["cancelled"]
    assert next_of(reminded) == ("second_reminder", date(2026, 3, 2))


def test_a_receipt_for_another_notice_cancels_nothing(reminded: Matching) -> None:
    """Each visit belongs to its notice."""
    reminded.tell(unreached(), delivered(notice_id="notice-9", stage="second_reminder"))
    assert visits(reminded) == ["open"]
    assert next_of(reminded)[0] == "visit"


def test_a_visit_that_another_reason_asks_for_stays_when_the_notice_arrived(overdue: Matching) -> None:
    """The town is asked again, for what is left; when nothing is, nobody goes."""
    overdue.tell(
        unreached(), unreached(notice_id="notice-2", reason="refused"), unreached(notice_id="notice-3")
    )
    assert visits(overdue) == ["open", "joined", "joined"]
    assert overdue.names() == ["visit_requested silent"]
    overdue.tell(delivered(notice_id="notice-3"))
    assert (visits(overdue), overdue.names()) == (["open", "joined", "cancelled"], [])
    overdue.tell(delivered())
    assert (visits(overdue), overdue.names()) == (
        ["cancelled", "open", "cancelled"],
        ["visit_requested refused"],
    )
    overdue.tell(delivered(notice_id="notice-2"))
    assert (visits(overdue), overdue.names()) == (["cancelled"] * 3, [])


def test_a_visit_of_another_town_is_not_there(overdue: Matching) -> None:
    """Row scope."""
    overdue.tell(unreached())
    with pytest.raises(Problem) as refused:
        overdue.report(town="崖头街道")
    assert refused.value.status == 404
    overdue.report(town="寻山街道")


# -- corrections -------------------------------------------------------------------------------------------


def test_wrong_data_after_a_message_is_corrected(reminded: Matching) -> None:
    """With the facts that the message named, which nothing voids; the lead ends first, so the unsent is withdrawn."""
    reminded.tell(changed(2, established_on=date(2026, 3, 2)))
    resolved, corrected = reminded.heard()
    assert isinstance(resolved, LeadResolved)
    assert isinstance(corrected, LeadCorrected)
    assert (corrected.stage, corrected.end, corrected.episode) == ("correction", "wrong_data", 1)
    assert (corrected.established_on, corrected.deadline) == (date(2026, 1, 9), date(2026, 2, 9))
    assert corrected.void.insurances == corrected.void.forms == []


def test_nothing_sent_needs_no_correction(overdue: Matching) -> None:
    """Also when the notice reached nobody."""
    overdue.tell(unreached(reason="no_contact"))
    overdue.heard()
    overdue.tell(changed(2, established_on=date(2026, 3, 2)))
    assert overdue.names() == ["lead_resolved wrong_data"]


def test_a_kind_corrected_after_a_message_is_an_error_too(reminded: Matching) -> None:
    """The unit never was obliged."""
    reminded.tell(changed(2, kind="sole_trader"))
    assert reminded.names() == ["lead_resolved no_obligation", "lead_corrected no_obligation"]


@pytest.mark.parametrize(
    ("end", "corrects"), [("wrong_data", True), ("no_obligation", False), ("settled_by_inspection", False)]
)
def test_an_official_corrects_only_what_was_wrong(reminded: Matching, end: str, corrects: bool) -> None:
    """Having no workers is no error of the message, which asks for just that answer."""
    reminded.act("resolve", end=end)
    assert [name.split()[0] for name in reminded.names()] == ["lead_resolved", *["lead_corrected"] * corrects]


@pytest.mark.parametrize("event", [started(), closed()], ids=["enrolled", "closed"])
def test_other_ends_are_no_error(reminded: Matching, event: object) -> None:
    """The message was right when it left."""
    reminded.tell(event)  # type: ignore[arg-type]
    assert [name.split()[0] for name in reminded.names()] == ["lead_resolved"]


def test_a_message_that_left_just_before_the_end_is_corrected_once(overdue: Matching) -> None:
    """Its hand-over is told after the lead has ended; its receipt corrects nothing again."""
    overdue.tell(changed(2, established_on=date(2026, 3, 2)))
    overdue.tell(handed_over(), delivered())
    assert overdue.names() == ["lead_resolved wrong_data", "lead_corrected wrong_data"]


def test_a_message_of_unknown_outcome_counts_as_sent(overdue: Matching) -> None:
    """Somebody may have it, so it is taken back; one that reached nobody for sure is not."""
    overdue.act("resolve", end="wrong_data")
    overdue.heard()
    overdue.tell(unreached(reason="no_contact"))
    assert overdue.names() == []
    overdue.tell(unreached(reason="unknown"))
    assert overdue.names() == ["lead_corrected wrong_data"]


def test_what_becomes_of_a_correction_moves_nothing(reminded: Matching) -> None:
    """It is kept in the history; no visit, no further correction."""
    reminded.tell(changed(2, established_on=date(2026, 3, 2)))
    reminded.heard()
    reminded.tell(
        handed_over(stage="correction", notice_id="c"), unreached(stage="correction", notice_id="c")
    )
    assert (reminded.names(), visits(reminded)) == ([], [])
    assert [row.action for row in reminded.rows(tables.lead_history)][-2:] == [
        "notice_handed_over",
        "notice_unreached",
    ]


# -- exemptions --------------------------------------------------------------------------------------------


def clock_of(matching: Matching) -> tuple[str, str | None]:
    clock = matching.case().clock
    assert clock
    return clock.state, clock.reason


def test_an_exemption_ends_lead_clock_and_visits(overdue: Matching) -> None:
    """A person's decision, for twelve months; his words and the proof stay inside."""
    overdue.tell(unreached())
    overdue.heard()
    overdue.act("exempt", "无雇工，张三已核实")
    (resolved,) = overdue.heard()
    assert isinstance(resolved, LeadResolved)
    assert (resolved.end, resolved.by_official) == ("exempt", True)
    assert "张三" not in resolved.reason
    assert clock_of(overdue) == ("stopped", "exempt")
    assert visits(overdue) == ["cancelled"]
    (kept,) = overdue.rows(tables.exemption)
    assert (kept.expires_on, kept.proof, kept.granted_by) == (date(2027, 2, 10), "证明", "official")
    assert overdue.case().clock.look_at == at("2027-02-11", "00:00")  # type: ignore[union-attr]
    assert "exemption.granted" in [row.action for row in overdue.rows(tables.PLUMBING.audit)]


def test_an_exemption_ends_a_pause(overdue: Matching) -> None:
    """The official who exempts decides: nothing holds the lead that ended, nor its next episode."""
    overdue.act("pause")
    overdue.act("exempt", expires_on=date(2026, 3, 10))
    assert lead(overdue).held == []
    overdue.live_to("2026-03-11")
    assert (lead(overdue).episode, lead(overdue).held) == (2, [])


def test_an_exemption_is_looked_at_again_when_it_is_over(overdue: Matching) -> None:
    """Still uninsured and obliged: the lead is reopened the day after, as the next episode."""
    overdue.act("exempt", expires_on=date(2026, 3, 10))
    overdue.heard()
    overdue.live_to("2026-03-10")
    overdue.tell(changed(2, unit_name="新名"))
    assert overdue.names() == []
    overdue.live_to("2026-03-11")
    assert overdue.names() == ["lead_opened 2"]


def test_an_exemption_over_during_downtime_is_caught_up(overdue: Matching) -> None:
    """Days later, once."""
    overdue.act("exempt", expires_on=date(2026, 3, 10))
    overdue.heard()
    overdue.move_to("2026-03-20")
    assert overdue.names() == ["lead_opened 2"]


def test_who_enrols_while_exempt_gets_no_lead_afterwards(overdue: Matching) -> None:
    """The clock says enrolled, and time has nothing left to look at."""
    overdue.act("exempt", expires_on=date(2026, 3, 10))
    overdue.heard()
    overdue.tell(started(started_on=date(2026, 2, 20)))
    overdue.live_to("2026-03-12")
    assert (overdue.names(), clock_of(overdue)) == ([], ("stopped", "enrolled"))


def test_a_unit_cleared_before_its_deadline_gets_no_lead(matching: Matching) -> None:
    """Until the exemption is over."""
    matching.tell(registered())
    matching.exempt(expires_on=date(2026, 3, 1))
    assert clock_of(matching) == ("stopped", "exempt")
    matching.live_to("2026-03-01")
    assert matching.names() == []
    matching.live_to("2026-03-02")
    assert matching.names() == ["lead_opened 1"]


def test_an_exemption_that_is_over_before_the_deadline_lets_the_clock_run(matching: Matching) -> None:
    """With the old deadline."""
    matching.tell(registered())
    matching.exempt(expires_on=date(2026, 1, 20))
    matching.live_to("2026-01-21")
    assert clock_of(matching) == ("running", None)
    matching.live_to("2026-02-10")
    assert matching.names() == ["lead_opened 1"]


def test_a_newer_exemption_replaces_the_older(overdue: Matching) -> None:
    """One per unit; a shorter one ends sooner."""
    overdue.act("exempt")
    overdue.exempt(expires_on=date(2026, 2, 28))
    assert len(overdue.rows(tables.exemption)) == 1
    overdue.heard()
    overdue.live_to("2026-03-01")
    assert overdue.names() == ["lead_opened 2"]


@pytest.mark.parametrize("expires_on", [date(2026, 2, 9), date(2028, 2, 11)])
def test_an_exemption_lasts_no_longer_than_the_pack_allows(overdue: Matching, expires_on: date) -> None:
    """Nor can it be over already; both limits themselves are fine."""
    with pytest.raises(Problem) as refused:
        overdue.act("exempt", expires_on=expires_on)
    assert refused.value.errors[0].pointer == "/expires_on"
    assert overdue.rows(tables.exemption) == []
    overdue.exempt(expires_on=date(2026, 2, 10))
    overdue.exempt(expires_on=date(2028, 2, 10))


@pytest.mark.parametrize(("uscc", "town"), [(OTHER, None), (USCC, "崖头街道")])
def test_no_exemption_for_a_unit_that_is_not_there(matching: Matching, uscc: str, town: str | None) -> None:
    """Unknown, or of another town."""
    matching.tell(registered())
    with pytest.raises(Problem) as refused:
        matching.exempt(uscc, town=town)
    assert refused.value.status == 404


def test_an_ended_lead_is_exempted_no_more(overdue: Matching) -> None:
    """The unit can be, without its lead."""
    overdue.act("resolve", end="no_obligation")
    with pytest.raises(Problem) as refused:
        overdue.act("exempt")
    assert refused.value.code == "lead_ended"
    overdue.exempt()


# -- reopening ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "back"),
    [
        (lambda m: m.tell(started()), lambda m: m.tell(cancelled())),
        (lambda m: m.tell(closed()), lambda m: m.tell(changed(3))),
        (lambda m: m.tell(changed(2, kind="sole_trader")), lambda m: m.tell(changed(3))),
        (
            lambda m: m.tell(changed(2, established_on=None)),
            lambda m: m.tell(changed(3)),
        ),
        (lambda m: m.act("resolve", end="no_obligation"), lambda m: m.act("reopen")),
        (lambda m: m.act("resolve", end="wrong_data"), lambda m: m.act("reopen")),
        (lambda m: m.act("resolve", end="settled_by_inspection"), lambda m: m.act("reopen")),
        (lambda m: m.act("exempt"), lambda m: m.act("reopen")),
        (lambda m: m.act("exempt", expires_on=date(2026, 2, 20)), lambda m: m.live_to("2026-02-21")),
    ],
    ids=[
        "enrolled",
        "unit_closed",
        "not_obliged",
        "date_unknown",
        "no_obligation",
        "wrong_data",
        "settled",
        "exempt lifted",
        "exempt over",
    ],
)
def test_every_end_can_be_reopened_on_a_fresh_ladder(
    reminded: Matching, end: Callable[[Matching], None], back: Callable[[Matching], None]
) -> None:
    """The same lead, the next episode, from the first stage, nothing sent and no wait running."""
    end(reminded)
    assert lead(reminded).state == "ended"
    reminded.heard()
    back(reminded)
    assert reminded.names() == ["lead_opened 2"]
    found = lead(reminded)
    assert (found.id, found.episode, found.stage, found.state) == (LEAD, 2, "reminder", "open")
    assert (found.notice, found.messaged, found.wait_left, found.act_at) == (None, False, None, None)
    assert found.next_step == "reminder"


def test_a_lifted_exemption_does_not_come_back(overdue: Matching) -> None:
    """Facts of later days meet an open lead."""
    overdue.act("exempt")
    overdue.act("reopen")
    overdue.tell(changed(2, unit_name="新名"))
    assert overdue.names() == ["lead_resolved exempt", "lead_opened 2", "lead_changed 2"]
    assert overdue.rows(tables.exemption)[0].lifted_at is not None


# -- stock -------------------------------------------------------------------------------------------------


def test_an_overdue_unit_of_a_batch_goes_to_the_stock(matching: Matching) -> None:
    """A single registration never does; a unit of a batch whose clock still runs neither."""
    matching.complete("2026-01-11")
    old = date(2025, 11, 20)
    matching.tell(
        registered(established_on=old, origin="batch"),
        registered(uscc="single", established_on=old),
        registered(uscc="running", origin="batch"),
    )
    assert matching.names() == ["lead_opened 1"]
    assert clock_of(matching) == ("held", "stock")
    matching.live_to("2026-02-10")
    assert [event.uscc for event in matching.heard()] == ["running"]
    assert clock_of(matching) == ("held", "stock")


def test_what_ran_out_before_going_live_is_stock(tmp_path: Path) -> None:
    """Though registered in time: the city did not send yet. The day itself counts."""
    matching = Matching(tmp_path, start=at("2025-11-25"))
    matching.tell(
        registered(origin="batch", established_on=date(2025, 11, 29)),
        registered(uscc="single", established_on=date(2025, 11, 29)),
        registered(uscc="later", origin="batch", established_on=date(2025, 12, 2)),
    )
    matching.live_to("2026-01-08")
    assert sorted(event.uscc for event in matching.heard()) == ["later", "single"]
    assert clock_of(matching) == ("held", "stock")
    matching.close()


def test_enrolment_takes_a_unit_out_of_the_stock(matching: Matching) -> None:
    """It needs no release."""
    matching.complete("2026-01-11")
    matching.tell(registered(established_on=date(2025, 11, 20), origin="batch"))
    matching.tell(started(started_on=date(2026, 1, 5)))
    assert clock_of(matching) == ("stopped", "enrolled")
    assert matching.release(10) == 0


def test_the_stock_is_released_in_portions_the_oldest_first(matching: Matching) -> None:
    """Each release is audited, and what was released stays so."""
    matching.complete("2026-01-11")
    for n, day in enumerate((20, 3, 10)):
        town = "崖头街道" if n == 1 else "寻山街道"
        matching.tell(
            registered(uscc=f"unit-{n}", established_on=date(2025, 11, day), origin="batch", town=town)
        )
    assert matching.release(1, "寻山街道") == 1
    assert [event.uscc for event in matching.heard()] == ["unit-2"]
    assert matching.release(1, "寻山街道", "崖头街道") == 0
    assert matching.release(1) == 1
    assert [event.uscc for event in matching.heard()] == ["unit-1"]
    assert matching.release(5) == 1
    assert [event.uscc for event in matching.heard()] == ["unit-0"]
    audits = [
        (row.subject, row.actor) for row in matching.rows(tables.PLUMBING.audit) if "stock" in row.action
    ]
    assert audits == [("unit-2", "official"), ("unit-1", "official"), ("unit-0", "official")]
    matching.tell(changed(2, uscc="unit-0", established_on=date(2025, 11, 20), origin="batch", kind="other"))
    matching.tell(changed(3, uscc="unit-0", established_on=date(2025, 11, 20), origin="batch"))
    assert matching.names() == ["lead_resolved no_obligation", "lead_opened 2"]


def test_released_stock_waits_for_complete_data_like_any_other(matching: Matching) -> None:
    """Unknown is not a breach."""
    matching.tell(registered(established_on=date(2025, 11, 20), origin="batch"))
    matching.release(1)
    assert clock_of(matching) == ("waiting", None)
    matching.tell(DataComplete(dataset="participations", through=date(2026, 1, 11)))
    matching.look()
    assert matching.names() == ["lead_opened 1"]


def test_counting_the_stock_reads_an_index(matching: Matching) -> None:
    """Only the stock is in it."""
    with matching.database.read() as db:
        asked = (
            "EXPLAIN QUERY PLAN SELECT uscc FROM clock WHERE reason = 'stock' ORDER BY due_at, uscc LIMIT 9"
        )
        plan = "\n".join(str(row) for row in db.exec_driver_sql(asked))
    assert "clock_stock" in plan
    assert "TEMP B-TREE" not in plan
