"""The strict route: address, content type and body are checked before the framework sees them."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ClassVar, TypeVar

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import (
    BaseModel,
)

from shared.errors import FieldError, Problem, unprocessable
from shared.http.access import Access, charge
from shared.http.bodies import MAX_BODY, bad_text, parse_json, read_body
from shared.http.fields import BAD_IN_LINE
from shared.http.problems import pointer

T = TypeVar("T")
E = TypeVar("E")


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
                charge(request)
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
        elif BAD_IN_LINE.search(values[0]):
            errors.append(bad_text(where))
    errors += [
        bad_text(pointer(("path", name)))
        for name, value in request.path_params.items()
        if isinstance(value, str) and BAD_IN_LINE.search(value)
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
