"""Who counts: what participations leave in the tables of targets, in any order and any cutting."""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.targets import handlers
from services.targets.domain import Tally
from services.targets.handlers import SUBSCRIPTIONS
from services.targets.store import Figures
from services.targets.tables import PLUMBING, counted, metadata, spell
from services.targets.work import TargetsWork
from shared.clock import ZONE
from shared.events.base import Event
from shared.events.registry import (
    Counted,
    ParticipationCancelled,
    ParticipationEnded,
    ParticipationStarted,
)
from shared.messaging.bus import Message
from shared.messaging.consumer import Reaction
from shared.storage.database import Database
from tests.support.cutting import World, assert_same_for_any_cutting, message, poison
from tests.support.native import Postgres

NOW = datetime(2026, 2, 10, 10, tzinfo=ZONE)
DAY = NOW.date()
UNITS = ("91371082MA3XTE5T8Q", "91371082MA3XTE5T9N", None)
"""None: flexible form, whose key is the person."""


def world(database: Database, reactions: Sequence[Reaction] = SUBSCRIPTIONS) -> World:
    def make_work(db: sa.Connection) -> TargetsWork:
        return TargetsWork(db, PLUMBING, now=NOW, wall=NOW)

    return World(database, metadata, PLUMBING, make_work, reactions)


@dataclass
class Ledger:
    """Registry's side, in miniature: decides who is first, and tells it with a growing version."""

    events: list[Event] = field(default_factory=list)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    versions: dict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(int))
    first: dict[tuple[int, str], int | None] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)

    def start(self, **given: Any) -> int:
        made = {
            "participation_id": len(self.facts) + 1,
            "person": 7,
            "insurance": "pension",
            "uscc": UNITS[0],
            "kind": "first",
            "started_on": date(2026, 1, 9),
            "town": "寻山街道",
            "recorded_on": date(2026, 1, 10),
            "baseline": False,
            **given,
        }
        made["form"] = "employer" if made["uscc"] else "flexible"
        id_ = made["participation_id"]
        self.facts[id_] = made
        key = (made["person"], made["insurance"])
        first_ever = self.first.get(key) is None
        if first_ever:
            self._decide(key, id_)
        self.events.append(
            ParticipationStarted(**made, first_version=self.versions[key], first_ever=first_ever)
        )
        return id_

    def end(self, id_: int) -> None:
        facts, key = self._of(id_)
        self.events.append(
            ParticipationEnded(**facts, first_version=self.versions[key], ended_on=date(2026, 2, 1))
        )

    def cancel(self, id_: int) -> None:
        facts, key = self._of(id_)
        self.cancelled.add(id_)
        if self.first[key] == id_:
            left = [
                other
                for other, its in self.facts.items()
                if (its["person"], its["insurance"]) == key and other not in self.cancelled
            ]
            self._decide(key, min(left, default=None))
        now = self.first[key]
        names = ("participation_id", "kind", "town", "started_on", "recorded_on", "baseline")
        counts_now = None if now is None else Counted(**{n: self.facts[now][n] for n in names})
        self.events.append(
            ParticipationCancelled(**facts, first_version=self.versions[key], counts_now=counts_now)
        )

    def messages(self) -> list[Message]:
        return [message(event, id=f"event-{n}", time=NOW) for n, event in enumerate(self.events)]

    def _decide(self, key: tuple[int, str], id_: int | None) -> None:
        self.versions[key] += 1
        self.first[key] = id_

    def _of(self, id_: int) -> tuple[dict[str, Any], tuple[int, str]]:
        facts = {name: value for name, value in self.facts[id_].items() if name != "baseline"}
        return facts, (facts["person"], facts["insurance"])


@st.composite
def ledgers(draw: st.DrawFn, least: int = 1, most: int = 12) -> Ledger:
    """A few people, units and insurances, with starts, ends and cancellations."""
    ledger = Ledger()
    ended: set[int] = set()
    for _ in range(draw(st.integers(least, most))):
        open_ones = [id_ for id_ in ledger.facts if id_ not in ledger.cancelled]
        what = draw(st.sampled_from(["start", "start", "end", "cancel"])) if open_ones else "start"
        if what == "start":
            ledger.start(
                person=draw(st.integers(1, 2)),
                insurance=draw(st.sampled_from(["pension", "injury"])),
                uscc=draw(st.sampled_from(UNITS)),
                kind=draw(st.sampled_from(["first", "resumed", "transferred"])),
                baseline=draw(st.booleans()),
            )
            continue
        id_ = draw(st.sampled_from(open_ones))
        if what == "cancel":
            ledger.cancel(id_)
        elif id_ not in ended:
            ended.add(id_)
            ledger.end(id_)
    return ledger


@st.composite
def deliveries(draw: st.DrawFn, ledger: Ledger, *, torn: bool = False) -> list[Message]:
    """The ledger's messages as the bus may bring them: in order per key only, some of them twice.

    With `torn` one of them may be poison.
    """
    queues: dict[str, list[Message]] = defaultdict(list)
    told = ledger.messages()
    bad = draw(st.integers(-1, len(told) - 1)) if torn else -1
    if bad >= 0:
        told[bad] = poison(ledger.events[bad], id=f"event-{bad}", time=NOW)
    for sent in told:
        queues[sent.key].append(sent)
    brought: list[Message] = []
    while queues:
        key = draw(st.sampled_from(sorted(queues)))
        brought.append(queues[key].pop(0))
        if not queues[key]:
            del queues[key]
        if draw(st.integers(0, 4)) == 0:
            brought.append(draw(st.sampled_from(brought)))
    return brought


cuts = st.lists(st.integers(0, 40), max_size=6)
bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def deliver(here: World, messages: Sequence[Message]) -> None:
    asyncio.run(here.consumer.receive(messages))


@pytest.fixture
def here(tmp_path: Path) -> Any:
    database = Database(f"sqlite:///{tmp_path / 'targets.db'}")
    yield world(database)
    database.close()


def tallies(here: World, day: date = DAY) -> list[Tally]:
    with here.database.read() as db:
        return Figures(db).tallies(2026, day)


def counting(here: World) -> dict[tuple[int, str], int | None]:
    with here.database.read() as db:
        rows = db.execute(sa.select(counted.c.person, counted.c.insurance, counted.c.participation_id))
        return {(row.person, row.insurance): row.participation_id for row in rows}


@bounded
@given(st.data(), cuts)
def test_any_cutting_leaves_the_same(data: st.DataObject, where: list[int]) -> None:
    """Batches, redeliveries and one poison message leave what one message at a time leaves."""
    assert_same_for_any_cutting(world, data.draw(deliveries(data.draw(ledgers()), torn=True)), where)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.data(), st.lists(st.integers(0, 40), max_size=1))
def test_large_batches_on_postgresql_leave_the_same(
    postgres: Postgres, data: st.DataObject, where: list[int]
) -> None:
    """As one message at a time leaves on SQLite."""
    messages = data.draw(deliveries(data.draw(ledgers(20, 40)), torn=True))
    assert_same_for_any_cutting(world, messages, where, url=postgres.new_database())


def test_the_cutting_check_catches_a_handler_that_folds_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: of several decisions in one list the last one is kept, not the newest."""
    monkeypatch.setattr(
        handlers, "latest", lambda decisions: list({(d.person, d.insurance): d for d in decisions}.values())
    )
    ledger = Ledger()
    ledger.cancel(ledger.start(uscc=UNITS[0]))
    ledger.start(uscc=UNITS[1])
    first, cancelled, second = ledger.messages()
    with pytest.raises(AssertionError, match="counted"):
        assert_same_for_any_cutting(world, [second, first, cancelled], [])


@bounded
@given(st.data())
def test_any_order_across_keys_ends_with_registrys_last_decision(data: st.DataObject) -> None:
    """Units of one person have keys of their own, so their facts overtake each other; the version decides."""
    ledger = data.draw(ledgers())
    messages = data.draw(deliveries(ledger))
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Database(f"sqlite:///{folder}/targets.db")) as database,
    ):
        here = world(database)
        deliver(here, messages)
        assert counting(here) == ledger.first
        with database.read() as db:
            cancelled = set(
                db.scalars(sa.select(spell.c.participation_id).where(spell.c.state == "cancelled"))
            )
        assert cancelled == ledger.cancelled


def test_a_person_counts_once_per_insurance(here: World) -> None:
    """A second participation of one insurance adds nobody; another insurance does."""
    ledger = Ledger()
    ledger.start(uscc=UNITS[0])
    ledger.start(uscc=UNITS[1])
    ledger.start(insurance="injury")
    deliver(here, ledger.messages())
    assert tallies(here) == [
        Tally("injury", "first", "寻山街道", 1, 1),
        Tally("pension", "first", "寻山街道", 1, 1),
    ]


def test_cancelling_the_first_counts_the_next_one(here: World) -> None:
    """With the town and month of the participation that counts now, even before its start has arrived."""
    ledger = Ledger()
    wrong = ledger.start(uscc=UNITS[0])
    ledger.start(uscc=UNITS[1], town="俚岛镇", started_on=date(2026, 2, 2))
    ledger.cancel(wrong)
    first, second, cancelled = ledger.messages()
    deliver(here, [first, cancelled])
    assert tallies(here) == [Tally("pension", "first", "俚岛镇", 2, 1)]
    deliver(here, [second])
    assert tallies(here) == [Tally("pension", "first", "俚岛镇", 2, 1)]


def test_cancelling_the_only_one_counts_nobody(here: World) -> None:
    """And a later true start counts again."""
    ledger = Ledger()
    ledger.cancel(ledger.start())
    deliver(here, ledger.messages())
    assert tallies(here) == []
    ledger.start(started_on=date(2026, 2, 3))
    deliver(here, ledger.messages())
    assert tallies(here) == [Tally("pension", "first", "寻山街道", 2, 1)]


def test_an_end_takes_nothing_back(here: World) -> None:
    """It was true until then; the spell is closed."""
    ledger = Ledger()
    ledger.end(ledger.start())
    deliver(here, ledger.messages())
    assert tallies(here) == [Tally("pension", "first", "寻山街道", 1, 1)]
    with here.database.read() as db:
        assert db.scalars(sa.select(spell.c.state)).all() == ["ended"]


def test_baseline_counts_nothing(here: World) -> None:
    """Neither as new nor as resumed; and who was in the baseline is never new later."""
    ledger = Ledger()
    ledger.start(baseline=True)
    ledger.start(baseline=True, person=8, kind="resumed")
    ledger.start(uscc=UNITS[1])
    deliver(here, ledger.messages())
    assert tallies(here) == []


def test_resumed_and_transferred_are_counted_unless_cancelled(here: World) -> None:
    """By spell, each under its own name, never as new, even where nothing earlier is known."""
    ledger = Ledger()
    ledger.start(kind="resumed")
    ledger.start(kind="resumed", uscc=UNITS[1])
    ledger.start(kind="transferred", person=8, town="俚岛镇")
    ledger.cancel(ledger.start(kind="transferred", person=9))
    deliver(here, ledger.messages())
    assert sorted(tallies(here), key=lambda tally: tally.kind) == [
        Tally("pension", "resumed", "寻山街道", 1, 2),
        Tally("pension", "transferred", "俚岛镇", 1, 1),
    ]


def test_a_future_start_counts_from_its_day_on(here: World) -> None:
    """Not the day before; and never in another year."""
    ledger = Ledger()
    ledger.start(started_on=date(2026, 3, 1))
    ledger.start(started_on=date(2025, 12, 31), person=8)
    ledger.start(started_on=date(2027, 1, 1), person=9)
    deliver(here, ledger.messages())
    assert tallies(here, date(2026, 2, 28)) == []
    assert tallies(here, date(2026, 3, 1)) == [Tally("pension", "first", "寻山街道", 3, 1)]
    assert tallies(here, date(2027, 6, 1)) == [Tally("pension", "first", "寻山街道", 3, 1)]
