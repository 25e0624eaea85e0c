"""The carrier's ledger: one row per submission, and what its text says it is."""

import re
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from services.demo.check.law import instant

# words that only the second reminder has, by SMS and by WeChat, and only the correction of a wrong message
SAYS_SECOND, SAYS_CORRECTION = ("经提醒仍未", '"R01-SECOND"'), "请勿据此办理"
_COUNT = re.compile("等([0-9]+)户")


@dataclass(frozen=True)
class Row:
    """One submission. `recipient` is a mobile number, or by WeChat the openid of a follower."""

    seq: int
    at: datetime
    recipient: str
    content: str
    accepted: bool
    channel: str = "sms"

    @property
    def is_correction(self) -> bool:
        """Whether it takes an earlier message back."""
        return SAYS_CORRECTION in self.content

    @property
    def is_second(self) -> bool:
        """Whether it is a second reminder."""
        return not self.is_correction and any(words in self.content for words in SAYS_SECOND)

    @property
    def is_first(self) -> bool:
        """Whether it is a first reminder: whatever says nothing else."""
        return not self.is_second and not self.is_correction

    @property
    def by_wechat(self) -> bool:
        """Whether it went to a follower."""
        return self.channel == "wechat"

    @property
    def count(self) -> int | None:
        """Of how many units a joint message speaks; None for a message about one."""
        found = _COUNT.search(self.content)
        return int(found.group(1)) if found else None


def read_ledger(file: Path) -> list[Row]:
    """The sandbox's ledger, in order of submission. Instants are business time."""
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        found = db.execute(
            "SELECT seq, received_at, recipient, content, verdict, channel FROM messages ORDER BY seq"
        ).fetchall()
    finally:
        db.close()
    return [
        Row(seq, instant(at), recipient, content, verdict == "accepted", channel)
        for seq, at, recipient, content, verdict, channel in found
    ]
