"""The HTTP contract of matching."""

from dataclasses import asdict
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict

from services.matching.domain import Action, Case, End, Rule
from shared.http import Body, Choice, Text


class EndByHand(StrEnum):
    """The ends that an official may decide."""

    NO_OBLIGATION = End.NO_OBLIGATION.value
    WRONG_DATA = End.WRONG_DATA.value
    SETTLED_BY_INSPECTION = End.SETTLED_BY_INSPECTION.value


class LeadAction(Body):
    """What to do with a lead, and why. `end` goes with resolve, and only with it."""

    action: Choice[Action]
    end: Choice[EndByHand] | None = None
    reason: Annotated[str, Text(500, lines=True)]


class Row(BaseModel):
    """What is shown of a row of the store."""

    model_config = ConfigDict(from_attributes=True)


class ClockOut(BaseModel):
    """The legal clock of a unit.

    `reason` says why it is stopped or held; `waiting_for` what data it needs to go on; `lead_id` is the lead
    that it or an earlier run of it opened.
    """

    uscc: str
    unit_name: str
    town: str | None
    state: str
    reason: str | None
    waiting_for: str | None
    established_on: date | None
    deadline: date | None
    provisional: bool
    lead_id: str | None

    @classmethod
    def of(cls, row: Any, complete_through: date | None) -> Self:
        """A clock as it is shown, with how far participations are complete for it."""
        waiting_for = (
            f"participations complete through {complete_through} only"
            if complete_through
            else "participations declared complete through no day yet"
        )
        fields = dict(row._mapping)
        return cls.model_validate({**fields, "waiting_for": waiting_for if row.state == "waiting" else None})


class LeadOut(Row):
    """A lead. `reason` is the sentence for the official, `end_reason` why it ended, `held` why it is kept back."""

    id: str
    rule: str
    uscc: str
    unit_name: str
    kind: str
    town: str | None
    episode: int
    stage: str
    state: str
    held: list[str]
    end: str | None
    end_reason: str | None
    reason: str
    evidence_class: str
    established_on: date
    deadline: date
    owner: str
    next_step: str | None
    next_on: date | None
    opened_at: datetime
    ended_at: datetime | None
    not_before: datetime | None

    @classmethod
    def of_case(cls, case: Case) -> Self:
        """The lead of a case after a command."""
        assert case.unit is not None  # noqa: S101 - the command answered with both
        assert case.lead is not None  # noqa: S101
        unit = {"unit_name": case.unit.name, "kind": case.unit.kind, "town": case.unit.town}
        return cls.model_validate({**asdict(case.lead), **unit})


class HistoryOut(Row):
    """One thing that happened to a lead."""

    at: datetime
    episode: int
    actor: str
    action: str
    details: dict[str, Any]


class ParticipationOut(Row):
    """A participation through the unit; `seen_when_opened` tells whether it was known when the lead opened."""

    id: int
    insurance: str
    form: str
    started_on: date
    state: str
    seen_when_opened: bool


class LeadDetail(LeadOut):
    """A lead with what it rests on and what happened to it."""

    evidence: dict[str, Any]
    participations: list[ParticipationOut]
    history: list[HistoryOut]


class VisitOut(Row):
    """A task for a town: a notice about the lead reached nobody, look in. `lead_state` is the lead's today."""

    id: str
    lead_id: str
    lead_state: str
    notice_id: str
    uscc: str
    unit_name: str
    town: str | None
    state: str
    reason: str
    created_at: datetime


class RuleOut(BaseModel):
    """A rule as the city pack states it."""

    id: str
    name: str
    version: str
    source: str
    kinds: list[str]
    days: int
    void_insurances: list[str]
    forms: list[str]
    evidence_class: str
    stage: str
    wait_working_days: int
    late_registration_wait_s: float

    @classmethod
    def of(cls, rule: Rule) -> Self:
        """A rule as it is shown."""
        wait = rule.late_registration_wait.total_seconds()
        return cls.model_validate(
            {**asdict(rule), "kinds": sorted(rule.kinds), "late_registration_wait_s": wait}
        )
