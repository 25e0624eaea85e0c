"""The strict route: address, content type and body are checked before the framework sees them."""

import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, get_args

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_body_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import (
    BaseModel,
)
from starlette.types import Receive, Scope, Send

from shared.errors import FieldError, Problem, unprocessable
from shared.http.access import Access, charge
from shared.http.bodies import MAX_BODY, bad_text, parse_json, read_body
from shared.http.fields import bad_characters
from shared.http.problems import MAX_ERRORS, pointer

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

MAX_PARAMETERS: Final = 50
"""An address with more query parameters is refused unread."""


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

    def get_route_handler(self) -> Handler:
        """FastAPI's handler with the checks in front."""
        inner = super().get_route_handler()
        checked = self._checks()

        async def strict(request: Request) -> Response:
            return await inner(await checked(request))

        return strict

    def _checks(self) -> Callable[[Request], Coroutine[Any, Any, Request]]:
        markers = [d.call for d in self.dependant.dependencies if isinstance(d.call, Access)]
        declared = dict(_parameters(self.dependant, "query"))
        in_path = dict(_parameters(self.dependant, "path"))

        async def checked(request: Request) -> Request:
            for marker in markers:
                await marker(request)
            if markers and "last-look" not in markers[0].scopes:
                charge(request)
            _check_address(request, declared, in_path)
            return await self._read(request)

        return checked

    async def _read(self, request: Request) -> Request:
        if request.method not in {"POST", "PUT", "PATCH"}:
            return request
        stated = _says_json(request)
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
        if not stated:
            raise _not_json()
        parsed = parse_json(raw)
        if self.body_field is None and parsed != {}:
            raise Problem(
                422,
                "body_not_expected",
                zh="此操作不需要请求体，请勿发送",
                en="this operation takes no body; send none",
            )
        return _ReadRequest(request, raw, parsed)


class PlainRoute(StrictRoute):
    """A strict route for what is asked most: FastAPI finds and describes it, and then stays out of the way.

    The endpoint takes `body`, `request` and `who`, nothing else, and returns a Response. Every answer is the
    one a StrictRoute would give. See docs/adr/0020-a-plain-route.md.
    """

    def get_route_handler(self) -> Handler:
        """The checks, the body's model, the endpoint."""
        checked = self._checks()
        fields = self.dependant.body_params

        async def plain(request: Request) -> Response:
            read = await checked(request)
            values, errors = await request_body_to_args(fields, await read.json(), embed_body_fields=False)
            if errors:
                raise RequestValidationError(errors)
            response: Response = await self.endpoint(**values, request=read, who=read.state.caller)
            return response

        self._plain = plain
        return plain

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers without the framework's stacks, which only dependencies of other routes need."""
        if scope["method"] not in (self.methods or ()):
            return await super().handle(scope, receive, send)
        response = await self._plain(Request(scope, receive, send))
        return await response(scope, receive, send)


class FileRoute(StrictRoute):
    """A route whose body is a file of one of `media_types`; the endpoint reads it with `stream_body`.

    A charset that the sender names is not believed: the bytes say what they are.
    """

    media_types: ClassVar[frozenset[str]] = frozenset()

    async def _read(self, request: Request) -> Request:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        plain = request.headers.get("content-encoding", "identity").lower() == "identity"
        if kind not in self.media_types or not plain:
            allowed = ", ".join(sorted(self.media_types))
            raise Problem(
                415,
                "unsupported_media_type",
                zh=f"请以 Content-Type: {allowed}（不压缩）发送文件",
                en=f"send the file as Content-Type: {allowed} (not compressed)",
            )
        return request


@dataclass(frozen=True)
class _Form:
    """How a kind of value is written in an address; the framework alone would take 1_0, 5.0 and yes too."""

    pattern: re.Pattern[str]
    code: str
    zh: str
    en: str


_FORMS: Final = {
    int: _Form(
        re.compile("-?[0-9]+"),
        "not_a_whole_number",
        "须为整数，只含数字",
        "must be a whole number, in digits",
    ),
    bool: _Form(re.compile("true|false"), "not_a_flag", "须为 true 或 false", "must be true or false"),
}


def _parameters(dependant: Dependant, place: Literal["query", "path"]) -> Iterator[tuple[str, _Form | None]]:
    """The parameters that an endpoint declares in the query or the path, and how each is written."""
    for parameter in dependant.query_params if place == "query" else dependant.path_params:
        annotation = parameter.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for name, field in annotation.model_fields.items():
                yield field.alias or name, _form(field.annotation)
        else:
            yield parameter.alias, _form(annotation)
    for inner in dependant.dependencies:
        yield from _parameters(inner, place)


def _form(annotation: Any) -> _Form | None:
    """Looks through `int | None` and Annotated."""
    if isinstance(annotation, type) and annotation in _FORMS:
        return _FORMS[annotation]
    return next((form for inner in get_args(annotation) if (form := _form(inner))), None)


def _check_address(
    request: Request, declared: Mapping[str, _Form | None], in_path: Mapping[str, _Form | None]
) -> None:
    if not request.scope["query_string"] and not request.path_params:
        return
    if request.scope["query_string"].count(b"&") >= MAX_PARAMETERS:
        raise Problem(
            422,
            "too_many_parameters",
            zh=f"查询参数最多 {MAX_PARAMETERS} 个",
            en=f"give at most {MAX_PARAMETERS} query parameters",
        )
    times = Counter(name for name, _ in request.query_params.multi_items())
    errors: list[FieldError] = []
    for name, value in request.query_params.items():
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
        elif times[name] > 1:
            errors.append(
                FieldError(where, "repeated_parameter", "查询参数只能出现一次", "give the parameter once")
            )
        else:
            errors += _faults(where, value, declared[name])
    for name, value in request.path_params.items():
        errors += _faults(pointer(("path", name)), value, in_path.get(name))
    if errors:
        raise unprocessable(errors[:MAX_ERRORS])


def _faults(where: str, value: str, form: _Form | None) -> Iterator[FieldError]:
    if bad_characters(value):
        yield bad_text(where)
    elif form is not None and not form.pattern.fullmatch(value):
        yield FieldError(where, form.code, form.zh, form.en)


def _says_json(request: Request) -> bool:
    """Whether the content type is JSON; False where none is stated. Raises 415 for any other."""
    given = request.headers.get("content-type")
    if given is None:
        return False
    kind, _, rest = given.partition(";")
    charset = rest.strip().lower().replace('"', "")
    plain = request.headers.get("content-encoding", "identity").lower() == "identity"
    if kind.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"} or not plain:
        raise _not_json()
    return True


def _not_json() -> Problem:
    return Problem(
        415,
        "unsupported_media_type",
        zh="请以 Content-Type: application/json（UTF-8，不压缩）发送",
        en="send Content-Type: application/json (UTF-8, not compressed)",
    )
