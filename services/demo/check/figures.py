"""How many units fared how, by records and ledger, to be set beside the services' own figures."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from services.demo.check.answers import is_genuine
from services.demo.check.coverage import covered
from services.demo.check.due import Story
from services.demo.check.law import SILENCE, day_of
from services.demo.check.records import MUST, Unit
from services.demo.check.rows import Row

A_MINUTE = timedelta(minutes=1)
COLUMNS = (
    "registered",
    "registered by file",
    "enrolled in time",
    "leads",
    "reminded",
    "reached by WeChat",
    "WeChat silent, then SMS",
    "WeChat refused, then SMS",
    "silent on both",
    "joint messages",
    "found genuine",
    "found not genuine",
    "left when the stop ended",
    "reminded twice",
    "enrolled after reminder",
    "withdrawn",
    "unreached",
    "visits asked for",
    "visits reported",
    "exempt",
    "message taken back",
    "released from stock",
    "left in stock",
    "rows rejected",
    "held by a rejected row",
    "waiting",
)


def tally(records: dict[str, Any], rows: Sequence[Row]) -> dict[str, int]:
    """The figures by their names; each counts units, but for joint messages, rows of files and answers."""
    story = Story(records)
    of_unit: dict[str, list[Row]] = {unit.uscc: [] for unit in story.units}
    for row in rows:
        for unit in covered(story, row, of_unit):
            of_unit[unit.uscc].append(row)
    counts = Counter(column for u in story.units for column in set(_columns(story, u, of_unit[u.uscc])))
    counts["joint messages"] = sum(row.count is not None and row.accepted for row in rows)
    for answer in records.get("answers", ()):
        if answer["fact"] == "errors":
            counts["rows rejected"] += len(answer["planted"])
        else:
            counts["found genuine" if is_genuine(answer, of_unit) else "found not genuine"] += 1
    return {column: counts[column] for column in COLUMNS}


def _columns(story: Story, unit: Unit, rows: Sequence[Row]) -> Iterator[str]:
    yield "registered"
    if unit.by_file:
        yield "registered by file"
    if unit.obliged:
        yield from _on_the_clock(story, unit, rows)
        yield from _on_the_ladder(story, unit, rows)


def _on_the_clock(story: Story, unit: Unit, rows: Sequence[Row]) -> Iterator[str]:
    end = story.until
    enrolled, closed = unit.enrolled(end, MUST), unit.closed(end, MUST)
    lead = story.lead_opened(unit)
    overdue = any(d < day_of(end) for d in unit.deadlines(end, MUST))
    if lead:
        yield "leads"
    if enrolled and not lead and not closed:
        yield "enrolled in time"
    ended = enrolled or closed or unit.exempted(end, MUST) or not overdue
    if lead and not rows and unit.mobile and ended:
        yield "withdrawn"
    if unit.all("released"):
        yield "released from stock"
    if unit.in_stock(end, MUST) and not enrolled and not closed:
        yield "left in stock"
    if overdue and unit.disputed(end, MUST):
        yield "held by a rejected row"
    if overdue and story.lead_hindrance(unit, end, MUST) == "early" and not unit.standing_still(end, MUST):
        yield "waiting"


def _on_the_ladder(story: Story, unit: Unit, rows: Sequence[Row]) -> Iterator[str]:
    end = story.until
    first = [row for row in rows if row.is_first]
    second = [row for row in rows if row.is_second]
    for stage in (first, second):
        yield from _in_stage(story, unit, stage)
    if first:
        yield "reminded"
        corrected = any(fact.asked > first[0].at for fact in unit.all("corrected"))
        if unit.enrolled(end, MUST) and not corrected:
            yield "enrolled after reminder"
    if second:
        yield "reminded twice"
    unreached = (unit.mobile is None and story.lead_opened(unit)) or any(
        _reached_nobody(unit, stage, end) for stage in (first, second)
    )
    if unreached:
        yield "unreached"
    if unreached or second:
        yield "visits asked for"
    for what, column in (("visited", "visits reported"), ("exempted", "exempt")):
        if unit.all(what):
            yield column
    if any(row.is_correction and row.accepted for row in rows):
        yield "message taken back"


def _in_stage(story: Story, unit: Unit, stage: Sequence[Row]) -> Iterator[str]:
    channels = {row.channel for row in stage}
    handed_over = [row.at for row in stage if row.accepted][:1]
    if any(went_on <= at <= went_on + A_MINUTE for at in handed_over for went_on in story.went_on):
        yield "left when the stop ended"
    if "wechat" in channels and unit.wechat == "ok":
        yield "reached by WeChat"
    if channels == {"wechat", "sms"}:
        yield "WeChat silent, then SMS" if unit.wechat == "silent" else "WeChat refused, then SMS"
        if _reached_nobody(unit, stage, story.until):
            yield "silent on both"


def _reached_nobody(unit: Unit, stage: Sequence[Row], end: datetime) -> bool:
    if not stage or stage[-1].by_wechat:
        return False
    return unit.phone in ("refused", "failing") or (unit.phone == "silent" and stage[-1].at + SILENCE <= end)
