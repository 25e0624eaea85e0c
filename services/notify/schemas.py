"""The HTTP contract of notify."""

from datetime import date, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from services.notify.domain import AttemptState, Channel, NoticeState, SendingState
from shared.http import Body, Choice, Listing, Many, Moment, Text, Whole, refuse
from shared.identifiers import check_mobile


def _mobile(text: str) -> str:
    check = check_mobile(text)
    if check.problem is not None:
        raise refuse("not_a_mobile", zh="须为 11 位手机号码", en="must be a mobile number of 11 digits")
    return check.value


Mobile = Annotated[str, AfterValidator(_mobile)]


class SendingIn(Body):
    """How the brake of an account should stand, of all of them without `account`.

    What is left out stays; `daily_cap` null takes the cap away.
    """

    account: Annotated[str, Text(32)] | None = None
    state: Choice[SendingState]
    daily_cap: Annotated[Whole, Field(ge=0, le=10_000_000)] | None = None
    allowlist: Annotated[Many[Mobile], Listing(1000)] | None = None


class SendingOut(BaseModel):
    """How the brake of an account stands. Of the allow-list only its length is shown."""

    account: str
    channel: Channel
    state: SendingState
    daily_cap: int | None
    allowlist: int
    submitted_today: int
    changed_at: datetime | None
    changed_by: str | None


class BindingIn(Body):
    """A phone and the follower of the official account that it belongs to.

    `source` is a word for how the owner of the phone was made sure of, like `sms_code`.
    """

    mobile: Mobile
    openid: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{20,64}$")]
    source: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


class BindingOut(BaseModel):
    """The binding of now."""

    bound_at: datetime


class RecallIn(Body):
    """Which messages were wrong, and why: by their references, or one stage of a rule since an instant.

    A great recall is done in portions: ask again with `cursor` until the answer has no `next_cursor`.
    """

    references: Annotated[Many[Annotated[str, Text(16)]], Field(min_length=1, max_length=1000)] | None = None
    rule: Annotated[str, Text(8)] | None = None
    stage: Annotated[str, Text(32)] | None = None
    since: Moment | None = None
    reason: Annotated[str, Text(200)]
    cursor: Annotated[str, Text(1024)] | None = None

    @model_validator(mode="after")
    def _one_way_to_name_them(self) -> Self:
        filters = (self.rule, self.stage, self.since)
        by_filter, named = all(f is not None for f in filters), self.references is not None
        if named == by_filter or (named and any(f is not None for f in filters)):
            raise refuse(
                "one_of",
                zh="须给出 references，或同时给出 rule、stage、since，二者只取其一",
                en="give either references, or rule, stage and since together",
            )
        return self


class GotOut(BaseModel):
    """A party that has the wrong message, or may have it, and when it left."""

    notice_id: str
    uscc: str
    unit_name: str
    channel: Channel
    reference: str
    at: datetime


class RecallOut(BaseModel):
    """What the recall did. Notices under way end with what is under way; corrections leave like any message."""

    withdrawn: int
    under_way: int
    corrections: int
    got: list[GotOut]
    next_cursor: str | None


class VerifyOut(BaseModel):
    """Whether we sent this message about this unit, and `recalled`: took it back since. Nothing else is said."""

    genuine: bool
    recalled: bool


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
    channel: Channel | None
    created_at: datetime
    not_before: datetime
    due_at: datetime | None
    trying: AttemptState | None
    handed_over_at: datetime | None
    ended_at: datetime | None


class AttemptOut(BaseModel):
    """One submission to a carrier; the number is masked."""

    reference: str
    channel: Channel
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
