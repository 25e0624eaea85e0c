"""The types that request models are made of: strict, and clear about what is wrong."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Final, TypeVar

from fastapi import Path, Query
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

T = TypeVar("T")
E = TypeVar("E")

MAX_INTEGER: Final = 2**63 - 1

_FILLERS = re.compile("[\u115f\u1160\u3164\uffa0]")
"""Hangul fillers: letters by their category, and nothing to be seen."""
_LINES: Final = {ord("\n"): " ", ord("\t"): " "}
NEVER = re.compile("[\x00\ud800-\udfff]")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
FIRST_YEAR: Final = 1900
LAST_YEAR: Final = 2200
MAX_ITEMS: Final = 1000
"""A list in a body has at most so many items, unless its `Listing` says less."""


def bad_characters(text: str) -> bool:
    """Whether a text holds what nobody can see, or what is no character: controls, format marks, surrogates.

    Blanks of every width are fine. So is any place for an ideograph: rare names are written with ones that
    this Python does not know yet.
    """
    if _FILLERS.search(text):
        return True
    return not text.isprintable() and any(not c.isprintable() and not _is_fine(c) for c in text)


def _is_fine(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind == "Zs" or (
        kind == "Cn" and "\U00020000" <= char <= "\U0003fffd" and ord(char) & 0xFFFE != 0xFFFE
    )


def refuse(code: str, *, zh: str, en: str) -> PydanticCustomError:
    """What a validator raises: a stable code and the fix in both languages, without the value itself."""
    return PydanticCustomError(
        code,
        "{en}",
        {"zh": zh, "en": en},
    )


class Body(BaseModel):
    """Base of all request bodies: frozen, unknown fields refused, no value is converted.

    Enumerations are declared as `Choice[UnitKind]`, lists as `Many[Contact]`, texts as
    `Annotated[str, Text(200)]`, days as `Day`, instants as `Moment`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


@dataclass(frozen=True)
class Text:
    """`Annotated[str, Text(200)]`: a text of 1 to `limit` characters, without white space at its ends.

    Characters count as messages count them, in UTF-16: a rare one beyond the basic plane takes two.
    Control characters, invisible marks, lone surrogates and private characters are refused; line feeds and
    tabs are let in with `lines`. A `name` holds at least one letter or digit of any script.
    """

    limit: int
    lines: bool = False
    name: bool = False

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
        if len(text.encode("utf-16-le", "surrogatepass")) > 2 * self.limit:
            raise refuse(
                "too_long", zh=f"最多 {self.limit} 个字符", en=f"at most {self.limit} characters are allowed"
            )
        if bad_characters(text.translate(_LINES) if self.lines else text):
            raise refuse(
                "bad_characters",
                zh="含有控制字符或不可见字符，请删除",
                en="remove the control characters and invisible ones",
            )
        if self.name and not any(c.isalnum() for c in text):
            raise refuse(
                "no_letter", zh="至少须含一个文字或数字", en="must hold at least one letter or digit"
            )
        return text


@dataclass(frozen=True)
class Listing:
    """`Annotated[Many[Contact], Listing(20)]`: a list of at most `limit` items.

    Its length is checked before any item, and the first wrong item ends the check: a list of a hundred
    thousand wrong items costs no more than a good one.
    """

    limit: int = MAX_ITEMS

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = handler(source)
        if inner["type"] in {"tuple", "list"}:
            inner = {**inner, "strict": False, "fail_fast": True}
        return core_schema.no_info_before_validator_function(self._check, inner)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "maxItems": self.limit}

    def _check(self, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) > self.limit:
            raise refuse("too_many", zh=f"最多 {self.limit} 项", en=f"at most {self.limit} items are allowed")
        return value


def _day(value: Any) -> date:
    if type(value) is date:  # a row of a file was read already
        return _in_range(value)
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
Many = Annotated[tuple[E, ...], Listing()]
"""`Many[Contact]`: a list in JSON, a tuple here, of at most 1000 items; `Annotated[…, Listing(20)]` of fewer."""
RowId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
"""A numeric id in a path."""
Limit = Annotated[int, Query(ge=1, le=500)]
"""How many items a page may hold; declare it as `limit: Limit = 50`."""
Cursor = Annotated[str | None, Query(max_length=1024)]
"""Where a page goes on; declare it as `cursor: Cursor = None`."""
