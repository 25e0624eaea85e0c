"""The funnel: every lead is in exactly one place of it, and none stands still unseen."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from services.matching import store
from services.matching.domain import End, LeadState
from services.matching.ladder import Ladder, Word
from services.matching.work import MatchingWork
from shared.clock import ZONE, today

CHECKED_AT = time(0, 10)
"""Business time of the daily check: behind midnight's clocks, before anybody works."""


class Place(StrEnum):
    """Where a lead is. `opened_not_sent`: nothing was handed over yet; the reminded wait for the next step."""

    OPENED_NOT_SENT = "opened_not_sent"
    REMINDED = "reminded"
    SECOND_REMINDED = "second_reminded"
    UNREACHED_VISIT = "unreached_visit"
    HELD = "held"
    ENROLLED = "enrolled"
    EXEMPT = "exempt"
    ENDED_OTHER = "ended_other"


_ENDED: dict[str, Place] = {End.ENROLLED: Place.ENROLLED, End.EXEMPT: Place.EXEMPT}


def place_of(
    ladder: Ladder, *, state: str, end: str | None, stage: str, notice: str | None, messaged: bool
) -> Place:
    """The one place of a lead that stands so."""
    if state == LeadState.ENDED:
        return _ENDED.get(end or "", Place.ENDED_OTHER)
    if state == LeadState.HELD:
        return Place.HELD
    if notice == Word.UNREACHED:
        return Place.UNREACHED_VISIT
    if notice in (Word.HANDED_OVER, Word.DELIVERED) and ladder.at(stage) is not ladder.stages[0]:
        return Place.SECOND_REMINDED
    return Place.REMINDED if messaged else Place.OPENED_NOT_SENT


def count_places(ladder: Ladder, rows: Iterable[Any]) -> dict[str, int]:
    """How many leads are in each place, from the store's rows of leads that stand alike."""
    counts = Counter(dict.fromkeys(map(str, Place), 0))
    for row in rows:
        place = place_of(
            ladder,
            state=row.state,
            end=row.end,
            stage=row.stage,
            notice=row.notice,
            messaged=row.messaged,
        )
        counts[place] += row.number
    return dict(counts)


@dataclass(frozen=True)
class Check:
    """What a day's check found. `overdue`: open leads past their next date; `lost`: without owner, step or date."""

    day: date
    at: datetime
    leads: int
    places: dict[str, int]
    overdue: int
    lost: int

    @property
    def sound(self) -> bool:
        """Whether the places add up and no open lead is lost."""
        return sum(self.places.values()) == self.leads and not self.lost


def check_funnel(work: MatchingWork) -> Check:
    """Counts, and keeps the result."""
    day = today(work.now)
    places = count_places(work.rule.ladder, store.count_leads(work.db, town=None))
    check = Check(
        day=day,
        at=work.now,
        leads=store.count_all_leads(work.db),
        places=places,
        overdue=store.count_overdue(work.db, day, town=None),
        lost=store.count_lost(work.db),
    )
    work.store.put_check(vars(check))
    return check


def next_check(db: sa.Connection, now: datetime) -> datetime:
    """When the next daily check is due; after downtime the missed ones are one."""
    last = store.last_check(db)
    day = last.day + timedelta(days=1) if last else today(now)
    return datetime.combine(day, CHECKED_AT, ZONE)
