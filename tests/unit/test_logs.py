"""Log lines are JSON, carry the correlation id, and hold no ID numbers or mobile numbers."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from prometheus_client import Gauge

from shared.logs import configure, correlation, scrub
from shared.metrics import Metrics, Reading

ID_NUMBER = "371082198503150023"
MOBILE = "13800138000"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Configured logs into memory; the standard library's root is put back afterwards."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    out = io.StringIO()
    configure("registry", level="INFO", stream=out)
    yield out
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Every line as JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_service_level_time_and_correlation(stream: io.StringIO) -> None:
    """Structlog and the standard library come out alike; below the level nothing comes."""
    token = correlation.set("order-7")
    structlog.get_logger("a").info("unit_registered", count=3)
    logging.getLogger("sqlalchemy").warning("slow %s", "query")
    structlog.get_logger("a").debug("quiet")
    correlation.reset(token)
    own, foreign = lines(stream)
    assert own["event"] == "unit_registered"
    assert own["count"] == 3
    assert foreign["event"] == "slow query"
    for line in (own, foreign):
        assert line["service"] == "registry"
        assert line["correlation"] == "order-7"
        assert line["timestamp"]
    assert (own["level"], foreign["level"]) == ("info", "warning")


def test_no_personal_numbers_get_through(stream: io.StringIO) -> None:
    """Not in the event, in values at any depth, as numbers, in arguments, or in exceptions."""
    log = structlog.get_logger("a")
    said = f"id {ID_NUMBER}"
    log.info(said, phone=MOBILE, deep={"list": [f"tel+86{MOBILE}", {ID_NUMBER: 1}]}, n=int(MOBILE))
    logging.getLogger("x").error("sending to %s", MOBILE)
    try:
        int("no such person " + ID_NUMBER)
    except ValueError:
        log.exception("failed")
        logging.getLogger("x").exception("failed too")
    text = stream.getvalue()
    assert len(lines(stream)) == 4
    assert ID_NUMBER not in text
    assert MOBILE not in text
    assert "371082********0023" in text
    assert "138****8000" in text
    assert "ValueError" in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("37108219850315002X", "371082********002X"),
        ("37108219850315002x。", "371082********002x。"),
        ("+86 138-0013-8000", "+86 138****8000"),
        ("371082850315002", "371082******002"),
        ("91371082MA3XTE5T8Q", "91371082MA3XTE5T8Q"),
        ("2026-02-10 12:00", "2026-02-10 12:00"),
        ("order 12345678901", "order 12345678901"),
        ("1234567890123456789012", "1234567890123456789012"),
    ],
)
def test_scrub_masks_numbers_of_people_only(given: str, expected: str) -> None:
    """Codes of units, days and longer runs of digits stay."""
    assert scrub(given) == expected


def test_access_lines_of_the_server_are_silent(stream: io.StringIO) -> None:
    """Uvicorn's access log would write query strings."""
    logging.getLogger("uvicorn.access").info("GET /v1/units?q=%s", "x")
    logging.getLogger("uvicorn.error").info("started")
    assert [line["event"] for line in lines(stream)] == ["started"]


def test_services_do_not_share_metrics() -> None:
    """Two services may have a metric of one name; a name is one metric inside a service."""
    one, two = Metrics(), Metrics()
    one.counter("things_total", "Things").inc()
    assert one.counter("things_total", "Things") is one.counter("things_total", "Things")
    two.gauge("things", "Things").set(7)
    assert "yingbao_things_total 1.0" in one.render().decode()
    assert "yingbao_things 7.0" in two.render().decode()
    assert "yingbao_things 7.0" not in one.render().decode()
    with pytest.raises(TypeError, match="choose another name"):
        one.gauge("things_total", "Things")
    assert isinstance(two.gauge("things", "Things"), Gauge)


def test_a_reading_shows_what_it_found_and_nothing_older() -> None:
    """A state that nothing is in any more keeps no number."""
    metrics = Metrics()
    first, second = Reading(), Reading()
    first.gauges("clocks", "Clocks", ["state"], {("running",): 2, ("waiting",): 1})
    second.gauges("clocks", "Clocks", ["state"], {("running",): 3})
    second.counters("messages", "Messages", ["outcome"], {("handled",): 4})
    assert 'yingbao_clocks{state="waiting"} 1.0' in metrics.render(first).decode()
    shown = metrics.render(second).decode()
    assert 'yingbao_clocks{state="running"} 3.0' in shown
    assert 'yingbao_messages_total{outcome="handled"} 4.0' in shown
    assert "waiting" not in shown
