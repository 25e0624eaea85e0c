"""The embedded form: one process is killed -9 with work in flight, again and again.

It is stopped (SIGSTOP) at random moments and looked at from outside. Only when its files hold unpublished
facts or an open attempt is it killed; otherwise it goes on.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from services.cli import token_minter
from services.demo import story
from tests.chaos.judge import LOOKS, UNKNOWN, VISITED, Evidence, judge
from tests.chaos.telling import Telling, whole_city
from tests.support.native import free_port

SERVICES = ("registry", "matching", "notify", "targets")


@dataclass
class Killing:
    """The server process, and what was in flight at each of its deaths."""

    folder: Path
    port: int
    log: list[dict[str, int]] = field(default_factory=list)
    open_units: set[str] = field(default_factory=set)

    def start(self) -> None:
        """Starts the suite on the same files and waits until it answers."""
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "services.cli",
                    "serve",
                    "--demo",
                    "--port",
                    str(self.port),
                    "--data",
                    str(self.folder),
                ],
                env={**os.environ, "YINGBAO_REGISTRY_PARTICIPATIONS_MODE": "batch"},
                stdout=log,
                stderr=log,
            )
        for _ in range(600):
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{self.port}/registry/health/ready").is_success:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"the suite did not come back; see {self.folder / 'server.log'}")

    def kill_if_busy(self) -> bool:
        """Stops the process, looks, and kills it when something was in flight."""
        self.process.send_signal(signal.SIGSTOP)
        in_flight, _ = self._look()
        if not sum(in_flight.values()):
            self.process.send_signal(signal.SIGCONT)
            return False
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        # Once more: a commit that was being synced is seen by nobody before the file is opened after its writer.
        in_flight, units = self._look()
        self.log.append(in_flight)
        self.open_units |= units
        self.start()
        return True

    def wait_for_attempt(self, *, seconds: float) -> None:
        """Returns as soon as an attempt is open, or after so many seconds."""
        give_up = time.monotonic() + seconds
        with closing(sqlite3.connect(f"file:{self.folder / 'notify.db'}?mode=ro", uri=True)) as db:
            while time.monotonic() < give_up:
                if db.execute("SELECT 1 FROM attempt WHERE state = 'open' LIMIT 1").fetchone():
                    return
                time.sleep(0.001)

    def end(self) -> None:
        """Stops the process in an orderly way."""
        self.process.terminate()
        self.process.wait(15)

    def evidence(self) -> Evidence:
        """What it left behind."""
        return Evidence(
            self.folder,
            unknown=[(uscc, stage) for uscc, stage in self._ask("notify", UNKNOWN)],
            visited={uscc for (uscc,) in self._ask("matching", VISITED)},
            looks=[(uscc, datetime.fromisoformat(at)) for uscc, at in self._ask("notify", LOOKS)],
            harmed=self.open_units,
        )

    def _look(self) -> tuple[dict[str, int], set[str]]:
        found: dict[str, int] = {}
        units: set[str] = set()
        for service in SERVICES:
            rows = self._peek(service, "SELECT count(*) FROM outbox")
            found[f"{service} outbox"] = rows[0][0] if rows else 0
        for (uscc,) in self._peek("notify", OPEN_UNITS):
            units.add(uscc)
        found["open attempts"] = len(units)
        return found, units

    def _peek(self, service: str, sql: str) -> list[Any]:
        """As `_ask`, of files that may still be without tables, or in the middle of a change."""
        with suppress(sqlite3.OperationalError):
            return self._ask(service, sql)
        return []

    def _ask(self, service: str, sql: str) -> list[Any]:
        # Read-only, so that the dead process's files are exactly what the next one finds.
        with closing(sqlite3.connect(f"file:{self.folder / service}.db?mode=ro", uri=True)) as db:
            return db.execute(sql).fetchall()


OPEN_UNITS = """
    SELECT notice.uscc FROM attempt JOIN attempt_notice USING (reference)
    JOIN notice ON notice.id = attempt_notice.notice_id WHERE attempt.state = 'open'
"""


def run(folder: Path, *, kills: int, seed: int, console: Console) -> dict[str, Any]:
    """Plays and judges in an empty folder; returns the figures of the last line."""
    chance = random.Random(seed)
    folder.mkdir(parents=True)
    killing = Killing(folder, free_port())
    killing.start()
    addresses = story.Addresses.below(f"http://127.0.0.1:{killing.port}")
    driver = Telling(addresses, token_minter(folder), folder, whole_city())
    driver.start()
    try:
        while driver.is_alive():
            if len(killing.log) % 3 == 2:
                killing.wait_for_attempt(seconds=5)
            else:
                time.sleep(chance.uniform(0.02, 0.6))
            if len(killing.log) < kills and killing.kill_if_busy():
                number = len(killing.log)
                at_death = ", ".join(f"{name} {count}" for name, count in killing.log[-1].items() if count)
                console.print(f"kill {number}: in flight {at_death}")
                # Spread the deaths over the story instead of spending them in its first days.
                time.sleep(chance.uniform(0.5, 3.0))
        driver.finish()
    finally:
        killing.end()
    in_flight: Counter[str] = Counter()
    for death in killing.log:
        in_flight.update(death)
    figures = judge(killing.evidence(), console)
    return {**figures, "kills": len(killing.log), "faults": 0, "in_flight": dict(in_flight)}
