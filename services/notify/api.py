"""HTTP of notify: notices, the brake, recall, bindings, the genuine-or-not check, and the carriers' calls."""

import hmac
from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
import structlog
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import SecretStr

from services.notify.bindings import Bind, Bound, Turned, bind, follow_again, unfollow
from services.notify.carriers import Receipt, ReceiptUnreadableError
from services.notify.carriers.wechat_crypt import (
    CallbackEvent,
    CallbackForgedError,
    CallbackKeys,
    CallbackUnreadableError,
    EventKind,
    check_address,
    open_callback,
    parse_event,
)
from services.notify.carriers.yunmas import parse_report
from services.notify.commands import (
    ChangeSending,
    Recall,
    Recalled,
    Report,
    change_sending,
    recall,
    take_report,
)
from services.notify.domain import Channel, Notice, NoticeState, Sending
from services.notify.schemas import (
    AttemptOut,
    BindingIn,
    BindingOut,
    GotOut,
    NoticeOut,
    NoticeRow,
    RecallIn,
    RecallOut,
    SendingIn,
    SendingOut,
    VerifyOut,
)
from services.notify.store import Store, Wrong
from services.notify.work import NotifyWork, Tools
from shared.clock import start_of, today
from shared.errors import Problem, not_found, not_one_of, unprocessable
from shared.http import (
    Caller,
    Cursor,
    Limit,
    Page,
    RateLimiter,
    StrictRoute,
    access,
    answer,
    caller,
    decode_cursor,
    encode_cursor,
    page,
    public,
    read_body,
    too_many_requests,
)
from shared.privacy import mask_mobile
from shared.service import Core
from shared.storage.idempotency import Answer

LARGEST_REPORT = 64 * 1024
_YEARS = range(2000, 2201)
log = structlog.get_logger(__name__)

Who = Annotated[Caller, Depends(caller)]
Word = Annotated[str | None, Query(min_length=1, max_length=64)]


def notice_routes(core: Core[NotifyWork], tools: Tools) -> APIRouter:
    """Reading notices, reading and turning the brake."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute)

    @router.get("/notices", dependencies=[access("notices:read")])
    async def list_notices(
        *,
        who: Who,
        uscc: Word = None,
        lead: Word = None,
        state: NoticeState | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> Page[NoticeRow]:
        """Notices in order of creation."""
        after = _place(cursor) if cursor else None
        where = {"uscc": uscc, "lead_id": lead, "state": state, "town": who.town}
        notices = await core.read(lambda db: Store(db, tools.rules).page(where, after, limit + 1))
        shown = page(notices, limit, lambda n: (n.created_at.isoformat(), n.id))
        return Page(items=[NoticeRow(**_row(n)) for n in shown.items], next_cursor=shown.next_cursor)

    @router.get("/notices/{notice_id}", dependencies=[access("notices:read")])
    async def get_notice(notice_id: Annotated[str, Path(max_length=64)], who: Who) -> NoticeOut:
        """One notice with its attempts, text and times."""

        def ask(db: sa.Connection) -> NoticeOut | None:
            store = Store(db, tools.rules)
            notice = store.notices([notice_id]).get(notice_id)
            if notice is None or who.town not in (None, notice.town):
                return None
            return _detail(notice, [_attempt(row, tools) for row in store.attempts_of(notice_id)])

        found = await core.read(ask)
        if found is None:
            raise not_found("没有这条通知", "There is no such notice")
        return found

    @router.post(
        "/notices/recall", dependencies=[access("sending:write", whole_city=True)], response_model=RecallOut
    )
    async def recall_notices(body: RecallIn, who: Who, request: Request) -> Response:
        """Takes wrong messages back: withdraws, corrects, and lists who got them."""
        wrong = Wrong(body.references or (), body.rule, body.stage, body.since)
        after = _place(body.cursor) if body.cursor else None
        return await answer(request, recall, Recall(wrong, body.reason, who.cause, after), _recalled)

    @router.post(
        "/bindings",
        dependencies=[access("bindings:write", whole_city=True)],
        response_model=BindingOut,
        status_code=201,
    )
    async def bind_follower(body: BindingIn, who: Who, request: Request) -> Response:
        """Binds a phone to a follower of the official account: 201 new, 200 it was so already."""
        item = Bind(body.mobile, body.openid, body.source, who.cause)
        return await answer(request, bind, item, _bound)

    _brakes(router, core, tools)
    return router


def _brakes(router: APIRouter, core: Core[NotifyWork], tools: Tools) -> None:
    @router.get("/sending", dependencies=[access("sending:read")])
    async def get_sending() -> dict[str, list[SendingOut]]:
        """How the brake of each carrier account stands."""
        return await _sending(core, tools)

    @router.put("/sending", dependencies=[access("sending:write", whole_city=True)])
    async def put_sending(body: SendingIn, who: Who) -> dict[str, list[SendingOut]]:
        """Turns the brake of one account, or of all, at once: a stop is obeyed within a second."""
        accounts = tools.rules.accounts
        channels = [channel for channel, name in accounts.items() if body.account in (None, name)]
        if not channels:
            raise unprocessable([not_one_of("/account", accounts.values())])
        item = ChangeSending(
            channels=tuple(channels),
            state=body.state,
            keeps_cap="daily_cap" not in body.model_fields_set,
            daily_cap=body.daily_cap,
            allowlist=body.allowlist,
            cause=who.cause,
        )
        await core.run(lambda work: change_sending(work, item), urgent=True)
        return await _sending(core, tools)


def public_routes(core: Core[NotifyWork], tools: Tools, *, per_s: float) -> APIRouter:
    """What everybody may ask: whether a message is genuine, so many times a second from one address."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute)
    limiter = RateLimiter(per_s, core.clock)

    @router.get("/verify", dependencies=[public("anybody who got a message may ask whether it is genuine")])
    async def verify(
        request: Request,
        reference: Annotated[str, Query(min_length=1, max_length=32)],
        uscc4: Annotated[str, Query(min_length=4, max_length=4)],
    ) -> VerifyOut:
        """Whether a message with this reference left and is about a unit whose code ends with `uscc4`."""
        passes, _, wait = limiter.take(request.client.host if request.client else "")
        if not passes:
            raise too_many_requests(wait)
        asked = reference.upper(), uscc4.upper()
        recalled = await core.read(lambda db: Store(db, tools.rules).vouch(*asked))
        return VerifyOut(genuine=recalled is not None, recalled=bool(recalled))

    return router


def wechat_routes(core: Core[NotifyWork], keys: CallbackKeys) -> APIRouter:
    """Where WeChat calls: it has no token, but what it says is signed and sealed, which is checked first."""
    router = APIRouter(prefix="/v1")
    counted = core.metrics.counter("wechat_events_total", "Events of WeChat, by kind and result", ["result"])
    reason = "WeChat's calls: signed with the account's token, sealed with its key"

    @router.get("/wechat", dependencies=[public(reason)])
    async def prove(request: Request) -> Response:
        """Proves to WeChat that this address is the account's."""
        try:
            return PlainTextResponse(check_address(keys, request.query_params))
        except CallbackForgedError as error:
            counted.labels("forged").inc()
            raise _forged(error) from error

    @router.post("/wechat", dependencies=[public(reason)])
    async def push(request: Request) -> Response:
        """Takes one event. WeChat calls again until it reads `success`."""
        body = await read_body(request, limit=LARGEST_REPORT)
        try:
            event = parse_event(open_callback(keys, request.query_params, body))
        except CallbackForgedError as error:
            counted.labels("forged").inc()
            raise _forged(error) from error
        except CallbackUnreadableError as error:
            counted.labels("unreadable").inc()
            raise Problem(400, "unreadable_event", zh="事件格式不符", en=str(error)) from error
        counted.labels(await _take_event(core, event)).inc()
        return PlainTextResponse("success")

    return router


async def _take_event(core: Core[NotifyWork], event: CallbackEvent) -> str:
    if event.receipt is not None:
        (result,) = await core.call(take_report, Report(Channel.WECHAT, (event.receipt,)))
        return str(result)
    if event.kind is EventKind.UNFOLLOWED:
        await core.call(unfollow, Turned(event.openid, event.at))
    elif event.kind is EventKind.FOLLOWED:
        await core.call(follow_again, Turned(event.openid, event.at))
    return event.kind.value


def _forged(error: CallbackForgedError) -> Problem:
    return Problem(403, "forged", zh="签名不符", en=str(error))


def _bound(bound: Bound) -> Answer:
    return Answer(201 if bound.new else 200, BindingOut(bound_at=bound.bound_at).model_dump(mode="json"))


def _recalled(recalled: Recalled) -> Answer:
    got = [GotOut(**vars(one)) for one in recalled.got]
    goes_on = recalled.goes_on
    cursor = encode_cursor((goes_on[0].isoformat(), goes_on[1])) if goes_on else None
    shown = RecallOut(**{**vars(recalled), "got": got, "next_cursor": cursor})
    return Answer(200, shown.model_dump(mode="json"))


def receipt_routes(core: Core[NotifyWork], account: str, secret: SecretStr) -> APIRouter:
    """Where the carrier pushes receipts. It has no token and its own content type, so the route is a plain one."""
    router = APIRouter(prefix="/v1")
    counted = core.metrics.counter("receipts_total", "Receipts, by what they settled", ["result"])
    reason = "a carrier's push: it knows a secret address and nothing else"

    @router.post("/receipts/{called}/{given}", dependencies=[public(reason)])
    async def push(called: str, given: str, request: Request) -> dict[str, bool]:
        """Takes one report, or a list of them. Anything but 2xx makes the carrier push it again."""
        known = hmac.compare_digest(given.encode(), secret.get_secret_value().encode())
        if not (hmac.compare_digest(called.encode(), account.encode()) and known):
            raise not_found("没有这个地址", "There is nothing at this address")
        try:
            pushed = parse_report(await read_body(request, limit=LARGEST_REPORT))
        except ReceiptUnreadableError as error:
            counted.labels("unreadable").inc()
            raise Problem(400, "unreadable_report", zh="回执格式不符", en=str(error)) from error
        receipts = tuple(one for one in pushed if isinstance(one, Receipt))
        for one in pushed:
            if isinstance(one, ReceiptUnreadableError):
                counted.labels("unreadable").inc()
                log.warning("receipt_unreadable", service=core.name, why=str(one))
        for result in await core.call(take_report, Report(account, receipts)):
            counted.labels(result).inc()
        return {"success": True}

    return router


async def _sending(core: Core[NotifyWork], tools: Tools) -> dict[str, list[SendingOut]]:
    now = core.clock.now()

    def ask(db: sa.Connection) -> tuple[dict[Channel, Sending], dict[Channel, int]]:
        store = Store(db, tools.rules)
        return store.brakes(), store.submitted_since(start_of(today(now)))

    brakes, submitted = await core.read(ask)
    shown = [
        SendingOut(
            account=tools.rules.accounts[channel],
            channel=channel,
            submitted_today=submitted[channel],
            **{**vars(brake), "allowlist": len(brake.allowlist)},
        )
        for channel, brake in brakes.items()
    ]
    return {"items": shown}


def _place(cursor: str) -> tuple[datetime, str]:
    at, id_ = decode_cursor(cursor, str, str)
    try:
        place = datetime.fromisoformat(at)
    except ValueError:
        place = None
    # an instant near either end of the calendar has no counterpart in UTC
    if (
        place is None
        or place.tzinfo is None
        or place.year not in _YEARS
        or not id_.isascii()
        or not id_.isprintable()
    ):
        raise Problem(400, "bad_cursor", zh="cursor 无效，请从第一页重新开始", en="Start at the first page")
    return place, id_


def _row(notice: Notice) -> dict[str, Any]:
    return {**vars(notice), "unit_name": notice.facts.unit_name}


def _detail(notice: Notice, attempts: list[AttemptOut]) -> NoticeOut:
    last = attempts[-1] if attempts else None
    return NoticeOut(
        **_row(notice),
        established_on=notice.facts.established_on,
        deadline=notice.facts.deadline,
        text=last.text if last else None,
        mobile=last.mobile if last else None,
        attempts=attempts,
    )


def _attempt(row: Any, tools: Tools) -> AttemptOut:
    mobile = mask_mobile(tools.open_mobile(row.reference, row.mobile))
    return AttemptOut(**{**row._mapping, "mobile": mobile})
