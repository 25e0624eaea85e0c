"""The figures of the check, counted from what the services answer."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from services.demo.city import City
from services.demo.story.journal import Journal
from services.demo.story.suite import Suite

GOES_ON = "sending-on"
"""The action that ends the stop of all sending."""

Rows = list[dict[str, Any]]


def services_figures(suite: Suite, city: City, journal: Journal) -> dict[str, int]:
    """The same columns as `check.tally`, by the services' own words."""
    units = [unit["uscc"] for unit in suite.everything("/registry/v1/units")]
    leads = _by_unit(suite.everything("/matching/v1/leads", rule="R01"))
    notices = _by_unit(suite.everything("/notify/v1/notices"))
    visits = _by_unit(suite.everything("/matching/v1/visits"))
    counts: Counter[str] = Counter()
    for uscc in units:
        clocks = {
            (clock["state"], clock["reason"]) for clock in suite.everything("/matching/v1/clocks", uscc=uscc)
        }
        counts["registered"] += 1
        counts.update(set(_on_the_clock(clocks, leads.get(uscc, []))))
        counts.update(set(_on_the_ladder(notices.get(uscc, []), leads.get(uscc, []), visits.get(uscc, []))))
    counts.update(_by_attempts(suite, city, notices))
    counts.update(_by_answers(suite, city, journal))
    counts["left when the stop ended"] = _after_stop(notices, journal)
    counts["left in stock"] = suite.ask("GET", "/matching/v1/stock").get("count", 0)
    return dict(counts)


def funnel(suite: Suite) -> Mapping[str, Any]:
    """Every lead in one place of matching's funnel, beside the leads that its list has, by state."""
    told: dict[str, Any] = suite.ask("GET", "/matching/v1/funnel")
    listed = Counter(lead["state"] for lead in suite.everything("/matching/v1/leads"))
    return {**told, "listed": dict(listed)}


def _by_unit(items: Iterable[dict[str, Any]]) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for item in items:
        found.setdefault(item["uscc"], []).append(item)
    return found


def _on_the_clock(clocks: set[tuple[str, str | None]], leads: Rows) -> Iterator[str]:
    if leads:
        yield "leads"
    if ("stopped", "enrolled") in clocks and not leads:
        yield "enrolled in time"
    if ("held", "disputed") in clocks:
        yield "held by a rejected row"
    if any(state == "waiting" for state, _ in clocks):
        yield "waiting"
    if any(lead["end"] == "exempt" for lead in leads):
        yield "exempt"


def _on_the_ladder(notices: Rows, leads: Rows, visits: Rows) -> Iterator[str]:
    tried = {notice["stage"] for notice in notices if _was_tried(notice)}
    if "reminder" in tried:
        yield "reminded"
        if any(lead["end"] == "enrolled" for lead in leads):
            yield "enrolled after reminder"
    if "second_reminder" in tried:
        yield "reminded twice"
    if any(stage.startswith("correction") for stage in tried):
        yield "message taken back"
    states = {notice["state"] for notice in notices}
    if states == {"withdrawn"}:
        yield "withdrawn"
    if "unreached" in states:
        yield "unreached"
    if any(notice["state"] == "delivered" and notice["channel"] == "wechat" for notice in notices):
        yield "reached by WeChat"
    if visits:
        yield "visits asked for"
    if any(visit["state"] == "done" for visit in visits):
        yield "visits reported"


def _by_attempts(suite: Suite, city: City, notices: Mapping[str, Rows]) -> dict[str, int]:
    """What only the attempts of notices show: two channels of one notice, one message for several units."""
    phones = Counter(unit.mobile for unit in city.units if unit.mobile)
    counts, covers = Counter[str](), Counter[str]()
    for unit in city.units:
        if not unit.openid and phones[unit.mobile or ""] < 2:
            continue
        details = [suite.ask("GET", f"/notify/v1/notices/{n['id']}") for n in notices.get(unit.uscc, [])]
        counts.update({column for detail in details for column in _by_channel(detail)})
        covers.update(
            a["reference"] for detail in details for a in detail["attempts"] if a["state"] != "released"
        )
    return {**counts, "joint messages": sum(number > 1 for number in covers.values())}


def _by_channel(notice: Mapping[str, Any]) -> Iterator[str]:
    tries = [attempt for attempt in notice["attempts"] if attempt["state"] != "released"]
    if {attempt["channel"] for attempt in tries} == {"wechat", "sms"}:
        refused = any(a["channel"] == "wechat" and a["code"] for a in tries)
        yield "WeChat refused, then SMS" if refused else "WeChat silent, then SMS"
        if notice["state"] == "unreached":
            yield "silent on both"


def _by_answers(suite: Suite, city: City, journal: Journal) -> dict[str, int]:
    """What was answered to files, to the release of stock, and to the question whether a message is genuine."""
    counts: Counter[str] = Counter()
    for action in city.actions:
        if action.key not in journal.done:
            continue
        kept = journal.done[action.key].kept
        if isinstance(action.body, bytes):
            batch = suite.ask("GET", f"/registry/v1/batches/{kept}", department=action.department)
            counts["rows rejected"] += batch["rejected"]
            if batch["dataset"] == "unit_registrations":
                counts["registered by file"] += batch["accepted"]
        elif action.keeps == "released":
            counts["released from stock"] += kept
        elif action.keeps == "genuine":
            counts["found genuine" if kept else "found not genuine"] += 1
    return dict(counts)


def _after_stop(notices: Mapping[str, Rows], journal: Journal) -> int:
    """Units with a message that was handed over within a minute after sending went on."""
    if GOES_ON not in journal.done:
        return 0
    went_on = journal.done[GOES_ON].asked_at
    return sum(
        any(
            n["handed_over_at"]
            and went_on <= datetime.fromisoformat(n["handed_over_at"]) <= went_on + timedelta(minutes=1)
            for n in of_unit
        )
        for of_unit in notices.values()
    )


def _was_tried(notice: Mapping[str, Any]) -> bool:
    """Whether the carrier was asked to bring it, whatever came of that."""
    if notice["state"] == "unreached":
        return bool(notice["reason"] != "no_contact")
    return notice["state"] in {"handed_over", "delivered"}
