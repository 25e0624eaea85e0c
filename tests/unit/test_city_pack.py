"""The facts of the city pack: complete, dated, with their source, and true to what they were taken from."""

import re
from datetime import date, time, timedelta
from pathlib import Path

import chinese_calendar
import pytest

from shared.calendar import load_calendar
from shared.documents import pack, read_csv, read_json, read_toml

PACK = pack(None)
OBLIGED = {
    "enterprise",
    "private_non_enterprise",
    "social_organisation",
    "foundation",
    "law_firm",
    "cooperative",
}


def test_every_day_of_the_calendar_agrees_with_the_library() -> None:
    """2004 to 2026, day by day, and no year beyond."""
    calendar = load_calendar(PACK)
    assert sorted(calendar.years) == list(range(2004, 2027))
    day = date(2004, 1, 1)
    while day.year < 2027:
        assert calendar.is_working_day(day) == chinese_calendar.is_workday(day), day
        day += timedelta(days=1)


def test_spring_festival_of_2026_is_as_announced() -> None:
    """Two make-up Saturdays around nine days off, checked by hand."""
    year = load_calendar(PACK).years[2026]
    assert {date(2026, 2, day) for day in range(15, 24)} <= year.holidays
    assert {day.isoformat() for day in year.makeup_days} == {
        "2026-01-04", "2026-02-14", "2026-02-28", "2026-05-09", "2026-09-20", "2026-10-10",
    }  # fmt: skip


@pytest.mark.parametrize("file", sorted(PACK.glob("*.toml")), ids=lambda file: file.name)
def test_every_toml_file_is_dated_and_has_a_source(file: Path) -> None:
    """The calendar names a source per year instead."""
    document = read_toml(file)
    assert document.need("as_of", date)
    parts = document.parts("year") if file.name == "calendar.toml" else (document,)
    assert all(part.need("source", str) for part in parts)


@pytest.mark.parametrize("file", sorted(PACK.iterdir()), ids=lambda file: file.name)
def test_doubt_is_written_in_one_way(file: Path) -> None:
    """`confirm` (or `…_confirm`) is 待确认 or absent; a CSV cell may be empty."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".csv":
        assert {row["confirm"] for row in read_csv(file, ["source", "as_of"])} <= {"", "待确认"}
    else:
        assert set(re.findall(r'confirm"?\s*[:=]\s*(.*?),?\s*(?:#.*)?$', text, re.MULTILINE)) <= {'"待确认"'}


def test_towns_are_the_22_of_the_plan() -> None:
    """Twelve towns and ten sub-districts, each with its own code of the city."""
    towns = read_csv(PACK / "towns.csv", ["code", "name", "kind", "source", "as_of"])
    assert len({town["code"] for town in towns}) == len({town["name"] for town in towns}) == 22
    assert all(re.fullmatch("371082[01][0-9]{2}", town["code"]) for town in towns)
    assert [town["kind"] for town in towns].count("镇") == 12
    assert all(town["name"].endswith(town["kind"]) for town in towns)


def test_departments_have_codes_of_their_own() -> None:
    """The data suppliers of the plan."""
    rows = read_csv(PACK / "departments.csv", ["code", "name", "source", "as_of"])
    codes = [row["code"] for row in rows]
    assert len(codes) == len(set(codes)) == 25
    assert {"HRSS", "ADM", "TAX", "TOWN"} <= set(codes)


def test_targets_are_the_plans_yearly_figures() -> None:
    """Per year, not cumulative; sums add up; insurances by the names of the HTTP contract."""
    document = read_json(PACK / "targets.json")
    targets = {target.need("id", str): target for target in document.parts("targets")}
    figures = {
        name: tuple(target.need(f"by_year.{year}", float) for year in (2024, 2025, 2026))
        for name, target in targets.items()
    }
    assert figures == {
        "T1": (8500, 9200, 9900),
        "T2": (1100, 1300, 1500),
        "T3": (1000, 1500, 2000),
        "T4": (100, 100, 100),
        "T5": (100, 100, 100),
        "T6": (20.06, 22.07, 24.28),
        "T7": (0.90, 0.94, 0.97),
        "T8": (0.74, 0.76, 0.78),
    }
    for name, insurance in (("T1", "pension"), ("T2", "injury"), ("T3", "unemployment")):
        assert targets[name].need("insurance", str) == insurance
        assert targets[name].need("sum", float) == sum(figures[name])
        assert targets[name].need("confirm", str) == "待确认"
    assert all(target.need("source", str) for target in targets.values())


def test_r01_and_its_clock() -> None:
    """Who is obliged, for how long, what ends it, and the steps of the ladder: weak evidence stops at the second."""
    document = read_toml(PACK / "obliged.toml")
    assert document.need("go_live_on", date) == date(2026, 1, 1)
    assert document.need("clock.days", int) == 30
    assert document.need("clock.early_reminder_day", str) == ""
    by_insurance = {part.need("insurance", str): part for part in document.parts("obliged")}
    assert set(by_insurance) == {"pension", "unemployment", "injury"}
    assert all(set(part.texts("kinds")) == OBLIGED for part in by_insurance.values())
    assert all(part.texts("kinds_with_workers") == ("sole_trader",) for part in by_insurance.values())
    rule = document.part("rules.R01")
    assert rule.texts("void_insurances") == ("pension", "unemployment", "injury")
    assert rule.texts("forms") == ("employer",)
    assert rule.need("evidence_class", str) == "weak"
    ladder = rule.parts("ladder")
    assert [stage.need("stage", int) for stage in ladder] == [1, 2, 3, 4, 5]
    assert [stage.need("name", str) for stage in ladder][:2] == ["reminder", "second_reminder"]
    assert [stage.need("wait_working_days", int) for stage in ladder] == [10, 10, 15, 0, 0]
    minimum = [stage.need("minimum_evidence", str) for stage in ladder]
    assert minimum == ["weak", "weak", "medium", "medium", "strong"]
    assert [stage.need("visit", bool) for stage in ladder] == [False, True, False, False, False]
    assert all(stage.need("confirm", str) == "待确认" for stage in ladder)


def test_sending_hours_and_waits() -> None:
    """The window lies outside the hard block."""
    document = read_toml(PACK / "sending.toml")
    assert document.need("hours.opens", time) == time(8, 30)
    assert document.need("hours.closes", time) == time(18)
    assert document.need("hours.blocked_from", time) == time(21)
    assert document.need("hours.blocked_until", time) == time(8)
    assert document.need("hours.working_days_only", bool)
    assert document.need("cap.per_recipient", int) > 0
    assert document.need("cap.days", int) == 7
    assert document.need("slots.minutes", int) == 60
    assert document.need("waits.late_registration_wait_minutes", int) == 10
    assert document.need("waits.silence_hours", int) == document.need("waits.unknown_hours", int) == 72
    assert not document.need("content.link_in_sms", bool)


def test_participations_are_live() -> None:
    """The mode of the data set that stops the clock."""
    assert read_toml(PACK / "datasets.toml").need("participations.mode", str) == "live"


@pytest.mark.parametrize("stage", ["reminder", "second_reminder"])
@pytest.mark.parametrize("form", ["sms", "group"])
def test_reminders_say_should_if_they_employ_and_fit_three_fragments(stage: str, form: str) -> None:
    """The words that make it a condition and not a claim, no link; fits with names of usual length."""
    document = read_toml(PACK / "texts.toml")
    template = document.need(f"R01.{stage}.{form}", str)
    words = document.texts(f"R01.{stage}.words")
    assert {"如已用工", "应当", "办理"} <= set(words)
    assert all(word in template for word in words)
    assert not re.search(r"http|www|://|\.cn|\.com", template)
    signature = document.need("issuer.signature", str)
    assert signature == "【荣成人社】"
    filled = signature + template.format(
        unit="荣" * 16,
        units="荣" * 16,
        count=7,
        established_on="2026年1月9日",
        deadline="2026年2月9日",
        office=document.need("issuer.office", str),
        service_number=document.need("issuer.service_number", str),
        reference="R" * 9,
    )
    assert len(filled.encode("utf-16-le")) // 2 <= 3 * 67
