"""One transaction of matching."""

from collections.abc import Iterable
from datetime import date, datetime
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from services.matching.domain import Case, Circumstances, Fact, Lead, Rule, Step, consider
from services.matching.store import PARTICIPATIONS, Store
from services.matching.tables import PLUMBING
from shared.calendar import Calendar
from shared.events.base import Event
from shared.events.matching import LeadChanged, LeadHeld, LeadOpened, LeadReleased, LeadResolved, Void
from shared.storage.work import Cause, Work

_BY_OFFICIAL = "经办人员认定，理由见线索记录"


class MatchingWork(Work):
    """A transaction with the cases of units. Load them, change facts, `reconsider` each, `save`."""

    def __init__(
        self, db: sa.Connection, *, rule: Rule, calendar: Calendar, now: datetime, wall: datetime
    ) -> None:
        super().__init__(db, PLUMBING, now=now, wall=wall)
        self.rule = rule
        self.store = Store(db, rule)
        self._pack_calendar = calendar
        self._history: list[dict[str, Any]] = []

    @cached_property
    def calendar(self) -> Calendar:
        """The city pack's calendar with the years received since."""
        calendar = self._pack_calendar
        for year in self.store.years():
            calendar = calendar.with_year(year)
        return calendar

    def circumstances(self, case: Case) -> Circumstances:
        """What a case is to be considered under, now."""
        through = self.complete.get(case.clock.partition) if case.clock else None
        return Circumstances(self.now, self.rule, self.calendar, through)

    @cached_property
    def complete(self) -> dict[int, date]:
        """How far participations are complete, per partition."""
        return self.store.complete(PARTICIPATIONS)

    def cases(self, usccs: Iterable[str]) -> dict[str, Case]:
        """The cases of some units, known or not."""
        return self.store.cases(list(dict.fromkeys(usccs)))

    def reconsider(self, case: Case, cause: Cause, *, words: str | None = None) -> None:
        """Brings clock and lead in line with the facts, and tells what happened to the lead."""
        for step in consider(case, self.circumstances(case)):
            self.tell(case, step, cause, words=words)

    def tell(self, case: Case, step: Step, cause: Cause, *, words: str | None = None) -> None:
        """One thing that happened to a lead: event, history and audit.

        `words` are those of the official who did it: they stay in the history, no event holds them.
        """
        lead = case.lead
        assert lead is not None  # noqa: S101 - a step is about a lead
        self.emit(_event(case, lead, step, self.rule, by_official=words is not None), cause=cause)
        self.audit(f"lead.{step.fact}", lead.id, cause=cause, episode=lead.episode, detail=step.detail)
        reasons = {Fact.OPENED: lead.reason, Fact.CHANGED: lead.reason, Fact.RESOLVED: lead.end_reason}
        self.note(lead, step.fact, cause, detail=step.detail, reason=words or reasons.get(step.fact))

    def note(self, lead: Lead, action: str, cause: Cause, **details: Any) -> None:
        """A line in the history of a lead."""
        self._history.append(
            {
                "lead_id": lead.id,
                "episode": lead.episode,
                "at": self.now,
                "actor": cause.actor,
                "action": action,
                "details": {name: value for name, value in details.items() if value},
            }
        )

    def save(self, cases: dict[str, Case]) -> None:
        """Writes what has changed."""
        self.store.save(cases.values())
        self.store.add_history(self._history)
        self._history = []


def _event(case: Case, lead: Lead, step: Step, rule: Rule, *, by_official: bool) -> Event:
    key = {"lead_id": lead.id, "uscc": lead.uscc}
    if step.fact is Fact.HELD:
        return LeadHeld(**key, reason=step.detail)
    if step.fact is Fact.RELEASED:
        return LeadReleased(**key, reason=step.detail)
    if step.fact is Fact.RESOLVED:
        return LeadResolved(
            **key,
            rule=lead.rule,
            episode=lead.episode,
            end=step.detail,
            reason=_BY_OFFICIAL if by_official else lead.end_reason or "",
            by_official=by_official,
        )
    unit = case.unit
    assert unit is not None  # noqa: S101 - no lead without a unit
    return (LeadOpened if step.fact is Fact.OPENED else LeadChanged)(
        **key,
        rule=lead.rule,
        unit_name=unit.name,
        kind=unit.kind,
        town=unit.town,
        established_on=lead.established_on,
        deadline=lead.deadline,
        episode=lead.episode,
        stage=lead.stage,
        reason=lead.reason,
        evidence_class=lead.evidence_class,
        void=Void(insurances=list(rule.void_insurances), forms=list(rule.forms)),
        contact_version=unit.contact_version,
        held=lead.held,
        not_before=lead.not_before,
    )
