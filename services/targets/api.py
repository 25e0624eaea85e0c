"""The HTTP routes of targets."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from services.targets.domain import Line, Plan, Target, by_month, by_town, progress
from services.targets.schemas import By, ProgressOut
from services.targets.store import Figures
from services.targets.work import TargetsWork
from shared.clock import today
from shared.errors import FieldError, unprocessable
from shared.http import FIRST_YEAR, LAST_YEAR, Caller, StrictRoute, access, caller
from shared.service import Core


def routes(plan: Plan) -> APIRouter:
    """The routes, answering for this plan."""
    router = APIRouter(route_class=StrictRoute, tags=["progress"])

    @router.get("/v1/progress", dependencies=[access("progress:read")])
    async def get_progress(
        request: Request,
        who: Annotated[Caller, Depends(caller)],
        year: Annotated[int | None, Query(ge=FIRST_YEAR, le=LAST_YEAR)] = None,
        target: Annotated[str | None, Query(max_length=16)] = None,
        by: By | None = None,
    ) -> ProgressOut:
        """How far each target is: actual, 完成率, 时序进度 and the difference in percentage points.

        `year` is the current one unless given, `target` an id of the plan such as T1. `by=town` adds a line
        per town and the bucket 市直/未划分, `by=month` one per month. Who acts for a town sees only its line.
        """
        if by == "department":
            raise _no_split_by_department()
        core: Core[TargetsWork] = request.app.state.core
        day = today(core.clock.now())
        shown_year = year or day.year
        targets = _chosen(plan, target)
        tallies = await core.read(lambda db: Figures(db).tallies(shown_year, day))
        found = []
        for item in targets:
            lines: tuple[Line, ...] = ()
            if by == "town":
                lines = by_town(item, plan.towns, tallies)
                lines = tuple(line for line in lines if who.town in (None, line.town, line.code))
            elif by == "month":
                lines = by_month(item, shown_year, day, tallies)
            found.append(replace(progress(item, shown_year, day, tallies), lines=lines))
        return ProgressOut.of(shown_year, day, by, found)

    return router


def _chosen(plan: Plan, wanted: str | None) -> tuple[Target, ...]:
    targets = tuple(target for target in plan.targets if wanted in (None, target.id))
    if not targets:
        known = ", ".join(target.id for target in plan.targets)
        raise unprocessable(
            [
                FieldError(
                    "/query/target",
                    "unknown_target",
                    f"没有这个目标；可用：{known}",
                    f"unknown target; known are: {known}",
                )
            ]
        )
    return targets


def _no_split_by_department() -> Exception:
    return unprocessable(
        [
            FieldError(
                "/query/by",
                "no_split_by_department",
                "尚未导入按部门的目标分解，请用 by=town 或 by=month",
                "no split of the targets by department is imported; use by=town or by=month",
            )
        ]
    )
