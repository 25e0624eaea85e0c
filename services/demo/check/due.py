"""What is due: when a message to a unit may leave, and when it must have left."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from itertools import accumulate
from typing import Any

from services.demo.check.law import (
    CLOSES,
    LATE_REGISTRATION_WAIT,
    OPENS,
    SECOND_AFTER_WORKING_DAYS,
    SHANGHAI,
    WECHAT_SILENCE,
    day_of,
    deadline,
    instant,
    is_working_day,
)
from services.demo.check.records import MAY, MUST, ON_ITS_WAY, Fact, Unit, View
from services.demo.check.rows import Row

# a unit must have been ready for so long inside one window before its message counts as missing
ENOUGH = timedelta(minutes=60)

Span = tuple[datetime, datetime]
Hindrance = Callable[[datetime], str | None]


class Story:
    """The records as a whole: units, what concerns all of them, and until when the ledger was watched."""

    def __init__(self, records: dict[str, Any]) -> None:
        self.until = instant(records["until"])
        self.units = [Unit(u) for u in records["units"]]
        self.declared = [Fact.read({"fact": "declared", **d}) for d in records["declared"]]
        self.sending = [Fact.read(f) for f in records.get("sending", ())]
        self.behind: dict[str, list[Unit]] = {}
        for unit in self.units:
            self.behind.setdefault(unit.mobile or "", []).append(unit)
        self.by_openid = {u.openid: u for u in self.units if u.openid}
        self._by_name = {u.name: u for u in self.units}
        longest_first = sorted(self._by_name, key=len, reverse=True)
        self._names = re.compile("|".join(re.escape(name) for name in longest_first) or "(?!)")
        self._completeness = {
            view: _growing((when(view, f), date.fromisoformat(f.about["through"])) for f in self.declared)
            for view in (MUST, MAY)
        }
        self.went_on = [f.asked for f in self.sending if f.about["state"] == "on"]
        self._changes = sorted(t for f in (*self.declared, *self.sending) for t in (f.asked, f.answered))
        self._windows = list(_windows(self.until))

    def named_in(self, content: str) -> list[Unit]:
        """The units that a text names, in its order."""
        return [self._by_name[name] for name in self._names.findall(content)]

    def complete_through(self, at: datetime, view: View) -> date:
        """The last day for which participations were declared complete."""
        instants, days = self._completeness[view]
        known = bisect_right(instants, at)
        return days[known - 1] if known else date.min

    def complete_from(self, day: date, view: View) -> datetime | None:
        """Since when participations are declared complete through a day; None: not yet."""
        instants, days = self._completeness[view]
        place = bisect_left(days, day)
        return instants[place] if place < len(days) else None

    def stopped(self, at: datetime, view: View) -> bool:
        """Whether somebody has stopped all sending."""
        off = [f for f in self.sending if f.about["state"] == "off" and view.stopped(f, at)]
        on = [f for f in self.sending if f.about["state"] == "on" and view.opened(f, at)]
        return len(off) > len(on)

    # -- the first reminder ---------------------------------------------------------------------------------

    def lead_hindrance(self, unit: Unit, at: datetime, view: View) -> str | None:
        """Why no lead may be open at an instant, None when nothing speaks against it."""
        if not unit.obliged:
            return "not obliged"
        if not any(view.opened(f, at) for f in unit.all("registered")):
            return "early"
        decided = min(day_of(at) - timedelta(days=1), self.complete_through(at, view))
        ended = (
            (unit.closed(at, view), "after closure"),
            (unit.enrolled(at, view), "after enrolment"),
            (unit.exempted(at, view), "after exemption"),
            (unit.in_stock(at, view), "in stock"),
            (all(d > decided for d in unit.deadlines(at, view)), "early"),
        )
        return next((why for applies, why in ended if applies), None)

    def hindrance(self, unit: Unit, at: datetime, view: View) -> str | None:
        """Why no reminder may leave at an instant, None when it may (outside hours is a matter of its own)."""
        hindrance = self.lead_hindrance(unit, at, view)
        if hindrance:
            return hindrance
        held = (
            (unit.suspended(at, view), "while suspended"),
            (unit.disputed(at, view), "while disputed"),
            (unit.code_in_doubt(at, view), "code not confirmed"),
            (self.stopped(at, view), "while stopped"),
            (unit.mobile is None, "no phone"),
            (at < _late_wait(unit, view), "early"),
        )
        return next((why for applies, why in held if applies), None)

    def required(self, unit: Unit) -> Span | None:
        """The first span inside one window in which the reminder must have left, None when none must."""
        if not unit.obliged or not unit.all("registered"):
            return None
        return self._span(unit, lambda at: self.hindrance(unit, at, MUST))

    # -- the second one -------------------------------------------------------------------------------------

    def second_hindrance(self, unit: Unit, first: Row, at: datetime, view: View) -> str | None:
        """Why no second reminder may leave at an instant after the first one, None when it may."""
        due = self.second_due(unit, first, view)
        if due is None or at < due:
            return "early"
        # once the lead has ended, the first reminder has no second one, even if another lead opens
        ended = (self.lead_hindrance(unit, then, view) for then in _moments(unit, first.at, at))
        return next((why for why in ended if why), None) or self.hindrance(unit, at, view)

    def second_required(self, unit: Unit, first: Row) -> Span | None:
        """The first span inside one window in which the second reminder must have left, None when none must."""
        due = self.second_due(unit, first, MUST)
        if due is None:
            return None
        return self._span(unit, lambda at: self.second_hindrance(unit, first, at, MUST), due)

    def second_due(self, unit: Unit, first: Row, view: View) -> datetime | None:
        """When the second reminder leaves at the earliest; None when not before the story's end.

        Its day comes by working days; the step is taken once participations are complete through the day before.
        """
        day, counted = day_of(first.at), 0
        while day < day_of(self.until):
            day += timedelta(days=1)
            start = datetime.combine(day, time(), SHANGHAI)
            if not is_working_day(day) or unit.standing_still(start, view):
                continue
            if counted == SECOND_AFTER_WORKING_DAYS - 1:
                known = self.complete_from(day - timedelta(days=1), view)
                return known and max(known, datetime.combine(day, OPENS, SHANGHAI))
            end = start + timedelta(days=1)
            counted += not any(unit.standing_still(at, view) for at in _moments(unit, start, end) if at < end)
        return None

    # -- an SMS behind WeChat, and what takes a message back --------------------------------------------------

    def follow_up_required(self, unit: Unit, row: Row, hindrance: Hindrance) -> Span | None:
        """When the SMS must have left because nothing came of a WeChat message; None when none must."""
        due = follow_up_due(unit, row)
        return self._span(unit, hindrance, due) if due else None

    def correction_required(self, unit: Unit, rows: Iterable[Row]) -> Span | None:
        """When a message must have been taken back, None when there was nothing to take back."""
        left = min((r.at for r in rows if r.accepted and not r.is_correction), default=None)
        since = next((f.answered for f in wrongs(unit) if left and left < f.asked), None)
        if since is None:
            return None
        return self._span(unit, lambda at: "while stopped" if self.stopped(at, MUST) else None, since)

    def _span(self, unit: Unit, hindrance: Hindrance, since: datetime | None = None) -> Span | None:
        """The first span of enough length inside one window in which nothing hinders."""
        since = since or unit.all("registered")[0].asked
        for opens, closes in self._windows:
            if closes <= since:
                continue
            ready: datetime | None = None
            for at in self._instants(unit, max(opens, since), closes):
                if at == closes or hindrance(at):
                    if ready and at - ready >= ENOUGH:
                        return ready, at
                    ready = None
                else:
                    ready = ready or at
        return None

    def _instants(self, unit: Unit, opens: datetime, closes: datetime) -> list[datetime]:
        """The instants of a span at which what is due can change, its ends included."""
        of_all = self._changes[bisect_left(self._changes, opens) : bisect_right(self._changes, closes)]
        changes = [*of_all, *(t for f in unit.facts for t in (f.asked, f.answered))]
        changes.append(_late_wait(unit, MUST))
        return sorted({opens, closes, *(t for t in changes if opens < t < closes)})

    def lead_opened(self, unit: Unit) -> bool:
        """Whether a lead must have been open at some instant, even if its message was held or withdrawn."""
        if not unit.obliged:
            return False
        days = range((day_of(self.until) - unit.established_on).days + 1)
        midnights = [
            datetime.combine(unit.established_on + timedelta(days=n), time(), SHANGHAI) for n in days
        ]
        facts = [f.answered for f in (*unit.facts, *self.declared)]
        return any(
            not self.lead_hindrance(unit, at, MUST) and not unit.standing_still(at, MUST)
            for at in (*midnights, *facts)
            if at <= self.until
        )


def when(view: View, fact: Fact) -> datetime:
    """From when on a fact counts that makes a message due."""
    return fact.answered if view.must else fact.asked


def follow_up_due(unit: Unit, row: Row) -> datetime | None:
    """From when on an SMS is due because nothing came of a WeChat message; None when something did."""
    if not row.accepted or unit.wechat == "failing":
        return row.at
    return row.at + WECHAT_SILENCE if unit.wechat == "silent" else None


def wrongs(unit: Unit) -> Iterator[Fact]:
    """The facts by which a message that had left was wrong: a later date of establishment, a recall."""
    before = unit.established_on
    for fact in unit.all("corrected"):
        day = date.fromisoformat(fact.about["established_on"])
        if day > before:
            yield fact
        before = day
    yield from unit.all("recalled")


def _late_wait(unit: Unit, view: View) -> datetime:
    """When the wait ends that a unit gets which was overdue already when it was registered."""
    since = when(view, unit.all("registered")[0])
    overdue = deadline(unit.established_on) < day_of(since)
    return since + LATE_REGISTRATION_WAIT if overdue else since


def _windows(until: datetime) -> Iterator[Span]:
    day = date(2025, 12, 1)
    while day <= day_of(until):
        if is_working_day(day):
            opens, closes = (datetime.combine(day, t, SHANGHAI) for t in (OPENS, CLOSES))
            if opens < until:
                yield opens, min(closes, until)
        day += timedelta(days=1)


def _growing(marks: Iterable[tuple[datetime, date]]) -> tuple[list[datetime], list[date]]:
    """Instants, and the latest day said by each of them."""
    in_order = sorted(marks)
    return [at for at, _ in in_order], list(accumulate((day for _, day in in_order), max))


def _moments(unit: Unit, since: datetime, until: datetime) -> list[datetime]:
    """The instants of a span at which what is true of a unit can change, its ends included."""
    days = range(1, (day_of(until) - day_of(since)).days + 1)
    midnight = datetime.combine(day_of(since), time(), SHANGHAI)
    changes = [t for f in unit.facts for t in (f.asked, f.answered)]
    settled = [t + ON_ITS_WAY + timedelta(microseconds=1) for t in changes]
    moments = (*(midnight + timedelta(days=n) for n in days), *changes, *settled)
    return sorted({since, until, *(t for t in moments if since < t < until)})
