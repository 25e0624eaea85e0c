"""Notify on a database file with a frozen clock: doubles of registry's last look and of the carrier."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from services.notify.app import measure
from services.notify.bindings import Bind, bind
from services.notify.carriers import Accepted, Receipt, Submission
from services.notify.commands import Outgoing, Report, take_report
from services.notify.delivery import Delivery
from services.notify.domain import Candidate, Channel, Facts, Go, Hold, Notice, changed, notice_id
from services.notify.handlers import SUBSCRIPTIONS, hold_parked, release_parked
from services.notify.last_look import NoAnswerError
from services.notify.settings import NotifySettings, read_rules
from services.notify.store import Store
from services.notify.tables import PLUMBING, attempt, metadata, notice
from services.notify.work import NotifyWork, Tools, contact_context
from shared.clock import ZONE, Clock, FrozenClock
from shared.documents import pack
from shared.events.base import Event
from shared.events.matching import (
    LeadAdvanced,
    LeadChanged,
    LeadCorrected,
    LeadHeld,
    LeadOpened,
    LeadReleased,
    LeadResolved,
    Void,
)
from shared.events.registry import ContactChanged
from shared.messaging.bus import Message
from shared.messaging.consumer import Consumer, Reaction
from shared.metrics import Reading
from shared.privacy import Cipher, KeyRing, Purpose
from shared.service import Core
from shared.storage.database import Database
from shared.storage.work import Cause
from tests.support.cutting import World, message

USCC = "91371082MA3XTE5T8Q"
OTHER = "91371082MA3XTE5T9N"
MOBILE = "13800138000"
OPENID = "oExampleFollower000000000001"
RULES = replace(read_rules(NotifySettings(), pack(None)), has_wechat=True)
_RING = KeyRing("k1", {"k1": bytes(range(16))}, bytes(range(32)))
SUITE = Cipher(_RING.derive(Purpose.CONTACTS))


def at(day: str, time: str = "10:00") -> datetime:
    return datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=ZONE)


NOW = at("2026-02-10")
"""A Tuesday morning."""


def tools(**changes: Any) -> Tools:
    """Keys that seal the same value alike, so that two runs can be compared; references count up."""
    numbers = iter(range(1, 1 << 20))
    return Tools(
        **{
            "rules": RULES,
            "records": Cipher(_RING.derive(Purpose.RECORDS), random=bytes),
            "contacts": SUITE,
            "phones": _RING.index(Purpose.PHONE_INDEX),
            "random": lambda length: next(numbers).to_bytes(length),
            **changes,
        }
    )


# -- events ------------------------------------------------------------------------------------------


def contact_changed(
    uscc: str = USCC, version: int = 1, *mobiles: str | None, sealer: Cipher = SUITE
) -> ContactChanged:
    people = [
        {"role": "legal_representative", "name": "于示例", "mobile": m} for m in (mobiles or (MOBILE,)) if m
    ]
    context = contact_context(uscc)
    sealed = sealer.seal_texts({context: json.dumps(people).encode()})
    return ContactChanged(uscc=uscc, version=version, sealed=sealed[context])


def _lead(uscc: str, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "lead_id": f"R01-{uscc}",
        "rule": "R01",
        "uscc": uscc,
        "unit_name": "荣成市示例水产有限公司",
        "kind": "enterprise",
        "town": "寻山街道",
        "established_on": date(2026, 1, 9),
        "deadline": date(2026, 2, 9),
        "episode": 1,
        "stage": "reminder",
        "reason": "设立满三十日仍无人参保",
        "evidence_class": "weak",
        "void": Void(insurances=["pension", "unemployment", "injury"], forms=["employer"]),
        "contact_version": 1,
        "held": [],
        **facts,
    }


def lead_opened(uscc: str = USCC, **facts: Any) -> LeadOpened:
    return LeadOpened(**_lead(uscc, facts))


def lead_changed(uscc: str = USCC, **facts: Any) -> LeadChanged:
    return LeadChanged(**_lead(uscc, facts))


def lead_advanced(uscc: str = USCC, **facts: Any) -> LeadAdvanced:
    return LeadAdvanced(**_lead(uscc, {"stage": "second_reminder", **facts}))


def lead_corrected(uscc: str = USCC, **facts: Any) -> LeadCorrected:
    stated = {"stage": "correction", "end": "wrong_data", "corrects_reason": "成立日期登记有误", **facts}
    return LeadCorrected(**_lead(uscc, stated))


def lead_held(reason: str, uscc: str = USCC) -> LeadHeld:
    return LeadHeld(lead_id=f"R01-{uscc}", uscc=uscc, reason=reason)


def lead_released(reason: str, uscc: str = USCC) -> LeadReleased:
    return LeadReleased(lead_id=f"R01-{uscc}", uscc=uscc, reason=reason)


def lead_resolved(end: str = "enrolled", uscc: str = USCC, episode: int = 1) -> LeadResolved:
    return LeadResolved(
        lead_id=f"R01-{uscc}", uscc=uscc, rule="R01", episode=episode, end=end, reason="已参保"
    )


def a_notice(**facts: Any) -> Notice:
    """A queued notice, without a database."""
    event = lead_opened(**facts)
    return changed(
        Notice(
            id=notice_id(event.lead_id, event.episode, event.stage, event.uscc),
            lead_id=event.lead_id,
            rule=event.rule,
            episode=event.episode,
            stage=event.stage,
            recipient=event.uscc,
            uscc=event.uscc,
            facts=Facts(
                event.unit_name,
                event.kind,
                event.town,
                event.established_on,
                event.deadline,
                event.void.model_dump(),
                event.contact_version,
            ),
            not_before=at("2026-02-10"),
            created_at=at("2026-02-10"),
            correlation="test",
            town=event.town,
        )
    )


# -- doubles -----------------------------------------------------------------------------------------


class FakeLastLook:
    """A LastLook: says go, unless told otherwise per unit; `broken` gives no answer at all."""

    def __init__(self) -> None:
        self.holds: dict[str, str] = {}
        self.broken = False
        self.asked: list[list[Candidate]] = []
        self.meanwhile: Callable[[], Any] = lambda: None
        """Called before each answer: what happens while registry thinks."""

    async def look(self, candidates: Sequence[Candidate]) -> list[Go | Hold]:
        self.asked.append(list(candidates))
        result = self.meanwhile()
        if asyncio.iscoroutine(result):
            await result
        if self.broken:
            raise NoAnswerError("broken")
        reasons = [self.holds.get(candidate.notice.uscc) for candidate in candidates]
        return [Go() if reason is None else Hold(reason) for reason in reasons]


class FakeCarrier:
    """A Carrier: accepts, unless the next outcomes were given; remembers what reached it."""

    def __init__(self) -> None:
        self.outcomes: list[Submission] = []
        self.messages: list[tuple[str, str]] = []
        self.meanwhile: Callable[[], Any] = lambda: None
        """Called while a submission is under way; may raise, as a killed process would."""

    async def submit(self, mobile: str, text: str) -> Submission:
        self.messages.append((mobile, text))
        result = self.meanwhile()
        if asyncio.iscoroutine(result):
            await result
        return self.outcomes.pop(0) if self.outcomes else Accepted(f"group-{len(self.messages)}")

    async def hand_over(self, message: Outgoing) -> Submission:
        """As delivery calls a channel."""
        return await self.submit(message.to, message.words.text)


# -- the service -------------------------------------------------------------------------------------


def world(
    database: Database, reactions: Sequence[Reaction] = SUBSCRIPTIONS, *, now: datetime | None = None
) -> World:
    """Handlers and tables alone."""
    now, gear = now or at("2026-02-10"), tools()

    def make_work(db: sa.Connection) -> NotifyWork:
        return NotifyWork(db, gear, now=now, wall=now)

    return World(database, metadata, PLUMBING, make_work, reactions, hold_parked, release_parked, keyed=True)


class Desk:
    """A running notify without HTTP and bus: events go in, duties are stepped by hand."""

    def __init__(
        self, folder: Path, clock: Clock, *, gear: Tools | None = None, rate_per_s: float = 1_000_000
    ) -> None:
        self.clock = clock
        self.tools = gear or tools()
        self.look = FakeLastLook()
        self.carrier = FakeCarrier()
        self.wechat = FakeCarrier()

        def make_work(db: sa.Connection) -> NotifyWork:
            return NotifyWork(db, self.tools, now=clock.now(), wall=clock.wall())

        settings = NotifySettings(data_dir=folder)
        self.core = Core(settings, clock=clock, plumbing=PLUMBING, make_work=make_work)
        with self.core.database.write() as db:
            metadata.create_all(db)
        self.consumer = Consumer(
            "notify",
            SUBSCRIPTIONS,
            PLUMBING,
            self.core.run,
            keyed=True,
            on_parked=hold_parked,
            on_released=release_parked,
        )
        self.delivery = Delivery(
            self.core,
            self.tools,
            self.look,
            {Channel.SMS: self.carrier.hand_over, Channel.WECHAT: self.wechat.hand_over},
            rate_per_s=rate_per_s,
            latest_s=3.2,
        )
        self._count = 0

    @classmethod
    @asynccontextmanager
    async def at_work(cls, folder: Path, when: datetime | Clock, **given: Any) -> Any:
        """A started desk."""
        clock = FrozenClock(when) if isinstance(when, datetime) else when
        desk = cls(folder, clock, **given)
        desk.core.start()
        try:
            yield desk
        finally:
            desk.core.stop()

    async def hear(self, *events: Event) -> None:
        """Receives events, in one batch per topic change."""
        for event in events:
            self._count += 1
            await self.consumer.receive(
                [message(event, id=f"{id(self)}-{self._count}", time=self.clock.now())]
            )

    async def deliver(self) -> int:
        """Steps what hands over and records until it has nothing to do; gives the number of steps that did something."""
        steps = 0
        while await self.delivery.pay() or await self.delivery.deliver():
            steps += 1
            assert steps < 100, "delivery never comes to rest"
        return steps

    async def could_leave(self) -> float:
        """What the figure `notices_due` says."""

        def ask(db: sa.Connection) -> float:
            reading = Reading()
            measure(self.tools, db, self.clock.now(), reading)
            (family,) = (one for one in reading.collect() if one.name.endswith("notices_due"))
            return float(family.samples[0].value)

        return await self.core.read(ask)

    async def settle(self) -> None:
        """Steps the ends of waits until nothing is due."""
        while await self.delivery.settle():
            pass

    async def receipt(
        self, group: str = "group-1", *, mobile: str = MOBILE, delivered: bool = True
    ) -> list[str]:
        """A pushed receipt."""
        code = "CM:0000" if delivered else "CM:2007"
        pushed = Receipt(group, mobile, delivered, code, self.clock.now())
        outcome: list[str] = await self.core.call(take_report, Report(RULES.account, (pushed,)))
        return outcome

    async def wechat_receipt(
        self, group: str = "group-1", *, openid: str = OPENID, delivered: bool = True
    ) -> list[str]:
        """What WeChat says became of a message."""
        code = "success" if delivered else "failed: system failed"
        told = Receipt(group, openid, delivered, code, self.clock.now())
        outcome: list[str] = await self.core.call(take_report, Report(Channel.WECHAT, (told,)))
        return outcome

    async def bound(self, mobile: str = MOBILE, openid: str = OPENID) -> None:
        """Binds a phone to a follower."""
        await self.core.call(bind, Bind(mobile, openid, "sms_code", Cause("desk", "test")))

    async def next_due(self) -> datetime | None:
        """What delivery says about itself."""
        return await self.core.read(lambda db: self.delivery.next_delivery(db, self.clock.now()))

    async def next_expiry(self) -> datetime | None:
        return await self.core.read(lambda db: self.delivery.next_expiry(db, self.clock.now()))

    def store(self, db: sa.Connection) -> Store:
        return Store(db, self.tools.rules)

    async def rows(self, table: sa.Table) -> list[Any]:
        order = (
            table.primary_key.columns if table is not attempt else (attempt.c.opened_at, attempt.c.reference)
        )
        return await self.core.read(lambda db: list(db.execute(sa.select(table).order_by(*order))))

    async def states(self) -> list[tuple[str, str | None]]:
        """State and reason of each notice, by unit and episode."""
        rows = await self.rows(notice)
        rows.sort(key=lambda row: (row.uscc, row.episode))
        return [(row.state, row.reason) for row in rows]

    async def one(self) -> Any:
        """The only notice."""
        (row,) = await self.rows(notice)
        return row

    async def attempts(self) -> list[str]:
        return [row.state for row in await self.rows(attempt)]

    async def told(self) -> list[tuple[str, Any]]:
        """Fact and reason (or channel) of every event in the outbox, in order."""
        return [
            (row.type.split(".")[1], row.data.get("reason") or row.data.get("channel"))
            for row in await self.rows(PLUMBING.outbox)
        ]


Story = Callable[[Desk], Awaitable[None]]


def play(folder: Path, story: Story, when: datetime | FrozenClock = NOW) -> None:
    async def run() -> None:
        async with Desk.at_work(folder, when) as desk:
            await story(desk)

    asyncio.run(run())


async def due(desk: Desk, *units: str, mobile: str = MOBILE) -> None:
    """Notices that may go, all to one phone."""
    for uscc in units or (USCC,):
        await desk.hear(contact_changed(uscc, 1, mobile), lead_opened(uscc))


def batch(events: Iterable[Event], *, when: datetime) -> list[Message]:
    """Messages with ids of their own."""
    return [message(event, id=f"{event.name}-{n}", time=when) for n, event in enumerate(events)]
