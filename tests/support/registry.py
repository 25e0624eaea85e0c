"""Registry alone, on files of its own, asked over HTTP without a socket; loops stand still."""

import asyncio
import json
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import httpx
import sqlalchemy as sa

from services.registry.app import build
from services.registry.settings import RegistrySettings
from services.registry.tables import PLUMBING, metadata
from shared.auth import LocalIssuer, department_scopes
from shared.clock import ZONE, FrozenClock
from shared.messaging.in_process import InProcessBus

AT = datetime(2026, 2, 10, 10, tzinfo=ZONE)
USCC = "91371082MA3XTE5T8Q"
OTHER_USCC = "93371082MA3XTE5U6D"
"""A cooperative's code."""
WRONG_CHECK = "91371082MA3XTE5T8R"
ID_NUMBER = "371082198503150023"
OTHER_ID_NUMBER = "37063319620720001X"

UNIT = {
    "uscc": USCC,
    "name": "荣成市示例水产有限公司",
    "kind": "enterprise",
    "established_on": "2026-01-09",
    "town": "寻山街道",
    "address": "荣成市寻山街道示例路1号",
    "industry": "C1361",
    "contacts": [{"role": "legal_representative", "name": "于示例", "mobile": "13800138000"}],
}
PARTICIPATION = {
    "uscc": USCC,
    "person": {"id_number": ID_NUMBER, "name": "王示例"},
    "insurance": "pension",
    "form": "employer",
    "kind": "first",
    "started_on": "2026-02-09",
}


class Registry:
    """Use as `with Registry(folder) as registry`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.clock = FrozenClock(AT)
        self.settings = RegistrySettings(data_dir=folder, **settings)
        self.service = build(self.settings, bus=InProcessBus(), clock=self.clock)
        with self.service.core.database.write() as db:
            metadata.create_all(db)
        self._issuer = LocalIssuer(self.settings.issuer_key, self.clock)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        async def start() -> httpx.AsyncClient:
            self.service.core.start()
            transport = httpx.ASGITransport(self.service.app)
            return httpx.AsyncClient(transport=transport, base_url="http://registry")

        self._client = self._runner.run(start())
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(self._client.aclose())
        self.service.core.stop()
        self._runner.close()

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        department: str = "ADM",
        town: str | None = None,
        scopes: Collection[str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Asks as a department; a `bytes` body goes as it is."""
        bearer = self._issuer.token(
            department, department=department, town=town, scopes=scopes or department_scopes(department)
        )
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        given = {"Authorization": f"Bearer {bearer}"}
        if content is not None:
            given["Content-Type"] = "application/json"
        return self._runner.run(
            self._client.request(method, path, content=content, headers={**given, **(headers or {})})
        )

    def register(self, **facts: Any) -> httpx.Response:
        """Registers the sample unit, some facts replaced."""
        return self.ask("POST", "/v1/units", {**UNIT, **facts})

    def record(self, **facts: Any) -> httpx.Response:
        """Records the sample participation, some facts replaced."""
        return self.ask("POST", "/v1/participations", {**PARTICIPATION, **facts}, department="HRSS")

    def run(self, do: Any) -> Any:
        """Runs `do(work)` in a transaction."""
        return self._runner.run(self.service.core.run(do))

    def due(self, name: str = "complete_live_days") -> datetime | None:
        """When a duty has something to do next."""
        with self.service.core.database.read() as db:
            due: datetime | None = self._duty(name).next_due(db, self.clock.now())
            return due

    def _duty(self, name: str) -> Any:
        return next(duty for duty in self.service.duties if duty.name == name)

    def send(
        self, content: bytes, dataset: str = "participations", *, department: str = "HRSS", query: str = ""
    ) -> httpx.Response:
        """Sends a file."""
        path = f"/v1/datasets/{dataset}/batches{query}"
        return self.ask("POST", path, content, department=department, headers={"Content-Type": "text/csv"})

    def take_in(self, steps: int | None = None) -> int:
        """Lets the duty of the files do its steps, all or at most so many; how many it did."""
        done = 0
        while done != steps and self.wait(self._duty("intake").step()):
            done += 1
        return done

    def batch(self, sent: httpx.Response) -> dict[str, Any]:
        """What became of a file that was sent."""
        answer = self.ask("GET", sent.headers["Location"], department="HRSS")
        if answer.status_code == 404:
            answer = self.ask("GET", sent.headers["Location"], department="ADM")
        found: dict[str, Any] = answer.json()
        return found

    def wait(self, awaitable: Any) -> Any:
        """What a coroutine returns."""
        return self._runner.run(awaitable)

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """What was told so far: short name and data; a broadcast once."""
        table = PLUMBING.outbox
        with self.service.core.database.read() as db:
            rows = db.execute(
                sa.select(table).where(sa.func.coalesce(table.c.partition, 0) == 0).order_by(table.c.seq)
            )
            return [(row.type.split(".")[1], row.data) for row in rows]

    def dump(self) -> str:
        """Every stored value of every table, as text; to look for what must not be there."""
        with self.service.core.database.read() as db:
            return "\n".join(
                str(tuple(row)) for table in metadata.sorted_tables for row in db.execute(sa.select(table))
            )

    def audits(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Action, subject, details of the audit rows."""
        table = PLUMBING.audit
        with self.service.core.database.read() as db:
            return [
                (row.action, row.subject, row.details)
                for row in db.execute(sa.select(table).order_by(table.c.seq))
            ]
