"""What others fire: jobs that write and commit one row each, out of many that are pending.

They are laid out in bulk, each as the library itself would store it (one by one a million takes an hour), those
that are due first, which suits both. A peer gets LIMIT_S; what it has fired by then is its rate.
"""

import asyncio
import contextlib
import pickle
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import procrastinate
import psycopg
import sqlalchemy as sa
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger

from shared.clock import ZONE

LIMIT_S = 45.0
THREADS = 10

_local = threading.local()


def fire(url: str, number: int) -> None:
    """The job of APScheduler: one row, committed."""
    if not hasattr(_local, "db"):
        _local.db = _open(url)
    with _local.db.transaction() if _is_postgresql(url) else _local.db:
        _local.db.execute(f"INSERT INTO fired VALUES ({number:d})")  # noqa: S608 - a number, for both drivers


def fire_apscheduler(url: str, pending: int, due: int) -> float:
    """Jobs a second of APScheduler 3 with its SQLAlchemy job store, as durable as ours."""
    engine = sa.create_engine(url)
    if not _is_postgresql(url):
        sa.event.listen(engine, "connect", lambda db, _record: _make_durable(db))
    store = SQLAlchemyJobStore(engine=engine)
    scheduler = BackgroundScheduler(
        jobstores={"default": store}, executors={"default": ThreadPoolExecutor(THREADS)}, timezone=ZONE
    )
    scheduler.start(paused=True)
    db = _open(url)
    db.execute("CREATE TABLE fired (number INTEGER)")
    began = time.perf_counter()
    _lay_out(db, "apscheduler_jobs (id, next_run_time, job_state)", _jobs(scheduler, url, pending, due))
    print(
        f"APScheduler: {pending:,} pending jobs laid out in {time.perf_counter() - began:.0f} s", flush=True
    )
    began = time.perf_counter()
    scheduler.resume()
    while (fired := _fired(db)) < due and time.perf_counter() - began < LIMIT_S:
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    scheduler.shutdown()
    engine.dispose()
    db.close()
    print(f"APScheduler: {fired:,} of {due:,} due jobs fired in {seconds:.1f} s", flush=True)
    return round(fired / seconds, 1)


def _jobs(scheduler: BackgroundScheduler, url: str, pending: int, due: int) -> Iterator[tuple[Any, ...]]:
    now = datetime.now(ZONE)  # noqa: TID251 - theirs has no clock that could be simulated
    job = Job(
        scheduler,
        id="clock",
        trigger=DateTrigger(now),
        executor="default",
        func=fire,
        args=(url, 0),
        kwargs={},
        name="fire",
        misfire_grace_time=None,
        coalesce=True,
        max_instances=1,
        next_run_time=now,
    )
    for n in range(pending):
        at = now - timedelta(seconds=1) if n < due else now + timedelta(days=1, seconds=n % 86_400)
        job.id, job.args, job.trigger, job.next_run_time = f"clock-{n}", (url, n), DateTrigger(at), at
        yield job.id, at.timestamp(), pickle.dumps(job.__getstate__(), pickle.HIGHEST_PROTOCOL)


def fire_procrastinate(url: str, pending: int, due: int) -> float:
    """Jobs a second of procrastinate on PostgreSQL, one worker with ten jobs at a time."""
    return asyncio.run(_fire_procrastinate(_dsn(url), pending, due))


async def _fire_procrastinate(dsn: str, pending: int, due: int) -> float:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, max_size=2 * THREADS))

    @app.task(name="fire")
    async def fire(number: int) -> None:
        await app.connector.execute_query_async("INSERT INTO fired VALUES (%(number)s)", number=number)

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("CREATE TABLE fired (number INTEGER)")
            began = time.perf_counter()
            db.execute("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")
            columns = "queue_name, task_name, args, scheduled_at"
            _lay_out(db, f"procrastinate_jobs ({columns})", _deferred(pending, due))
            db.execute("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
            took = time.perf_counter() - began
            print(f"procrastinate: {pending:,} pending jobs laid out in {took:.0f} s", flush=True)
            began = time.perf_counter()
            worker = asyncio.create_task(
                app.run_worker_async(concurrency=THREADS, install_signal_handlers=False, listen_notify=False)
            )
            while (fired := _fired(db)) < due and time.perf_counter() - began < LIMIT_S:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            seconds = time.perf_counter() - began
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker
    print(f"procrastinate: {fired:,} of {due:,} due jobs fired in {seconds:.1f} s", flush=True)
    return round(fired / seconds, 1)


def _deferred(pending: int, due: int) -> Iterator[tuple[Any, ...]]:
    now = datetime.now(ZONE)  # noqa: TID251 - theirs has no clock that could be simulated
    for n in range(pending):
        at = now - timedelta(seconds=1) if n < due else now + timedelta(days=1, seconds=n % 86_400)
        yield "default", "fire", f'{{"number": {n}}}', at


def _lay_out(db: Any, target: str, rows: Iterator[tuple[Any, ...]]) -> None:
    if isinstance(db, sqlite3.Connection):
        with db:
            db.executemany(f"INSERT INTO {target} VALUES (?, ?, ?)", rows)  # noqa: S608 - our own names
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return
    with db.cursor().copy(f"COPY {target} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    db.execute("VACUUM ANALYZE")
    db.execute("CHECKPOINT")


def _fired(db: Any) -> int:
    return int(db.execute("SELECT count(*) FROM fired").fetchone()[0])


def _open(url: str) -> Any:
    if _is_postgresql(url):
        return psycopg.connect(_dsn(url), autocommit=True)
    db = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
    _make_durable(db)
    return db


def _make_durable(db: Any) -> None:
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL"):
        db.execute(f"PRAGMA {pragma}")


def _is_postgresql(url: str) -> bool:
    return url.startswith("postgresql")


def _dsn(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")
