"""What matching tells: leads and what becomes of them, and the visits it asks for."""

from datetime import date, datetime
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from shared.events.base import Event


class Void(BaseModel):
    """What would void a lead: a participation of `any` (or `all`) of these insurances in one of these forms."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    insurances: list[str]
    forms: list[str]
    mode: str = "any"


class LeadFacts(Event):
    """What texts and the last look need to know of a lead, whole, after the change.

    `episode` counts reopenings from 1; `stage` is the step of the ladder; `deadline` is the day the legal
    clock ended with; `reason` is a sentence an official can read; `held` lists the reasons that keep its
    messages back, empty when none; `not_before` is the earliest instant of a hand-over.
    """

    lead_id: str
    rule: str
    uscc: str
    unit_name: str
    kind: str
    town: str | None
    established_on: date
    deadline: date
    episode: int
    stage: str
    reason: str
    evidence_class: str
    void: Void
    contact_version: int
    held: list[str]
    not_before: datetime | None = None


class LeadOpened(LeadFacts):
    """A lead was opened or reopened (a higher `episode`)."""

    name: ClassVar[str] = "matching.lead_opened.v1"


class LeadChanged(LeadFacts):
    """Facts under an open lead were corrected without ending it."""

    name: ClassVar[str] = "matching.lead_changed.v1"


class LeadAdvanced(LeadFacts):
    """Nothing had happened by the end of a wait: the message of the next `stage` is due."""

    name: ClassVar[str] = "matching.lead_advanced.v1"


class LeadCorrected(LeadFacts):
    """A lead ended as an error (`end`: wrong_data, no_obligation) after a message about it was handed over.

    `stage` is correction. The facts are those that the message rested on, so the last look finds others;
    nothing voids a correction, it has to leave. At most one per episode.
    """

    name: ClassVar[str] = "matching.lead_corrected.v1"
    end: str


class LeadHeld(Event):
    """Messages about a lead are kept back for one more reason: paused, visited, code, disputed, parked, suspended."""

    name: ClassVar[str] = "matching.lead_held.v1"
    lead_id: str
    uscc: str
    reason: str


class LeadReleased(Event):
    """One reason to keep messages back fell away."""

    name: ClassVar[str] = "matching.lead_released.v1"
    lead_id: str
    uscc: str
    reason: str


class LeadResolved(Event):
    """A lead ended. `end`: enrolled, no_obligation, exempt, unit_closed, wrong_data, settled_by_inspection.

    `by_official` tells a person's decision from what the data says by itself.
    """

    name: ClassVar[str] = "matching.lead_resolved.v1"
    lead_id: str
    uscc: str
    rule: str
    episode: int
    end: str
    reason: str
    by_official: bool = False


class VisitRequested(Event):
    """The town should look in. `reason`: why the notice reached nobody, or the stage that asks for a visit."""

    name: ClassVar[str] = "matching.visit_requested.v1"
    visit_id: str
    lead_id: str
    uscc: str
    town: str | None
    reason: str


EVENTS: tuple[type[Event], ...] = (
    LeadOpened,
    LeadChanged,
    LeadAdvanced,
    LeadCorrected,
    LeadHeld,
    LeadReleased,
    LeadResolved,
    VisitRequested,
)
