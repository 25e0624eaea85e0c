"""One transaction of notify."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from services.notify.domain import Rules, pick_mobile
from services.notify.store import Store
from services.notify.tables import PLUMBING
from shared.privacy import Cipher, Index
from shared.storage.work import Work


@dataclass(frozen=True)
class Tools:
    """What a work needs beside the database: the city's rules, the keys, and a source of randomness.

    `records` seals what notify keeps, `contacts` opens what registry sealed, `phones` finds
    equal numbers and equal followers.
    """

    rules: Rules
    records: Cipher
    contacts: Cipher
    phones: Index
    random: Callable[[int], bytes]

    def open_sealed(self, uscc: str, sealed: str) -> list[dict[str, Any]]:
        """Role and mobile of the contacts in a `contact_changed`. Raises CannotOpenError or ValueError."""
        plain = json.loads(self.contacts.open_text(sealed, context=contact_context(uscc)))
        return [{"role": contact["role"], "mobile": contact.get("mobile")} for contact in plain]

    def seal_contacts(self, uscc: str, contacts: Sequence[Mapping[str, Any]]) -> bytes:
        """The ciphertext of the own copy."""
        return self.records.seal(json.dumps(contacts).encode(), context=contact_context(uscc))

    def open_contacts(self, uscc: str, sealed: bytes) -> list[dict[str, Any]]:
        """The own copy in clear."""
        contacts: list[dict[str, Any]] = json.loads(self.records.open(sealed, context=contact_context(uscc)))
        return contacts

    def index_contacts(self, contacts: Sequence[Mapping[str, Any]]) -> str:
        """Index of the phone to write to, "" when there is none."""
        mobile = pick_mobile(contacts, self.rules.contact_order)
        return self.phones.of(mobile) if mobile else ""

    def seal_openid(self, mobile_index: str, openid: str) -> bytes:
        """The ciphertext of the follower that a phone is bound to."""
        return self.records.seal(openid.encode(), context=f"binding:{mobile_index}")

    def open_openid(self, mobile_index: str, sealed: bytes) -> str:
        """The follower in clear."""
        return self.records.open(sealed, context=f"binding:{mobile_index}").decode()

    def seal_mobile(self, reference: str, mobile: str) -> bytes:
        """The ciphertext of an attempt's mobile."""
        return self.records.seal(mobile.encode(), context=f"attempt:{reference}")

    def open_mobile(self, reference: str, sealed: bytes) -> str:
        """An attempt's mobile in clear; mask it before it is shown."""
        return self.records.open(sealed, context=f"attempt:{reference}").decode()


def contact_context(uscc: str) -> str:
    """What sealed contacts are bound to."""
    return f"contacts:{uscc}"


class NotifyWork(Work):
    """A transaction with notify's store and tools."""

    def __init__(self, db: sa.Connection, tools: Tools, *, now: datetime, wall: datetime) -> None:
        super().__init__(db, PLUMBING, now=now, wall=wall)
        self.tools = tools

    @property
    def rules(self) -> Rules:
        """What the city decides."""
        return self.tools.rules

    @cached_property
    def store(self) -> Store:
        """Everything notify keeps."""
        return Store(self.db, self.tools.rules)
