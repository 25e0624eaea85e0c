"""Which units a message is about. A joint one names three of those behind a phone and counts the others."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from services.demo.check.due import Story
from services.demo.check.finding import Finding
from services.demo.check.law import MOST_NAMES
from services.demo.check.records import MAY, MUST, Unit, View
from services.demo.check.rows import Row

OfUnit = Mapping[str, Sequence[Row]]
"""The rows before this one, by unit."""


def counted(unit: Unit, rows: Iterable[Row]) -> list[Row]:
    """The rows that were handed over; at a phone that the carrier refuses, the try is all there can be."""
    return [r for r in rows if r.accepted or (unit.phone == "refused" and not r.by_wechat)]


def covered(story: Story, row: Row, before: OfUnit) -> list[Unit]:
    """The units that a message is about; none when it is nobody's."""
    if row.by_wechat and row.recipient in story.by_openid:
        return [story.by_openid[row.recipient]]
    named = story.named_in(row.content)
    if row.count is None or row.is_correction:
        return named or story.behind.get(row.recipient, [])[:1]
    due = (u for u in _due_behind(story, row, before, MAY) if u not in named)
    return [*named, *(unit for unit, _ in zip(due, range(row.count - len(named)), strict=False))]


def judge_joint(story: Story, row: Row, before: OfUnit) -> Iterator[Finding]:
    """Whether a message to a phone that serves several units speaks of all that are due, and of no others."""
    if row.by_wechat or row.is_correction or len(story.behind.get(row.recipient, ())) < 2:
        return
    says = row.count or 1
    least, most = (len(_due_behind(story, row, before, view)) for view in (MUST, MAY))
    named = len(set(story.named_in(row.content)))
    if not least <= says <= most or named != min(says, MOST_NAMES):
        yield Finding(
            "wrong count",
            f"row {row.seq}",
            f"speaks of {says} units and names {named}; {least} to {most} are due behind the phone",
        )


def _due_behind(story: Story, row: Row, before: OfUnit, view: View) -> list[Unit]:
    return [u for u in story.behind.get(row.recipient, ()) if _is_due(story, u, row, before[u.uscc], view)]


def _is_due(story: Story, unit: Unit, row: Row, before: Sequence[Row], view: View) -> bool:
    firsts = counted(unit, [r for r in before if r.is_first])
    if row.is_first:
        return not firsts and story.hindrance(unit, row.at, view) is None
    again = any(r.is_second for r in before)
    return bool(firsts) and not again and story.second_hindrance(unit, firsts[0], row.at, view) is None
