"""What registry tells: units, their contacts, who is insured, how complete the data is."""

from datetime import date, datetime
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from shared.events.base import Event


class UnitFacts(Event):
    """The whole public state of a unit after the change.

    `kind` and `status` are the enumerations of the HTTP contract; `established_on` is None where the
    department did not know it; `contact_version` counts from 1, 0 = no contact was ever supplied;
    `origin` tells a single registration from a batch row. `version` grows with every change.
    """

    uscc: str
    unit_name: str
    kind: str
    status: str
    established_on: date | None
    town: str | None
    industry: str | None = None
    code_confirmed: bool
    contact_version: int
    version: int
    origin: str = "single"
    recorded_at: datetime


class UnitRegistered(UnitFacts):
    """A unit is known for the first time."""

    name: ClassVar[str] = "registry.unit_registered.v1"


class UnitChanged(UnitFacts):
    """Facts of a unit were corrected, or it was suspended or resumed. `changed` names the fields."""

    name: ClassVar[str] = "registry.unit_changed.v1"
    changed: list[str]


class UnitClosed(UnitFacts):
    """A unit ended (closed or revoked) on `closed_on`."""

    name: ClassVar[str] = "registry.unit_closed.v1"
    closed_on: date


class ContactChanged(Event):
    """The contacts of a unit, sealed under the suite's contact key; replaces any lower version.

    `sealed` opens to a JSON list of {role, name, mobile}; an empty list says that no contact is left.
    """

    name: ClassVar[str] = "registry.contact_changed.v1"
    personal: ClassVar[bool] = True
    uscc: str
    version: int
    sealed: str


class Counted(BaseModel):
    """The participation that counts as a person's first of an insurance."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    participation_id: int
    kind: str
    town: str
    started_on: date
    recorded_on: date
    baseline: bool = False


class ParticipationFacts(Event):
    """One spell of one person in one insurance. `person` is the token; `uscc` is None for flexible form.

    `town` is fixed when recorded. `first_version` grows with every decision about which participation is
    the person's first of this insurance; a listener keeps the decision with the highest one.
    """

    participation_id: int
    person: int
    insurance: str
    form: str
    uscc: str | None
    kind: str
    started_on: date
    town: str
    recorded_on: date
    first_version: int

    @property
    def subject(self) -> str:
        return self.uscc or str(self.person)


class ParticipationStarted(ParticipationFacts):
    """A participation was recorded; `started_on` may lie in the past or the future.

    `first_ever` says that no earlier record of this person and insurance is known.
    """

    name: ClassVar[str] = "registry.participation_started.v1"
    first_ever: bool
    baseline: bool = False


class ParticipationEnded(ParticipationFacts):
    """A participation ended on `ended_on`. It was true until then."""

    name: ClassVar[str] = "registry.participation_ended.v1"
    ended_on: date


class ParticipationCancelled(ParticipationFacts):
    """A participation was recorded in error: it never was.

    `counts_now` is the record that is the person's first of the insurance from now on, None if none is left.
    """

    name: ClassVar[str] = "registry.participation_cancelled.v1"
    counts_now: Counted | None


class DataComplete(Event):
    """Everything that concerns days up to `through` of a data set lies before this event in its partition."""

    name: ClassVar[str] = "registry.data_complete.v1"
    broadcast: ClassVar[bool] = True
    dataset: str
    through: date


class ReferenceChanged(Event):
    """Reference data was replaced. For `calendar`: one year's holidays (weekdays off) and make-up days."""

    name: ClassVar[str] = "registry.reference_changed.v1"
    broadcast: ClassVar[bool] = True
    reference: str
    year: int
    holidays: list[date]
    makeup_days: list[date]
    source: str


class IntakeDisputed(Event):
    """A row of a file could not be taken in, though it may say that the unit insures somebody.

    Until it is settled the unit is not to be told that it insures nobody. `row` is the line of the file.
    """

    name: ClassVar[str] = "registry.intake_disputed.v1"
    uscc: str
    batch_id: str
    row: int
    dataset: str


class IntakeSettled(Event):
    """A disputed row was settled: by its sender, or because the corrected row came."""

    name: ClassVar[str] = "registry.intake_settled.v1"
    uscc: str
    batch_id: str
    row: int


class BatchAccepted(Event):
    """A file was read and every good row of it applied. `sha256` is that of the file, in hex."""

    name: ClassVar[str] = "registry.batch_accepted.v1"
    batch_id: str
    dataset: str
    department: str
    sha256: str
    rows: int
    accepted: int
    unchanged: int
    rejected: int
    complete_through: date | None

    @property
    def subject(self) -> str:
        return self.dataset


class BatchWithdrawn(Event):
    """A file was taken back. Told after the events that undid what it had brought, but under its data set.

    So it may be heard before them: theirs have other keys. `taken_back` of its rows were undone, `kept` were not: something else had touched what they brought, or
    they only ended a participation. `replaced`: a corrected file is to take its place.
    """

    name: ClassVar[str] = "registry.batch_withdrawn.v1"
    batch_id: str
    dataset: str
    department: str
    taken_back: int
    kept: int
    replaced: bool

    @property
    def subject(self) -> str:
        return self.dataset


EVENTS: tuple[type[Event], ...] = (
    UnitRegistered,
    UnitChanged,
    UnitClosed,
    ContactChanged,
    ParticipationStarted,
    ParticipationEnded,
    ParticipationCancelled,
    DataComplete,
    ReferenceChanged,
    IntakeDisputed,
    IntakeSettled,
    BatchAccepted,
    BatchWithdrawn,
)
