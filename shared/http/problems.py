"""RFC 9457 problems: every refusal says what is wrong and how to mend it, in two languages."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from shared.errors import FieldError, Problem, unprocessable
from shared.logs import correlation

log = structlog.get_logger(__name__)

MAX_ERRORS: Final = 50
"""A problem lists at most so many field errors."""

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


class Challenge(Problem):
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
    if isinstance(problem, Challenge):
        extra["WWW-Authenticate"] = problem.challenge
    return JSONResponse(body, problem.status, extra, media_type="application/problem+json")


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Problem"


def field_errors(error: ValidationError | RequestValidationError) -> list[FieldError]:
    """What is wrong with each field, in both languages and without the values."""
    return [_field_error(item) for item in error.errors()]


def _field_error(error: Mapping[str, Any]) -> FieldError:
    loc = list(error["loc"])
    if loc and loc[0] == "body":
        loc = loc[1:]
    context = error.get("ctx") or {}
    if "zh" in context and "en" in context:
        return FieldError(pointer(loc), str(error["type"]), str(context["zh"]), str(context["en"]))
    code, zh, en = _WORDS.get(error["type"], _INVALID)
    # Pydantic lists the values of a choice in English, quoted.
    listed = str(context.get("expected", "")).replace("'", "")
    values = {"zh": listed.replace(" or ", "、").replace(", ", "、"), "en": listed}
    zh, en = (
        text.format_map({**context, "expected": values[name]}) for name, text in (("zh", zh), ("en", en))
    )
    return FieldError(pointer(loc), code, zh, en)


def _on_problem(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101 - registered for it alone
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("problem", code=problem.code, status=problem.status)
    return problem_response(problem)


def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    return problem_response(unprocessable(field_errors(error)[:MAX_ERRORS]))


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


def install_problems(app: FastAPI) -> None:
    """Makes every error of an application a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
