"""Events a second from registry's outbox through Kafka to their committed effect in matching, on PostgreSQL.

    python -m tests.bench.events [--events 120000] [--rounds 3]

Registrations and participations lie in registry's outbox. Processes as in production take them from there:
registry's relay publishes them, matching's consumer starts and stops the clocks of the units; every tenth unit is
overdue, so a lead opens and ends again, with history, audit and outbox rows. The time runs from the commit that
filled the outbox to the commit of the last effect. Each round plays it with two processes of matching, which share
the partitions as a service and its worker do, and with one alone. Beside them a bare aiokafka loop consumes the
same messages and inserts each as one row (id, type, subject, time, data) in batches as large as ours, with
offsets committed after the rows: it relays nothing, knows no duplicate and works out nothing.

What limits ours is the processors' time, which the bare loop, one row at a time from one process, hardly competes for.
The last line is one JSON object (design: events); ratio and rate are those of two processes.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from services.demo_clock import DEMO_START
from services.registry.tables import PLUMBING
from shared.clock import ZONE, SimulatedClock
from shared.events.base import Event
from shared.events.catalogue import PARTITIONS, TOPICS
from shared.events.registry import ParticipationStarted, UnitRegistered
from shared.messaging.bus import partition_of
from shared.messaging.kafka import BATCH, create_topics
from shared.storage.database import Database
from shared.storage.work import Cause, Work
from tests.support.load import uscc_of
from tests.support.native import Kafka, Postgres, started, wait_until
from tests.support.stack import Process

CAUSE = Cause("registry", "bench")
FRESH, OVERDUE = date(2026, 1, 5), date(2025, 11, 20)
EVERY = 10
"""One unit of so many is overdue when it is registered."""


WARM_UP = 40_000
"""Events of the round before the first, which is not counted: a fresh broker is still being compiled."""


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--events", type=int, default=120_000)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    counts = [WARM_UP, *[given.events - given.events % 2] * given.rounds]  # each unit with its participation
    two: list[float] = []
    one: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory(prefix="events-") as name:
        folder = Path(name)
        postgres = started(Postgres(folder / "postgres"))
        try:
            kafka = started(Kafka(folder / "kafka"))
            try:
                for number, events in enumerate(counts):
                    for rates, consumers in ((two, 2), (one, 1)):
                        prefix = f"round-{number}-{consumers}."
                        place = folder / prefix
                        seconds, effects = play(
                            place, postgres, kafka, prefix, number=events, consumers=consumers
                        )
                        rates.append(events / seconds)
                    seconds = asyncio.run(bare_loop(kafka.bootstrap, f"{prefix}registry", postgres, events))
                    bare.append(events / seconds)
                    print(
                        f"round {number}: {two[-1]:,.0f} a second, one process alone {one[-1]:,.0f}, "
                        f"bare {bare[-1]:,.0f}; {effects}",
                        flush=True,
                    )
            finally:
                kafka.stop()
        finally:
            postgres.stop()
    per_s, alone, bare_per_s = (statistics.median(rates[1:]) for rates in (two, one, bare))
    figures = {"events_per_s": round(per_s), "bare_per_s": round(bare_per_s)}
    more = {"one_process_per_s": round(alone), "effect": effects}
    print(json.dumps({**figures, "ratio": round(per_s / bare_per_s, 2), **more}))


def play(
    folder: Path, postgres: Postgres, kafka: Kafka, prefix: str, *, number: int, consumers: int
) -> tuple[float, dict[str, int]]:
    """Once ours, with so many processes of matching: seconds, and what is in matching's tables after it."""
    asyncio.run(create_topics(kafka.bootstrap, TOPICS, prefix=prefix))
    SimulatedClock(folder / "clock.json", start=DEMO_START)
    databases = {name: postgres.new_database() for name in ("registry", "matching")}
    processes = [
        worker(folder, name, databases[name], kafka, prefix, copy=copy)
        for name, copies in (("registry", 1), ("matching", consumers))
        for copy in range(copies)
    ]
    try:
        for process in processes:
            process.start()
        with psycopg.connect(_dsn(databases["matching"]), autocommit=True) as db:
            members = partial(_members, kafka.bootstrap, f"{prefix}matching")
            wait_until(lambda: asyncio.run(members()) == consumers, "all have joined the group")
            wait_until(lambda: _count(db, "completeness") == PARTITIONS, "the first broadcast was taken")
            before = _count(db, "inbox")
            # To count all rows again and again would take a share of a core: only when the last ones are there.
            last = list({partition_of(uscc_of(n)): n for n in range(number // 2)}.values())
            _settle(postgres)
            began = fill_outbox(databases["registry"], number)
            for id_ in last:
                wait_until(partial(_is_there, db, id_), "the last effects are committed")
            wait_until(lambda: _count(db, "inbox") - before == number, "all effects are committed")
            seconds = time.perf_counter() - began
            effects = {
                **dict(
                    db.execute("SELECT state, count(*) FROM clock GROUP BY state ORDER BY state").fetchall()
                ),
                **{name: _count(db, name) for name in ("participation", "lead")},
                "told": int(db.execute(_TOLD).fetchone()[0]),  # type: ignore[index]
            }
        return seconds, effects
    finally:
        for process in processes:
            process.stop()


def worker(folder: Path, name: str, url: str, kafka: Kafka, prefix: str, *, copy: int) -> Process:
    """A process that does what nobody asks for."""
    settings = {
        "YINGBAO_KAFKA": kafka.bootstrap,
        "YINGBAO_KAFKA_PREFIX": prefix,
        "YINGBAO_LOG_LEVEL": "WARNING",
        "YINGBAO_CLOCK_FILE": str(folder / "clock.json"),
        f"YINGBAO_{name.upper()}_DATABASE_URL": url,
        f"YINGBAO_{name.upper()}_DATA_DIR": str(folder),
        f"YINGBAO_{name.upper()}_DEMO": "true",
    }
    return Process(folder / f"{name}-{copy}", name, settings, "worker")


def fill_outbox(url: str, number: int) -> float:
    """Commits the events as registry's own work would; returns when."""
    database = Database(url)
    try:
        with database.write() as db:
            work = Work(db, PLUMBING, now=DEMO_START, wall=DEMO_START)
            for event in events(number):
                work.emit(event, cause=CAUSE)
            work.flush()
        return time.perf_counter()
    finally:
        database.close()


def events(number: int) -> Iterator[Event]:
    """Units a thousand at a time, then somebody's participation through each of them."""
    half = number // 2
    for first in range(0, half, 1_000):
        units = range(first, min(first + 1_000, half))
        for n in units:
            yield UnitRegistered(
                uscc=uscc_of(n),
                unit_name=f"荣成市示例{n}有限公司",
                kind="enterprise",
                status="active",
                established_on=FRESH if n % EVERY else OVERDUE,
                town="寻山街道",
                industry="C1361",
                code_confirmed=True,
                contact_version=1,
                version=1,
                recorded_at=datetime(2026, 1, 5, 10, tzinfo=ZONE),
            )
        for n in units:
            yield ParticipationStarted(
                participation_id=n,
                person=1_000_000_007 + n,
                insurance="pension",
                form="employer",
                uscc=uscc_of(n),
                kind="first",
                started_on=FRESH,
                town="寻山街道",
                recorded_on=FRESH,
                first_version=1,
                first_ever=True,
            )


async def bare_loop(bootstrap: str, topic: str, postgres: Postgres, number: int) -> float:
    """Consumes the topic from its beginning; seconds until every message is a committed row."""
    with psycopg.connect(_dsn(postgres.new_database())) as db:
        db.execute(
            "CREATE TABLE message (id text PRIMARY KEY, type text, subject text, time timestamptz, data json)"
        )
        db.commit()
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=f"{topic}-bare",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        _settle(postgres)
        began, rows = time.perf_counter(), 0
        try:
            while rows < number:
                found = await consumer.getmany(timeout_ms=200, max_records=BATCH)
                batch = [_row(record.value) for records in found.values() for record in records]
                if batch:
                    db.cursor().executemany("INSERT INTO message VALUES (%s, %s, %s, %s, %s)", batch)
                    db.commit()
                    await consumer.commit()
                    rows += len(batch)
            return time.perf_counter() - began
        finally:
            await consumer.stop()


_TOLD = "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM event_log)"


async def _members(bootstrap: str, group: str) -> int:
    """How many share the partitions; 0 while they are dealt anew."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        (answer,) = await admin.describe_consumer_groups([group])
        (_, _, state, _, _, members, *_) = answer.groups[0]
        return len(members) if state == "Stable" else 0
    finally:
        await admin.close()


def _settle(postgres: Postgres) -> None:
    """What earlier rounds have written is on disk before the clock runs, so that no round pays for another."""
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as db:
        db.execute("CHECKPOINT")


def _row(message: bytes) -> tuple[object, ...]:
    told = json.loads(message)
    return told["id"], told["type"], told["subject"], told["time"], json.dumps(told["data"])


def _count(db: "psycopg.Connection[Any]", table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # type: ignore[index]  # noqa: S608


def _is_there(db: "psycopg.Connection[Any]", participation: int) -> bool:
    return db.execute("SELECT FROM participation WHERE id = %s", [participation]).fetchone() is not None


def _dsn(url: str) -> str:
    return url.replace("+psycopg", "")


if __name__ == "__main__":
    main()
