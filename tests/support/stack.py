"""The suite as a city runs it, on this machine: PostgreSQL, Kafka, and each service in processes of its own."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import httpx

from services.demo.story import Addresses
from services.demo_clock import DEMO_START
from shared.auth import LocalIssuer, department_scopes
from shared.clock import SimulatedClock, SystemClock
from shared.events.catalogue import TOPICS
from shared.messaging.kafka import create_topics
from tests.support.native import ROOT, Native

SERVICES = ("registry", "matching", "notify", "targets")
SECRET = "only-for-tests-0123456789"
WECHAT = {
    "WECHAT_SECRET": SECRET,
    "WECHAT_TOKEN": "token0123456789",
    "WECHAT_AES_KEY": "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG",
}


class Process(Native):
    """One process of the suite. `port` stays the same through all its lives."""

    program: Sequence[str] = ("services.cli", "serve")
    """The module that is run, and what stands before the service's name."""

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str], role: str = "all") -> None:
        super().__init__(folder)
        self.name, self.role = name, role
        self.settings = dict(environment)
        self.health = "/messages" if name == "sandbox" else "/health/ready"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        role = [] if self.name == "sandbox" else ["--role", self.role]
        return [sys.executable, "-m", *self.program, self.name, *role, "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("YINGBAO_")}
        return {**plain, "PYTHONPATH": str(ROOT), **self.settings}

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(self.url + self.health, timeout=2).is_success
        return False


class Stack:
    """All processes of a suite on given servers; use as a context manager.

    `databases` are SQLAlchemy URLs by service. `roles` names the processes of each service; one of each
    that does everything, unless told otherwise. `through` are ports by which notify finds registry and the
    sandbox, where those are not their own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        databases: Mapping[str, str],
        kafka: str,
        prefix: str = "yingbao.",
        demo: bool = True,
        roles: Mapping[str, Sequence[str]] | None = None,
        more: Mapping[str, str] | None = None,
        through: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._kafka, self._prefix = kafka, prefix
        clock = folder / "clock.json"
        if demo:
            SimulatedClock(clock, start=DEMO_START)  # makes the file
        common = {
            "YINGBAO_KAFKA": kafka,
            "YINGBAO_KAFKA_PREFIX": prefix,
            "YINGBAO_LOG_LEVEL": "INFO",
            **({"YINGBAO_CLOCK_FILE": str(clock)} if demo else {}),
            **(more or {}),
        }
        self.sandbox = Process(folder / "sandbox", "sandbox", {})
        self.processes: dict[str, list[Process]] = {}
        for name in SERVICES:
            own = {
                "DATABASE_URL": databases[name],
                "DATA_DIR": str(folder),
                "DEMO": str(demo).lower(),
            }
            settings = {**common, **{f"YINGBAO_{name.upper()}_{key}": value for key, value in own.items()}}
            self.processes[name] = [
                Process(folder / f"{name}-{number}", name, settings, role)
                for number, role in enumerate((roles or {}).get(name, ("all",)), 1)
            ]
        front = {name: self.front(name) for name in SERVICES}
        ways = {"registry": front["registry"].port, "sandbox": self.sandbox.port, **(through or {})}
        registry, carrier = (f"http://127.0.0.1:{ways[name]}" for name in ("registry", "sandbox"))
        for process in self.processes["notify"]:
            process.settings |= {
                f"YINGBAO_NOTIFY_{key}": value
                for key, value in {
                    "REGISTRY_URL": registry,
                    "CARRIER_URL": f"{carrier}/yunmas",
                    "CARRIER_SECRET_KEY": SECRET,
                    "RECEIPTS_SECRET": SECRET,
                    "WECHAT_URL": f"{carrier}/wechat",
                    **WECHAT,
                }.items()
            }
        self.sandbox.settings |= {
            f"YINGBAO_SANDBOX_{key}": value
            for key, value in {
                "SECRET_KEY": SECRET,
                "CALLBACK_URL": f"{front['notify'].url}/v1/receipts/sandbox/{SECRET}",
                "FILE": str(folder / "sandbox.db"),
                **({"CLOCK_FILE": str(clock)} if demo else {}),
                **WECHAT,
                "WECHAT_CALLBACK_URL": f"{front['notify'].url}/v1/wechat",
            }.items()
        }
        self._stack = ExitStack()

    @property
    def all(self) -> list[Process]:
        """Every process."""
        return [self.sandbox, *(process for of_name in self.processes.values() for process in of_name)]

    def front(self, name: str) -> Process:
        """The process that answers requests to a service."""
        return next(process for process in self.processes[name] if process.role != "worker")

    def worker(self, name: str) -> Process:
        """A process that does what nobody asks for."""
        return next(process for process in self.processes[name] if process.role != "api")

    def addresses(self) -> Addresses:
        """Where the story finds each part."""
        urls = {name: self.front(name).url for name in SERVICES}
        return Addresses(**urls, sandbox=self.sandbox.url, clock=urls["registry"])

    def token(self, department: str) -> str:
        """A bearer token of the suite's own issuer."""
        issuer = LocalIssuer(self.folder / "issuer.jwk", SystemClock())
        return issuer.token(department, department=department, scopes=department_scopes(department))

    def __enter__(self) -> Self:
        asyncio.run(create_topics(self._kafka, TOPICS, prefix=self._prefix))
        with ExitStack() as starting:
            for process in self.all:
                process.launch()
                starting.callback(process.stop)
            for process in self.all:
                process.wait_until_up()
            self._stack = starting.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
