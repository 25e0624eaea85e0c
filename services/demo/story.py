"""The driver of the demo's story: plays the sample city against a running suite, from outside, over HTTP only.

It does the city's actions in order of time, moves the simulated clock from instant to instant and lets the
suite come to rest between two moves. A journal of what was answered makes it survive its own end; retries
with the same Idempotency-Key make it survive the end of the server.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from services.demo import check
from services.demo.city import DECLARES_AT, END, INSURES, START, Action, City, Done, generate
from shared.clock import ZONE, today
from shared.documents import pack, read_csv

SEED = 20260105
LEDGER, RECORDS, JOURNAL = "sandbox.db", "records.json", "story.jsonl"
"""Files in the work folder; the first is the sandbox's, which is told to keep it there."""

SERVER_BACK_WITHIN_S = 180.0
QUIET_WITHIN_S = 300.0
PAUSE_S = 0.02
LONG_PAUSE_S = 1.0

QUIET = (
    *(f"/{name}/demo/quiet" for name in ("registry", "matching", "notify", "targets")),
    "/sandbox/quiet",
)
TOLD = "told"
DECLARE = "/registry/v1/datasets/participations/complete-through"

_UNAUTHORIZED, _OK_BELOW = 401, 300
_GATEWAY_ERRORS = (502, 503, 504)


class StoryError(Exception):
    """The story cannot go on; the message says at what."""


@dataclass(frozen=True)
class Patience:
    """How the driver waits: a pause of so many seconds, and a clock that only runs forward (seconds)."""

    pause: Callable[[float], object]
    monotonic: Callable[[], float]


def real_patience() -> Patience:
    """Waits in real time. A plain sleep: timed waits on locks never end under a shifted system date."""
    return Patience(pause=time.sleep, monotonic=time.monotonic)


class Suite:
    """The running suite as seen from outside."""

    def __init__(self, client: httpx.Client, token: Callable[[str], str], patience: Patience) -> None:
        self._client = client
        self._token = token
        self._patience = patience
        self._tokens: dict[str, str] = {}

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        key: str | None = None,
        params: Mapping[str, str] | None = None,
        department: str = INSURES,
    ) -> Any:
        """The answer's JSON. Waits for a server that is away or busy; raises StoryError for any refusal."""
        give_up = self._patience.monotonic() + SERVER_BACK_WITHIN_S
        renewed = False
        while True:
            headers = {"Authorization": f"Bearer {self._bearer(department)}"}
            if key:
                headers["Idempotency-Key"] = key
            try:
                answer = self._client.request(method, path, json=body, params=params, headers=headers)
            except httpx.TransportError as error:
                self._wait_until(give_up, f"{method} {path}: {type(error).__name__}")
                continue
            if answer.status_code == _UNAUTHORIZED and not renewed:
                self._tokens.pop(department, None)
                renewed = True
            elif "Retry-After" in answer.headers or answer.status_code in _GATEWAY_ERRORS:
                self._wait_until(give_up, f"{method} {path}: {answer.status_code}")
            elif answer.status_code >= _OK_BELOW:
                raise StoryError(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
            else:
                return answer.json() if answer.content else None

    def everything(self, path: str, **params: str) -> Iterator[dict[str, Any]]:
        """All items of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.ask("GET", path, params={**params, **({"cursor": cursor} if cursor else {})})
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def now(self) -> datetime:
        """Business time of the suite."""
        return datetime.fromisoformat(self.ask("GET", "/demo/clock")["now"]).astimezone(ZONE)

    def move_to(self, at: datetime) -> None:
        """Jumps the simulated clock forward to an instant."""
        self.ask("POST", "/demo/clock", body={"to": at.isoformat()})

    def settle(self) -> datetime | None:
        """Waits until nothing is due or in flight, twice in a row; returns when something will be next."""
        give_up = self._patience.monotonic() + QUIET_WITHIN_S
        calm, due = 0, None
        while calm < 2:
            answers = {path: self.ask("GET", path) for path in QUIET}
            busy = [path for path, answer in answers.items() if not answer["quiet"]]
            calm = 0 if busy else calm + 1
            if busy:
                self._wait_until(give_up, "not quiet: " + ", ".join(busy))
            dues = [datetime.fromisoformat(a["next_due"]) for a in answers.values() if a["next_due"]]
            due = min(dues, default=None)
        return due

    def rest(self) -> None:
        """Pauses between two looks at a clock that people move."""
        self._patience.pause(LONG_PAUSE_S)

    def _bearer(self, department: str) -> str:
        if department not in self._tokens:
            self._tokens[department] = self._token(department)
        return self._tokens[department]

    def _wait_until(self, give_up: float, why: str) -> None:
        if self._patience.monotonic() >= give_up:
            raise StoryError(f"waited too long; {why}")
        self._patience.pause(PAUSE_S)


class Journal:
    """Which actions were answered, when, and with which id: a line of JSON each, on disk before going on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.done: dict[str, Done] = {}
        self._ids: dict[str, Any] = {}
        self.last: datetime | None = None
        if file.exists():
            self._read()

    def add(self, key: str, done: Done, answered_id: Any) -> None:
        """Writes down an answered action."""
        line = {
            "key": key,
            "asked_at": done.asked_at.isoformat(),
            "answered_at": done.answered_at.isoformat(),
            "id": answered_id,
        }
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
            out.flush()
            os.fsync(out.fileno())
        self._remember(line)

    def answered_id(self, key: str) -> Any:
        """The id that the service gave when it answered an action."""
        return self._ids[key]

    def _read(self) -> None:
        text = self._file.read_text("utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # the last line was being written when the driver ended; its action is done again
            os.truncate(self._file, len(whole.encode()))
        for line in whole.splitlines():
            self._remember(json.loads(line))

    def _remember(self, line: Mapping[str, Any]) -> None:
        answered_at = datetime.fromisoformat(line["answered_at"])
        self.done[line["key"]] = Done(datetime.fromisoformat(line["asked_at"]), answered_at)
        self._ids[line["key"]] = line["id"]
        self.last = answered_at


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


def _do(suite: Suite, action: Action, journal: Journal, known: datetime) -> datetime:
    path = action.path
    if action.after:
        path = path.format(id=journal.answered_id(action.after))
    key = f"demo-{action.key}" if action.method == "POST" else None
    answer = suite.ask(action.method, path, body=action.body, key=key, department=action.department)
    answered_at = suite.now()
    answered_id = answer.get("id") if isinstance(answer, dict) else None
    journal.add(action.key, Done(max(known, action.at), answered_at), answered_id)
    return answered_at


def services_figures(suite: Suite) -> dict[str, int]:
    """The same columns as `check.tally`, counted from what the services answer."""
    units = [unit["uscc"] for unit in suite.everything("/registry/v1/units")]
    clocks = {
        uscc: {
            (clock["state"], clock["reason"]) for clock in suite.everything("/matching/v1/clocks", uscc=uscc)
        }
        for uscc in units
    }
    ends: dict[str, set[str | None]] = {}
    for lead in suite.everything("/matching/v1/leads", rule="R01"):
        ends.setdefault(lead["uscc"], set()).add(lead["end"])
    notices: dict[str, list[dict[str, Any]]] = {}
    for notice in suite.everything("/notify/v1/notices"):
        notices.setdefault(notice["uscc"], []).append(notice)
    counts: Counter[str] = Counter()
    for uscc in units:
        of_unit = notices.get(uscc, [])
        states = {notice["state"] for notice in of_unit}
        tried = {notice["stage"] for notice in of_unit if _was_tried(notice)}
        reminded = "reminder" in tried
        counts["registered"] += 1
        counts["enrolled in time"] += ("stopped", "enrolled") in clocks[uscc] and uscc not in ends
        counts["reminded"] += reminded
        counts["reminded twice"] += "second_reminder" in tried
        counts["enrolled after reminder"] += reminded and "enrolled" in ends.get(uscc, ())
        counts["withdrawn"] += states == {"withdrawn"}
        counts["unreached"] += "unreached" in states
        counts["waiting"] += any(state == "waiting" for state, _ in clocks[uscc])
    return dict(counts)


def _was_tried(notice: Mapping[str, Any]) -> bool:
    """Whether the carrier was asked to bring it, whatever came of that."""
    if notice["state"] == "unreached":
        return bool(notice["reason"] != "no_contact")
    return notice["state"] in {"handed_over", "delivered"}


def run(
    base_url: str,
    token: Callable[[str], str],
    workdir: Path,
    exit_after: bool,
    *,
    city_pack: Path | None = None,
    console: Console | None = None,
) -> int:
    """Plays the story, shows and checks it, and unless told to end stays to feed the sample sources.

    `token` mints a bearer token for a department. `workdir` holds journal and records, and the sandbox's
    ledger. Returns the exit code: 0 only when the story came true.
    """
    console = console or Console()
    workdir.mkdir(parents=True, exist_ok=True)
    towns = [row["name"] for row in read_csv(pack(city_pack) / "towns.csv", ["name"])]
    city = generate(SEED, towns)
    with httpx.Client(base_url=base_url, timeout=30) as client:
        suite = Suite(client, token, real_patience())
        try:
            code = tell_story(suite, city, workdir, base_url, console)
            if not exit_after:
                console.print(
                    "The city goes on: move its clock; its data is declared each night. Ctrl-C ends."
                )
                with suppress(KeyboardInterrupt):
                    stay(suite)
        except StoryError as error:
            console.print(f"[bold red]The story stopped:[/] {error}", highlight=False)
            return 1
    return code


def tell_story(suite: Suite, city: City, workdir: Path, base_url: str, console: Console) -> int:
    """Plays, writes the records, shows the tables and judges, once. Returns the exit code."""
    journal = Journal(workdir / JOURNAL)
    if TOLD in journal.done:
        # what people did since belongs to no record, so the ledger is not judged again
        console.print("The story was told already.")
        return int(journal.answered_id(TOLD))
    with _progress(console) as progress:
        days = progress.add_task("", total=(END - START) / timedelta(days=1))
        until = play(suite, city, journal, lambda now: _show_day(progress, days, now))
    _write(workdir / RECORDS, city.records(journal.done, until=until))
    records = check.read_records(workdir / RECORDS)
    rows = check.read_ledger(workdir / LEDGER)
    agree = _show_figures(console, services_figures(suite), check.tally(records, rows))
    _show_messages(console, suite)
    _show_towns(console, suite)
    findings = check.check(records, rows)
    _show_verdict(console, findings, agree=agree)
    _show_addresses(console, base_url)
    code = 0 if agree and not findings else 1
    journal.add(TOLD, Done(until, until), code)
    return code


def stay(suite: Suite) -> None:
    """Declares the participations of each night that people let pass. Ends when the server stays away."""
    declared = _last_complete_day(suite.now())
    while True:
        through = _last_complete_day(suite.now())
        if through > declared:
            suite.ask("PUT", DECLARE, body={"through": through.isoformat()})
            declared = through
        suite.rest()


def _last_complete_day(now: datetime) -> date:
    """Yesterday, or the day before while the night's feed has not run yet."""
    return today(now) - timedelta(days=1 if now.time() >= DECLARES_AT else 2)


def _write(file: Path, records: Mapping[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(records, ensure_ascii=False, indent=1), "utf-8")
    part.replace(file)


def _progress(console: Console) -> Progress:
    day = TextColumn("day {task.completed:.0f} of {task.total:.0f}")
    return Progress(TextColumn("{task.description}"), BarColumn(), day, TimeElapsedColumn(), console=console)


def _show_day(progress: Progress, days: TaskID, now: datetime) -> None:
    progress.update(days, completed=(now - START) / timedelta(days=1), description=f"{now:%Y-%m-%d %H:%M}")


def _show_figures(console: Console, services: Mapping[str, int], checked: Mapping[str, int]) -> bool:
    """Both columns of figures; returns whether they agree."""
    table = Table(title="What happened to the city's units", title_justify="left")
    table.add_column("")
    table.add_column("services say", justify="right")
    table.add_column("check says", justify="right")
    for name, count in checked.items():
        said = services.get(name, 0)
        agrees = said == count
        table.add_row(
            name, str(said), str(count) if agrees else f"{count} differs", style="" if agrees else "red"
        )
    console.print(table)
    return all(services.get(name, 0) == count for name, count in checked.items())


def _show_messages(console: Console, suite: Suite) -> None:
    messages = suite.ask("GET", "/sandbox/messages")["items"]
    for message in [m for m in messages if m["verdict"] == "accepted"][:3]:
        title = f"to {message['mobile']}, {message['received_at'][:16]}"
        console.print(Panel(Text(message["content"]), title=title, title_align="left"))


def _show_towns(console: Console, suite: Suite) -> None:
    targets = suite.ask("GET", "/targets/v1/progress", params={"year": "2026", "by": "town"})["targets"]
    counted = [target for target in targets if target["lines"]]
    table = Table(title="People newly insured in 2026, by town", title_justify="left")
    table.add_column("")
    for target in counted:
        table.add_column(target["name"], justify="right")
    for lines in zip(*(target["lines"] for target in counted), strict=True):
        table.add_row(lines[0]["town"], *(_figure(line["actual"]) for line in lines))
    table.add_section()
    for name, field in (
        ("city", "actual"),
        ("target", "target"),
        ("完成率 %", "completion_pct"),
        ("时序进度 %", "pace_pct"),
        ("difference, pp", "difference_pp"),
    ):
        table.add_row(name, *(_figure(target[field]) for target in counted))
    console.print(table)


def _figure(value: float | None) -> str:
    return "–" if value is None else str(value)


def _show_verdict(console: Console, findings: list[check.Finding], *, agree: bool) -> None:
    for finding in findings:
        console.print(f"[red]✗[/] {finding}", highlight=False)
    if findings:
        console.print(f"[bold red]The story did not come true: {len(findings)} findings.[/]")
    elif not agree:
        console.print("[bold red]The reminders are right, but services and check count differently.[/]")
    else:
        console.print("[bold green]The story came true: every reminder once, in time, to the right phone.[/]")


def _show_addresses(console: Console, base_url: str) -> None:
    for path, what in (
        ("/", "the first page, to look at in a browser"),
        ("/demo/clock", "what day it is"),
        ("/sandbox/messages", "what the carrier received, numbers masked"),
        ("/registry/openapi.json", "the HTTP contract of the registry; also /matching, /notify, /targets"),
    ):
        console.print(f"  {base_url.rstrip('/')}{path}   {what}", highlight=False)
