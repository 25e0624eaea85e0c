"""A WeChat official account: its tokens, its judgement of a message, its followers, its calls to us."""

import hashlib
import json
import re
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import Any, Final, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from services.notify.carriers.wechat import fault_of_field
from services.notify.carriers.wechat_crypt import (
    FINISHED_WELL,
    USER_BLOCKED,
    CallbackKeys,
    seal,
    signature,
    xml_of,
)
from services.notify.sandbox.ledger import Entry, business, wall
from services.notify.sandbox.script import OPENID, Answer, Rule, scripted
from services.notify.sandbox.settings import SandboxSettings

LIVES: Final = timedelta(seconds=7200)
RENEWED_BEFORE: Final = timedelta(minutes=5)
FORCED_APART: Final = timedelta(seconds=30)
FORCED_A_DAY: Final = 20
REPEATS_WITHIN: Final = timedelta(minutes=10)
FIRST_MSGID: Final = 2_000_000_000

ERRMSG: Final = {
    "-1": "system error",
    "40001": "invalid credential, access_token is invalid or not latest",
    "40003": "invalid openid",
    "40013": "invalid appid",
    "40014": "invalid access_token",
    "40037": "invalid template_id",
    "40125": "invalid appsecret",
    "40164": "invalid ip, not in whitelist",
    "41001": "access_token missing",
    "41030": "invalid page",
    "42001": "access_token expired",
    "43004": "require subscribe",
    "43019": "require remove blacklist",
    "43101": "user refuse to accept the msg",
    "45009": "reach max api daily quota limit",
    "45011": "api minute-quota reach limit",
    "47001": "data format error",
    "47003": "argument invalid",
    "48001": "api unauthorized",
}


class TokenQuestion(BaseModel):
    """The body of stable_token."""

    model_config = ConfigDict(strict=True, frozen=True)

    grant_type: str
    appid: str
    secret: str
    force_refresh: bool = False


class Value(BaseModel):
    """The value of one field."""

    model_config = ConfigDict(strict=True, frozen=True)

    value: str


class Submitted(BaseModel):
    """The body of a template message."""

    model_config = ConfigDict(strict=True, frozen=True)

    touser: str
    template_id: str
    url: str = ""
    client_msg_id: str = Field(default="", max_length=32)
    data: dict[str, Value]

    @property
    def content(self) -> str:
        """What the ledger keeps."""
        data = {name: field.value for name, field in self.data.items()}
        kept = {"template_id": self.template_id, "url": self.url, "data": data}
        return json.dumps(kept, ensure_ascii=False)

    @classmethod
    def read(cls, body: bytes) -> Self | None:
        """The message in a raw body; None when it is not one."""
        try:
            return cls.model_validate_json(body)
        except ValidationError:
            return None


@dataclass(frozen=True)
class Account:
    """The official account that is played, all of its settings there."""

    secret: SecretStr
    callback_url: SecretStr
    keys: CallbackKeys
    templates: tuple[str, ...]
    receipt_delay: timedelta

    @classmethod
    def of(cls, settings: SandboxSettings) -> Self | None:
        """The account of the settings; None when they have none. Raises ValueError for a malformed key."""
        secret, token = settings.wechat_secret, settings.wechat_token
        aes_key, url = settings.wechat_aes_key, settings.wechat_callback_url
        if secret is None or token is None or aes_key is None or url is None:
            return None
        keys = CallbackKeys.read(settings.wechat_app_id, token.get_secret_value(), aes_key.get_secret_value())
        delay = timedelta(seconds=settings.receipt_delay_s)
        return cls(secret, url, keys, settings.wechat_templates, delay)

    def give_token(self, db: sqlite3.Connection, body: bytes, at: datetime) -> str:
        """Answers stable_token: the token in force, or the next one near its end, or a new one by force."""
        try:
            asked = TokenQuestion.model_validate_json(body)
        except ValidationError:
            return _error("47001")
        if asked.appid != self.keys.app_id:
            return _error("40013")
        if not compare_digest(asked.secret.encode(), self.secret.get_secret_value().encode()):
            return _error("40125")
        if asked.force_refresh:
            return _refuse_force(db, at) or self._new_token(db, at, forced=True)
        last = db.execute("SELECT * FROM tokens WHERE NOT revoked ORDER BY seq DESC LIMIT 1").fetchone()
        left = datetime.fromisoformat(last["expires_wall"]) - at if last else timedelta()
        if left > RENEWED_BEFORE:
            return _token(last["token"], left)
        return self._new_token(db, at, forced=False)

    def _new_token(self, db: sqlite3.Connection, at: datetime, *, forced: bool) -> str:
        if forced:
            db.execute("UPDATE tokens SET revoked = 1")
        number = db.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM tokens").fetchone()[0]
        token = self._secret_bytes("token", number, wall(at)).hex() * 2
        db.execute(
            "INSERT INTO tokens (token, forced, issued_wall, expires_wall) VALUES (?, ?, ?, ?)",
            (token, forced, wall(at), wall(at + LIVES)),
        )
        return _token(token, LIVES)

    def take(
        self, db: sqlite3.Connection, token: str, body: bytes, now: datetime, at_wall: datetime
    ) -> Answer:
        """Judges one message and writes its row."""
        s = Submitted.read(body)
        entry = Entry(
            business(now), wall(at_wall), "wechat", s.touser if s else "", s.content if s else "", ""
        )
        code, why = self._fault(db, token, s, at_wall)
        if s is None or code:
            return _refuse(db, entry, code, why)
        if (sent := _sent_before(db, s, now)) is not None:
            return Answer(_accepted(sent))
        rule = scripted(db, "wechat", s.touser, s.content)
        if rule and rule.action == "refuse":
            return _refuse(db, replace(entry, action="refuse"), rule.code or "43101")
        next_seq = db.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM messages").fetchone()[0]
        group = str(FIRST_MSGID + next_seq)
        drop = rule is not None and rule.action == "accept_and_drop"
        response = "" if drop else _accepted(group)
        row = replace(entry, msg_group=group, response=response, client_msg_id=s.client_msg_id)
        _coming(row, rule, now + self.receipt_delay).write(db)
        return Answer(response, (rule.seconds or 0) if rule else 0, drop)

    def _fault(
        self, db: sqlite3.Connection, token: str, s: Submitted | None, at: datetime
    ) -> tuple[str, str]:
        """The errcode of what is wrong with a message, and more about it; "" when it is in order."""
        known = db.execute("SELECT * FROM tokens WHERE token = ?", (token,)).fetchone()
        faults = [fault for n, v in s.data.items() if (fault := fault_of_field(n, v.value))] if s else []
        checks = (
            (not token, "41001"),
            (known is None or known["revoked"], "40001"),
            (known is not None and known["expires_wall"] <= wall(at), "42001"),
            (s is None, "47001"),
            (s is not None and not re.fullmatch(OPENID, s.touser), "40003"),
            (s is not None and self.templates and s.template_id not in self.templates, "40037"),
            (s is not None and (faults or not s.data), "47003"),
            (s is not None and not follows(db, s.touser), "43004"),
        )
        code = next((code for wrong, code in checks if wrong), "")
        return code, "; ".join(faults) if code == "47003" else ""

    async def push(self, client: httpx.AsyncClient, row: sqlite3.Row, at: datetime) -> str:
        """Calls back with a receipt or a change of a follower; returns why it was not taken, "" when it was."""
        timestamp, nonce = str(int(at.timestamp())), f"{row['seq']}{row['pushes']:04d}"
        salt = self._secret_bytes("salt", *row, timestamp)[:16]
        sealed = seal(self.keys, _event(row), salt=salt)
        answer = await client.post(
            self.callback_url.get_secret_value(),
            params={
                "signature": signature(self.keys.token, timestamp, nonce),
                "timestamp": timestamp,
                "nonce": nonce,
                "openid": row["recipient"],
                "encrypt_type": "aes",
                "msg_signature": signature(self.keys.token, timestamp, nonce, sealed),
            },
            content=xml_of(ToUserName="gh_sandbox", Encrypt=sealed),
            headers={"content-type": "text/xml"},
        )
        if not answer.is_success:
            return f"status {answer.status_code}"
        return "" if answer.content.strip() == b"success" else "not answered success"

    def _secret_bytes(self, *parts: object) -> bytes:
        """32 bytes that nobody can tell beforehand who does not know the account."""
        return hashlib.sha256(repr((self.secret.get_secret_value(), parts)).encode()).digest()


FOLLOWERS: Final = (
    "SELECT recipient FROM follows WHERE event = 'subscribe'"
    " AND seq IN (SELECT MAX(seq) FROM follows GROUP BY recipient) ORDER BY recipient"
)
"""Who follows now."""


def follows(db: sqlite3.Connection, openid: str) -> bool:
    """Whether an openid follows the account now."""
    row = db.execute(
        "SELECT event FROM follows WHERE recipient = ? ORDER BY seq DESC LIMIT 1", (openid,)
    ).fetchone()
    return row is not None and row["event"] == "subscribe"


def put_followers(db: sqlite3.Connection, openids: Collection[str], now: datetime, at_wall: datetime) -> None:
    """From now on these follow and no others; each change is an event that is pushed."""
    leaving = {row[0] for row in db.execute(FOLLOWERS)} - set(openids)
    add_followers(db, openids, now, at_wall)
    _change(db, leaving, "unsubscribe", now, at_wall)


def add_followers(db: sqlite3.Connection, openids: Collection[str], now: datetime, at_wall: datetime) -> None:
    """From now on these follow as well; each change is an event that is pushed."""
    before = {row[0] for row in db.execute(FOLLOWERS)}
    _change(db, set(openids) - before, "subscribe", now, at_wall)


def _change(
    db: sqlite3.Connection, openids: Collection[str], event: str, now: datetime, at_wall: datetime
) -> None:
    db.executemany(
        "INSERT INTO follows (recipient, event, receipt_due, next_push_wall) VALUES (?, ?, ?, ?)",
        [(openid, event, business(now), wall(at_wall)) for openid in sorted(openids)],
    )


def _refuse_force(db: sqlite3.Connection, at: datetime) -> str | None:
    """Why no token is replaced by force now: too soon after the last time, or too often this day."""
    forced = db.execute(
        "SELECT issued_wall FROM tokens WHERE forced AND issued_wall > ? ORDER BY seq DESC",
        (wall(at - timedelta(days=1)),),
    ).fetchall()
    if forced and forced[0]["issued_wall"] > wall(at - FORCED_APART):
        return _error("45011")
    return _error("45009") if len(forced) >= FORCED_A_DAY else None


def _sent_before(db: sqlite3.Connection, s: Submitted, now: datetime) -> str | None:
    """The msgid under which the same message went to the same openid a moment ago."""
    if not s.client_msg_id:
        return None
    row = db.execute(
        "SELECT msg_group FROM messages WHERE client_msg_id = ? AND client_msg_id <> '' AND recipient = ?"
        " AND verdict = 'accepted' AND received_at > ?",
        (s.client_msg_id, s.touser, business(now - REPEATS_WITHIN)),
    ).fetchone()
    return row["msg_group"] if row else None


def _coming(row: Entry, rule: Rule | None, due: datetime) -> Entry:
    """The row of an accepted message with the receipt that it will have."""
    if rule is None:
        return replace(
            row, receipt="pending", report_status=FINISHED_WELL, receipt_due=business(due), copies=1
        )
    row = replace(row, action=rule.action)
    if rule.action == "silent":
        return row
    return replace(
        row,
        receipt="pending",
        report_status=(rule.code or USER_BLOCKED) if rule.action == "fail" else FINISHED_WELL,
        receipt_due=business(due),
        copies=2 if rule.action == "duplicate_receipt" else 1,
    )


def _refuse(db: sqlite3.Connection, entry: Entry, code: str, why: str = "") -> Answer:
    """Writes one row for a message that nobody receives, and answers with the code."""
    response = _error(code, why)
    replace(entry, verdict="refused", response=response).write(db)
    return Answer(response)


def _event(row: sqlite3.Row) -> bytes:
    """The XML of a call before it is sealed; the same each time."""
    more: dict[str, Any]
    if "event" in row.keys():  # noqa: SIM118 - a Row contains values, not names
        more = {"Event": row["event"], "EventKey": ""}
    else:
        more = {
            "Event": "TEMPLATESENDJOBFINISH",
            "MsgID": row["msg_group"],
            "Status": row["report_status"],
        }
    made = int(datetime.fromisoformat(row["receipt_due"]).timestamp())
    return xml_of(
        ToUserName="gh_sandbox", FromUserName=row["recipient"], CreateTime=str(made), MsgType="event", **more
    )


def _error(code: str, why: str = "") -> str:
    message = f"{ERRMSG[code]}! {why}" if why else ERRMSG[code]
    return json.dumps({"errcode": int(code), "errmsg": message})


def _accepted(group: str) -> str:
    return json.dumps({"errcode": 0, "errmsg": "ok", "msgid": int(group)})


def _token(token: str, left: timedelta) -> str:
    return json.dumps({"access_token": token, "expires_in": int(left.total_seconds())})
