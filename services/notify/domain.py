"""Notices, when they may leave, and what they say. Pure: time, calendar and randomness are arguments."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from string import Formatter
from typing import Any, Final
from uuid import UUID, uuid5

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


# --------------------------------------------------------------------------- notices

_NAMESPACE: Final = UUID("6a3c9d4e-0f0b-5a57-9d7a-3c1f5b1a7e21")
LOOK: Final = "look:"
"""Begins the reasons that a last look gave; those are looked at again, all others wait for an event."""
TEXT: Final = "text"
_OWN_REASONS: Final = frozenset({"contact", "parked_here", "allowlist", "phone", TEXT})
"""Reasons of our own: contact not here yet, key parked here, not on the allow-list, phone with an unknown
outcome, nothing that could be said (text or contacts). All others are the lead's.
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

    @property
    def unsent(self) -> bool:
        """Whether it still may leave or be withdrawn."""
        return self.state in UNSENT


def notice_id(lead_id: str, episode: int, stage: str, recipient: str) -> str:
    """The id of the one notice with this key."""
    return str(uuid5(_NAMESPACE, f"{lead_id}\n{episode}\n{stage}\n{recipient}"))


def changed(notice: Notice, **values: Any) -> Notice:
    """The notice with new values; its place in the queue follows from them."""
    new = replace(notice, **values, version=notice.version + 1)
    if not new.unsent:
        return replace(new, held=(), due_at=None, look_again_at=None)
    if new.trying:
        return replace(new, state=NoticeState.QUEUED, due_at=None)
    blocked = any(not reason.startswith(LOOK) for reason in new.held)
    due_at = None if blocked else max(new.not_before, new.look_again_at or new.not_before)
    return replace(new, state=NoticeState.HELD if new.held else NoticeState.QUEUED, due_at=due_at)


def after_event(
    notice: Notice, *, add: Iterable[str] = (), drop: Iterable[str] = (), **values: Any
) -> Notice:
    """The notice after an event: holds come and go, and what the last look found is worth nothing any more."""
    kept = {reason for reason in notice.held if not reason.startswith(LOOK)}
    held = tuple(sorted((kept | set(add)) - set(drop)))
    return changed(notice, held=held, look_again_at=None, setbacks=0, **values)


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

    `readable` is false where the contacts can't be opened: nobody knows whether there is a phone.
    """

    notice: Notice
    mobile: str | None = field(repr=False)
    contact_version: int
    readable: bool = True


class SendingState(StrEnum):
    """The brake of the carrier account."""

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
class Attempt:
    """One submission to a carrier and the notices it covers. Its reference is printed in the message."""

    reference: str
    account: str
    mobile: str = field(repr=False)
    mobile_index: str
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


# --------------------------------------------------------------------------- contacts and texts

_ROLES: Final = ("hr", "contact", "legal_representative", "finance", "agent")
"""Whom at an employer to write to, best first."""


def pick_mobile(contacts: Iterable[Mapping[str, Any]]) -> str | None:
    """The mobile number to write to, 11 digits; None when no contact has a usable one."""
    found: dict[str, str] = {}
    for contact in contacts:
        check = check_mobile(str(contact.get("mobile") or ""))
        if check.problem is None:
            found.setdefault(str(contact.get("role")), check.value)
    known = [found[role] for role in _ROLES if role in found]
    return next(iter((*known, *found.values())), None)


# No 0 O 1 I: people read it out on the phone.
_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
REFERENCE_BYTES: Final = 6


def make_reference(random: bytes) -> str:
    """A reference number of 9 characters (45 bits) from 6 random bytes."""
    value = int.from_bytes(random)
    return "".join(_ALPHABET[value >> 5 * place & 31] for place in range(9))


MANDATORY: Final = frozenset({"unit", "established_on", "deadline", "office", "service_number", "reference"})
"""Variables that every text must hold."""


class TextError(ValueError):
    """A template lacks something that the law or the design asks for; mend texts.toml."""


@dataclass(frozen=True)
class Template:
    """The words of one stage of a rule. Raises TextError for a missing or an unknown variable, a missing word."""

    text: str
    words: Sequence[str]

    def __post_init__(self) -> None:
        holds = {name for _, name, _, _ in Formatter().parse(self.text) if name is not None}
        if missing := sorted(MANDATORY - holds):
            raise TextError(f"the text lacks the variable {', '.join(missing)}")
        if unknown := sorted(holds - MANDATORY):
            raise TextError(f"the text has an unknown variable {', '.join(unknown)}")
        if lacking := [word for word in self.words if word not in self.text]:
            raise TextError(f"the text lacks the word {', '.join(lacking)}")

    def render(self, facts: Facts, *, office: str, service_number: str, reference: str) -> str:
        """The message, without the signature that the carrier puts before it."""
        return self.text.format(
            unit=facts.unit_name,
            established_on=_written(facts.established_on),
            deadline=_written(facts.deadline),
            office=office,
            service_number=service_number,
            reference=reference,
        )


def _written(day: date) -> str:
    return f"{day.year}年{day.month}月{day.day}日"


@dataclass(frozen=True)
class Rules:
    """What the city decides: hours, caps, waits, words. `calendar` holds the years of the city pack."""

    hours: Hours
    calendar: Calendar
    cap: int
    cap_days: timedelta
    silence: timedelta
    unknown: timedelta
    office: str
    service_number: str
    signature: str
    templates: Mapping[tuple[str, str], Template]
    account: str
    sending: Sending
