"""What the judge of a chaos run excuses, and what not."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from services.demo.city import END, Unit
from services.demo.story import LEDGER, RECORDS
from shared.clock import ZONE
from tests.chaos.judge import Evidence, judge
from tests.chaos.telling import small_city

CITY = small_city({"in_time": 1, "never_enrols": 1})
ENROLLED, UNINSURED = CITY.units
LATE = datetime(2026, 3, 18, 9, tzinfo=ZONE)
"""Long after either's deadline, inside the hours."""
IN_TIME = datetime(2026, 2, 4, 9, tzinfo=ZONE)
"""The day on which the uninsured one's message is due."""

Sent = tuple[Unit, datetime]


def figures(folder: Path, sent: Sequence[Sent] = (), **facts: Any) -> dict[str, Any]:
    """What the judge says of so many messages; every action of the city was answered when it was planned."""
    (folder / RECORDS).write_text(json.dumps(CITY.records(CITY.planned(), until=END)))
    with closing(sqlite3.connect(folder / LEDGER)) as db, db:
        db.execute(
            "CREATE TABLE messages (seq INTEGER PRIMARY KEY, received_at, recipient, content, verdict, channel)"
        )
        db.executemany(
            "INSERT INTO messages (received_at, recipient, content, verdict, channel)"
            " VALUES (?, ?, ?, 'accepted', 'sms')",
            [(at.isoformat(), unit.mobile, unit.name) for unit, at in sent],
        )
    plain: dict[str, Any] = {"unknown": [], "visited": set(), "looks": [], "harmed": set()}
    return judge(Evidence(folder, **{**plain, **facts}), Console(quiet=True))


@pytest.mark.parametrize(("visited", "harmed", "lost"), [(True, True, 0), (True, False, 1), (False, True, 1)])
def test_a_missing_reminder_is_excused_by_a_harm_and_a_visit(
    tmp_path: Path, visited: bool, harmed: bool, lost: int
) -> None:
    """Its attempt was in the hands of a victim, and somebody is asked to go there; else it is lost."""
    uscc = UNINSURED.uscc
    told = figures(
        tmp_path,
        unknown=[(uscc, "reminder")],
        visited={uscc} if visited else set(),
        harmed={uscc} if harmed else set(),
    )
    assert (told["unknown_final"], told["lost"]) == (1, lost)


@pytest.mark.parametrize(("harmed", "lost"), [(True, 0), (False, 1)])
def test_a_correction_of_unknown_outcome_needs_no_visit(tmp_path: Path, harmed: bool, lost: int) -> None:
    """Nobody goes there for it; that it was in the hands of a victim is still asked for."""
    uscc = ENROLLED.uscc
    told = figures(tmp_path, unknown=[(uscc, "correction")], harmed={uscc} if harmed else set())
    missing = {UNINSURED.uscc}  # the other one's reminder, which nothing excuses
    assert (told["unknown_final"], told["lost"]) == (1, lost + len(missing))


@pytest.mark.parametrize(
    ("unknown", "harmed", "looked_at", "late"),
    [
        (True, True, LATE, 0),
        (False, True, IN_TIME, 0),
        (False, True, LATE, 1),
        (False, True, IN_TIME - timedelta(days=1), 1),
        (False, False, IN_TIME, 1),
    ],
    ids=["of unknown outcome", "looked at in time", "looked at late", "another look", "not harmed"],
)
def test_a_message_that_a_held_line_let_go_may_be_late(
    tmp_path: Path, unknown: bool, harmed: bool, looked_at: datetime, late: int
) -> None:
    """Business time has jumped meanwhile, also where a receipt tells the outcome; else it was late by itself."""
    uscc = UNINSURED.uscc
    told = figures(
        tmp_path,
        [(UNINSURED, LATE)],
        unknown=[(uscc, "reminder")] if unknown else [],
        visited={uscc},
        harmed={uscc} if harmed else set(),
        looks=[(uscc, looked_at)],
    )
    wrong_text = 1  # it says nothing but a name
    assert (told["lost"], told["other_findings"]) == (0, wrong_text + late)


def test_a_missing_reminder_is_lost(tmp_path: Path) -> None:
    """Whatever was harmed, when its notice did not end as unknown."""
    uscc = UNINSURED.uscc
    assert figures(tmp_path, visited={uscc}, harmed={uscc})["lost"] == 1


def test_two_messages_are_a_double(tmp_path: Path) -> None:
    """The same stage by the same channel."""
    assert figures(tmp_path, [(UNINSURED, LATE), (UNINSURED, LATE)])["doubled"] == 1


@pytest.mark.parametrize(("stopped", "after"), [(True, 0), (False, 1)])
def test_a_message_after_an_enrolment_is_excused_by_a_stop_alone(
    tmp_path: Path, stopped: bool, after: int
) -> None:
    """A process or line that stood still just then may have held it."""
    stops = [(LATE - timedelta(seconds=12), LATE - timedelta(seconds=2))] if stopped else []
    assert figures(tmp_path, [(ENROLLED, LATE)], stops=stops)["after_enrolment"] == after


def test_a_look_after_an_enrolment_is_excused_by_nothing(tmp_path: Path) -> None:
    """Then registry knew, and notify asked."""
    stops = [(LATE - timedelta(days=1), LATE + timedelta(days=1))]
    assert figures(tmp_path, looks=[(ENROLLED.uscc, LATE)], stops=stops)["after_enrolment"] == 1
