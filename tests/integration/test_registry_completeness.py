"""How complete data sets are, the working-day calendar, and the mark that matching leaves."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.registry.commands import complete_live_days
from shared.clock import ZONE
from shared.events.catalogue import PARTITIONS
from shared.events.matching import LeadResolved
from tests.support.cutting import message
from tests.support.registry import AT, USCC, Registry

DECLARE = "/v1/datasets/participations/complete-through"


def declared(registry: Registry) -> list[str]:
    return [data["through"] for name, data in registry.events() if name == "data_complete"]


def declare(registry: Registry, through: str, department: str = "HRSS") -> Any:
    return registry.ask("PUT", DECLARE, {"through": through}, department=department)


def test_the_owner_declares_a_batch_set_forward_only(tmp_path: Path) -> None:
    """Later: told once per partition; equal: 200, silent; earlier: 409; not over yet: 422."""
    with Registry(tmp_path, participations_mode="batch") as registry:
        for _ in range(2):
            answer = declare(registry, "2026-02-08")
            assert (answer.status_code, answer.json()["complete_through"]) == (200, "2026-02-08")
        assert declare(registry, "2026-02-07").status_code == 409
        for day in ("2026-02-11", "2026-02-10"):
            answer = declare(registry, day)
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "not_over")
        assert declare(registry, "2026-02-09").status_code == 200
        assert declared(registry) == ["2026-02-08", "2026-02-09"]
        assert [(action, details["through"]) for action, _, details in registry.audits()] == [
            ("data_complete", "2026-02-08"),
            ("data_complete", "2026-02-09"),
        ]
        assert registry.dump().count("registry.data_complete.v1") == 2 * PARTITIONS


def test_only_the_owner_declares_and_only_batch_sets(tmp_path: Path) -> None:
    """403 for another department, 404 for an unknown set, 409 where the set is live."""
    with Registry(tmp_path) as registry:
        assert declare(registry, "2026-02-08", "TAX").status_code == 403
        answer = declare(registry, "2026-02-08")
        assert (answer.status_code, answer.json()["code"]) == (409, "live_dataset")
        unknown = registry.ask(
            "PUT", "/v1/datasets/x/complete-through", {"through": "2026-02-08"}, department="HRSS"
        )
        assert unknown.status_code == 404
        assert declared(registry) == []


def test_a_live_set_is_complete_when_the_day_is_over(tmp_path: Path) -> None:
    """At first start for yesterday; then at 00:00 of each day; after downtime once, through yesterday."""
    with Registry(tmp_path) as registry:
        assert registry.due() == AT
        assert registry.run(complete_live_days) is True
        assert registry.run(complete_live_days) is False
        assert registry.due() == datetime(2026, 2, 11, tzinfo=ZONE)
        registry.clock.move_to(datetime(2026, 2, 11, tzinfo=ZONE) - timedelta(microseconds=1))
        assert registry.run(complete_live_days) is False
        registry.clock.advance(timedelta(microseconds=1))
        assert registry.run(complete_live_days) is True
        registry.clock.move_to(datetime(2026, 2, 20, 9, tzinfo=ZONE))
        assert registry.run(complete_live_days) is True
        assert declared(registry) == ["2026-02-09", "2026-02-10", "2026-02-19"]
        item = registry.ask("GET", "/v1/datasets", department="HRSS").json()["items"][0]
        assert (item["id"], item["mode"], item["complete_through"]) == (
            "participations",
            "live",
            "2026-02-19",
        )


def test_a_batch_set_is_never_completed_by_itself(tmp_path: Path) -> None:
    """Nothing is due."""
    with Registry(tmp_path, participations_mode="batch") as registry:
        assert registry.due() is None
        assert registry.run(complete_live_days) is False


@pytest.mark.parametrize(
    ("mode", "through", "late"),
    [("batch", None, 1.0), ("batch", "2026-02-08", 0.0), ("batch", "2026-02-05", 3.0), ("live", None, 0.0)],
)
def test_late_days_are_measured(tmp_path: Path, mode: str, through: str | None, late: float) -> None:
    """Behind the day before yesterday, for batch sets."""
    with Registry(tmp_path, participations_mode=mode) as registry:
        if through:
            declare(registry, through)
        shown = registry.ask("GET", "/metrics").text
        assert f'yingbao_dataset_late_days{{dataset="participations"}} {late}' in shown


YEAR = {"holidays": ["2027-01-01"], "makeup_days": ["2027-01-02"], "source": "示例通知"}


def test_a_year_of_the_calendar_is_imported(tmp_path: Path) -> None:
    """Told once per change to every partition; before that, the city pack's year is shown."""
    with Registry(tmp_path) as registry:
        who = {"department": "HRSS"}
        assert registry.ask("GET", "/v1/calendar/2026", **who).json()["makeup_days"][0] == "2026-01-04"
        assert registry.ask("GET", "/v1/calendar/2027", **who).status_code == 404
        for _ in range(2):
            assert registry.ask("PUT", "/v1/calendar/2027", YEAR, **who).status_code == 200
        assert registry.ask("GET", "/v1/calendar/2027", **who).json() == {"year": 2027, **YEAR}
        assert registry.events() == [("reference_changed", {"reference": "calendar", "year": 2027, **YEAR})]
        registry.ask("PUT", "/v1/calendar/2027", {**YEAR, "makeup_days": []}, **who)
        assert len(registry.events()) == 2


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"holidays": ["2027-01-01", "2026-12-31"]}, "/holidays/1"),
        ({"makeup_days": ["2027-01-04"]}, "/makeup_days/0"),
        ({"holidays": ["2027-01-02"]}, "/makeup_days/0"),
        ({"source": " "}, "/source"),
        ({"holidays": "2027-01-01"}, "/holidays"),
    ],
)
def test_an_impossible_year_is_refused(tmp_path: Path, body: dict[str, Any], pointer: str) -> None:
    """A day of another year, a make-up day from Monday to Friday or on a holiday, no source."""
    with Registry(tmp_path) as registry:
        answer = registry.ask("PUT", "/v1/calendar/2027", {**YEAR, **body}, department="HRSS")
        assert answer.status_code == 422
        assert pointer in [item["pointer"] for item in answer.json()["errors"]]
        assert registry.events() == []


def resolved(uscc: str, end: str, *, by_official: bool = True) -> Any:
    event = LeadResolved(
        lead_id="L1", uscc=uscc, rule="R01", episode=1, end=end, reason="示例", by_official=by_official
    )
    return message(event, id=f"{uscc}-{end}-{by_official}", time=AT - timedelta(hours=1))


def test_a_unit_found_wrong_is_marked_until_it_is_corrected(tmp_path: Path) -> None:
    """Only an official's wrong_data marks; an unknown unit is passed over; a correction takes the mark away."""
    with Registry(tmp_path) as registry:
        registry.register()

        def codes() -> list[str]:
            return [item["code"] for item in registry.ask("GET", f"/v1/units/{USCC}").json()["warnings"]]

        consumer = registry.service.consumer
        registry.wait(consumer.receive([resolved(USCC, "enrolled")]))
        registry.wait(consumer.receive([resolved(USCC, "wrong_data", by_official=False)]))
        assert codes() == []
        registry.wait(consumer.receive([resolved(USCC, "wrong_data"), resolved("9" * 18, "wrong_data")]))
        assert codes() == ["marked_wrong"]
        assert registry.audits()[-1] == ("unit_marked_wrong", USCC, {"lead": "L1"})
        registry.ask("PATCH", f"/v1/units/{USCC}", {"established_on": "2026-01-10"})
        assert codes() == []
