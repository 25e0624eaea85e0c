"""The HTTP routes of matching."""

from collections.abc import Collection
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request, Response

from services.matching import store
from services.matching.commands import (
    ActOnLead,
    Granted,
    GrantExemption,
    ReleaseStock,
    ReportVisit,
    act_on_lead,
    grant_exemption,
    release_stock,
    report_visit,
)
from services.matching.domain import Action, Case, LeadState, Rule
from services.matching.funnel import Check, count_places
from services.matching.ladder import VisitState
from services.matching.schemas import (
    CheckOut,
    ClockOut,
    ExemptionIn,
    ExemptionOut,
    FunnelOut,
    HistoryOut,
    LeadAction,
    LeadDetail,
    LeadOut,
    ParticipationOut,
    Released,
    RuleOut,
    StockOut,
    StockRelease,
    VisitOut,
    VisitReport,
)
from services.matching.work import MatchingWork
from shared.clock import today
from shared.errors import FieldError, not_found, not_one_of, unprocessable
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


def routes(rule: Rule, towns: Collection[str]) -> APIRouter:
    """The routes, answering for this rule and these towns. Who acts for a town sees only its rows."""
    router = APIRouter(route_class=StrictRoute)
    _rules_and_clocks(router, rule)
    _leads(router, rule, towns)
    _visits(router, towns)
    _exemptions(router)
    _stock(router, towns)
    return router


def _check_town(town: str | None, towns: Collection[str], pointer: str = "/query/town") -> None:
    if town is not None and town not in towns:
        raise unprocessable([not_one_of(pointer, towns, code="unknown_town")])


def _rules_and_clocks(router: APIRouter, rule: Rule) -> None:
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


def _leads(router: APIRouter, rule: Rule, towns: Collection[str]) -> None:
    # `rule` below is the filter; the funnel needs the rule itself.
    ladder = rule.ladder

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
        _check_town(town, towns)
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
        """Resolves, exempts, reopens, pauses or resumes a lead, or notes something. 409 where it can't be.

        The reason is about the unit: ID numbers and mobile numbers in it are masked before it is kept.
        """
        if misplaced := _misplaced(body):
            raise unprocessable(misplaced)
        item = ActOnLead(
            lead_id,
            body.action,
            body.end.value if body.end else None,
            body.reason,
            who.town,
            who.cause,
            proof=body.proof or "",
            expires_on=body.expires_on,
        )
        return await answer(request, act_on_lead, item, _lead_answer)

    @router.get("/v1/funnel", dependencies=[access("leads:read")], tags=["leads"])
    async def get_funnel(request: Request, who: Who, *, town: Word = None) -> FunnelOut:
        """How many leads are in each place of the funnel, and the newest daily check."""
        core = _core(request)
        _check_town(town, towns)
        if town is not None and who.town not in (None, town):
            raise not_found("不属于您的镇街", "It is not your town")
        day = today(core.clock.now())

        def ask(db: sa.Connection) -> FunnelOut:
            where = town or who.town
            places = count_places(ladder, store.count_leads(db, town=where))
            last = store.last_check(db) if who.town is None else None
            return FunnelOut(
                leads=sum(places.values()),
                places=places,
                overdue=store.count_overdue(db, day, town=where),
                checked=CheckOut.model_validate(Check(**last._mapping)) if last else None,
            )

        return await core.read(ask)


def _visits(router: APIRouter, towns: Collection[str]) -> None:
    @router.get("/v1/visits", dependencies=[access("visits:read")], tags=["visits"])
    async def get_visits(
        request: Request,
        who: Who,
        *,
        uscc: Word = None,
        town: Word = None,
        state: VisitState | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> Page[VisitOut]:
        """Visits that towns are asked for, oldest first."""
        _check_town(town, towns)
        (after,) = decode_cursor(cursor, int) if cursor else (0,)
        rows = await _core(request).read(
            lambda db: store.list_visits(
                db, asked_town=town, state=state, town=who.town, after=after, limit=limit, uscc=uscc
            )
        )
        shown = page(rows, limit, lambda row: [row.seq])
        return Page[VisitOut](
            items=[VisitOut.model_validate(row) for row in shown.items], next_cursor=shown.next_cursor
        )

    @router.post("/v1/visits/{visit_id}/result", dependencies=[access("visits:write")], tags=["visits"])
    async def post_visit_result(request: Request, who: Who, visit_id: str, body: VisitReport) -> Response:
        """Reports what a visit found; answers with the lead and its next step. 409 when it is closed already."""
        item = ReportVisit(visit_id, body.result, body.note, who.town, who.cause)
        return await answer(request, report_visit, item, _lead_answer)


def _exemptions(router: APIRouter) -> None:
    @router.get("/v1/exemptions", dependencies=[access("leads:read")], tags=["exemptions"])
    async def get_exemptions(
        request: Request, who: Who, *, uscc: Word = None, cursor: Cursor = None, limit: Limit = 50
    ) -> Page[ExemptionOut]:
        """Exemptions by USCC, those that are over or lifted too."""
        (after,) = decode_cursor(cursor, str) if cursor else ("",)
        rows = await _core(request).read(
            lambda db: store.list_exemptions(db, uscc=uscc, town=who.town, after=after, limit=limit)
        )
        return page([ExemptionOut.model_validate(row) for row in rows], limit, lambda row: [row.uscc])

    @router.post("/v1/exemptions", dependencies=[access("leads:write")], tags=["exemptions"])
    async def post_exemption(request: Request, who: Who, body: ExemptionIn) -> Response:
        """Exempts a unit, whether it has a lead or not; 201, or 200 in place of an earlier exemption."""
        item = GrantExemption(body.uscc, body.reason, body.proof, body.expires_on, who.town, who.cause)
        return await answer(request, grant_exemption, item, _exemption_answer)


def _stock(router: APIRouter, towns: Collection[str]) -> None:
    @router.get("/v1/stock", dependencies=[access("leads:read")], tags=["stock"])
    async def get_stock(request: Request, who: Who) -> StockOut:
        """How many units wait in the stock, since when, and where."""
        return StockOut.of(await _core(request).read(lambda db: store.stock(db, town=who.town)))

    @router.post("/v1/stock/release", dependencies=[access("leads:write")], tags=["stock"])
    async def post_release(request: Request, who: Who, body: StockRelease) -> Response:
        """Lets the oldest of the stock go on; a lead opens where the facts still ask for one."""
        _check_town(body.town, towns, "/town")
        within = tuple(sorted({town for town in (body.town, who.town) if town is not None}))
        item = ReleaseStock(body.count, within, who.cause)
        return await answer(request, release_stock, item, _released_answer)


_END_MISPLACED = FieldError(
    "/end", "end_misplaced", "办结（resolve）须填 end，其他操作不得填", "give end with resolve, and only then"
)


_PROOF_MISPLACED = FieldError(
    "/proof",
    "proof_misplaced",
    "豁免（exempt）须填 proof，其他操作不得填",
    "give proof with exempt, and only then",
)
_EXPIRY_MISPLACED = FieldError(
    "/expires_on",
    "expiry_misplaced",
    "只有豁免（exempt）可填 expires_on",
    "give expires_on with exempt only",
)


def _misplaced(body: LeadAction) -> list[FieldError]:
    exempts = body.action is Action.EXEMPT
    wrong = [
        ((body.action is Action.RESOLVE) != (body.end is not None), _END_MISPLACED),
        (exempts != (body.proof is not None), _PROOF_MISPLACED),
        (not exempts and body.expires_on is not None, _EXPIRY_MISPLACED),
    ]
    return [error for applies, error in wrong if applies]


def _core(request: Request) -> Core[MatchingWork]:
    core: Core[MatchingWork] = request.app.state.core
    return core


def _lead_answer(case: Case) -> Answer:
    return Answer(200, LeadOut.of_case(case).model_dump(mode="json"))


def _exemption_answer(granted: Granted) -> Answer:
    shown = ExemptionOut.model_validate(granted.row).model_dump(mode="json")
    return Answer(201 if granted.new else 200, shown)


def _released_answer(released: int) -> Answer:
    return Answer(200, Released(released=released).model_dump())


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
