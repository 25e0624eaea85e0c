"""The whole service: HTTP, the last look over HTTP, the real sandbox as carrier, receipts pushed back."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from services.notify.app import build
from services.notify.carriers.wechat_crypt import CallbackKeys, seal, signature, xml_of
from services.notify.domain import Candidate, Go, Hold
from services.notify.last_look import NoAnswerError, RegistryLastLook
from services.notify.sandbox import SandboxSettings, build_sandbox
from services.notify.settings import NotifySettings
from services.notify.tables import metadata, notice
from shared.auth import LocalIssuer
from shared.clock import FrozenClock
from shared.events.base import Event
from shared.http import encode_cursor, routes_without_access
from shared.messaging.in_process import InProcessBus
from shared.privacy import KeyRing, Purpose
from shared.storage.database import Database
from tests.support.cutting import message
from tests.support.notify import (
    MOBILE,
    NOW,
    OPENID,
    OTHER,
    USCC,
    a_notice,
    at,
    contact_changed,
    lead_opened,
    lead_resolved,
)

SECRET = SecretStr("a-secret-of-some-length")
CARRIER_KEY = SecretStr("carrier-key")
AES_KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
WECHAT: dict[str, Any] = {
    "wechat_secret": SecretStr("app-secret"),
    "wechat_token": SecretStr("callback-token"),
    "wechat_aes_key": SecretStr(AES_KEY),
}
KEYS = CallbackKeys.read("wx0123456789abcdef", "callback-token", AES_KEY)


class Registry:
    """Registry's side of the last look."""

    def __init__(self, clock: FrozenClock) -> None:
        self.clock = clock
        self.holds: dict[str, str] = {}
        self.statuses: list[int] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.app = FastAPI()
        self.answer: Any = None

        @self.app.post("/v1/last-look")
        async def last_look(request: Request) -> JSONResponse:
            body = await request.json()
            self.asked.append((request.headers["authorization"], body))
            if self.statuses:
                return JSONResponse({}, self.statuses.pop(0))
            reasons = [self.holds.get(item["subject"]["uscc"]) for item in body["items"]]
            items = [{"answer": "hold" if r else "go", "reason": r} for r in reasons]
            return JSONResponse(self.answer or {"as_of": self.clock.now().isoformat(), "items": items})


class Suite:
    """Notify, the sandbox and a registry that answers, in one application."""

    def __init__(self, folder: Path, clock: FrozenClock) -> None:
        self.clock = clock
        self.registry = Registry(clock)
        self.app = FastAPI()
        inside = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.sandbox = build_sandbox(
            SandboxSettings(
                secret_key=CARRIER_KEY,
                callback_url=SecretStr(f"http://x/notify/v1/receipts/sandbox/{SECRET.get_secret_value()}"),
                file=folder / "sandbox.db",
                wechat_callback_url=SecretStr("http://x/notify/v1/wechat"),
                **WECHAT,
            ),
            clock=clock,
            transport=inside,
        )
        settings = NotifySettings(
            data_dir=folder,
            demo=True,
            registry_url="http://x/registry",
            carrier_url="http://x/sandbox/yunmas",
            carrier_secret_key=CARRIER_KEY,
            receipts_secret=SECRET,
            wechat_url="http://x/sandbox/wechat",
            **WECHAT,
        )
        if not list(Path("services/notify/migrations/versions").glob("*.py")):
            database = Database(settings.database)
            with database.write() as db:
                metadata.create_all(db)
            database.close()
        self.bus = InProcessBus()
        self.notify = build(settings, bus=self.bus, clock=clock, neighbours=inside)
        for name, part in (
            ("registry", self.registry.app),
            ("sandbox", self.sandbox),
            ("notify", self.notify.app),
        ):
            self.app.mount(f"/{name}", part)
        self.client = httpx.AsyncClient(transport=inside, base_url="http://x/notify")
        self.issuer = LocalIssuer(folder / "issuer.jwk", clock)
        suite = KeyRing.load_or_create(settings.contact_keys).cipher(Purpose.CONTACTS)
        self.sealer = suite
        self.count = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, when: Any = NOW) -> AsyncGenerator["Suite"]:
        suite = cls(folder, FrozenClock(when))
        async with AsyncExitStack() as stack:
            for app in (suite.sandbox, suite.notify.app):
                await stack.enter_async_context(app.router.lifespan_context(app))
            await stack.enter_async_context(suite.client)
            yield suite

    async def hear(self, *events: Event) -> None:
        for event in events:
            self.count += 1
            await self.bus.publish([message(event, id=f"m{self.count}", time=self.clock.now())])

    async def due(self, *units: str, mobile: str = MOBILE) -> None:
        for uscc in units or (USCC,):
            await self.hear(contact_changed(uscc, 1, mobile, sealer=self.sealer), lead_opened(uscc))

    async def settle(self) -> None:
        for _ in range(2_000):
            self.notify.core.wake()
            still, _due = await self.notify.quiet()
            if still and self.sandbox.state.sandbox.quiet(self.clock.now())[0]:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"not quiet; failing loops: {self.notify.failing}")

    async def ask(
        self, method: str, path: str, body: Any = None, *, town: str | None = None, status: int = 200
    ) -> Any:
        scopes = ["notices:read", "sending:read", "sending:write", "bindings:write"]
        token = self.issuer.token("desk", town=town, scopes=scopes)
        headers = {"Authorization": f"Bearer {token}"}
        answer = await self.client.request(method, path, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def script(self, *rules: dict[str, Any]) -> None:
        await self._tell_the_sandbox("/script", list(rules))

    async def followers(self, *openids: str) -> None:
        await self._tell_the_sandbox("/followers", list(openids))

    async def _tell_the_sandbox(self, path: str, body: Any) -> None:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.sandbox), base_url="http://x"
        ) as client:
            assert (await client.put(path, json=body)).status_code == 200

    async def bind(self, mobile: str = MOBILE, *, status: int = 201) -> Any:
        body = {"mobile": mobile, "openid": OPENID, "source": "sms_code"}
        return await self.ask("POST", "/v1/bindings", body, status=status)

    def ledger(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.sandbox.state.sandbox.messages(after=0, before=None, limit=100)
        return found


def test_from_the_lead_to_the_receipt(tmp_path: Path) -> None:
    """Handed over at the opening, delivered when the receipt came; the answers show it, number masked."""

    async def run() -> None:
        async with Suite.running(tmp_path, at("2026-02-10", "00:05")) as suite:
            await suite.due()
            await suite.settle()
            assert suite.ledger() == []
            assert (await suite.notify.quiet())[1] == at("2026-02-10", "08:30")
            suite.clock.move_to(at("2026-02-10", "08:30"))
            await suite.settle()
            (row,) = (await suite.ask("GET", f"/v1/notices?uscc={USCC}"))["items"]
            assert row["state"] == "handed_over"
            suite.clock.advance(timedelta(seconds=5))
            await suite.settle()
            shown = await suite.ask("GET", f"/v1/notices/{row['id']}")
            assert (shown["state"], shown["mobile"]) == ("delivered", "138****8000")
            (attempt,) = shown["attempts"]
            assert (attempt["state"], attempt["code"], attempt["fragments"]) == ("accepted", "CM:0000", 3)
            assert attempt["looked_at"] == "2026-02-10T08:30:00+08:00"
            assert shown["text"] == suite.ledger()[0]["content"]
            assert MOBILE not in str(shown)

    asyncio.run(run())


def test_every_route_states_its_access_rule(tmp_path: Path) -> None:
    """None is open by accident; notices and brake want their scopes."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            assert routes_without_access(suite.notify.app) == []
            for method, path in (("GET", "/v1/notices"), ("GET", "/v1/sending"), ("PUT", "/v1/sending")):
                assert (await suite.client.request(method, path)).status_code == 401
            token = suite.issuer.token("desk", scopes=["notices:read"])
            headers = {"Authorization": f"Bearer {token}"}
            answer = await suite.client.put("/v1/sending", json={"state": "off"}, headers=headers)
            assert answer.status_code == 403

    asyncio.run(run())


def test_notices_are_listed_page_by_page(tmp_path: Path) -> None:
    """Filters by unit, lead and state; a town sees its own; unknown parameters and cursors are refused."""

    async def run() -> None:
        async with Suite.running(tmp_path, at("2026-02-10", "00:05")) as suite:
            units = [f"91371082MA3XTE000{n}" for n in range(3)]
            await suite.due(*units)
            await suite.hear(lead_resolved(uscc=units[0]))
            first = await suite.ask("GET", "/v1/notices?limit=2")
            rest = await suite.ask("GET", f"/v1/notices?limit=2&cursor={first['next_cursor']}")
            assert {row["uscc"] for row in first["items"] + rest["items"]} == set(units)
            assert rest["next_cursor"] is None
            queued = next(row for row in first["items"] + rest["items"] if row["state"] == "queued")
            assert (queued["trying"], queued["due_at"]) == (None, "2026-02-10T00:05:00+08:00")

            async def found(query: str, **who: Any) -> int:
                return len((await suite.ask("GET", f"/v1/notices?{query}", **who))["items"])

            assert await found(f"lead=R01-{units[1]}") == 1
            assert await found("state=withdrawn") == 1
            assert await found("state=queued", town="寻山街道") == 2
            assert await found("state=queued", town="崂山街道") == 0
            id_ = first["items"][0]["id"]
            await suite.ask("GET", f"/v1/notices/{id_}", town="崂山街道", status=404)
            await suite.ask("GET", "/v1/notices/none", status=404)
            await suite.ask("GET", "/v1/notices?colour=red", status=422)
            await suite.ask("GET", "/v1/notices?state=red", status=422)
            extremes = [
                encode_cursor([instant, id_])
                for instant, id_ in (
                    ("0001-01-01T00:00:00+08:00", "x"),
                    ("9999-12-31T23:59:59-08:00", "x"),
                    ("2026-02-10T00:00:00+08:00", "\x00"),
                    ("2026-02-10T00:00:00+08:00", "\ud800"),
                )
            ]
            for cursor in ("x", "WyJ4IiwgIngiXQ", "WyIyMDI2LTAxLTAxIiwgIngiXQ", *extremes):
                await suite.ask("GET", f"/v1/notices?cursor={cursor}", status=400)

    asyncio.run(run())


def test_a_notice_with_an_unknown_outcome_says_so(tmp_path: Path) -> None:
    """It is queued without a due instant, because a submission of unknown outcome decides."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            await suite.script({"action": "accept_and_drop"})
            await suite.due()
            suite.sandbox.state.sandbox.quiet(suite.clock.now())
            for _ in range(2_000):
                (row,) = (await suite.ask("GET", "/v1/notices"))["items"]
                if row["trying"] == "unknown":
                    break
                suite.notify.core.wake()
                await asyncio.sleep(0.001)
            assert (row["state"], row["trying"], row["due_at"]) == ("queued", "unknown", None)

    asyncio.run(run())


def test_the_brake_is_turned_over_http(tmp_path: Path) -> None:
    """Off holds everything; what is left out stays; the allow-list is never shown; bad input is refused."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            before = (await suite.ask("GET", "/v1/sending"))["items"]
            assert [(one["account"], one["channel"]) for one in before] == [
                ("sandbox", "sms"),
                ("wechat", "wechat"),
            ]
            for one in before:
                assert (one["state"], one["daily_cap"], one["changed_by"]) == ("on", None, None)
            for one in (await suite.ask("PUT", "/v1/sending", {"state": "off", "daily_cap": 10}))["items"]:
                assert (one["state"], one["daily_cap"], one["changed_by"]) == ("off", 10, "desk")
            await suite.due()
            await suite.settle()
            assert suite.ledger() == []
            wanted = {"account": "sandbox", "state": "allowlist", "allowlist": [MOBILE]}
            listed, other = (await suite.ask("PUT", "/v1/sending", wanted))["items"]
            assert (other["state"], other["allowlist"]) == ("off", 0)
            assert (listed["daily_cap"], listed["allowlist"]) == (10, 1)
            assert MOBILE not in str(listed)
            await suite.settle()
            assert len(suite.ledger()) == 1
            shown = (await suite.ask("GET", "/v1/sending"))["items"]
            assert [one["submitted_today"] for one in shown] == [1, 0]
            uncapped = (await suite.ask("PUT", "/v1/sending", {"state": "on", "daily_cap": None}))["items"][0]
            assert (uncapped["daily_cap"], uncapped["allowlist"]) == (None, 1)
            for body in (
                {"state": "red"},
                {},
                {"state": "on", "x": 1},
                {"state": "on", "daily_cap": "5"},
                {"state": "on", "daily_cap": -1},
                {"state": "on", "allowlist": ["0631-7551234"]},
                {"state": "on", "account": "another"},
            ):
                await suite.ask("PUT", "/v1/sending", body, status=422)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("rule", "state", "reason"),
    [
        ({"action": "refuse", "code": "InvalidMessage"}, "unreached", "refused"),
        ({"action": "fail", "code": "CM:2007"}, "unreached", "refused"),
        ({"action": "duplicate_receipt"}, "delivered", None),
        ({"action": "accept_and_drop"}, "delivered", None),
        ({"action": "silent"}, "unreached", "silent"),
        ({"action": "refuse", "code": "IllegalSignId"}, "held", None),
    ],
    ids=lambda value: value.get("code") or value["action"] if isinstance(value, dict) else "",
)
def test_what_the_carrier_is_scripted_to_do(tmp_path: Path, rule: Any, state: str, reason: Any) -> None:
    """Each behaviour of the real protocol ends the notice as it should, with one message at most."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            await suite.script(rule)
            await suite.due()
            await suite.settle()
            for hours in (0.1, 80):
                suite.clock.advance(timedelta(hours=hours))
                await suite.settle()
            (row,) = (await suite.ask("GET", "/v1/notices"))["items"]
            assert (row["state"], row["reason"]) == (state, reason)
            assert len(suite.ledger()) == 1
            stopped = (await suite.ask("GET", "/v1/sending"))["items"][0]["state"]
            assert stopped == ("off" if state == "held" else "on")

    asyncio.run(run())


def test_receipts_want_the_secret_address(tmp_path: Path) -> None:
    """A wrong account or secret is no address; what is no report is 400; too large is 413; never a 5xx."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            good = f"/v1/receipts/sandbox/{SECRET.get_secret_value()}"
            report = {
                "reportStatus": "CM:0000",
                "mobile": MOBILE,
                "submitDate": "20260210100000",
                "receiveDate": "20260210100005",
                "errorCode": "DELIVRD",
                "msgGroup": "0210100000000000000001",
            }
            for path in (f"{good}x", good.replace("sandbox", "other"), good[:-1], "/v1/receipts/sandbox/错"):
                assert (await suite.client.post(path, json=report)).status_code == 404
            answer = await suite.client.post(good, json=report, headers={"Content-Type": "text/plain"})
            assert (answer.status_code, answer.json()) == (200, {"success": True})
            torn = report | {"receiveDate": "00010101000000"}
            assert (await suite.client.post(good, json=[report, torn, report, 7])).status_code == 200
            assert (await suite.client.post(good, json=torn)).status_code == 400
            for body in (b"", b"{}", b"\xff", b"[1]", b"NaN", b"[" * 5_000):
                answer = await suite.client.post(good, content=body)
                assert (answer.status_code, answer.json()["code"]) == (400, "unreadable_report")
            assert (await suite.client.post(good, content=b" " * 70_000)).status_code == 413
            metrics = (await suite.client.get("/metrics")).text
            assert 'yingbao_receipts_total{result="unmatched"} 3.0' in metrics
            assert 'yingbao_receipts_total{result="unreadable"} 9.0' in metrics
            assert "yingbao_contacts_overdue 0.0" in metrics
            assert "yingbao_notices_unsayable 0.0" in metrics

    asyncio.run(run())


# -- WeChat, bindings, verify, recall ------------------------------------------------------------------


def test_from_the_binding_to_wechats_receipt(tmp_path: Path) -> None:
    """Bound over HTTP, sent as a template message, delivered by WeChat's sealed call."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            await suite.followers(OPENID)
            made = await suite.bind()
            assert await suite.bind(status=200) == made == {"bound_at": NOW.isoformat()}
            await suite.due()
            await suite.settle()
            suite.clock.advance(timedelta(seconds=5))
            await suite.settle()
            (row,) = (await suite.ask("GET", "/v1/notices"))["items"]
            shown = await suite.ask("GET", f"/v1/notices/{row['id']}")
            assert (shown["state"], shown["channel"]) == ("delivered", "wechat")
            (attempt,) = shown["attempts"]
            assert (attempt["channel"], attempt["code"], attempt["fragments"]) == ("wechat", "success", 0)
            (seen,) = suite.ledger()
            assert attempt["reference"] in seen["content"]

    asyncio.run(run())


def test_who_unfollows_gets_the_sms(tmp_path: Path) -> None:
    """WeChat tells it; the next message goes by SMS without trying WeChat. Who follows again is bound again."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            await suite.followers(OPENID)
            await suite.settle()
            await suite.bind()
            await suite.followers()
            await suite.settle()
            await suite.due()
            await suite.settle()
            (row,) = (await suite.ask("GET", "/v1/notices"))["items"]
            shown = await suite.ask("GET", f"/v1/notices/{row['id']}")
            assert [attempt["channel"] for attempt in shown["attempts"]] == ["sms"]
            await suite.followers(OPENID)
            await suite.settle()
            await suite.bind(status=200)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"mobile": "0631-7551234", "openid": OPENID, "source": "s"}, "not_a_mobile"),
        ({"mobile": MOBILE, "openid": "short", "source": "s"}, "wrong_form"),
        ({"mobile": MOBILE, "openid": OPENID}, "required"),
        ({"mobile": MOBILE, "openid": OPENID, "source": "王示例 13800138000"}, "wrong_form"),
        ({"mobile": MOBILE, "openid": OPENID, "source": "s" * 33}, "wrong_form"),
    ],
)
def test_a_binding_names_a_phone_a_follower_and_a_source(tmp_path: Path, body: Any, code: str) -> None:
    """What is wrong is named, and never echoed."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            answer = await suite.ask("POST", "/v1/bindings", body, status=422)
            assert [error["code"] for error in answer["errors"]] == [code]
            assert "7551234" not in str(answer)

    asyncio.run(run())


def test_what_is_not_from_wechat_is_not_heeded(tmp_path: Path) -> None:
    """Forged 403, unreadable 400, too large 413, and nothing happens; the proof of the address is answered."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            await suite.bind()
            leave = xml_of(FromUserName=OPENID, CreateTime="1770688800", MsgType="event", Event="unsubscribe")

            async def push(keys: CallbackKeys, plain: bytes, *, token: str = KEYS.token) -> int:
                sealed = seal(keys, plain, salt=bytes(16))
                query = {"timestamp": "1", "nonce": "2", "msg_signature": signature(token, "1", "2", sealed)}
                answer = await suite.client.post("/v1/wechat", params=query, content=xml_of(Encrypt=sealed))
                return answer.status_code

            assert await push(KEYS, leave, token="guessed") == 403
            assert await push(replace(KEYS, app_id="wxother"), leave) == 403
            assert await push(KEYS, b"<xml><FromUserName>x</FromUserName></xml>") == 400
            for content in (b"", b"{}", b"\xff", b"<xml>", leave):
                assert (await suite.client.post("/v1/wechat", content=content)).status_code in (400, 403)
            assert (await suite.client.post("/v1/wechat", content=b" " * 70_000)).status_code == 413
            await suite.bind(status=200)
            assert await push(KEYS, leave) == 200
            await suite.bind(status=201)
            proof = {"timestamp": "1", "nonce": "2", "echostr": "say-this-back"}
            proof["signature"] = signature(KEYS.token, "1", "2")
            assert (await suite.client.get("/v1/wechat", params=proof)).text == "say-this-back"
            wrong = await suite.client.get("/v1/wechat", params={**proof, "nonce": "3"})
            assert (wrong.status_code, "say-this-back" in wrong.text) == (403, False)

    asyncio.run(run())


def test_a_notice_whose_question_is_refused_says_why_it_waits(tmp_path: Path) -> None:
    """In the list, with the instant at which it is looked at again."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            suite.registry.statuses = [422]
            await suite.due()
            await suite.settle()
            (row,) = (await suite.ask("GET", "/v1/notices"))["items"]
            assert (row["state"], row["held"]) == ("held", ["look:question_refused"])
            assert row["due_at"] == (NOW + timedelta(minutes=10)).isoformat()

    asyncio.run(run())


def test_anybody_can_ask_whether_a_message_is_genuine(tmp_path: Path) -> None:
    """Yes for its reference and its unit's last four; otherwise the same answer for every reason."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            await suite.due()
            await suite.settle()
            (row,) = (await suite.ask("GET", "/v1/notices"))["items"]
            (attempt,) = (await suite.ask("GET", f"/v1/notices/{row['id']}"))["attempts"]
            reference = attempt["reference"]

            async def ask(**query: str) -> httpx.Response:
                suite.clock.advance(timedelta(seconds=1))
                return await suite.client.get("/v1/verify", params=query)

            for right in ({"uscc4": "5T8Q"}, {"uscc4": "5t8q", "reference": reference.lower()}):
                answer = await ask(**{"reference": reference, **right})
                assert (answer.status_code, answer.json()) == (200, {"genuine": True, "recalled": False})
            for wrong in ({"uscc4": "5T9N"}, {"reference": "ABC234XYZ"}, {"uscc4": "%T8Q"}):
                answer = await ask(**{"reference": reference, "uscc4": "5T8Q", **wrong})
                assert (answer.status_code, answer.json()) == (200, {"genuine": False, "recalled": False})
            assert (await ask(reference=reference)).status_code == 422
            assert (await ask(reference=reference, uscc4="5T8Q", who="me")).status_code == 422

    asyncio.run(run())


def test_questions_of_one_address_are_limited(tmp_path: Path) -> None:
    """After a burst 429 with Retry-After; other routes are not touched, and a second later it may ask again."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            query = {"reference": "ABC234XYZ", "uscc4": "5T8Q"}
            answers = [await suite.client.get("/v1/verify", params=query) for _ in range(6)]
            assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
            assert answers[-1].headers["retry-after"] == "1"
            await suite.ask("GET", "/v1/sending")
            suite.clock.advance(timedelta(seconds=1))
            assert (await suite.client.get("/v1/verify", params=query)).status_code == 200

    asyncio.run(run())


def test_a_recall_over_http_withdraws_corrects_and_lists(tmp_path: Path) -> None:
    """By stage and by reference; asked again it does nothing more; the list says who has the wrong message."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            await suite.due(USCC)
            await suite.settle()
            suite.registry.holds = {OTHER: "insured"}
            await suite.due(OTHER, mobile="13900139000")
            await suite.settle()
            body = {"rule": "R01", "stage": "reminder", "since": NOW.isoformat(), "reason": "文本有误"}
            recalled = await suite.ask("POST", "/v1/notices/recall", body)
            (got,) = recalled.pop("got")
            assert recalled == {"withdrawn": 1, "under_way": 0, "corrections": 1, "next_cursor": None}
            assert (got["uscc"], got["channel"], got["at"]) == (USCC, "sms", NOW.isoformat())
            again = {"references": [got["reference"]], "reason": "文本有误"}
            recalled = await suite.ask("POST", "/v1/notices/recall", again)
            assert (recalled["corrections"], len(recalled["got"])) == (0, 1)
            await suite.settle()
            (correction,) = [m["content"] for m in suite.ledger() if "有误" in m["content"]]
            assert got["reference"] in correction
            query = {"reference": got["reference"], "uscc4": USCC[-4:]}
            answer = await suite.client.get("/v1/verify", params=query)
            assert answer.json() == {"genuine": True, "recalled": True}
            for wrong in ({"reason": "x"}, {**body, "references": ["A"]}, {"rule": "R01", "reason": "x"}):
                answer = await suite.ask("POST", "/v1/notices/recall", wrong, status=422)
                assert [error["code"] for error in answer["errors"]] == ["one_of"]

    asyncio.run(run())


def test_an_official_account_needs_its_callback(tmp_path: Path) -> None:
    """AppSecret without token and key does not start; without AppSecret there is no address for WeChat."""
    given = {
        "data_dir": tmp_path,
        "carrier_secret_key": CARRIER_KEY,
        "receipts_secret": SECRET,
        "wechat_secret": SecretStr("app-secret"),
    }
    with pytest.raises(ValueError, match="YINGBAO_NOTIFY_WECHAT_TOKEN"):
        build(NotifySettings(**given), bus=InProcessBus(), clock=FrozenClock(NOW))
    given["wechat_secret"] = None
    alone = build(NotifySettings(**given), bus=InProcessBus(), clock=FrozenClock(NOW))
    assert "/v1/wechat" not in {getattr(route, "path", "") for route in alone.app.routes}


def test_the_brake_of_registry_over_http(tmp_path: Path) -> None:
    """A hold keeps the message; an expired token is renewed once; an error lets nothing out until it is over."""

    async def run() -> None:
        async with Suite.running(tmp_path) as suite:
            suite.registry.statuses = [401]
            suite.registry.holds = {USCC: "insured"}
            await suite.due(USCC)
            await suite.due(OTHER, mobile="13900139000")
            await suite.settle()
            states = {row["uscc"]: row for row in (await suite.ask("GET", "/v1/notices"))["items"]}
            assert (states[USCC]["state"], states[USCC]["held"]) == ("held", ["look:insured"])
            assert states[OTHER]["state"] == "handed_over"
            questions = [item for _, body in suite.registry.asked for item in body["items"]]
            assert next(item for item in questions if item["subject"]["uscc"] == USCC) == {
                "subject": {"uscc": USCC},
                "void": {
                    "insurances": ["pension", "unemployment", "injury"],
                    "forms": ["employer"],
                    "mode": "any",
                },
                "facts": {
                    "established_on": "2026-01-09",
                    "kind": "enterprise",
                    "name": "荣成市示例水产有限公司",
                    "town": "寻山街道",
                    "contact_version": 1,
                },
            }

    asyncio.run(run())


class Tokens:
    """Two tokens: the second is better."""

    async def token(self) -> str:
        return "old"

    async def renew(self) -> str:
        return "new"


def look(registry: Registry, transport: httpx.AsyncBaseTransport | None = None) -> list[Go | Hold]:
    """The answer of one look at one notice."""

    async def run() -> list[Go | Hold]:
        inside = transport or httpx.ASGITransport(registry.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=inside, base_url="http://registry") as client:
            one = RegistryLastLook(
                client, Tokens(), registry.clock, timeout_s=0.05, oldest=timedelta(seconds=5)
            )
            return await one.look([Candidate(replace(a_notice()), MOBILE, 1)])

    return asyncio.run(run())


def test_one_new_token_is_fetched_for_a_401() -> None:
    """The second answer counts, whatever it is; there is no third."""
    registry = Registry(FrozenClock(NOW))
    registry.statuses = [401]
    assert look(registry) == [Go()]
    assert [token for token, _ in registry.asked] == ["Bearer old", "Bearer new"]
    registry.statuses = [401, 401]
    with pytest.raises(NoAnswerError, match="401"):
        look(registry)


@pytest.mark.parametrize(
    "answer",
    [
        {"as_of": "2026-02-10T09:59:54+08:00", "items": [{"answer": "go"}]},
        {"as_of": "2026-02-10T10:00:00", "items": [{"answer": "go"}]},
        {"as_of": NOW.isoformat(), "items": []},
        {"as_of": NOW.isoformat(), "items": [{"answer": "perhaps"}]},
        {"as_of": NOW.isoformat(), "items": [{"answer": "hold"}]},
        {"as_of": NOW.isoformat(), "items": ["go"]},
        {"items": [{"answer": "go"}]},
        [1],
    ],
    ids=["too old", "no zone", "too few", "neither", "no reason", "no object", "no instant", "no answer"],
)
def test_what_is_not_clearly_an_answer_is_none(answer: Any) -> None:
    """Nothing may leave on it."""
    registry = Registry(FrozenClock(NOW))
    registry.answer = answer
    with pytest.raises(NoAnswerError):
        look(registry)


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("bad", [[], [0], [3, 4], [0, 1, 2, 3, 4]])
def test_a_question_that_registry_refuses_holds_its_own_notice_alone(bad: list[int], status: int) -> None:
    """Refused is the whole list: the others are answered, in order, and nothing stands still."""
    units = [f"91371082MA3XTE00{n:02}" for n in range(5)]
    refused = {units[n] for n in bad}

    async def answer(request: httpx.Request) -> httpx.Response:
        asked = [item["subject"]["uscc"] for item in json.loads(request.content)["items"]]
        if refused & set(asked):
            return httpx.Response(status)
        items = [{"answer": "hold", "reason": u} for u in asked]
        return httpx.Response(200, json={"as_of": NOW.isoformat(), "items": items})

    async def run() -> list[Go | Hold]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://r") as client:
            one = RegistryLastLook(
                client, Tokens(), FrozenClock(NOW), timeout_s=1, oldest=timedelta(seconds=5)
            )
            return await one.look([Candidate(a_notice(uscc=u), MOBILE, 1) for u in units])

    assert asyncio.run(run()) == [Hold("question_refused" if u in refused else u) for u in units]


@pytest.mark.parametrize("error", [httpx.ConnectError("x"), httpx.ReadTimeout("x"), None])
def test_a_registry_that_cannot_be_reached_gives_no_answer(error: Exception | None) -> None:
    """Broken connection, time-out of the client, or a neighbour in process that never answers."""

    class Broken(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if error is not None:
                raise error
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(NoAnswerError):
        look(Registry(FrozenClock(NOW)), Broken())


def test_notify_wants_its_secrets(tmp_path: Path) -> None:
    """Without the carrier's key and the receipts' address it does not start, and says what to set."""
    with pytest.raises(ValueError, match="YINGBAO_NOTIFY_RECEIPTS_SECRET"):
        build(NotifySettings(data_dir=tmp_path), bus=InProcessBus(), clock=FrozenClock(NOW))


def test_a_restart_finds_everything(tmp_path: Path) -> None:
    """What was queued before a restart leaves after it, once."""

    async def run(events: bool) -> int:
        async with Suite.running(tmp_path) as suite:
            suite.registry.statuses = [500] * 1_000 if events else []
            if events:
                await suite.due()
                while not suite.registry.asked:  # noqa: ASYNC110 - the service's own loop asks
                    await asyncio.sleep(0.001)
            else:
                await suite.settle()
                rows = await suite.notify.core.read(lambda db: list(db.execute(notice.select())))
                assert [row.state for row in rows] == ["handed_over"]
            return len(suite.ledger())

    assert asyncio.run(run(events=True)) == 0
    assert asyncio.run(run(events=False)) == 1
