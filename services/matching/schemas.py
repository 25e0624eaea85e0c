"""The HTTP contract of matching."""

from dataclasses import asdict
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from services.matching.domain import Action, Case, End, Rule
from services.matching.ladder import VisitResult
from shared.http import Body, Choice, Day, Text, Whole


class EndByHand(StrEnum):
    """The ends that an official may decide."""

    NO_OBLIGATION = End.NO_OBLIGATION.value
    WRONG_DATA = End.WRONG_DATA.value
    SETTLED_BY_INSPECTION = End.SETTLED_BY_INSPECTION.value


class LeadAction(Body):
    """What to do with a lead, and why. `end` goes with resolve, and only with it.

    `proof` goes with exempt, and only with it; so does `expires_on`, the last day of the exemption, which
    without it comes from the city pack.
    """

    action: Choice[Action]
    end: Choice[EndByHand] | None = None
    reason: Annotated[str, Text(500, lines=True)]
    proof: Annotated[str, Text(500, lines=True)] | None = None
    expires_on: Day | None = None


class ExemptionIn(Body):
    """Why a unit need insure nobody, what proves it, and until when; without a day as the city pack says."""

    uscc: Annotated[str, Text(18)]
    reason: Annotated[str, Text(500, lines=True)]
    proof: Annotated[str, Text(500, lines=True)]
    expires_on: Day | None = None


class VisitReport(Body):
    """What the town found, in one word and in its own."""

    result: Choice[VisitResult]
    note: Annotated[str, Text(500, lines=True)] | None = None


class StockRelease(Body):
    """How many of the stock to let go on, the oldest first, and of which town."""

    count: Annotated[Whole, Field(ge=1, le=1000)]
    town: Annotated[str, Text(64)] | None = None


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
    """A lead. `reason` is the sentence for the official, `end_reason` why it ended, `held` why it is kept back.

    `notice` is the last word on the notice of this stage; `act_at` when the ladder goes on by itself. A step
    waits until participations are complete through the day `waits_for`.
    """

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
    notice: str | None
    act_at: datetime | None
    waits_for: date | None
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
    """A task for a town: look in. `lead_state` is the lead's today.

    `reason` says why the notice reached nobody, or which stage of the ladder asks; then there is no notice.
    What asks while a visit of the lead is open joins it: `state=joined` lists those.
    """

    id: str
    lead_id: str
    lead_state: str
    notice_id: str | None
    uscc: str
    unit_name: str
    town: str | None
    state: str
    reason: str
    created_at: datetime
    result: str | None
    note: str | None
    closed_at: datetime | None


class ExemptionOut(Row):
    """An exemption, valid through `expires_on` unless an official lifted it."""

    uscc: str
    unit_name: str
    town: str | None
    reason: str
    proof: str
    expires_on: date
    granted_at: datetime
    granted_by: str
    lifted_at: datetime | None


class StockTown(BaseModel):
    """The stock of one town; `oldest` is the deadline that is longest over."""

    town: str | None
    count: int
    oldest: date


class StockOut(BaseModel):
    """Units whose clock ran out before the system could tell them; a person lets them go on in portions."""

    count: int
    oldest: date | None
    towns: list[StockTown]

    @classmethod
    def of(cls, rows: list[Any]) -> Self:
        """The queue from its rows by town."""
        towns = [StockTown(town=row.town, count=row.number, oldest=row.oldest) for row in rows]
        oldest = min((town.oldest for town in towns), default=None)
        return cls(count=sum(town.count for town in towns), oldest=oldest, towns=towns)


class Released(BaseModel):
    """How many were let go on."""

    released: int


class CheckOut(Row):
    """The newest daily check, of the whole city. `lost`: open leads without owner, next step or next date."""

    day: date
    at: datetime
    leads: int
    places: dict[str, int]
    overdue: int
    lost: int
    sound: bool


class FunnelOut(BaseModel):
    """Every lead in one place, now; `overdue` counts the open ones past their next date.

    `checked` is shown to those who see the whole city.
    """

    leads: int
    places: dict[str, int]
    overdue: int
    checked: CheckOut | None


class StageOut(Row):
    """A stage of the ladder; the wait begins with the first end of its notice."""

    name: str
    action: str
    audience: str
    minimum_evidence: str
    wait_working_days: int
    visit: bool


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
    ladder: list[StageOut]
    follow_up_working_days: int
    recheck_working_days: int
    go_live_on: date
    exemption_months: int
    exemption_longest_months: int
    late_registration_wait_s: float

    @classmethod
    def of(cls, rule: Rule) -> Self:
        """A rule as it is shown."""
        shown = {
            **asdict(rule),
            "kinds": sorted(rule.kinds),
            "ladder": [asdict(stage) for stage in rule.ladder.stages],
            "follow_up_working_days": rule.ladder.follow_up_working_days,
            "recheck_working_days": rule.ladder.recheck_working_days,
            "late_registration_wait_s": rule.late_registration_wait.total_seconds(),
        }
        return cls.model_validate(shown)
