"""The last look: what registry answers just before a message leaves."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.registry import OTHER_USCC, UNIT, USCC, WRONG_CHECK, Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path) as registry:
        registry.register()
        yield registry


def item(uscc: str = USCC, void: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    return {
        "subject": {"uscc": uscc},
        "void": {
            "insurances": ["pension", "unemployment", "injury"],
            "mode": "any",
            "forms": ["employer"],
            **(void or {}),
        },
        "facts": {
            "established_on": "2026-01-09",
            "kind": "enterprise",
            "name": UNIT["name"],
            "town": "寻山街道",
            "contact_version": 1,
            **facts,
        },
    }


def looked(registry: Registry, *items: dict[str, Any]) -> list[str]:
    answer = registry.ask(
        "POST", "/v1/last-look", {"items": items}, department="notify", scopes=["last-look"]
    )
    assert answer.status_code == 200, answer.text
    return [answer["reason"] or answer["answer"] for answer in answer.json()["items"]]


def test_nothing_against_it_is_go(registry: Registry) -> None:
    """With the instant from which the answer holds, one answer per item in order, and nothing written."""
    before = registry.dump()
    body = {"items": [item(), item(OTHER_USCC)]}
    answer = registry.ask("POST", "/v1/last-look", body, department="notify", scopes=["last-look"])
    assert answer.json() == {
        "as_of": "2026-02-10T10:00:00+08:00",
        "items": [{"answer": "go", "reason": None}, {"answer": "hold", "reason": "unknown_subject"}],
    }
    assert registry.dump() == before


@pytest.mark.parametrize(
    ("spell", "reason"),
    [
        ({"started_on": "2026-02-10"}, "insured"),
        ({"started_on": "2026-02-11"}, "go"),
        ({"insurance": "medical"}, "go"),
        ({"form": "project", "insurance": "injury"}, "go"),
        ({"form": "flexible", "uscc": None}, "go"),
        ({"uscc": OTHER_USCC}, "go"),
    ],
)
def test_a_participation_in_force_today_voids(registry: Registry, spell: dict[str, Any], reason: str) -> None:
    """Of one of the insurances, in one of the forms, of this unit, from its start on."""
    registry.record(**spell)
    assert looked(registry, item()) == [reason]


def test_an_ended_participation_voids_all_the_same_and_a_cancelled_never(registry: Registry) -> None:
    """What ends a lead in matching holds its message here."""
    path = f"/v1/participations/{registry.record().json()['id']}"
    registry.ask("POST", f"{path}/end", {"ended_on": "2026-02-10"}, department="HRSS")
    assert looked(registry, item()) == ["insured"]
    registry.clock.advance(timedelta(days=1))
    assert looked(registry, item()) == ["insured"]
    registry.ask("POST", f"{path}/cancel", {"reason": "录入错误"}, department="HRSS")
    assert looked(registry, item()) == ["go"]


def test_all_needs_every_insurance(registry: Registry) -> None:
    """`any` is voided by one of them, `all` by all of them."""
    registry.record()
    everything = {"mode": "all", "insurances": ["pension", "injury"]}
    assert looked(registry, item(), item(void=everything)) == ["insured", "go"]
    registry.record(insurance="injury")
    assert looked(registry, item(void=everything)) == ["insured"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"name": "另一名称"}, "fact_differs"),
        ({"kind": "sole_trader"}, "fact_differs"),
        ({"established_on": "2026-01-08"}, "fact_differs"),
        ({"established_on": None}, "fact_differs"),
        ({"town": None}, "fact_differs"),
        ({"contact_version": 0}, "contact_newer"),
    ],
)
def test_facts_that_are_no_longer_so_hold(registry: Registry, facts: dict[str, Any], reason: str) -> None:
    """The lead rests on something that registry knows better."""
    assert looked(registry, item(**facts)) == [reason]


def test_a_unit_that_may_not_be_written_to_holds(registry: Registry) -> None:
    """Suspended or closed units, and codes that nobody confirmed yet."""
    registry.register(uscc=WRONG_CHECK)
    assert looked(registry, item(WRONG_CHECK)) == ["code_unconfirmed"]
    registry.ask("POST", f"/v1/units/{USCC}/suspend", {"suspended_on": "2026-02-10"})
    assert looked(registry, item()) == ["not_active"]
    registry.ask("POST", f"/v1/units/{USCC}/close", {"closed_on": "2026-02-10"})
    assert looked(registry, item()) == ["not_active"]


def test_a_thousand_items_pass_and_one_more_does_not(registry: Registry) -> None:
    """One look covers what a carrier takes in two seconds."""
    assert looked(registry, *[item(address) for address in [USCC] * 1000]) == ["go"] * 1000
    body = {"items": [item()] * 1001}
    answer = registry.ask("POST", "/v1/last-look", body, department="notify", scopes=["last-look"])
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "void", [{"insurances": []}, {"forms": []}, {"insurances": ["fire"]}, {"mode": "some"}]
)
def test_a_question_that_could_never_hold_is_refused(registry: Registry, void: dict[str, Any]) -> None:
    """An empty or misspelt predicate would let everything go."""
    body = {"items": [item(void=void)]}
    answer = registry.ask("POST", "/v1/last-look", body, department="notify", scopes=["last-look"])
    assert answer.status_code == 422


def test_the_look_has_readers_of_its_own_and_no_rate_limit(tmp_path: Path) -> None:
    """It is answered while every other reader is busy, and after a client has used up its requests."""
    with Registry(tmp_path, rate_limit_per_s=1) as registry:
        registry.register()
        gate = threading.Event()
        readers = registry.service.core._readers
        stuck = [readers.submit(gate.wait, 5.0) for _ in range(4)]
        try:
            assert [looked(registry, item()) for _ in range(5)] == [["go"]] * 5
        finally:
            gate.set()
        # False: a reader gave up, so a look had waited for it.
        assert all(job.result() for job in stuck)
