"""The ledger check of a chaos run: what records, ledger, databases and the log of harm say together."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from services.demo import check, story

UNKNOWN = "SELECT uscc, stage FROM notice WHERE state = 'unreached' AND reason = 'unknown'"
VISITED = "SELECT uscc FROM visit"
LOOKS = """
    SELECT notice.uscc, attempt.looked_at FROM attempt JOIN attempt_notice USING (reference)
    JOIN notice ON notice.id = attempt_notice.notice_id WHERE attempt.state <> 'released'
"""
LOST = {
    f"{stage}{what}"
    for stage in ("", "second: ", "correction: ")
    for what in ("missing", "follow-up: missing")
}
EXCUSED = {
    "reminder": {
        *("missing", "follow-up: missing", "second: missing", "second: follow-up: missing"),
        *("late", "follow-up: late", "second: late", "second: without a first"),
        "correction: unfounded",  # what may have arrived is taken back like what did
    },
    "second_reminder": {
        f"second: {what}" for what in ("missing", "late", "follow-up: missing", "follow-up: late")
    },
    "correction": {"correction: missing", "correction: late"},
}
"""What may be found of a unit one of whose notices ended unknown, by its stage. Late: it arrived at the business time
that it was by then.
"""
ON_ITS_WAY = timedelta(seconds=5)
STOPPING = {"pension", "unemployment", "injury"}

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class Evidence:
    """What a run left behind.

    `unknown` are units and stages that ended as unreached(unknown); `visited` the units with a visit task;
    `looks` when the last look of each attempt began; `harmed` the units whose attempt was under way when
    something was killed, stopped or cut; `stops` the spans of business time in which something was.
    """

    folder: Path
    unknown: Sequence[tuple[str, str]]
    visited: Collection[str]
    looks: Sequence[tuple[str, datetime]]
    harmed: Collection[str]
    stops: Sequence[Span] = ()


def judge(evidence: Evidence, console: Console) -> dict[str, Any]:
    """The figures; every finding is printed."""
    records = check.read_records(evidence.folder / story.RECORDS)
    rows = check.read_ledger(evidence.folder / story.LEDGER)
    findings = check.check(records, rows)
    unknown = {uscc for uscc, _ in evidence.unknown}
    scripted = {unit["uscc"] for unit in records["units"] if unit["phone"] == "dropped"}
    under_way = set(evidence.harmed) | scripted
    told = {(uscc, stage.partition(":")[0]) for uscc, stage in evidence.unknown}
    # A correction that nobody knows the end of brings nobody to the door.
    unexplained = {
        uscc
        for uscc, stage in told
        if uscc not in under_way or (stage != "correction" and uscc not in evidence.visited)
    }
    excused = unknown - unexplained
    # A first reminder of unknown outcome may be missing, and then the second counts from an end 72 hours later,
    # which the ledger does not show; a second one of unknown outcome may be missing itself.
    may_be: dict[str, set[str]] = {}
    for uscc, stage in told:
        if uscc in excused:
            may_be.setdefault(uscc, set()).update(EXCUSED.get(stage, ()))
    # A joint second message speaks of a unit whose first one the ledger does not show.
    phones = {
        unit[way] for unit in records["units"] if unit["uscc"] in excused for way in ("mobile", "openid")
    }
    joint = {f"row {row.seq}" for row in rows if row.recipient in phones}
    findings = [f for f in findings if f.kind != "wrong count" or f.subject not in joint]
    findings = [
        f
        for f in findings
        if f.kind not in may_be.get(f.subject, ())
        and not _under_way(f, evidence.stops)
        and not _held(f, evidence)
    ]
    lost = [f for f in findings if f.kind in LOST]
    kinds = Counter(finding.kind.rpartition(": ")[2] for finding in findings)
    other = [f for f in findings if f.kind not in LOST]
    late = late_looks(evidence.looks, records)
    for finding in [*lost, *other]:
        console.print(f"finding: {finding}")
    for uscc in sorted(unexplained):
        console.print(f"finding: unknown: {uscc}: matches no kill and no fault, or has no visit task")
    for uscc in late:
        console.print(f"finding: late look: {uscc}: its last look began after its enrolment was answered")
    return {
        "registered": len(records["units"]),
        "unknown_final": len(unknown),
        "lost": len({f.subject for f in lost} | unexplained),
        "doubled": kinds["doubled"],
        "after_enrolment": max(kinds["after enrolment"], len(late)),
        "other_findings": len(other) - kinds["doubled"] - kinds["after enrolment"],
    }


def came_true(figures: dict[str, Any], *, kills: int) -> bool:
    """Whether the run counts: killed as often as asked, and nothing went wrong."""
    wrong = ("lost", "doubled", "after_enrolment", "other_findings")
    return figures["kills"] >= kills and not any(figures[name] for name in wrong)


def _held(finding: check.Finding, evidence: Evidence) -> bool:
    """Whether a message that came late was looked at in time, on its very day, and then held by what was harmed."""
    if finding.kind.rpartition(": ")[2] != "late" or finding.subject not in evidence.harmed:
        return False
    by = datetime.fromisoformat(finding.text.rpartition(" ")[2])
    in_time = [at for uscc, at in evidence.looks if uscc == finding.subject and at <= by]
    return any(at.astimezone(by.tzinfo).date() == by.date() for at in in_time)  # no look of an earlier stage


def _under_way(finding: check.Finding, stops: Sequence[Span]) -> bool:
    """Whether a message was taken after an enrolment because somebody stood still with it, or its line did."""
    if finding.kind.rpartition(": ")[2] != "after enrolment":
        return False
    at = datetime.fromisoformat(finding.text.rpartition(" ")[2])
    return any(began <= at <= ended + ON_ITS_WAY for began, ended in stops)


def late_looks(looks: Sequence[tuple[str, datetime]], records: dict[str, Any]) -> list[str]:
    """Units whose attempt was looked at after an enrolment in force had been answered."""
    answered: dict[str, datetime] = {}
    for unit in records["units"]:
        cancelled = {fact["of"] for fact in unit["facts"] if fact["fact"] == "cancelled"}
        for fact in unit["facts"]:
            if fact["fact"] != "participation" or fact["key"] in cancelled:
                continue
            if fact["form"] != "employer" or fact["insurance"] not in STOPPING:
                continue
            at = max(
                datetime.fromisoformat(fact["answered_at"]),
                datetime.fromisoformat(f"{fact['started_on']}T00:00:00+08:00"),
            )
            answered[unit["uscc"]] = min(at, answered.get(unit["uscc"], at))
    return [uscc for uscc, looked_at in looks if uscc in answered and looked_at > answered[uscc]]
