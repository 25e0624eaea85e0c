"""From a registration to the message at the carrier, embedded and on PostgreSQL with Kafka.

    python -m tests.bench.latency [--seconds 30] [--rate 20] [--rounds 1]

Each unit's clock ran out before it is registered, inside the sending hours, and each has a phone of its own,
so its message may leave as soon as it can. The time runs from just before `POST /v1/units` is sent to the
instant at which the carrier sandbox received the message, both by this machine's one clock. Requests leave at
their times whether or not earlier ones are answered. The wait that gives late registrations time to declare
their people is set to 0 and printed. The last line is one JSON object (design: latency).
"""

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from shared.auth import LocalIssuer, department_scopes
from shared.clock import SystemClock
from tests.support.load import bodies, mobile_of
from tests.support.native import ROOT, Kafka, Native, Postgres, started, wait_until
from tests.support.stack import SERVICES, Stack

WAIT_S = 0
OVERDUE = "2025-11-20"
"""The clock of a unit of this day ran out on 2025-12-22; the benches begin on Monday 2026-01-05 at 10:00."""

WARM = 40
"""Registrations that are not counted: the first ones find no connection open and nothing compiled."""

SETTINGS = {"YINGBAO_MATCHING_LATE_REGISTRATION_WAIT_S": str(WAIT_S), "YINGBAO_LOG_LEVEL": "WARNING"}


class Embedded(Native):
    """The whole suite in one process."""

    def command(self) -> Sequence[str]:
        command = [sys.executable, "-m", "services.cli", "serve", "--demo"]
        return [*command, "--data", str(self.folder), "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("YINGBAO_")}
        return {**plain, "PYTHONPATH": str(ROOT), **SETTINGS}

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.port}/registry/health/ready", timeout=2).is_success
        return False


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=30.0)
    options.add_argument("--rate", type=float, default=20.0)
    options.add_argument("--rounds", type=int, default=2)
    given = options.parse_args()
    print(f"late_registration_wait {WAIT_S} s, {given.rate:g} registrations a second", flush=True)
    rounds: dict[str, list[dict[str, float]]] = {"embedded": [], "kafka": []}
    with tempfile.TemporaryDirectory(prefix="latency-") as folder:
        for number in range(given.rounds):
            for name, measure in (("embedded", on_sqlite), ("kafka", on_kafka)):
                figures = measure(Path(folder) / f"{name}-{number}", given.seconds, given.rate)
                rounds[name].append(figures)
                told = ", ".join(f"{what} {value:.0f}" for what, value in figures.items())
                print(f"round {number + 1}, {name}: {told}", flush=True)
    print(json.dumps({name: _median(of_name) for name, of_name in rounds.items()}))


def on_sqlite(folder: Path, seconds: float, rate: float) -> dict[str, float]:
    """One round embedded."""
    suite = started(Embedded(folder))
    try:
        return measure(f"http://127.0.0.1:{suite.port}/registry", folder, seconds, rate)
    finally:
        suite.stop()


def on_kafka(folder: Path, seconds: float, rate: float) -> dict[str, float]:
    """One round with a process for each service."""
    postgres = started(Postgres(folder / "postgres"))
    try:
        kafka = started(Kafka(folder / "kafka"))
        try:
            databases = {name: postgres.new_database() for name in SERVICES}
            suite = folder / "suite"
            with Stack(suite, databases=databases, kafka=kafka.bootstrap, more=SETTINGS) as stack:
                return measure(stack.front("registry").url, suite, seconds, rate)
        finally:
            kafka.stop()
    finally:
        postgres.stop()


def measure(url: str, folder: Path, seconds: float, rate: float) -> dict[str, float]:
    """Registers at the rate; returns quantiles in milliseconds, and the rate that was kept."""
    token = LocalIssuer(folder / "issuer.jwk", SystemClock()).token(
        "ADM", department="ADM", scopes=department_scopes("ADM")
    )
    number = int(seconds * rate)
    ledger = folder / "sandbox.db"
    asyncio.run(register(url, token, range(1, WARM + 1), rate))
    wait_until(lambda: len(received(ledger)) >= WARM, "the first messages reached the carrier")
    began = time.time()
    sent = asyncio.run(register(url, token, range(WARM + 1, WARM + 1 + number), rate))
    kept = number / (time.time() - began)
    wait_until(lambda: len(received(ledger)) >= WARM + number, "every message reached the carrier")
    at = received(ledger)
    took = [(at[mobile_of(n)] - sent[n]) * 1e3 for n in sent]
    cuts = statistics.quantiles(took, n=100)
    return {"p50_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98], "rate_per_s": kept}


async def register(url: str, token: str, numbers: Sequence[int], rate: float) -> dict[int, float]:
    """Posts each unit at its time; returns when each request began."""
    sent: dict[int, float] = {}
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:

        async def post(number: int, body: Mapping[str, Any], after: float) -> None:
            await asyncio.sleep(after)
            sent[number] = time.time()
            answer = await client.post(f"{url}/v1/units", json=body)
            assert answer.status_code == httpx.codes.CREATED, answer.text

        units = zip(numbers, bodies(established_on=OVERDUE, first=numbers[0]), strict=False)
        await asyncio.gather(*(post(n, body, place / rate) for place, (n, (_, body)) in enumerate(units)))
    return sent


def received(ledger: Path) -> dict[str, float]:
    """When the carrier received the message to each phone, as seconds of the epoch."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT mobile, received_wall FROM messages").fetchall()
    return {mobile: datetime.fromisoformat(wall).timestamp() for mobile, wall in rows}


def _median(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    medians = {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
    return {**{name: round(value, 1) for name, value in medians.items()}, "late_registration_wait_s": WAIT_S}


if __name__ == "__main__":
    main()
