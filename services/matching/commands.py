"""What matching does by itself when time comes, and what officials do with a lead."""

from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from services.matching.domain import (
    Action,
    Case,
    ClockState,
    Fact,
    Hold,
    Lead,
    Step,
    by_hand,
    can_be_opened,
    months_after,
    owes_correction,
)
from services.matching.ladder import HOLDS_BACK, VisitResult, VisitState
from services.matching.work import MatchingWork
from shared.clock import today
from shared.errors import FieldError, Problem, not_found, unprocessable
from shared.privacy import scrub
from shared.storage.work import Cause

PORTION = 1_500
"""Most clocks in one transaction: enough to share what it costs whatever is in it, few enough to wait for."""


def look_at_clocks(work: MatchingWork) -> bool:
    """One portion of the clocks that time has changed something for; False when there was none."""
    return _reconsider(work, work.store.to_look_at(work.now, PORTION), "clock")


def advance_leads(work: MatchingWork) -> bool:
    """One portion of the leads whose wait is over; False when there was none."""
    return _reconsider(work, work.store.to_advance(work.now, PORTION), "ladder")


def _reconsider(work: MatchingWork, usccs: list[str], why: str) -> bool:
    cases = work.cases(usccs)
    for case in cases.values():
        work.reconsider(case, Cause("matching", f"{why}-{case.uscc}"))
    work.save(cases)
    return bool(cases)


# -- leads ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActOnLead:
    """An official's action. `end` goes with resolve alone, `proof` and the last day of the exemption with exempt.

    `town` is the only one the caller may touch.
    """

    lead_id: str
    action: Action
    end: str | None
    reason: str
    town: str | None
    cause: Cause
    proof: str = ""
    expires_on: date | None = None


def act_on_lead(work: MatchingWork, item: ActOnLead) -> Case:
    """Does it, or raises Problem: 404 unknown or of another town, 409 where the lead does not allow it."""
    uscc = work.store.lead_unit(item.lead_id)
    cases = work.cases([uscc] if uscc else [])
    case = next(iter(cases.values()), None)
    if case is None or case.lead is None or case.unit is None or item.town not in (None, case.unit.town):
        raise not_found("没有这条线索，或不属于您的镇街", "No such lead, or it is not your town's")
    # The official's words stay in the history; they are about a unit, so numbers of people go before that.
    _DO[item.action](work, case, case.lead, replace(item, reason=scrub(item.reason)))
    work.save(cases)
    return case


def _resolve(work: MatchingWork, case: Case, lead: Lead, item: ActOnLead) -> None:
    if not lead.is_open:
        raise _conflict("lead_ended", "线索已办结", "The lead has ended already")
    assert case.clock is not None  # noqa: S101 - no lead without a clock
    assert item.end is not None  # noqa: S101 - the route sees to it
    lead.resolve(item.end, item.reason, now=work.now)
    case.clock.state, case.clock.reason, case.clock.look_at = ClockState.STOPPED, item.end, None
    work.tell(case, Step(Fact.RESOLVED, item.end), item.cause, words=item.reason)
    if owes_correction(case):
        work.tell(case, Step(Fact.CORRECTED, item.end), item.cause)


def _exempt(work: MatchingWork, case: Case, lead: Lead, item: ActOnLead) -> None:
    if not lead.is_open:
        raise _conflict("lead_ended", "线索已办结", "The lead has ended already")
    _grant(work, case, reason=item.reason, proof=item.proof, expires_on=item.expires_on, cause=item.cause)


def _reopen(work: MatchingWork, case: Case, lead: Lead, item: ActOnLead) -> None:
    if lead.is_open:
        raise _conflict("lead_open", "线索尚未办结", "The lead has not ended")
    case.exempt_through = None
    if not can_be_opened(case, work.circumstances(case)):
        raise _conflict(
            "lead_without_ground",
            "按现有数据该单位没有立线索的依据（已参保、已注销、期限未满或数据未齐）",
            "The facts give no ground for the lead: insured, closed, not due or not complete",
        )
    assert case.clock is not None  # noqa: S101 - it can be opened
    work.store.lift_exemption(case.uscc, now=work.now)
    case.clock.state, case.clock.reason = ClockState.RUNNING, None
    work.reconsider(case, item.cause, words=item.reason)


def _pause(work: MatchingWork, case: Case, lead: Lead, item: ActOnLead) -> None:
    if not lead.is_open or Hold.PAUSED in lead.held:
        raise _conflict("lead_not_pausable", "线索已办结或已暂停", "The lead has ended or is paused already")
    lead.hold(sorted([*lead.held, Hold.PAUSED.value]), work.circumstances(case).course)
    work.tell(case, Step(Fact.HELD, Hold.PAUSED), item.cause, words=item.reason)


def _resume(work: MatchingWork, case: Case, lead: Lead, item: ActOnLead) -> None:
    ending = by_hand(lead)
    if not lead.is_open or not ending:
        raise _conflict("lead_not_paused", "线索未暂停", "The lead is not paused")
    others = [reason for reason in lead.held if reason not in ending]
    lead.hold(others, work.circumstances(case).course)
    for reason in ending:
        work.tell(case, Step(Fact.RELEASED, reason), item.cause, words=item.reason)


def _note(work: MatchingWork, case: Case, lead: Lead, item: ActOnLead) -> None:
    """Nothing but the line in the history; an audit row holds no free text."""
    work.note(lead, item.action, item.cause, reason=item.reason)
    work.audit(f"lead.{item.action}", lead.id, cause=item.cause)


_DO = {
    Action.RESOLVE: _resolve,
    Action.EXEMPT: _exempt,
    Action.REOPEN: _reopen,
    Action.PAUSE: _pause,
    Action.RESUME: _resume,
    Action.NOTE: _note,
}


# -- exemptions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GrantExemption:
    """A unit need insure nobody for a time, with or without a lead; without `expires_on` as the city pack says."""

    uscc: str
    reason: str
    proof: str
    expires_on: date | None
    town: str | None
    cause: Cause


@dataclass(frozen=True)
class Granted:
    """The exemption as it is kept, and whether the unit's first."""

    new: bool
    row: dict[str, Any]


def grant_exemption(work: MatchingWork, item: GrantExemption) -> Granted:
    """Stops the clock and ends the lead, until the exemption is over. 404: unknown or of another town."""
    cases = work.cases([item.uscc])
    case = cases[item.uscc]
    if case.unit is None or item.town not in (None, case.unit.town):
        raise not_found("没有这个单位，或不属于您的镇街", "No such unit, or it is not your town's")
    granted = _grant(
        work, case, reason=item.reason, proof=item.proof, expires_on=item.expires_on, cause=item.cause
    )
    work.save(cases)
    unit = {"unit_name": case.unit.name, "town": case.unit.town}
    return Granted(granted.new, {**granted.row, **unit})


def _grant(
    work: MatchingWork, case: Case, *, reason: str, proof: str, expires_on: date | None, cause: Cause
) -> Granted:
    day = today(work.now)
    last = expires_on or months_after(day, work.rule.exemption_months)
    if not day <= last <= months_after(day, work.rule.exemption_longest_months):
        raise unprocessable([_too_long(work.rule.exemption_longest_months)])
    words = scrub(reason)
    row = {
        "uscc": case.uscc,
        "reason": words,
        "proof": scrub(proof),
        "expires_on": last,
        "granted_at": work.now,
        "granted_by": cause.actor,
        "lifted_at": None,
    }
    new = work.store.put_exemption(row)
    case.exempt_through = last
    # The official's words stay in the exemption; an audit row holds no free text.
    work.audit("exemption.granted", case.uscc, cause=cause, expires_on=last.isoformat())
    work.reconsider(case, cause, words=words)
    return Granted(new, row)


def _too_long(months: int) -> FieldError:
    return FieldError(
        "/expires_on",
        "exemption_out_of_range",
        f"到期日须在今天至 {months} 个月之内",
        f"give a day from today to {months} months ahead",
    )


# -- visits --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportVisit:
    """What a visit found; `town` is the only one the caller may speak for."""

    visit_id: str
    result: VisitResult
    note: str | None
    town: str | None
    cause: Cause


def report_visit(work: MatchingWork, item: ReportVisit) -> Case:
    """Closes the visit, and the lead's others, and lets the lead's next step follow from what was found.

    What would contradict the finding waits until an official resumes, exempts or resolves the lead.
    404: unknown or of another town; 409: done or cancelled already.
    """
    item = replace(item, note=scrub(item.note) if item.note else None)
    visit = work.store.visit(item.visit_id)
    if visit is None or item.town not in (None, visit.town):
        raise not_found("没有这项走访任务，或不属于您的镇街", "No such visit, or it is not your town's")
    if visit.state != VisitState.OPEN:
        raise _conflict("visit_closed", "走访任务已完成或已取消", "The visit is done or cancelled already")
    cases = work.cases([visit.uscc])
    case = cases[visit.uscc]
    assert case.lead is not None  # noqa: S101 - a visit is about a lead, and an ended one has none open
    work.store.close_visit(visit.id, result=item.result, note=item.note, now=work.now)
    work.store.cancel_visits({(visit.lead_id, visit.episode)}, now=work.now)
    course = work.circumstances(case).course
    if item.result in HOLDS_BACK and Hold.VISITED not in case.lead.held:
        case.lead.hold(sorted([*case.lead.held, Hold.VISITED.value]), course)
        work.tell(case, Step(Fact.HELD, Hold.VISITED), item.cause)
    course.visited(case.lead, item.result)
    work.note(case.lead, "visited", item.cause, visit=visit.id, detail=item.result, reason=item.note)
    work.audit("visit.reported", visit.id, cause=item.cause, lead=visit.lead_id, result=item.result)
    work.save(cases)
    return case


# -- stock ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReleaseStock:
    """Lets the oldest of the stock go on, at most `count`; `towns`: only those that are in all of them."""

    count: int
    towns: tuple[str, ...]
    cause: Cause


def release_stock(work: MatchingWork, item: ReleaseStock) -> int:
    """Lets clocks out of the stock for good; returns how many. Each is audited."""
    cases = work.cases(work.store.oldest_stock(item.count, towns=item.towns))
    for case in cases.values():
        assert case.clock is not None  # noqa: S101 - it was found by its clock
        case.clock.released = True
        work.audit("stock.released", case.uscc, cause=item.cause)
        work.reconsider(case, item.cause)
    work.save(cases)
    return len(cases)


def _conflict(code: str, zh: str, en: str) -> Problem:
    return Problem(409, code, zh=zh, en=en)
