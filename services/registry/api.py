"""The HTTP routes of registry: parse, command, answer."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Annotated, TypeVar

import prometheus_client
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from services.registry.commands import (
    CancelParticipation,
    ChangeUnit,
    DeclareComplete,
    EndParticipation,
    MoveUnit,
    PublishYear,
    Recorded,
    RecordParticipation,
    Registered,
    RegisterUnit,
    RepublishContacts,
    cancel_participation,
    change_unit,
    close_unit,
    declare_complete,
    end_participation,
    no_such_participation,
    no_such_unit,
    publish_year,
    record_participations,
    recorded,
    register_units,
    republish_contacts,
    resume_unit,
    suspend_unit,
)
from services.registry.domain import Batch, City, DataSet, Insurance, RejectedRow, look, unit_doubts
from services.registry.intake.apply import ReceiveBatch, SettleRow, receive_batch, settle_row
from services.registry.intake.files import Files
from services.registry.intake.report import report_head, report_rows
from services.registry.intake.withdraw import WithdrawBatch, own_batch, withdraw_batch
from services.registry.schemas import (
    BatchOut,
    BatchRow,
    CancelIn,
    CloseIn,
    CompleteIn,
    DataSetOut,
    EndIn,
    LastLookIn,
    LastLookOut,
    Look,
    ParticipationIn,
    ParticipationOut,
    RepublishedOut,
    RepublishIn,
    ResumeIn,
    SettledOut,
    SettleIn,
    SuspendIn,
    UnitDetail,
    UnitIn,
    UnitOut,
    UnitPatch,
    UnitRow,
    Uscc,
    WithdrawIn,
    YearIn,
    YearOut,
    unit_out,
)
from services.registry.store import Store, Vault
from services.registry.work import RegistryWork
from shared.calendar import Year
from shared.clock import today
from shared.datasets.contract import Contract
from shared.errors import FieldError, Problem, not_found, not_one_of, unprocessable
from shared.http import (
    FIRST_YEAR,
    LAST_YEAR,
    Caller,
    Cursor,
    Day,
    FileRoute,
    Limit,
    Page,
    PlainRoute,
    RowId,
    StrictRoute,
    access,
    answer,
    answer_response,
    caller,
    decode_cursor,
    etag,
    if_match,
    page,
    stream_body,
)
from shared.ids import new_event_ids
from shared.service import Core
from shared.storage.idempotency import Answer

T = TypeVar("T")

router = APIRouter(route_class=StrictRoute)
plain = APIRouter(route_class=PlainRoute)
"""What other systems ask most."""


@dataclass(frozen=True)
class Room:
    """What the routes need; on `app.state.room`. `lookers` are the last look's own reading threads.

    `looked` counts its answers.
    """

    core: Core[RegistryWork]
    vault: Vault
    city: City
    lookers: ThreadPoolExecutor
    looked: prometheus_client.Counter
    files: Files
    contracts: Mapping[str, Contract]

    @property
    def today(self) -> date:
        """The business day."""
        return today(self.core.clock.now())

    async def read(self, ask: Callable[[Store], T]) -> T:
        """Asks the store in a reading thread."""
        return await self.core.read(lambda db: ask(Store(db, self.vault)))


async def _room(request: Request) -> Room:
    room: Room = request.app.state.room
    return room


Here = Annotated[Room, Depends(_room)]
Who = Annotated[Caller, Depends(caller)]
Code = Annotated[Uscc, Path()]
YearNumber = Annotated[int, Path(ge=FIRST_YEAR, le=LAST_YEAR)]

# -- units -----------------------------------------------------------------------------------------------


@plain.post(
    "/v1/units", dependencies=[access("units:write")], response_model=UnitOut, status_code=201, tags=["units"]
)
async def register(body: UnitIn, request: Request, who: Who) -> Response:
    """Registers a unit. 200: it is known with the same facts; 409: with others, use PATCH."""
    item = RegisterUnit(cause=who.cause, within=who.town, **body.facts())

    def respond(outcome: Registered) -> Answer:
        made = _unit_answer(outcome)
        where = {"Location": f"{request.scope.get('root_path', '')}/v1/units/{outcome.unit.uscc}"}
        return Answer(201 if outcome.is_new else 200, made.body, {**made.headers, **where})

    return await answer(request, register_units, item, respond)


@router.patch(
    "/v1/units/{uscc}", dependencies=[access("units:write")], response_model=UnitOut, tags=["units"]
)
async def change(uscc: Code, body: UnitPatch, request: Request, who: Who) -> Response:
    """Corrects facts or contacts, or confirms a code whose check character does not fit."""
    item = ChangeUnit(who.cause, who.town, uscc, body.changes(), body.new_contacts(), if_match(request))
    return await answer(request, change_unit, item, _unit_answer)


@router.post(
    "/v1/units/{uscc}/close", dependencies=[access("units:write")], response_model=UnitOut, tags=["units"]
)
async def close(uscc: Code, body: CloseIn, request: Request, who: Who) -> Response:
    """The unit ended (注销)."""
    item = MoveUnit(who.cause, who.town, uscc, body.closed_on, if_match(request))
    return await answer(request, close_unit, item, _unit_answer)


@router.post(
    "/v1/units/{uscc}/suspend", dependencies=[access("units:write")], response_model=UnitOut, tags=["units"]
)
async def suspend(uscc: Code, body: SuspendIn, request: Request, who: Who) -> Response:
    """The unit is out of business for a while (歇业)."""
    item = MoveUnit(who.cause, who.town, uscc, body.suspended_on, if_match(request))
    return await answer(request, suspend_unit, item, _unit_answer)


@router.post(
    "/v1/units/{uscc}/resume", dependencies=[access("units:write")], response_model=UnitOut, tags=["units"]
)
async def resume(uscc: Code, body: ResumeIn, request: Request, who: Who) -> Response:
    """The unit is in business again."""
    item = MoveUnit(who.cause, who.town, uscc, body.resumed_on, if_match(request))
    return await answer(request, resume_unit, item, _unit_answer)


@router.get(
    "/v1/units/{uscc}", dependencies=[access("units:read")], response_model=UnitDetail, tags=["units"]
)
async def unit(uscc: Code, who: Who, room: Here) -> Response:
    """One unit with masked contacts, how many people it insures today, and what somebody should look at."""
    day = room.today

    def ask(store: Store) -> tuple[UnitDetail, str]:
        found = store.units([uscc]).get(uscc)
        if found is None or who.town not in (None, found.town):
            raise no_such_unit()
        contacts = store.contacts([uscc]).get(uscc, ())
        insured: Counter[Insurance] = Counter()
        for (insurance, _form), people in store.in_force([uscc], day).get(uscc, {}).items():
            insured[insurance] += people
        shown = unit_out(found, contacts, unit_doubts(found, contacts))
        return UnitDetail(**shown, insured=insured), etag(found.version)

    detail, tag = await room.read(ask)
    return answer_response(Answer(200, detail.model_dump(mode="json"), {"ETag": tag}))


@router.get("/v1/units", dependencies=[access("units:read")], tags=["units"])
async def units(
    *,
    who: Who,
    room: Here,
    town: str | None = None,
    insured: bool | None = None,
    q: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[UnitRow]:
    """Units by code. Who acts for a town sees only its units.

    `insured`: whether anybody is insured through the unit as an employer today, in any insurance; `q`: part of
    the name or beginning of the code.
    """
    if town is not None and town not in room.city.towns:
        raise unprocessable([not_one_of("/query/town", sorted(room.city.towns), code="unknown_town")])
    towns = {name for name in (town, who.town) if name is not None}
    (after,) = decode_cursor(cursor, str) if cursor else ("",)
    day = room.today
    found = await room.read(
        lambda store: store.unit_page(
            towns=towns, insured=insured, q=q, after=after, limit=limit + 1, today=day
        )
    )
    return page([UnitRow.of(item) for item in found], limit, lambda row: [row.uscc])


def _unit_answer(outcome: Registered) -> Answer:
    shown = UnitOut(**unit_out(outcome.unit, outcome.contacts, outcome.doubts))
    return Answer(200, shown.model_dump(mode="json"), {"ETag": etag(outcome.unit.version)})


@router.post(
    "/v1/contacts/republish",
    dependencies=[access("operations", whole_city=True)],
    response_model=RepublishedOut,
    tags=["operations"],
)
async def republish(body: RepublishIn, request: Request, who: Who) -> Response:
    """Tells the other services the contacts of units once more, a portion at a time."""
    item = RepublishContacts(who.cause, body.limit, body.uscc, body.after or "")

    def respond(told: list[str]) -> Answer:
        more = told[-1] if len(told) == body.limit else None
        return Answer(200, {"republished": len(told), "next": more})

    return await answer(request, republish_contacts, item, respond)


# -- participations --------------------------------------------------------------------------------------


@router.post(
    "/v1/participations",
    dependencies=[access("participations:write")],
    response_model=ParticipationOut,
    status_code=201,
    tags=["participations"],
)
async def record(body: ParticipationIn, request: Request, who: Who) -> Response:
    """Records that somebody is insured. 200: the same spell is recorded already, under the id given."""
    item = RecordParticipation(cause=who.cause, within=who.town, **body.facts())

    def respond(outcome: Recorded) -> Answer:
        where = f"{request.scope.get('root_path', '')}/v1/participations/{outcome.participation.id}"
        body = _participation_answer(outcome).body
        return Answer(201 if outcome.is_new else 200, body, {"Location": where})

    return await answer(request, record_participations, item, respond)


@router.post(
    "/v1/participations/{id}/end",
    dependencies=[access("participations:write")],
    response_model=ParticipationOut,
    tags=["participations"],
)
async def end(id: RowId, body: EndIn, request: Request, who: Who) -> Response:  # noqa: A002 - a fixed path
    """The last day of a participation."""
    item = EndParticipation(who.cause, who.town, id, body.ended_on)
    return await answer(request, end_participation, item, _participation_answer)


@router.post(
    "/v1/participations/{id}/cancel",
    dependencies=[access("participations:write")],
    response_model=ParticipationOut,
    tags=["participations"],
)
async def cancel(id: RowId, body: CancelIn, request: Request, who: Who) -> Response:  # noqa: A002
    """A participation was recorded in error: it never was."""
    item = CancelParticipation(who.cause, who.town, id, body.reason)
    return await answer(request, cancel_participation, item, _participation_answer)


@router.get("/v1/participations/{id}", dependencies=[access("participations:read")], tags=["participations"])
async def participation(id: RowId, who: Who, room: Here) -> ParticipationOut:  # noqa: A002
    """One participation, its person masked."""

    def ask(store: Store) -> Recorded:
        found = store.participation(id)
        if found is None or who.town not in (None, found.town):
            raise no_such_participation()
        return recorded(store, found)

    return _participation_out(await room.read(ask))


def _participation_out(outcome: Recorded) -> ParticipationOut:
    return ParticipationOut.of(
        outcome.participation, outcome.person, first_ever=outcome.first_ever, doubts=outcome.doubts
    )


def _participation_answer(outcome: Recorded) -> Answer:
    return Answer(200, _participation_out(outcome).model_dump(mode="json"))


# -- data sets and calendar ------------------------------------------------------------------------------


@router.get("/v1/datasets", dependencies=[access("datasets:read")], tags=["datasets"])
async def datasets(room: Here) -> dict[str, list[DataSetOut]]:
    """Every data set, its mode, and the day through which it is known to be complete."""
    marks = await room.read(lambda store: store.complete_through())
    return {"items": [_dataset_out(item, marks.get(item.id)) for item in room.city.datasets.values()]}


@router.get(
    "/v1/datasets/{id}/template",
    dependencies=[access("datasets:read")],
    response_class=Response,
    tags=["datasets"],
)
async def template(id: str, room: Here) -> Response:  # noqa: A002 - a fixed path
    """An empty CSV file of the data set: its headings, ready to be filled in and sent."""
    contract = _contract(room, id)
    return Response(
        contract.template,
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{contract.id}.csv"'},
    )


def _contract(room: Room, id_: str) -> Contract:
    contract = room.contracts.get(id_)
    if contract is None:
        raise not_found("没有该数据集，或不接收文件", "there is no such data set, or it takes no files")
    return contract


@router.put(
    "/v1/datasets/{id}/complete-through",
    dependencies=[access("datasets:write", whole_city=True)],
    response_model=DataSetOut,
    tags=["datasets"],
)
async def complete(id: str, body: CompleteIn, request: Request, who: Who, room: Here) -> Response:  # noqa: A002
    """The owner of a batch data set says through which day everything was supplied. It only moves forward."""
    item = DeclareComplete(who.cause, who.department, id, body.through)

    def respond(through: date) -> Answer:
        return Answer(200, _dataset_out(room.city.datasets[id], through).model_dump(mode="json"))

    return await answer(request, declare_complete, item, respond)


def _dataset_out(dataset: DataSet, through: date | None) -> DataSetOut:
    return DataSetOut(**vars(dataset), complete_through=through)


@router.put(
    "/v1/calendar/{year}",
    dependencies=[access("calendar:write", whole_city=True)],
    response_model=YearOut,
    tags=["calendar"],
)
async def publish(year: YearNumber, body: YearIn, request: Request, who: Who) -> Response:
    """Imports a year of the working-day calendar, replacing what was known of it."""
    item = PublishYear(cause=who.cause, year=year, **dict(body))
    return await answer(
        request, publish_year, item, lambda made: Answer(200, _year_out(made).model_dump(mode="json"))
    )


@router.get("/v1/calendar/{year}", dependencies=[access("datasets:read")], tags=["calendar"])
async def calendar(year: YearNumber, room: Here) -> YearOut:
    """A year as it holds: the imported one, else the city pack's."""
    found = await room.read(lambda store: store.calendar_year(year)) or room.city.calendar.years.get(year)
    if found is None:
        raise not_found("该年度日历尚未发布", "the calendar of this year is not published yet")
    return _year_out(found)


def _year_out(year: Year) -> YearOut:
    return YearOut(
        year=year.year,
        holidays=sorted(year.holidays),
        makeup_days=sorted(year.makeup_days),
        source=year.source,
    )


# -- batches ---------------------------------------------------------------------------------------------


class _CsvRoute(FileRoute):
    max_body = 200 * 1024 * 1024
    media_types = frozenset({"text/csv"})


files = APIRouter(route_class=_CsvRoute)
_CSV_BODY = {"requestBody": {"required": True, "content": {"text/csv": {"schema": {"type": "string"}}}}}


@files.post(
    "/v1/datasets/{id}/batches",
    dependencies=[access("datasets:write", whole_city=True)],
    response_model=BatchOut,
    status_code=202,
    tags=["batches"],
    openapi_extra=_CSV_BODY,
)
async def send(
    id: str,  # noqa: A002 - a fixed path
    request: Request,
    who: Who,
    room: Here,
    complete_through: Annotated[Day | None, Query()] = None,
) -> Response:
    """Takes in a CSV file of a data set; its rows are applied afterwards. The same file is the same batch.

    `complete_through`: with this file everything about days up to that one has been supplied; said when the
    file has been applied.
    """
    contract = _contract(room, id)
    if who.department not in contract.owners:
        raise Problem(
            403,
            "not_the_owner",
            zh=f"只能由数据集的责任部门发送文件：{'、'.join(contract.owners)}",
            en=f"only a department that owns the data set may send its files: {', '.join(contract.owners)}",
        )
    if complete_through is not None and id not in room.city.datasets:
        fault = FieldError(
            "/query/complete_through",
            "no_completeness",
            "该数据集不声明完整日期，请去掉此参数",
            "this data set has no completeness; leave the parameter out",
        )
        raise unprocessable([fault])
    batch_id = new_event_ids(1)[0]
    receiving = await asyncio.to_thread(room.files.receive, batch_id)
    try:
        async for chunk in stream_body(request, limit=_CsvRoute.max_body):
            await asyncio.to_thread(receiving.add, chunk)
        sha256 = await asyncio.to_thread(receiving.finish)
    except BaseException:
        receiving.abandon()
        raise
    item = ReceiveBatch(
        who.cause, batch_id, contract, who.department, sha256, receiving.size, complete_through
    )
    # From here on the batch may be committed though we hear nothing of it: only a refusal says it is not.
    try:
        batch: Batch = await room.core.call(receive_batch, item)
    except Problem as problem:
        if problem.status < 500:
            receiving.abandon()
        raise
    if batch.file_id != batch_id:
        receiving.abandon()
    where = f"{request.scope.get('root_path', '')}/v1/batches/{batch.id}"
    shown = (await _shown(room, batch.id, who)).model_dump(mode="json")
    return answer_response(Answer(202, shown, {"Location": where}))


@router.get("/v1/batches", dependencies=[access("datasets:read", whole_city=True)], tags=["batches"])
async def batches(
    *, who: Who, room: Here, dataset: str | None = None, cursor: Cursor = None, limit: Limit = 50
) -> Page[BatchRow]:
    """The files that one's own department sent, the newest first."""
    if dataset is not None and dataset not in room.contracts:
        raise unprocessable([not_one_of("/query/dataset", room.contracts)])
    (before,) = decode_cursor(cursor, str) if cursor else (None,)
    found = await room.read(
        lambda store: store.batch_page(who.department, dataset=dataset, before=before, limit=limit + 1)
    )
    rows = [BatchRow.model_validate(item, from_attributes=True) for item in found]
    return page(rows, limit, lambda row: [row.id])


@router.get("/v1/batches/{id}", dependencies=[access("datasets:read", whole_city=True)], tags=["batches"])
async def batch(id: str, who: Who, room: Here) -> BatchOut:  # noqa: A002 - a fixed path
    """What became of a file, for the department that sent it."""
    return await _shown(room, id, who)


async def _shown(room: Room, id_: str, who: Caller) -> BatchOut:
    return await room.read(
        lambda store: BatchOut.of(own_batch(store, id_, who.department), store.open_disputes(id_))
    )


@router.get(
    "/v1/batches/{id}/errors",
    dependencies=[access("datasets:write", whole_city=True)],
    response_class=StreamingResponse,
    tags=["batches"],
)
async def errors(id: str, who: Who, room: Here) -> StreamingResponse:  # noqa: A002 - a fixed path
    """The rows that were not applied, as CSV: where, why, what to do, and the row itself.

    Mended in place it can be sent as a file again. It holds what the department sent, so nobody else gets it.
    """
    found = await room.read(lambda store: own_batch(store, id, who.department))
    await room.core.run(
        lambda work: work.audit("batch_errors_read", id, cause=who.cause, rows=found.rejected)
    )

    async def content() -> AsyncGenerator[bytes]:
        yield report_head(found)
        after = 0
        while rows := await room.read(_rejected_behind(id, after)):
            yield report_rows(found, rows)
            after = rows[-1].row

    return StreamingResponse(
        content(),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{found.dataset}-errors.csv"'},
    )


def _rejected_behind(id_: str, line: int) -> Callable[[Store], list[RejectedRow]]:
    return lambda store: store.rejected(id_, after=line, limit=500)


@router.post(
    "/v1/batches/{id}/withdraw",
    dependencies=[access("datasets:write", whole_city=True)],
    response_model=BatchOut,
    status_code=202,
    tags=["batches"],
)
async def withdraw(id: str, body: WithdrawIn, request: Request, who: Who) -> Response:  # noqa: A002
    """Takes a whole file back: what it brought and nobody has touched since is undone afterwards, by events."""
    item = WithdrawBatch(who.cause, who.department, id, body.reason, body.replaced)

    def respond(outcome: tuple[Batch, int]) -> Answer:
        return Answer(202, BatchOut.of(*outcome).model_dump(mode="json"))

    return await answer(request, withdraw_batch, item, respond)


@router.post(
    "/v1/batches/{id}/rows/{n}/settle",
    dependencies=[access("datasets:write", whole_city=True)],
    response_model=SettledOut,
    tags=["batches"],
)
async def settle(id: str, n: RowId, body: SettleIn, request: Request, who: Who) -> Response:  # noqa: A002
    """Says what became of a rejected row that holds the messages to its unit; they go on."""
    item = SettleRow(who.cause, who.department, id, n, body.reason)

    def respond(row: RejectedRow) -> Answer:
        return Answer(200, {"batch_id": row.batch_id, "row": row.row, "uscc": row.uscc})

    return await answer(request, settle_row, item, respond)


# -- the last look ---------------------------------------------------------------------------------------


class _LookRoute(StrictRoute):
    """A thousand questions are longer than other bodies."""

    max_body = 1024 * 1024


looks = APIRouter(route_class=_LookRoute)


@looks.post("/v1/last-look", dependencies=[access("last-look", whole_city=True)], tags=["last look"])
async def last_look(body: LastLookIn, room: Here) -> LastLookOut:
    """Says of each message that is about to leave whether it still may. Reads only."""
    questions = [item.question() for item in body.items]
    usccs = {question.uscc for question in questions}
    as_of = room.core.clock.now()
    day = today(as_of)

    def ask() -> list[Look]:
        with room.core.database.read() as db:
            store = Store(db, room.vault)
            known, in_force, disputed = (
                store.units(usccs),
                store.in_force(usccs, day, ended=True),
                store.disputed(usccs),
            )
        reasons = [
            look(item, known.get(item.uscc), in_force.get(item.uscc, {}), disputed=item.uscc in disputed)
            for item in questions
        ]
        for reason, number in Counter(reasons).items():
            room.looked.labels("hold" if reason else "go", reason or "").inc(number)
        return [Look(answer="hold", reason=reason) if reason else Look(answer="go") for reason in reasons]

    answers = await asyncio.get_running_loop().run_in_executor(room.lookers, ask)
    return LastLookOut(as_of=as_of, items=answers)
