"""The WeChat carrier against its sandbox: tokens, followers, the script, sealed calls that are pushed until taken."""

import asyncio
import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from services.notify.carriers import Accepted, ErrorClass, Refused, Submission, Unknown
from services.notify.carriers.wechat import REFUSALS, TemplateMessage, Wechat, WechatAccount
from services.notify.carriers.wechat_crypt import (
    CallbackEvent,
    CallbackKeys,
    EventKind,
    check_address,
    open_callback,
    parse_event,
)
from services.notify.sandbox import Ledger, Sandbox, SandboxSettings, build_sandbox
from services.notify.sandbox.wechat import ERRMSG
from shared.clock import ZONE, FrozenClock
from shared.http import install, routes_without_access

AES_KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
ACCOUNT = WechatAccount("", "wx0123456789abcdef", "appsecret")
KEYS = CallbackKeys.read(ACCOUNT.app_id, "callback-token", AES_KEY)
START = datetime(2026, 2, 10, 8, 30, tzinfo=ZONE)
OPENID = "oAAAA" + "b" * 19 + "1111"
OTHER = "oCCCC" + "d" * 19 + "2222"
MESSAGE = TemplateMessage("TEMPLATE-1", {"thing1": "荣成市示例水产有限公司", "date2": "2026年2月9日"}, "n-1")
Door = Callable[[FastAPI], AbstractAsyncContextManager[tuple[httpx.AsyncClient, str]]]


def settings_for(folder: Path, **other: Any) -> SandboxSettings:
    known: dict[str, Any] = {
        "secret_key": SecretStr("apsecret"),
        "callback_url": SecretStr("http://notify.test/v1/receipts/demo/hidden"),
        "file": folder / "sandbox.sqlite",
        "wechat_app_id": ACCOUNT.app_id,
        "wechat_secret": SecretStr(ACCOUNT.secret),
        "wechat_token": SecretStr(KEYS.token),
        "wechat_aes_key": SecretStr(AES_KEY),
        "wechat_callback_url": SecretStr("http://notify.test/v1/wechat"),
        "wechat_templates": ("TEMPLATE-1",),
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
    """A suite with the sandbox mounted, a carrier, and a receiver of calls that checks each as notify must."""

    def __init__(self, folder: Path) -> None:
        self.clock = FrozenClock(START)
        self.calls: list[CallbackEvent] = []
        self.answers: list[httpx.Response] = []
        self.app = build_sandbox(
            settings_for(folder), clock=self.clock, transport=httpx.MockTransport(self._receive)
        )
        self.sandbox: Sandbox = self.app.state.sandbox
        self.file = folder / "sandbox.sqlite"
        self.client: httpx.AsyncClient
        self.base = ""
        self.carrier: Wechat

    def _receive(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url).startswith("http://notify.test/v1/wechat?")
        query = dict(request.url.params)
        event = parse_event(open_callback(KEYS, query, request.content))
        check_address(KEYS, query)
        assert (query["openid"], query["encrypt_type"]) == (event.openid, "aes")
        self.calls.append(event)
        return self.answers.pop(0) if self.answers else httpx.Response(200, text="success")

    def carrier_of(self, account: WechatAccount = ACCOUNT) -> Wechat:
        return Wechat(replace(account, base_url=f"{self.base}/sandbox/wechat"), self.client, self.clock)

    async def submit(self, openid: str = OPENID, **changed: Any) -> Submission:
        changed.setdefault("client_msg_id", f"n-{len(self.ledger())}")
        return await self.carrier.submit(openid, replace(MESSAGE, **changed))

    async def post(self, path: str, body: Any) -> dict[str, Any]:
        """A hand-made call of WeChat's API."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.client.post(f"{self.base}/sandbox/wechat/cgi-bin/{path}", content=content)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def token(self, *, force: bool = False, **changed: Any) -> dict[str, Any]:
        asked = {"grant_type": "client_credential", "appid": ACCOUNT.app_id, "secret": ACCOUNT.secret}
        return await self.post("stable_token", asked | {"force_refresh": force} | changed)

    async def send(self, token: str, **changed: Any) -> int:
        """The errcode of a hand-made message."""
        body = {"touser": OPENID, "template_id": "TEMPLATE-1", "data": {"thing1": {"value": "好"}}} | changed
        code: int = (await self.post(f"message/template/send?access_token={token}", body))["errcode"]
        return code

    async def put(self, path: str, body: Any) -> Any:
        answer = await self.client.put(f"{self.base}/sandbox{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def follow(self, *openids: str) -> None:
        """These follow and no others; the calls about it are made and forgotten."""
        await self.put("/followers", list(openids))
        await self.deliver(0)
        self.calls.clear()

    async def script(self, *rules: dict[str, Any]) -> None:
        await self.put("/script", list(rules))

    async def get(self, path: str) -> Any:
        answer = await self.client.get(f"{self.base}/sandbox{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def deliver(self, seconds: float = 5) -> int:
        """Lets time pass and pushes until nothing is left to push; returns the pushes."""
        self.clock.advance(timedelta(seconds=seconds))
        pushes = 0
        while more := await self.sandbox.push_due():
            pushes += more
        return pushes

    def ledger(self) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.file)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute("SELECT * FROM messages ORDER BY seq")]


def play(folder: Path, story: Callable[[Neighbourhood], Awaitable[None]], door: Door = in_process) -> None:
    """Runs a story in a neighbourhood; OPENID follows; the sandbox pushes only when the story says so."""

    async def run() -> None:
        around = Neighbourhood(folder)
        suite = FastAPI()
        install(suite, clock=around.clock)
        suite.mount("/sandbox", around.app)
        async with door(suite) as (around.client, around.base):
            around.carrier = around.carrier_of()
            await around.follow(OPENID)
            await story(around)
        await around.sandbox.stop()

    asyncio.run(run())


@DOORS
def test_a_message_is_taken_written_down_and_receipted(door: Door, tmp_path: Path) -> None:
    """Accepted; in the ledger with every field verbatim; its sealed receipt comes when business time says so."""

    async def story(around: Neighbourhood) -> None:
        outcome = await around.submit()
        assert isinstance(outcome, Accepted)
        [row] = around.ledger()
        assert (row["channel"], row["recipient"], row["mobile"]) == ("wechat", OPENID, "")
        assert (row["msg_group"], row["verdict"]) == (outcome.message_group, "accepted")
        assert json.loads(row["content"]) == {
            "template_id": "TEMPLATE-1",
            "url": "",
            "data": {"thing1": "荣成市示例水产有限公司", "date2": "2026年2月9日"},
        }
        assert around.sandbox.quiet(around.clock.now()) == (True, START + timedelta(seconds=5))
        assert await around.deliver(4.9) == 0
        assert await around.deliver(0.1) == 1
        [event] = around.calls
        assert event.kind == EventKind.FINISHED
        assert event.receipt is not None
        assert (event.receipt.message_group, event.receipt.mobile) == (outcome.message_group, OPENID)
        assert (event.receipt.delivered, event.at) == (True, START + timedelta(seconds=5))
        [row] = around.ledger()
        assert (row["receipt"], row["pushes"], row["taken"]) == ("taken", 1, 1)
        assert await around.deliver(3600) == 0

    play(tmp_path, story, door)


def test_a_call_is_made_until_it_is_answered_success(tmp_path: Path) -> None:
    """A 5xx, another word or a 200 without a word is not success; the event and its key stay the same."""

    async def story(around: Neighbourhood) -> None:
        await around.submit()
        around.answers = [httpx.Response(503), httpx.Response(200, text="ok"), httpx.Response(200)]
        assert await around.deliver() == 1
        assert around.sandbox.quiet(around.clock.now()) == (False, None)
        for _ in range(3):
            assert await around.deliver() == 1
        assert await around.deliver() == 0
        assert (len(around.calls), len({call.key for call in around.calls})) == (4, 1)
        [row] = around.ledger()
        assert (row["receipt"], row["pushes"], row["taken"]) == ("taken", 4, 1)

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("account", "code"),
    [(replace(ACCOUNT, app_id="wx9"), "40013"), (replace(ACCOUNT, secret="other"), "40125")],
)
def test_a_wrong_account_gets_no_token(account: WechatAccount, code: str, tmp_path: Path) -> None:
    """The real codes; nothing is in the ledger."""

    async def story(around: Neighbourhood) -> None:
        outcome = await around.carrier_of(account).submit(OPENID, MESSAGE)
        assert isinstance(outcome, Refused)
        assert (outcome.code, outcome.error) == (code, ErrorClass.AUTH)
        assert around.ledger() == []

    play(tmp_path, story)


def test_stable_token_repeats_the_token_until_five_minutes_before_its_end(tmp_path: Path) -> None:
    """The same to everybody, with what is left of it; then the next one, the old one good to its end."""

    async def story(around: Neighbourhood) -> None:
        first = await around.token()
        assert first["expires_in"] == 7200
        around.clock.advance(timedelta(seconds=6899))
        assert await around.token() == {"access_token": first["access_token"], "expires_in": 301}
        around.clock.advance(timedelta(seconds=1))
        second = await around.token()
        assert (second["expires_in"], second["access_token"] != first["access_token"]) == (7200, True)
        assert await around.send(first["access_token"]) == 0
        around.clock.advance(timedelta(seconds=300))
        assert await around.send(first["access_token"]) == 42001
        assert await around.send(second["access_token"]) == 0
        assert await around.send("invented") == 40001
        assert await around.send("") == 41001

    play(tmp_path, story)


def test_a_token_replaced_by_force_is_gone_at_once(tmp_path: Path) -> None:
    """Not twice within 30 s, and 20 times a day at most."""

    async def story(around: Neighbourhood) -> None:
        first = (await around.token())["access_token"]
        second = (await around.token(force=True))["access_token"]
        assert (await around.send(first), await around.send(second)) == (40001, 0)
        around.clock.advance(timedelta(seconds=29))
        assert (await around.token(force=True))["errcode"] == 45011
        for _ in range(19):
            around.clock.advance(timedelta(seconds=31))
            assert "access_token" in await around.token(force=True)
        around.clock.advance(timedelta(seconds=31))
        assert (await around.token(force=True))["errcode"] == 45009
        around.clock.advance(timedelta(days=1))
        assert "access_token" in await around.token(force=True)

    play(tmp_path, story)


def test_two_instances_share_the_token_and_outlive_its_replacement(tmp_path: Path) -> None:
    """One forces a new one; the other's next message still goes out, after one ordinary question."""

    async def story(around: Neighbourhood) -> None:
        left, right = around.carrier_of(), around.carrier_of()
        assert isinstance(await left.submit(OPENID, MESSAGE), Accepted)
        await around.token(force=True)
        assert isinstance(await right.submit(OPENID, replace(MESSAGE, client_msg_id="n-2")), Accepted)
        assert isinstance(await left.submit(OPENID, replace(MESSAGE, client_msg_id="n-3")), Accepted)
        assert [row["verdict"] for row in around.ledger()] == ["accepted", "accepted", "refused", "accepted"]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"touser": "13800138000"}, 40003),
        ({"touser": OTHER}, 43004),
        ({"template_id": "TEMPLATE-9"}, 40037),
        ({"data": {}}, 47003),
        ({"data": {"thing1": {"value": ""}}}, 47003),
        ({"data": {"thing1": {"value": "字" * 21}}}, 47003),
        ({"data": {"thing1": "好"}}, 47001),
        ({"touser": None}, 47001),
        ({"client_msg_id": "x" * 33}, 47001),
    ],
)
def test_wrong_messages_are_refused_with_the_real_code(
    changed: dict[str, Any], code: int, tmp_path: Path
) -> None:
    """Nothing reaches anybody; the ledger has the refusal."""

    async def story(around: Neighbourhood) -> None:
        token = (await around.token())["access_token"]
        assert await around.send(token, **changed) == code
        [row] = around.ledger()
        assert (row["channel"], row["verdict"], row["receipt"]) == ("wechat", "refused", "none")
        assert await around.deliver() == 0

    play(tmp_path, story)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"touser":"\\ud800"}'])
def test_what_is_no_json_is_a_format_error(body: bytes, tmp_path: Path) -> None:
    """Unreadable bodies get WeChat's code, never a 5xx."""

    async def story(around: Neighbourhood) -> None:
        token = (await around.token())["access_token"]
        assert (await around.post("stable_token", body))["errcode"] == 47001
        assert (await around.post(f"message/template/send?access_token={token}", body))["errcode"] == 47001

    play(tmp_path, story)


def test_the_same_message_within_ten_minutes_goes_once(tmp_path: Path) -> None:
    """Per openid and client_msg_id: the first msgid again, no second row; later or without an id it is another."""

    async def story(around: Neighbourhood) -> None:
        await around.follow(OPENID, OTHER)
        first = await around.submit(client_msg_id="same")
        assert first == await around.submit(client_msg_id="same")
        assert first != await around.submit(OTHER, client_msg_id="same")
        assert len(around.ledger()) == 2
        around.clock.advance(timedelta(minutes=10))
        assert first != await around.submit(client_msg_id="same")
        for _ in range(2):
            await around.submit(client_msg_id="")
        assert len(around.ledger()) == 5

    play(tmp_path, story)


def test_followers_come_and_go(tmp_path: Path) -> None:
    """Putting the list says who follows; each change is an event, in order; who left gets nothing."""

    async def story(around: Neighbourhood) -> None:
        assert await around.put("/followers", [OTHER, OTHER]) == ["oCCC****2222"]
        assert around.sandbox.quiet(around.clock.now()) == (False, None)
        assert await around.deliver(0) == 2
        told = {(call.kind, call.openid) for call in around.calls}
        assert told == {(EventKind.UNFOLLOWED, OPENID), (EventKind.FOLLOWED, OTHER)}
        outcome = await around.submit()
        assert isinstance(outcome, Refused)
        assert (outcome.code, outcome.error) == ("43004", ErrorClass.RECIPIENT_REFUSED)
        assert isinstance(await around.submit(OTHER), Accepted)
        around.calls.clear()
        for openids in ([OTHER, OPENID], [OTHER], [OTHER, OPENID], [OTHER, OPENID]):
            await around.put("/followers", openids)
        around.answers = [httpx.Response(503)]
        assert await around.deliver(0) == 1
        assert await around.deliver(1) == 3
        assert [call.kind for call in around.calls] == [
            EventKind.FOLLOWED,
            EventKind.FOLLOWED,
            EventKind.UNFOLLOWED,
            EventKind.FOLLOWED,
        ]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("rule", "code", "error"),
    [
        ({"action": "refuse"}, "43101", ErrorClass.RECIPIENT_REFUSED),
        ({"action": "refuse", "code": "43019"}, "43019", ErrorClass.RECIPIENT_REFUSED),
        ({"action": "refuse", "code": "45009"}, "45009", ErrorClass.QUOTA_OR_BALANCE),
        ({"action": "refuse", "code": "-1"}, "-1", ErrorClass.TRANSIENT),
        ({"action": "refuse", "code": "48001"}, "48001", ErrorClass.CONFIG),
    ],
)
def test_the_script_refuses(rule: dict[str, Any], code: str, error: ErrorClass, tmp_path: Path) -> None:
    """With the code that is asked for, once; the next message is fine."""

    async def story(around: Neighbourhood) -> None:
        await around.script(rule | {"times": 1})
        outcome = await around.submit()
        assert isinstance(outcome, Refused)
        assert (outcome.code, outcome.error) == (code, error)
        assert isinstance(await around.submit(), Accepted)
        assert [(row["verdict"], row["action"]) for row in around.ledger()] == [
            ("refused", "refuse"),
            ("accepted", ""),
        ]

    play(tmp_path, story)


def test_a_scripted_expiry_is_survived(tmp_path: Path) -> None:
    """A 42001 leads to a fresh token and one more try, which is taken."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"action": "refuse", "code": "42001", "times": 1})
        assert isinstance(await around.submit(), Accepted)
        assert [row["response"][:18] for row in around.ledger()] == [
            '{"errcode": 42001,',
            '{"errcode": 0, "er',
        ]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("rule", "codes"),
    [
        ({"action": "fail"}, ["failed:user block"]),
        ({"action": "fail", "code": "failed: system failed"}, ["failed: system failed"]),
        ({"action": "silent"}, []),
        ({"action": "duplicate_receipt"}, ["success", "success"]),
        ({"action": "slow", "seconds": 0.01}, ["success"]),
        ({"action": "fail", "code": "CM:2007"}, ["success"]),
        ({"action": "silent", "match": {"channel": "sms"}}, ["success"]),
        ({"action": "silent", "match": {"mobile_ends": "1111"}}, ["success"]),
        ({"action": "silent", "match": {"openid": OTHER}}, ["success"]),
        ({"action": "silent", "match": {"openid": OPENID, "channel": "wechat", "content": "示例"}}, []),
    ],
)
def test_the_script_decides_about_receipts(rule: dict[str, Any], codes: list[str], tmp_path: Path) -> None:
    """Failed, none, twice; rules for SMS leave WeChat alone."""

    async def story(around: Neighbourhood) -> None:
        await around.script(rule)
        assert isinstance(await around.submit(), Accepted)
        await around.deliver()
        assert codes == [call.receipt.code for call in around.calls if call.receipt]
        assert len({call.key for call in around.calls}) == min(len(codes), 1)

    play(tmp_path, story)


@DOORS
def test_a_dropped_connection_leaves_an_accepted_message(door: Door, tmp_path: Path) -> None:
    """The client learns nothing; the receipt names the openid, by which it is settled."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"action": "accept_and_drop", "times": 1})
        assert isinstance(await around.submit(), Unknown)
        assert [(row["verdict"], row["response"]) for row in around.ledger()] == [("accepted", "")]
        assert await around.deliver() == 1
        assert around.calls[0].openid == OPENID

    play(tmp_path, story, door)


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ({"action": "refuse", "code": "43004", "match": {"mobile": "13800138000"}}, "/0"),
        ({"action": "silent", "match": {"mobile": "13800138000", "openid": OPENID}}, "/0"),
        ({"action": "fail", "code": "failed"}, "/0"),
        ({"action": "refuse", "code": "99999"}, "/0"),
        ({"action": "silent", "match": {"openid": "13800138000"}}, "/0/match/openid"),
        ({"action": "silent", "match": {"channel": "letter"}}, "/0/match/channel"),
    ],
)
def test_a_rule_that_no_message_can_fit_is_refused(rule: dict[str, Any], where: str, tmp_path: Path) -> None:
    """422 that names the place; openids are not echoed."""

    async def story(around: Neighbourhood) -> None:
        answer = await around.client.put(f"{around.base}/sandbox/script", json=[rule])
        assert (422, where) == (answer.status_code, answer.json()["errors"][0]["pointer"])
        assert OPENID not in answer.text

    play(tmp_path, story)


def test_a_follower_is_added_to_the_others(tmp_path: Path) -> None:
    """One call is made, about the new one; who follows already is no news."""

    async def story(around: Neighbourhood) -> None:
        for _ in range(2):
            answer = await around.client.post(f"{around.base}/sandbox/followers", json=[OPENID, OTHER])
            assert answer.json() == ["oAAA****1111", "oCCC****2222"]
        assert await around.deliver(0) == 1
        assert [(call.kind, call.openid) for call in around.calls] == [(EventKind.FOLLOWED, OTHER)]
        assert isinstance(await around.submit(OTHER), Accepted)

    play(tmp_path, story)


@pytest.mark.parametrize("openids", [["13800138000"], [OPENID + "x"], [7], "x"])
def test_wrong_followers_are_refused(openids: Any, tmp_path: Path) -> None:
    """Those of before stay."""

    async def story(around: Neighbourhood) -> None:
        answer = await around.client.put(f"{around.base}/sandbox/followers", json=openids)
        assert answer.status_code == 422
        assert await around.get("/followers") == ["oAAA****1111"]

    play(tmp_path, story)


def test_no_openid_leaves_in_clear(tmp_path: Path) -> None:
    """Answers mask openids; logs hold none, nor secrets or tokens."""

    async def story(around: Neighbourhood) -> None:
        await around.script({"match": {"openid": OPENID}, "action": "fail"})
        await around.submit()
        around.answers = [httpx.Response(503)]
        await around.deliver()
        paths = ("/messages", "/script", "/followers")
        shown = json.dumps([await around.get(path) for path in paths])
        assert OPENID not in shown
        [message] = (await around.get("/messages"))["items"]
        assert (message["channel"], message["recipient"]) == ("wechat", "oAAA****1111")
        assert (await around.get("/script"))[0]["match"]["openid"] == "oAAA****1111"

    with capture_logs() as logged:
        play(tmp_path, story)
    assert [line["event"] for line in logged] == ["sandbox_receipt_not_taken"]
    for secret in (OPENID, ACCOUNT.secret, KEYS.token, AES_KEY):
        assert secret not in str(logged)


def test_tokens_followers_and_receipts_survive_a_restart(tmp_path: Path) -> None:
    """What was answered is on disk: the same token, the same followers, the receipt still to come."""
    tokens = []

    async def before(around: Neighbourhood) -> None:
        await around.submit()
        tokens.append((await around.token())["access_token"])

    async def after(around: Neighbourhood) -> None:
        tokens.append((await around.token())["access_token"])
        assert await around.deliver() == 1

    play(tmp_path, before)
    play(tmp_path, after)
    assert tokens[0] == tokens[1]


def test_every_route_states_its_access_rule(tmp_path: Path) -> None:
    """No route of the sandbox is open by oversight."""

    async def story(around: Neighbourhood) -> None:
        assert routes_without_access(around.app) == []

    play(tmp_path, story)


def test_every_code_of_the_script_has_its_words() -> None:
    """A scripted refusal never fails for want of a message."""
    assert set(REFUSALS) <= set(ERRMSG)


@pytest.mark.parametrize(
    "missing", ["wechat_secret", "wechat_token", "wechat_aes_key", "wechat_callback_url"]
)
def test_half_an_account_stops_the_start(missing: str, tmp_path: Path) -> None:
    """All of its settings or none; the missing one is named."""
    with pytest.raises(ValidationError, match=f"missing: {missing}"):
        settings_for(tmp_path, **{missing: None})


def test_without_an_account_there_is_no_wechat(tmp_path: Path) -> None:
    """云MAS alone, as before."""
    app = build_sandbox(
        SandboxSettings(
            secret_key=SecretStr("s"), callback_url=SecretStr("http://x/"), file=tmp_path / "sandbox.sqlite"
        ),
        clock=FrozenClock(START),
    )

    async def run() -> int:
        async with in_process(app) as (client, base):
            return (await client.post(f"{base}/wechat/cgi-bin/stable_token", content=b"{}")).status_code

    assert asyncio.run(run()) == 404


def test_a_ledger_of_the_first_version_is_widened(tmp_path: Path) -> None:
    """Its rows stay and are SMS; new ones can be WeChat."""
    file = tmp_path / "sandbox.sqlite"
    with closing(sqlite3.connect(file)) as db:
        db.executescript(
            "CREATE TABLE messages (seq INTEGER PRIMARY KEY AUTOINCREMENT, received_at TEXT NOT NULL,"
            " received_wall TEXT NOT NULL, msg_group TEXT NOT NULL, mobile TEXT NOT NULL, content TEXT NOT NULL,"
            " sign TEXT NOT NULL, verdict TEXT NOT NULL, action TEXT NOT NULL, response TEXT NOT NULL,"
            " receipt TEXT NOT NULL, report_status TEXT NOT NULL, error_code TEXT NOT NULL, receipt_due TEXT,"
            " copies INTEGER NOT NULL, pushes INTEGER NOT NULL DEFAULT 0, taken INTEGER NOT NULL DEFAULT 0,"
            " next_push_wall TEXT NOT NULL, delivered_at TEXT, delivered_wall TEXT);"
            "INSERT INTO messages VALUES (1, '2026', '2026', 'g', '13800138000', '好', 'S', 'accepted', '', '',"
            " 'taken', '', '', NULL, 1, 1, 1, '', NULL, NULL);"
        )

    async def story(around: Neighbourhood) -> None:
        assert isinstance(await around.submit(), Accepted)
        assert [(row["channel"], row["mobile"]) for row in around.ledger()] == [
            ("sms", "13800138000"),
            ("wechat", ""),
        ]

    play(tmp_path, story)
    again = Ledger(file)
    assert len(again.read("SELECT * FROM messages")) == 2
    asyncio.run(again.close())
