"""Participations over HTTP: recording, ending, cancelling, and who counts as a person's first."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.identifiers import id_check_char
from tests.support.registry import (
    ID_NUMBER,
    OTHER_ID_NUMBER,
    OTHER_USCC,
    PARTICIPATION,
    USCC,
    Registry,
)

SOMEBODY_ELSE = {"id_number": OTHER_ID_NUMBER, "name": "李示例"}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path) as registry:
        registry.register()
        yield registry


def told(registry: Registry) -> list[tuple[str, dict[str, Any]]]:
    return [event for event in registry.events() if event[0].startswith("participation")]


def warnings(answer: Any) -> list[str]:
    return [item["code"] for item in answer.json()["warnings"]]


def end(registry: Registry, id_: int, day: str) -> Any:
    return registry.ask("POST", f"/v1/participations/{id_}/end", {"ended_on": day}, department="HRSS")


def cancel(registry: Registry, id_: int, reason: str = "录入错误") -> Any:
    return registry.ask("POST", f"/v1/participations/{id_}/cancel", {"reason": reason}, department="HRSS")


def test_a_participation_is_answered_told_and_audited(registry: Registry) -> None:
    """201 with a masked person; participation_started with a token in place of the person."""
    answer = registry.record()
    assert answer.status_code == 201
    id_ = answer.json()["id"]
    assert answer.headers["Location"] == f"/v1/participations/{id_}"
    assert answer.json() == {
        "id": id_,
        "person": {"id_number": "371082********0023", "name": "王*例"},
        "uscc": USCC,
        "insurance": "pension",
        "form": "employer",
        "kind": "first",
        "started_on": "2026-02-09",
        "ended_on": None,
        "state": "in_force",
        "town": "寻山街道",
        "recorded_on": "2026-02-10",
        "first_ever": True,
        "warnings": [],
    }
    assert registry.ask("GET", f"/v1/participations/{id_}", department="HRSS").json() == answer.json()
    ((name, facts),) = told(registry)
    token = facts.pop("person")
    assert 0 < token < 2**63
    assert (name, facts) == (
        "participation_started",
        {
            "participation_id": id_,
            "insurance": "pension",
            "form": "employer",
            "uscc": USCC,
            "kind": "first",
            "started_on": "2026-02-09",
            "town": "寻山街道",
            "recorded_on": "2026-02-10",
            "first_version": 1,
            "first_ever": True,
            "baseline": False,
        },
    )
    assert registry.audits()[-1] == ("participation_recorded", str(id_), {"person": token, "uscc": USCC})


def test_people_lie_encrypted_and_travel_as_tokens(registry: Registry) -> None:
    """No table holds ID number, its date of birth, or name in clear, also after ending and cancelling."""
    id_ = registry.record().json()["id"]
    end(registry, id_, "2026-02-10")
    cancel(registry, id_, f"录入错误，应为 {OTHER_ID_NUMBER}")
    for secret in (ID_NUMBER, "19850315", "王示例", OTHER_ID_NUMBER):
        assert secret not in registry.dump()


def test_a_person_is_one_person_however_written(registry: Registry) -> None:
    """Blanks and a small x change nothing; an old number of 15 digits is the one of 18."""
    for number in (
        OTHER_ID_NUMBER,
        f" {OTHER_ID_NUMBER.lower()} ",
        OTHER_ID_NUMBER[:6] + OTHER_ID_NUMBER[8:17],
    ):
        registry.record(
            person={"id_number": number, "name": "李示例"}, started_on=f"2026-02-0{len(told(registry)) + 1}"
        )
    assert len(told(registry)) == 3
    assert len({facts["person"] for _, facts in told(registry)}) == 1


def test_the_same_spell_again_changes_nothing(registry: Registry) -> None:
    """200 with the same id, no event; also after it ended. A different kind is a conflict."""
    id_ = registry.record().json()["id"]
    again = registry.record()
    assert (again.status_code, again.json()["id"], again.json()["first_ever"]) == (200, id_, True)
    other = registry.record(kind="resumed")
    assert (other.status_code, other.json()["errors"][0]["pointer"]) == (409, "/kind")
    end(registry, id_, "2026-02-10")
    ended = registry.record()
    assert (ended.status_code, ended.json()["state"]) == (200, "ended")
    assert [name for name, _ in told(registry)] == ["participation_started", "participation_ended"]


def test_a_flexible_spell_is_kept_apart_by_its_start(registry: Registry) -> None:
    """Without a unit: its own key, the town of nobody, and the person as the event's subject."""
    flexible = {"uscc": None, "form": "flexible"}
    first = registry.record(**flexible)
    assert (first.status_code, first.json()["town"]) == (201, "市直/未划分")
    assert registry.record(**flexible).status_code == 200
    assert registry.record(**flexible, started_on="2026-02-08").status_code == 201


def test_doubtful_participations_are_accepted_with_warnings(registry: Registry) -> None:
    """Unknown unit, unknown province, another name for a known person; the first name stays."""
    unknown = registry.record(uscc=OTHER_USCC)
    assert (unknown.status_code, warnings(unknown), unknown.json()["town"]) == (
        201,
        ["unknown_unit"],
        "市直/未划分",
    )
    renamed = registry.record(person={"id_number": ID_NUMBER, "name": "赵另名"}, insurance="injury")
    assert (warnings(renamed), renamed.json()["person"]["name"]) == (["name_differs"], "王*例")
    nowhere = "00108219850315002"
    odd = registry.record(person={"id_number": nowhere + id_check_char(nowhere), "name": "赵示例"})
    assert (odd.status_code, warnings(odd)) == (201, ["area_code"])
    registry.register()
    early = registry.record(started_on="2026-01-08", insurance="unemployment")
    assert (early.status_code, warnings(early)) == (201, ["before_unit"])
    assert warnings(registry.record(started_on="2026-01-09", insurance="medical")) == []


@pytest.mark.parametrize(
    ("facts", "where"),
    [
        ({"uscc": None}, ("/uscc", "required")),
        ({"form": "project", "uscc": None}, ("/uscc", "required")),
        ({"form": "flexible"}, ("/uscc", "not_expected")),
        ({"form": "part_time"}, ("/form", "not_allowed")),
        ({"insurance": "fire"}, ("/insurance", "not_allowed")),
        ({"kind": None}, ("/kind", "not_allowed")),
        ({"started_on": "1989-12-31"}, ("/started_on", "too_early")),
        ({"started_on": "2027-02-12"}, ("/started_on", "too_late")),
        ({"started_on": "2026-02-29"}, ("/started_on", "not_a_day")),
        (
            {"person": {"id_number": "37108219850315002", "name": "王"}},
            ("/person/id_number", "id_number_length"),
        ),
        (
            {"person": {"id_number": "37108219850315002A", "name": "王"}},
            ("/person/id_number", "id_number_alphabet"),
        ),
        (
            {"person": {"id_number": "371082198502300023", "name": "王"}},
            ("/person/id_number", "id_number_date"),
        ),
        (
            {"person": {"id_number": "371082198503150024", "name": "王"}},
            ("/person/id_number", "id_number_check_digit"),
        ),
        (
            {"person": {"id_number": "371082209903150023", "name": "王"}},
            ("/person/id_number", "id_number_future"),
        ),
        ({"person": {"id_number": 371082198503150023, "name": "王"}}, ("/person/id_number", "not_a_text")),
        ({"person": {"id_number": ID_NUMBER}}, ("/person/name", "required")),
        ({"person": {"id_number": ID_NUMBER, "name": ""}}, ("/person/name", "blank")),
        ({"person": ID_NUMBER}, ("/person", "not_an_object")),
        ({"note": ""}, ("/note", "unknown_field")),
    ],
)
def test_bad_participations_are_refused_with_pointer(
    registry: Registry, facts: dict[str, Any], where: tuple[str, str]
) -> None:
    """422; nobody is registered, nothing is told, the number is not echoed."""
    before = registry.dump()
    answer = registry.record(**facts)
    assert answer.status_code == 422, answer.text
    assert where in [(item["pointer"], item["code"]) for item in answer.json()["errors"]]
    assert registry.dump() == before
    assert "19850315" not in answer.text


def test_only_the_first_known_record_of_an_insurance_is_first_ever(registry: Registry) -> None:
    """Whatever the unit and the start; another insurance and another person have firsts of their own."""
    registry.record()
    registry.record(uscc=OTHER_USCC)
    registry.record(started_on="2020-01-01")
    registry.record(insurance="injury")
    registry.record(person=SOMEBODY_ELSE)
    facts = [(item["first_ever"], item["first_version"]) for _, item in told(registry)]
    assert facts == [(True, 1), (False, 1), (False, 1), (True, 1), (True, 1)]


def test_cancelling_the_first_moves_it_to_the_earliest_left(registry: Registry) -> None:
    """The event carries what counts now, with a higher version; then nothing is left; then a new first."""
    first, late, early = (
        registry.record(started_on=day).json()["id"] for day in ("2026-02-01", "2026-02-05", "2026-01-05")
    )
    assert cancel(registry, first).json()["state"] == "cancelled"
    name, facts = told(registry)[-1]
    assert (name, facts["participation_id"], facts["first_version"]) == ("participation_cancelled", first, 2)
    assert facts["counts_now"] == {
        "participation_id": early,
        "kind": "first",
        "town": "寻山街道",
        "started_on": "2026-01-05",
        "recorded_on": "2026-02-10",
        "baseline": False,
    }
    cancel(registry, late)
    assert (
        told(registry)[-1][1]["counts_now"]["participation_id"],
        told(registry)[-1][1]["first_version"],
    ) == (early, 2)
    cancel(registry, early)
    assert (told(registry)[-1][1]["counts_now"], told(registry)[-1][1]["first_version"]) == (None, 3)
    again = registry.record(started_on="2026-02-01")
    assert (again.status_code, again.json()["first_ever"]) == (201, True)
    assert (told(registry)[-1][1]["first_ever"], told(registry)[-1][1]["first_version"]) == (True, 4)


def test_an_end_and_its_repetition(registry: Registry) -> None:
    """Told once; another day, and a day before the start, are refused."""
    id_ = registry.record().json()["id"]
    assert end(registry, id_, "2026-02-08").status_code == 422
    assert end(registry, id_, "2027-02-12").status_code == 422
    for _ in range(2):
        answer = end(registry, id_, "2026-02-10")
        assert (answer.status_code, answer.json()["state"], answer.json()["ended_on"]) == (
            200,
            "ended",
            "2026-02-10",
        )
    assert end(registry, id_, "2026-02-11").status_code == 409
    assert [name for name, _ in told(registry)] == ["participation_started", "participation_ended"]
    assert told(registry)[-1][1]["ended_on"] == "2026-02-10"


def test_a_cancellation_is_told_once_and_final(registry: Registry) -> None:
    """The same again is 200 without an event; it cannot end; the same spell may be recorded anew."""
    id_ = registry.record().json()["id"]
    assert (cancel(registry, id_).status_code, cancel(registry, id_).status_code) == (200, 200)
    assert end(registry, id_, "2026-02-10").status_code == 409
    assert [name for name, _ in told(registry)] == ["participation_started", "participation_cancelled"]
    anew = registry.record()
    assert anew.status_code == 201
    assert anew.json()["id"] > id_


def test_unknown_participations_are_404(registry: Registry) -> None:
    """Ids that were never given; ids that no database could hold are 422."""
    assert registry.ask("GET", "/v1/participations/99", department="HRSS").status_code == 404
    assert end(registry, 99, "2026-02-10").status_code == 404
    assert registry.ask("GET", f"/v1/participations/{2**63}", department="HRSS").status_code == 422


def test_who_acts_for_a_town_reaches_only_its_participations(registry: Registry) -> None:
    """Other towns' records are 404, recording for their units 403."""
    id_ = registry.record().json()["id"]
    path, other = f"/v1/participations/{id_}", {"department": "HRSS", "town": "俚岛镇"}
    assert registry.ask("GET", path, **other).status_code == 404
    assert registry.ask("POST", f"{path}/cancel", {"reason": "误"}, **other).status_code == 404
    new = {**PARTICIPATION, "insurance": "injury"}
    assert registry.ask("POST", "/v1/participations", new, **other).status_code == 403
    own = {"department": "HRSS", "town": "寻山街道"}
    assert registry.ask("POST", "/v1/participations", new, **own).status_code == 201
