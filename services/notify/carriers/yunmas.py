"""中国移动 云MAS over HTTP, ordinary submission (norsubmit): the default SMS carrier.

The plain HTTP line carries the secret in clear: use it over a dedicated line only. On HTTPS the
certificate is verified, whatever the vendor's manual says; a private one goes into the client's context.
"""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import httpx

from services.notify.carriers import (
    Accepted,
    ErrorClass,
    NotSent,
    Receipt,
    ReceiptUnreadableError,
    Refused,
    Submission,
    Unknown,
)
from shared.clock import ZONE

MOST_MOBILES: Final = 5000
DELIVERED: Final = "CM:0000"
STAMP: Final = "%Y%m%d%H%M%S"
YEARS: Final = range(2000, 2201)
"""Years that a report may name."""
CONNECT_SHARE: Final = 0.6
"""Connecting ends so far into the time-out of the whole call: a line that never came up is provably unsent."""

REFUSALS: Final[Mapping[str, tuple[ErrorClass, str]]] = {
    "IllegalMac": (ErrorClass.AUTH, "the signature is wrong: check the secret key"),
    "InvalidUsrOrPwd": (ErrorClass.AUTH, "unknown account: check ecName, apId and the secret key"),
    "IllegalSignId": (ErrorClass.CONFIG, "the code of the signature is not valid for this account"),
    "NoSignId": (ErrorClass.CONFIG, "no signature belongs to the code that was sent"),
    "TooManyMobiles": (ErrorClass.CONFIG, f"more than {MOST_MOBILES} numbers in one submission"),
    "InvalidMessage": (ErrorClass.CONTENT_REJECTED, "the carrier could not read the submission"),
}
"""The rspcod values other than `success`. Source: interface description of 云MAS, HTTP."""

# Answers given by a web server in front of the carrier before the carrier saw anything.
_TURNED_AWAY: Final = {
    401: ErrorClass.AUTH,
    403: ErrorClass.AUTH,
    404: ErrorClass.CONFIG,
    405: ErrorClass.CONFIG,
    413: ErrorClass.CONFIG,
    429: ErrorClass.RATE_LIMIT,
}
_MOBILE: Final = re.compile(r"1[3-9][0-9]{9}")
_REPORTED_MOBILE: Final = re.compile(r"(?:\+?86)?(1[0-9]{10})")
_NAME: Final = re.compile(r"[!-~]{1,64}")


@dataclass(frozen=True)
class YunMasAccount:
    """One account with 云MAS.

    `base_url` ends before `/sms/norsubmit`. `sign` is the code of the signature, not its text.
    `secret_in_body`: known clients send the key beside the signature, though the manual's table omits it.
    `timeout_s` bounds the whole call, in wall seconds.
    """

    base_url: str
    ec_name: str
    ap_id: str
    secret_key: str = field(repr=False)
    sign: str
    add_serial: str = ""
    secret_in_body: bool = True
    timeout_s: float = 5.0


def mac(  # noqa: PLR0917 - the order of the seven is the protocol
    ec_name: str, ap_id: str, secret_key: str, mobiles: str, content: str, sign: str, add_serial: str
) -> str:
    """The signature of an ordinary submission: lower-case MD5 of the seven values written together."""
    plain = ec_name + ap_id + secret_key + mobiles + content + sign + add_serial
    return hashlib.md5(plain.encode(), usedforsecurity=False).hexdigest()


def submission_body(account: YunMasAccount, mobile: str, text: str) -> bytes:
    """The raw POST body: Base64 of the UTF-8 JSON. A lone surrogate raises UnicodeEncodeError."""
    fields = {
        "ecName": account.ec_name,
        "apId": account.ap_id,
        "mobiles": mobile,
        "content": text,
        "sign": account.sign,
        "addSerial": account.add_serial,
        "mac": mac(
            account.ec_name, account.ap_id, account.secret_key, mobile, text, account.sign, account.add_serial
        ),
    }
    if account.secret_in_body:
        fields["secretKey"] = account.secret_key
    return base64.b64encode(json.dumps(fields, ensure_ascii=False).encode())


def read_answer(status: int, body: bytes) -> Submission:  # noqa: PLR0911 - a row of a table each
    """What the carrier's answer means. Whatever is not clearly a yes or a no is unknown."""
    if status in _TURNED_AWAY:
        return Refused(f"http_{status}", _TURNED_AWAY[status], "turned away: check address and account")
    if status != httpx.codes.OK:
        return Unknown(f"http status {status}")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return Unknown("answer is not JSON")
    if not isinstance(answer, dict) or not isinstance(code := answer.get("rspcod"), str):
        return Unknown("answer has no rspcod")
    group, success = answer.get("msgGroup"), answer.get("success")
    if code == "success" and success is True and isinstance(group, str) and _NAME.fullmatch(group):
        return Accepted(group)
    if success is False and code in REFUSALS:
        return Refused(code, *REFUSALS[code])
    # A group is the carrier's name for a message that it has: with one, a code nobody knows is no clear no.
    if success is False and code != "success" and not group and _NAME.fullmatch(code):
        return Refused(code, ErrorClass.CONFIG, "a code that the manual does not list")
    return Unknown("answer contradicts itself")


class YunMas:
    """A `Carrier`. The client is the caller's: pooled, verified certificates, no redirects, no retries."""

    def __init__(self, account: YunMasAccount, client: httpx.AsyncClient) -> None:
        self._account = account
        self._client = client
        self._url = account.base_url.rstrip("/") + "/sms/norsubmit"
        early = account.timeout_s * CONNECT_SHARE
        self._timeout = httpx.Timeout(account.timeout_s, connect=early, pool=early)

    async def submit(self, mobile: str, text: str) -> Submission:
        """Hands over one text to one mobile; see `Carrier`."""
        # a comma would make two recipients of one, so the form is checked here and not left to the carrier
        if not _MOBILE.fullmatch(mobile):
            return Refused("mobile", ErrorClass.RECIPIENT_INVALID, "not one mobile number of 11 digits")
        try:
            body = submission_body(self._account, mobile, text)
        except UnicodeEncodeError:
            return Refused("encoding", ErrorClass.CONTENT_REJECTED, "the text holds half a character")
        return await self._post(body)

    async def _post(self, body: bytes) -> Submission:
        try:
            # around httpx's own time-outs, because an in-process transport has none
            async with asyncio.timeout(self._account.timeout_s):
                answer = await self._client.post(
                    self._url, content=body, timeout=self._timeout, follow_redirects=False
                )
        except (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.PoolTimeout,
            httpx.UnsupportedProtocol,
            httpx.InvalidURL,
        ) as error:
            return NotSent(type(error).__name__)
        except (httpx.HTTPError, TimeoutError) as error:
            return Unknown(type(error).__name__)
        return read_answer(answer.status_code, answer.content)


def parse_report(body: bytes) -> list[Receipt | ReceiptUnreadableError]:
    """The receipts in one pushed report, a JSON object or an array of them; for an unreadable one its error.

    Raises `ReceiptUnreadableError` when there is none that can be read, unless the array is empty.
    """
    try:
        pushed = json.loads(body)
    except (ValueError, RecursionError):
        raise ReceiptUnreadableError("the report is not JSON") from None
    found = [_receipt_or_error(one) for one in (pushed if isinstance(pushed, list) else [pushed])]
    errors = [one for one in found if isinstance(one, ReceiptUnreadableError)]
    if errors and len(errors) == len(found):
        raise errors[0]
    return found


def _receipt_or_error(report: Any) -> Receipt | ReceiptUnreadableError:
    try:
        return _receipt(report)
    except ReceiptUnreadableError as error:
        return error


def _receipt(report: Any) -> Receipt:
    if not isinstance(report, dict):
        raise ReceiptUnreadableError("a report is not a JSON object")
    status = _text(report, "reportStatus")
    mobile = _REPORTED_MOBILE.fullmatch(_text(report, "mobile"))
    if mobile is None:
        raise ReceiptUnreadableError("mobile: not a mainland number")
    return Receipt(
        message_group=_text(report, "msgGroup"),
        mobile=mobile[1],
        delivered=status == DELIVERED,
        code=status,
        received_at=_instant(report),
    )


def _text(report: Mapping[str, Any], name: str) -> str:
    value = report.get(name)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ReceiptUnreadableError(f"{name}: missing, or not 1 to 64 printable ASCII characters")
    return value


def _instant(report: Mapping[str, Any]) -> datetime:
    # a message that failed inside the network may lack the handset's date
    name = "receiveDate" if report.get("receiveDate") else "submitDate"
    value = _text(report, name)
    if not re.fullmatch(r"[0-9]{14}", value):
        raise ReceiptUnreadableError(f"{name}: not yyyyMMddHHmmss")
    try:
        instant = datetime.strptime(value, STAMP).replace(tzinfo=ZONE)
    except ValueError:
        raise ReceiptUnreadableError(f"{name}: no such instant") from None
    if instant.year not in YEARS:
        raise ReceiptUnreadableError(f"{name}: not from {YEARS[0]} to {YEARS[-1]}")
    return instant
