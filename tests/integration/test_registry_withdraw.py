"""A file is taken back: what its rows brought, and what stays because something has touched it since."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.registry.intake import withdraw
from tests.integration.test_registry_intake import (
    counts,
    file,
    held,
    many,
    row,
    taken_in,
    told,
    unit_row,
    units,
)
from tests.support.registry import ID_NUMBER, OTHER_ID_NUMBER, OTHER_USCC, USCC, Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path, participations_mode="batch") as registry:
        yield registry


def take_back(
    registry: Registry, batch: dict[str, Any], department: str = "HRSS", **given: Any
) -> dict[str, Any]:
    answer = ask(registry, batch, department, **given)
    assert (answer.status_code, answer.json()["state"]) == (202, "withdrawing"), answer.text
    registry.take_in()
    found: dict[str, Any] = registry.ask("GET", f"/v1/batches/{batch['id']}", department=department).json()
    return found


def ask(registry: Registry, batch: dict[str, Any], department: str = "HRSS", **given: Any) -> httpx.Response:
    body = {"reason": "导出有误，电话 13800138000", **given}
    return registry.ask("POST", f"/v1/batches/{batch['id']}/withdraw", body, department=department)


def test_participations_of_a_withdrawn_file_are_cancelled(registry: Registry) -> None:
    """Also one that the file itself had ended; told in the order in which nothing can open in between."""
    registry.register()
    batch = taken_in(registry, file(row(ended_on="2026-02-10"), row(insurance="工伤")))
    before = len(registry.events())
    after = take_back(registry, batch)
    assert (after["state"], after["taken_back"], after["kept"], after["replaced"]) == (
        "withdrawn",
        2,
        0,
        True,
    )
    assert [name for name, _ in registry.events()[before:]] == [
        "intake_disputed",
        "participation_cancelled",
        "intake_disputed",
        "participation_cancelled",
        "batch_withdrawn",
    ]
    assert told(registry, "batch_withdrawn") == [
        {
            "batch_id": batch["id"],
            "dataset": "participations",
            "department": "HRSS",
            "taken_back": 2,
            "kept": 0,
            "replaced": True,
        }
    ]
    audit = [(action, details) for action, _, details in registry.audits() if action == "batch_withdrawn"]
    assert audit == [("batch_withdrawn", {"reason": "导出有误，电话 138****8000", "replaced": True})]


def test_a_unit_waits_for_the_corrected_file(registry: Registry) -> None:
    """Withdrawn is not uninsured: the last look holds until the corrected row is here."""
    registry.register()
    batch = taken_in(registry, file(row(), row(OTHER_USCC, id_number=OTHER_ID_NUMBER)))
    after = take_back(registry, batch)
    assert (held(registry), after["open_disputes"]) == ("row_disputed", 2)
    taken_in(registry, file(row(started_on="2026-02-08")))
    assert [(data["uscc"], data["batch_id"]) for data in told(registry, "intake_settled")] == [
        (USCC, batch["id"])
    ]
    assert held(registry) == "insured"


def test_without_a_replacement_nothing_is_held(registry: Registry) -> None:
    """The file should never have been: its rejected rows are settled too."""
    registry.register()
    batch = taken_in(registry, file(row(), row(id_number="371082198503150024")))
    assert batch["open_disputes"] == 1
    after = take_back(registry, batch, replaced=False)
    assert (after["open_disputes"], held(registry)) == (0, None)
    assert len(told(registry, "intake_settled")) == len(told(registry, "intake_disputed")) == 1


def test_what_was_touched_since_stays(registry: Registry) -> None:
    """Ended or cancelled by a call, known before the file, or only ended by it: counted as kept, or not its own."""
    registry.register()
    registry.record(insurance="injury")
    batch = taken_in(
        registry,
        file(
            row(),
            row(insurance="失业"),
            row(insurance="工伤", ended_on="2026-02-10"),
            row(id_number=OTHER_ID_NUMBER),
        ),
    )
    assert counts(batch) == ("applied", 4, 0, 0)
    ids = {
        data["insurance"]: data["participation_id"] for data in told(registry, "participation_started")[:3]
    }
    end = {"ended_on": "2026-02-10"}
    registry.ask("POST", f"/v1/participations/{ids['pension']}/end", end, department="HRSS")
    reason = {"reason": "重复"}
    registry.ask("POST", f"/v1/participations/{ids['unemployment']}/cancel", reason, department="HRSS")
    after = take_back(registry, batch)
    assert (after["taken_back"], after["kept"]) == (1, 3)
    assert len(told(registry, "participation_cancelled")) == 2


def test_a_unit_that_only_the_file_spoke_of_loses_its_date(registry: Registry) -> None:
    """With the date goes the clock, with the contacts whom to write to; a changed or insuring unit stays."""
    content = units(
        unit_row(),
        unit_row(OTHER_USCC).replace("企业,", "合作社,"),
        unit_row("91371082MA3XTE5T9N"),
    )
    batch = taken_in(registry, content, "unit_registrations", department="ADM")
    assert counts(batch) == ("applied", 3, 0, 0)
    registry.ask("PATCH", f"/v1/units/{OTHER_USCC}", {"industry": "C1362"})
    registry.record(uscc="91371082MA3XTE5T9N")
    after = take_back(registry, batch, "ADM")
    assert (after["state"], after["taken_back"], after["kept"]) == ("withdrawn", 1, 2)
    (changed,) = [data for data in told(registry, "unit_changed") if data["uscc"] == USCC]
    assert (changed["established_on"], changed["contact_version"]) == (None, 2)
    assert registry.ask("GET", f"/v1/units/{USCC}").json()["contacts"] == []


def test_the_corrected_file_says_its_units_anew(registry: Registry) -> None:
    """Other facts are taken, told as a change, and can be withdrawn again; a person's correction wins."""
    batch = taken_in(registry, units(unit_row()), "unit_registrations", department="ADM")
    take_back(registry, batch, "ADM")
    right = units(unit_row(established_on="2026-01-10"))
    again = taken_in(registry, right, "unit_registrations", department="ADM")
    assert counts(again) == ("applied", 1, 0, 0)
    unit = registry.ask("GET", f"/v1/units/{USCC}").json()
    assert (unit["established_on"], len(unit["contacts"])) == ("2026-01-10", 1)
    assert told(registry, "unit_changed")[-1]["origin"] == "batch"
    assert take_back(registry, again, "ADM")["taken_back"] == 1
    registry.ask("PATCH", f"/v1/units/{USCC}", {"established_on": "2026-01-12"})
    third = taken_in(
        registry, units(unit_row(established_on="2026-01-13")), "unit_registrations", department="ADM"
    )
    assert counts(third) == ("applied", 0, 0, 1)


def test_a_file_is_withdrawn_in_the_middle_and_in_portions(registry: Registry) -> None:
    """Nothing more of it is applied; asked again it changes nothing."""
    sent = registry.send(file(*many(withdraw.PORTION + 150)))
    registry.take_in(2)
    batch = registry.batch(sent)
    assert batch["state"] == "applying"
    assert ask(registry, batch).status_code == 202
    registry.take_in(1)
    assert registry.batch(sent)["taken_back"] == withdraw.PORTION
    assert ask(registry, batch).json()["state"] == "withdrawing"
    registry.take_in()
    after = registry.batch(sent)
    assert (after["state"], after["taken_back"]) == ("withdrawn", batch["accepted"])
    assert len(told(registry, "participation_cancelled")) == batch["accepted"] < withdraw.PORTION + 150
    assert len(told(registry, "batch_withdrawn")) == 1
    assert told(registry, "batch_accepted") == []


def test_how_a_file_was_withdrawn_stays(registry: Registry) -> None:
    """The same again is answered; whether a corrected one comes is not decided anew."""
    batch = taken_in(registry, file(row()))
    assert ask(registry, batch, replaced=True).status_code == ask(registry, batch, replaced=True).status_code
    other = ask(registry, batch, replaced=False)
    assert (other.status_code, other.json()["code"]) == (409, "withdrawn_otherwise")


def test_a_withdrawn_file_is_not_taken_again(registry: Registry) -> None:
    """The same bytes are the same mistake; and a batch is withdrawn by its sender alone."""
    batch = taken_in(registry, file(row()))
    assert ask(registry, batch, "YB").status_code in {403, 404}
    take_back(registry, batch)
    again = registry.send(file(row()))
    assert (again.status_code, again.json()["code"]) == (409, "batch_withdrawn")
    assert registry.take_in() == 0


@pytest.mark.parametrize(("person", "settles"), [(ID_NUMBER, True), (OTHER_ID_NUMBER, False)])
def test_a_single_call_settles_what_a_file_said_wrongly(
    registry: Registry, person: str, settles: bool
) -> None:
    """Of the same unit and person, as a corrected row would; told behind the participation."""
    registry.register()
    taken_in(registry, file(row(kind="不详")))
    name = "王示例" if settles else "李示例"
    registry.record(person={"id_number": person, "name": name}, insurance="injury")
    assert len(told(registry, "intake_settled")) == settles
    if settles:
        assert [name for name, _ in registry.events()[-2:]] == ["participation_started", "intake_settled"]
