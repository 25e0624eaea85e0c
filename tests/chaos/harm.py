"""A suite on PostgreSQL and Kafka to which harm is done: kill -9, SIGSTOP, and lines that fail.

Before each harm everything stands still and is looked at from outside. It is done only when something that
the victim has to do with is in flight; the log says what.
"""

import asyncio
import signal
import sqlite3
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from services.demo.check.law import CLOSES, OPENS, is_working_day
from services.demo.story import LEDGER
from services.demo_clock import DEMO_START
from shared.clock import SimulatedClock
from shared.events.catalogue import PARTITIONS, TOPICS
from tests.chaos.judge import LOOKS, UNKNOWN, VISITED, Evidence
from tests.chaos.proxy import Proxy
from tests.support.native import Kafka, Native, Postgres, started
from tests.support.stack import SERVICES, Stack

PREFIX = "chaos."
LOOK_WITHIN_S = 5.0
BUSY_WITHIN_S = 12.0
AROUND = timedelta(seconds=15)
"""An attempt looked at so long before a harm, or so shortly after it, may have been under way then."""

LINES = ("database", "broker", "last look", "carrier")
"""Lines that go through a proxy: of all services to the first two, of notify to the others."""

OPEN = "SELECT count(*) FROM attempt WHERE state = 'open'"
DUE = "SELECT count(*) FROM notice WHERE due_at <= %s"
OUTBOX = "SELECT count(*) FROM outbox"
WRITES = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xid IS NOT NULL
"""
RECEIPTS = "SELECT count(*) FROM messages WHERE receipt = 'pending' AND receipt_due <= ?"
TRIED = """
    SELECT notice.uscc, attempt.looked_wall FROM attempt JOIN attempt_notice USING (reference)
    JOIN notice ON notice.id = attempt_notice.notice_id WHERE attempt.state IN ('unknown', 'open')
"""

ON_THE_WAY = ("notify", "sandbox", "line to carrier")
"""Victims that have a message in their hands between its last look and the carrier's answer."""
RECORDING = ("database", "line to database")
"""Victims without which that answer is not written down."""

OUTSIDE = ("attempts open", "notices due")
CONCERNS: Mapping[str, Sequence[str]] = {
    "sandbox": ("attempts open", "receipts due"),
    "carrier": OUTSIDE,
    "last look": OUTSIDE,
    "notify": ("notify ", *OUTSIDE),
    "registry": ("registry ", *OUTSIDE),
    "matching": ("matching ",),
    "targets": ("targets ",),
}
"""What a victim has to do with, by how its name in the log begins; the servers with everything."""


@dataclass(frozen=True)
class Harm:
    """What was done to whom, with what in flight; wall and business time of begin and end."""

    what: str
    victim: str
    in_flight: Mapping[str, int]
    began: datetime
    ended: datetime
    began_at: datetime
    ended_at: datetime

    def __str__(self) -> str:
        lasted = (self.ended - self.began).total_seconds()
        told = ", ".join(f"{name} {count}" for name, count in self.in_flight.items())
        return f"{self.began_at:%m-%d %H:%M:%S} {self.what} {self.victim} ({lasted:.1f} s): in flight {told}"


class Harmed:
    """The suite with its servers and lines; use as a context manager.

    `prepare` may change the processes before they are started.
    """

    def __init__(
        self,
        folder: Path,
        *,
        roles: Mapping[str, Sequence[str]] | None = None,
        prepare: Callable[[Stack], None] = lambda stack: None,
    ) -> None:
        self.folder = folder / "suite"
        self.log: list[Harm] = []
        self._servers, self._roles, self._prepare = folder, roles, prepare
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self.lines = {name: starting.enter_context(Proxy()) for name in LINES}
            # Not below pytest's own folder, which another run closes to everybody else when it begins.
            elsewhere = starting.enter_context(TemporaryDirectory(prefix="yingbao-postgres-"))
            self.postgres = started(Postgres(Path(elsewhere)))
            starting.callback(self.postgres.stop)
            self.lines["database"].target = self.postgres.port
            self.kafka = started(Kafka(self._servers / "kafka", advertised=self.lines["broker"].port))
            starting.callback(self.kafka.stop)
            self.lines["broker"].target = self.kafka.port
            self._databases = {name: self.postgres.new_database() for name in SERVICES}
            own, line = f":{self.postgres.port}/", f":{self.lines['database'].port}/"
            self.stack = Stack(
                self.folder,
                databases={name: url.replace(own, line) for name, url in self._databases.items()},
                kafka=self.kafka.bootstrap,
                prefix=PREFIX,
                roles=self._roles,
                more={"YINGBAO_REGISTRY_PARTICIPATIONS_MODE": "batch"},
                through={"registry": self.lines["last look"].port, "sandbox": self.lines["carrier"].port},
            )
            self.lines["last look"].target = self.stack.front("registry").port
            self.lines["carrier"].target = self.stack.sandbox.port
            self._prepare(self.stack)
            starting.enter_context(self.stack)
            self.clock = SimulatedClock(self.folder / "clock.json", start=DEMO_START)
            self._stack = starting.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def victims(self) -> dict[str, Native]:
        """Everything that can be killed and stopped, by name."""
        processes = {process.folder.name: process for process in self.stack.all}
        return {**processes, "database": self.postgres, "broker": self.kafka}

    # -- harm ----------------------------------------------------------------------------------------

    def kill(self, name: str, *, seconds: float = 0.0) -> bool:
        """Kill -9; it is started again after so long. False: nothing was in flight."""
        victim = self.victims[name]

        def again() -> None:
            time.sleep(seconds)
            victim.start()

        return self._harm("kill", name, victim.kill, again)

    def pause(self, name: str, seconds: float) -> bool:
        """SIGSTOP for so long. False: nothing was in flight."""
        victim = self.victims[name]

        def again() -> None:
            time.sleep(seconds)
            victim.signal(signal.SIGCONT)

        return self._harm("pause", name, lambda: victim.signal(signal.SIGSTOP), again)

    def disturb(self, line: str, how: str, seconds: float) -> bool:
        """Cuts, holds or half closes a line for so long. False: nothing was in flight."""
        proxy = self.lines[line]

        def again() -> None:
            time.sleep(seconds)
            proxy.heal()

        return self._harm(how, f"line to {line}", getattr(proxy, how.replace(" ", "_")), again)

    def _harm(self, what: str, victim: str, begin: Callable[[], None], again: Callable[[], None]) -> bool:
        name = victim.removeprefix("line to ").partition("-")[0]
        concerns = CONCERNS.get(name, ("",))
        if name in ("notify", "sandbox", "carrier", "last look"):
            self._wait_for_attempt()
        give_up = time.monotonic() + BUSY_WITHIN_S
        while True:
            with self._standing_still() as stays:
                in_flight = {k: n for k, n in self.look().items() if k.startswith(tuple(concerns))}
                if in_flight:
                    began, began_at = self.clock.wall(), self.clock.now()
                    stays.add(victim if what == "pause" else "")
                    begin()
                    break
            if time.monotonic() > give_up:
                return False
            time.sleep(0.1)
        again()
        self.log.append(Harm(what, victim, in_flight, began, self.clock.wall(), began_at, self.clock.now()))
        return True

    @contextmanager
    def _standing_still(self) -> Generator[set[str]]:
        """Stops every process of the suite, so that what is looked at is what is harmed; some may stay so."""
        stays: set[str] = set()
        self._signal_all(signal.SIGSTOP)
        try:
            yield stays
        finally:
            self._signal_all(signal.SIGCONT, stays)

    def _signal_all(self, number: int, but: Collection[str] = ()) -> None:
        for process in self.stack.all:
            if process.process.poll() is None and process.folder.name not in but:
                process.signal(number)

    def _wait_for_attempt(self) -> None:
        give_up = time.monotonic() + BUSY_WITHIN_S
        with suppress(psycopg.OperationalError), self._open("notify") as db:
            while time.monotonic() < give_up:
                if db.execute(OPEN).fetchone() != (0,):
                    return
                time.sleep(0.001)

    def note_death(self, name: str, point: str, again: Callable[[], None]) -> None:
        """Writes down that a process killed itself at a point, and starts it again."""
        began, began_at = self.clock.wall(), self.clock.now()
        again()
        self.log.append(Harm("kill", name, {point: 1}, began, self.clock.wall(), began_at, self.clock.now()))

    # -- looking from outside ------------------------------------------------------------------------

    def look(self) -> dict[str, int]:
        """What is in flight: facts not yet published, messages not yet taken, transactions, attempts."""
        found: dict[str, int] = {}
        now = self.clock.now()
        for name in SERVICES:
            with self._open(name) as db:
                found[f"{name} outbox"] = _number(db, OUTBOX)
                found[f"{name} writes"] = _number(db, WRITES)
                if name == "notify":
                    found["attempts open"] = _number(db, OPEN)
                    found["notices due"] = _number(db, DUE, now) if _may_send(now) else 0
        with suppress(sqlite3.OperationalError), closing(self._ledger()) as ledger:
            found["receipts due"] = ledger.execute(RECEIPTS, (now.isoformat(),)).fetchone()[0]
        found |= asyncio.run(lags(self.kafka.bootstrap))
        return {name: number for name, number in found.items() if number}

    def rows(self, service: str, sql: str, *values: Any) -> list[Any]:
        """What a service's database holds."""
        with self._open(service) as db:
            return db.execute(sql.encode(), values or None).fetchall()

    def _open(self, service: str) -> "psycopg.Connection[Any]":
        url = self._databases[service].replace("+psycopg", "")
        return psycopg.connect(url, autocommit=True, connect_timeout=5, options="-c timezone=UTC")

    def _ledger(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.folder / LEDGER}?mode=ro", uri=True)

    # -- afterwards ----------------------------------------------------------------------------------

    def evidence(self) -> Evidence:
        """What it left behind."""
        on_the_way = [harm for harm in self.log if harm.victim.startswith(ON_THE_WAY)]
        recording = [harm for harm in self.log if harm.victim.startswith(RECORDING)]
        spans = [(harm.began - AROUND, harm.ended + AROUND) for harm in (*on_the_way, *recording)]
        return Evidence(
            self.folder,
            unknown=self.rows("notify", UNKNOWN),
            visited={uscc for (uscc,) in self.rows("matching", VISITED)},
            looks=self.rows("notify", LOOKS),
            harmed={uscc for uscc, at in self.rows("notify", TRIED) if _within(at, spans)},
            stops=[(harm.began_at, harm.ended_at) for harm in on_the_way if harm.what != "kill"],
        )


def _may_send(at: datetime) -> bool:
    return is_working_day(at.date()) and OPENS <= at.time() < CLOSES


def _within(at: datetime, spans: Iterable[tuple[datetime, datetime]]) -> bool:
    return any(began <= at <= ended for began, ended in spans)


def _number(db: "psycopg.Connection[Any]", sql: str, *values: Any) -> int:
    row = db.execute(sql.encode(), values or None).fetchone()
    return int(row[0]) if row else 0


async def lags(bootstrap: str) -> dict[str, int]:
    """Messages that no process of a service has taken yet, by service; empty when the broker is away."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=3_000)
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap, request_timeout_ms=3_000)
    places = [TopicPartition(PREFIX + topic, n) for topic in TOPICS for n in range(PARTITIONS)]
    found = {}
    try:
        async with asyncio.timeout(LOOK_WITHIN_S):
            await asyncio.gather(admin.start(), reader.start())
            ends = await reader.end_offsets(places)
            for name in SERVICES:
                taken = await admin.list_consumer_group_offsets(PREFIX + name)
                found[f"{name} lag"] = sum(
                    max(ends[place] - at.offset, 0) for place, at in taken.items() if place in ends
                )
    except (KafkaError, TimeoutError):
        pass
    finally:
        await asyncio.gather(admin.close(), reader.stop(), return_exceptions=True)
    return found
