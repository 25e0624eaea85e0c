"""Figures can be built anew from what the services told, and nobody hears of it."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.rebuild import FIGURES, NotEmptyError, differing, rebuild_targets
from services.registry.tables import PLUMBING as REGISTRY
from services.registry.tables import metadata as registry_metadata
from services.targets.handlers import count_started
from services.targets.tables import PLUMBING, counted, spell
from services.targets.work import TargetsWork
from shared.clock import SystemClock
from shared.events.base import Envelope
from shared.events.catalogue import PARTITIONS
from shared.events.matching import LeadOpened
from shared.events.registry import ContactChanged, ParticipationStarted
from shared.ids import first_event_id
from shared.messaging.bus import partition_of
from shared.messaging.consumer import Consumer, Received, on
from shared.messaging.replay import PAGE, Publisher, replay
from shared.storage.database import Database
from shared.storage.work import Cause
from tests.support.native import Postgres
from tests.support.pages import code
from tests.support.system import System

PEOPLE = [
    "371082198503150023",
    "37063319620720001X",
    "371082199001010017",
]
AT = datetime(2026, 3, 20, tzinfo=UTC)


def rebuilt(folder: Path) -> tuple[Database, dict[str, Publisher]]:
    return Database(f"sqlite:///{folder}/rebuilt.db"), {
        "registry": Publisher(Database(f"sqlite:///{folder}/registry.db"), REGISTRY)
    }


async def lived(system: System) -> None:
    """People start, end, start again, and are taken back, through several units and by themselves."""

    async def start(person: int, unit: int | None, day: date, **facts: Any) -> int:
        form = "flexible" if unit is None else "employer"
        uscc = None if unit is None else code(unit)
        who = {"id_number": PEOPLE[person], "name": "王示例"}
        made = await system.enrol(uscc, day, person=who, form=form, **facts)
        return int(made["id"])

    first = await start(0, 0, date(2025, 12, 1))
    await start(0, 1, date(2026, 1, 2), kind="transferred")
    await start(1, 0, date(2026, 1, 3))
    gone = await start(2, None, date(2026, 1, 4))
    await start(2, 1, date(2026, 1, 4), insurance="injury")
    await system.ask("POST", f"/registry/v1/participations/{first}/cancel", {"reason": "录入错误"})
    await system.ask("POST", f"/registry/v1/participations/{gone}/end", {"ended_on": "2026-01-05"})
    await start(2, None, date(2026, 1, 5), kind="resumed")


def test_the_same_figures_also_of_what_is_not_published_yet(tmp_path: Path) -> None:
    """From log and outbox; the running service shows the same once it has heard everything."""

    async def run() -> None:
        async with System(tmp_path) as system:
            await lived(system)
            await system.settle()
            system.bus.shut("registry")
            await system.enrol(
                code(2), date(2026, 1, 5), person={"id_number": PEOPLE[0], "name": "王"}, insurance="injury"
            )
            new, publishers = rebuilt(tmp_path)
            counts = await rebuild_targets(new, publishers, SystemClock())
            now = Database(f"sqlite:///{tmp_path}/targets.db")
            assert differing(now, new) == ["counted", "spell"]
            system.bus.reopen("registry")
            await system.settle()
            assert differing(now, new) == []
            assert counts == {"handled": 9, "duplicate": 0, "diverted": 0}
            with new.read() as db:
                assert len(db.execute(sa.select(counted)).all()) == 5
                assert len(db.execute(sa.select(spell)).all()) == 7
            for database in (now, new, publishers["registry"].database):
                database.close()

    asyncio.run(run())


def test_the_same_figures_on_the_other_database(tmp_path: Path, postgres: Postgres) -> None:
    """A city that moves from SQLite to PostgreSQL can take its figures along so."""

    async def run() -> None:
        async with System(tmp_path) as system:
            await lived(system)
        old, publishers = rebuilt(tmp_path)
        await rebuild_targets(old, publishers, SystemClock())
        new = Database(postgres.new_database())
        await rebuild_targets(new, publishers, SystemClock())
        assert differing(old, new) == []
        with new.write() as db:
            db.execute(sa.delete(spell).where(spell.c.kind == "resumed"))
        assert differing(old, new) == ["spell"]
        for database in (old, new, publishers["registry"].database):
            database.close()

    asyncio.run(run())


def test_what_was_replayed_is_known_when_it_comes_again(tmp_path: Path) -> None:
    """So targets can go on with the new database where its topic stands."""

    async def run() -> None:
        async with System(tmp_path) as system:
            await lived(system)
        new, publishers = rebuilt(tmp_path)
        await rebuild_targets(new, publishers, SystemClock())

        async def in_one(do: Any, *, keys: Any = None) -> Any:
            with new.write() as db:
                return do(TargetsWork(db, PLUMBING, now=AT, wall=AT))

        consumer = Consumer("targets", [on(ParticipationStarted, count_started)], PLUMBING, in_one)
        await consumer.receive(list(replay(publishers, [ParticipationStarted.name])))
        assert consumer.counts == {"handled": 0, "duplicate": 6, "diverted": 0}
        new.close()
        publishers["registry"].database.close()

    asyncio.run(run())


def test_a_replay_tells_nobody(tmp_path: Path) -> None:
    """Whatever a handler says, it said when it happened: nothing waits to be published afterwards."""
    heard = []

    def tell(work: TargetsWork, received: Sequence[Received[ParticipationStarted]]) -> None:
        for item in received:
            heard.append(item.id)
            work.emit(ContactChanged(uscc="a", version=1, sealed="x"), cause=Cause("targets", "c"))

    async def run() -> None:
        async with System(tmp_path) as system:
            await lived(system)
        new, publishers = rebuilt(tmp_path)
        await rebuild_targets(new, publishers, SystemClock(), reactions=(on(ParticipationStarted, tell),))
        with new.read() as db:
            assert db.execute(sa.select(PLUMBING.outbox)).all() == []
        new.close()
        publishers["registry"].database.close()

    asyncio.run(run())
    assert len(heard) == 6


def test_a_database_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    """It could be the one that is in use."""
    database = Database(f"sqlite:///{tmp_path}/used.db")
    with database.write() as db:
        db.execute(sa.text("CREATE TABLE something (id integer)"))
    with pytest.raises(NotEmptyError):
        asyncio.run(rebuild_targets(database, {}, SystemClock()))
    database.close()


def test_every_table_of_figures_is_compared() -> None:
    """The tables of targets but for the plumbing."""
    assert {table.name for table in FIGURES} == {"counted", "spell"}


# -- the history of a publisher, on both databases -----------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def publisher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Publisher]:
    url = f"sqlite:///{tmp_path}/registry.db"
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database()
    database = Database(url)
    with database.write() as db:
        registry_metadata.create_all(db)
    yield Publisher(database, REGISTRY)
    database.close()


def row(seq: int, type_: str, partition: int | None = None, birth: datetime = AT) -> dict[str, Any]:
    return {
        "seq": seq,
        "id": f"{first_event_id(birth)}-{seq:022d}",
        "type": type_,
        "subject": "a" if partition is None else "*",
        "partition": partition,
        "time": AT,
        "correlation": "c",
        "data": {"seq": seq},
    }


def written(publisher: Publisher, rows: Sequence[dict[str, Any]], choose: random.Random) -> None:
    """Some published, some not, in no order; personal ones in their log."""
    logged = [{**item, "published_at": AT} for item in rows if choose.random() < 0.7]
    kept = {item["seq"] for item in logged}
    with publisher.database.write() as db:
        for table, part in (
            (REGISTRY.contact_log, [item for item in logged if item["type"] == ContactChanged.name]),
            (REGISTRY.event_log, [item for item in logged if item["type"] != ContactChanged.name]),
            (REGISTRY.outbox, [item for item in rows if item["seq"] not in kept]),
        ):
            if part:
                db.execute(sa.insert(table), choose.sample(part, len(part)))


def sequence(publisher: Publisher, *types: str) -> list[int]:
    messages = replay({"registry": publisher}, types)
    return [Envelope.model_validate_json(message.value).data["seq"] for message in messages]


def test_a_history_is_whole_and_in_order(publisher: Publisher) -> None:
    """However its rows lie in log, contact log and outbox, and over more than one page."""
    choose = random.Random(7)
    names = [ParticipationStarted.name, ContactChanged.name, "registry.unit_changed.v1"]
    # Births run backwards: it is the order of writing that counts, not that of the ids.
    rows = [row(seq, choose.choice(names), birth=AT - timedelta(minutes=seq)) for seq in range(1, 3 * PAGE)]
    written(publisher, rows, choose)
    for types in (names[:1], names[:2], names):
        assert sequence(publisher, *types) == [item["seq"] for item in rows if item["type"] in types]


def test_a_broadcast_keeps_its_partition_and_its_place(publisher: Publisher) -> None:
    """Once for each partition, behind what was written before it."""
    name = "registry.data_complete.v1"
    rows = [
        row(1, name[:-1] + "0"),
        *(row(seq, name, seq - 2) for seq in range(2, 2 + PARTITIONS)),
        row(9, "x"),
    ]
    written(publisher, rows, random.Random(1))
    messages = list(replay({"registry": publisher}, {item["type"] for item in rows}))
    own = partition_of("a")
    assert [message.partition for message in messages] == [own, *range(PARTITIONS), own]


def test_publishers_are_joined_by_birth(publisher: Publisher, tmp_path: Path) -> None:
    """Each keeps its own order."""
    other = Publisher(Database(f"sqlite:///{tmp_path}/other.db"), REGISTRY)
    with other.database.write() as db:
        registry_metadata.create_all(db)
    minutes = [AT + timedelta(minutes=minute) for minute in range(4)]
    name = LeadOpened.name
    written(publisher, [row(1, name, birth=minutes[0]), row(2, name, birth=minutes[3])], random.Random(1))
    written(other, [row(5, name, birth=minutes[1]), row(6, name, birth=minutes[2])], random.Random(1))
    messages = list(replay({"registry": publisher, "matching": other}, [name]))
    other.database.close()
    seqs = [Envelope.model_validate_json(message.value).data["seq"] for message in messages]
    assert seqs == [1, 5, 6, 2]
    assert [message.topic for message in messages] == ["registry", "matching", "matching", "registry"]
