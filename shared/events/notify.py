"""What notify tells: how each notice went on, and its one end."""

from datetime import datetime
from typing import ClassVar

from shared.events.base import Event


class NoticeFacts(Event):
    """The notice an event speaks of. `lead_id` is None for notices without a lead."""

    notice_id: str
    lead_id: str | None
    uscc: str
    episode: int
    stage: str
    at: datetime


class NoticeHandedOver(NoticeFacts):
    """A carrier accepted the notice; once more by `sms` when nothing came of `wechat`, never otherwise.

    `reference` is the number printed in the message, which may be about several units: each has its event.
    """

    name: ClassVar[str] = "notify.notice_handed_over.v1"
    channel: str
    reference: str


class NoticeDelivered(NoticeFacts):
    """The carrier's receipt says that the notice arrived; it may correct an earlier `unreached`."""

    name: ClassVar[str] = "notify.notice_delivered.v1"
    channel: str


class NoticeUnreached(NoticeFacts):
    """The notice reached nobody. `reason`: no_contact, refused, silent, unknown."""

    name: ClassVar[str] = "notify.notice_unreached.v1"
    reason: str


class NoticeWithdrawn(NoticeFacts):
    """The notice ended unsent because its lead ended; `reason` is the lead's end, or `recalled`."""

    name: ClassVar[str] = "notify.notice_withdrawn.v1"
    reason: str


EVENTS: tuple[type[Event], ...] = (NoticeHandedOver, NoticeDelivered, NoticeUnreached, NoticeWithdrawn)
