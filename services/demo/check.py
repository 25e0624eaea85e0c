"""The independent check of the demo's story: every reminder once, in time, to the right phone, and no other.

Who does not enrol after the first reminder gets a second one; which of them a row is, its text says.

It reads the generator's records (facts, each with the instants between which the registry took it) and the
ledger of the carrier sandbox, and knows the law on its own: the working days below are written out by hand.
It imports nothing of the services and no calendar; an error there cannot repeat itself here.

    python -m services.demo.check RECORDS LEDGER        prints findings; exit code 1 when there is any
"""

import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

SHANGHAI = timezone(timedelta(hours=8))
OPENS, CLOSES = time(8, 30), time(18, 0)
LEGAL_DAYS = 30
LATE_REGISTRATION_WAIT = timedelta(minutes=10)
SILENCE = timedelta(hours=72)
# between the last look and the carrier's ledger a message may be on its way for so long
ON_ITS_WAY = timedelta(seconds=5)
# a unit must have been ready for so long inside one window before its reminder counts as missing
ENOUGH = timedelta(minutes=60)
# the second reminder is due on this working day after the first one's, days of suspension not counted
SECOND_AFTER_WORKING_DAYS = 10
# words that only the second reminder has, and only the correction of a wrong message
SAYS_SECOND, SAYS_CORRECTION = "经提醒仍未", "请勿据此办理"

OBLIGED_KINDS = {
    "enterprise",
    "private_non_enterprise",
    "social_organisation",
    "foundation",
    "law_firm",
    "cooperative",
}
STOPPING_INSURANCES = {"pension", "unemployment", "injury"}

# Working days as published for 2025 and 2026: New Year 1–3 January, Spring Festival 15–23 February,
# Qingming 4–6 April; worked instead: Sunday 4 January, Saturday 14 February, Saturday 28 February.
WORKED: dict[tuple[int, int], tuple[int, ...]] = {
    (2025, 12): (1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 15, 16, 17, 18, 19, 22, 23, 24, 25, 26, 29, 30, 31),
    (2026, 1): (4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 19, 20, 21, 22, 23, 26, 27, 28, 29, 30),
    (2026, 2): (2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 24, 25, 26, 27, 28),
    (2026, 3): (2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 23, 24, 25, 26, 27, 30, 31),
    (2026, 4): (1, 2, 3, 7, 8, 9, 10, 13, 14, 15, 16, 17, 20, 21, 22, 23, 24, 27, 28, 29, 30),
}


def is_working_day(day: date) -> bool:
    """By the table above; a day outside of it raises KeyError."""
    return day.day in WORKED[day.year, day.month]


def next_working_day(day: date) -> date:
    """The day itself when it is a working day, else the first one after it."""
    while not is_working_day(day):
        day += timedelta(days=1)
    return day


def deadline(established_on: date) -> date:
    """The day the legal clock ends with: day 30, the first not counted, or the next working day."""
    return next_working_day(established_on + timedelta(days=LEGAL_DAYS))


def day_of(at: datetime) -> date:
    """The calendar day in Shanghai."""
    return at.astimezone(SHANGHAI).date()


@dataclass(frozen=True)
class Finding:
    """One way in which the ledger contradicts the records."""

    kind: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.subject}: {self.text}"


@dataclass(frozen=True)
class Row:
    """One submission in the carrier's ledger."""

    seq: int
    at: datetime
    mobile: str
    content: str
    accepted: bool

    @property
    def is_correction(self) -> bool:
        """Whether it takes an earlier message back."""
        return SAYS_CORRECTION in self.content

    @property
    def is_second(self) -> bool:
        """Whether it is a second reminder."""
        return SAYS_SECOND in self.content and not self.is_correction

    @property
    def is_first(self) -> bool:
        """Whether it is a first reminder: whatever says nothing else."""
        return not self.is_second and not self.is_correction


@dataclass(frozen=True)
class Fact:
    """Something the registry was told. It took effect between `asked` (request sent) and `answered` (2xx)."""

    what: str
    asked: datetime
    answered: datetime
    about: dict[str, Any]


@dataclass(frozen=True)
class View:
    """How to judge a fact whose request was under way: for what MUST have come, or for what MAY have come."""

    must: bool

    def opened(self, fact: Fact, at: datetime) -> bool:
        """Whether a fact that makes a reminder due counts at this instant."""
        return (fact.answered if self.must else fact.asked) <= at

    def stopped(self, fact: Fact, at: datetime) -> bool:
        """Whether a fact that forbids a reminder counts at this instant."""
        return fact.asked <= at if self.must else fact.answered + ON_ITS_WAY < at


MUST, MAY = View(must=True), View(must=False)


class Unit:
    """What the records say about one unit."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.uscc: str = record["uscc"]
        self.name: str = record["name"]
        self.mobile: str | None = record["mobile"]
        self.phone: str = record["phone"]
        self.code_valid: bool = record["code_valid"]
        self.obliged = record["kind"] in OBLIGED_KINDS
        self.established_on = date.fromisoformat(record["established_on"])
        self.facts = [_fact(f) for f in record["facts"]]

    def all(self, what: str) -> list[Fact]:
        """The facts of one kind, in order of time."""
        return [f for f in self.facts if f.what == what]

    def deadlines(self, at: datetime, view: View) -> set[date]:
        """The legal deadlines that may rule at an instant: one, or two or none while a correction is under way."""
        days = {deadline(self.established_on)}
        for fact in self.all("corrected"):
            if view.stopped(fact, at):
                days = set()
            if view.opened(fact, at):
                days.add(deadline(date.fromisoformat(fact.about["established_on"])))
        return days

    def enrolled(self, at: datetime, view: View) -> bool:
        """Whether a stopping participation was in force on or before the day of this instant."""
        cancelled = {f.about["of"] for f in self.all("cancelled") if view.opened(f, at)}
        return any(
            view.stopped(f, at)
            and f.about["key"] not in cancelled
            and f.about["form"] == "employer"
            and f.about["insurance"] in STOPPING_INSURANCES
            and date.fromisoformat(f.about["started_on"]) <= day_of(at)
            for f in self.all("participation")
        )

    def suspended(self, at: datetime, view: View) -> bool:
        """Whether the unit's business is suspended."""
        suspensions = [f for f in self.all("suspended") if view.stopped(f, at)]
        resumptions = [f for f in self.all("resumed") if view.opened(f, at)]
        return len(suspensions) > len(resumptions)

    def closed(self, at: datetime, view: View) -> bool:
        """Whether the unit is known to be closed."""
        return any(view.stopped(f, at) for f in self.all("closed"))

    def code_in_doubt(self, at: datetime, view: View) -> bool:
        """Whether the code has a wrong check character that nobody confirmed."""
        return not self.code_valid and not any(view.opened(f, at) for f in self.all("confirmed"))


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC; write instants like 2026-02-10T08:30:00+08:00")
    return at.astimezone(SHANGHAI)


def _fact(record: dict[str, Any]) -> Fact:
    return Fact(record["fact"], _instant(record["asked_at"]), _instant(record["answered_at"]), record)


class Story:
    """The records as a whole: units, declared completeness, and until when the ledger was watched."""

    def __init__(self, records: dict[str, Any]) -> None:
        self.until = _instant(records["until"])
        self.units = [Unit(u) for u in records["units"]]
        self.declared = [_fact({"fact": "declared", **d}) for d in records["declared"]]
        self.by_mobile = {u.mobile: u for u in self.units if u.mobile}
        self.by_name = {u.name: u for u in self.units}
        self._names = re.compile("|".join(re.escape(n) for n in sorted(self.by_name, key=len, reverse=True)))

    def named_in(self, content: str) -> Unit | None:
        """The unit a text speaks of."""
        found = self._names.search(content)
        return self.by_name.get(found.group()) if found else None

    def complete_through(self, at: datetime, view: View) -> date:
        """The last day for which participations were declared complete."""
        days = [date.fromisoformat(f.about["through"]) for f in self.declared if view.opened(f, at)]
        return max(days, default=date.min)

    def lead_hindrance(self, unit: Unit, at: datetime, view: View) -> str | None:
        """Why no lead may be open at an instant, None when nothing speaks against it."""
        if not unit.obliged:
            return "not obliged"
        if not any(view.opened(f, at) for f in unit.all("registered")):
            return "early"
        if unit.closed(at, view):
            return "after closure"
        if unit.enrolled(at, view):
            return "after enrolment"
        decided = min(day_of(at) - timedelta(days=1), self.complete_through(at, view))
        return None if any(d <= decided for d in unit.deadlines(at, view)) else "early"

    def hindrance(self, unit: Unit, at: datetime, view: View) -> str | None:
        """Why no reminder may leave at an instant, None when it may (outside hours is a matter of its own)."""
        hindrance = self.lead_hindrance(unit, at, view)
        if hindrance:
            return hindrance
        if unit.suspended(at, view):
            return "while suspended"
        if unit.code_in_doubt(at, view):
            return "code not confirmed"
        if unit.mobile is None:
            return "no phone"
        return "early" if at < self._late_wait(unit, view) else None

    def _late_wait(self, unit: Unit, view: View) -> datetime:
        """When the wait ends that a unit gets which was overdue already when it was registered."""
        registered = unit.all("registered")[0]
        since = registered.answered if view.must else registered.asked
        overdue = deadline(unit.established_on) < day_of(since)
        return since + LATE_REGISTRATION_WAIT if overdue else since

    def required(self, unit: Unit) -> tuple[datetime, datetime] | None:
        """The first span inside one window in which the reminder must have left, None when none must."""
        if not unit.all("registered"):
            return None
        return self._span(unit, lambda at: self.hindrance(unit, at, MUST))

    def second_hindrance(self, unit: Unit, first: Row, at: datetime, view: View) -> str | None:
        """Why no second reminder may leave at an instant after the first one, None when it may."""
        due = self._second_due(unit, first, view)
        if due is None or at < due:
            return "early"
        # once the lead has ended, the first reminder has no second one, even if another lead opens
        ended = (self.lead_hindrance(unit, then, view) for then in _moments(unit, first.at, at))
        return next((why for why in ended if why), None) or self.hindrance(unit, at, view)

    def second_required(self, unit: Unit, first: Row) -> tuple[datetime, datetime] | None:
        """The first span inside one window in which the second reminder must have left, None when none must."""
        due = self._second_due(unit, first, MUST)
        if due is None:
            return None
        return self._span(unit, lambda at: self.second_hindrance(unit, first, at, MUST), due)

    def _second_due(self, unit: Unit, first: Row, view: View) -> datetime | None:
        """When the hours begin in which the second reminder leaves; None when not before the story's end."""
        day, counted = day_of(first.at), 0
        while day < day_of(self.until):
            day += timedelta(days=1)
            start = datetime.combine(day, time(), SHANGHAI)
            if not is_working_day(day) or unit.suspended(start, view):
                continue
            if counted == SECOND_AFTER_WORKING_DAYS - 1:  # the step is taken as this day begins
                return datetime.combine(day, OPENS, SHANGHAI)
            end = start + timedelta(days=1)
            counted += not any(unit.suspended(at, view) for at in _moments(unit, start, end) if at < end)
        return None

    def _span(
        self, unit: Unit, hindrance: Callable[[datetime], str | None], since: datetime | None = None
    ) -> tuple[datetime, datetime] | None:
        """The first span of enough length inside one window in which nothing hinders."""
        for opens, closes in self._windows(unit):
            if since and closes <= since:
                continue
            ready: datetime | None = None
            for at in self._instants(unit, opens, closes):
                if at == closes or hindrance(at):
                    if ready and at - ready >= ENOUGH:
                        return ready, at
                    ready = None
                else:
                    ready = ready or at
        return None

    def _windows(self, unit: Unit) -> Iterator[tuple[datetime, datetime]]:
        day = max(unit.established_on, date(2025, 12, 1))
        while day <= day_of(self.until):
            if is_working_day(day):
                opens, closes = (datetime.combine(day, t, SHANGHAI) for t in (OPENS, CLOSES))
                if opens < self.until:
                    yield opens, min(closes, self.until)
            day += timedelta(days=1)

    def _instants(self, unit: Unit, opens: datetime, closes: datetime) -> list[datetime]:
        """The instants of a span at which what is due can change, its ends included."""
        changes = [t for f in (*unit.facts, *self.declared) for t in (f.asked, f.answered)]
        changes.append(self._late_wait(unit, MUST))
        return sorted({opens, closes, *(t for t in changes if opens < t < closes)})

    def lead_opened(self, unit: Unit) -> bool:
        """Whether a lead must have been open at some instant, even if its message was held or withdrawn."""
        days = range((day_of(self.until) - unit.established_on).days + 1)
        midnights = [
            datetime.combine(unit.established_on + timedelta(days=n), time(), SHANGHAI) for n in days
        ]
        facts = [f.answered for f in (*unit.facts, *self.declared)]
        return any(
            not self.lead_hindrance(unit, at, MUST) and not unit.suspended(at, MUST)
            for at in (*midnights, *facts)
            if at <= self.until
        )


def _moments(unit: Unit, since: datetime, until: datetime) -> list[datetime]:
    """The instants of a span at which what is true of a unit can change, its ends included."""
    days = range(1, (day_of(until) - day_of(since)).days + 1)
    midnight = datetime.combine(day_of(since), time(), SHANGHAI)
    changes = [t for f in unit.facts for t in (f.asked, f.answered)]
    settled = [t + ON_ITS_WAY + timedelta(microseconds=1) for t in changes]
    moments = (*(midnight + timedelta(days=n) for n in days), *changes, *settled)
    return sorted({since, until, *(t for t in moments if since < t < until)})


def _wrong_text(unit: Unit, row: Row) -> Iterator[Finding]:
    if unit.name not in row.content:
        yield Finding("wrong text", unit.uscc, f"row {row.seq} does not name the unit")
    days = unit.deadlines(row.at, MAY)
    if not any(written in row.content for day in days for written in _written(day)):
        expected = ", ".join(day.isoformat() for day in sorted(days))
        yield Finding("wrong text", unit.uscc, f"row {row.seq} does not name the deadline {expected}")


def _written(day: date) -> tuple[str, ...]:
    return (
        day.isoformat(),
        f"{day.year}年{day.month}月{day.day}日",
        f"{day.year}年{day.month:02}月{day.day:02}日",
    )


def _judge_row(unit: Unit, row: Row) -> Iterator[Finding]:
    """What holds of every message."""
    local = row.at.astimezone(SHANGHAI)
    if not is_working_day(local.date()) or not OPENS <= local.time() < CLOSES:
        yield Finding("outside hours", unit.uscc, f"row {row.seq} at {local.isoformat()}")
    if row.mobile != unit.mobile:
        yield Finding("wrong phone", unit.uscc, f"row {row.seq} went to a phone that is not the unit's")


def _judge_reminder(unit: Unit, row: Row, hindrance: str | None) -> Iterator[Finding]:
    yield from _judge_row(unit, row)
    # without a phone of its own any row of the unit is a wrong phone, said above
    if hindrance and hindrance != "no phone":
        yield Finding(hindrance, unit.uscc, f"row {row.seq} at {row.at.astimezone(SHANGHAI).isoformat()}")
    yield from _wrong_text(unit, row)


def _judge_second(story: Story, unit: Unit, row: Row, firsts: Sequence[Row]) -> Iterator[Finding]:
    first = next((r for r in firsts if r.at <= row.at), None)
    if first is None:
        yield from _judge_reminder(unit, row, story.hindrance(unit, row.at, MAY))
        yield Finding("without a first", unit.uscc, f"row {row.seq} is a second reminder, none came before")
    else:
        yield from _judge_reminder(unit, row, story.second_hindrance(unit, first, row.at, MAY))


def _judge_correction(unit: Unit, row: Row, rows: Sequence[Row]) -> Iterator[Finding]:
    """Only a later date of establishment, told after a message had left, is a reason to take it back."""
    yield from _judge_row(unit, row)
    if unit.name not in row.content:
        yield Finding("wrong text", unit.uscc, f"row {row.seq} does not name the unit")
    left = min((r.at for r in rows if not r.is_correction), default=row.at)
    before = unit.established_on
    founded = False
    for fact in unit.all("corrected"):
        day = date.fromisoformat(fact.about["established_on"])
        founded |= day > before and fact.asked <= row.at and left <= fact.answered + ON_ITS_WAY
        before = day
    if not founded:
        yield Finding("unfounded", unit.uscc, f"row {row.seq} takes back what was right, or nothing")


def _judge_unit(story: Story, unit: Unit, rows: Sequence[Row]) -> Iterator[Finding]:
    firsts = _counted(unit, [r for r in rows if r.is_first])
    seconds = _counted(unit, [r for r in rows if r.is_second])
    corrections = _counted(unit, [r for r in rows if r.is_correction])
    yield from _judge_count(unit, firsts, story.required(unit))
    required = story.second_required(unit, firsts[0]) if firsts else None
    yield from _prefixed("second", _judge_count(unit, seconds, required))
    yield from _prefixed("correction", _judge_count(unit, corrections, None))


def _counted(unit: Unit, rows: Sequence[Row]) -> list[Row]:
    # a phone that the carrier refuses was tried when its refused row is there
    return [r for r in rows if r.accepted or unit.phone == "refused"]


def _judge_count(
    unit: Unit, counted: Sequence[Row], required: tuple[datetime, datetime] | None
) -> Iterator[Finding]:
    if len(counted) > 1:
        yield Finding("doubled", unit.uscc, "rows " + ", ".join(str(r.seq) for r in counted))
    if required is None:
        return
    ready, by = required
    if not counted:
        yield Finding("missing", unit.uscc, f"due from {ready.isoformat()}, nothing until {by.isoformat()}")
    elif counted[0].at > by:
        yield Finding("late", unit.uscc, f"row {counted[0].seq}, due until {by.isoformat()}")


def _prefixed(prefix: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    return (replace(f, kind=f"{prefix}: {f.kind}") for f in findings)


def check(records: dict[str, Any], rows: Sequence[Row]) -> list[Finding]:
    """Every contradiction between records and ledger, rows first, then units."""
    story = Story(records)
    findings: list[Finding] = []
    of_unit: dict[str, list[Row]] = {u.uscc: [] for u in story.units}
    for row in rows:
        unit = story.named_in(row.content) or story.by_mobile.get(row.mobile)
        if unit is None:
            findings.append(Finding("no unit", f"row {row.seq}", "belongs to no unit of the records"))
            continue
        of_unit[unit.uscc].append(row)
    for unit in story.units:
        own = of_unit[unit.uscc]
        firsts = _counted(unit, [r for r in own if r.is_first])
        for row in own:
            if row.is_first:
                findings.extend(_judge_reminder(unit, row, story.hindrance(unit, row.at, MAY)))
            elif row.is_second:
                findings.extend(_prefixed("second", _judge_second(story, unit, row, firsts)))
            else:
                findings.extend(_prefixed("correction", _judge_correction(unit, row, own)))
    for unit in story.units:
        findings.extend(_judge_unit(story, unit, of_unit[unit.uscc]))
    return findings


def tally(records: dict[str, Any], rows: Sequence[Row]) -> dict[str, int]:
    """How many units fared how, by records and ledger, to be set beside the services' own figures."""
    story = Story(records)
    owned = [(u.uscc, row) for row in reversed(rows) if (u := story.by_mobile.get(row.mobile))]
    tried = {uscc: row for uscc, row in owned if row.is_first}
    again = {uscc for uscc, row in owned if row.is_second}
    counts = dict.fromkeys(
        (
            "registered",
            "enrolled in time",
            "reminded",
            "reminded twice",
            "enrolled after reminder",
            "withdrawn",
            "unreached",
            "waiting",
        ),
        0,
    )
    counts["registered"] = len(story.units)
    for unit in story.units:
        for column in _columns(story, unit, tried.get(unit.uscc)):
            counts[column] += 1
        counts["reminded twice"] += unit.uscc in again
    return counts


def _columns(story: Story, unit: Unit, row: Row | None) -> Iterator[str]:
    end = story.until
    if not unit.obliged:
        return
    enrolled, closed = unit.enrolled(end, MUST), unit.closed(end, MUST)
    lead = story.lead_opened(unit)
    overdue = any(d < day_of(end) for d in unit.deadlines(end, MUST))
    if enrolled and not lead and not closed:
        yield "enrolled in time"
    if row:
        yield "reminded"
        if enrolled:
            yield "enrolled after reminder"
    if lead and not row and unit.mobile and (enrolled or closed or not overdue):
        yield "withdrawn"
    if lead and _unreached(unit, row, end):
        yield "unreached"
    if overdue and story.lead_hindrance(unit, end, MUST) == "early" and not unit.suspended(end, MUST):
        yield "waiting"


def _unreached(unit: Unit, row: Row | None, end: datetime) -> bool:
    if unit.mobile is None:
        return True
    if row is None:
        return False
    return unit.phone in ("refused", "failing") or (unit.phone == "silent" and row.at + SILENCE <= end)


def read_ledger(file: Path) -> list[Row]:
    """The sandbox's ledger, in order of submission. Instants are business time."""
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        found = db.execute(
            "SELECT seq, received_at, mobile, content, verdict FROM messages ORDER BY seq"
        ).fetchall()
    finally:
        db.close()
    return [
        Row(seq, _instant(at), mobile, content, verdict == "accepted")
        for seq, at, mobile, content, verdict in found
    ]


def read_records(file: Path) -> dict[str, Any]:
    """What the story's driver wrote down."""
    records: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return records


def main(arguments: Sequence[str]) -> int:
    """The command line; see the top of the file."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m services.demo.check RECORDS LEDGER\n")
        return 2
    rows = read_ledger(Path(arguments[1]))
    findings = check(read_records(Path(arguments[0])), rows)
    for finding in findings:
        sys.stdout.write(f"{finding}\n")
    sys.stdout.write(f"{len(rows)} rows in the ledger, {len(findings)} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
