"""Reading a body: limits, JSON without surprises, and where exactly it is wrong."""

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

from fastapi import Request
from starlette.requests import ClientDisconnect

from shared.errors import FieldError, Problem, unprocessable
from shared.http.fields import MAX_INTEGER, NEVER
from shared.http.problems import MAX_ERRORS, pointer

MAX_BODY: Final = 256 * 1024
"""The largest JSON body, in bytes."""
MAX_DEPTH: Final = 32
MAX_KEYS: Final = 200
"""The most keys of one object; no body of ours asks for as many."""


async def read_body(request: Request, *, limit: int = MAX_BODY) -> bytes:
    """The raw body; raises 413 as soon as it is longer than `limit` bytes, without keeping more."""
    _refuse_announced(request, limit)
    body, more = b"", True
    while (
        more
    ):  # not by way of `stream_body`: most bodies come whole, and a generator costs as much as they do
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise _too_large(limit)
    return body


async def stream_body(request: Request, *, limit: int) -> AsyncGenerator[bytes]:
    """The raw body piece by piece; raises 413 as soon as it is longer than `limit` bytes."""
    _refuse_announced(request, limit)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        yield chunk


def _refuse_announced(request: Request, limit: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
        raise _too_large(limit)


def _too_large(limit: int) -> Problem:
    return Problem(
        413,
        "body_too_large",
        zh=f"请求体不得超过 {limit} 字节",
        en=f"the body may have at most {limit} bytes",
    )


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
        value = _DECODER.decode(text)
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


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)


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
            if len(value) > MAX_KEYS:
                raise unprocessable([_too_many_keys(pointer(at))])
            errors += [bad_text(pointer((*at, key))) for key in value if NEVER.search(key)]
            todo += [((*at, key), inner) for key, inner in value.items() if not _is_harmless(inner)]
        elif isinstance(value, list):
            todo += [((*at, index), inner) for index, inner in enumerate(value) if not _is_harmless(inner)]
        elif isinstance(value, str) and NEVER.search(value):
            errors.append(bad_text(pointer(at)))
        elif isinstance(value, int | float) and not abs(value) <= MAX_INTEGER:
            errors.append(FieldError(pointer(at), "out_of_range", "数值过大", "the number is too large"))
    if errors:
        raise unprocessable(errors)


def _is_harmless(value: Any) -> bool:
    """Most values are: they need no place in the list of what to look at."""
    return value is None or (isinstance(value, str) and not NEVER.search(value))


def _too_many_keys(where: str) -> FieldError:
    return FieldError(
        where,
        "too_many_keys",
        f"一个对象最多 {MAX_KEYS} 个键",
        f"an object may have at most {MAX_KEYS} keys",
    )


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


def bad_text(where: str) -> FieldError:
    """The error of a text with characters that no text may hold."""
    return FieldError(
        where,
        "bad_characters",
        "含有控制字符、不可见字符或不成对的代理字符，请删除",
        "holds control characters, invisible ones or lone surrogates; remove them",
    )
