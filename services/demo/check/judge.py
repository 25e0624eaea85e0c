"""Judges the ledger by the records: every contradiction is a finding."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

from services.demo.check.answers import judge_answers
from services.demo.check.coverage import counted, covered, judge_joint
from services.demo.check.due import Span, Story, follow_up_due, wrongs
from services.demo.check.finding import Finding
from services.demo.check.law import CLOSES, OPENS, SHANGHAI, is_working_day
from services.demo.check.records import MAY, MUST, ON_ITS_WAY, Unit, View
from services.demo.check.rows import Row

# the SMS behind a WeChat message goes as soon as it may
AT_ONCE = timedelta(minutes=30)


def check(records: dict[str, Any], rows: Sequence[Row]) -> list[Finding]:
    """Every contradiction between records, ledger and answers."""
    story = Story(records)
    findings: list[Finding] = []
    of_unit: dict[str, list[Row]] = {u.uscc: [] for u in story.units}
    for row in rows:
        about = covered(story, row, of_unit)
        if not about:
            findings.append(Finding("no unit", f"row {row.seq}", "belongs to no unit of the records"))
        findings.extend(judge_joint(story, row, of_unit))
        findings.extend(_joint_deadline(row, about))
        for unit in about:
            of_unit[unit.uscc].append(row)
    for unit in story.units:
        findings.extend(_judge_unit(story, unit, of_unit[unit.uscc]))
    findings.extend(judge_answers(records, of_unit))
    return findings


@dataclass(frozen=True)
class _Stage:
    """The messages of one stage to one unit, why one may not leave at an instant, and when one must have left."""

    unit: Unit
    rows: Sequence[Row]
    hindrance: Callable[[datetime, View], str | None]
    required: Span | None

    @property
    def tries(self) -> list[Row]:
        """What the carriers were asked to bring; a refused WeChat message was tried too."""
        return [r for r in self.rows if r.by_wechat or r in counted(self.unit, [r])]


def _judge_unit(story: Story, unit: Unit, rows: Sequence[Row]) -> Iterator[Finding]:
    firsts = [r for r in rows if r.is_first]
    handed_over = counted(unit, firsts)
    first = handed_over[0] if handed_over else None
    stage = _Stage(unit, firsts, lambda at, view: story.hindrance(unit, at, view), story.required(unit))
    yield from _judge_stage(story, stage, rows)
    seconds = [r for r in rows if r.is_second]

    def hindrance(at: datetime, view: View) -> str | None:
        if first is None or first.at > at:
            return story.hindrance(unit, at, view)
        return story.second_hindrance(unit, first, at, view)

    required = story.second_required(unit, first) if first else None
    yield from _prefixed("second", _judge_stage(story, _Stage(unit, seconds, hindrance, required), rows))
    for row in seconds:
        if first is None or first.at > row.at:
            text = f"row {row.seq} is a second reminder, none came before"
            yield Finding("second: without a first", unit.uscc, text)
    yield from _prefixed("correction", _judge_corrections(story, unit, rows))


def _judge_stage(story: Story, stage: _Stage, own: Sequence[Row]) -> Iterator[Finding]:
    unit = stage.unit
    for row in stage.rows:
        yield from _judge_row(unit, row)
        why = _wrong_way(unit, row, stage.rows, own) or stage.hindrance(row.at, MAY)
        # without a phone of its own any row of the unit is a wrong phone, said above
        if why and why != "no phone":
            yield Finding(why, unit.uscc, f"row {row.seq} at {row.at.astimezone(SHANGHAI).isoformat()}")
        yield from _wrong_text(unit, row)
    tries = stage.tries
    yield from _judge_count(unit, tries, stage.required)
    followers = [r for r in tries if not r.by_wechat]
    for row in [r for r in tries if r.by_wechat][:1]:
        span = story.follow_up_required(unit, row, lambda at: stage.hindrance(at, MUST))
        if span:
            due = span[0], min(span[1], span[0] + AT_ONCE)
            yield from _prefixed("follow-up", _judge_time(unit, followers, due))


def _judge_row(unit: Unit, row: Row) -> Iterator[Finding]:
    """What holds of every message."""
    local = row.at.astimezone(SHANGHAI)
    if not is_working_day(local.date()) or not OPENS <= local.time() < CLOSES:
        yield Finding("outside hours", unit.uscc, f"row {row.seq} at {local.isoformat()}")
    if row.recipient != (unit.openid if row.by_wechat else unit.mobile):
        yield Finding("wrong phone", unit.uscc, f"row {row.seq} went to a phone that is not the unit's")


def _wrong_way(unit: Unit, row: Row, rows: Sequence[Row], own: Sequence[Row]) -> str | None:
    """What is wrong with the channel of a message, None when it is the right one at the right time."""
    if row.by_wechat:
        return None if unit.bound(row.at, MAY) else "not bound"
    if unit.openid is None:
        return None
    before = [r for r in rows if r.by_wechat and r.at <= row.at]
    if before:
        due = follow_up_due(unit, before[-1])
        if due is None:
            return "needless"
        return "early" if row.at < due else None
    refused = any(r.by_wechat and not r.accepted and r.at <= row.at for r in own)
    return "not by WeChat" if unit.bound(row.at, MUST) and not refused else None


def _wrong_text(unit: Unit, row: Row) -> Iterator[Finding]:
    if row.count is not None:
        return  # whom and how many it names is judged with the message as a whole
    if unit.name not in row.content:
        yield Finding("wrong text", unit.uscc, f"row {row.seq} does not name the unit")
    days = unit.deadlines(row.at, MAY)
    if not any(written in row.content for day in days for written in _written(day)):
        expected = ", ".join(day.isoformat() for day in sorted(days))
        yield Finding("wrong text", unit.uscc, f"row {row.seq} does not name the deadline {expected}")


def _joint_deadline(row: Row, about: Sequence[Unit]) -> Iterator[Finding]:
    """A joint message names the earliest of its units' deadlines."""
    if row.count is None or row.is_correction or not about:
        return
    earliest = min(day for unit in about for day in unit.deadlines(row.at, MAY))
    if not any(written in row.content for written in _written(earliest)):
        yield Finding("wrong text", f"row {row.seq}", f"does not name the earliest deadline {earliest}")


def _written(day: date) -> tuple[str, ...]:
    return (
        day.isoformat(),
        f"{day.year}年{day.month}月{day.day}日",
        f"{day.year}年{day.month:02}月{day.day:02}日",
    )


def _judge_count(unit: Unit, tries: Sequence[Row], required: Span | None) -> Iterator[Finding]:
    for channel in ("wechat", "sms"):
        of_channel = [r for r in tries if r.channel == channel]
        if len(of_channel) > 1:
            yield Finding("doubled", unit.uscc, "rows " + ", ".join(str(r.seq) for r in of_channel))
    yield from _judge_time(unit, tries, required)


def _judge_time(unit: Unit, tries: Sequence[Row], required: Span | None) -> Iterator[Finding]:
    if required is None:
        return
    ready, by = required
    if not tries:
        yield Finding("missing", unit.uscc, f"due from {ready.isoformat()}, nothing until {by.isoformat()}")
    elif tries[0].at > by:
        yield Finding("late", unit.uscc, f"row {tries[0].seq}, due until {by.isoformat()}")


def _judge_corrections(story: Story, unit: Unit, rows: Sequence[Row]) -> Iterator[Finding]:
    """Only a message that was wrong is taken back, once, and it must be."""
    corrections = [r for r in rows if r.is_correction]
    left = min((r.at for r in rows if not r.is_correction), default=None)
    for row in corrections:
        yield from _judge_row(unit, row)
        if unit.name not in row.content:
            yield Finding("wrong text", unit.uscc, f"row {row.seq} does not name the unit")
        founded = left is not None and any(
            fact.asked <= row.at and left <= fact.answered + ON_ITS_WAY for fact in wrongs(unit)
        )
        if not founded:
            yield Finding("unfounded", unit.uscc, f"row {row.seq} takes back what was right, or nothing")
    yield from _judge_count(unit, counted(unit, corrections), story.correction_required(unit, rows))


def _prefixed(prefix: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    return (replace(f, kind=f"{prefix}: {f.kind}") for f in findings)
