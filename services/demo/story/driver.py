"""Plays the actions in order of time, and afterwards keeps the sample sources going."""

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

from services.demo.city import DECLARES_AT, END, START, Action, City, Done, Find
from services.demo.story.journal import Journal
from services.demo.story.suite import StoryError, Suite
from shared.clock import today

DECLARE = "/registry/v1/datasets/participations/complete-through"
_REFERENCE = re.compile('(?:核验编号|"character_string[0-9]+": ")([2-9A-HJ-NP-Z]{9})')


def play(suite: Suite, city: City, journal: Journal, tell: Callable[[datetime], None]) -> datetime:
    """Plays what is not yet done of the story; `tell` hears every new instant. Returns the story's last one."""
    pending = [action for action in city.actions if action.key not in journal.done]
    # An action may have been taken just before this process was last ended: nothing later than this is sure.
    known = journal.last or START
    while True:
        now = suite.now()
        tell(now)
        while pending and pending[0].at <= now:
            known = _do(suite, pending.pop(0), journal, known)
        due = suite.settle()
        if not pending and now >= END:
            return suite.now()
        instants = [END, *(action.at for action in pending[:1]), *([due] if due else [])]
        suite.move_to(min(instants))


def stay(suite: Suite) -> None:
    """Declares the participations of each night that people let pass. Ends when the server stays away."""
    declared = _last_complete_day(suite.now())
    while True:
        through = _last_complete_day(suite.now())
        if through > declared:
            suite.ask("PUT", DECLARE, body={"through": through.isoformat()})
            declared = through
        suite.rest()


def _do(suite: Suite, action: Action, journal: Journal, known: datetime) -> datetime:
    path, body = action.path, action.body
    if action.after or action.find:
        meant = journal.done[action.after].kept if action.after else _found(suite, action)
        path = path.replace("{id}", str(meant))
        body = json.loads(json.dumps(body).replace("{id}", str(meant)))
    key = f"demo-{action.key}" if action.method == "POST" else None
    answer = suite.ask(action.method, path, body=body, key=key, department=action.department)
    if isinstance(action.body, bytes):
        suite.settle()  # its rows are facts once they are applied
    answered_at = suite.now()
    journal.add(action.key, Done(max(known, action.at), answered_at, _kept(action, answer)))
    return answered_at


def _kept(action: Action, answer: Any) -> Any:
    """What is kept of an answer; of an error file the numbers of its rows."""
    if isinstance(answer, str):
        return [int(row["行号"]) for row in csv.DictReader(io.StringIO(answer.removeprefix("\ufeff")))]
    return answer.get(action.keeps) if isinstance(answer, dict) else None


def _found(suite: Suite, action: Action) -> str:
    """What an action is about; raises StoryError when there is no such thing."""
    find = action.find or Find("")
    for item in suite.everything(find.path, **find.params):
        if any(item[name] != value for name, value in find.where.items()):
            continue
        if not find.names:
            return str(item["id"])
        if any(name in item["content"] for name in find.names):
            return _reference(item["content"])
    raise StoryError(f"{action.key}: {find.path} has nothing like {find.where or find.params or find.names}")


def _reference(content: str) -> str:
    found = _REFERENCE.search(content)
    if found is None:
        raise StoryError(f"no reference number in {content!r}")
    return found.group(1)


def _last_complete_day(now: datetime) -> date:
    """Yesterday, or the day before while the night's feed has not run yet."""
    return today(now) - timedelta(days=1 if now.time() >= DECLARES_AT else 2)
