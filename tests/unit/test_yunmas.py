"""云MAS: what is sent, what the answers mean, how reports are read."""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import httpx
import pytest

from services.notify.carriers import (
    Accepted,
    Carrier,
    ErrorClass,
    NotSent,
    Receipt,
    ReceiptUnreadableError,
    Refused,
    Submission,
    Unknown,
)
from services.notify.carriers.yunmas import (
    YunMas,
    YunMasAccount,
    mac,
    parse_report,
    read_answer,
    submission_body,
)
from shared.clock import ZONE

ACCOUNT = YunMasAccount("http://mas.test/sandbox/yunmas", "测试单位", "apuser", "apsecret", "SIGN01")
REPORT = {
    "reportStatus": "CM:0000",
    "mobile": "13800138000",
    "submitDate": "20260210083001",
    "receiveDate": "20260210083006",
    "errorCode": "DELIVRD",
    "msgGroup": "0906163415000000332084",
}


def submit(
    answer: Callable[[httpx.Request], httpx.Response], mobile: str = "13800138000", text: str = "好"
) -> Any:
    async def run() -> Submission:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            carrier: Carrier = YunMas(ACCOUNT, client)
            return await carrier.submit(mobile, text)

    return asyncio.run(run())


def decoded(body: bytes) -> dict[str, str]:
    fields: dict[str, str] = json.loads(base64.b64decode(body, validate=True))
    return fields


def test_the_signature_is_the_published_one() -> None:
    """The known vector of two numbers gives the known MD5."""
    mobiles = "13800138000,13800138001"
    assert (
        mac("测试单位", "apuser", "apsecret", mobiles, "测试短信", "SIGN01", "")
        == "53c58b8ce82343a1d5ff92a559bc3704"
    )


def test_the_body_is_base64_of_utf8_json() -> None:
    """All fields of the manual, the secret beside them."""
    assert {
        "ecName": "测试单位",
        "apId": "apuser",
        "secretKey": "apsecret",
        "mobiles": "13800138000",
        "content": "测试短信",
        "sign": "SIGN01",
        "addSerial": "",
        "mac": mac("测试单位", "apuser", "apsecret", "13800138000", "测试短信", "SIGN01", ""),
    } == decoded(submission_body(ACCOUNT, "13800138000", "测试短信"))


def test_the_secret_can_stay_out_of_the_body() -> None:
    """The switch leaves out the key and changes nothing else."""
    quiet = replace(ACCOUNT, secret_in_body=False)
    left, right = (decoded(submission_body(a, "13800138000", "短信")) for a in (ACCOUNT, quiet))
    assert left == right | {"secretKey": "apsecret"}


def test_it_posts_to_norsubmit_and_is_accepted() -> None:
    """The message group of the answer is what receipts will name."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(
            200, json={"msgGroup": "0906163415000000332084", "rspcod": "success", "success": True}
        )

    assert Accepted("0906163415000000332084") == submit(answer)
    assert [(r.method, str(r.url)) for r in seen] == [
        ("POST", "http://mas.test/sandbox/yunmas/sms/norsubmit")
    ]
    assert decoded(seen[0].content)["content"] == "好"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("IllegalMac", ErrorClass.AUTH),
        ("InvalidUsrOrPwd", ErrorClass.AUTH),
        ("IllegalSignId", ErrorClass.CONFIG),
        ("NoSignId", ErrorClass.CONFIG),
        ("TooManyMobiles", ErrorClass.CONFIG),
        ("InvalidMessage", ErrorClass.CONTENT_REJECTED),
        ("SomethingNew", ErrorClass.CONFIG),
    ],
)
def test_each_code_has_its_class(code: str, error: ErrorClass) -> None:
    """A clear no is a refusal; a code that nobody knows asks for a person."""
    outcome = read_answer(200, json.dumps({"msgGroup": "", "rspcod": code, "success": False}).encode())
    assert isinstance(outcome, Refused)
    assert (code, error, True) == (outcome.code, outcome.error, outcome.permanent)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (502, b'{"msgGroup":"1","rspcod":"success","success":true}'),
        (302, b""),
        (408, b""),
        (200, b""),
        (200, b"<html>"),
        (200, b"\xff"),
        (200, b"[" * 100_000),
        (200, b"[]"),
        (200, b'{"rspcod":1}'),
        (200, b'{"msgGroup":"","rspcod":"success","success":true}'),
        (200, b'{"msgGroup":7,"rspcod":"success","success":true}'),
        (200, b'{"msgGroup":"1","rspcod":"success","success":false}'),
        (200, b'{"msgGroup":"1","rspcod":"IllegalMac","success":true}'),
        (200, b'{"rspcod":"IllegalMac"}'),
        (200, b'{"msgGroup":"0906163415000000332084","rspcod":"SomethingNew","success":false}'),
        (200, b'{"msgGroup":7,"rspcod":"SomethingNew","success":false}'),
        (200, b'{"msgGroup":"","rspcod":"SomethingNew"}'),
    ],
)
def test_what_is_not_a_clear_answer_is_unknown(status: int, body: bytes) -> None:
    """Neither yes nor no: the message may be out, so it is never called refused or unsent."""
    assert isinstance(read_answer(status, body), Unknown)


@pytest.mark.parametrize(
    ("status", "error", "permanent"),
    [(404, ErrorClass.CONFIG, True), (403, ErrorClass.AUTH, True), (429, ErrorClass.RATE_LIMIT, False)],
)
def test_turned_away_at_the_door_is_refused(status: int, error: ErrorClass, permanent: bool) -> None:
    """A web server that never passed the message on gives a definite no."""
    outcome = read_answer(status, b"<html>")
    assert isinstance(outcome, Refused)
    assert (error, permanent) == (outcome.error, outcome.permanent)


def raising(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise error

    return answer


@pytest.mark.parametrize("error", [httpx.ConnectError(""), httpx.ConnectTimeout(""), httpx.PoolTimeout("")])
def test_no_connection_means_not_sent(error: Exception) -> None:
    """Before a connection exists no byte can have left."""
    assert isinstance(submit(raising(error)), NotSent)


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadTimeout(""),
        httpx.WriteTimeout(""),
        httpx.ReadError(""),
        httpx.RemoteProtocolError(""),
        TimeoutError(),
    ],
)
def test_a_line_that_breaks_later_means_unknown(error: Exception) -> None:
    """Once a byte may have left, nobody knows."""
    assert isinstance(submit(raising(error)), Unknown)


def test_the_call_has_an_end_also_where_the_transport_has_none() -> None:
    """In-process transports ignore httpx's time-outs; the carrier's own gives Unknown."""

    async def run() -> Submission:
        async def hang(_request: httpx.Request) -> httpx.Response:
            return await asyncio.Future[httpx.Response]()

        async with httpx.AsyncClient(transport=httpx.MockTransport(hang)) as client:
            return await YunMas(replace(ACCOUNT, timeout_s=0.01), client).submit("13800138000", "好")

    assert isinstance(asyncio.run(run()), Unknown)


@pytest.mark.parametrize(
    "mobile", ["", "13800138000,13800138001", "+8613800138000", "1380013800", "12800138000", "138001380００"]
)
def test_only_one_plain_number_goes_out(mobile: str) -> None:
    """A comma would make two recipients of one; nothing is sent for a wrong number."""
    outcome = submit(raising(AssertionError("sent")), mobile=mobile)
    assert isinstance(outcome, Refused)
    assert outcome.error == ErrorClass.RECIPIENT_INVALID
    assert mobile == "" or mobile not in str(outcome)


def test_half_a_character_is_refused_here() -> None:
    """A lone surrogate cannot be encoded and ends as a refusal, not as an exception."""
    outcome = submit(raising(AssertionError("sent")), text="坏\ud800")
    assert isinstance(outcome, Refused)
    assert outcome.error == ErrorClass.CONTENT_REJECTED


def test_the_secret_is_not_printed() -> None:
    """The printed account shows no key."""
    assert "apsecret" not in repr(ACCOUNT)


def test_a_report_becomes_a_receipt() -> None:
    """CM:0000 is delivered; the instant is Shanghai's; the number is there but not printed."""
    [receipt] = parse_report(json.dumps(REPORT).encode())
    assert (
        receipt.message_group,
        receipt.mobile,
        receipt.delivered,
        receipt.code,
    ) == ("0906163415000000332084", "13800138000", True, "CM:0000")
    assert datetime(2026, 2, 10, 8, 30, 6, tzinfo=ZONE) == receipt.received_at
    assert "13800138000" not in repr(receipt)


def test_any_other_status_is_not_delivered() -> None:
    """CM:2007 and its like are failures; a failed message may lack the handset's date."""
    [receipt] = parse_report(json.dumps(REPORT | {"reportStatus": "CM:2007", "receiveDate": ""}).encode())
    assert (receipt.delivered, receipt.code) == (False, "CM:2007")
    assert datetime(2026, 2, 10, 8, 30, 1, tzinfo=ZONE) == receipt.received_at


def test_reports_may_come_as_an_array() -> None:
    """Several at once, one, or none."""
    other = REPORT | {"mobile": "8613800138001"}
    assert [r.mobile for r in parse_report(json.dumps([REPORT, other]).encode())] == [
        "13800138000",
        "13800138001",
    ]
    assert parse_report(b"[]") == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"7",
        b"[7]",
        b"{}",
        *(
            json.dumps(REPORT | {name: value}).encode()
            for name in ("reportStatus", "mobile", "msgGroup", "receiveDate")
            for value in (7, "x" * 65, "坏\ud800", "a\x00b")
        ),
        *(json.dumps(REPORT | {"msgGroup": value}).encode() for value in ("", None)),
        json.dumps(REPORT | {"receiveDate": "20260230083006"}).encode(),
        json.dumps(REPORT | {"receiveDate": "2026-02-10 08:3"}).encode(),
        json.dumps(REPORT | {"receiveDate": "00010101000000"}).encode(),
        json.dumps(REPORT | {"receiveDate": "22010101000000"}).encode(),
        json.dumps([{}, 7]).encode(),
    ],
)
def test_what_is_no_report_is_named(body: bytes) -> None:
    """One named error, without the values."""
    with pytest.raises(ReceiptUnreadableError) as error:
        parse_report(body)
    assert "13800138000" not in str(error.value)


def test_an_unreadable_report_loses_no_neighbour() -> None:
    """Its error stands in its place."""
    first, error, last = parse_report(
        json.dumps([REPORT, REPORT | {"receiveDate": "00010101000000"}, REPORT]).encode()
    )
    assert first == last
    assert isinstance(first, Receipt)
    assert isinstance(error, ReceiptUnreadableError)
