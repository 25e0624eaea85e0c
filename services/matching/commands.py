"""What matching does by itself when time comes, and what officials do with a lead."""

from dataclasses import dataclass, replace

from services.matching.domain import (
    Action,
    Case,
    ClockState,
    Fact,
    Hold,
    Lead,
    Step,
    can_be_opened,
)
from services.matching.work import MatchingWork
from shared.errors import Problem, not_found
from shared.privacy import scrub
from shared.storage.work import Cause

PORTION = 500
"""Most clocks in one transaction."""


def look_at_clocks(work: MatchingWork) -> bool:
    """One portion of the clocks that time has changed something for; False when there was none."""
    cases = work.cases(work.store.to_look_at(work.now, PORTION))
    for case in cases.values():
        work.reconsider(case, Cause("matching", f"clock-{case.uscc}"))
    work.save(cases)
    return bool(cases)


@dataclass(frozen=True)
class ActOnLead:
    """An official's action. `end` goes with resolve alone; `town` is the only one the caller may touch."""

    lead_id: str
    action: Action
    end: str | None
    reason: str
    town: str | None
    cause: Cause


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


def _reopen(work: MatchingWork, case: Case, lead: Lead, item: ActOnLead) -> None:
    if lead.is_open:
        raise _conflict("lead_open", "线索尚未办结", "The lead has not ended")
    if not can_be_opened(case, work.circumstances(case)):
        raise _conflict(
            "lead_without_ground",
            "按现有数据该单位没有立线索的依据（已参保、已注销、期限未满或数据未齐）",
            "The facts give no ground for the lead: insured, closed, not due or not complete",
        )
    assert case.clock is not None  # noqa: S101 - it can be opened
    case.clock.state, case.clock.reason = ClockState.RUNNING, None
    work.reconsider(case, item.cause, words=item.reason)


def _pause(work: MatchingWork, case: Case, lead: Lead, item: ActOnLead) -> None:
    if not lead.is_open or Hold.PAUSED in lead.held:
        raise _conflict("lead_not_pausable", "线索已办结或已暂停", "The lead has ended or is paused already")
    lead.hold(sorted([*lead.held, Hold.PAUSED.value]))
    work.tell(case, Step(Fact.HELD, Hold.PAUSED), item.cause, words=item.reason)


def _resume(work: MatchingWork, case: Case, lead: Lead, item: ActOnLead) -> None:
    if not lead.is_open or Hold.PAUSED not in lead.held:
        raise _conflict("lead_not_paused", "线索未暂停", "The lead is not paused")
    lead.hold([reason for reason in lead.held if reason != Hold.PAUSED])
    work.tell(case, Step(Fact.RELEASED, Hold.PAUSED), item.cause, words=item.reason)


def _note(work: MatchingWork, case: Case, lead: Lead, item: ActOnLead) -> None:
    """Nothing but the line in the history; an audit row holds no free text."""
    work.note(lead, item.action, item.cause, reason=item.reason)
    work.audit(f"lead.{item.action}", lead.id, cause=item.cause)


_DO = {
    Action.RESOLVE: _resolve,
    Action.REOPEN: _reopen,
    Action.PAUSE: _pause,
    Action.RESUME: _resume,
    Action.NOTE: _note,
}


def _conflict(code: str, zh: str, en: str) -> Problem:
    return Problem(409, code, zh=zh, en=en)
