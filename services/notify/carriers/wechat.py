"""A WeChat official account (服务号): template messages to its followers.

Its token comes from `stable_token`, which repeats the same one to every instance, so nothing has to be
shared between them. Source: developers.weixin.qq.com, 服务号, 模板消息 and 获取稳定版接口调用凭据.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from services.notify.carriers import (
    Accepted,
    ErrorClass,
    NotSent,
    Refused,
    Submission,
    Unknown,
)
from services.notify.carriers.yunmas import CONNECT_SHARE
from shared.clock import Clock

RENEW_BEFORE_S: Final = 300
"""So long before its end a token is looked up again; WeChat itself begins to give out the next one then."""

STALE_TOKEN: Final = frozenset({"40001", "40014", "42001"})
REPEATED_TOKEN_PAUSE_S: Final = 30
"""WeChat replaces a token by force at most once in so many seconds (and 20 times a day)."""

REFUSALS: Final[Mapping[str, tuple[ErrorClass, str]]] = {
    "-1": (ErrorClass.TRANSIENT, "WeChat is busy: the same message may be tried later"),
    "40001": (
        ErrorClass.AUTH,
        "wrong secret, or a token that a fresh one did not mend: check AppID and secret",
    ),
    "40014": (ErrorClass.AUTH, "a token that a fresh one did not mend: check AppID and secret"),
    "42001": (ErrorClass.AUTH, "an expired token that a fresh one did not mend: check AppID and secret"),
    "40013": (ErrorClass.AUTH, "unknown AppID"),
    "40125": (ErrorClass.AUTH, "wrong secret of the account"),
    "40003": (ErrorClass.RECIPIENT_INVALID, "no openid of this account"),
    "43004": (ErrorClass.RECIPIENT_REFUSED, "does not follow the account"),
    "43019": (ErrorClass.RECIPIENT_REFUSED, "is on the account's blacklist"),
    "43101": (ErrorClass.RECIPIENT_REFUSED, "refuses this kind of message"),
    "45009": (ErrorClass.QUOTA_OR_BALANCE, "the day's calls are used up"),
    "45011": (ErrorClass.RATE_LIMIT, "too many calls within a minute"),
    "40037": (ErrorClass.CONFIG, "the account has no template with this id"),
    "41030": (ErrorClass.CONFIG, "the page of the mini program does not exist"),
    "47003": (ErrorClass.CONTENT_REJECTED, "a field is empty, too long or of the wrong kind"),
    "48001": (ErrorClass.CONFIG, "the account may not use template messages: apply for the right"),
    "40164": (ErrorClass.CONFIG, "our address is not on the account's IP allow-list: add it there"),
}
"""The errcode values other than 0 that a submission can meet, by what they ask of us."""

_CHINESE: Final = r"[\u3400-\u4dbf\u4e00-\u9fff·]"
_DAY: Final = r"(?:[0-9]{4}年[0-9]{1,2}月[0-9]{1,2}日|[0-9]{4}-[0-9]{2}-[0-9]{2})"
_HOUR: Final = r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?"

FIELD_KINDS: Final[Mapping[str, str]] = {
    "thing": r"(?s).{1,20}",
    "character_string": r"[!-~](?:[ -~]{0,30}[!-~])?",
    "number": r"(?=.{1,32}$)-?[0-9]+(?:\.[0-9]+)?",
    "letter": r"[A-Za-z]{1,32}",
    "phrase": rf"{_CHINESE}{{1,5}}",
    "name": rf"{_CHINESE}{{1,10}}|[A-Za-z][A-Za-z .]{{0,19}}",
    "date": rf"{_DAY}(?: {_HOUR})?",
    "time": rf"(?:{_DAY} ?)?{_HOUR}|{_DAY}",
    "amount": r"[¥$€£]?[0-9]{1,10}(?:\.[0-9]{1,2})?元?",
    "phone_number": r"[0-9+\-() ]{1,17}",
    "car_number": r"\S{1,8}",
    "const": r"(?s).{1,20}",
}
"""What a value of each kind looks like. A field's name is its kind and a number, like thing1 or date3."""

_OPENID: Final = re.compile(r"[A-Za-z0-9_-]{20,64}")


@dataclass(frozen=True)
class WechatAccount:
    """One official account. `base_url` ends before `/cgi-bin`. `timeout_s` bounds one whole call, in wall seconds."""

    base_url: str
    app_id: str
    secret: str = field(repr=False)
    timeout_s: float = 5.0


@dataclass(frozen=True)
class TemplateMessage:
    """One message: the template's id and a value for each of its fields.

    `url` is what a tap opens, "" for nothing. WeChat sends one of several messages with the same `client_msg_id`
    (≤ 32 characters) to the same openid within 10 minutes.
    """

    template_id: str
    fields: Mapping[str, str]
    client_msg_id: str
    url: str = ""


def fault_of_field(name: str, value: str) -> str | None:
    """What is wrong with a field, in words without the value; None when WeChat will take it."""
    kind = FIELD_KINDS.get(re.sub(r"[0-9]+$", "", name))
    if kind is None:
        return f"{name}: no kind of field that WeChat knows"
    if not value.strip():
        return f"{name}: empty"
    if not re.fullmatch(kind, value):
        return f"{name}: too long, or not of its kind"
    return None


def submission_body(openid: str, message: TemplateMessage) -> bytes:
    """The JSON of a submission. A lone surrogate raises UnicodeEncodeError."""
    fields = {
        "touser": openid,
        "template_id": message.template_id,
        "client_msg_id": message.client_msg_id,
        "data": {name: {"value": value} for name, value in message.fields.items()},
    }
    if message.url:
        fields["url"] = message.url
    return json.dumps(fields, ensure_ascii=False).encode()


def read_answer(status: int, body: bytes) -> Submission:
    """What WeChat's answer means. Whatever is not clearly a yes or a no is unknown."""
    answer = _answer(status, body)
    if isinstance(answer, Unknown):
        return answer
    code, group = answer["errcode"], answer.get("msgid")
    if code != 0:
        return _refused(str(code))
    if not re.fullmatch(r"[0-9]{1,20}", str(group)):
        return Unknown("accepted without a msgid")
    return Accepted(str(group))


def _answer(status: int, body: bytes) -> dict[str, Any] | Unknown:
    """The JSON object of an answer, its `errcode` a whole number."""
    if status != httpx.codes.OK:
        return Unknown(f"http status {status}")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return Unknown("answer is not JSON")
    if not isinstance(answer, dict):
        return Unknown("answer is no JSON object")
    # an answer with a token has no errcode
    answer.setdefault("errcode", 0 if "access_token" in answer else None)
    return answer if type(answer["errcode"]) is int else Unknown("answer has no errcode")


def _refused(code: str) -> Refused:
    return Refused(
        code, *REFUSALS.get(code, (ErrorClass.CONFIG, "a code that is not known here: look it up"))
    )


class Wechat:
    """The carrier. The client is the caller's: pooled, verified certificates, no redirects, no retries.

    Its receipts name msgid and openid, never our own number, so a submission of unknown outcome is told from
    others by its openid alone.
    """

    def __init__(self, account: WechatAccount, client: httpx.AsyncClient, clock: Clock) -> None:
        self._account = account
        self._client = client
        self._clock = clock
        self._url = account.base_url.rstrip("/") + "/cgi-bin"
        self._token = ""
        self._fresh_until = 0.0
        self._forced_at: float | None = None
        self._looking = asyncio.Lock()

    async def submit(self, openid: str, message: TemplateMessage) -> Submission:
        """Hands over one message to one follower. Never raises for what the network does."""
        if not _OPENID.fullmatch(openid):
            return Refused("openid", ErrorClass.RECIPIENT_INVALID, "not an openid")
        faults = [fault for name, value in message.fields.items() if (fault := fault_of_field(name, value))]
        if faults or not message.fields:
            return Refused("field", ErrorClass.CONTENT_REJECTED, "; ".join(faults) or "no field at all")
        try:
            body = submission_body(openid, message)
        except UnicodeEncodeError:
            return Refused("encoding", ErrorClass.CONTENT_REJECTED, "a field holds half a character")
        begun = self._clock.monotonic()
        outcome, used = await self._once(body, begun, stale="")
        if isinstance(outcome, Refused) and outcome.code in STALE_TOKEN and used:
            outcome, _ = await self._once(body, begun, stale=used)
        return outcome

    async def _once(self, body: bytes, begun: float, *, stale: str) -> tuple[Submission, str]:
        """One try, and the token it was made with, "" when it came to none."""
        token = await self._look_up(begun, stale)
        if not isinstance(token, str):
            return token, ""
        left = self._left(begun)
        if left <= 0:
            return NotSent("no time left after looking for a token"), ""
        address = f"{self._url}/message/template/send"
        answer = await self._post(address, body, connect=left, whole=left / CONNECT_SHARE, token=token)
        if isinstance(answer, httpx.Response):
            return read_answer(answer.status_code, answer.content), token
        return answer, token

    def _left(self, begun: float) -> float:
        """The seconds within which a message still has to begin to leave, its token included."""
        return CONNECT_SHARE * self._account.timeout_s - (self._clock.monotonic() - begun)

    async def _look_up(self, begun: float, stale: str) -> str | Submission:
        """The token that is in force, not `stale`; or why there is none."""
        async with self._looking:  # many messages at once ask once
            if self._token and self._token != stale and self._clock.monotonic() < self._fresh_until:
                return self._token
            found = await self._ask(begun, force=False)
            if found == stale and self._may_force():
                # WeChat takes its own repeated token for bad: only then, and rarely, is one replaced by force
                self._forced_at = self._clock.monotonic()
                found = await self._ask(begun, force=True)
            return found

    def _may_force(self) -> bool:
        now = self._clock.monotonic()
        return self._forced_at is None or now - self._forced_at >= REPEATED_TOKEN_PAUSE_S

    async def _ask(self, begun: float, *, force: bool) -> str | Submission:
        fields = {
            "grant_type": "client_credential",
            "appid": self._account.app_id,
            "secret": self._account.secret,
            "force_refresh": force,
        }
        left = max(self._left(begun), 0)
        answer = await self._post(
            f"{self._url}/stable_token", json.dumps(fields).encode(), connect=left, whole=left
        )
        found = _answer(answer.status_code, answer.content) if isinstance(answer, httpx.Response) else answer
        if isinstance(found, Unknown):
            # whatever happened to the question for a token, the message itself has not left
            return NotSent(f"no token: {found.why}")
        if not isinstance(found, dict):
            return found
        if found["errcode"] != 0:
            return _refused(str(found["errcode"]))
        token, lasts = found.get("access_token"), found.get("expires_in")
        if not isinstance(token, str) or not token or not isinstance(lasts, int):
            return NotSent("no token: the answer lacks it")
        self._token, self._fresh_until = token, self._clock.monotonic() + lasts - RENEW_BEFORE_S
        return token

    async def _post(
        self, address: str, body: bytes, *, connect: float, whole: float, token: str | None = None
    ) -> httpx.Response | NotSent | Unknown:
        try:
            # around httpx's own time-outs, because an in-process transport has none
            async with asyncio.timeout(whole):
                return await self._client.post(
                    address,
                    params={"access_token": token} if token else None,
                    content=body,
                    headers={"content-type": "application/json"},
                    timeout=httpx.Timeout(whole, connect=connect, pool=connect),
                    follow_redirects=False,
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
