"""Notices, when and by which channel they may leave. Pure: time and calendar are arguments."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid5

from services.notify.words import Issuer, Subject, Template
from shared.calendar import Calendar
from shared.clock import ZONE, start_of, today
from shared.identifiers import check_mobile

# --------------------------------------------------------------------------- hours

LEEWAY: Final = timedelta(seconds=10)
"""What leaves must still arrive inside the hours: nothing begins in their last seconds."""


@dataclass(frozen=True)
class Hours:
    """When messages may leave, in Shanghai time. Nothing leaves from `blocked_from` until `blocked_until`."""

    opens: time
    closes: time
    blocked_from: time
    blocked_until: time
    working_days_only: bool = True

    def admits(self, at: datetime, calendar: Calendar) -> bool:
        """Whether a message may arrive at this instant."""
        local = at.astimezone(ZONE)
        moment = local.time()
        if self.blocked_from <= self.blocked_until:
            blocked = self.blocked_from <= moment < self.blocked_until
        else:
            blocked = moment >= self.blocked_from or moment < self.blocked_until
        worked = not self.working_days_only or calendar.is_working_day(local.date())
        return self.opens <= moment < self.closes and worked and not blocked


def is_open(now: datetime, calendar: Calendar, hours: Hours) -> bool:
    """Whether a hand-over may begin at this instant."""
    return hours.admits(now, calendar) and hours.admits(now + LEEWAY, calendar)


def next_opening(now: datetime, calendar: Calendar, hours: Hours) -> datetime:
    """The instant itself when it is open, else the first one after it that is.

    Raises ValueError when there is none within 400 days.
    """
    if is_open(now, calendar, hours):
        return now
    day = today(now)
    for _ in range(400):
        for moment in sorted((hours.opens, hours.blocked_until)):
            at = datetime.combine(day, moment, ZONE)
            if at >= now and is_open(at, calendar, hours):
                return at
        day += timedelta(days=1)
    raise ValueError("the sending hours never open; mend sending.toml")


def next_slot(at: datetime, calendar: Calendar, hours: Hours, length: timedelta) -> datetime:
    """The first slot from an instant on: an opening, or a whole number of `length` after the day's first hour.

    A phone that serves several units gets messages at slots alone, so that they join.
    """
    opening = next_opening(at, calendar, hours)
    if opening != at:
        return opening
    first = datetime.combine(today(at), hours.opens, ZONE)
    slot = first - (first - at) // length * length
    return next_opening(slot, calendar, hours)


# --------------------------------------------------------------------------- notices

_NAMESPACE: Final = UUID("6a3c9d4e-0f0b-5a57-9d7a-3c1f5b1a7e21")
LOOK: Final = "look:"
"""Begins the reasons that a last look gave; those are looked at again, all others wait for an event."""
TEXT: Final = "text"
STOPPED: Final = "stopped"
ALLOWLIST: Final = "allowlist"
CAP: Final = LOOK + "cap"
"""The account has sent what it may today; a new day or another brake mends it."""
_OWN_REASONS: Final = frozenset({"contact", "parked_here", ALLOWLIST, STOPPED, "phone", TEXT})
"""Reasons of our own: contact not here yet, key parked here, not on the allow-list, account stopped, phone with
an unknown outcome, nothing that could be said (text or contacts). All others are the lead's.
"""


class NoticeState(StrEnum):
    """Where a notice stands."""

    QUEUED = "queued"
    HELD = "held"
    HANDED_OVER = "handed_over"
    DELIVERED = "delivered"
    UNREACHED = "unreached"
    WITHDRAWN = "withdrawn"


UNSENT: Final = (NoticeState.QUEUED, NoticeState.HELD)


class Channel(StrEnum):
    """A way to a person. WeChat comes first where the phone is bound to a follower; an SMS is always the last."""

    WECHAT = "wechat"
    SMS = "sms"


CORRECTION: Final = "correction"
"""Begins the stages that take back a wrong message. `correction:reminder` takes back what was recalled."""


class AttemptState(StrEnum):
    """What became of one submission. `released`: it provably never left."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    RELEASED = "released"


@dataclass(frozen=True)
class Facts:
    """What the lead rests on, as text and last look need it. `void` is what would void the lead."""

    unit_name: str
    kind: str
    town: str | None
    established_on: date
    deadline: date
    void: Mapping[str, Any]
    contact_version: int


@dataclass(frozen=True)
class Notice:
    """One message that somebody has to get, once.

    `trying` is `open` or `unknown` while an attempt decides. `due_at` is when delivery should look at it;
    None while only an event can move it. `setbacks` counts holds and refusals since the last event.
    `version` grows with every change, so that what was looked at can be told from what is there now.
    `town` is the unit's today and says who may see the notice; the facts are those it is sent with.
    `channel` is what took it last; `sms_only` says that WeChat is through with. `corrects` is the reference
    of the wrong message that it takes back.
    """

    id: str
    lead_id: str
    rule: str
    episode: int
    stage: str
    recipient: str
    uscc: str
    facts: Facts
    not_before: datetime
    created_at: datetime
    correlation: str
    state: NoticeState = NoticeState.QUEUED
    held: tuple[str, ...] = ()
    look_again_at: datetime | None = None
    due_at: datetime | None = None
    setbacks: int = 0
    trying: AttemptState | None = None
    withdraw_reason: str | None = None
    reason: str | None = None
    corrected: bool = False
    mobile_index: str | None = None
    version: int = 0
    handed_over_at: datetime | None = None
    ended_at: datetime | None = None
    town: str | None = None
    channel: Channel | None = None
    sms_only: bool = False
    corrects: str | None = None

    @property
    def unsent(self) -> bool:
        """Whether nothing of it has left yet."""
        return self.state in UNSENT

    @property
    def sendable(self) -> bool:
        """Whether something may still leave: it is unsent, or WeChat alone has it and an SMS may follow."""
        return self.unsent or (self.state is NoticeState.HANDED_OVER and self.channel is Channel.WECHAT)

    @property
    def moving_on(self) -> bool:
        """Whether WeChat took it, nothing came of that, and the SMS is next."""
        return self.sendable and not self.unsent and self.sms_only

    @property
    def is_correction(self) -> bool:
        """Whether it takes back a wrong message; then registry need not be asked whether it may go."""
        return self.stage.startswith(CORRECTION)

    @property
    def wording(self) -> tuple[str, str]:
        """Rule and stage whose words it has."""
        return self.rule, self.stage.partition(":")[0]

    @property
    def subject(self) -> Subject:
        """What its message says about the unit."""
        return Subject(self.facts.unit_name, self.facts.established_on, self.facts.deadline)


def notice_id(lead_id: str, episode: int, stage: str, recipient: str) -> str:
    """The id of the one notice with this key."""
    return str(uuid5(_NAMESPACE, f"{lead_id}\n{episode}\n{stage}\n{recipient}"))


def changed(notice: Notice, **values: Any) -> Notice:
    """The notice with new values; its place in the queue follows from them."""
    new = replace(notice, **values, version=notice.version + 1)
    if not new.sendable:
        return replace(new, held=(), due_at=None, look_again_at=None)
    blocked = any(not reason.startswith(LOOK) for reason in new.held)
    idle = blocked or new.trying or not (new.unsent or new.moving_on)
    due_at = None if idle else max(new.not_before, new.look_again_at or new.not_before)
    if not new.unsent:
        return replace(new, due_at=due_at)
    held = new.held and not new.trying
    return replace(new, state=NoticeState.HELD if held else NoticeState.QUEUED, due_at=due_at)


def after_event(
    notice: Notice, now: datetime, *, add: Iterable[str] = (), drop: Iterable[str] = (), **values: Any
) -> Notice:
    """The notice after an event: holds come and go, and what the last look found is worth nothing any more.

    It is due from now on, not from long ago, so that a phone that serves several units gets it with others.
    """
    kept = {reason for reason in notice.held if not reason.startswith(LOOK)}
    held = tuple(sorted((kept | set(add)) - set(drop)))
    return changed(notice, held=held, look_again_at=now, setbacks=0, **values)


def lead_reasons(held: Iterable[str]) -> set[str]:
    """Those reasons that are the lead's."""
    return {reason for reason in held if reason not in _OWN_REASONS and not reason.startswith(LOOK)}


_MINUTE: Final = timedelta(minutes=1)
_BACK_OFF: Final = (10 * _MINUTE, 30 * _MINUTE, 60 * _MINUTE, 240 * _MINUTE)
_ON_ITS_WAY: Final = frozenset({"fact_differs", "contact_newer"})
"""The event that mends these is on its way already."""


def again_at(reason: str, setbacks: int, now: datetime, calendar: Calendar, hours: Hours) -> datetime:
    """When to look again after so many setbacks: 10 min, 30 min, 1 h, 4 h, then the next day that opens."""
    waits = (_MINUTE,) * 3 + _BACK_OFF if reason in _ON_ITS_WAY else _BACK_OFF
    if setbacks < len(waits):
        return now + waits[setbacks]
    return next_opening(start_of(today(now) + timedelta(days=1)), calendar, hours)


def held_by_look(notice: Notice, reason: str, now: datetime, calendar: Calendar, hours: Hours) -> Notice:
    """The notice after registry said that it may not go now."""
    kept = {r for r in notice.held if not r.startswith(LOOK)}
    return changed(
        notice,
        held=tuple(sorted(kept | {LOOK + reason})),
        look_again_at=again_at(reason, notice.setbacks, now, calendar, hours),
        setbacks=notice.setbacks + 1,
    )


# --------------------------------------------------------------------------- last look and brake


@dataclass(frozen=True)
class Go:
    """Registry knows nothing that stands against the notice."""


@dataclass(frozen=True)
class Hold:
    """Registry says why the notice may not go now."""

    reason: str


@dataclass(frozen=True)
class Candidate:
    """A notice that is due, the phone it would go to (None: no usable one), and which contacts say so.

    `openid` names the follower that the phone is bound to, where the notice may go by WeChat. `readable` is
    false where the contacts can't be opened: nobody knows whether there is a phone. `wrong` holds the references
    of all that a correction takes back.
    """

    notice: Notice
    mobile: str | None = field(repr=False)
    contact_version: int
    openid: str | None = field(default=None, repr=False)
    readable: bool = True
    wrong: tuple[str, ...] = ()

    @property
    def channel(self) -> Channel:
        """By which channel it would go now."""
        return Channel.SMS if self.openid is None else Channel.WECHAT

    @property
    def message(self) -> tuple[object, ...]:
        """What is equal for notices that join in one message."""
        if self.mobile is None:
            return (self.notice.id,)
        return self.mobile, self.channel, self.notice.wording, self.notice.corrects


class SendingState(StrEnum):
    """The brake of one carrier account."""

    OFF = "off"
    ALLOWLIST = "allowlist"
    ON = "on"


@dataclass(frozen=True)
class Sending:
    """The brake, the most submissions a day (None: no limit), and the phones that `allowlist` lets through."""

    state: SendingState
    daily_cap: int | None
    allowlist: frozenset[str] = frozenset()
    changed_at: datetime | None = None
    changed_by: str | None = None

    def admits(self, mobile_index: str) -> bool:
        """Whether a message to this phone may leave."""
        if self.state is SendingState.ALLOWLIST:
            return mobile_index in self.allowlist
        return self.state is SendingState.ON


@dataclass(frozen=True)
class Line:
    """An account today: its brake, and how many more submissions the cap lets through (None: no limit)."""

    brake: Sending
    left: int | None

    @property
    def is_off(self) -> bool:
        """Whether nobody gets anything."""
        return self.brake.state is SendingState.OFF

    @property
    def takes_more(self) -> bool:
        """Whether something may still leave today."""
        return not self.is_off and self.left != 0

    def obstacle(self, mobile_index: str) -> str | None:
        """Why a message to this phone has to wait, None when it may leave."""
        if not self.brake.admits(mobile_index):
            return STOPPED if self.is_off else ALLOWLIST
        return CAP if self.left == 0 else None


@dataclass(frozen=True)
class Attempt:
    """One submission to a carrier and the notices it covers. Its reference is printed in the message.

    `recipient_index` finds what the carrier knows the recipient by: the number, or the follower's openid.
    """

    reference: str
    account: str
    channel: Channel
    mobile: str = field(repr=False)
    mobile_index: str
    recipient_index: str
    text: str
    fragments: int
    state: AttemptState
    opened_at: datetime
    looked_at: datetime
    looked_wall: datetime
    message_group: str | None = None
    code: str | None = None
    settled_at: datetime | None = None
    expires_at: datetime | None = None


# --------------------------------------------------------------------------- contacts and the city's rules


def pick_mobile(contacts: Iterable[Mapping[str, Any]], order: Sequence[str]) -> str | None:
    """The mobile number to write to, 11 digits; None when no contact has a usable one.

    `order` lists roles, best first; a role that is not in it comes last.
    """
    found: dict[str, str] = {}
    for contact in contacts:
        check = check_mobile(str(contact.get("mobile") or ""))
        if check.problem is None:
            found.setdefault(str(contact.get("role")), check.value)
    known = [found[role] for role in order if role in found]
    return next(iter((*known, *found.values())), None)


@dataclass(frozen=True)
class Rules:
    """What the city decides: hours, caps, waits, words. `calendar` holds the years of the city pack.

    `slot` is how often a phone that serves several units may get a message; `silence` and `wechat_silence`
    are the longest waits for a receipt, by channel. `sending` is how the brake of an account begins.
    """

    hours: Hours
    calendar: Calendar
    cap: int
    cap_days: timedelta
    slot: timedelta
    silence: timedelta
    wechat_silence: timedelta
    unknown: timedelta
    contact_order: Sequence[str]
    issuer: Issuer
    signature: str
    templates: Mapping[tuple[str, str], Template]
    account: str
    has_wechat: bool
    sending: Sending

    @property
    def accounts(self) -> Mapping[Channel, str]:
        """The carriers' accounts by channel; each has a brake of its own."""
        sms = {Channel.SMS: self.account}
        return {**sms, Channel.WECHAT: Channel.WECHAT.value} if self.has_wechat else sms

    def by_wechat(self, notice: Notice) -> bool:
        """Whether there are words of WeChat for a notice."""
        template = self.templates.get(notice.wording)
        return template is not None and template.wechat is not None
