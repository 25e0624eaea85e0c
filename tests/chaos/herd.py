"""A herd of clocks that fall due on one day, on PostgreSQL and Kafka: the carrier's rate holds, the API answers.

    python -m tests.chaos.herd [--due 50000] [--rate 100] [--probes 10]

The units are registered by registry's own command in bulk, travel as ever, and their clocks run out in the same
night. Then business time jumps to the next morning's opening hour, and everything falls due at once. Until the
last message has reached the carrier, requests are sent at a small rate: reads of all three services, and new
registrations. `over_rate` is by how much the carrier's busiest second, wherever it begins, exceeded the rate it
takes, by the carrier's own ledger. The last line is one JSON object (design: chaos herd).
"""

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import date, datetime
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import psycopg

from services.demo_clock import DEMO_START
from services.registry.app import build
from services.registry.commands import RegisterUnit, register_units
from services.registry.domain import Contact, ContactRole, UnitKind
from services.registry.settings import RegistrySettings
from services.registry.work import RegistryWork
from shared.auth import LocalIssuer
from shared.clock import FrozenClock, SystemClock
from shared.messaging.in_process import InProcessBus
from shared.storage.work import Cause
from tests.support.load import bodies
from tests.support.native import Kafka, Postgres, started
from tests.support.stack import SERVICES, Stack

ESTABLISHED = date(2025, 12, 6)
"""Clocks of this day end with Monday 2026-01-05, the day on which simulated time begins."""

OPENING = "2026-01-06T08:30:00+08:00"
PORTION = 500
P99_MS = 500

ARequest = tuple[str, str, dict[str, Any] | None]
"""Method, URL, body."""


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--due", type=int, default=50_000)
    options.add_argument("--rate", type=int, default=100)
    options.add_argument("--probes", type=float, default=10.0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="herd-") as name:
        folder = Path(name)
        postgres = started(Postgres(folder / "postgres"))
        try:
            kafka = started(Kafka(folder / "kafka"))
            try:
                databases = {service: postgres.new_database() for service in SERVICES}
                more = {"YINGBAO_NOTIFY_RATE_PER_S": str(given.rate), "YINGBAO_LOG_LEVEL": "WARNING"}
                with Stack(folder / "suite", databases=databases, kafka=kafka.bootstrap, more=more) as stack:
                    figures = play(stack, databases, given.due, given.rate, given.probes)
            finally:
                kafka.stop()
        finally:
            postgres.stop()
    print(json.dumps(figures))
    sys.exit(figures["over_rate"] > 0 or figures["api_p99_ms"] >= P99_MS)


def play(stack: Stack, databases: dict[str, str], due: int, rate: int, probes: float) -> dict[str, Any]:
    """Lets them fall due together; returns the figures of the last line."""
    asyncio.run(register(stack.folder, databases["registry"], due))
    until("SELECT count(*) FROM clock", databases["matching"], due, "clocks run")
    until("SELECT count(*) FROM unit_contact", databases["notify"], due, "contacts known")
    with httpx.Client(timeout=60) as client:
        issuer = LocalIssuer(stack.folder / "issuer.jwk", SystemClock())
        scopes = ["units:write", "units:read", "leads:read", "notices:read"]
        token = issuer.token("herd", department="ADM", scopes=scopes)
        probing = Probing(client, token, requests(stack, due), probes)
        with probing:
            began = time.monotonic()
            clock = f"{stack.front('registry').url}/demo/clock"
            client.post(clock, json={"to": OPENING}).raise_for_status()
            ledger = stack.folder / "sandbox.db"
            told = 0
            while (count := len(received(ledger))) < due:
                if count - told >= due / 10:
                    told = count
                    print(f"{count:,} messages after {time.monotonic() - began:.0f} s", flush=True)
                time.sleep(1)
            minutes = (time.monotonic() - began) / 60
    seconds = [at.timestamp() for at in received(ledger)]
    print(
        f"busiest second of the carrier: {busiest(seconds)} of {rate}; {len(probing.took)} requests meanwhile"
    )
    return {
        "due": due,
        "minutes": round(minutes, 1),
        "api_p99_ms": round(statistics.quantiles(probing.took, n=100)[98] * 1e3, 1),
        "over_rate": max(busiest(seconds) - rate, 0),
    }


async def register(folder: Path, url: str, number: int) -> None:
    """Registers the units by registry's own command, beside its running process."""
    settings = RegistrySettings(data_dir=folder, database_url=url)
    core = build(settings, bus=InProcessBus(), clock=FrozenClock(DEMO_START)).core
    core.start()
    units = (_item(body) for _, body in bodies(established_on=ESTABLISHED.isoformat()))
    for first in range(0, number, PORTION):
        items = list(islice(units, min(PORTION, number - first)))
        await core.run(partial(_register, items), keys=[item.uscc for item in items])
    core.stop()


def _register(items: Sequence[RegisterUnit], work: RegistryWork) -> None:
    register_units(work, items)


def _item(body: dict[str, Any]) -> RegisterUnit:
    contact = body["contacts"][0]
    return RegisterUnit(
        cause=Cause("ADM", "herd"),
        within=None,
        uscc=body["uscc"],
        name=body["name"],
        kind=UnitKind(body["kind"]),
        established_on=date.fromisoformat(body["established_on"]),
        town=body["town"],
        address=body["address"],
        industry=body["industry"],
        contacts=(Contact(ContactRole(contact["role"]), contact["name"], contact["mobile"]),),
    )


def until(count: str, url: str, number: int, what: str) -> None:
    """Waits until a count has reached a number."""
    began = time.monotonic()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as db:
        while (row := db.execute(count).fetchone()) and row[0] < number:
            time.sleep(0.5)
    print(f"{number:,} {what} after {time.monotonic() - began:.0f} s", flush=True)


class Probing:
    """Requests at a small rate, from a thread of its own; `took` are their seconds."""

    def __init__(self, client: httpx.Client, token: str, requests: Iterator[ARequest], rate: float) -> None:
        self._client, self._rate = client, rate
        self._headers = {"Authorization": f"Bearer {token}"}
        self._requests = requests
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.took: list[float] = []
        self.failed: list[str] = []

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if self.failed:
            raise RuntimeError(f"a request failed: {self.failed}")

    def _run(self) -> None:
        while not self._ended.wait(1 / self._rate):
            method, url, body = next(self._requests)
            began = time.perf_counter()
            answer = self._client.request(method, url, json=body, headers=self._headers)
            self.took.append(time.perf_counter() - began)
            if answer.is_error:
                self.failed.append(f"{answer.status_code} {method} {url}")


def requests(stack: Stack, units: int) -> Iterator[ARequest]:
    """Reads of units of the herd, and registrations of others whose clocks have not run out."""
    registry, matching, notify = (stack.front(name).url for name in ("registry", "matching", "notify"))
    known = (
        body["uscc"] for _, body in cycle(islice(bodies(established_on="2025-12-06"), min(units, 1_000)))
    )
    new = bodies(established_on="2026-01-05", first=units + 1)
    while True:
        yield "GET", f"{registry}/v1/units/{next(known)}", None
        yield "GET", f"{matching}/v1/leads?uscc={next(known)}", None
        yield "GET", f"{notify}/v1/notices?uscc={next(known)}", None
        yield "POST", f"{registry}/v1/units", next(new)[1]


def received(ledger: Path) -> list[datetime]:
    """When the carrier received each message, by wall time."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT received_wall FROM messages ORDER BY received_wall").fetchall()
    return [datetime.fromisoformat(wall) for (wall,) in rows]


def busiest(seconds: Sequence[float]) -> int:
    """Most of these sorted instants within less than one second, wherever it begins."""
    window: deque[float] = deque()
    most = 0
    for at in seconds:
        window.append(at)
        while at - window[0] >= 1:
            window.popleft()
        most = max(most, len(window))
    return most


if __name__ == "__main__":
    main()
