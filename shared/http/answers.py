"""Answers: stored with the fact, dated by an ETag, listed page by page."""

import base64
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from fastapi import Request, Response
from pydantic import (
    BaseModel,
)
from starlette.types import Scope

from shared.errors import Problem
from shared.http.access import caller
from shared.http.bodies import parse_json
from shared.storage.idempotency import Answer, IdempotencyKey

T = TypeVar("T")

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def answer(
    request: Request, command: Callable[..., Any], item: Any, respond: Callable[[Any], Answer]
) -> Response:
    """Runs one command and answers; with an `Idempotency-Key`, at most once per client, route and key.

    A token of another town or department under the same client id never gets the stored answer.

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
    return Response(made.content, made.status, headers, media_type="application/json")


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
    scope = request.scope
    parts = (request.method, scope["path"], scope["query_string"].decode("latin-1"), who.department, who.town)
    text = json.dumps(parts).encode() + b"\n" + await request.body()
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
