"""Fires legal clocks on SQLite at full durability, beside APScheduler on the same kind of file.

    python -m tests.bench.clocks [--pending 1000000] [--due 200000] [--peer-due 5000]

Ours is the running service: its duty finds what is due, and each clock commits with its lead, the lead's
history, an audit row and an outbox row, while the sealer chains the audit rows. Only publishing waits until
all have fired, as it would with a broker that is away. Theirs fires jobs that write and commit one row each,
out of as many pending jobs. The last line is one JSON object (design: clocks).
"""

import argparse
import asyncio
import json
import logging
import pickle
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger

from services.matching import tables as t
from services.matching.app import build
from services.matching.commands import PORTION
from services.matching.settings import MatchingSettings
from services.matching.work import MatchingWork
from shared.clock import ZONE, FrozenClock, start_of
from shared.events.catalogue import PARTITIONS
from shared.messaging.bus import Message
from shared.messaging.in_process import InProcessBus
from shared.service import Duty, Service

BEFORE = datetime(2026, 1, 5, 10, tzinfo=ZONE)
DUE_AT = datetime(2026, 1, 6, tzinfo=ZONE)
"""Clocks established on 2025-12-06 end with Monday 2026-01-05 and are due from here."""

FEW = 10_000
POLLS = 300


class HeldBus(InProcessBus):
    """Publishes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def publish(self, messages: Sequence[Message]) -> None:
        await self.go.wait()
        await super().publish(messages)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--pending", type=int, default=1_000_000)
    options.add_argument("--due", type=int, default=200_000)
    options.add_argument("--peer-due", type=int, default=5_000)
    given = options.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="clocks-") as folder:
        ours = asyncio.run(fire_ours(Path(folder), given.pending, given.due))
        peer = fire_apscheduler(Path(folder), given.pending, given.peer_due)
    best = max(peer.values())
    result = {**ours, "peers": peer, "ratio": round(ours["per_s"] / best, 2)}
    print(json.dumps({"sqlite": result}))


# -- ours ----------------------------------------------------------------------------------------------


async def fire_ours(folder: Path, pending: int, due: int) -> dict[str, Any]:
    clock = FrozenClock(BEFORE)
    bus = HeldBus()
    few = build(MatchingSettings(data_dir=folder / "few"), bus=InProcessBus(), clock=clock)
    many = build(MatchingSettings(data_dir=folder / "many"), bus=bus, clock=clock)
    for service, number in ((few, FEW), (many, pending)):
        await service.start()
        began = time.perf_counter()
        fill(folder / f"{'few' if service is few else 'many'}" / "matching.db", number, min(due, number))
        print(f"{number:,} pending clocks laid out in {time.perf_counter() - began:.0f} s", flush=True)
    idle = await polls(few, many)
    print(
        f"a poll with nothing due: {idle[0] * 1e6:.0f} µs at {FEW:,} pending, {idle[1] * 1e6:.0f} µs at {pending:,}"
    )
    await few.stop()

    began = time.perf_counter()
    clock.move_to(DUE_AT)
    many.core.wake()
    while await many.core.read(lambda db: _is_due(db, clock.now())):  # noqa: ASYNC110 - looked at from outside
        await asyncio.sleep(0.02)
    seconds = time.perf_counter() - began
    found = await many.core.read(lambda db: _count(db, due))
    print(
        f"{due:,} due clocks fired in {seconds:.1f} s, {PORTION} in a transaction;"
        f" {found['sealed']:,} of their audit rows sealed meanwhile"
    )
    bus.go.set()
    began = time.perf_counter()
    many.core.wake()
    while not (await many.quiet())[0]:  # noqa: ASYNC110 - looked at from outside
        await asyncio.sleep(0.02)
    print(f"published afterwards at {due / (time.perf_counter() - began):,.0f} a second")
    await many.stop()
    return {
        "pending": pending,
        "due": due,
        "per_s": round(due / seconds),
        "idle_ratio": round(idle[1] / idle[0], 2),
        "doubles": found["doubles"],
        "missing": found["missing"],
    }


def fill(file: Path, pending: int, due: int) -> None:
    """Lays the clocks out as the handlers would have: `due` of them run out in the coming night."""
    recorded = _instant(BEFORE)

    def clocks() -> Iterator[tuple[Any, ...]]:
        for n in range(pending):
            started = date(2025, 12, 6) if n < due else date(2026, 1, 5) + timedelta(days=n % 28)
            at = DUE_AT if n < due else start_of(started + timedelta(days=31))
            deadline = at.date() - timedelta(days=1)
            yield (
                _uscc(n),
                n % PARTITIONS,
                recorded,
                str(started),
                str(deadline),
                _instant(at),
                _instant(at),
            )

    with closing(sqlite3.connect(file)) as db:
        db.executemany(
            "INSERT INTO unit VALUES (?, ?, 'enterprise', 'active', ?, '寻山街道', 1, 1, 1, 'single')",
            (
                (_uscc(n), f"荣成市示例{n}有限公司", "2025-12-06" if n < due else "2026-01-05")
                for n in range(pending)
            ),
        )
        db.executemany(
            "INSERT INTO clock (uscc, partition, recorded_at, established_on, deadline, provisional, due_at,"
            " look_at, state) VALUES (?, ?, ?, ?, ?, 0, ?, ?, 'running')",
            clocks(),
        )
        db.executemany(
            "INSERT INTO completeness (dataset, partition, through) VALUES ('participations', ?, '2026-01-05')",
            ((partition,) for partition in range(PARTITIONS)),
        )
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def polls(*services: Service[MatchingWork]) -> list[float]:
    """Median seconds of what the duty's loop does when nothing is due, in turn."""
    seconds: list[list[float]] = [[] for _ in services]
    duties: list[Duty] = [service._duties[0] for service in services]
    for _ in range(POLLS):
        for service, duty, spent in zip(services, duties, seconds, strict=True):
            began = time.perf_counter()
            assert not await service._when_due(duty)
            spent.append(time.perf_counter() - began)
    return [statistics.median(spent) for spent in seconds]


def _is_due(db: sa.Connection, now: datetime) -> bool:
    return bool(db.scalar(sa.select(sa.exists(sa.select(t.clock.c.uscc).where(t.clock.c.look_at <= now)))))


def _count(db: sa.Connection, due: int) -> dict[str, int]:
    """Leads, outbox and audit rows have to be as many as clocks were due, each unit once."""
    outbox, audit = t.PLUMBING.outbox, t.PLUMBING.audit

    def count(*what: sa.ColumnElement[Any], of: sa.Table) -> int:
        return int(db.scalar(sa.select(sa.func.count(*what)).select_from(of)) or 0)

    rows = [
        (count(of=t.lead), count(t.lead.c.uscc.distinct(), of=t.lead)),
        (count(of=outbox), count(outbox.c.subject.distinct(), of=outbox)),
        (count(of=audit), count(audit.c.subject.distinct(), of=audit)),
    ]
    return {
        "doubles": max(number - units for number, units in rows),
        "missing": max(due - units for _, units in rows),
        "sealed": count(audit.c.block, of=audit),
    }


def _uscc(n: int) -> str:
    return f"91371082MA{n:08d}"


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


# -- theirs --------------------------------------------------------------------------------------------

_local = threading.local()


def fire(file: str, number: int) -> None:
    """The job: one row, committed."""
    if not hasattr(_local, "db"):
        _local.db = _open(file)
    with _local.db as db:
        db.execute("INSERT INTO fired VALUES (?)", (number,))


def _open(file: str) -> sqlite3.Connection:
    db = sqlite3.connect(file, timeout=30)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    return db


def fire_apscheduler(folder: Path, pending: int, due: int) -> dict[str, float]:
    """APScheduler 3 with its SQLAlchemy job store on a file of its own, WAL and synchronous=FULL as ours."""
    file = folder / "apscheduler.db"
    engine = sa.create_engine(f"sqlite:///{file}", connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    store = SQLAlchemyJobStore(engine=engine)
    scheduler = BackgroundScheduler(
        jobstores={"default": store}, executors={"default": ThreadPoolExecutor(10)}, timezone=ZONE
    )
    scheduler.start(paused=True)
    with closing(_open(str(file))) as db:
        db.execute("CREATE TABLE fired (number INTEGER)")
        # Laid out in bulk, each as the store itself would pickle it: adding a million one by one takes an hour.
        began = time.perf_counter()
        db.executemany("INSERT INTO apscheduler_jobs VALUES (?, ?, ?)", _jobs(scheduler, file, pending, due))
        db.commit()
        print(f"APScheduler: {pending:,} pending jobs laid out in {time.perf_counter() - began:.0f} s")
        began = time.perf_counter()
        scheduler.resume()
        while db.execute("SELECT count(*) FROM fired").fetchone()[0] < due:
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        scheduler.shutdown()
        numbers = db.execute("SELECT count(*), count(DISTINCT number) FROM fired").fetchone()
    print(f"APScheduler: {due:,} due jobs fired in {seconds:.1f} s, rows and distinct rows {numbers}")
    engine.dispose()
    return {"apscheduler": round(due / seconds, 1)}


def _jobs(
    scheduler: BackgroundScheduler, file: Path, pending: int, due: int
) -> Iterator[tuple[str, float, bytes]]:
    now = datetime.now(ZONE)  # noqa: TID251 - theirs has no clock that could be simulated
    for n in range(pending):
        at = now - timedelta(seconds=1) if n < due else now + timedelta(days=1, seconds=n % 86_400)
        job = _job(scheduler, str(file), n, at)
        yield job.id, at.timestamp(), pickle.dumps(job.__getstate__(), pickle.HIGHEST_PROTOCOL)


def _job(scheduler: BackgroundScheduler, file: str, n: int, at: datetime) -> Any:
    return Job(
        scheduler,
        id=f"clock-{n}",
        trigger=DateTrigger(at),
        executor="default",
        func=fire,
        args=(file, n),
        kwargs={},
        name="fire",
        misfire_grace_time=None,
        coalesce=True,
        max_instances=1,
        next_run_time=at,
    )


if __name__ == "__main__":
    main()
