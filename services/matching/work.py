"""One transaction of matching."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from functools import cached_property
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import sqlalchemy as sa

from services.matching.domain import Case, Circumstances, End, Fact, Lead, Rule, Step, consider
from services.matching.ladder import CORRECTION, VisitState
from services.matching.store import PARTICIPATIONS, Store
from services.matching.tables import PLUMBING
from shared.calendar import Calendar
from shared.events.base import Event
from shared.events.matching import (
    LeadAdvanced,
    LeadChanged,
    LeadCorrected,
    LeadFacts,
    LeadHeld,
    LeadOpened,
    LeadReleased,
    LeadResolved,
    VisitRequested,
    Void,
)
from shared.storage.work import Cause, Work

_BY_OFFICIAL = "经办人员认定，理由见线索记录"


class MatchingWork(Work):
    """A transaction with the cases of units. Load them, change facts, `reconsider` each, `save`.

    Facts of one unit often come together. `kept_cases` are loaded once for all of them and written when the
    work ends, or before it asks the database anything that they might change.
    """

    def __init__(
        self, db: sa.Connection, *, rule: Rule, calendar: Calendar, now: datetime, wall: datetime
    ) -> None:
        super().__init__(db, PLUMBING, now=now, wall=wall)
        self.rule = rule
        self.store = Store(db, rule)
        self._pack_calendar = calendar
        self._kept: dict[str, Case] = {}
        self._history: list[dict[str, Any]] = []
        self._asked: list[dict[str, Any]] = []
        self._moved: list[dict[str, Any]] = []
        self._standing: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._looked_up: set[str] = set()
        self._ended: set[tuple[str, int]] = set()
        self._circumstances: dict[date | None, Circumstances] = {}

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
        known = self._circumstances.get(through)
        if known is None or known.calendar is not self.calendar:
            known = Circumstances(self.now, self.rule, self.calendar, through)
            self._circumstances[through] = known
        return known

    @cached_property
    def void(self) -> Void:
        """What would void a lead of the rule."""
        return Void(insurances=list(self.rule.void_insurances), forms=list(self.rule.forms))

    @cached_property
    def complete(self) -> dict[int, date]:
        """How far participations are complete, per partition."""
        return self.store.complete(PARTICIPATIONS)

    def cases(self, usccs: Iterable[str]) -> dict[str, Case]:
        """The cases of some units, known or not."""
        self.save_kept()
        return self.store.cases(list(dict.fromkeys(usccs)))

    def kept_cases(self, usccs: Iterable[str]) -> Mapping[str, Case]:
        """Cases that this work keeps, those of these units among them."""
        fresh = dict.fromkeys(uscc for uscc in usccs if uscc not in self._kept)
        if fresh:
            self._kept |= self.store.cases(list(fresh))
        return self._kept

    def save_kept(self) -> None:
        """Writes what is kept; whoever asks the database itself calls this first."""
        kept, self._kept = self._kept, {}
        if kept:
            self.save(kept)

    def flush(self) -> bool:
        self.save_kept()
        return super().flush()

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
        self.emit(_event(case, lead, step, self.void, by_official=words is not None), cause=cause)
        self.audit(f"lead.{step.fact}", lead.id, cause=cause, episode=lead.episode, detail=step.detail)
        reasons = {Fact.OPENED: lead.reason, Fact.CHANGED: lead.reason, Fact.RESOLVED: lead.end_reason}
        self.note(lead, step.fact, cause, detail=step.detail, reason=words or reasons.get(step.fact))
        if step.visit:
            town = case.unit.town if case.unit else None
            self.ask_for_visit(
                lead, cause, town=town, reason=step.detail, episode=lead.episode, notice_id=None
            )
        if step.fact is Fact.RESOLVED:
            self._ended.add((lead.id, lead.episode))

    def ask_for_visit(
        self, lead: Lead, cause: Cause, *, town: str | None, reason: str, episode: int, notice_id: str | None
    ) -> None:
        """Asks the town to look in, once per notice, or without a notice once per stage of an episode.

        Nobody goes twice: while a visit of the episode is open, this one joins it. Where the episode is over
        already, the visit is on record as cancelled.
        """
        about = notice_id or f"{lead.id}:{episode}:{lead.stage}"
        row = {
            "id": str(uuid5(NAMESPACE_OID, f"visit:{about}")),
            "notice_id": notice_id,
            "lead_id": lead.id,
            "episode": episode,
            "uscc": lead.uscc,
            "town": town,
            "state": VisitState.CANCELLED,
            "reason": reason,
            "created_at": self.now,
        }
        if lead.is_open and lead.episode == episode:
            standing = self._visits(lead.id, episode)
            if standing:
                row["state"] = VisitState.JOINED
            else:
                self._open_visit(row, cause)
            standing.append(row)
        self._asked.append(row)

    def notice_arrived(self, lead_id: str, episode: int, notice_id: str, cause: Cause) -> None:
        """Cancels the visit that a notice asked for. What joined it still asks for one, which opens now."""
        standing = self._visits(lead_id, episode)
        needless = next((visit for visit in standing if visit["notice_id"] == notice_id), None)
        if needless is None:
            return
        standing.remove(needless)
        self._moved.append({**needless, "state": VisitState.CANCELLED})
        if standing and standing[0]["state"] == VisitState.JOINED:
            self._open_visit(standing[0], cause)
            self._moved.append(standing[0])

    def _open_visit(self, visit: dict[str, Any], cause: Cause) -> None:
        visit["state"] = VisitState.OPEN
        told = {name: visit[name] for name in ("lead_id", "uscc", "town", "reason")}
        self.emit(VisitRequested(visit_id=visit["id"], **told), cause=cause)

    def _visits(self, lead_id: str, episode: int) -> list[dict[str, Any]]:
        """The visits of an episode that nobody has made yet: the first is open, the others joined it."""
        if lead_id not in self._looked_up:
            leads = {lead_id, *self.store.loaded_leads()} - self._looked_up
            for row in self.store.standing_visits(leads):
                self._standing.setdefault((row.lead_id, row.episode), []).append(dict(row._mapping))
            self._looked_up |= leads
        return self._standing.setdefault((lead_id, episode), [])

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
        """Writes what has changed. Visits of what has ended meanwhile are cancelled."""
        self.store.save(cases.values())
        self.store.add_history(self._history)
        self.store.add_visits(self._asked)
        for visit in self._moved:
            self.store.move_visit(visit["id"], VisitState(visit["state"]), now=self.now)
        self.store.cancel_visits(self._ended, now=self.now)
        self._history, self._asked, self._moved, self._ended = [], [], [], set()
        self._standing, self._looked_up = {}, set()


def _event(case: Case, lead: Lead, step: Step, void: Void, *, by_official: bool) -> Event:
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
            by_official=by_official or step.detail == End.EXEMPT,
        )
    if step.fact is Fact.CORRECTED:
        nothing_voids_it = Void(insurances=[], forms=[])
        facts = {**_facts(case, lead, nothing_voids_it), "stage": CORRECTION}
        return LeadCorrected(**facts, end=step.detail)
    return _OF[step.fact](**_facts(case, lead, void))


_OF: dict[Fact, type[LeadFacts]] = {
    Fact.OPENED: LeadOpened,
    Fact.CHANGED: LeadChanged,
    Fact.ADVANCED: LeadAdvanced,
}


def _facts(case: Case, lead: Lead, void: Void) -> dict[str, Any]:
    unit = case.unit
    assert unit is not None  # noqa: S101 - no lead without a unit
    return {
        "lead_id": lead.id,
        "uscc": lead.uscc,
        "rule": lead.rule,
        "unit_name": unit.name,
        "kind": unit.kind,
        "town": unit.town,
        "established_on": lead.established_on,
        "deadline": lead.deadline,
        "episode": lead.episode,
        "stage": lead.stage,
        "reason": lead.reason,
        "evidence_class": lead.evidence_class,
        "void": void,
        "contact_version": unit.contact_version,
        "held": lead.held,
        "not_before": lead.not_before,
    }
