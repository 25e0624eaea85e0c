"""Fires legal clocks at full durability, beside peers on the same kind of database.

    python -m tests.bench.clocks [--pending 1000000] [--due 200000] [--peer-due 5000] [--only sqlite]

Ours is the running service: its duty finds what is due, and each clock commits with its lead, the lead's
history, an audit row and an outbox row, while the sealer chains the audit rows. On PostgreSQL two processes
share the work. Only publishing waits, as it would with a broker that is away. Theirs (clock_peers.py) fire jobs
that write and commit one row each, out of as many pending jobs. The last line is one JSON object (design: clocks).
"""

import argparse
import asyncio
import json
import logging
import multiprocessing
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import date, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
import structlog

from services.cli import spare_the_collector
from services.matching import tables as t
from services.matching.app import build
from services.matching.commands import PORTION
from services.matching.domain import ClockState
from services.matching.settings import MatchingSettings
from services.matching.work import MatchingWork
from shared.clock import ZONE, FrozenClock, start_of
from shared.events.catalogue import PARTITIONS
from shared.messaging.bus import Message
from shared.messaging.in_process import InProcessBus
from shared.service import Service
from shared.storage.bulk import insert_rows
from shared.storage.database import Database
from tests.bench.clock_peers import fire_apscheduler, fire_procrastinate
from tests.support.native import Postgres, started

BEFORE = datetime(2026, 1, 5, 10, tzinfo=ZONE)
DUE_AT = datetime(2026, 1, 6, tzinfo=ZONE)
"""Clocks established on 2025-12-06 end with Monday 2026-01-05 and are due from here."""

FEW = 10_000
POLLS = 300
WORKERS = 2
LIMIT_S = 120.0
SLICE = 20_000
"""Rows laid out at once."""


class HeldBus(InProcessBus):
    """Never publishes."""

    async def publish(self, messages: Sequence[Message]) -> None:
        await asyncio.Event().wait()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--pending", type=int, default=1_000_000)
    options.add_argument("--due", type=int, default=200_000)
    options.add_argument("--peer-due", type=int, default=5_000)
    options.add_argument("--only", choices=["sqlite", "postgresql"])
    given = options.parse_args()
    _quiet()
    with tempfile.TemporaryDirectory(prefix="clocks-") as folder:
        halves = {"sqlite": on_sqlite, "postgresql": on_postgresql}
        result = {
            name: half(Path(folder) / name, given.pending, given.due, given.peer_due)
            for name, half in halves.items()
            if given.only in (None, name)
        }
    print(json.dumps(result))


def on_sqlite(folder: Path, pending: int, due: int, peer_due: int) -> dict[str, Any]:
    """One process, a file of its own."""
    folder.mkdir()
    ours = asyncio.run(_on_sqlite(folder, pending, due))
    return _line(
        ours, {"apscheduler": fire_apscheduler(f"sqlite:///{folder / 'peer.db'}", pending, peer_due)}
    )


async def _on_sqlite(folder: Path, pending: int, due: int) -> dict[str, Any]:
    clock = FrozenClock(BEFORE)
    few = await opened(MatchingSettings(data_dir=folder / "few"), clock, FEW, due)
    many = await opened(MatchingSettings(data_dir=folder / "many"), clock, pending, due)
    idle = await idle_ratio(few, many)
    await few.stop()
    spare_the_collector()
    clock.move_to(DUE_AT)
    many.core.wake()
    seconds = await until_fired(many.core.database)
    ours = figures(many.core.database, pending, due, seconds, idle)
    await many.stop()
    return ours


def on_postgresql(folder: Path, pending: int, due: int, peer_due: int) -> dict[str, Any]:
    """Two processes on one server of its own; the peers on the same server."""
    server = started(Postgres(folder))
    try:
        ours = asyncio.run(_on_postgresql(server, folder, pending, due))
        peers = {
            "apscheduler": fire_apscheduler(server.new_database(), pending, peer_due),
            "procrastinate": fire_procrastinate(server.new_database(), pending, peer_due),
        }
    finally:
        server.stop()
    return _line(ours, peers)


async def _on_postgresql(server: Postgres, folder: Path, pending: int, due: int) -> dict[str, Any]:
    def settings(name: str) -> MatchingSettings:
        return MatchingSettings(mode="server", data_dir=folder / name, database_url=server.new_database())

    few = await opened(settings("few"), FrozenClock(BEFORE), FEW, due)
    many = await opened(settings("many"), FrozenClock(BEFORE), pending, due)
    idle = await idle_ratio(few, many)
    for service in (few, many):
        await service.stop()

    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    workers = [context.Process(target=work, args=(many.core.settings, ready, go)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for _ in workers:
        assert ready.acquire(timeout=LIMIT_S)
    database = Database(many.core.settings.database)
    go.set()
    ours = figures(database, pending, due, await until_fired(database), idle)
    for worker in workers:
        worker.terminate()
        worker.join()
    database.close()
    return ours


def work(settings: MatchingSettings, ready: Any, go: Event) -> None:
    """A process of matching that has nothing to do until it is let go."""
    _quiet()

    async def serve() -> None:
        service = build(settings, bus=HeldBus(), clock=(clock := FrozenClock(BEFORE)))
        await service.start()
        spare_the_collector()
        ready.release()
        await asyncio.to_thread(go.wait)
        clock.move_to(DUE_AT)
        service.core.wake()
        await asyncio.Event().wait()

    asyncio.run(serve())


async def opened(
    settings: MatchingSettings, clock: FrozenClock, pending: int, due: int
) -> Service[MatchingWork]:
    """A running service in whose database so many clocks are laid out."""
    service = build(settings, bus=HeldBus(), clock=clock)
    await service.start()
    began = time.perf_counter()
    await asyncio.to_thread(lay_out, service.core.database, pending, min(due, pending))
    print(f"{pending:,} pending clocks laid out in {time.perf_counter() - began:.0f} s", flush=True)
    return service


def lay_out(database: Database, pending: int, due: int) -> None:
    """Lays the clocks out as the handlers would have: `due` of them run out in the coming night."""
    for first in range(0, pending, SLICE):
        numbers = range(first, min(first + SLICE, pending))
        with database.write() as db:
            insert_rows(db, t.unit, [_unit(n, due) for n in numbers])
            insert_rows(db, t.clock, [_clock(n, due) for n in numbers])
    with database.write() as db:
        through = {"dataset": "participations", "through": date(2026, 1, 5)}
        insert_rows(db, t.completeness, [{**through, "partition": n} for n in range(PARTITIONS)])
    _settle(database)


def _settle(database: Database) -> None:
    """Lets the database finish what the laying out began, so that it does not do it while it is measured."""
    if database.is_sqlite:
        with closing(sqlite3.connect(str(database.url.database))) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as server:
            server.execute("VACUUM ANALYZE")
            server.execute("CHECKPOINT")


def _unit(n: int, due: int) -> dict[str, Any]:
    return {
        "uscc": _uscc(n),
        "name": f"荣成市示例{n}有限公司",
        "kind": "enterprise",
        "status": "active",
        "established_on": _established_on(n, due),
        "town": "寻山街道",
        "code_confirmed": True,
        "contact_version": 1,
        "version": 1,
        "origin": "single",
    }


def _clock(n: int, due: int) -> dict[str, Any]:
    started_on = _established_on(n, due)
    at = DUE_AT if n < due else start_of(started_on + timedelta(days=31))
    return {
        "uscc": _uscc(n),
        "partition": n % PARTITIONS,
        "recorded_at": BEFORE,
        "established_on": started_on,
        "deadline": at.date() - timedelta(days=1),
        "provisional": False,
        "due_at": at,
        "look_at": at,
        "state": ClockState.RUNNING,
    }


def _established_on(n: int, due: int) -> date:
    return date(2025, 12, 6) if n < due else date(2026, 1, 5) + timedelta(days=n % 28)


def _uscc(n: int) -> str:
    return f"91371082MA{n:08d}"


async def idle_ratio(few: Service[MatchingWork], many: Service[MatchingWork]) -> float:
    """How much longer the duty's look at nothing due takes with many pending than with few; medians, in turn."""
    seconds: dict[str, list[float]] = {"few": [], "many": []}
    for _ in range(POLLS):
        for service, spent in zip((few, many), seconds.values(), strict=True):
            began = time.perf_counter()
            assert not await service._when_due(service.duties[0])
            spent.append(time.perf_counter() - began)
    short, long = (statistics.median(spent) for spent in seconds.values())
    print(f"a poll with nothing due: {short * 1e6:.0f} µs with few pending, {long * 1e6:.0f} µs with all")
    return round(long / short, 2)


async def until_fired(database: Database) -> float:
    """Seconds until nothing is due any more, or the limit; what was not fired then counts as missing."""
    began = time.perf_counter()
    due = sa.select(sa.exists(sa.select(t.clock.c.uscc).where(t.clock.c.look_at <= DUE_AT)))
    while (seconds := time.perf_counter() - began) < LIMIT_S:
        with database.read() as db:
            if not db.scalar(due):
                break
        await asyncio.sleep(0.05)
    return seconds


def figures(database: Database, pending: int, due: int, seconds: float, idle: float) -> dict[str, Any]:
    """Leads, outbox and audit rows have to be as many as clocks were due, each unit once."""
    tables = ((t.lead, "uscc"), (t.PLUMBING.outbox, "subject"), (t.PLUMBING.audit, "subject"))
    with database.read() as db:
        rows = [
            db.execute(
                sa.select(sa.func.count(), sa.func.count(table.c[key].distinct())).select_from(table)
            ).one()
            for table, key in tables
        ]
        sealed = db.scalar(sa.select(sa.func.count(t.PLUMBING.audit.c.block)))
    print(
        f"{due:,} due clocks fired in {seconds:.1f} s, {PORTION} in a transaction;"
        f" {sealed:,} of their audit rows sealed meanwhile",
        flush=True,
    )
    return {
        "pending": pending,
        "due": due,
        "per_s": round(due / seconds),
        "idle_ratio": idle,
        "doubles": max(number - units for number, units in rows),
        "missing": max(due - units for _, units in rows),
    }


def _line(ours: dict[str, Any], peers: dict[str, float]) -> dict[str, Any]:
    return {**ours, "peers": peers, "ratio": round(ours["per_s"] / max(peers.values()), 2)}


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


if __name__ == "__main__":
    main()
