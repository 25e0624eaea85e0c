"""The carrier 云MAS against its sandbox: in process, over a socket, and as a process that is killed."""

import asyncio
import base64
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from structlog.testing import capture_logs

from services.notify.carriers import Accepted, ErrorClass, NotSent, Refused, Submission, Unknown
from services.notify.carriers.yunmas import YunMas, YunMasAccount, mac, parse_report
from services.notify.sandbox import Ledger, Sandbox, SandboxSettings, build_sandbox
from shared.clock import ZONE, FrozenClock, SystemClock
from shared.http import install, routes_without_access

MOBILE = "13800138000"
ACCOUNT = YunMasAccount("", "测试单位", "apuser", "apsecret", "SIGN01")
START = datetime(2026, 2, 10, 8, 30, tzinfo=ZONE)
Door = Callable[[FastAPI], AbstractAsyncContextManager[tuple[httpx.AsyncClient, str]]]


def settings_for(folder: Path, **other: Any) -> SandboxSettings:
    known: dict[str, Any] = {
        "ec_name": ACCOUNT.ec_name,
        "ap_id": ACCOUNT.ap_id,
        "secret_key": SecretStr(ACCOUNT.secret_key),
        "sign": ACCOUNT.sign,
        "callback_url": SecretStr("http://notify.test/v1/receipts/demo/hidden"),
        "file": folder / "sandbox.sqlite",
    }
    return SandboxSettings(**(known | other))


@asynccontextmanager
async def in_process(app: FastAPI) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport) as client:
        yield client, "http://suite.test"


@asynccontextmanager
async def on_a_socket(app: FastAPI) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
        serving = asyncio.create_task(server.serve([listening]))
        try:
            async with httpx.AsyncClient() as client:
                yield client, f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


DOORS = pytest.mark.parametrize("door", [in_process, on_a_socket])


class Neighbourhood:
    """A suite with the sandbox mounted, a carrier, and a receiver of receipts that can be told to fail."""

    def __init__(self, folder: Path, clock: FrozenClock) -> None:
        self.clock = clock
        self.pushed: list[dict[str, str]] = []
        self.refusing = 0
        self.app = build_sandbox(
            settings_for(folder), clock=clock, transport=httpx.MockTransport(self._receive)
        )
        self.sandbox: Sandbox = self.app.state.sandbox
        self.file = folder / "sandbox.sqlite"
        self.client: httpx.AsyncClient
        self.base = ""

    def _receive(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "http://notify.test/v1/receipts/demo/hidden"
        self.pushed.append(json.loads(request.content))
        if self.refusing:
            self.refusing -= 1
            return httpx.Response(503)
        return httpx.Response(200)

    async def submit(
        self, mobile: str = MOBILE, text: str = "请为职工办理参保", *, account: YunMasAccount = ACCOUNT
    ) -> Submission:
        account = replace(account, base_url=f"{self.base}/sandbox/yunmas")
        return await YunMas(account, self.client).submit(mobile, text)

    async def post(self, **changed: Any) -> dict[str, Any]:
        """A hand-made submission, rightly signed unless `mac` is given."""
        fields = {
            "ecName": ACCOUNT.ec_name,
            "apId": ACCOUNT.ap_id,
            "secretKey": ACCOUNT.secret_key,
            "mobiles": MOBILE,
            "content": "好",
            "sign": ACCOUNT.sign,
            "addSerial": "",
        } | changed
        order = ("ecName", "apId", "mobiles", "content", "sign", "addSerial")
        ec_name, ap_id, mobiles, content, sign, serial = (str(fields[name]) for name in order)
        if "mac" not in fields:
            fields["mac"] = mac(ec_name, ap_id, ACCOUNT.secret_key, mobiles, content, sign, serial)
        return await self.raw(base64.b64encode(json.dumps(fields).encode()))

    async def raw(self, body: bytes) -> dict[str, Any]:
        answer = await self.client.post(f"{self.base}/sandbox/yunmas/sms/norsubmit", content=body)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    async def script(self, *rules: dict[str, Any]) -> None:
        answer = await self.client.put(f"{self.base}/sandbox/script", json=rules)
        assert answer.status_code == 200, answer.text

    async def get(self, path: str) -> Any:
        answer = await self.client.get(f"{self.base}/sandbox{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def deliver(self, seconds: float = 5) -> int:
        """Lets business time pass and pushes until nothing is left to push; returns the pushes."""
        self.clock.advance(timedelta(seconds=seconds))
        pushes = 0
        while more := await self.sandbox.push_due():
            pushes += more
        return pushes

    def ledger(self) -> list[dict[str, Any]]:
        return ledger(self.file)


def ledger(file: Path) -> list[dict[str, Any]]:
    """The ledger as a checker reads it: straight from the file."""
    with closing(sqlite3.connect(file)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute("SELECT * FROM messages ORDER BY seq")]


def play(folder: Path, story: Callable[[Neighbourhood], Awaitable[None]], door: Door = in_process) -> None:
    """Runs a story in a neighbourhood; the sandbox pushes only when the story says so."""

    async def run() -> None:
        around = Neighbourhood(folder, FrozenClock(START))
        suite = FastAPI()
        install(suite, clock=around.clock)
        suite.mount("/sandbox", around.app)
        async with door(suite) as (around.client, around.base):
            await story(around)
        await around.sandbox.stop()

    asyncio.run(run())


@DOORS
def test_a_message_is_taken_written_down_and_receipted(door: Door, tmp_path: Path) -> None:
    """Accepted; in the ledger with the text verbatim; its receipt comes when business time says so."""

    async def story(around: Neighbourhood) -> None:
        text = "【】请为职工办理参保\n编号ABC"
        outcome = await around.submit(text=text)
        assert isinstance(outcome, Accepted)
        group = outcome.message_group
        [row] = around.ledger()
        assert (group, MOBILE, text) == (row["msg_group"], row["mobile"], row["content"])
        assert (row["channel"], row["recipient"]) == ("sms", MOBILE)
        assert (row["sign"], row["verdict"], row["receipt"]) == ("SIGN01", "accepted", "pending")
        assert datetime.fromisoformat(row["received_at"]) == START
        assert {"msgGroup": group, "rspcod": "success", "success": True} == json.loads(row["response"])
        assert await around.deliver(4.9) == 0
        assert await around.deliver(0.1) == 1
        [receipt] = parse_report(json.dumps(around.pushed[0]).encode())
        assert (group, MOBILE, True) == (receipt.message_group, receipt.mobile, receipt.delivered)
        assert START + timedelta(seconds=5) == receipt.received_at
        [row] = around.ledger()
        assert (row["receipt"], row["pushes"], row["taken"]) == ("taken", 1, 1)
        assert START + timedelta(seconds=5) == datetime.fromisoformat(row["delivered_at"])
        assert await around.deliver(3600) == 0

    play(tmp_path, story, door)


def test_the_pushed_report_has_exactly_the_real_fields(tmp_path: Path) -> None:
    """A JSON object with the carrier's six fields, all text."""

    async def story(around: Neighbourhood) -> None:
        await around.submit()
        await around.deliver()
        group = around.ledger()[0]["msg_group"]
        assert [
            {
                "reportStatus": "CM:0000",
                "mobile": MOBILE,
                "submitDate": "20260210083000",
                "receiveDate": "20260210083005",
                "errorCode": "DELIVRD",
                "msgGroup": group,
            }
        ] == around.pushed
        assert (group, len(group)) == ("0210083000000000000001", 22)

    play(tmp_path, story)


@DOORS
@pytest.mark.parametrize(
    ("account", "code"),
    [
        (replace(ACCOUNT, secret_key="other"), "InvalidUsrOrPwd"),
        (replace(ACCOUNT, secret_key="other", secret_in_body=False), "IllegalMac"),
        (replace(ACCOUNT, secret_in_body=False), "success"),
        (replace(ACCOUNT, ap_id="nobody"), "InvalidUsrOrPwd"),
        (replace(ACCOUNT, ec_name="别家"), "InvalidUsrOrPwd"),
        (replace(ACCOUNT, sign="SIGN99"), "IllegalSignId"),
        (replace(ACCOUNT, sign=""), "NoSignId"),
    ],
)
def test_a_wrong_account_is_refused_with_the_real_code(
    door: Door, account: YunMasAccount, code: str, tmp_path: Path
) -> None:
    """Each fault of an account has its code; nothing is handed to the network."""

    async def story(around: Neighbourhood) -> None:
        outcome = await around.submit(account=account)
        if code == "success":
            assert isinstance(outcome, Accepted)
            return
        assert isinstance(outcome, Refused)
        assert code == outcome.code
        [row] = around.ledger()
        assert (row["verdict"], row["msg_group"], row["receipt"]) == ("refused", "", "none")
        assert await around.deliver() == 0

    play(tmp_path, story, door)


def test_a_wrong_mac_is_refused(tmp_path: Path) -> None:
    """The signature is checked for its value, and before the sign code."""

    async def story(around: Neighbourhood) -> None:
        right = mac(ACCOUNT.ec_name, ACCOUNT.ap_id, ACCOUNT.secret_key, MOBILE, "好", ACCOUNT.sign, "")
        assert (await around.post(mac=right))["rspcod"] == "success"
        for wrong in (right.upper(), right[:-1] + "x", "", "签"):
            assert await around.post(mac=wrong) == {"msgGroup": "", "rspcod": "IllegalMac", "success": False}
        assert (await around.post(mac=right, sign="SIGN99"))["rspcod"] == "IllegalMac"

    play(tmp_path, story)


def test_at_most_5000_numbers_go_in_one_submission(tmp_path: Path) -> None:
    """5,000 share a group and have a row and a receipt each; 5,001 are refused with one row."""

    async def story(around: Neighbourhood) -> None:
        numbers = [f"138{n:08d}" for n in range(5001)]
        assert (await around.post(mobiles=",".join(numbers)))["rspcod"] == "TooManyMobiles"
        assert [("refused", numbers[0])] == [(row["verdict"], row["mobile"]) for row in around.ledger()]
        assert (await around.post(mobiles=",".join(numbers[:5000])))["rspcod"] == "success"
        taken = [row for row in around.ledger() if row["verdict"] == "accepted"]
        assert (numbers[:5000], 1) == (
            [row["mobile"] for row in taken],
            len({row["msg_group"] for row in taken}),
        )

    play(tmp_path, story)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff",
        base64.b64encode(b"[]"),
        base64.b64encode(b"{"),
        base64.b64encode(b"[" * 100_000),
        base64.b64encode(b"\xff"),
        base64.b64encode(json.dumps({"ecName": "\ud800"}).encode()),
    ],
)
def test_what_is_no_submission_is_an_invalid_message(body: bytes, tmp_path: Path) -> None:
    """Unreadable bodies get the carrier's code, never a 5xx."""

    async def story(around: Neighbourhood) -> None:
        assert (await around.raw(body))["rspcod"] == "InvalidMessage"

    play(tmp_path, story)


@pytest.mark.parametrize(
    "changed",
    [
        *(
            {"mobiles": value}
            for value in (13800138000, "+8613800138000", f"{MOBILE},", "138001380\u0966\u0966")
        ),
        *({"content": value} for value in ("", None, 7, "坏\ud800")),
    ],
)
def test_wrong_fields_are_an_invalid_message(changed: dict[str, Any], tmp_path: Path) -> None:
    """Numbers as text, no country code, no empty content, no half characters."""

    async def story(around: Neighbourhood) -> None:
        # half a character cannot be signed either
        signature = {"mac": "0" * 32} if changed.get("content") == "坏\ud800" else {}
        assert (await around.post(**changed, **signature))["rspcod"] == "InvalidMessage"

    play(tmp_path, story)


def test_a_receipt_is_pushed_until_it_is_taken(tmp_path: Path) -> None:
    """A 5xx is answered by another push, later by wall time; the same report each time."""

    async def story(around: Neighbourhood) -> None:
        await around.submit()
        around.refusing = 2
        assert await around.deliver(5) == 1
        assert around.sandbox.quiet(around.clock.now()) == (False, None)
        assert await around.deliver(0.1) == 0
        assert await around.deliver(0.1) == 1
        assert await around.deliver(0.3) == 0
        assert await around.deliver(0.1) == 1
        assert len(around.pushed) == 3
        assert len({json.dumps(report) for report in around.pushed}) == 1
        [row] = around.ledger()
        assert (row["receipt"], row["pushes"], row["taken"]) == ("taken", 3, 1)
        assert around.sandbox.quiet(around.clock.now()) == (True, None)

    play(tmp_path, story)


def test_quiet_tells_when_the_next_receipt_falls_due(tmp_path: Path) -> None:
    """Not due: quiet, with the instant. Due and not taken: in flight. Silent: nothing to wait for."""

    async def story(around: Neighbourhood) -> None:
        assert await around.get("/quiet") == {"quiet": True, "next_due": None}
        await around.submit()
        due = START + timedelta(seconds=5)
        assert (True, due) == around.sandbox.quiet(around.clock.now())
        assert around.sandbox.quiet(due) == (False, None)
        await around.deliver()
        await around.script({"action": "silent"})
        await around.submit()
        assert await around.get("/quiet") == {"quiet": True, "next_due": None}

    play(tmp_path, story)


@DOORS
def test_script_refuse(door: Door, tmp_path: Path) -> None:
    """Answered with the code of the rule; nothing handed over, no receipt."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"match": {"mobile": MOBILE}, "action": "refuse", "code": "InvalidMessage"})
        outcome = await around.submit()
        assert isinstance(outcome, Refused)
        assert (outcome.code, outcome.error) == ("InvalidMessage", ErrorClass.CONTENT_REJECTED)
        assert [row["verdict"] for row in around.ledger()] == ["refused"]
        assert await around.deliver() == 0
        assert isinstance(await around.submit("13800138001"), Accepted)

    play(tmp_path, story, door)


def test_script_fail(tmp_path: Path) -> None:
    """Accepted, and the receipt says that it did not arrive."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"action": "fail", "code": "CM:3001", "times": 1}, {"action": "fail", "times": 1})
        assert [Accepted, Accepted, Accepted] == [type(await around.submit()) for _ in range(3)]
        assert await around.deliver() == 3
        receipts = [parse_report(json.dumps(report).encode())[0] for report in around.pushed]
        assert [(r.code, r.delivered) for r in receipts] == [
            ("CM:3001", False),
            ("CM:2007", False),
            ("CM:0000", True),
        ]

    play(tmp_path, story)


def test_script_silent(tmp_path: Path) -> None:
    """Accepted, and no receipt ever comes."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"match": {"mobile_ends": "8000"}, "action": "silent"})
        assert isinstance(await around.submit(), Accepted)
        assert [(row["verdict"], row["action"], row["receipt"]) for row in around.ledger()] == [
            ("accepted", "silent", "none")
        ]
        assert await around.deliver(72 * 3600) == 0

    play(tmp_path, story)


@DOORS
def test_script_slow(door: Door, tmp_path: Path) -> None:
    """The slow one is taken and times out at the client; others are answered meanwhile; its receipt comes."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"match": {"mobile": MOBILE}, "action": "slow", "seconds": 2})
        slow = asyncio.create_task(around.submit(account=replace(ACCOUNT, timeout_s=1)))
        assert isinstance(await around.submit("13800138001"), Accepted)
        assert not slow.done()
        assert isinstance(await slow, Unknown)
        assert await around.deliver() == 2
        assert {MOBILE, "13800138001"} == {report["mobile"] for report in around.pushed}

    play(tmp_path, story, door)


def test_script_duplicate_receipt(tmp_path: Path) -> None:
    """The same receipt comes twice, though the first was taken."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"action": "duplicate_receipt"})
        await around.submit()
        assert await around.deliver() == 2
        assert around.pushed[0] == around.pushed[1]
        assert [(row["receipt"], row["pushes"], row["taken"]) for row in around.ledger()] == [("taken", 2, 2)]

    play(tmp_path, story)


@DOORS
def test_script_accept_and_drop(door: Door, tmp_path: Path) -> None:
    """The message is taken, the client learns nothing; the receipt settles it. The next one is fine."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"action": "accept_and_drop", "times": 1})
        outcome = await around.submit()
        assert isinstance(outcome, Unknown)
        if door is on_a_socket:
            assert outcome.why == "RemoteProtocolError"
        assert [(row["verdict"], row["action"], row["response"]) for row in around.ledger()] == [
            ("accepted", "accept_and_drop", "")
        ]
        assert isinstance(await around.submit("13800138001"), Accepted)
        assert await around.deliver() == 2

    play(tmp_path, story, door)


def test_rules_match_by_content_count_and_times_in_order(tmp_path: Path) -> None:
    """All conditions must hold; a rule begins with its count-th message and ends after its times."""

    async def story(around: Neighbourhood) -> None:
        await around.script(
            {"match": {"content": "第二", "mobile_ends": "0"}, "action": "refuse"},
            {"match": {"count": 2}, "action": "silent", "times": 2},
        )
        sent = [(MOBILE, "第一"), (MOBILE, "第二"), ("13800138001", "第二"), (MOBILE, "三"), (MOBILE, "四")]
        for mobile, text in sent:
            await around.submit(mobile, text)
        assert [row["action"] for row in around.ledger()] == ["", "refuse", "silent", "silent", ""]
        assert [(rule["seen"], rule["used"]) for rule in await around.get("/script")] == [(1, 1), (4, 2)]

    play(tmp_path, story)


def test_the_script_survives_a_restart(tmp_path: Path) -> None:
    """Rules and their counts are durable; putting a new script begins anew."""

    async def before(around: Neighbourhood) -> None:
        await around.script({"action": "silent", "times": 2})
        await around.submit()

    async def after(around: Neighbourhood) -> None:
        await around.submit()
        await around.submit()
        assert [row["action"] for row in around.ledger()] == ["silent", "silent", ""]
        await around.script()
        assert await around.get("/script") == []

    play(tmp_path, before)
    play(tmp_path, after)


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ({"action": "explode"}, "/0/action"),
        ({"action": "slow"}, "/0"),
        ({"action": "fail", "seconds": 3}, "/0"),
        ({"action": "refuse", "code": "CM:2007"}, "/0"),
        ({"action": "fail", "code": "CM:0000"}, "/0"),
        ({"action": "silent", "code": "CM:2007"}, "/0"),
        ({"action": "silent", "times": 0}, "/0/times"),
        ({"action": "silent", "match": {"mobile": "138001380009"}}, "/0/match/mobile"),
        ({"action": "silent", "match": {"phone": MOBILE}}, "/0/match/phone"),
    ],
)
def test_a_wrong_script_is_refused_without_repeating_numbers(
    rule: dict[str, Any], where: str, tmp_path: Path
) -> None:
    """422 that names the field; the old script stays; what may be a person's number is not echoed."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"action": "silent"})
        answer = await around.client.put(f"{around.base}/sandbox/script", json=[rule])
        assert (422, where) == (answer.status_code, answer.json()["errors"][0]["pointer"])
        assert "13800138" not in answer.text
        assert [kept["action"] for kept in await around.get("/script")] == ["silent"]

    play(tmp_path, story)


def test_no_number_leaves_in_clear(tmp_path: Path) -> None:
    """Answers mask numbers, also of refused submissions and rules; logs hold none, nor the callback."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"match": {"mobile": MOBILE}, "action": "fail", "times": 1})
        await around.submit()
        await around.post(mobiles=f"{MOBILE}0")
        await around.post(mobiles=f"{MOBILE},{MOBILE}", mac="")
        around.refusing = 1
        await around.deliver()
        shown = json.dumps([await around.get("/messages"), await around.get("/script")])
        assert MOBILE not in shown
        masks = [message["mobile"] for message in (await around.get("/messages"))["items"]]
        assert masks == ["138****8000", "***", "138****8000"]
        assert (await around.get("/script"))[0]["match"]["mobile"] == "138****8000"

    with capture_logs() as logged:
        play(tmp_path, story)
    assert [line["event"] for line in logged] == ["sandbox_receipt_not_taken"]
    assert MOBILE not in str(logged)
    assert "hidden" not in str(logged)


def test_messages_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    """`before` leads to older ones, `after` shows only newer ones, texts are verbatim."""

    async def story(around: Neighbourhood) -> None:
        for n in range(5):
            await around.submit(text=f"第{n}条 <b>")
        first = await around.get("/messages?limit=2")
        assert [(m["seq"], m["content"]) for m in first["items"]] == [(5, "第4条 <b>"), (4, "第3条 <b>")]
        second = await around.get(f"/messages?limit=2&before={first['before']}")
        assert [m["seq"] for m in second["items"]] == [3, 2]
        last = await around.get(f"/messages?limit=2&before={second['before']}")
        assert ([m["seq"] for m in last["items"]], last["before"]) == ([1], None)
        assert [m["seq"] for m in (await around.get("/messages?after=3"))["items"]] == [5, 4]
        wrong = await around.client.get(f"{around.base}/sandbox/messages?mobile={MOBILE}")
        assert (400 <= wrong.status_code < 500, False) == (True, MOBILE in wrong.text)

    play(tmp_path, story)


def test_every_route_states_its_access_rule(tmp_path: Path) -> None:
    """No route of the sandbox is open by oversight."""

    async def story(around: Neighbourhood) -> None:
        assert routes_without_access(around.app) == []

    play(tmp_path, story)


def test_messages_that_come_together_share_a_commit_and_lose_nothing(tmp_path: Path) -> None:
    """Fifty at once: fifty groups, fifty rows, each answered after its row was committed."""

    async def story(around: Neighbourhood) -> None:
        numbers = [f"139{n:08d}" for n in range(50)]
        outcomes = await asyncio.gather(*(around.submit(number) for number in numbers))
        groups = {outcome.message_group for outcome in outcomes if isinstance(outcome, Accepted)}
        assert (50, groups) == (len(groups), {row["msg_group"] for row in around.ledger()})
        assert sorted(numbers) == sorted(row["mobile"] for row in around.ledger())

    play(tmp_path, story)


def test_the_ledger_syncs_every_commit(tmp_path: Path) -> None:
    """An accepted message survives a crash of the machine too: SQLite runs with synchronous = FULL (2)."""

    async def run() -> int:
        ledger = Ledger(tmp_path / "sandbox.sqlite")
        found: int = await ledger.write(lambda db: db.execute("PRAGMA synchronous").fetchone()[0])
        await ledger.close()
        return found

    assert asyncio.run(run()) == 2


def test_a_failed_commit_answers_nobody(tmp_path: Path) -> None:
    """When the file cannot be written, all who waited for that commit fail; later ones go on."""

    async def run() -> None:
        ledger = Ledger(tmp_path / "sandbox.sqlite")
        put = "INSERT INTO script (position, rule) VALUES (1, '{}')"
        outcomes = await asyncio.gather(
            ledger.write(lambda db: db.execute(put).rowcount),
            ledger.write(lambda db: db.execute("INSERT INTO nowhere VALUES (1)").rowcount),
            return_exceptions=True,
        )
        assert [sqlite3.OperationalError] * 2 == [type(outcome) for outcome in outcomes]
        assert ledger.read("SELECT * FROM script") == []
        assert await ledger.write(lambda db: db.execute(put).rowcount) == 1
        await ledger.close()

    asyncio.run(run())


def test_nobody_listening_is_provably_not_sent() -> None:
    """A refused connection lets the attempt be made again."""

    async def run() -> Submission:
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            port = taken.getsockname()[1]
        account = replace(ACCOUNT, base_url=f"http://127.0.0.1:{port}/yunmas")
        async with httpx.AsyncClient() as client:
            return await YunMas(account, client).submit(MOBILE, "好")

    assert NotSent("ConnectError") == asyncio.run(run())


def test_the_lifespan_pushes_by_itself(tmp_path: Path) -> None:
    """Started, the sandbox pushes what falls due when business time jumps, without being called."""

    async def run() -> None:
        clock, arrived = FrozenClock(START), asyncio.Event()

        def receive(_request: httpx.Request) -> httpx.Response:
            arrived.set()
            return httpx.Response(204)

        app = build_sandbox(settings_for(tmp_path), clock=clock, transport=httpx.MockTransport(receive))
        async with app.router.lifespan_context(app), in_process(app) as (client, base):
            carrier = YunMas(replace(ACCOUNT, base_url=f"{base}/yunmas"), client)
            assert isinstance(await carrier.submit(MOBILE, "好"), Accepted)
            clock.advance(timedelta(seconds=5))
            async with asyncio.timeout(5):
                await arrived.wait()

    asyncio.run(run())


# ------------------------------------------------------------------ a process of its own


class Receiver:
    """A real HTTP server that takes receipts, or refuses them all."""

    def __init__(self) -> None:
        self.taken: list[dict[str, str]] = []
        self.refused = 0
        self.refusing = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if outer.refusing:
                    outer.refused += 1
                else:
                    outer.taken.append(json.loads(body))
                self.send_response(503 if outer.refusing else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


def until(condition: Callable[[], bool], what: str, *, seconds: float = 20) -> None:
    """Polls a real process for a condition; says what it waited for when it gives up."""
    clock = SystemClock()
    end = clock.monotonic() + seconds
    while not condition():
        assert clock.monotonic() < end, f"still not so after {seconds} s: {what}"
        time.sleep(0.02)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/script").is_success
    except httpx.TransportError:
        return False


@contextmanager
def sandbox_process(port: int, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "services.notify.sandbox", "--port", str(port)]
    with log.open("ab") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            until(lambda: answers(port) or process.poll() is not None, "the sandbox answers")
            yield process
        finally:
            process.kill()


def test_a_mistyped_setting_stops_the_start(tmp_path: Path) -> None:
    """An unknown variable with the sandbox's prefix is named, with what was probably meant."""
    command = [sys.executable, "-m", "services.notify.sandbox", "--port", "1"]
    environment = os.environ | {"YINGBAO_SANDBOX_SECRET_KEI": "x"}
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode != 0, "did you mean YINGBAO_SANDBOX_SECRET_KEY?" in ended.stderr) == (True, True)


def test_kill_9_loses_no_accepted_message_and_no_receipt(tmp_path: Path) -> None:
    """Killed with receipts pending and more coming in: the ledger has what was accepted, receipts come."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    with receiving() as receiver:
        environment = os.environ | {
            "YINGBAO_SANDBOX_EC_NAME": ACCOUNT.ec_name,
            "YINGBAO_SANDBOX_AP_ID": ACCOUNT.ap_id,
            "YINGBAO_SANDBOX_SECRET_KEY": ACCOUNT.secret_key,
            "YINGBAO_SANDBOX_SIGN": ACCOUNT.sign,
            "YINGBAO_SANDBOX_CALLBACK_URL": f"http://127.0.0.1:{receiver.server.server_port}/hidden",
            "YINGBAO_SANDBOX_FILE": str(tmp_path / "sandbox.sqlite"),
            "YINGBAO_SANDBOX_RECEIPT_DELAY_S": "0",
        }
        account = replace(ACCOUNT, base_url=f"http://127.0.0.1:{port}/yunmas")
        accepted: dict[str, str] = {}
        unknown: set[str] = set()

        async def submit(numbers: list[str], kill: Callable[[], None] | None = None) -> None:
            async with httpx.AsyncClient() as client:
                carrier = YunMas(account, client)

                async def one(mobile: str) -> None:
                    outcome = await carrier.submit(mobile, "好")
                    if isinstance(outcome, Accepted):
                        accepted[mobile] = outcome.message_group
                        if kill is not None and len(accepted) > 10:
                            kill()
                    elif isinstance(outcome, Unknown):
                        unknown.add(mobile)

                await asyncio.gather(*(one(mobile) for mobile in numbers))

        with sandbox_process(port, environment, log) as process:
            asyncio.run(submit([f"138{n:08d}" for n in range(5)]))
            assert len(accepted) == 5, log.read_text()
            until(lambda: receiver.refused > 5, "receipts are pushed and refused")
            asyncio.run(
                submit([f"139{n:08d}" for n in range(60)], lambda: os.kill(process.pid, signal.SIGKILL))
            )
            assert process.wait(20) == -signal.SIGKILL
        file = tmp_path / "sandbox.sqlite"
        held = {row["mobile"]: row["msg_group"] for row in ledger(file)}
        assert accepted.items() <= held.items()
        assert held.keys() - accepted.keys() <= unknown
        assert receiver.taken == []
        receiver.refusing = False
        with sandbox_process(port, environment, log):
            until(
                lambda: all(row["receipt"] == "taken" for row in ledger(file)),
                f"all of {len(held)} receipts are taken",
            )
        assert held == {report["mobile"]: report["msgGroup"] for report in receiver.taken}
        assert "hidden" not in log.read_text()
        assert "138000" not in log.read_text()
