"""HTTP as every service speaks it: strict requests, problems in two languages, stated access.

Bad input never reaches a command and is never a 5xx; what it held is never echoed.
"""

import base64
import json
import math
import re
import secrets
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Final, Generic, TypeVar

import structlog
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.auth import Identity, InvalidToken
from shared.clock import Clock
from shared.errors import FieldError, Problem, unprocessable
from shared.logs import correlation
from shared.metrics import Metrics
from shared.storage.idempotency import Answer, IdempotencyKey
from shared.storage.work import Cause

log = structlog.get_logger(__name__)

T = TypeVar("T")
E = TypeVar("E")

MAX_BODY: Final = 256 * 1024
"""The largest JSON body, in bytes."""
MAX_DEPTH: Final = 32
MAX_INTEGER: Final = 2**63 - 1
MAX_ERRORS: Final = 50
"""A problem lists at most so many field errors."""

# --------------------------------------------------------------------------- field types

_BAD_IN_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BAD_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NEVER = re.compile("[\x00\ud800-\udfff]")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
FIRST_YEAR: Final = 1900
LAST_YEAR: Final = 2200


def refuse(code: str, *, zh: str, en: str) -> PydanticCustomError:
    """What a validator raises: a stable code and the fix in both languages, without the value itself."""
    return PydanticCustomError(
        code,
        "{en}",
        {"zh": zh, "en": en},
    )


class Body(BaseModel):
    """Base of all request bodies: frozen, unknown fields refused, no value is converted.

    Enumerations are declared as `Choice[UnitKind]`, tuples as `Many[Contact]`, texts as
    `Annotated[str, Text(200)]`, days as `Day`, instants as `Moment`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


@dataclass(frozen=True)
class Text:
    """`Annotated[str, Text(200)]`: a text of 1 to `limit` characters, without white space at its ends.

    Control characters, lone surrogates and marks that turn the direction of writing are refused;
    line feeds and tabs are let in with `lines`.
    """

    limit: int
    lines: bool = False

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, core_schema.str_schema(strict=True))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "minLength": 1, "maxLength": self.limit}

    def _check(self, text: str) -> str:
        text = text.strip()
        if not text:
            raise refuse("blank", zh="不能为空，请填写内容", en="must not be blank; give a text")
        if len(text) > self.limit:
            raise refuse(
                "too_long", zh=f"最多 {self.limit} 个字符", en=f"at most {self.limit} characters are allowed"
            )
        if (_BAD_IN_LINES if self.lines else _BAD_IN_LINE).search(text):
            raise refuse(
                "bad_characters", zh="含有不允许的控制字符，请删除", en="remove the control characters"
            )
        return text


def _day(value: Any) -> date:
    if type(value) is date:
        return value
    wrong = refuse("not_a_day", zh="须为日期，如 2026-02-10", en="must be a day, like 2026-02-10")
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise wrong
    try:
        day = date.fromisoformat(value)
    except ValueError:
        raise wrong from None
    return _in_range(day)


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    wrong = refuse(
        "not_an_instant",
        zh="须为带时区的时间，如 2026-02-10T08:30:00+08:00",
        en="must be a time with its zone, like 2026-02-10T08:30:00+08:00",
    )
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        raise wrong
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise wrong from None
    return _in_range(moment)


D = TypeVar("D", bound=date)


def _in_range(day: D) -> D:
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise refuse(
            "date_out_of_range",
            zh=f"年份须在 {FIRST_YEAR} 至 {LAST_YEAR} 之间",
            en=f"the year must be from {FIRST_YEAR} to {LAST_YEAR}",
        )
    return day


Day = Annotated[
    date, Strict(strict=False), BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})
]
"""A calendar day; only text of the form 2026-02-10."""
Moment = Annotated[
    datetime,
    Strict(strict=False),
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An aware instant; only text of the form 2026-02-10T08:30:00+08:00 (or …Z)."""
Whole = Annotated[int, Strict(), Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""A whole number that fits a database; a number in quotation marks is refused."""
Flag = Annotated[bool, Strict()]
"""true or false; nothing else."""
Choice = Annotated[E, Strict(strict=False)]
"""`Choice[UnitKind]`: one value of an enumeration, written as its text."""
Many = Annotated[tuple[E, ...], Strict(strict=False)]
"""`Many[Contact]`: a list in JSON, a tuple here."""
RowId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
"""A numeric id in a path."""
Limit = Annotated[int, Query(ge=1, le=500)]
"""How many items a page may hold; declare it as `limit: Limit = 50`."""
Cursor = Annotated[str | None, Query(max_length=1024)]
"""Where a page goes on; declare it as `cursor: Cursor = None`."""

# --------------------------------------------------------------------------- problems

_WORDS: Final[Mapping[str, tuple[str, str, str]]] = {
    # pydantic's type: (stable code, Chinese, English)
    "missing": ("required", "缺少必填项", "this is required"),
    "extra_forbidden": (
        "unknown_field",
        "不认识的字段，请删除或改正字段名",
        "unknown; remove it or mend its name",
    ),
    "string_type": ("not_a_text", "须为文本（加引号）", "must be a text, in quotation marks"),
    "int_type": (
        "not_a_whole_number",
        "须为整数（不加引号）",
        "must be a whole number, without quotation marks",
    ),
    "int_parsing": ("not_a_whole_number", "须为整数", "must be a whole number"),
    "int_parsing_size": ("out_of_range", "数值过大", "the number is too large"),
    "int_from_float": (
        "not_a_whole_number",
        "须为整数，不能有小数",
        "must be a whole number, without a fraction",
    ),
    "float_type": ("not_a_number", "须为数字（不加引号）", "must be a number, without quotation marks"),
    "float_parsing": ("not_a_number", "须为数字", "must be a number"),
    "finite_number": ("not_a_number", "须为有限的数字", "must be a finite number"),
    "bool_type": (
        "not_a_flag",
        "须为 true 或 false（不加引号）",
        "must be true or false, without quotation marks",
    ),
    "bool_parsing": ("not_a_flag", "须为 true 或 false", "must be true or false"),
    "enum": ("not_allowed", "取值须为 {expected} 之一", "must be one of {expected}"),
    "literal_error": ("not_allowed", "取值须为 {expected} 之一", "must be one of {expected}"),
    "string_too_long": (
        "too_long",
        "最多 {max_length} 个字符",
        "at most {max_length} characters are allowed",
    ),
    "string_too_short": (
        "too_short",
        "至少 {min_length} 个字符",
        "at least {min_length} characters are needed",
    ),
    "string_pattern_mismatch": ("wrong_form", "格式不符合要求", "does not have the form that is asked for"),
    "too_long": ("too_many", "最多 {max_length} 项", "at most {max_length} items are allowed"),
    "too_short": ("too_few", "至少 {min_length} 项", "at least {min_length} items are needed"),
    "greater_than_equal": ("out_of_range", "不得小于 {ge}", "must be at least {ge}"),
    "less_than_equal": ("out_of_range", "不得大于 {le}", "must be at most {le}"),
    "greater_than": ("out_of_range", "须大于 {gt}", "must be greater than {gt}"),
    "less_than": ("out_of_range", "须小于 {lt}", "must be less than {lt}"),
    "model_type": ("not_an_object", "须为 JSON 对象", "must be a JSON object"),
    "model_attributes_type": ("not_an_object", "须为 JSON 对象", "must be a JSON object"),
    "dict_type": ("not_an_object", "须为 JSON 对象", "must be a JSON object"),
    "list_type": ("not_a_list", "须为 JSON 数组", "must be a JSON array"),
    "tuple_type": ("not_a_list", "须为 JSON 数组", "must be a JSON array"),
}
_INVALID: Final = (
    "invalid",
    "取值不符合要求，见接口说明",
    "not acceptable; see the description of the interface",
)


class _Challenge(Problem):
    """401 and 403, with the words of RFC 6750 for the WWW-Authenticate header."""

    def __init__(self, status: int, code: str, challenge: str, *, zh: str, en: str) -> None:
        super().__init__(status, code, zh=zh, en=en)
        self.challenge = challenge


def pointer(parts: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901); parts that a client made up are cut short and made printable."""
    safe = [str(p)[:64].encode("utf-8", "backslashreplace").decode() for p in parts]
    return "".join("/" + p.replace("~", "~0").replace("/", "~1") for p in safe)


def problem_response(problem: Problem, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """RFC 9457 `application/problem+json` for a problem."""
    body: dict[str, Any] = {
        "type": f"urn:yingbao:problem:{problem.code}",
        "title": _title(problem.status),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.zh,
        "detail_zh": problem.zh,
        "detail_en": problem.en,
        "correlation_id": correlation.get(),
    }
    if problem.errors:
        body["errors"] = [
            {"pointer": e.pointer, "code": e.code, "zh": e.zh, "en": e.en}
            for e in problem.errors[:MAX_ERRORS]
        ]
    extra = dict(headers or {})
    if problem.retry_after is not None:
        extra["Retry-After"] = str(problem.retry_after)
    if isinstance(problem, _Challenge):
        extra["WWW-Authenticate"] = problem.challenge
    return JSONResponse(body, problem.status, extra, media_type="application/problem+json")


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Problem"


def _field_error(error: Mapping[str, Any]) -> FieldError:
    loc = list(error["loc"])
    if loc and loc[0] == "body":
        loc = loc[1:]
    context = error.get("ctx") or {}
    if "zh" in context and "en" in context:
        return FieldError(pointer(loc), str(error["type"]), str(context["zh"]), str(context["en"]))
    code, zh, en = _WORDS.get(error["type"], _INVALID)
    return FieldError(pointer(loc), code, zh.format_map(context), en.format_map(context))


def _on_problem(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101 - registered for it alone
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("problem", code=problem.code, status=problem.status)
    return problem_response(problem)


def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    return problem_response(unprocessable([_field_error(e) for e in error.errors()[:MAX_ERRORS]]))


def _on_http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
    code, zh, en = {
        404: ("not_found", "没有这个地址", "there is nothing at this address"),
        405: (
            "method_not_allowed",
            "该地址不支持此方法，见 Allow",
            "this address does not know the method; see Allow",
        ),
    }.get(error.status_code, (f"http_{error.status_code}", "请求未被接受", "the request was not accepted"))
    return problem_response(Problem(error.status_code, code, zh=zh, en=en), headers=error.headers)


def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return problem_response(
        Problem(
            400, "disconnected", zh="请求未传完连接已断开", en="the connection ended before the request did"
        )
    )


# --------------------------------------------------------------------------- reading a body


async def read_body(request: Request, *, limit: int = MAX_BODY) -> bytes:
    """The raw body; raises 413 as soon as it is longer than `limit` bytes, without keeping more."""
    too_large = Problem(
        413,
        "body_too_large",
        zh=f"请求体不得超过 {limit} 字节",
        en=f"the body may have at most {limit} bytes",
    )
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
        raise too_large
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


class _Repeated(dict[str, Any]):
    """An object in which a key came twice; `key` says which."""

    key: str = ""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    marked = _Repeated(found)
    for key, _ in pairs:
        if key in seen:
            marked.key = key
            break
        seen.add(key)
    return marked


def _constant(word: str) -> float:
    raise ValueError(word)


def parse_json(raw: bytes) -> Any:
    """Strict JSON (RFC 8259, I-JSON): UTF-8, no NaN, no key twice, no NUL, no lone surrogate, no huge number.

    Raises a Problem: 400 where the text is not such JSON, 422 where one value is impossible.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(
            400,
            "invalid_utf8",
            zh=f"请求体第 {error.start} 字节起不是 UTF-8",
            en=f"the body is not UTF-8 at byte {error.start}",
        ) from None
    try:
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise Problem(
            400,
            "invalid_json",
            zh=f"请求体不是合法的 JSON（第 {error.lineno} 行第 {error.colno} 列）",
            en=f"the body is not JSON ({where})",
        ) from None
    except ValueError:  # NaN, Infinity, or a number of thousands of digits
        raise Problem(
            400,
            "invalid_number",
            zh="请求体含有 JSON 不允许的数字",
            en="the body holds a number that JSON forbids",
        ) from None
    except RecursionError:
        raise _too_deep() from None
    _inspect(value)
    return value


def _too_deep() -> Problem:
    return Problem(
        400, "nested_too_deep", zh=f"JSON 嵌套不得超过 {MAX_DEPTH} 层", en=f"nest at most {MAX_DEPTH} levels"
    )


def _inspect(root: Any) -> None:
    """Refuses what no field of any body can be; iterative, since depth is the caller's choice."""
    errors: list[FieldError] = []
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), root)]
    while todo and len(errors) < MAX_ERRORS:
        at, value = todo.pop()
        if len(at) > MAX_DEPTH:
            raise _too_deep()
        if isinstance(value, _Repeated):
            raise _repeated_key(pointer((*at, value.key)))
        if isinstance(value, dict):
            errors += [_bad_text(pointer((*at, key))) for key in value if _NEVER.search(key)]
            todo += [((*at, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            todo += [((*at, index), inner) for index, inner in enumerate(value)]
        elif isinstance(value, str) and _NEVER.search(value):
            errors.append(_bad_text(pointer(at)))
        elif isinstance(value, int | float) and not abs(value) <= MAX_INTEGER:
            errors.append(FieldError(pointer(at), "out_of_range", "数值过大", "the number is too large"))
    if errors:
        raise unprocessable(errors)


def _repeated_key(where: str) -> Problem:
    fix = FieldError(
        where, "duplicate_key", "同一对象中该键出现多次，请只保留一个", "the key occurs twice; keep one"
    )
    return Problem(
        400,
        "duplicate_key",
        zh=f"JSON 中的键重复：{where}",
        en=f"a key occurs twice in the JSON: {where}",
        errors=[fix],
    )


def _bad_text(where: str) -> FieldError:
    return FieldError(
        where,
        "bad_characters",
        "含有 NUL 或不成对的代理字符，请删除",
        "holds NUL or a lone surrogate; remove it",
    )


# --------------------------------------------------------------------------- the strict route


class _ReadRequest(Request):
    """A request whose body has been read and parsed already."""

    def __init__(self, request: Request, raw: bytes, parsed: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._raw = raw
        self._parsed = parsed

    async def body(self) -> bytes:
        return self._raw

    async def json(self) -> Any:
        return self._parsed


class StrictRoute(APIRoute):
    """`APIRouter(route_class=StrictRoute)`: checks who asks, then the form of the request, then FastAPI.

    Every query parameter has to be declared by the endpoint, and comes once. A body is JSON of at most
    `max_body` bytes. Endpoints that take none refuse one.
    """

    max_body: ClassVar[int] = MAX_BODY

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler with the checks in front."""
        inner = super().get_route_handler()
        markers = [d.call for d in self.dependant.dependencies if isinstance(d.call, Access)]
        declared = frozenset(_query_names(self.dependant))

        async def strict(request: Request) -> Response:
            for marker in markers:
                await marker(request)
            if markers and "last-look" not in markers[0].scopes:
                _take(request)
            _check_address(request, declared)
            return await inner(await self._read(request))

        return strict

    async def _read(self, request: Request) -> Request:
        if request.method not in {"POST", "PUT", "PATCH"}:
            return request
        _check_content_type(request, absent_is_fine=True)
        raw = await read_body(request, limit=self.max_body)
        if not raw.strip():
            if self.body_field is not None and self.body_field.field_info.is_required():
                raise Problem(
                    400,
                    "empty_body",
                    zh="缺少请求体，请发送 JSON 对象",
                    en="the body is missing; send a JSON object",
                )
            return _ReadRequest(request, b"", None)
        _check_content_type(request, absent_is_fine=False)
        parsed = parse_json(raw)
        if self.body_field is None and parsed != {}:
            raise Problem(
                422,
                "body_not_expected",
                zh="此操作不需要请求体，请勿发送",
                en="this operation takes no body; send none",
            )
        return _ReadRequest(request, raw, parsed)


def _query_names(dependant: Dependant) -> Iterator[str]:
    for parameter in dependant.query_params:
        annotation = parameter.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from (field.alias or name for name, field in annotation.model_fields.items())
        else:
            yield parameter.alias
    for inner in dependant.dependencies:
        yield from _query_names(inner)


def _check_address(request: Request, declared: frozenset[str]) -> None:
    errors: list[FieldError] = []
    for name in request.query_params:
        values = request.query_params.getlist(name)
        where = pointer(("query", name))
        if name not in declared:
            allowed = ", ".join(sorted(declared)) or "-"
            errors.append(
                FieldError(
                    where,
                    "unknown_parameter",
                    f"不认识的查询参数；可用：{allowed}",
                    f"unknown query parameter; known are: {allowed}",
                )
            )
        elif len(values) > 1:
            errors.append(
                FieldError(where, "repeated_parameter", "查询参数只能出现一次", "give the parameter once")
            )
        elif _BAD_IN_LINE.search(values[0]):
            errors.append(_bad_text(where))
    errors += [
        _bad_text(pointer(("path", name)))
        for name, value in request.path_params.items()
        if isinstance(value, str) and _BAD_IN_LINE.search(value)
    ]
    if errors:
        raise unprocessable(errors)


def _check_content_type(request: Request, *, absent_is_fine: bool) -> None:
    given = request.headers.get("content-type")
    if given is None and absent_is_fine:
        return
    kind, _, rest = (given or "").partition(";")
    charset = rest.strip().lower().replace('"', "")
    plain = request.headers.get("content-encoding", "identity").lower() == "identity"
    if kind.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"} or not plain:
        raise Problem(
            415,
            "unsupported_media_type",
            zh="请以 Content-Type: application/json（UTF-8，不压缩）发送",
            en="send Content-Type: application/json (UTF-8, not compressed)",
        )


# --------------------------------------------------------------------------- who may


@dataclass(frozen=True)
class Caller:
    """Who asks. Rows are limited by `department` and `town`; None is no limit by that."""

    client_id: str
    department: str | None
    town: str | None
    scopes: frozenset[str]
    cause: Cause


@dataclass(frozen=True)
class Access:
    """The access rule of a route: a bearer token with all of `scopes`."""

    scopes: frozenset[str]

    async def __call__(self, request: Request) -> None:
        who: Caller | None = getattr(request.state, "caller", None)
        if who is None:
            who = _authenticate(request)
            request.state.caller = who
        lacking = sorted(self.scopes - who.scopes)
        if lacking:
            raise _Challenge(
                403,
                "insufficient_scope",
                'Bearer realm="yingbao", error="insufficient_scope", '
                f'scope="{" ".join(sorted(self.scopes))}"',
                zh=f"令牌缺少权限：{' '.join(lacking)}",
                en=f"the token lacks the scope: {' '.join(lacking)}",
            )


@dataclass(frozen=True)
class Public:
    """The access rule of a route that asks for no token, and the reason why."""

    reason: str

    async def __call__(self) -> None:
        """Lets everybody in."""


def access(*scopes: str) -> Any:
    """`dependencies=[access("units:write")]`: the caller's token must hold all these scopes."""
    if not scopes:
        raise ValueError("name the scopes that the route asks for; a route for everybody is public(reason)")
    return Depends(Access(frozenset(scopes)))


def public(reason: str) -> Any:
    """`dependencies=[public("probes of the orchestrator")]`: no token is asked for."""
    if not reason.strip():
        raise ValueError("say why the route is public")
    return Depends(Public(reason))


async def caller(request: Request) -> Caller:
    """`Annotated[Caller, Depends(caller)]`: who asks, on a route with an access rule."""
    who = getattr(request.state, "caller", None)
    if not isinstance(who, Caller):
        raise TypeError("caller() was used on a route without access(...)")
    return who


def _authenticate(request: Request) -> Caller:
    given = request.headers.getlist("authorization")
    scheme, _, token = (given[0] if given else "").partition(" ")
    if len(given) != 1 or scheme.lower() != "bearer" or not token.strip():
        raise _Challenge(
            401,
            "token_missing",
            'Bearer realm="yingbao"',
            zh="请在 Authorization 头中提供 Bearer 令牌",
            en="send a bearer token in the Authorization header",
        )
    try:
        who: Identity = request.app.state.core.auth.verify(token.strip())
    except InvalidToken as error:
        log.info("token_refused", reason=error.reason)
        expired = error.reason == "expired"
        raise _Challenge(
            401,
            "token_expired" if expired else "token_invalid",
            'Bearer realm="yingbao", error="invalid_token"',
            zh="令牌已过期，请重新获取" if expired else "令牌无效，请重新获取",
            en="the token has expired; get a new one" if expired else "the token is not valid; get a new one",
        ) from None
    return Caller(
        who.client_id, who.department, who.town, who.scopes, Cause(who.client_id, correlation.get())
    )


def routes_without_access(app: Any) -> list[str]:
    """Every route of an application, mounted ones too, that states no access rule: `GET /v1/units`."""
    return sorted(_without_access(app.routes, ""))


def _without_access(routes: Sequence[Any], prefix: str) -> Iterator[str]:
    for route in iter_route_contexts(routes):
        path = prefix + (route.path or "")
        original = route.original_route
        if isinstance(original, Mount) and original.routes:
            yield from _without_access(original.routes, path)
        elif not any(
            isinstance(d.dependency, Access | Public) for d in getattr(route, "dependencies", None) or ()
        ):
            yield f"{' '.join(sorted(route.methods or {'*'}))} {path}"


# --------------------------------------------------------------------------- rate limit


class RateLimiter:
    """A token bucket per client: `per_s` requests a second for ever, twice that at once."""

    def __init__(self, per_s: float, clock: Clock) -> None:
        if per_s <= 0:
            raise ValueError("the rate limit must be more than 0 requests per second")
        self._per_s = per_s
        self._burst = max(1.0, 2 * per_s)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self.policy = f'"client";q={int(self._burst)};w={max(1, math.ceil(self._burst / per_s))}'

    def take(self, client: str) -> tuple[bool, int, int]:
        """Whether one more request may pass, how many are left, and seconds until there is one more."""
        now = self._clock.monotonic()
        left, at = self._buckets.get(client, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_s)
        passes = left >= 1
        left -= passes
        self._buckets[client] = (left, now)
        wait = max(0.0, (1 - left) / self._per_s)
        return passes, int(left), math.ceil(wait)


def _take(request: Request) -> None:
    limiter: RateLimiter | None = getattr(request.app.state, "rate_limiter", None)
    if limiter is None:
        return
    passes, left, wait = limiter.take(request.state.caller.client_id)
    request.state.rate_headers = [
        (b"ratelimit-policy", limiter.policy.encode()),
        (b"ratelimit", f'"client";r={left};t={wait}'.encode()),
    ]
    if not passes:
        raise Problem(
            429,
            "too_many_requests",
            zh=f"请求过于频繁，请 {max(1, wait)} 秒后重试",
            en=f"too many requests; try again in {max(1, wait)} s",
            retry_after=max(1, wait),
        )


# --------------------------------------------------------------------------- answers

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def answer(
    request: Request, command: Callable[..., Any], item: Any, respond: Callable[[Any], Answer]
) -> Response:
    """Runs one command and answers; with an `Idempotency-Key`, at most once per client, route and key.

    `respond` makes the answer from the command's outcome; it is stored with the fact. Use only on routes
    with an access rule.
    """
    given = await _idempotency_key(request)
    made: Answer = await request.app.state.core.call(command, item, respond=respond, key=given)
    return answer_response(made)


def answer_response(made: Answer) -> Response:
    """An answer as a response: JSON, or nothing where `body` is None."""
    headers = dict(made.headers)
    if made.body is None:
        return Response(status_code=made.status, headers=headers)
    return JSONResponse(made.body, made.status, headers)


async def _idempotency_key(request: Request) -> IdempotencyKey | None:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise Problem(
            400,
            "bad_idempotency_key",
            zh="Idempotency-Key 须为 1 至 255 个可见 ASCII 字符，且只出现一次",
            en="Idempotency-Key must be 1 to 255 visible ASCII characters, given once",
        )
    who = await caller(request)
    parts = (request.method, request.url.path, request.url.query)
    text = "\n".join(parts).encode() + b"\n" + await request.body()
    return IdempotencyKey(
        client=who.client_id,
        route=f"{request.method} {route_template(request.scope)}",
        key=given[0],
        fingerprint=request.app.state.core.fingerprint(text),
    )


def route_template(scope: Scope) -> str:
    """The path of the matched route with its parameters' names, prefixes of its routers included."""
    included = scope.get("fastapi", {}).get("effective_route_context")
    route = included or scope.get("route")
    return str(getattr(route, "path_format", None) or getattr(route, "path", None) or "unmatched")


def etag(version: int) -> str:
    """The ETag of a version."""
    return f'"{version}"'


def if_match(request: Request) -> int | None:
    """The version that the caller insists on, None where it doesn't care.

    Raises 400 where the header has not the form of one ETag, 412 where it can't be one of ours.
    """
    given = request.headers.getlist("if-match")
    if not given or given == ["*"]:
        return None
    if len(given) > 1 or not re.fullmatch(r'(W/)?"[\x21\x23-\x7e]{0,100}"', given[0]):
        raise Problem(
            400,
            "bad_if_match",
            zh='If-Match 须为一个 ETag，如 "3"',
            en='If-Match must be one ETag, like "3"',
        )
    if not re.fullmatch(r'"[0-9]{1,18}"', given[0]):
        raise Problem(
            412,
            "precondition_failed",
            zh="内容已不是该版本，请重新读取后再改",
            en="that is not the current version; read it again, then change it",
        )
    return int(given[0].strip('"'))


class Page(BaseModel, Generic[T]):
    """One page of a list. `next_cursor` is None on the last one."""

    items: list[T]
    next_cursor: str | None


def page(items: Sequence[T], limit: int, key: Callable[[T], Sequence[str | int]]) -> Page[T]:
    """A page from up to `limit + 1` rows in order: the row too many only shows that there are more.

    `key` gives a row's place in the order; the next page begins behind the last row's.
    """
    shown = list(items[:limit])
    more = len(items) > limit
    return Page.model_construct(items=shown, next_cursor=encode_cursor(key(shown[-1])) if more else None)


def encode_cursor(key: Sequence[str | int]) -> str:
    """An opaque cursor for a place in an order."""
    return base64.urlsafe_b64encode(json.dumps(list(key)).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *kinds: type[str] | type[int]) -> tuple[Any, ...]:
    """The place that `encode_cursor` made, whose parts have these kinds. Raises 400 for anything else."""
    wrong = Problem(
        400,
        "bad_cursor",
        zh="cursor 无效，请从第一页重新开始",
        en="the cursor is not valid; start at the first page",
    )
    try:
        parts = parse_json(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, Problem):
        raise wrong from None
    if not isinstance(parts, list) or [type(p) for p in parts] != list(kinds):
        raise wrong
    return tuple(parts)


# --------------------------------------------------------------------------- around every request

_CORRELATION = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class _Envelope:
    """Gives every request its correlation id, counts it, and turns a crash into a 500 without words."""

    def __init__(self, app: ASGIApp, *, clock: Clock, metrics: Metrics | None) -> None:
        self._app = app
        self._clock = clock
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outer = scope.get("correlation")  # an application around this one has chosen already
        current = outer or _correlation_id(scope)
        scope["correlation"] = current
        token = correlation.set(current)
        begun, status = self._clock.monotonic(), 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = list(scope.get("state", {}).pop("rate_headers", ()))
                if outer is None:
                    extra.append((b"x-correlation-id", current.encode()))
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        except Exception as error:  # noqa: BLE001 - the last resort; its words may hold personal data
            frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
            kind, where = type(error).__name__, route_template(scope)
            log.error("request_crashed", error=kind, route=where, frames=frames[-12:])  # noqa: TRY400
            if not status:
                await problem_response(_crash())(scope, receive, stamped)
        finally:
            if self._metrics is not None:
                seconds = self._clock.monotonic() - begun
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.request(method, route_template(scope), status, seconds)
            correlation.reset(token)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _crash() -> Problem:
    return Problem(
        500,
        "internal_error",
        zh="系统内部错误，请稍后重试，并提供 correlation_id 给运维人员",
        en="something went wrong inside; try again later and give operations the correlation_id",
    )


def _correlation_id(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == b"x-correlation-id"]
    text = given[0].decode("latin-1") if given else ""
    return text if _CORRELATION.fullmatch(text) else secrets.token_hex(16)


def install(
    app: FastAPI, *, clock: Clock, metrics: Metrics | None = None, rate_limit_per_s: float | None = None
) -> None:
    """Gives an application the problems, the correlation id, the request metrics and the rate limit.

    The application's `state.core` has to offer `auth`, `call` and `fingerprint` before the first request.
    """
    app.router.redirect_slashes = False
    app.state.rate_limiter = None if rate_limit_per_s is None else RateLimiter(rate_limit_per_s, clock)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_middleware(_Envelope, clock=clock, metrics=metrics)
