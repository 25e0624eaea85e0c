"""The carrier sandbox: a simulated 云MAS with a simulated phone network behind it.

It checks the real signature, answers with the real codes and pushes receipts in the real format until
they are taken. It plays the outside world, so it shares nothing with the notify service but the protocol.

The ledger (an SQLite file of its own, table `messages`) is what "really" reached the network. A row is
committed before its submission is answered and survives kill -9. It holds mobile numbers and texts in
clear, because it *is* the network: use invented numbers only. Logs, errors and HTTP answers mask them.

Receipts fall due by business time; back-off between pushes and scripted slowness run on wall time.
"""

import argparse
import asyncio
import base64
import binascii
import json
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

import httpx
import structlog
import uvicorn
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.types import Receive, Scope, Send

from services.notify.carriers.yunmas import DELIVERED, MOST_MOBILES, REFUSALS, STAMP, mac
from shared.clock import ZONE, Clock, SimulatedClock, SystemClock
from shared.http import Body, StrictRoute, install, public, read_body, refuse
from shared.logs import configure
from shared.settings import ServiceSettings, refuse_unknown

T = TypeVar("T")

MOST_BODY: Final = 1_000_000
PUSHES_AT_ONCE: Final = 32
PUSH_TIMEOUT_S: Final = 5.0
FIRST_BACK_OFF_S: Final = 0.2
LONGEST_BACK_OFF_S: Final = 5.0
LOOK_EVERY_S: Final = 0.1
"""How often the pusher looks whether business time has jumped; each look is one indexed query."""

SCHEMA: Final = """
-- One row per submission and mobile. Business instants: ISO 8601 +08:00, wall instants: ISO 8601 +00:00,
-- both with microseconds, so that each kind sorts as text.
CREATE TABLE IF NOT EXISTS messages (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  received_at TEXT NOT NULL,    -- business
  received_wall TEXT NOT NULL,  -- wall
  msg_group TEXT NOT NULL,      -- the carrier's name of the submission; '' when refused
  mobile TEXT NOT NULL,         -- in clear; of a refused submission the first one as sent, '' if unreadable
  content TEXT NOT NULL,        -- verbatim
  sign TEXT NOT NULL,           -- code of the signature
  verdict TEXT NOT NULL CHECK (verdict IN ('accepted', 'refused')),
  action TEXT NOT NULL,         -- of the script's rule that applied; '' for none
  response TEXT NOT NULL,       -- the JSON of the answer; '' when the connection was dropped
  receipt TEXT NOT NULL CHECK (receipt IN ('none', 'pending', 'taken')),
  report_status TEXT NOT NULL,  -- CM:0000 = the phone got it; '' where no receipt comes
  error_code TEXT NOT NULL,     -- DELIVRD or UNDELIV; '' where no receipt comes
  receipt_due TEXT,             -- business; the report's receiveDate
  copies INTEGER NOT NULL,      -- how often the receipt must be taken: 0, 1, 2
  pushes INTEGER NOT NULL DEFAULT 0,  -- tries whose outcome was written down
  taken INTEGER NOT NULL DEFAULT 0,   -- of these, answered 2xx
  next_push_wall TEXT NOT NULL, -- wall; not before this instant
  delivered_at TEXT,            -- business; when the receipt was first taken
  delivered_wall TEXT           -- wall, the same moment
);
CREATE INDEX IF NOT EXISTS messages_pending ON messages (receipt_due) WHERE receipt = 'pending';
CREATE TABLE IF NOT EXISTS script (
  position INTEGER PRIMARY KEY,
  rule TEXT NOT NULL,
  seen INTEGER NOT NULL DEFAULT 0,
  used INTEGER NOT NULL DEFAULT 0
);
"""


class SandboxSettings(BaseSettings):
    """The account that the sandbox knows, and where it keeps and reports things.

    `callback_url` carries a secret path. `clock_file` is read by a process of its own alone.
    """

    model_config = SettingsConfigDict(
        env_prefix="YINGBAO_SANDBOX_",
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    ec_name: str = Field("演示单位", description="Name of the account's owner (ecName)")
    ap_id: str = Field("sandbox", description="User name of the account (apId)")
    secret_key: SecretStr = Field(description="Secret key that signs submissions")
    sign: str = Field("SIGN01", description="The one valid code of a signature")
    callback_url: SecretStr = Field(description="Where receipts are pushed to, secret path included")
    file: Path = Field(description="The ledger: an SQLite file of the sandbox's own")
    receipt_delay_s: float = Field(
        5.0, ge=0, description="Business seconds from a submission until its receipt"
    )
    clock_file: Path | None = Field(
        None, description="File of the simulated clock; without it business time is the real time"
    )


class Match(Body):
    """Which messages a rule is about: all that is given must fit.

    `count`: the rule begins with the count-th message that fits since the script was put.
    """

    mobile: str | None = Field(default=None, pattern=r"^1[0-9]{10}$")
    mobile_ends: str | None = Field(default=None, pattern=r"^[0-9]{1,4}$")
    content: str | None = Field(default=None, min_length=1, max_length=500)
    count: int = Field(default=1, ge=1)

    def fits(self, mobile: str, content: str) -> bool:
        """Whether a message is one of those, the count aside."""
        return (
            (self.mobile is None or mobile == self.mobile)
            and (self.mobile_ends is None or mobile.endswith(self.mobile_ends))
            and (self.content is None or self.content in content)
        )


Action = Literal["refuse", "fail", "silent", "slow", "duplicate_receipt", "accept_and_drop"]


class Rule(Body):
    """One line of the script. The first rule that fits a message decides; `times` limits how often.

    refuse: answered with the rspcod `code`. fail: taken, its receipt says `code`. silent: taken, no receipt
    ever. slow: taken at once, answered after `seconds` of wall time. duplicate_receipt: its receipt comes
    twice. accept_and_drop: taken, the connection breaks before the answer is whole.
    """

    match: Match = Match()
    action: Action
    code: str | None = None
    seconds: float | None = Field(default=None, gt=0, le=600)
    times: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fitting_together(self) -> Self:
        if (self.seconds is not None) != (self.action == "slow"):
            raise refuse(
                "seconds_misplaced",
                zh="seconds 只用于 slow，且 slow 必须填写",
                en="seconds belongs to slow, and slow needs it",
            )
        known = self.code is None or {
            "refuse": self.code in REFUSALS,
            "fail": bool(re.fullmatch(r"[A-Z]{2}:[0-9]{4}", self.code)) and self.code != DELIVERED,
        }.get(self.action, False)
        if not known:
            raise refuse(
                "code_unknown",
                zh="refuse 的 code 为 rspcod，fail 的 code 为 CM:2007 一类的状态，其他动作不填 code",
                en="code is an rspcod for refuse, a report status like CM:2007 for fail, else absent",
            )
        return self


class Submitted(BaseModel):
    """What a client wrote into its submission."""

    model_config = ConfigDict(alias_generator=to_camel, strict=True, frozen=True)

    ec_name: str
    ap_id: str
    secret_key: str | None = None
    mobiles: str
    content: str
    sign: str
    add_serial: str
    mac: str

    @classmethod
    def read(cls, body: bytes) -> Self | None:
        """The submission in a raw POST body; None when it is not one."""
        try:
            return cls.model_validate_json(base64.b64decode(body, validate=True))
        except (ValidationError, binascii.Error):
            return None


@dataclass(frozen=True)
class Answer:
    """What the client gets: the JSON, after how many seconds, or a broken connection."""

    response: str
    seconds: float = 0
    drop: bool = False


class BrokenConnection(Response):
    """An answer that contradicts its own length: the server gives up and closes the connection.

    Raising would not do: whatever stands around this app may turn that into an orderly 500. An in-process
    client, which has no connection to lose, gets an answer it cannot read.
    """

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Sends a head that promises one byte, and two."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"--"})


class Ledger:
    """The sandbox's file. All changes that wait at the same time share one synced commit."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(SCHEMA)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-ledger")
        self._waiting: list[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = []
        self._draining: asyncio.Task[None] | None = None

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a change; returns its result once it is on disk."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((change, done))
        if self._draining is None or self._draining.done():
            self._draining = loop.create_task(self._drain())
        return await done

    def read(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """Rows as last committed; may be called from any thread."""
        with closing(sqlite3.connect(self._file)) as db:
            db.row_factory = sqlite3.Row
            return db.execute(sql, values).fetchall()

    async def close(self) -> None:
        """Finishes what waits, then lets go of the file."""
        if self._draining is not None:
            await self._draining
        self._thread.shutdown()
        self._db.close()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            changes = [change for change, _ in batch]
            try:
                results = await loop.run_in_executor(self._thread, self._commit, changes)
            except Exception as error:  # noqa: BLE001 - handed to everybody who waits for this commit
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)

    def _commit(self, changes: Sequence[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            results = [change(self._db) for change in changes]
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return results


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
        """Judges one submission and commits its ledger rows; then the answer may be given."""
        submitted = Submitted.read(body)
        now, wall = self._clock.now(), self._clock.wall()
        code = self._fault(submitted)
        if submitted is None or code is not None:
            answer = await self._ledger.write(
                lambda db: _refuse(db, submitted, code or "InvalidMessage", now, wall)
            )
        else:
            due = now + timedelta(seconds=self._settings.receipt_delay_s)
            answer = await self._ledger.write(lambda db: _take(db, submitted, now, wall, due))
        self._news.set()
        return answer

    async def push_due(self) -> int:
        """Pushes each receipt that is due, once; returns how many were tried."""
        due = self._ledger.read(
            "SELECT * FROM messages WHERE receipt = 'pending' AND receipt_due <= ? AND next_push_wall <= ?"
            " ORDER BY receipt_due, seq LIMIT ?",
            _business(self._clock.now()),
            _wall(self._clock.wall()),
            PUSHES_AT_ONCE,
        )
        await asyncio.gather(*(self._push(row) for row in due))
        return len(due)

    def quiet(self, now: datetime) -> tuple[bool, datetime | None]:
        """Whether no receipt is due or in flight at a business instant, and when the next one falls due.

        A receipt that is due and not yet taken is in flight. A silent message is not.
        """
        at = _business(now)
        row = self._ledger.read(
            "SELECT COALESCE(SUM(receipt_due <= ?), 0) AS due,"
            " MIN(CASE WHEN receipt_due > ? THEN receipt_due END) AS next"
            " FROM messages WHERE receipt = 'pending'",
            at,
            at,
        )[0]
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
            if "mobile" in rule.get("match", {}):
                rule["match"]["mobile"] = masked(rule["match"]["mobile"])
            shown.append(rule | {"seen": row["seen"], "used": row["used"]})
        return shown

    def messages(self, *, after: int, before: int | None, limit: int) -> list[dict[str, Any]]:
        """Ledger rows with after < seq < before, newest first, numbers masked, texts verbatim."""
        rows = self._ledger.read(
            "SELECT * FROM messages WHERE seq > ? AND (?2 IS NULL OR seq < ?2) ORDER BY seq DESC LIMIT ?3",
            after,
            before,
            limit,
        )
        return [{name: row[name] for name in _SHOWN} | {"mobile": masked(row["mobile"])} for row in rows]

    def _fault(self, s: Submitted | None) -> str | None:  # noqa: PLR0911 - one return per code
        """The rspcod of what is wrong with a submission; None when it is in order."""
        account = self._settings
        if s is None:
            return "InvalidMessage"
        secret = account.secret_key.get_secret_value()
        given = secret if s.secret_key is None else s.secret_key
        if (s.ec_name, s.ap_id) != (account.ec_name, account.ap_id) or not _same(given, secret):
            return "InvalidUsrOrPwd"
        if not _same(s.mac, mac(s.ec_name, s.ap_id, secret, s.mobiles, s.content, s.sign, s.add_serial)):
            return "IllegalMac"
        if s.sign != account.sign:
            return "IllegalSignId" if s.sign else "NoSignId"
        mobiles = s.mobiles.split(",")
        if len(mobiles) > MOST_MOBILES:
            return "TooManyMobiles"
        if not s.content or not all(re.fullmatch(r"1[0-9]{10}", mobile) for mobile in mobiles):
            return "InvalidMessage"
        return None

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

    async def _push(self, row: sqlite3.Row) -> None:
        why = ""
        try:
            # in-process transports know no time-out of their own
            async with asyncio.timeout(PUSH_TIMEOUT_S):
                answer = await self._client.post(
                    self._settings.callback_url.get_secret_value(), json=_report(row)
                )
            why = "" if answer.is_success else f"status {answer.status_code}"
        except Exception as error:  # noqa: BLE001 - whatever the receiver does, its receipt is pushed again
            why = type(error).__name__
        failures = row["pushes"] - row["taken"]
        if why and not failures:
            structlog.get_logger().warning("sandbox_receipt_not_taken", seq=row["seq"], why=why)
        now, wall = self._clock.now(), self._clock.wall()
        pause = min(FIRST_BACK_OFF_S * 2 ** min(failures, 10), LONGEST_BACK_OFF_S) if why else 0
        values = (not why, _business(now), not why, _wall(wall), _wall(wall + timedelta(seconds=pause)))
        await self._ledger.write(lambda db: db.execute(_PUSHED, (*values, row["seq"])).rowcount)


_SHOWN: Final = (
    *("seq", "received_at", "msg_group", "content", "verdict", "action"),
    *("receipt", "report_status", "pushes", "delivered_at"),
)

_PUSHED: Final = """
UPDATE messages SET pushes = pushes + 1, taken = taken + ?1,
  delivered_at = CASE WHEN ?1 THEN COALESCE(delivered_at, ?2) ELSE delivered_at END,
  delivered_wall = CASE WHEN ?3 THEN COALESCE(delivered_wall, ?4) ELSE delivered_wall END,
  receipt = CASE WHEN taken + ?1 >= copies THEN 'taken' ELSE 'pending' END,
  next_push_wall = ?5
WHERE seq = ?6
"""

_RECEIVED: Final = """
INSERT INTO messages (received_at, received_wall, msg_group, mobile, content, sign, verdict, action, response,
  receipt, report_status, error_code, receipt_due, copies, next_push_wall)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?2)
"""

_NO_RECEIPT: Final = ("none", "", "", None, 0)


def _take(db: sqlite3.Connection, s: Submitted, now: datetime, wall: datetime, due: datetime) -> Answer:
    """Writes the rows of a submission that is in order, as the script says."""
    mobiles = s.mobiles.split(",")
    rules = [_scripted(db, mobile, s.content) for mobile in mobiles]
    whole = next((r for r in rules if r and r.action in ("refuse", "slow", "accept_and_drop")), None)
    if whole and whole.action == "refuse":
        return _refuse(db, s, whole.code or "InvalidMessage", now, wall, action="refuse")
    next_seq = db.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM messages").fetchone()[0]
    # the carrier's own form: month to second, then a running number, so that a group never comes back
    group = f"{now.astimezone(ZONE):%m%d%H%M%S}{next_seq:012d}"
    drop = whole is not None and whole.action == "accept_and_drop"
    response = "" if drop else _response("success", group)
    for mobile, own in zip(mobiles, rules, strict=True):
        action = own.action if own else whole.action if whole else ""
        head = (_business(now), _wall(wall), group, mobile, s.content, s.sign, "accepted", action, response)
        db.execute(_RECEIVED, (*head, *_coming(action, own.code if own else None, due)))
    return Answer(response, (whole.seconds or 0) if whole else 0, drop)


def _coming(action: str, code: str | None, due: datetime) -> tuple[str, str, str, str | None, int]:
    """The receipt that an accepted message will have: state, status, error code, due instant, copies."""
    if action == "silent":
        return _NO_RECEIPT
    copies = 2 if action == "duplicate_receipt" else 1
    if action == "fail":
        return "pending", code or "CM:2007", "UNDELIV", _business(due), copies
    return "pending", DELIVERED, "DELIVRD", _business(due), copies


def _refuse(
    db: sqlite3.Connection, s: Submitted | None, code: str, now: datetime, wall: datetime, *, action: str = ""
) -> Answer:
    """Writes one row for a submission that nobody receives, and answers with the code."""
    response = _response(code, "")
    # one row even for 5,001 numbers: the first stands for all
    mobile, content, sign = (s.mobiles.split(",")[0], s.content, s.sign) if s else ("", "", "")
    head = (_business(now), _wall(wall), "", mobile, content, sign, "refused", action, response)
    db.execute(_RECEIVED, (*head, *_NO_RECEIPT))
    return Answer(response)


def _scripted(db: sqlite3.Connection, mobile: str, content: str) -> Rule | None:
    """The first rule that wants this message, marked as used once more."""
    for row in db.execute("SELECT * FROM script ORDER BY position").fetchall():
        rule = Rule.model_validate_json(row["rule"])
        if not rule.match.fits(mobile, content):
            continue
        fires = row["seen"] + 1 >= rule.match.count and (rule.times is None or row["used"] < rule.times)
        db.execute(
            "UPDATE script SET seen = seen + 1, used = used + ? WHERE position = ?", (fires, row["position"])
        )
        if fires:
            return rule
    return None


def _response(code: str, group: str) -> str:
    return json.dumps({"msgGroup": group, "rspcod": code, "success": code == "success"})


def _report(row: sqlite3.Row) -> Mapping[str, str]:
    """A receipt as 云MAS pushes it; the same each time it is pushed."""
    return {
        "reportStatus": row["report_status"],
        "mobile": row["mobile"],
        "submitDate": datetime.fromisoformat(row["received_at"]).strftime(STAMP),
        "receiveDate": datetime.fromisoformat(row["receipt_due"]).strftime(STAMP),
        "errorCode": row["error_code"],
        "msgGroup": row["msg_group"],
    }


def masked(mobile: str) -> str:
    """138****8000; anything that is not a number of 11 digits shows nothing of itself."""
    return f"{mobile[:3]}****{mobile[-4:]}" if re.fullmatch(r"1[0-9]{10}", mobile) else "***"


def _same(left: str, right: str) -> bool:
    return compare_digest(left.encode(), right.encode())


def _business(at: datetime) -> str:
    return at.astimezone(ZONE).isoformat(timespec="microseconds")


def _wall(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def build_sandbox(
    settings: SandboxSettings,
    *,
    clock: Clock,
    transport: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """The sandbox as an app, its `Sandbox` on `app.state.sandbox`; mount it at /sandbox.

    Submissions go to {mount}/yunmas/sms/norsubmit, so a carrier's base address is {mount}/yunmas. The
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
    app.include_router(_carrier(sandbox))
    app.include_router(_window(sandbox, clock))
    return app


def _carrier(sandbox: Sandbox) -> APIRouter:
    """What the real carrier offers."""
    router = APIRouter()

    @router.post(
        "/yunmas/sms/norsubmit",
        dependencies=[public("carrier sandbox: a submission carries the carrier's own signature")],
    )
    async def norsubmit(request: Request) -> Response:
        answer = await sandbox.take(await read_body(request, limit=MOST_BODY))
        if answer.seconds:
            await asyncio.sleep(answer.seconds)
        if answer.drop:
            return BrokenConnection()
        return Response(answer.response, media_type="application/json")

    return router


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
    async def put_script(rules: list[Rule]) -> list[dict[str, Any]]:
        await sandbox.put_script(rules)
        return sandbox.script()

    @router.get("/quiet")
    def quiet() -> dict[str, Any]:
        still, next_due = sandbox.quiet(clock.now())
        return {"quiet": still, "next_due": next_due.isoformat() if next_due else None}

    return router


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the sandbox as a process of its own, settings from YINGBAO_SANDBOX_… variables."""
    parser = argparse.ArgumentParser(prog="python -m services.notify.sandbox", description="carrier sandbox")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(arguments)
    configure("sandbox", level="WARNING")  # at INFO httpx logs addresses, the callback's secret path too
    refuse_unknown(
        os.environ, [SandboxSettings, ServiceSettings], others=("registry", "matching", "notify", "targets")
    )
    settings = SandboxSettings()  # the required ones come from the environment
    clock: Clock = SystemClock()
    if settings.clock_file is not None:
        clock = SimulatedClock(settings.clock_file, start=clock.now())
    app = build_sandbox(settings, clock=clock)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
