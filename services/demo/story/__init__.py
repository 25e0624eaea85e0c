"""The driver of the demo's story: plays the sample city against a running suite, from outside, over HTTP only.

It does the city's actions in order of time, moves the simulated clock from instant to instant and lets the
suite come to rest between two moves. A journal of what was answered makes it survive its own end; retries
with the same Idempotency-Key make it survive the end of the server.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from services.demo import check
from services.demo.city import END, START, City, Done, generate
from services.demo.story.driver import play, stay
from services.demo.story.figures import funnel, services_figures
from services.demo.story.journal import Journal
from services.demo.story.show import (
    progress_bar,
    show_addresses,
    show_day,
    show_figures,
    show_funnel,
    show_messages,
    show_towns,
    show_verdict,
)
from services.demo.story.suite import Addresses, Patience, StoryError, Suite, real_patience
from shared.documents import pack, read_csv

__all__ = [
    "JOURNAL",
    "LEDGER",
    "RECORDS",
    "Addresses",
    "Journal",
    "Patience",
    "StoryError",
    "Suite",
    "play",
    "run",
    "services_figures",
    "stay",
    "tell_story",
]

SEED = 20260105
LEDGER, RECORDS, JOURNAL = "sandbox.db", "records.json", "story.jsonl"
"""Files in the work folder; the first is the sandbox's, which is told to keep it there."""

TOLD = "told"


def run(
    addresses: Addresses,
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
    with httpx.Client(timeout=30) as client:
        suite = Suite(client, token, real_patience(), addresses)
        try:
            code = tell_story(suite, city, workdir, console)
            if not exit_after:
                show_addresses(console, addresses)
                console.print(
                    "The city goes on: move its clock; its data is declared each night. Ctrl-C ends."
                )
                with suppress(KeyboardInterrupt):
                    stay(suite)
        except StoryError as error:
            console.print(f"[bold red]The story stopped:[/] {error}", highlight=False)
            return 1
    return code


def tell_story(suite: Suite, city: City, workdir: Path, console: Console) -> int:
    """Plays, writes the records, shows the tables and judges, once. Returns the exit code."""
    journal = Journal(workdir / JOURNAL)
    if TOLD in journal.done:
        # what people did since belongs to no record, so the ledger is not judged again
        console.print("The story was told already.")
        return int(journal.done[TOLD].kept)
    with progress_bar(console) as progress:
        days = progress.add_task("", total=(END - START) / timedelta(days=1))
        until = play(suite, city, journal, lambda now: show_day(progress, days, now))
    _write(workdir / RECORDS, city.records(journal.done, until=until))
    records = check.read_records(workdir / RECORDS)
    rows = check.read_ledger(workdir / LEDGER)
    agree = show_figures(console, services_figures(suite, city, journal), check.tally(records, rows))
    agree &= show_funnel(console, funnel(suite))
    show_messages(console, suite)
    show_towns(console, suite)
    findings = check.check(records, rows)
    show_verdict(console, findings, agree=agree)
    code = 0 if agree and not findings else 1
    journal.add(TOLD, Done(until, until, code))
    return code


def _write(file: Path, records: Mapping[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(records, ensure_ascii=False, indent=1), "utf-8")
    part.replace(file)
