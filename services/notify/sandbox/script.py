"""The script: which messages fare otherwise than well, and how."""

import re
import sqlite3
from dataclasses import dataclass
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from services.notify.carriers import wechat, wechat_crypt, yunmas
from shared.http import Body, refuse

Channel = Literal["sms", "wechat"]
Action = Literal["refuse", "fail", "silent", "slow", "duplicate_receipt", "accept_and_drop"]

OPENID: Final = r"^o[A-Za-z0-9_-]{27}$"
"""What an openid of the sandbox looks like."""


class Match(Body):
    """Which messages a rule is about: all that is given must fit.

    A number means SMS, an openid WeChat. `count`: the rule begins with the count-th message that fits since
    the script was put.
    """

    channel: Channel | None = None
    mobile: str | None = Field(default=None, pattern=r"^1[0-9]{10}$")
    mobile_ends: str | None = Field(default=None, pattern=r"^[0-9]{1,4}$")
    openid: str | None = Field(default=None, pattern=OPENID)
    content: str | None = Field(default=None, min_length=1, max_length=500)
    count: int = Field(default=1, ge=1)

    def channels(self) -> set[Channel]:
        """The channels on which a message can fit."""
        found: set[Channel] = {"sms", "wechat"} if self.channel is None else {self.channel}
        if self.mobile is not None or self.mobile_ends is not None:
            found.discard("wechat")
        if self.openid is not None:
            found.discard("sms")
        return found

    def fits(self, channel: Channel, recipient: str, content: str) -> bool:
        """Whether a message is one of those, the count aside."""
        return (
            channel in self.channels()
            and recipient == (self.mobile or self.openid or recipient)
            and (self.mobile_ends is None or recipient.endswith(self.mobile_ends))
            and (self.content is None or self.content in content)
        )


class Rule(Body):
    """One line of the script. The first rule that fits a message decides; `times` limits how often.

    refuse: answered with `code`, an rspcod of 云MAS or an errcode of WeChat. fail: taken, its receipt says
    `code`. silent: taken, no receipt ever. slow: taken at once, answered after `seconds` of wall time.
    duplicate_receipt: its receipt comes twice. accept_and_drop: taken, the connection breaks before the answer
    is whole. A rule with the code of one channel is about that channel alone.
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
        if self.code is not None and self.code_channel() is None:
            raise refuse(
                "code_unknown",
                zh="refuse 的 code 为 rspcod 或 errcode，fail 的 code 为 CM:2007 或 failed:user block 一类的状态，"
                "其他动作不填 code",
                en="code is an rspcod or errcode for refuse, a status like CM:2007 or failed:user block for fail, "
                "else absent",
            )
        if not self.channels():
            raise refuse(
                "match_impossible",
                zh="match 与 code 分属短信和微信，没有消息会符合",
                en="match and code belong to SMS and WeChat both: no message can fit",
            )
        return self

    def code_channel(self) -> Channel | None:
        """The channel that knows the code; None when there is none, or when nobody knows it."""
        if self.action == "refuse":
            if self.code in yunmas.REFUSALS:
                return "sms"
            return "wechat" if self.code in wechat.REFUSALS else None
        if self.action == "fail" and self.code is not None:
            if re.fullmatch(r"[A-Z]{2}:[0-9]{4}", self.code) and self.code != yunmas.DELIVERED:
                return "sms"
            return "wechat" if self.code in (wechat_crypt.USER_BLOCKED, wechat_crypt.SYSTEM_FAILED) else None
        return None

    def channels(self) -> set[Channel]:
        """The channels that the rule is about."""
        channel = self.code_channel()
        return self.match.channels() & ({"sms", "wechat"} if channel is None else {channel})


@dataclass(frozen=True)
class Answer:
    """What the client gets: the JSON, after how many seconds, or a broken connection."""

    response: str
    seconds: float = 0
    drop: bool = False


def scripted(db: sqlite3.Connection, channel: Channel, recipient: str, content: str) -> Rule | None:
    """The first rule that wants this message, marked as used once more."""
    for row in db.execute("SELECT * FROM script ORDER BY position").fetchall():
        rule = Rule.model_validate_json(row["rule"])
        if channel not in rule.channels() or not rule.match.fits(channel, recipient, content):
            continue
        fires = row["seen"] + 1 >= rule.match.count and (rule.times is None or row["used"] < rule.times)
        db.execute(
            "UPDATE script SET seen = seen + 1, used = used + ? WHERE position = ?", (fires, row["position"])
        )
        if fires:
            return rule
    return None
