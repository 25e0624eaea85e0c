"""A service, or the sandbox, that kills itself (SIGKILL) at a named point.

    CHAOS_DIES="published, not marked:2" python -m tests.chaos.serve SERVICE --role ROLE --port PORT

It is the same service as ever: what stands around it (bus, database driver, transport) counts how often the
point is reached and ends the process at that time. Without CHAOS_DIES it lives.
"""

import argparse
import os
import re
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import psycopg
import sqlalchemy as sa
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Sent

from services.alone import alone
from services.demo_clock import DEMO_START
from services.notify.sandbox import SandboxSettings, build_sandbox
from shared.clock import SimulatedClock, SystemClock
from shared.logs import configure
from shared.messaging.bus import Message, Subscription
from shared.messaging.kafka import KafkaBus

DIES = "CHAOS_DIES"
SESSION_MS = 6_000
"""Shorter than usual, so that the story goes on sooner after a death."""
_WRITES = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM|COPY)\s+\"?(\w+)", re.IGNORECASE)
SUBMITS = ("/norsubmit", "/template/send")


class Death:
    """Ends the process when it has come to a point so many times."""

    def __init__(self, told: str) -> None:
        self._point, _, times = told.rpartition(":")
        self._left = int(times or 0)

    def at(self, point: str) -> None:
        """Says that the process has come to a point."""
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class MortalBus(KafkaBus):
    """Kafka, with the points around publishing and taking."""

    def __init__(self, bootstrap: str, *, prefix: str, death: Death) -> None:
        super().__init__(bootstrap, prefix=prefix, session_ms=SESSION_MS)
        self._death = death

    async def publish(self, messages: Sequence[Message]) -> None:
        self._death.at("committed, not published")
        await super().publish(messages)
        self._death.at("published, not marked")

    def subscribe(self, subscription: Subscription) -> None:
        async def receive(batch: Sequence[Message]) -> None:
            await subscription.receive(batch)
            self._death.at("handled, offset not committed")

        super().subscribe(replace(subscription, receive=receive))


class MortalLine(httpx.AsyncBaseTransport):
    """Real sockets, with the points around what notify asks of registry and of the carriers."""

    def __init__(self, death: Death) -> None:
        self._death = death
        self._inside = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=1_000))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        submits = request.url.path.endswith(SUBMITS)
        if submits:
            self._death.at("attempt committed, not submitted")
        answer = await self._inside.handle_async_request(request)
        if submits:
            self._death.at("submitted, not recorded")
        if request.url.path.endswith("/last-look"):
            self._death.at("looked, no attempt yet")
        return answer

    async def aclose(self) -> None:
        await self._inside.aclose()


def watch_transactions(death: Death) -> None:
    """The points of a transaction: after a write to a table, and before the commit of such a one.

    Of each thread on its own: one writes, others read meanwhile.
    """
    of_thread = threading.local()

    def tables() -> set[str]:
        written: set[str] = of_thread.__dict__.setdefault("tables", set())
        return written

    class Cursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, *rest: Any, **options: Any) -> Any:
            return self._noted(query, super().execute(query, *rest, **options))

        def executemany(self, query: Any, *rest: Any, **options: Any) -> None:
            self._noted(query, super().executemany(query, *rest, **options))

        def copy(self, statement: Any, *rest: Any, **options: Any) -> Any:
            return self._noted(statement, super().copy(statement, *rest, **options))

        def _noted(self, query: Any, result: Any) -> Any:
            if written := _WRITES.match(str(query)):
                tables().add(written.group(1))
                death.at(f"in the middle of writing {written.group(1)}")
            return result

    def connected(connection: Any, _record: Any) -> None:
        connection.cursor_factory = Cursor

    def committing(_db: sa.Connection) -> None:
        for table in tables():
            death.at(f"{table} written, not committed")
        tables().clear()

    sa.event.listen(sa.Engine, "connect", connected)
    sa.event.listen(sa.Engine, "commit", committing)
    sa.event.listen(sa.Engine, "rollback", lambda _db: tables().clear())


def mortal_sandbox(death: Death) -> ASGIApp:
    """The sandbox, with the point between ledger and answer."""
    settings = SandboxSettings()
    clock = SimulatedClock(settings.clock_file, start=DEMO_START) if settings.clock_file else SystemClock()
    inside = build_sandbox(settings, clock=clock)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Sent) -> None:
            if message["type"] == "http.response.start" and scope["path"].endswith(SUBMITS):
                death.at("taken, not answered")
            await send(message)

        await inside(scope, receive, answer if scope["type"] == "http" else send)

    return app


def mortal_service(name: str, role: str, death: Death) -> ASGIApp:
    """A service with all its points."""

    def make_bus(bootstrap: str, *, prefix: str) -> MortalBus:
        return MortalBus(bootstrap, prefix=prefix, death=death)

    service = alone(name, make_bus=make_bus, neighbours=MortalLine(death), role=role)
    watch_transactions(death)
    configure(name, level=service.core.settings.log_level)
    return service.app


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("name")
    options.add_argument("--role", default="all")
    options.add_argument("--port", type=int, required=True)
    given = options.parse_args()
    death = Death(os.environ.get(DIES, ""))
    app = mortal_sandbox(death) if given.name == "sandbox" else mortal_service(given.name, given.role, death)
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_config=None, access_log=False)


if __name__ == "__main__":
    main()
