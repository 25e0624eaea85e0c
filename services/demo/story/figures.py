"""The figures of the check, counted from what the services answer."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from services.demo.city import City
from services.demo.story.journal import Journal
from services.demo.story.suite import Suite

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
    answered = {a.key: a for a in city.actions if a.key in journal.done}
    kept = {key: journal.done[key].kept for key in answered}
    batches = [kept[key] for key, a in answered.items() if "unit_registrations/batches" in a.path]
    counts["registered by file"] = sum(
        suite.ask("GET", f"/registry/v1/batches/{id_}", department="ADM")["accepted"] for id_ in batches
    )
    counts["released from stock"] = sum(
        kept[key] for key, a in answered.items() if a.path == "/matching/v1/stock/release"
    )
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
    two_channels, covers = 0, Counter[str]()
    for unit in city.units:
        if not unit.openid and phones[unit.mobile or ""] < 2:
            continue
        details = [suite.ask("GET", f"/notify/v1/notices/{n['id']}") for n in notices.get(unit.uscc, [])]
        attempts = [[a for a in detail["attempts"] if a["state"] != "released"] for detail in details]
        two_channels += any({a["channel"] for a in tries} == {"wechat", "sms"} for tries in attempts)
        covers.update(a["reference"] for tries in attempts for a in tries)
    joint = sum(number > 1 for number in covers.values())
    return {"by WeChat, then SMS": two_channels, "joint messages": joint}


def _was_tried(notice: Mapping[str, Any]) -> bool:
    """Whether the carrier was asked to bring it, whatever came of that."""
    if notice["state"] == "unreached":
        return bool(notice["reason"] != "no_contact")
    return notice["state"] in {"handed_over", "delivered"}
