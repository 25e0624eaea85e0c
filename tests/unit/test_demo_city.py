"""The sample city: well-formed, varied, the same for the same seed."""

from collections import Counter
from datetime import date, datetime, timedelta
from itertools import pairwise

import pytest

from services.demo.check import deadline
from services.demo.city import (
    END,
    FATES,
    MISSED_NIGHTS,
    START,
    Action,
    City,
    generate,
    lead_day,
    sending_day,
)
from shared.documents import pack, read_csv
from shared.identifiers import check_id_number, check_mobile, check_uscc

TOWNS = [row["name"] for row in read_csv(pack(None) / "towns.csv", ["name"])]
KINDS = {
    "enterprise",
    "sole_trader",
    "cooperative",
    "social_organisation",
    "private_non_enterprise",
    "foundation",
    "law_firm",
    "public_institution",
    "government_body",
    "village_collective",
    "other",
}


@pytest.fixture(scope="module", params=[1, 20260105])
def city(request):
    return generate(request.param, TOWNS)


def actions_of(city: City, fate: str, fact: str) -> list[tuple[date, Action]]:
    """The actions of one kind in a fate, each with its unit's first deadline."""
    last = {u.uscc: deadline(u.established_on) for u in city.units if u.fate == fate}
    return [(last[a.uscc], a) for a in city.actions if a.uscc in last and a.facts[0]["fact"] == fact]


def test_the_same_seed_makes_the_same_city(city):
    """The story can be told again, and a restarted driver finds the city it began with."""
    assert generate(20260105, TOWNS) == generate(20260105, TOWNS)
    assert generate(20260105, TOWNS) != generate(20260106, TOWNS)


def test_every_fate_happens_to_its_minimum_count(city):
    """Fates of one unit as often as their table says; the paths of several come beside them."""
    fates = Counter(u.fate for u in city.units)
    counts = {fate: count for fate, (count, _) in FATES.items()}
    assert {fate: fates[fate] for fate in FATES} == counts
    assert min(counts.values()) >= 2
    assert set(fates) - set(FATES) == {
        *("wechat_reached", "wechat_enrols", "wechat_silent", "wechat_refused", "wechat_blocked"),
        *("both_silent", "unfollows", "agent", "agent_enrols_later", "agent_enrols", "small_agent"),
        *("stopped_while_due", "exempted", "visited", "corrected_after_reminder", "recalled"),
        *("file_never_enrols", "file_enrols", "row_settled", "row_sent_again", "row_left"),
        *("stock_released", "stock_released_later", "stock_left"),
    }
    assert 400 <= len(city.units) <= 480


def test_all_kinds_in_all_towns(city):
    """Every kind of unit is there, and every town has units."""
    assert {u.kind for u in city.units} == KINDS
    assert {u.town for u in city.units} == set(TOWNS)
    assert len(TOWNS) == 22


def test_codes_are_valid_but_the_planted_ones(city):
    """A wrong check character is the only fault of a planted code; the code inside is right everywhere."""
    for unit in city.units:
        checked = check_uscc(unit.uscc)
        assert (checked.problem, checked.org_code_ok) == (None, True)
        assert checked.check_ok is unit.code_valid
        assert unit.code_valid is (not unit.fate.startswith("wrong_code"))


def test_each_unit_has_a_phone_of_its_own_but_an_agents(city):
    """Two agents answer for seven and for two; each number is valid, and only one fate has none."""
    mobiles = [u.mobile for u in city.units if u.mobile]
    assert len(mobiles) == len(city.units) - FATES["no_phone"][0]
    shared = {mobile: number for mobile, number in Counter(mobiles).items() if number > 1}
    assert sorted(shared.values()) == [2, 7]
    assert {u.contact_role for u in city.units if u.mobile in shared} == {"agent"}
    assert all(check_mobile(m).problem is None for m in mobiles)


def test_no_two_people_share_an_id(city):
    """ID numbers are valid, unique, of working age, and come from old and foreign area codes too."""
    ids = [p.id_number for p in city.people]
    assert len(ids) == len(set(ids))
    for text in ids:
        checked = check_id_number(text, today=START.date())
        assert checked.problem is None
        assert 18 <= START.year - checked.born_on.year <= 60
    assert {"371082", "370633", "371023"} < {text[:6] for text in ids}


def test_no_name_is_part_of_another(city):
    """A text names exactly one unit."""
    names = [u.name for u in city.units]
    assert not [(a, b) for a in names for b in names if a != b and a in b]
    assert len(set(names)) == len(names)


def test_actions_come_in_order_and_after_what_they_rest_on(city):
    """Registration first, the end of a participation after its start, everything inside the story."""
    assert all(a.at <= b.at for a, b in pairwise(city.actions))
    assert len({a.key for a in city.actions}) == len(city.actions)
    seen: set[str] = set()
    registered: set[str] = set()
    for action in city.actions:
        assert START <= action.at <= END
        assert action.after is None or action.after in seen
        seen.add(action.key)
        registered |= {f.get("uscc", action.uscc) for f in action.facts if f["fact"] == "registered"}
        about_phones = {"bound", "unfollowed"}
        units = {f.get("uscc", action.uscc) for f in action.facts if f["fact"] not in about_phones}
        assert units - {None} <= registered
    assert registered == {u.uscc for u in city.units}


def test_nothing_is_told_before_it_happened(city):
    """Only participations may lie in the future; units and corrections do not."""
    future = {"future_start_in_time", "future_start_after_reminder", "future_start_over_weekend"}
    fate = {u.uscc: u.fate for u in city.units}
    for action in city.actions:
        if action.uscc is None or not isinstance(action.body, dict):
            continue
        for name in ("established_on", "closed_on", "suspended_on", "resumed_on", "ended_on", "started_on"):
            if name in action.body:
                late = date.fromisoformat(action.body[name]) > action.at.date()
                assert late is (name == "started_on" and fate[action.uscc] in future), action


def test_the_feed_is_late_on_fixed_nights_and_catches_up(city):
    """Each night declares the day before at 00:20, but the missed ones; the story ends behind by two days."""
    declared = {a.at: f["through"] for a in city.actions for f in a.facts if f["fact"] == "declared"}
    first, *nights = declared
    assert (first, declared[first]) == (START + timedelta(minutes=20), "2026-01-04")
    assert all(at.time() == datetime(2026, 1, 1, 0, 20).time() for at in nights)
    assert all(declared[at] == (at.date() - timedelta(days=1)).isoformat() for at in nights)
    span = [START.date() + timedelta(days=n) for n in range(1, 76)]
    assert {at.date() for at in nights} == set(span) - MISSED_NIGHTS
    assert max(declared.values()) == "2026-03-18"


def test_a_late_row_still_comes_before_its_day_is_declared(city):
    """Enrolled on the deadline day, told two days later, and only then declared complete."""
    rows = actions_of(city, "last_day_late_feed", "participation")
    assert {last for last, _ in rows} == {
        date(2026, 1, 26),
        date(2026, 2, 24),
        date(2026, 3, 9),
        date(2026, 3, 10),
    }
    for last, action in rows:
        assert action.body["started_on"] == last.isoformat()
        assert action.at.date() == last + timedelta(days=2) < lead_day(last)


@pytest.mark.parametrize(
    ("fate", "fact"),
    [("enrols_before_sending", "participation"), ("closed_before_sending", "closed")],
)
def test_what_withdraws_a_message_comes_between_lead_and_sending(city, fate, fact):
    """The lead is open, the hours have not begun."""
    for last, action in actions_of(city, fate, fact):
        assert datetime.combine(lead_day(last), datetime.min.time(), START.tzinfo) < action.at
        opens = datetime.combine(sending_day(last), datetime.min.time(), START.tzinfo)
        assert action.at < opens + timedelta(hours=8, minutes=30)


def test_a_corrected_date_moves_the_deadline(city):
    """The corrected day is later, and so is the end of its clock, beyond the day of the correction."""
    for fate in ("corrected_before_deadline", "corrected_before_sending"):
        for last, action in actions_of(city, fate, "corrected"):
            corrected = deadline(date.fromisoformat(action.body["established_on"]))
            assert corrected > max(last, action.at.date())


def test_late_registrations_are_overdue_already(city):
    """Their clock ran out after going live and before they are registered."""
    for fate in ("late_registered", "late_registered_in_the_evening", "late_registered_enrols"):
        for last, action in actions_of(city, fate, "registered"):
            assert date(2026, 1, 1) < last < action.at.date()


def test_deadlines_lie_on_both_sides_of_the_spring_festival(city):
    """Many clocks end with the first working day after it, and some with a make-up Saturday or Sunday."""
    ends = Counter(deadline(u.established_on) for u in city.units)
    assert ends[date(2026, 2, 24)] >= 20
    assert ends[date(2026, 1, 4)] >= 3
    assert len(ends) >= 40


def test_records_hold_facts_only(city):
    """What must follow from the facts is not in the records; facts carry when they were taken."""
    records = city.records(city.planned(), until=END)
    assert {key for unit in records["units"] for key in unit} == {
        "uscc",
        "name",
        "kind",
        "town",
        "established_on",
        "mobile",
        "phone",
        "openid",
        "wechat",
        "code_valid",
        "fate",
        "facts",
    }
    first = next(f for f in records["units"][0]["facts"] if f["fact"] == "participation")
    assert {"key", "asked_at", "answered_at", "insurance", "form", "started_on"} < set(first)


def test_what_was_not_done_is_not_recorded(city):
    """Records of a broken-off story hold what was answered until then."""
    first = next(a for a in city.actions if a.uscc)
    records = city.records({first.key: city.planned()[first.key]}, until=START)
    assert [f["key"] for u in records["units"] for f in u["facts"]] == [first.key]
    assert records["declared"] == records["sending"] == records["answers"] == []


def test_two_of_an_agents_seven_enrol_before_the_hours(city):
    """All have the same deadline; no two codes end alike, so that a question is about one of them."""
    seven = [u for u in city.units if u.fate in {"agent", "agent_enrols_later", "agent_enrols"}]
    assert len({u.uscc[-4:] for u in seven}) == 7
    (last,) = {deadline(u.established_on) for u in seven}
    opens = datetime.combine(sending_day(last), datetime.min.time(), START.tzinfo) + timedelta(hours=8.5)
    early = {
        a.uscc for a in city.actions if a.facts and a.facts[0]["fact"] == "participation" and a.at < opens
    }
    assert len(early & {u.uscc for u in seven}) == 2
    asked = [f for a in city.actions for f in a.facts if f["fact"] == "verified"]
    assert {f["uscc"] for f in asked} == {u.uscc for u in seven}
    assert [f["forged"] for f in asked].count(True) == 1


def test_files_are_written_as_departments_write_them(city):
    """In three encodings; the planted rows are the broken ones, counted as lines."""
    files = {a.key: a for a in city.actions if isinstance(a.body, bytes)}
    texts = {
        "file-units": files["file-units"].body.decode("utf-8-sig"),
        "file-stock": files["file-stock"].body.decode("gb18030"),
        "file-participations": files["file-participations"].body.decode("gbk"),
        "file-again": files["file-again"].body.decode(),
    }
    assert set(texts) == set(files)
    for key in ("file-stock", "file-participations"):
        with pytest.raises(UnicodeDecodeError):
            files[key].body.decode()
    errors = {
        a.after: a.facts[0]["planted"] for a in city.actions if a.facts and a.facts[0]["fact"] == "errors"
    }
    lines = {key: text.splitlines() for key, text in texts.items()}
    assert [len(lines["file-units"][n - 1].split(",")) for n in errors["file-units"]] == [3]
    wrong = [lines["file-participations"][n - 1].split(",")[1] for n in errors["file-participations"]]
    assert [check_id_number(text, today=START.date()).problem is None for text in wrong] == [False] * 5
    assert errors["file-stock"] == []


def test_old_cases_are_let_go_on_oldest_first(city):
    """Each portion is all of one age, so whoever takes the oldest takes exactly these."""
    last = {u.uscc: deadline(u.established_on) for u in city.units if u.fate.startswith("stock")}
    portions = [
        ([last.pop(f["uscc"]) for f in a.facts], a.body["count"])
        for a in city.actions
        if a.path.endswith("stock/release")
    ]
    assert [(len(days), count) for days, count in portions] == [(6, 6), (4, 4)]
    first, second = (days for days, _ in portions)
    assert max(first) < min(second) <= max(second) < min(last.values())
