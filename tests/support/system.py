"""The whole suite in one test: a frozen clock, real files, the real sandbox, no sockets.

`settle` lets relays, consumers and duties run until nothing is due or in flight; `move_to` goes from
instant to instant, settling between jumps, as the demo's driver does.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx

from services.all_in_one import LEDGER, Suite
from services.demo_clock import DEMO_START
from shared.auth import LocalIssuer, department_scopes
from shared.clock import FrozenClock
from shared.messaging.bus import Message
from shared.messaging.in_process import InProcessBus

GIVE_UP_S = 30.0
PATIENT = {"look_timeout_s": GIVE_UP_S, "carrier_timeout_s": GIVE_UP_S, "submit_within_s": 2 * GIVE_UP_S}
"""Time-outs run on real time, the pauses behind them on the clock that stands still: on a busy machine one would last."""


class GatedBus(InProcessBus):
    """The embedded bus with a gate per topic: what is published to a shut one waits."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[str, asyncio.Event] = {}

    def shut(self, topic: str) -> None:
        """Facts of this publisher stay in its outbox from now on."""
        self._open[topic] = asyncio.Event()

    def reopen(self, topic: str) -> None:
        """What waited goes on."""
        self._open.pop(topic).set()

    async def publish(self, messages: Sequence[Message]) -> None:
        if messages and (gate := self._open.get(messages[0].topic)):
            await gate.wait()
        await super().publish(messages)


class Wire(httpx.AsyncBaseTransport):
    """What carries notify's requests; `cut` names a part of the path that can't be reached any more."""

    def __init__(self, inside: httpx.AsyncBaseTransport) -> None:
        self._inside = inside
        self.cut: str | None = None
        self.refused = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.cut and self.cut in request.url.path:
            self.refused += 1
            raise httpx.ConnectError("cut", request=request)
        return await self._inside.handle_async_request(request)


class System:
    """An embedded suite under test; use as `async with System(folder) as system`."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: FrozenClock | None = None,
        overrides: dict[str, dict[str, Any]] | None = None,
        bus: GatedBus | None = None,
    ) -> None:
        self.folder = folder
        self.clock = clock or FrozenClock(DEMO_START)
        self.bus = bus or GatedBus()
        self.wire: Wire | None = None
        told = {**(overrides or {})}
        told["notify"] = {**PATIENT, **told.get("notify", {})}
        self.suite = Suite(
            folder, clock=self.clock, demo=True, overrides=told, through=self._through, bus=self.bus
        )
        self._issuer = LocalIssuer(folder / "issuer.jwk", self.clock)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.suite.app.router.lifespan_context(self.suite.app))
        self._client = await self._stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(self.suite.app, raise_app_exceptions=False),
                base_url="http://test",
            )
        )
        await self.settle()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        department: str = "HRSS",
        town: str | None = None,
        headers: dict[str, str] | None = None,
        status: int | None = None,
    ) -> Any:
        """Sends a request as a department; gives the JSON, or fails when the status is another one."""
        token = self._issuer.token(
            department,
            department=department,
            town=town,
            scopes=department_scopes(department),
            ttl=timedelta(days=1),
        )
        answer = await self._client.request(
            method, path, json=body, headers={"Authorization": f"Bearer {token}", **(headers or {})}
        )
        expected = {status} if status else {200, 201, 202}
        assert answer.status_code in expected, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def page(
        self, path: str, *, headers: dict[str, str] | None = None, status: int = 200
    ) -> httpx.Response:
        """What a browser without a token gets."""
        answer = await self._client.get(path, headers=headers)
        assert answer.status_code == status, f"GET {path}: {answer.status_code} {answer.text}"
        return answer

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        """Lets the loops run until something holds; for states in which the suite is not quiet."""
        give_up = asyncio.get_running_loop().time() + GIVE_UP_S
        while not await holds():
            if asyncio.get_running_loop().time() > give_up:
                raise AssertionError(f"never happened: {what}")
            self.suite.wake()
            await asyncio.sleep(0.001)

    def _through(self, inside: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        self.wire = Wire(inside)
        return self.wire

    async def settle(self) -> datetime | None:
        """Waits until nothing is due or in flight, twice in a row; gives the next instant something is."""
        calm = 0
        give_up = asyncio.get_running_loop().time() + GIVE_UP_S
        while True:
            self.suite.wake()
            answers = {name: await service.quiet() for name, service in self.suite.services.items()}
            answers["sandbox"] = self.suite.sandbox.state.sandbox.quiet(self.clock.now())
            calm = calm + 1 if all(still for still, _ in answers.values()) else 0
            if calm == 2:
                return min((due for _, due in answers.values() if due is not None), default=None)
            if asyncio.get_running_loop().time() > give_up:
                failing = {n: s.failing for n, s in self.suite.services.items() if s.failing}
                raise AssertionError(f"not quiet at {self.clock.now()}: {answers}, failing loops {failing}")
            await asyncio.sleep(0.001)

    async def move_to(self, at: datetime) -> None:
        """Goes to an instant, stopping wherever something is due on the way."""
        while (due := await self.settle()) is not None and due <= at:
            self.clock.move_to(due)
        self.clock.move_to(at)
        await self.settle()

    def ledger(self) -> list[dict[str, Any]]:
        """What the carrier has accepted so far, oldest first."""
        with sqlite3.connect(self.folder / LEDGER) as db:
            db.row_factory = sqlite3.Row
            rows = db.execute("SELECT * FROM messages WHERE verdict = 'accepted' ORDER BY seq")
            return [dict(row) for row in rows]

    async def register(self, uscc: str, established_on: date, **facts: Any) -> Any:
        """Registers an enterprise with one contact, unless told otherwise."""
        body = {
            "uscc": uscc,
            "name": "荣成市示例水产有限公司",
            "kind": "enterprise",
            "established_on": established_on.isoformat(),
            "town": "寻山街道",
            "contacts": [{"role": "legal_representative", "name": "于示例", "mobile": "13800138000"}],
            **facts,
        }
        return await self.ask("POST", "/registry/v1/units", body, department="ADM")

    async def enrol(self, uscc: str | None, started_on: date, **facts: Any) -> Any:
        """Records that one person is insured through a unit."""
        body = {
            "uscc": uscc,
            "person": {"id_number": "371082198503150023", "name": "王示例"},
            "insurance": "pension",
            "form": "employer",
            "kind": "first",
            "started_on": started_on.isoformat(),
            **facts,
        }
        return await self.ask("POST", "/registry/v1/participations", body)
