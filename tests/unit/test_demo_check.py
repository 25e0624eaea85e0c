"""The independent check: passes a right ledger, and finds every planted wrong in it.

The right ledger comes from a small simulator here that shares nothing with the check, not even the calendar.
"""

import ast
import json
import sqlite3
import sys
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path

import chinese_calendar
import pytest

from services.demo import check
from services.demo.check import Row
from services.demo.check.__main__ import main
from services.demo.city import END, FATES, generate
from services.notify import sandbox

TOWNS = ["俚岛镇", "成山镇", "寻山街道"]
ZONE = END.tzinfo
OBLIGED = [
    "enterprise",
    "private_non_enterprise",
    "social_organisation",
    "foundation",
    "law_firm",
    "cooperative",
]


# -- a literal simulator of what a right suite sends ------------------------------------------------------


def working(day: date) -> bool:
    return chinese_calendar.is_workday(day)


def end_of_clock(established_on: str) -> date:
    day = date.fromisoformat(established_on) + timedelta(days=30)
    while not working(day):
        day += timedelta(days=1)
    return day


def known(unit: dict, at: datetime, what: str) -> list[dict]:
    return [f for f in unit["facts"] if f["fact"] == what and datetime.fromisoformat(f["answered_at"]) <= at]


def deadline_to_name(records: dict, unit: dict, at: datetime) -> date | None:
    """The deadline that a reminder at this instant names; None when none may leave."""
    corrected = known(unit, at, "corrected")
    last = end_of_clock(corrected[-1]["established_on"] if corrected else unit["established_on"])
    through = [d["through"] for d in records["declared"] if datetime.fromisoformat(d["answered_at"]) <= at]
    registered = known(unit, at, "registered")
    if unit["kind"] not in OBLIGED or unit["mobile"] is None or not registered:
        return None
    if last >= at.date() or last.isoformat() > max(through, default=""):
        return None
    since = datetime.fromisoformat(registered[0]["answered_at"])
    if since.date() > last and at < since + timedelta(minutes=10):
        return None
    cancelled = [f["of"] for f in known(unit, at, "cancelled")]
    for spell in known(unit, at, "participation"):
        stops = spell["form"] == "employer" and spell["insurance"] in ("pension", "unemployment", "injury")
        if stops and spell["key"] not in cancelled and spell["started_on"] <= at.date().isoformat():
            return None
    if known(unit, at, "closed") or len(known(unit, at, "suspended")) > len(known(unit, at, "resumed")):
        return None
    return last if unit["code_valid"] or known(unit, at, "confirmed") else None


def instants(records: dict, unit: dict) -> list[datetime]:
    """The opening of every window, and everything that changes inside one."""
    start = datetime(2026, 1, 5, 8, 30, tzinfo=ZONE)
    opens = [start + timedelta(days=n) for n in range(76)]
    changes = [datetime.fromisoformat(f["answered_at"]) for f in (*unit["facts"], *records["declared"])]
    inside = [*opens, *changes, *(at + timedelta(minutes=10) for at in changes)]
    return sorted(
        at for at in inside if working(at.date()) and time(8, 30) <= at.time() < time(18) and at < END
    )


def second_day(unit: dict, first: date) -> date:
    """The tenth working day after the first reminder's, days of suspension not counted."""
    day = first
    for _ in range(10):
        day += timedelta(days=1)
        while not working(day) or suspended_on(unit, day):
            day += timedelta(days=1)
    return day


def declared_through(records: dict, at: datetime) -> date:
    """The last day through which participations are declared complete; a step waits for the day before it."""
    return max(
        (
            date.fromisoformat(f["through"])
            for f in records["declared"]
            if datetime.fromisoformat(f["answered_at"]) <= at
        ),
        default=date.min,
    )


def suspended_on(unit: dict, day: date) -> bool:
    """Whether a unit was suspended on a day, if only for a part of it. At most one suspension."""
    days = [
        date.fromisoformat(f[f"{f['fact']}_on"])
        for f in unit["facts"]
        if f["fact"] in ("suspended", "resumed")
    ]
    return bool(days) and days[0] <= day <= (days[1] if len(days) > 1 else date.max)


def simulate(records: dict) -> list[Row]:
    rows = []
    for unit in records["units"]:
        accepted, not_before, again = unit["phone"] != "refused", date.min, False
        for at in instants(records, unit):
            last = deadline_to_name(records, unit, at)
            if not last or at.date() < not_before:
                continue
            if again and declared_through(records, at) < not_before - timedelta(days=1):
                continue
            until = f"{last.year}年{last.month}月{last.day}日届满"
            said = f"期限已于{until}，经提醒仍未查询到记录。" if again else f"登记期限至{until}。"
            rows.append(
                Row(0, at + timedelta(seconds=1), unit["mobile"], f"{unit['name']}：{said}", accepted)
            )
            if again:
                break
            not_before, again = second_day(unit, at.date()), True
    rows.sort(key=lambda row: row.at)
    return [replace(row, seq=n) for n, row in enumerate(rows, 1)]


# -- the story and its mutations --------------------------------------------------------------------------


def small_city(seed):
    """The records of a city with a part of the units whose fate concerns their SMS alone.

    Of each fate the earliest and the latest, and whoever's deadline ends the holidays. What several units go
    through together has files of its own.
    """
    city = generate(seed, TOWNS)
    records = city.records(city.planned(), until=END)
    by_fate = {}
    for unit in sorted(records["units"], key=lambda u: u["established_on"]):
        by_fate.setdefault(unit["fate"], []).append(unit)
    units = [
        unit
        for fate, all_of_it in by_fate.items()
        for n, unit in enumerate(all_of_it)
        if fate in FATES
        and (n < 3 or n >= len(all_of_it) - 3 or end_of_clock(unit["established_on"]) == date(2026, 2, 24))
    ]
    return {**records, "units": units, "sending": [], "answers": []}


@pytest.fixture(scope="module")
def records():
    return small_city(20260105)


@pytest.fixture(scope="module")
def ledger(records):
    return simulate(records)


def unit_of(records, fate):
    """The last unit of a fate to come to its deadline, so that most get no second reminder before the end."""
    return max((u for u in records["units"] if u["fate"] == fate), key=lambda u: u["established_on"])


def row_of(records, ledger, fate):
    mobile = unit_of(records, fate)["mobile"]
    return next(row for row in ledger if row.recipient == mobile)


def is_second(row):
    return "经提醒" in row.content


def seconds(ledger):
    return [row for row in ledger if is_second(row)]


def second_of(records, ledger, fate):
    """A second reminder to a unit of this fate, with the unit."""
    units = {u["mobile"]: u for u in records["units"] if u["fate"] == fate and u["mobile"]}
    return next((row, units[row.recipient]) for row in seconds(ledger) if row.recipient in units)


def first_of(ledger, second):
    return next(row for row in ledger if row.recipient == second.recipient)


def kinds(records, rows):
    return {finding.kind for finding in check.check(records, rows)}


def with_row(ledger, old, new):
    return [new if row is old else row for row in ledger]


def reminder(unit, at, last):
    return Row(9999, at, unit["mobile"], f"{unit['name']}：{last.isoformat()}", accepted=True)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_right_ledger_passes(seed):
    """What a right suite sends has no finding, whatever the city."""
    records = small_city(seed)
    rows = simulate(records)
    assert len(rows) - len(seconds(rows)) > 70
    assert {u["phone"] for u in records["units"]} - {"none"} == {
        u["phone"] for u in records["units"] if u["mobile"] in {row.recipient for row in seconds(rows)}
    }
    assert check.check(records, rows) == []


def test_a_dropped_reminder_is_found(records, ledger):
    """Mutation: drop."""
    lost = row_of(records, ledger, "never_enrols")
    found = check.check(records, [row for row in ledger if row is not lost])
    assert [(f.kind, f.subject) for f in found] == [("missing", unit_of(records, "never_enrols")["uscc"])]


def test_each_reminder_is_missed_when_it_is_dropped(records, ledger):
    """No unit slips through: the check demands every single row of the right ledger."""
    story = check.Story(records)
    demanded = {unit.mobile for unit in story.units if story.required(unit)}
    assert demanded - {None} == {row.recipient for row in ledger}
    firsts = {row.recipient: row for row in reversed(ledger)}
    again = {
        unit.mobile
        for unit in story.units
        if unit.mobile in firsts and story.second_required(unit, firsts[unit.mobile])
    }
    assert again == {row.recipient for row in seconds(ledger)}


def test_a_doubled_reminder_is_found(records, ledger):
    """Mutation: double."""
    row = row_of(records, ledger, "never_enrols")
    again = replace(row, seq=9999, at=row.at + timedelta(minutes=1))
    assert kinds(records, [*ledger, again]) == {"doubled"}


def test_a_reminder_a_day_early_is_found(records, ledger):
    """Mutation: on the deadline day itself, which is a working day."""
    row = row_of(records, ledger, "never_enrols")
    last = deadline_to_name(records, unit_of(records, "never_enrols"), row.at)
    early = replace(row, at=datetime.combine(last, time(10), ZONE))
    assert kinds(records, with_row(ledger, row, early)) == {"early"}


def test_a_reminder_after_enrolment_is_found(records, ledger):
    """Mutation: to a unit that enrolled in time, and to one that enrolled between lead and sending."""
    for fate in ("in_time", "on_the_last_day", "last_day_late_feed", "enrols_before_sending"):
        unit = unit_of(records, fate)
        row = reminder(unit, datetime(2026, 3, 19, 10, tzinfo=ZONE), end_of_clock(unit["established_on"]))
        assert kinds(records, [*ledger, row]) == {"after enrolment"}


def test_a_reminder_to_a_wrong_phone_is_found(records, ledger):
    """Mutation: another unit's phone, or one that nobody knows."""
    row = row_of(records, ledger, "never_enrols")
    for mobile in ("13800000000", unit_of(records, "in_time")["mobile"]):
        assert kinds(records, with_row(ledger, row, replace(row, recipient=mobile))) == {"wrong phone"}


def test_a_reminder_before_late_data_was_declared_is_found(records, ledger):
    """The deadline is over, but the feed has not said so yet."""
    unit = unit_of(records, "waiting_at_the_end")
    row = reminder(unit, datetime(2026, 3, 20, 10, tzinfo=ZONE), end_of_clock(unit["established_on"]))
    assert "early" in kinds(records, [*ledger, row])


def test_no_reminder_is_demanded_while_data_is_late(records, ledger):
    """Spring Festival deadlines were declared on 27 February: a reminder of the 25th was early, that day's is due."""
    story = check.Story(records)
    late = [
        u for u in story.units if u.phone == "ok" and check.deadline(u.established_on) == date(2026, 2, 24)
    ]
    ready = {story.required(u)[0] for u in late if story.required(u) and len(u.facts) == 1}
    assert ready == {datetime(2026, 2, 27, 8, 30, tzinfo=ZONE)}


def test_a_reminder_on_the_deadline_day_is_early_even_when_the_day_was_declared(records, ledger):
    """The day must be over, whatever a department says of its data."""
    row = row_of(records, ledger, "never_enrols")
    last = deadline_to_name(records, unit_of(records, "never_enrols"), row.at)
    hasty = json.loads(json.dumps(records))
    at = datetime.combine(last, time(9), ZONE).isoformat()
    hasty["declared"].append(
        {"fact": "declared", "through": last.isoformat(), "asked_at": at, "answered_at": at}
    )
    early = replace(row, at=datetime.combine(last, time(10), ZONE))
    assert "early" in kinds(hasty, with_row(ledger, row, early))


def test_a_unit_registered_late_is_given_ten_minutes(records, ledger):
    """Its participation call often follows at once."""
    for row in ledger:
        unit = next(u for u in records["units"] if u["mobile"] == row.recipient)
        registered = datetime.fromisoformat(unit["facts"][0]["answered_at"])
        if unit["fate"] == "late_registered" and registered.date() > date(2026, 1, 5):
            hasty = replace(row, at=registered + timedelta(minutes=9))
            assert kinds(records, with_row(ledger, row, hasty)) == {"early"}
            break
    else:
        pytest.fail("no unit was registered late")


@pytest.mark.parametrize(
    ("fate", "kind"),
    [
        ("sole_trader", "not obliged"),
        ("no_clock", "not obliged"),
        ("closed_before_deadline", "after closure"),
        ("closed_before_sending", "after closure"),
        ("suspended_for_good", "while suspended"),
        ("wrong_code_never", "code not confirmed"),
        ("late_registered_enrols", "after enrolment"),
        ("future_start_in_time", "after enrolment"),
        ("ended_before_deadline", "after enrolment"),
    ],
)
def test_a_reminder_to_a_unit_that_must_get_none_is_found(records, ledger, fate, kind):
    """Each reason has its own finding."""
    unit = unit_of(records, fate)
    row = reminder(unit, datetime(2026, 3, 19, 10, tzinfo=ZONE), end_of_clock(unit["established_on"]))
    assert kinds(records, [*ledger, row]) == {kind}


def test_a_unit_without_phone_gets_none(records, ledger):
    """A row that names it went to somebody else."""
    unit = {**unit_of(records, "no_phone"), "mobile": "13800000000"}
    row = reminder(unit, datetime(2026, 3, 19, 10, tzinfo=ZONE), end_of_clock(unit["established_on"]))
    assert kinds(records, [*ledger, row]) == {"wrong phone"}


@pytest.mark.parametrize(
    "at", [datetime(2026, 3, 16, 8, 29), datetime(2026, 3, 16, 18, 0), datetime(2026, 3, 14, 10)]
)
def test_a_reminder_outside_hours_is_found(records, ledger, at):
    """Before 08:30, from 18:00, and on a Saturday."""
    row = row_of(records, ledger, "never_enrols")
    assert "outside hours" in kinds(records, with_row(ledger, row, replace(row, at=at.replace(tzinfo=ZONE))))


def test_a_late_reminder_is_found(records, ledger):
    """The day after the one on which it was due."""
    row = row_of(records, ledger, "never_enrols")
    later = row.at + timedelta(days=1)
    while not working(later.date()):
        later += timedelta(days=1)
    assert kinds(records, with_row(ledger, row, replace(row, at=later))) == {"late"}


def test_a_row_of_nobody_is_found(records, ledger):
    """The text names no unit, the phone belongs to none."""
    row = Row(9999, datetime(2026, 3, 19, 10, tzinfo=ZONE), "13800000000", "您好", accepted=True)
    assert kinds(records, [*ledger, row]) == {"no unit"}


def test_a_text_without_name_or_with_another_deadline_is_found(records, ledger):
    """A reminder names the unit and the day its clock ended with."""
    row = row_of(records, ledger, "never_enrols")
    for content in ("期限已届满", row.content.replace("日", "0日")):
        assert kinds(records, with_row(ledger, row, replace(row, content=content))) == {"wrong text"}


def test_a_refused_phone_must_have_been_tried_once(records, ledger):
    """Its refused row counts as the reminder; none or two are wrong."""
    row = row_of(records, ledger, "refused_phone")
    only = {unit_of(records, "refused_phone")["uscc"]}
    lost = check.check(records, [r for r in ledger if r is not row])
    assert next(f.kind for f in lost if f.subject in only) == "missing"
    assert kinds(records, [*ledger, replace(row, seq=9999)]) == {"doubled"}


def test_a_reminder_under_way_while_the_enrolment_is_answered_is_forgiven(records, ledger):
    """Look and hand-over may lie within five seconds before the ledger's instant, no more."""
    unit = unit_of(records, "enrols_after_reminder")
    spell = next(f for f in unit["facts"] if f["fact"] == "participation")
    answered = datetime.fromisoformat(spell["answered_at"])
    row = row_of(records, ledger, "enrols_after_reminder")
    soon, later = (
        kinds(records, with_row(ledger, row, replace(row, at=answered + timedelta(seconds=s))))
        for s in (4, 6)
    )
    assert "after enrolment" not in soon
    assert "after enrolment" in later


def test_a_fact_whose_request_was_under_way_is_judged_both_ways(records, ledger):
    """Between request and answer a declaration may have opened the lead, but nothing is demanded yet."""
    slow = json.loads(json.dumps(records))
    for fact in slow["declared"]:
        if fact["through"] == "2026-01-28":
            fact["asked_at"] = "2026-01-29T09:00:00+08:00"
            fact["answered_at"] = "2026-01-29T17:30:00+08:00"
    record = unit_of(slow, "never_enrols")
    record["established_on"] = "2025-12-27"
    record["facts"][0]["asked_at"] = record["facts"][0]["answered_at"] = "2026-01-05T10:00:00+08:00"
    story = check.Story(slow)
    unit = next(u for u in story.units if u.uscc == record["uscc"])
    assert story.hindrance(unit, datetime(2026, 1, 29, 9, 1, tzinfo=ZONE), check.MAY) is None
    assert story.hindrance(unit, datetime(2026, 1, 29, 8, 59, tzinfo=ZONE), check.MAY) == "early"
    # half an hour is left of that day: the next working day's window is the one that counts
    assert story.required(unit)[0] == datetime(2026, 1, 30, 8, 30, tzinfo=ZONE)


# -- the second reminder ----------------------------------------------------------------------------------


def test_a_dropped_second_reminder_is_found(records, ledger):
    """Mutation: drop."""
    for lost in seconds(ledger)[::12]:
        found = check.check(records, [row for row in ledger if row is not lost])
        assert [f.kind for f in found] == ["second: missing"]


def test_a_doubled_second_reminder_is_found(records, ledger):
    """Mutation: double; a refused phone too is tried but once."""
    for fate in ("never_enrols", "refused_phone"):
        row, _ = second_of(records, ledger, fate)
        again = replace(row, seq=9999, at=row.at + timedelta(minutes=1))
        assert kinds(records, [*ledger, again]) == {"second: doubled"}


@pytest.mark.parametrize(
    "fate", ["never_enrols", "silent_phone", "refused_phone", "failing_phone", "dropped_connection"]
)
def test_a_second_reminder_a_day_early_is_found(records, ledger, fate):
    """Mutation: on the ninth working day, whatever the carrier does to the phone."""
    row, _ = second_of(records, ledger, fate)
    day = row.at - timedelta(days=1)
    while not working(day.date()):
        day -= timedelta(days=1)
    assert kinds(records, with_row(ledger, row, replace(row, at=day))) == {"second: early"}


def test_a_second_reminder_before_the_hours_of_its_day_is_found(records, ledger):
    """The lead has advanced at midnight, the message waits for 08:30."""
    row, _ = second_of(records, ledger, "never_enrols")
    hasty = replace(row, at=row.at - timedelta(minutes=1))
    assert kinds(records, with_row(ledger, row, hasty)) == {"second: early", "second: outside hours"}


@pytest.mark.parametrize(
    ("fate", "kind"),
    [
        ("enrols_after_reminder", "second: after enrolment"),
        ("future_start_after_reminder", "second: after enrolment"),
        ("closed_after_reminder", "second: after closure"),
    ],
)
def test_a_second_reminder_after_the_end_of_the_lead_is_found(records, ledger, fate, kind):
    """Mutation: to who enrolled or closed after the first one, before the second."""
    again = {row.recipient for row in seconds(ledger)}
    unit = next(
        u
        for u in records["units"]
        if u["fate"] == fate and u["mobile"] not in again and u["established_on"] < "2026-01-20"
    )
    first = next(row for row in ledger if row.recipient == unit["mobile"])
    row = replace(
        first,
        seq=9999,
        at=datetime(2026, 3, 19, 10, tzinfo=ZONE),
        content=first.content.replace("。", "，经提醒仍未查询到记录。"),
    )
    assert kinds(records, [*ledger, row]) == {kind}


def test_a_late_second_reminder_is_found(records, ledger):
    """The working day after the one on which it was due."""
    row, _ = second_of(records, ledger, "never_enrols")
    day = row.at + timedelta(days=1)
    while not working(day.date()):
        day += timedelta(days=1)
    assert kinds(records, with_row(ledger, row, replace(row, at=day))) == {"second: late"}


def test_a_second_reminder_without_a_first_is_found(records, ledger):
    """The first one is missed as well."""
    row, _ = second_of(records, ledger, "never_enrols")
    first = first_of(ledger, row)
    assert kinds(records, [r for r in ledger if r is not first]) == {"missing", "second: without a first"}


def test_a_second_reminder_to_a_wrong_phone_or_with_a_wrong_text_is_found(records, ledger):
    """Like the first one."""
    row, _ = second_of(records, ledger, "never_enrols")
    wrong = replace(row, recipient=unit_of(records, "in_time")["mobile"])
    assert kinds(records, with_row(ledger, row, wrong)) == {"second: wrong phone"}
    wrong = replace(row, content=row.content.replace("日", "0日"))
    assert kinds(records, with_row(ledger, row, wrong)) == {"second: wrong text"}


@pytest.mark.parametrize("back", [8, 30])
def test_days_of_suspension_do_not_count(records, back):
    """A unit suspended between the two: its second reminder leaves later, and never before it is back."""
    paused = json.loads(json.dumps(records))
    row, unit = second_of(records, simulate(records), "never_enrols")
    unit = next(u for u in paused["units"] if u["uscc"] == unit["uscc"])
    gone = row.at - timedelta(days=3)
    for fact, at in (("suspended", gone), ("resumed", gone + timedelta(days=back))):
        stamp = at.isoformat()
        day = at.date().isoformat()
        unit["facts"].append({"fact": fact, f"{fact}_on": day, "asked_at": stamp, "answered_at": stamp})
    right = simulate(paused)
    assert check.check(paused, right) == []
    later = next(r for r in seconds(right) if r.recipient == unit["mobile"])
    assert later.at > gone + timedelta(days=back)
    at_once = replace(later, at=later.at - timedelta(days=1))
    assert "second: early" in kinds(paused, with_row(right, later, at_once))
    while_away = replace(later, at=row.at)
    assert "second: early" in kinds(paused, with_row(right, later, while_away))


def test_a_step_taken_before_a_suspension_leaves_when_it_is_over(records, ledger):
    """The lead had advanced at midnight: the message, held since 07:00, goes as soon as the unit is back."""
    paused = json.loads(json.dumps(records))
    row, unit = second_of(records, ledger, "never_enrols")
    unit = next(u for u in paused["units"] if u["uscc"] == unit["uscc"])
    back = row.at + timedelta(days=1)
    while not working(back.date()):
        back += timedelta(days=1)
    for fact, at in (("suspended", row.at.replace(hour=7)), ("resumed", back.replace(hour=10))):
        stamp = at.isoformat()
        unit["facts"].append({"fact": fact, "asked_at": stamp, "answered_at": stamp})
    assert kinds(paused, ledger) == {"second: while suspended"}
    assert kinds(paused, with_row(ledger, row, replace(row, at=back.replace(hour=11)))) == set()
    dropped = [r for r in ledger if r is not row]
    assert kinds(paused, dropped) == {"second: missing"}


# -- corrections ------------------------------------------------------------------------------------------


def correction(row, at):
    content = row.content.split("：")[0] + "：此前发送的参保提醒有误，请勿据此办理。"
    return replace(row, seq=9999, at=at, content=content)


def test_a_correction_of_what_was_right_is_found(records, ledger):
    """The city corrects dates only before anything was sent."""
    row = row_of(records, ledger, "never_enrols")
    assert kinds(records, [*ledger, correction(row, row.at + timedelta(minutes=1))]) == {
        "correction: unfounded"
    }


def test_a_correction_is_right_when_the_date_became_later_after_a_message(records, ledger):
    """It says that the first message was wrong; a day earlier would not make it so."""
    row = row_of(records, ledger, "never_enrols")
    unit = unit_of(records, "never_enrols")
    for days, expected in ((20, set()), (-20, {"correction: unfounded"})):
        corrected = json.loads(json.dumps(records))
        day = date.fromisoformat(unit["established_on"]) + timedelta(days=days)
        at = (row.at + timedelta(minutes=1)).isoformat()
        facts = next(u for u in corrected["units"] if u["uscc"] == unit["uscc"])["facts"]
        facts.append(
            {"fact": "corrected", "established_on": day.isoformat(), "asked_at": at, "answered_at": at}
        )
        taken_back = correction(row, row.at + timedelta(minutes=2))
        assert kinds(corrected, [*ledger, taken_back]) == expected


# -- figures and form -------------------------------------------------------------------------------------


def test_the_figures_follow_from_records_and_ledger(records, ledger):
    """The check's columns of the final table, by the fates of the city."""
    fates = [u["fate"] for u in records["units"]]
    counts = check.tally(records, ledger)
    assert counts["registered"] == len(fates)
    assert counts["reminded"] == len(ledger) - len(seconds(ledger))
    assert counts["reminded twice"] == len(seconds(ledger)) > 50
    assert counts["waiting"] == fates.count("waiting_at_the_end")
    unreached = ("no_phone", "silent_phone", "refused_phone", "failing_phone")
    assert counts["unreached"] == sum(fates.count(fate) for fate in unreached)
    stopped = ("enrols_before_sending", "closed_before_sending", "late_registered_enrols")
    corrected_and_enrolled = fates.count("corrected_before_sending") // 2
    assert counts["withdrawn"] == sum(fates.count(fate) for fate in stopped) + corrected_and_enrolled
    after = ("enrols_after_reminder", "future_start_after_reminder")
    assert counts["enrolled after reminder"] == sum(fates.count(fate) for fate in after)
    assert (
        counts["enrolled in time"]
        == sum(
            fates.count(fate)
            for fate in (
                "in_time",
                "in_time_before_story",
                "on_the_last_day",
                "last_day_late_feed",
                "future_start_in_time",
                "future_start_over_weekend",
                "ended_before_deadline",
                "ended_after_deadline",
            )
        )
        + fates.count("corrected_before_deadline") // 2
    )


def test_the_literal_calendar_is_right():
    """Every day of the written-out months, against a published table."""
    for (year, month), days in check.WORKED.items():
        first = date(year, month, 1)
        for day in (first + timedelta(days=n) for n in range(31)):
            if day.month == month:
                assert (day.day in days) is working(day), day


def test_the_check_imports_nothing_of_the_suite():
    """Only the standard library and its own files, so that an error of the suite cannot hide in it."""
    names = {
        name if name.startswith("services.demo.check.") else name.split(".")[0]
        for file in Path(check.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    outside = {name for name in names if not name.startswith("services.demo.check.")}
    assert outside <= sys.stdlib_module_names


# -- from the files of a story ----------------------------------------------------------------------------


def write_ledger(file: Path, rows: list[Row]) -> None:
    """The sandbox's own file, as it lays it out."""
    db = sqlite3.connect(file)
    db.executescript(sandbox.SCHEMA)
    db.executemany(
        "INSERT INTO messages (received_at, received_wall, msg_group, mobile, recipient, content, sign, verdict, action,"
        " response, receipt, report_status, error_code, copies, next_push_wall)"
        " VALUES (?, '', '', ?, ?, ?, '', ?, '', '', 'none', '', '', 0, '')",
        [
            (r.at.isoformat(), r.recipient, r.recipient, r.content, "accepted" if r.accepted else "refused")
            for r in rows
        ],
    )
    db.commit()
    db.close()


def test_the_command_judges_files(records, ledger, tmp_path, capsys):
    """Exit code 0 for a right ledger, 1 with a line per finding for a wrong one, 2 for a wrong call."""
    (tmp_path / "records.json").write_text(json.dumps(records), "utf-8")
    write_ledger(tmp_path / "right.db", ledger)
    write_ledger(tmp_path / "wrong.db", ledger[1:])
    assert main([str(tmp_path / "records.json"), str(tmp_path / "right.db")]) == 0
    assert check.read_ledger(tmp_path / "right.db") == ledger
    assert main([str(tmp_path / "records.json"), str(tmp_path / "wrong.db")]) == 1
    assert "missing: " in capsys.readouterr().out
    assert main([]) == 2
