"""The one error that callers see: an RFC 9457 problem with a stable code, in Chinese and English."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field: its JSON pointer, a stable code, and the fix in both languages."""

    pointer: str
    code: str
    zh: str
    en: str


def not_one_of(pointer: str, allowed: Iterable[str], *, code: str = "not_allowed") -> FieldError:
    """A field that takes a few values, and has another one."""
    values = list(allowed)
    return FieldError(
        pointer, code, f"取值须为 {'、'.join(values)} 之一", f"must be one of {', '.join(values)}"
    )


class Problem(Exception):  # noqa: N818 - the RFC's own word
    """A refusal the caller can act on. List commands return it per item; others raise it.

    `code` is stable and snake_case; `zh` and `en` say what is wrong and how to mend it, without any
    personal data. `retry_after` is in seconds.
    """

    def __init__(
        self,
        status: int,
        code: str,
        *,
        zh: str,
        en: str,
        errors: Sequence[FieldError] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {en}")
        self.status = status
        self.code = code
        self.zh = zh
        self.en = en
        self.errors = tuple(errors)
        self.retry_after = retry_after


def unprocessable(errors: Sequence[FieldError]) -> Problem:
    """422: the request was read but some fields are wrong; each error names its field and the fix."""
    return Problem(
        422,
        "invalid_fields",
        zh="请求中有字段不符合要求，逐项见 errors",
        en="Some fields are not acceptable; see errors for each",
        errors=errors,
    )


def not_found(zh: str, en: str) -> Problem:
    """404: nothing with that identifier is visible to the caller."""
    return Problem(404, "not_found", zh=zh, en=en)
