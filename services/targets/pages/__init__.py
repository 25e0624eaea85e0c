"""What targets shows people: how far each counted target of the plan is this year."""

from datetime import datetime
from typing import Final

import sqlalchemy as sa
from markupsafe import Markup

from services.targets.domain import Plan, Target, by_town, progress
from services.targets.store import Figures
from shared.clock import today
from shared.pages import ListPage, Pages, Templates, Words, shown

_COLUMNS: Final = (
    Words("镇街", "town"),
    Words("新增参保（人）", "newly insured"),
    Words("续保", "resumed"),
    Words("转入", "transferred"),
)
_NONE: Final = Words("城市数据包没有镇街", "The city pack names no town")


def pages(plan: Plan) -> Pages:
    """The pages, for this plan."""
    templates = Templates("services.targets")

    def fragment(db: sa.Connection, now: datetime, base: str) -> Markup:
        day = today(now)
        tallies = Figures(db).tallies(day.year, day)
        counted = [progress(target, day.year, day, tallies) for target in plan.targets if target.is_counted]
        others = len(plan.targets) - len(counted)
        return templates.render("fragment.html", base=base, year=day.year, counted=counted, others=others)

    def listing(db: sa.Connection, now: datetime, name: str, _skip: int) -> ListPage | None:
        if name == "uncounted":
            return _uncounted(plan, today(now).year)
        target = next((item for item in plan.targets if item.id == name and item.is_counted), None)
        return _towns(db, plan, target, now) if target else None

    return Pages(Words("目标任务", "targets"), fragment, listing)


def _towns(db: sa.Connection, plan: Plan, target: Target, now: datetime) -> ListPage:
    day = today(now)
    lines = by_town(target, plan.towns, Figures(db).tallies(day.year, day))
    rows = [
        (line.town, line.actual.new, line.actual.resumed, line.actual.transferred)
        for line in lines
        if line.actual
    ]
    api = f"/targets/v1/progress?year={day.year}&target={target.id}&by=town"
    return ListPage(Words(target.name, target.id), _COLUMNS, rows, len(rows), api, _NONE)


def _uncounted(plan: Plan, year: int) -> ListPage:
    rows = [
        (
            target.id,
            target.name,
            f"{shown(target.by_year[year])} {target.unit}" if year in target.by_year else None,
        )
        for target in plan.targets
        if not target.is_counted
    ]
    return ListPage(
        Words("尚无数据来源的目标", "targets without data yet"),
        (Words("编号", "id"), Words("目标", "target"), Words(f"{year} 年目标", f"for {year}")),
        rows,
        len(rows),
        f"/targets/v1/progress?year={year}",
        Words("每项目标都有数据", "Every target has data"),
    )
