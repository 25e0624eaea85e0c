"""The HTTP routes of matching."""

from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request, Response

from services.matching import store
from services.matching.commands import ActOnLead, act_on_lead
from services.matching.domain import Action, Case, LeadState, Rule
from services.matching.schemas import (
    ClockOut,
    HistoryOut,
    LeadAction,
    LeadDetail,
    LeadOut,
    ParticipationOut,
    RuleOut,
    VisitOut,
)
from services.matching.work import MatchingWork
from shared.errors import FieldError, not_found, unprocessable
from shared.http import (
    Caller,
    Cursor,
    Limit,
    Page,
    StrictRoute,
    access,
    answer,
    caller,
    decode_cursor,
    page,
)
from shared.service import Core
from shared.storage.idempotency import Answer

PARTICIPATIONS_SHOWN = 100

Who = Annotated[Caller, Depends(caller)]
Word = Annotated[str | None, Query(max_length=64)]


def routes(rule: Rule) -> APIRouter:
    """The routes, answering for this rule. Who acts for a town sees only its rows."""
    router = APIRouter(route_class=StrictRoute)

    @router.get("/v1/rules", dependencies=[access("leads:read")], tags=["rules"])
    async def get_rules() -> Page[RuleOut]:
        """The rules in force, with their source."""
        return Page[RuleOut](items=[RuleOut.of(rule)], next_cursor=None)

    @router.get("/v1/clocks", dependencies=[access("clocks:read")], tags=["clocks"])
    async def get_clocks(
        request: Request, who: Who, uscc: Annotated[str, Query(max_length=18)]
    ) -> Page[ClockOut]:
        """The legal clock of a unit: where it stands, when it ends, what it waits for."""

        def ask(db: sa.Connection) -> list[ClockOut]:
            row = store.find_clock(db, uscc, town=who.town)
            return [ClockOut.of(row, store.complete(db).get(row.partition))] if row else []

        return Page[ClockOut](items=await _core(request).read(ask), next_cursor=None)

    @router.get("/v1/leads", dependencies=[access("leads:read")], tags=["leads"])
    async def get_leads(
        request: Request,
        who: Who,
        *,
        rule: Word = None,
        uscc: Word = None,
        town: Word = None,
        state: LeadState | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> Page[LeadOut]:
        """Leads by id."""
        (after,) = decode_cursor(cursor, str) if cursor else ("",)
        filters = {"rule": rule, "uscc": uscc, "town": town, "state": state}
        rows = await _core(request).read(
            lambda db: store.list_leads(db, filters=filters, town=who.town, after=after, limit=limit)
        )
        return page([LeadOut.model_validate(row) for row in rows], limit, lambda lead: [lead.id])

    @router.get("/v1/leads/{lead_id}", dependencies=[access("leads:read")], tags=["leads"])
    async def get_lead(request: Request, who: Who, lead_id: str) -> LeadDetail:
        """A lead with the evidence it rests on and its history."""
        found = await _core(request).read(lambda db: _detail(db, lead_id, who.town))
        if found is None:
            raise not_found("没有这条线索，或不属于您的镇街", "No such lead, or it is not your town's")
        return found

    @router.post("/v1/leads/{lead_id}/actions", dependencies=[access("leads:write")], tags=["leads"])
    async def post_action(request: Request, who: Who, lead_id: str, body: LeadAction) -> Response:
        """Resolves, reopens, pauses or resumes a lead, or notes something about it. 409 where it can't be.

        The reason is about the unit: ID numbers and mobile numbers in it are masked before it is kept.
        """
        if (body.action is Action.RESOLVE) != (body.end is not None):
            raise unprocessable([_END_MISPLACED])
        end = body.end.value if body.end else None
        item = ActOnLead(lead_id, body.action, end, body.reason, who.town, who.cause)
        return await answer(request, act_on_lead, item, _lead_answer)

    @router.get("/v1/visits", dependencies=[access("visits:read")], tags=["visits"])
    async def get_visits(
        request: Request,
        who: Who,
        *,
        town: Word = None,
        state: Word = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> Page[VisitOut]:
        """Visits that towns are asked for, oldest first."""
        (after,) = decode_cursor(cursor, int) if cursor else (0,)
        rows = await _core(request).read(
            lambda db: store.list_visits(
                db, asked_town=town, state=state, town=who.town, after=after, limit=limit
            )
        )
        shown = page(rows, limit, lambda row: [row.seq])
        return Page[VisitOut](
            items=[VisitOut.model_validate(row) for row in shown.items], next_cursor=shown.next_cursor
        )

    return router


_END_MISPLACED = FieldError(
    "/end", "end_misplaced", "办结（resolve）须填 end，其他操作不得填", "give end with resolve, and only then"
)


def _core(request: Request) -> Core[MatchingWork]:
    core: Core[MatchingWork] = request.app.state.core
    return core


def _lead_answer(case: Case) -> Answer:
    return Answer(200, LeadOut.of_case(case).model_dump(mode="json"))


def _detail(db: sa.Connection, lead_id: str, town: str | None) -> LeadDetail | None:
    row = store.find_lead(db, lead_id, town=town)
    if row is None:
        return None
    seen = store.participations_of(db, row.uscc, opened_at=row.opened_at, limit=PARTICIPATIONS_SHOWN)
    return LeadDetail(
        **LeadOut.model_validate(row).model_dump(),
        evidence=row.evidence,
        participations=[ParticipationOut.model_validate(found) for found in seen],
        history=[HistoryOut.model_validate(line) for line in store.history_of(db, lead_id)],
    )
