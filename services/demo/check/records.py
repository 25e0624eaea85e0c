"""The records: what is true of each unit, and from when on, as the story's driver wrote it down."""

import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from services.demo.check.law import (
    GO_LIVE_ON,
    OBLIGED_KINDS,
    STOPPING_INSURANCES,
    day_of,
    deadline,
    instant,
)

# between the last look and the carrier's ledger a message may be on its way for so long
ON_ITS_WAY = timedelta(seconds=5)


@dataclass(frozen=True)
class Fact:
    """Something a service was told. It took effect between `asked` (request sent) and `answered` (2xx)."""

    what: str
    asked: datetime
    answered: datetime
    about: dict[str, Any]

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Fact":
        """A fact as it stands in the records."""
        return cls(record["fact"], instant(record["asked_at"]), instant(record["answered_at"]), record)


@dataclass(frozen=True)
class View:
    """How to judge a fact whose request was under way: for what MUST have come, or for what MAY have come."""

    must: bool

    def opened(self, fact: Fact, at: datetime) -> bool:
        """Whether a fact that makes a reminder due counts at this instant."""
        return (fact.answered if self.must else fact.asked) <= at

    def stopped(self, fact: Fact, at: datetime) -> bool:
        """Whether a fact that forbids a reminder counts at this instant."""
        return fact.asked <= at if self.must else fact.answered + ON_ITS_WAY < at


MUST, MAY = View(must=True), View(must=False)


class Unit:
    """What the records say about one unit.

    `phone` is what the carrier does to its number, `wechat` what WeChat does to its follower: ok, silent,
    refused, failing …; none where there is no such thing.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        self.uscc: str = record["uscc"]
        self.name: str = record["name"]
        self.mobile: str | None = record["mobile"]
        self.phone: str = record["phone"]
        self.openid: str | None = record.get("openid")
        self.wechat: str = record.get("wechat", "none")
        self.code_valid: bool = record["code_valid"]
        self.obliged = record["kind"] in OBLIGED_KINDS
        self.established_on = date.fromisoformat(record["established_on"])
        self.facts = [Fact.read(f) for f in record["facts"]]
        self._by_kind: dict[str, list[Fact]] = {}
        for fact in self.facts:
            self._by_kind.setdefault(fact.what, []).append(fact)

    def all(self, what: str) -> list[Fact]:
        """The facts of one kind, in order of time."""
        return self._by_kind.get(what, [])

    def deadlines(self, at: datetime, view: View) -> set[date]:
        """The legal deadlines that may rule at an instant: one, or two or none while a correction is under way."""
        days = {self._first_deadline}
        for fact in self.all("corrected"):
            if view.stopped(fact, at):
                days = set()
            if view.opened(fact, at):
                days.add(deadline(date.fromisoformat(fact.about["established_on"])))
        return days

    @cached_property
    def _first_deadline(self) -> date:
        return deadline(self.established_on)

    def enrolled(self, at: datetime, view: View) -> bool:
        """Whether a stopping participation was in force on or before the day of this instant."""
        cancelled = {f.about["of"] for f in self.all("cancelled") if view.opened(f, at)}
        return any(
            view.stopped(f, at)
            and f.about["key"] not in cancelled
            and f.about["form"] == "employer"
            and f.about["insurance"] in STOPPING_INSURANCES
            and date.fromisoformat(f.about["started_on"]) <= day_of(at)
            for f in self.all("participation")
        )

    def suspended(self, at: datetime, view: View) -> bool:
        """Whether the unit's business is suspended."""
        return self._on(at, view, "suspended", "resumed")

    def disputed(self, at: datetime, view: View) -> bool:
        """Whether a row that could not be read may say that the unit insures somebody."""
        return self._on(at, view, "disputed", "settled")

    def standing_still(self, at: datetime, view: View) -> bool:
        """Whether clock and lead stand still."""
        return self.suspended(at, view) or self.disputed(at, view)

    def _on(self, at: datetime, view: View, begins: str, ends: str) -> bool:
        begun = sum(view.stopped(f, at) for f in self.all(begins))
        return begun > sum(view.opened(f, at) for f in self.all(ends))

    def closed(self, at: datetime, view: View) -> bool:
        """Whether the unit is known to be closed."""
        return any(view.stopped(f, at) for f in self.all("closed"))

    def exempted(self, at: datetime, view: View) -> bool:
        """Whether somebody has shown that it need insure nobody."""
        return any(view.stopped(f, at) for f in self.all("exempted"))

    def code_in_doubt(self, at: datetime, view: View) -> bool:
        """Whether the code has a wrong check character that nobody confirmed."""
        return not self.code_valid and not any(view.opened(f, at) for f in self.all("confirmed"))

    @cached_property
    def by_file(self) -> bool:
        """Whether it came in a department's file."""
        return any(f.about.get("origin") == "batch" for f in self.all("registered"))

    @cached_property
    def is_stock(self) -> bool:
        """Whether it came in a file when its clock had run out, so that a person has to let it go on."""
        last, registered = self._first_deadline, self.all("registered")
        return self.by_file and (last < day_of(registered[0].asked) or last < GO_LIVE_ON)

    def in_stock(self, at: datetime, view: View) -> bool:
        """Whether it waits for that person."""
        return self.is_stock and not any(view.opened(f, at) for f in self.all("released"))

    def bound(self, at: datetime, view: View) -> bool:
        """Whether its phone is known to belong to a follower of the official account."""
        return any(view.opened(f, at) for f in self.all("bound")) and not any(
            view.stopped(f, at) for f in self.all("unfollowed")
        )


def read_records(file: Path) -> dict[str, Any]:
    """What the story's driver wrote down."""
    records: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return records
