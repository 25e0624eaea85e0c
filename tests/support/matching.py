"""Matching on a database file, driven by events and a frozen clock; no bus, no HTTP."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from services.matching import tables
from services.matching.commands import (
    ActOnLead,
    GrantExemption,
    ReleaseStock,
    ReportVisit,
    act_on_lead,
    advance_leads,
    grant_exemption,
    look_at_clocks,
    release_stock,
    report_visit,
)
from services.matching.domain import Action, Case
from services.matching.handlers import SUBSCRIPTIONS, freeze, thaw
from services.matching.ladder import VisitResult
from services.matching.settings import read_rule
from services.matching.work import MatchingWork
from shared.calendar import Calendar, load_calendar
from shared.clock import ZONE, FrozenClock
from shared.documents import pack
from shared.events.base import Event
from shared.events.catalogue import EVENTS, PARTITIONS
from shared.events.notify import (
    NoticeDelivered,
    NoticeHandedOver,
    NoticeUnreached,
    NoticeWithdrawn,
)
from shared.events.registry import (
    DataComplete,
    IntakeDisputed,
    IntakeSettled,
    ParticipationCancelled,
    ParticipationEnded,
    ParticipationStarted,
    ReferenceChanged,
    UnitChanged,
    UnitClosed,
    UnitRegistered,
)
from shared.messaging.bus import Message
from shared.messaging.consumer import Reaction
from shared.storage.database import Database
from shared.storage.work import Cause
from tests.support.cutting import World, message, poison

USCC = "91371082MA3XTE5T8Q"
LEAD = f"R01-{USCC}"
RULE = read_rule(pack(None))
CALENDAR = load_calendar(pack(None))
OFFICIAL = Cause("official", "request-1")


def at(day: str, time: str = "10:00") -> datetime:
    return datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=ZONE)


def _unit(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "uscc": USCC,
        "unit_name": "荣成市示例水产有限公司",
        "kind": "enterprise",
        "status": "active",
        "established_on": date(2026, 1, 9),
        "town": "寻山街道",
        "code_confirmed": True,
        "contact_version": 1,
        "version": 1,
        "recorded_at": at("2026-01-12"),
        **given,
    }


def registered(**given: Any) -> UnitRegistered:
    return UnitRegistered(**_unit(given))


def changed(version: int = 2, **given: Any) -> UnitChanged:
    return UnitChanged(changed=sorted(given), **_unit({"version": version, **given}))


def closed(version: int = 2, **given: Any) -> UnitClosed:
    return UnitClosed(closed_on=date(2026, 2, 1), **_unit({"version": version, "status": "closed", **given}))


def _participation(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "participation_id": 1,
        "person": 7,
        "insurance": "pension",
        "form": "employer",
        "uscc": USCC,
        "kind": "first",
        "started_on": date(2026, 2, 9),
        "town": "寻山街道",
        "recorded_on": date(2026, 2, 9),
        "first_version": 1,
        **given,
    }


def started(participation_id: int = 1, **given: Any) -> ParticipationStarted:
    return ParticipationStarted(
        first_ever=True, **_participation({"participation_id": participation_id, **given})
    )


def ended(participation_id: int = 1, **given: Any) -> ParticipationEnded:
    return ParticipationEnded(
        ended_on=date(2026, 3, 1), **_participation({"participation_id": participation_id, **given})
    )


def cancelled(participation_id: int = 1, **given: Any) -> ParticipationCancelled:
    return ParticipationCancelled(
        counts_now=None, **_participation({"participation_id": participation_id, **given})
    )


def disputed(row: int, **given: Any) -> IntakeDisputed:
    return IntakeDisputed(
        **{"uscc": USCC, "batch_id": "b1", "row": row, "dataset": "participations", **given}
    )


def settled(row: int, **given: Any) -> IntakeSettled:
    return IntakeSettled(**{"uscc": USCC, "batch_id": "b1", "row": row, **given})


def _notice(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "notice_id": "notice-1",
        "lead_id": LEAD,
        "uscc": USCC,
        "episode": 1,
        "stage": "reminder",
        "at": at("2026-02-10", "08:30"),
        **given,
    }


def handed_over(**given: Any) -> NoticeHandedOver:
    return NoticeHandedOver(channel="sms", reference="12345678", **_notice(given))


def delivered(**given: Any) -> NoticeDelivered:
    return NoticeDelivered(channel="sms", **_notice(given))


def unreached(**given: Any) -> NoticeUnreached:
    return NoticeUnreached(**_notice({"reason": "silent", **given}))


def withdrawn(**given: Any) -> NoticeWithdrawn:
    return NoticeWithdrawn(**_notice({"reason": "enrolled", **given}))


def calendar(year: int, holidays: Iterable[date] = (), makeup_days: Iterable[date] = ()) -> ReferenceChanged:
    return ReferenceChanged(
        reference="calendar",
        year=year,
        holidays=list(holidays),
        makeup_days=list(makeup_days),
        source=f"notice of {year}",
    )


def world(
    database: Database,
    *,
    now: Callable[[], datetime],
    reactions: Sequence[Reaction] = SUBSCRIPTIONS,
    published: Calendar = CALENDAR,
) -> World:
    """Matching's tables and handlers, for the checker of cuttings too."""

    def make_work(db: sa.Connection) -> MatchingWork:
        return MatchingWork(db, rule=RULE, calendar=published, now=now(), wall=now())

    return World(
        database,
        tables.metadata,
        tables.PLUMBING,
        make_work,
        reactions,
        on_parked=freeze,
        on_released=thaw,
        keyed=True,
    )


class Matching:
    """The service without its loops: `tell` it events, `move_to` an instant, look at what it did."""

    def __init__(self, place: Path | str, *, start: datetime, published: Calendar = CALENDAR) -> None:
        """`place`: a folder for a file of its own, or the URL of a database."""
        self.clock = FrozenClock(start)
        url = place if isinstance(place, str) else f"sqlite:///{place / 'matching.db'}"
        self.database = Database(url)
        self.world = world(self.database, now=self.clock.now, published=published)
        self._ids = 0
        self._heard = 0

    def message(self, event: Event, partition: int | None = None, *, torn: bool = False) -> Message:
        self._ids += 1
        made = (poison if torn else message)(event, id=f"event-{self._ids}", time=self.clock.now())
        return made if partition is None else made._replace(partition=partition)

    def receive(self, *messages: Message) -> None:
        asyncio.run(self.world.consumer.receive(messages))

    def tell(self, *events: Event) -> None:
        """Each event in a batch of its own; broadcasts go to every partition."""
        for event in events:
            for partition in range(PARTITIONS) if event.broadcast else (None,):
                self.receive(self.message(event, partition))

    def complete(self, through: str) -> None:
        """Registry says that participations are complete, and what waited for that goes on."""
        self.tell(DataComplete(dataset="participations", through=date.fromisoformat(through)))
        self.look()
        self.climb()

    def look(self) -> int:
        """What the duty of the clocks does when time has come; returns how many portions it took."""
        return self._portions(look_at_clocks)

    def climb(self) -> int:
        """The same of the ladder's duty."""
        return self._portions(advance_leads)

    def _portions(self, duty: Callable[[MatchingWork], bool]) -> int:
        portions = 0
        while self.run(duty):
            portions += 1
        return portions

    def move_to(self, day: str, time: str = "00:00") -> None:
        self.clock.move_to(at(day, time))
        self.look()
        self.climb()

    def live_to(self, day: str) -> None:
        """Days go by on which participations are complete as soon as the day is over."""
        end = at(day, "00:00")
        while self.clock.now() < end:
            night = (self.clock.now() + timedelta(days=1)).date()
            self.move_to(night.isoformat())
            self.complete((night - timedelta(days=1)).isoformat())

    def run(self, do: Callable[[MatchingWork], Any]) -> Any:
        return asyncio.run(self.world.run(do))

    def act(
        self,
        action: str,
        reason: str = "核实",
        *,
        end: str | None = None,
        town: str | None = None,
        expires_on: date | None = None,
    ) -> Case:
        item = ActOnLead(
            LEAD, Action(action), end, reason, town, OFFICIAL, proof="证明", expires_on=expires_on
        )
        found: Case = self.run(lambda work: act_on_lead(work, item))
        return found

    def exempt(self, uscc: str = USCC, *, expires_on: date | None = None, town: str | None = None) -> None:
        item = GrantExemption(uscc, "无雇工", "承诺书", expires_on, town, OFFICIAL)
        self.run(lambda work: grant_exemption(work, item))

    def report(
        self, result: str = "promised", *, note: str | None = None, visit: int = 0, town: str | None = None
    ) -> None:
        id_ = self.rows(tables.visit)[visit].id
        item = ReportVisit(id_, VisitResult(result), note, town, OFFICIAL)
        self.run(lambda work: report_visit(work, item))

    def release(self, count: int, *towns: str) -> int:
        released: int = self.run(lambda work: release_stock(work, ReleaseStock(count, towns, OFFICIAL)))
        return released

    def case(self, uscc: str = USCC) -> Case:
        found: Case = self.run(lambda work: work.cases([uscc])[uscc])
        return found

    def heard(self) -> list[Event]:
        """The events told since the last call."""
        outbox = tables.PLUMBING.outbox
        rows = self.rows(outbox)[self._heard :]
        self._heard += len(rows)
        return [EVENTS[row.type].model_validate(row.data) for row in rows]

    def names(self) -> list[str]:
        """What was told since the last call, in short: such as `lead_opened 1`."""
        found = []
        for event in self.heard():
            data = event.model_dump()
            detail = data.get("end") or (data.get("episode") if "episode" in data else data["reason"])
            found.append(f"{event.name.split('.')[1]} {detail}")
        return found

    def rows(self, table: sa.Table) -> list[Any]:
        with self.database.read() as db:
            return list(db.execute(sa.select(table).order_by(*table.primary_key.columns)))

    def close(self) -> None:
        self.database.close()
