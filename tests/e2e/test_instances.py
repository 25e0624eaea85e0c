"""Several processes of one service, under load: one is stopped, one is killed, the broker goes away."""

import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg

from tests.chaos.proxy import Proxy
from tests.support.load import bodies
from tests.support.native import Kafka, Postgres, started, wait_until
from tests.support.stack import SERVICES, Process, Stack

STOPPED_WITHIN_S = 10
OVERDUE = "2025-11-20"
MORE = {"YINGBAO_MATCHING_LATE_REGISTRATION_WAIT_S": "0"}


class Load:
    """Registers overdue units, one after the other, from a thread of its own."""

    def __init__(self, stack: Stack) -> None:
        self._url = stack.front("registry").url
        self._headers = {"Authorization": f"Bearer {stack.token('ADM')}"}
        self._ended = threading.Event()
        self.registered: list[str] = []
        """Units whose registration was answered."""
        self.failed: list[str] = []

    @contextmanager
    def running(self) -> Generator[None]:
        """Registers until the end of the block."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def more(self, number: int) -> None:
        """Waits until so many more were registered."""
        enough = len(self.registered) + number
        wait_until(lambda: bool(self.failed) or len(self.registered) >= enough, "registrations go on")

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=20) as client:
            for _, body in bodies(established_on=OVERDUE):
                if self._ended.is_set():
                    return
                answer = client.post("/v1/units", json=body)
                kept = self.registered if answer.status_code == httpx.codes.CREATED else self.failed
                kept.append(body["uscc"])


def ready(process: Process) -> tuple[int, list[str]]:
    """Status of its readiness, and what is degraded."""
    answer = httpx.get(f"{process.url}/health/ready", timeout=5)
    return answer.status_code, answer.json().get("degraded", [])


def test_instances_come_and_go_under_load(tmp_path: Path, postgres: Postgres) -> None:
    """Of two workers of matching one is told to stop and ends in time, and one is killed: nothing is lost.

    While the broker is away, a process that answers requests is ready and says what is degraded, one that
    answers none is not ready; registrations go on, and afterwards everything catches up.
    """
    broker = started(Kafka(tmp_path / "kafka"))
    databases = {name: postgres.new_database() for name in SERVICES}
    roles = {"matching": ("worker", "worker", "api")}
    try:
        with Stack(
            tmp_path / "suite", databases=databases, kafka=broker.bootstrap, roles=roles, more=MORE
        ) as stack:
            first, second, api = stack.processes["matching"]
            load = Load(stack)
            matching = psycopg.connect(databases["matching"].replace("+psycopg", ""), autocommit=True)
            with matching, load.running():

                def has_caught_up(units: list[str]) -> bool:
                    asked = "SELECT count(*) FROM lead WHERE uscc = ANY(%s)"
                    found = matching.execute(asked, (units,)).fetchone()
                    return found is not None and found[0] == len(units)

                load.more(20)
                began = time.monotonic()
                first.stop()
                assert time.monotonic() - began < STOPPED_WITHIN_S
                assert first.process.returncode == -signal.SIGTERM  # having ended, it passes the signal on
                load.more(10)
                wait_until(lambda: has_caught_up(load.registered[:30]), "the other one has its partitions")

                first.start()
                load.more(10)
                second.kill()
                load.more(10)
                wait_until(lambda: has_caught_up(load.registered[:50]), "a killed one's partitions went over")

                assert ready(first) == (200, [])
                broker.kill()
                wait_until(lambda: ready(first)[0] == httpx.codes.SERVICE_UNAVAILABLE, "a worker needs it")
                wait_until(lambda: "bus" in ready(stack.front("registry"))[1], "registry says so")
                assert ready(stack.front("registry"))[0] == httpx.codes.OK
                assert ready(api)[0] == httpx.codes.OK
                load.more(10)
                broker.start()
                wait_until(lambda: ready(first)[0] == httpx.codes.OK, "the worker is ready again")
            assert not load.failed
            with psycopg.connect(databases["matching"].replace("+psycopg", ""), autocommit=True) as db:
                asked = "SELECT count(*), count(DISTINCT uscc), sum(episode) FROM lead"
                done = (len(load.registered),) * 3
                wait_until(
                    lambda: db.execute(asked).fetchone() == done, "each unit has one lead, once opened"
                )
    finally:
        broker.stop()


def test_a_stop_does_not_wait_for_a_database_that_hangs(
    tmp_path: Path, postgres: Postgres, kafka: Kafka
) -> None:
    """It takes connections and never answers: the process ends all the same, as if it had been killed."""
    with Proxy(postgres.port) as line:
        database = postgres.new_database().replace(f":{postgres.port}/", f":{line.port}/")
        settings = {
            "YINGBAO_KAFKA": kafka.bootstrap,
            "YINGBAO_KAFKA_PREFIX": "hangs.",
            "YINGBAO_TARGETS_DATABASE_URL": database,
            "YINGBAO_TARGETS_DATA_DIR": str(tmp_path),
        }
        process = Process(tmp_path / "targets", "targets", settings)
        process.start()
        try:
            line.hold()
            began = time.monotonic()
            process.signal(signal.SIGTERM)
            process.process.wait(timeout=3 * STOPPED_WITHIN_S)
            assert time.monotonic() - began < STOPPED_WITHIN_S
        finally:
            line.heal()
            process.stop()
