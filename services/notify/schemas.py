"""The HTTP contract of notify."""

from datetime import date, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from services.notify.domain import AttemptState, NoticeState, SendingState
from shared.http import Body, Choice, Many, Whole, refuse
from shared.identifiers import check_mobile


def _mobile(text: str) -> str:
    check = check_mobile(text)
    if check.problem is not None:
        raise refuse("not_a_mobile", zh="须为 11 位手机号码", en="must be a mobile number of 11 digits")
    return check.value


Mobile = Annotated[str, AfterValidator(_mobile)]


class SendingIn(Body):
    """How the brake should stand. What is left out stays; `daily_cap` null takes the cap away."""

    state: Choice[SendingState]
    daily_cap: Annotated[Whole, Field(ge=0, le=10_000_000)] | None = None
    allowlist: Annotated[Many[Mobile], Field(max_length=1000)] | None = None


class SendingOut(BaseModel):
    """How the brake stands. Of the allow-list only its length is shown."""

    account: str
    state: SendingState
    daily_cap: int | None
    allowlist: int
    submitted_today: int
    changed_at: datetime | None
    changed_by: str | None


class NoticeRow(BaseModel):
    """A notice in a list.

    Why a queued one does not go: `trying` is open or unknown while a submission decides; `due_at` is when it
    is looked at next, null while only an event can move it. `town` is the unit's today.
    """

    id: str
    lead_id: str
    rule: str
    episode: int
    stage: str
    uscc: str
    unit_name: str
    town: str | None
    state: NoticeState
    held: list[str]
    reason: str | None
    corrected: bool
    created_at: datetime
    not_before: datetime
    due_at: datetime | None
    trying: AttemptState | None
    handed_over_at: datetime | None
    ended_at: datetime | None


class AttemptOut(BaseModel):
    """One submission to a carrier; the number is masked."""

    reference: str
    channel: str
    state: AttemptState
    mobile: str
    text: str
    fragments: int
    opened_at: datetime
    looked_at: datetime
    settled_at: datetime | None
    code: str | None


class NoticeOut(NoticeRow):
    """A notice with its attempts, oldest first. `text` is that of the last one, None before the first."""

    established_on: date
    deadline: date
    text: str | None
    mobile: str | None
    attempts: list[AttemptOut]
