"""The port to carriers (SMS and WeChat providers): one message goes in, one of four outcomes comes back.

No carrier of the field is idempotent, so the outcome keeps apart what is certain (`Accepted`, `Refused`,
`NotSent`) from what is not (`Unknown`): only the certain ones may lead to another attempt.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class ErrorClass(StrEnum):
    """Why a carrier refused, the same words for every carrier."""

    TRANSIENT = "transient"
    RATE_LIMIT = "rate_limit"
    QUOTA_OR_BALANCE = "quota_or_balance"
    CONFIG = "config"
    RECIPIENT_INVALID = "recipient_invalid"
    RECIPIENT_REFUSED = "recipient_refused"
    CONTENT_REJECTED = "content_rejected"
    AUTH = "auth"

    @property
    def permanent(self) -> bool:
        """Whether the same submission is refused again until a person changes something."""
        return self not in (ErrorClass.TRANSIENT, ErrorClass.RATE_LIMIT, ErrorClass.QUOTA_OR_BALANCE)


@dataclass(frozen=True)
class Accepted:
    """The carrier took the message. `message_group` and the mobile number name it in its receipts."""

    message_group: str


@dataclass(frozen=True)
class Refused:
    """The carrier certainly did not take the message. `code` is the carrier's own; `text` says the fix."""

    code: str
    error: ErrorClass
    text: str

    @property
    def permanent(self) -> bool:
        """Whether the same submission is refused again until a person changes something."""
        return self.error.permanent


@dataclass(frozen=True)
class Unknown:
    """Nobody knows whether the carrier took the message: never send it again, wait for the receipt."""

    why: str


@dataclass(frozen=True)
class NotSent:
    """Provably nothing left this machine: the attempt may be released and made again."""

    why: str


Submission = Accepted | Refused | Unknown | NotSent


@dataclass(frozen=True)
class Receipt:
    """What a carrier reports about one message to one mobile.

    `code` is the carrier's status, `received_at` the instant of its report, aware, Asia/Shanghai.
    The number stays out of the printed form: receipts end up in logs.
    """

    message_group: str
    mobile: str = field(repr=False)
    delivered: bool
    code: str
    received_at: datetime


class ReceiptUnreadableError(ValueError):
    """A pushed report is not in the carrier's format. The message names the field, never its value."""


class Carrier(Protocol):
    """A provider that takes messages.

    Its receipts carry no number of ours, so at most one submission of unknown outcome may be open per mobile.
    """

    async def submit(self, mobile: str, text: str) -> Submission:
        """Hands over one text to one mobile (11 digits). Never raises for what the network does."""
