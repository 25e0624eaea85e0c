"""云MAS: its judgement of a submission, its receipts."""

import base64
import binascii
import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from services.notify.carriers.yunmas import DELIVERED, MOST_MOBILES, STAMP, mac
from services.notify.sandbox.ledger import Entry, business, wall
from services.notify.sandbox.script import Answer, scripted
from services.notify.sandbox.settings import SandboxSettings
from shared.clock import ZONE


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


def take(
    db: sqlite3.Connection, settings: SandboxSettings, body: bytes, now: datetime, at_wall: datetime
) -> Answer:
    """Judges one submission and writes its rows."""
    s = Submitted.read(body)
    # one row even for 5,001 numbers: the first stands for all
    entry = Entry(
        business(now), wall(at_wall), "sms", s.mobiles.split(",")[0] if s else "", s.content if s else "", ""
    )
    entry = replace(entry, sign=s.sign if s else "")
    code = _fault(settings, s)
    if s is None or code is not None:
        return _refuse(db, entry, code or "InvalidMessage")
    mobiles = s.mobiles.split(",")
    rules = [scripted(db, "sms", mobile, s.content) for mobile in mobiles]
    whole = next((r for r in rules if r and r.action in ("refuse", "slow", "accept_and_drop")), None)
    if whole and whole.action == "refuse":
        return _refuse(db, replace(entry, action="refuse"), whole.code or "InvalidMessage")
    next_seq = db.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM messages").fetchone()[0]
    # the carrier's own form: month to second, then a running number, so that a group never comes back
    group = f"{now.astimezone(ZONE):%m%d%H%M%S}{next_seq:012d}"
    drop = whole is not None and whole.action == "accept_and_drop"
    response = "" if drop else _response("success", group)
    due = now + timedelta(seconds=settings.receipt_delay_s)
    for mobile, own in zip(mobiles, rules, strict=True):
        action = own.action if own else whole.action if whole else ""
        row = replace(entry, recipient=mobile, msg_group=group, action=action, response=response)
        _coming(row, own.code if own else None, due).write(db)
    return Answer(response, (whole.seconds or 0) if whole else 0, drop)


async def push(client: httpx.AsyncClient, settings: SandboxSettings, row: sqlite3.Row) -> str:
    """Pushes a receipt; returns why it was not taken, "" when it was."""
    answer = await client.post(settings.callback_url.get_secret_value(), json=_report(row))
    return "" if answer.is_success else f"status {answer.status_code}"


def _fault(account: SandboxSettings, s: Submitted | None) -> str | None:  # noqa: PLR0911 - one per code
    """The rspcod of what is wrong with a submission; None when it is in order."""
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


def _coming(row: Entry, code: str | None, due: datetime) -> Entry:
    """The row of an accepted message with the receipt that it will have."""
    if row.action == "silent":
        return row
    failing = row.action == "fail"
    return replace(
        row,
        receipt="pending",
        report_status=(code or "CM:2007") if failing else DELIVERED,
        error_code="UNDELIV" if failing else "DELIVRD",
        receipt_due=business(due),
        copies=2 if row.action == "duplicate_receipt" else 1,
    )


def _refuse(db: sqlite3.Connection, entry: Entry, code: str) -> Answer:
    """Writes one row for a submission that nobody receives, and answers with the code."""
    response = _response(code, "")
    replace(entry, verdict="refused", response=response).write(db)
    return Answer(response)


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


def _same(left: str, right: str) -> bool:
    return compare_digest(left.encode(), right.encode())
