"""The sandbox put together: both carriers' doors, the pusher of receipts, the window to look inside."""

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

import httpx
import structlog
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.types import Receive, Scope, Send

from services.notify.sandbox import wechat, yunmas
from services.notify.sandbox.ledger import Ledger, business, wall
from services.notify.sandbox.script import OPENID, Answer, Rule
from services.notify.sandbox.settings import SandboxSettings
from shared.clock import Clock
from shared.http import Listing, StrictRoute, install, public, read_body

T = TypeVar("T")

MOST_BODY: Final = 1_000_000
MOST_RULES: Final = 200
"""Lines that a script may have; each is read for every message."""
PUSHES_AT_ONCE: Final = 32
PUSH_TIMEOUT_S: Final = 5.0
FIRST_BACK_OFF_S: Final = 0.2
LONGEST_BACK_OFF_S: Final = 5.0
LOOK_EVERY_S: Final = 0.1
"""How often the pusher looks whether business time has jumped; each look is two indexed queries."""

Openid = Annotated[str, Field(pattern=OPENID)]
Openids = Annotated[list[Openid], Field(max_length=10_000)]


class BrokenConnection(Response):
    """An answer that contradicts its own length: the server gives up and closes the connection.

    Raising would not do: whatever stands around this app may turn that into an orderly 500. An in-process
    client, which has no connection to lose, gets an answer it cannot read.
    """

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Sends a head that promises one byte, and two."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"--"})


class Sandbox:
    """The sandbox itself: takes submissions, and while started pushes receipts. Lives in one event loop."""

    def __init__(
        self,
        settings: SandboxSettings,
        *,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self.wechat = wechat.Account.of(settings)
        self._ledger = Ledger(settings.file)
        self._client = httpx.AsyncClient(transport=transport, timeout=PUSH_TIMEOUT_S)
        self._news = asyncio.Event()
        self._pusher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to push receipts, also those left from before."""
        self._pusher = asyncio.create_task(self._keep_pushing())

    async def stop(self) -> None:
        """Stops pushing and closes the file; a receipt in flight is pushed again at the next start."""
        if self._pusher is not None:
            self._pusher.cancel()
            with suppress(asyncio.CancelledError):
                await self._pusher
        await self._client.aclose()
        await self._ledger.close()

    async def take(self, body: bytes) -> Answer:
        """Judges one submission to 云MAS and commits its ledger rows; then the answer may be given."""
        now, at = self._clock.now(), self._clock.wall()
        return await self._commit(lambda db: yunmas.take(db, self._settings, body, now, at))

    async def take_wechat(self, account: wechat.Account, token: str, body: bytes) -> Answer:
        """Judges one message to a follower and commits its ledger row; then the answer may be given."""
        now, at = self._clock.now(), self._clock.wall()
        return await self._commit(lambda db: account.take(db, token, body, now, at))

    async def give_token(self, account: wechat.Account, body: bytes) -> str:
        """Answers stable_token; a token that is given out is known after a crash too."""
        at = self._clock.wall()
        return await self._ledger.write(lambda db: account.give_token(db, body, at))

    async def add_followers(self, openids: Sequence[str]) -> None:
        """From now on these follow as well."""
        now, at = self._clock.now(), self._clock.wall()
        await self._commit(lambda db: wechat.add_followers(db, openids, now, at))

    async def put_followers(self, openids: Sequence[str]) -> None:
        """From now on these follow the official account and no others."""
        now, at = self._clock.now(), self._clock.wall()
        await self._commit(lambda db: wechat.put_followers(db, openids, now, at))

    async def _commit(self, change: Callable[[sqlite3.Connection], T]) -> T:
        result = await self._ledger.write(change)
        self._news.set()
        return result

    async def push_due(self) -> int:
        """Pushes each receipt and each event of a follower that is due, once; returns how many were tried."""
        at = (business(self._clock.now()), wall(self._clock.wall()), PUSHES_AT_ONCE)
        due = [(table, row) for table, sql in _DUE.items() for row in self._ledger.read(sql, *at)]
        await asyncio.gather(*(self._push(table, row) for table, row in due))
        return len(due)

    def quiet(self, now: datetime) -> tuple[bool, datetime | None]:
        """Whether no receipt is due or in flight at a business instant, and when the next one falls due.

        A receipt that is due and not yet taken is in flight. A silent message is not.
        """
        row = self._ledger.read(_PENDING, business(now))[0]
        return row["due"] == 0, datetime.fromisoformat(row["next"]) if row["next"] else None

    async def put_script(self, rules: Sequence[Rule]) -> None:
        """Replaces the script, durably; all counts begin anew."""

        def replace(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM script")
            db.executemany(
                "INSERT INTO script (position, rule) VALUES (?, ?)",
                [(n, rule.model_dump_json(exclude_defaults=True)) for n, rule in enumerate(rules)],
            )

        await self._ledger.write(replace)

    def script(self) -> list[dict[str, Any]]:
        """The script with what it did so far, numbers masked."""
        shown = []
        for row in self._ledger.read("SELECT * FROM script ORDER BY position"):
            rule = json.loads(row["rule"])
            for name in {"mobile", "openid"} & rule.get("match", {}).keys():
                rule["match"][name] = masked(rule["match"][name])
            shown.append(rule | {"seen": row["seen"], "used": row["used"]})
        return shown

    def followers(self) -> list[str]:
        """Who follows the official account, masked."""
        return [masked(row["recipient"]) for row in self._ledger.read(wechat.FOLLOWERS)]

    def messages(self, *, after: int, before: int | None, limit: int) -> list[dict[str, Any]]:
        """Ledger rows with after < seq < before, newest first, numbers masked, texts verbatim."""
        rows = self._ledger.read(
            "SELECT * FROM messages WHERE seq > ? AND (?2 IS NULL OR seq < ?2) ORDER BY seq DESC LIMIT ?3",
            after,
            before,
            limit,
        )
        return [{name: row[name] for name in _SHOWN} | _hidden(row) for row in rows]

    async def _keep_pushing(self) -> None:
        while True:
            self._news.clear()
            try:
                pushed = await self.push_due()
            except sqlite3.Error as error:
                structlog.get_logger().error("sandbox_ledger_failed", error=type(error).__name__)
                pushed = 0
            if not pushed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._news.wait()

    async def _push(self, table: str, row: sqlite3.Row) -> None:
        why = ""
        try:
            # in-process transports know no time-out of their own
            async with asyncio.timeout(PUSH_TIMEOUT_S):
                why = await self._call_back(row)
        except Exception as error:  # noqa: BLE001 - whatever the receiver does, its receipt is pushed again
            why = type(error).__name__
        failures = row["pushes"] - row["taken"]
        if why and not failures:
            structlog.get_logger().warning("sandbox_receipt_not_taken", table=table, seq=row["seq"], why=why)
        now, at = self._clock.now(), self._clock.wall()
        pause = min(FIRST_BACK_OFF_S * 2 ** min(failures, 10), LONGEST_BACK_OFF_S) if why else 0
        values = (not why, business(now), not why, wall(at), wall(at + timedelta(seconds=pause)))
        sql = _PUSHED.format(table=table)
        await self._ledger.write(lambda db: db.execute(sql, (*values, row["seq"])).rowcount)

    async def _call_back(self, row: sqlite3.Row) -> str:
        if row["channel"] == "sms":
            return await yunmas.push(self._client, self._settings, row)
        if self.wechat is None:
            return "WeChat is not set up any more"
        return await self.wechat.push(self._client, row, self._clock.wall())


_SHOWN: Final = (
    *("seq", "received_at", "channel", "msg_group", "content", "verdict", "action"),
    *("receipt", "report_status", "pushes", "delivered_at"),
)

_PUSHED: Final = """
UPDATE {table} SET pushes = pushes + 1, taken = taken + ?1,
  delivered_at = CASE WHEN ?1 THEN COALESCE(delivered_at, ?2) ELSE delivered_at END,
  delivered_wall = CASE WHEN ?3 THEN COALESCE(delivered_wall, ?4) ELSE delivered_wall END,
  receipt = CASE WHEN taken + ?1 >= copies THEN 'taken' ELSE 'pending' END,
  next_push_wall = ?5
WHERE seq = ?6
"""

# of one follower only the oldest change is pushed, so that following and leaving arrive in order
_DUE: Final = {
    "messages": """
SELECT * FROM messages WHERE receipt = 'pending' AND receipt_due <= ?1 AND next_push_wall <= ?2
ORDER BY receipt_due, seq LIMIT ?3
""",
    "follows": """
SELECT * FROM follows f WHERE receipt = 'pending' AND receipt_due <= ?1 AND next_push_wall <= ?2
  AND NOT EXISTS (SELECT 1 FROM follows WHERE recipient = f.recipient AND receipt = 'pending' AND seq < f.seq)
ORDER BY receipt_due, seq LIMIT ?3
""",
}

_PENDING: Final = """
SELECT COALESCE(SUM(receipt_due <= ?1), 0) AS due, MIN(CASE WHEN receipt_due > ?1 THEN receipt_due END) AS next
FROM (SELECT receipt_due FROM messages WHERE receipt = 'pending'
  UNION ALL SELECT receipt_due FROM follows WHERE receipt = 'pending')
"""


def _hidden(row: sqlite3.Row) -> dict[str, str]:
    return {name: masked(row[name]) for name in ("mobile", "recipient")}


def masked(name: str) -> str:
    """138****8000, oABC****wxyz; anything that is neither a mobile nor an openid shows nothing of itself."""
    if re.fullmatch(r"1[0-9]{10}", name):
        return f"{name[:3]}****{name[-4:]}"
    return f"{name[:4]}****{name[-4:]}" if re.fullmatch(OPENID, name) else "***"


def build_sandbox(
    settings: SandboxSettings,
    *,
    clock: Clock,
    transport: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """The sandbox as an app, its `Sandbox` on `app.state.sandbox`; mount it at /sandbox.

    Submissions go to {mount}/yunmas/sms/norsubmit and {mount}/wechat/cgi-bin/message/template/send, so the
    carriers' base addresses are {mount}/yunmas and {mount}/wechat. The
    lifespan starts and stops the pushing of receipts. `transport` carries the pushes (None: real sockets).
    The ledger's file is opened here.
    """
    sandbox = Sandbox(settings, clock=clock, transport=transport)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await sandbox.start()
        try:
            yield
        finally:
            await sandbox.stop()

    app = FastAPI(title="carrier sandbox", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.sandbox = sandbox
    install(app, clock=clock)
    app.include_router(_yunmas(sandbox))
    if sandbox.wechat is not None:
        app.include_router(_wechat(sandbox, sandbox.wechat))
    app.include_router(_window(sandbox, clock))
    return app


def _yunmas(sandbox: Sandbox) -> APIRouter:
    """What 云MAS offers."""
    router = APIRouter()

    @router.post(
        "/yunmas/sms/norsubmit",
        dependencies=[public("carrier sandbox: a submission carries the carrier's own signature")],
    )
    async def norsubmit(request: Request) -> Response:
        return await _given(await sandbox.take(await read_body(request, limit=MOST_BODY)))

    return router


def _wechat(sandbox: Sandbox, account: wechat.Account) -> APIRouter:
    """What WeChat offers."""
    router = APIRouter()
    door = [public("carrier sandbox: calls carry the account's secret or token")]

    @router.post("/wechat/cgi-bin/stable_token", dependencies=door)
    async def stable_token(request: Request) -> Response:
        body = await read_body(request, limit=MOST_BODY)
        return Response(await sandbox.give_token(account, body), media_type="application/json")

    @router.post("/wechat/cgi-bin/message/template/send", dependencies=door)
    async def send(request: Request) -> Response:
        token = request.query_params.get("access_token", "")
        body = await read_body(request, limit=MOST_BODY)
        return await _given(await sandbox.take_wechat(account, token, body))

    return router


async def _given(answer: Answer) -> Response:
    if answer.seconds:
        await asyncio.sleep(answer.seconds)
    return BrokenConnection() if answer.drop else Response(answer.response, media_type="application/json")


def _window(sandbox: Sandbox, clock: Clock) -> APIRouter:
    """What only a sandbox offers: to look inside and to write the script."""
    router = APIRouter(
        route_class=StrictRoute,
        dependencies=[public("carrier sandbox of demo and tests: invented people, numbers masked")],
    )

    @router.get("/messages")
    def messages(
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        before: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> dict[str, Any]:
        items = sandbox.messages(after=after, before=before, limit=limit)
        return {"items": items, "before": items[-1]["seq"] if len(items) == limit else None}

    @router.get("/script")
    def script() -> list[dict[str, Any]]:
        return sandbox.script()

    @router.put("/script")
    async def put_script(rules: Annotated[list[Rule], Listing(MOST_RULES)]) -> list[dict[str, Any]]:
        await sandbox.put_script(rules)
        return sandbox.script()

    @router.get("/followers")
    def followers() -> list[str]:
        return sandbox.followers()

    @router.post("/followers")
    async def add_followers(openids: Openids) -> list[str]:
        """These follow as well."""
        await sandbox.add_followers(openids)
        return sandbox.followers()

    @router.put("/followers")
    async def put_followers(openids: Openids) -> list[str]:
        """These follow and no others."""
        await sandbox.put_followers(openids)
        return sandbox.followers()

    @router.get("/quiet")
    def quiet() -> dict[str, Any]:
        still, next_due = sandbox.quiet(clock.now())
        return {"quiet": still, "next_due": next_due.isoformat() if next_due else None}

    return router
