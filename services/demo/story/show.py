"""What the story shows: the figures of services and check side by side, messages, towns, the verdict."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from services.demo import check
from services.demo.city import START
from services.demo.story.suite import Addresses, Suite


def progress_bar(console: Console) -> Progress:
    """How far the story is, in days."""
    day = TextColumn("day {task.completed:.0f} of {task.total:.0f}")
    return Progress(TextColumn("{task.description}"), BarColumn(), day, TimeElapsedColumn(), console=console)


def show_day(progress: Progress, days: TaskID, now: datetime) -> None:
    """Moves the bar to an instant."""
    progress.update(days, completed=(now - START) / timedelta(days=1), description=f"{now:%Y-%m-%d %H:%M}")


def show_figures(console: Console, services: Mapping[str, int], checked: Mapping[str, int]) -> bool:
    """Both columns of figures; returns whether they agree."""
    table = Table(title="What happened in the city", title_justify="left")
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


def show_funnel(console: Console, told: Mapping[str, Any]) -> bool:
    """Where every lead is; returns whether each is in one place, and none was found lost by the daily check."""
    total, listed = sum(told["places"].values()), sum(told["listed"].values())
    sound = told["checked"] is None or told["checked"]["sound"]
    table = Table(title="The funnel: every lead in one place", title_justify="left")
    table.add_column("")
    table.add_column("leads", justify="right")
    for place, count in told["places"].items():
        table.add_row(place, str(count))
    table.add_section()
    agrees = total == listed == told["leads"]
    table.add_row("sum", str(total), style="" if agrees else "red")
    by_state = ", ".join(f"{count} {state}" for state, count in sorted(told["listed"].items()))
    table.add_row(f"listed: {by_state}", str(listed), style="" if agrees else "red")
    console.print(table)
    return bool(agrees and sound)


def show_messages(console: Console, suite: Suite) -> None:
    """The newest message of each kind; of joint ones that about the most units."""
    messages = suite.ask("GET", "/sandbox/messages", params={"limit": "500"})["items"]
    accepted = [message for message in messages if message["verdict"] == "accepted"]
    shown: dict[str, Mapping[str, Any]] = {}
    for message in sorted(accepted, key=lambda m: _row(m).count or 0, reverse=True):
        shown.setdefault(_kind(message), message)
    for kind, message in shown.items():
        title = f"{kind} to {message['recipient']}, {message['received_at'][:16]}"
        console.print(Panel(Text(_text(message)), title=title, title_align="left"))


def _row(message: Mapping[str, Any]) -> check.Row:
    return check.Row(0, START, "", message["content"], accepted=True, channel=message["channel"])


def _kind(message: Mapping[str, Any]) -> str:
    row = _row(message)
    if row.by_wechat:
        return "WeChat"
    if row.is_correction:
        return "correction"
    return "joint message" if row.count else "second reminder" if row.is_second else "reminder"


def _text(message: Mapping[str, Any]) -> str:
    """What the person reads; of a WeChat message the values of its fields."""
    content: str = message["content"]
    return "\n".join(json.loads(content)["data"].values()) if message["channel"] == "wechat" else content


def show_towns(console: Console, suite: Suite) -> None:
    """The targets, by town."""
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


def show_verdict(console: Console, findings: Sequence[check.Finding], *, agree: bool) -> None:
    """Whether the story came true, and if not, why."""
    for finding in findings:
        console.print(f"[red]✗[/] {finding}", highlight=False)
    if findings:
        console.print(f"[bold red]The story did not come true: {len(findings)} findings.[/]")
    elif not agree:
        console.print("[bold red]The messages are right, but services and check count differently.[/]")
    else:
        console.print("[bold green]The story came true: every message once, in time, to the right party.[/]")


def show_addresses(console: Console, addresses: Addresses) -> None:
    """Where to look next."""
    for address, what in (
        (f"{addresses.clock}/", "the first page, to look at in a browser"),
        (f"{addresses.clock}/demo/clock", "what day it is"),
        (f"{addresses.sandbox}/messages", "what the carriers received, numbers masked"),
        (
            f"{addresses.registry}/openapi.json",
            "the registry's HTTP contract; the others have theirs there too",
        ),
    ):
        console.print(f"  {address}   {what}", highlight=False)
