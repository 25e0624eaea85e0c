"""The WeChat carrier: what is sent, what the answers mean, how its token lives."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from services.notify.carriers import Accepted, ErrorClass, NotSent, Refused, Submission, Unknown
from services.notify.carriers.wechat import (
    REFUSALS,
    TemplateMessage,
    Wechat,
    WechatAccount,
    fault_of_field,
    read_answer,
    submission_body,
)
from shared.clock import ZONE, FrozenClock

ACCOUNT = WechatAccount("http://wechat.test/sandbox/wechat", "wx0123456789abcdef", "appsecret")
OPENID = "o" + "A1_-" * 6 + "xyz"
MESSAGE = TemplateMessage(
    "TEMPLATE-1",
    {"thing1": "荣成市示例水产有限公司", "date2": "2026年2月9日"},
    "notice-1",
    "https://example.org/x",
)
Answering = Callable[[httpx.Request], httpx.Response]


class Tencent:
    """Answers for tokens by itself; what a message gets is the test's."""

    def __init__(self, *answers: Answering | dict[str, Any], tokens: list[Any] | None = None) -> None:
        self.answers = list(answers)
        self.tokens = tokens or ["T1"]
        self.asked: list[dict[str, Any]] = []
        self.sent: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/stable_token"):
            self.asked.append(json.loads(request.content))
            token = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
            if callable(token):
                return token(request)
            answer = token if isinstance(token, dict) else {"access_token": token, "expires_in": 7200}
            return httpx.Response(200, json=answer)
        self.sent.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(request) if callable(answer) else httpx.Response(200, json=answer)

    @property
    def used(self) -> list[str]:
        """The tokens that messages came with."""
        return [request.url.params["access_token"] for request in self.sent]


TAKEN = {"errcode": 0, "errmsg": "ok", "msgid": 3297459282894372865}


def play(
    tencent: Answering,
    *messages: TemplateMessage,
    openid: str = OPENID,
    pause: timedelta = timedelta(0),
    account: WechatAccount = ACCOUNT,
) -> list[Submission]:
    """Submits one after the other, time passing after each."""

    async def run() -> list[Submission]:
        clock = FrozenClock(datetime(2026, 2, 10, 8, 30, tzinfo=ZONE))
        outcomes = []
        async with httpx.AsyncClient(transport=httpx.MockTransport(tencent)) as client:
            carrier = Wechat(account, client, clock)
            for message in messages or (MESSAGE,):
                outcomes.append(await carrier.submit(openid, message))
                clock.advance(pause)
        return outcomes

    return asyncio.run(run())


def refused(code: int) -> dict[str, Any]:
    return {"errcode": code, "errmsg": "no"}


def raising(error: Exception) -> Answering:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise error

    return answer


def test_a_message_goes_out_with_a_token_and_is_accepted() -> None:
    """The fields of the manual; msgid is what the receipt will name, all 64 bits of it."""
    tencent = Tencent(TAKEN)
    assert [Accepted("3297459282894372865")] == play(tencent)
    assert tencent.asked == [
        {
            "grant_type": "client_credential",
            "appid": "wx0123456789abcdef",
            "secret": "appsecret",
            "force_refresh": False,
        }
    ]
    [request] = tencent.sent
    assert (request.method, str(request.url)) == (
        "POST",
        "http://wechat.test/sandbox/wechat/cgi-bin/message/template/send?access_token=T1",
    )
    assert json.loads(request.content) == {
        "touser": OPENID,
        "template_id": "TEMPLATE-1",
        "url": "https://example.org/x",
        "client_msg_id": "notice-1",
        "data": {"thing1": {"value": "荣成市示例水产有限公司"}, "date2": {"value": "2026年2月9日"}},
    }


def test_without_a_link_there_is_no_url() -> None:
    """An empty address would be one."""
    assert "url" not in json.loads(submission_body(OPENID, replace(MESSAGE, url="")))


def test_a_token_is_kept_until_five_minutes_before_its_end() -> None:
    """7,200 s less 300 s: asked once for messages within, again after."""
    tencent = Tencent(TAKEN, tokens=["T1", "T2"])
    play(tencent, *[MESSAGE] * 3, pause=timedelta(seconds=3450))
    assert tencent.used == ["T1", "T1", "T2"]


def test_many_messages_at_once_ask_for_one_token() -> None:
    """The others wait for the first one's."""
    tencent = Tencent(TAKEN)

    async def answer(request: httpx.Request) -> httpx.Response:
        turn = asyncio.Event()
        asyncio.get_running_loop().call_soon(turn.set)
        await turn.wait()  # as on a real line the others get their turn before the answer is there
        return tencent(request)

    async def run() -> list[Submission]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            carrier = Wechat(ACCOUNT, client, FrozenClock(datetime(2026, 2, 10, tzinfo=ZONE)))
            return await asyncio.gather(*(carrier.submit(OPENID, MESSAGE) for _ in range(20)))

    assert all(isinstance(outcome, Accepted) for outcome in asyncio.run(run()))
    assert (len(tencent.asked), len(tencent.sent)) == (1, 20)


@pytest.mark.parametrize("code", [40001, 40014, 42001])
def test_a_stale_token_is_looked_up_and_the_message_tried_once_more(code: int) -> None:
    """Another instance may have got a new one: the ordinary question gives it, nothing is forced."""
    tencent = Tencent(refused(code), TAKEN, tokens=["T1", "T2"])
    assert isinstance(play(tencent)[0], Accepted)
    assert tencent.used == ["T1", "T2"]
    assert [asked["force_refresh"] for asked in tencent.asked] == [False, False]


def test_a_stale_token_that_is_repeated_is_replaced_by_force() -> None:
    """Only then; and not again within 30 s, where WeChat would refuse it."""
    tencent = Tencent(refused(40001), tokens=["T1", "T1", "T2"])
    first, second = play(tencent, MESSAGE, MESSAGE, pause=timedelta(seconds=29))
    assert [asked["force_refresh"] for asked in tencent.asked] == [False, False, True, False]
    assert tencent.used == ["T1", "T2", "T2", "T2"]
    for outcome in (first, second):
        assert isinstance(outcome, Refused)
        assert (outcome.code, outcome.error) == ("40001", ErrorClass.AUTH)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (-1, ErrorClass.TRANSIENT),
        (40003, ErrorClass.RECIPIENT_INVALID),
        (43004, ErrorClass.RECIPIENT_REFUSED),
        (43019, ErrorClass.RECIPIENT_REFUSED),
        (43101, ErrorClass.RECIPIENT_REFUSED),
        (45009, ErrorClass.QUOTA_OR_BALANCE),
        (40037, ErrorClass.CONFIG),
        (41030, ErrorClass.CONFIG),
        (47003, ErrorClass.CONTENT_REJECTED),
        (48001, ErrorClass.CONFIG),
        (40164, ErrorClass.CONFIG),
        (99999, ErrorClass.CONFIG),
    ],
)
def test_each_code_has_its_class(code: int, error: ErrorClass) -> None:
    """A clear no is a refusal, tried once; a code that nobody knows asks for a person."""
    tencent = Tencent(refused(code))
    [outcome] = play(tencent)
    assert isinstance(outcome, Refused)
    assert (str(code), error) == (outcome.code, outcome.error)
    assert len(tencent.sent) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (502, json.dumps(TAKEN).encode()),
        (302, b""),
        (200, b""),
        (200, b"<html>"),
        (200, b"\xff"),
        (200, b"[" * 100_000),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"msgid":7}'),
        (200, b'{"errcode":"0","msgid":7}'),
        (200, b'{"errcode":false,"msgid":7}'),
        (200, b'{"errcode":0}'),
        (200, b'{"errcode":0,"msgid":true}'),
        (200, b'{"errcode":0,"msgid":"x"}'),
    ],
)
def test_what_is_not_a_clear_answer_is_unknown(status: int, body: bytes) -> None:
    """Neither yes nor no: the message may be out, so it is never called refused or unsent."""
    assert isinstance(read_answer(status, body), Unknown)


@pytest.mark.parametrize("error", [httpx.ConnectError(""), httpx.ConnectTimeout(""), httpx.PoolTimeout("")])
def test_no_connection_means_not_sent(error: Exception) -> None:
    """Before a connection exists no byte can have left."""
    assert isinstance(play(Tencent(raising(error)))[0], NotSent)


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout(""), httpx.WriteTimeout(""), httpx.RemoteProtocolError(""), TimeoutError()]
)
def test_a_line_that_breaks_later_means_unknown(error: Exception) -> None:
    """Once a byte may have left, nobody knows; it is not tried again."""
    tencent = Tencent(raising(error))
    assert isinstance(play(tencent)[0], Unknown)
    assert len(tencent.sent) == 1


@pytest.mark.parametrize(
    "token",
    [
        raising(httpx.ConnectError("")),
        raising(httpx.ReadTimeout("")),
        lambda _request: httpx.Response(500),
        lambda _request: httpx.Response(200, content=b"<html>"),
        {"errcode": 0},
        {"access_token": "", "expires_in": 7200},
        {"access_token": "T1", "expires_in": "7200"},
    ],
)
def test_without_a_token_nothing_was_sent(token: Any) -> None:
    """However the question for a token ended, the message is provably still here."""
    tencent = Tencent(TAKEN, tokens=[token])
    assert isinstance(play(tencent)[0], NotSent)
    assert tencent.sent == []


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (40013, ErrorClass.AUTH),
        (40125, ErrorClass.AUTH),
        (40164, ErrorClass.CONFIG),
        (45011, ErrorClass.RATE_LIMIT),
    ],
)
def test_a_refused_token_is_a_fault_of_the_account(code: int, error: ErrorClass) -> None:
    """Every other message would meet it too."""
    [outcome] = play(Tencent(TAKEN, tokens=[refused(code)]))
    assert isinstance(outcome, Refused)
    assert (str(code), error) == (outcome.code, outcome.error)


def test_a_message_begins_to_leave_early_or_not_at_all() -> None:
    """A token that took more than six tenths of the time leaves none for the message: released, not late."""
    clock = FrozenClock(datetime(2026, 2, 10, tzinfo=ZONE))
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/stable_token"):
            clock.advance(timedelta(seconds=3.1))
            return httpx.Response(200, json={"access_token": "T1", "expires_in": 7200})
        sent.append(request.extensions["timeout"]["connect"])
        return httpx.Response(200, json=TAKEN)

    async def run() -> list[Submission]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            carrier = Wechat(ACCOUNT, client, clock)
            return [await carrier.submit(OPENID, MESSAGE) for _ in range(2)]

    first, second = asyncio.run(run())
    assert (type(first), type(second), sent) == (NotSent, Accepted, [3.0])


@pytest.mark.parametrize(("silent", "outcome"), [("stable_token", NotSent), ("send", Unknown)])
def test_the_call_has_an_end_also_where_the_transport_has_none(silent: str, outcome: type) -> None:
    """In-process transports ignore httpx's time-outs; the carrier has its own."""

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith(silent):
            return await asyncio.Future[httpx.Response]()
        return httpx.Response(200, json={"access_token": "T1", "expires_in": 7200})

    async def run() -> Submission:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            clock = FrozenClock(datetime(2026, 2, 10, tzinfo=ZONE))
            return await Wechat(replace(ACCOUNT, timeout_s=0.01), client, clock).submit(OPENID, MESSAGE)

    assert isinstance(asyncio.run(run()), outcome)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("thing1", ["字" * 20, "a"], ["字" * 21]),
        ("character_string2", ["A" * 32, "YB-2026 1"], ["A" * 33, "编号"]),
        ("number3", ["7", "-7.50"], ["7户", "1" * 33]),
        ("phrase4", ["未参保"], ["一二三四五六", "abc"]),
        ("name5", ["张某某", "Zhang San"], ["一二三四五六七八九十一", "张3"]),
        ("date6", ["2026年2月9日", "2026-02-09", "2026年2月9日 08:30"], ["2月9日", "明天"]),
        ("time7", ["08:30", "2026年2月9日 08:30"], ["八点半"]),
        ("amount8", ["¥12.50", "12元"], ["十二"]),
        ("phone_number9", ["0631-12333"], ["0" * 18, "电话"]),
        ("const10", ["待办"], ["字" * 21]),
    ],
)
def test_fields_are_checked_before_they_go(name: str, good: list[str], bad: list[str]) -> None:
    """Each kind has its form; an empty value is refused for every kind."""
    assert [fault_of_field(name, value) for value in good] == [None] * len(good)
    for value in (*bad, "", " "):
        fault = fault_of_field(name, value)
        assert fault is not None
        assert name in fault
        assert value not in fault or not value.strip()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"thing1": "字" * 21}, "field"),
        ({"thing1": ""}, "field"),
        ({"first": "您好"}, "field"),
        ({}, "field"),
        ({"thing1": "坏\ud800"}, "encoding"),
    ],
)
def test_a_message_that_would_be_refused_stays_here(fields: dict[str, str], code: str) -> None:
    """Nothing is sent, not even the question for a token."""
    [outcome] = play(raising(AssertionError("sent")), replace(MESSAGE, fields=fields))
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.error) == (code, ErrorClass.CONTENT_REJECTED)


@pytest.mark.parametrize("openid", ["", "13800138000", OPENID + "\n", OPENID[:-1] + "字"])
def test_only_an_openid_is_sent_to(openid: str) -> None:
    """Anything else is refused here, without being repeated."""
    [outcome] = play(raising(AssertionError("sent")), openid=openid)
    assert isinstance(outcome, Refused)
    assert outcome.error == ErrorClass.RECIPIENT_INVALID
    assert openid == "" or openid not in str(outcome)


def test_the_secret_is_not_printed() -> None:
    """The printed account shows no secret."""
    assert "appsecret" not in repr(ACCOUNT)


def test_refusals_of_the_person_are_told_from_those_of_the_account() -> None:
    """Only what is no fault of the account says something about a person."""
    person = {code for code, (error, _) in REFUSALS.items() if error.name.startswith("RECIPIENT")}
    assert person == {"40003", "43004", "43019", "43101"}
