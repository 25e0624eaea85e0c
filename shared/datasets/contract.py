"""The contract of a data set: who supplies which columns, under which headings, in which form.

One TOML file per data set lies beside this module. What a rule may name, a file must hold and a document
describes all comes from it.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Final

from shared.documents import Document, DocumentError, read_toml
from shared.errors import FieldError

FOLDER: Final = Path(__file__).parent
TYPES: Final = ("text", "day", "choice")

# Without separators only all eight digits tell month from day.
_DAYS = (
    re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})"),
    re.compile(r"([0-9]{4})[-/.年]([0-9]{1,2})[-/.月]([0-9]{1,2})日?(?: 0?0:00(?::00)?)?"),
)
_NOT_IN_A_HEADING = re.compile(r"[\s*:()_]")


@dataclass(frozen=True)
class Column:
    """A field of a data set. `values` (of a choice) maps every accepted word to the value it stands for."""

    name: str
    label: str
    type: str
    required: bool
    aliases: tuple[str, ...]
    values: Mapping[str, str]
    meaning: str

    def read(self, text: str) -> str | date | FieldError | None:
        """The value of a cell, None for an empty one, or what is wrong with it."""
        if not text:
            return (
                self._fault("required", "必填，请补充", "is required; fill it in") if self.required else None
            )
        if self.type == "day":
            return _day(text) or self._fault(
                "not_a_day", "须为日期，如 2026-02-10", "must be a day, like 2026-02-10"
            )
        if self.type == "choice":
            allowed = "、".join(self.choices.values())
            values = ", ".join(self.choices)
            return self.values.get(word(text)) or self._fault(
                "not_allowed", f"取值须为 {allowed} 之一", f"must be one of {values}"
            )
        return text

    @property
    def choices(self) -> Mapping[str, str]:
        """Each value of a choice, and the first word for it."""
        found: dict[str, str] = {}
        for written, value in self.values.items():
            found.setdefault(value, written)
        return found

    def _fault(self, code: str, zh: str, en: str) -> FieldError:
        return FieldError(f"/{self.name}", code, zh, en)


@dataclass(frozen=True)
class Contract:
    """A data set as its owners supply it.

    `key` names the columns that make a row the same one; `mode` says that a file holds changes (delta) or the
    whole state (snapshot); `retention_days` is how long rejected rows may be kept.
    """

    id: str
    name: str
    owners: tuple[str, ...]
    key: tuple[str, ...]
    mode: str
    cadence: str
    purpose: str
    legal_basis: str
    sensitive: bool
    retention_days: int
    columns: tuple[Column, ...]

    @cached_property
    def headings(self) -> Mapping[str, Column]:
        """Every known heading, as `word` writes it."""
        return {
            word(heading): column
            for column in self.columns
            for heading in (column.name, column.label, *column.aliases)
        }

    @property
    def template(self) -> bytes:
        """An empty file to fill in: the headings, as spreadsheets open them."""
        return b"\xef\xbb\xbf" + ",".join(column.label for column in self.columns).encode() + b"\r\n"


def word(text: str) -> str:
    """A heading or a choice without what people vary: width, case, blanks, brackets, the star of a must."""
    return _NOT_IN_A_HEADING.sub("", unicodedata.normalize("NFKC", text)).lower()


def load_contracts(folder: Path = FOLDER) -> dict[str, Contract]:
    """Every contract by its id. Raises DocumentError where a file lacks something."""
    return {file.stem: _contract(read_toml(file)) for file in sorted(folder.glob("*.toml"))}


def _contract(document: Document) -> Contract:
    found = Contract(
        id=document.file.stem,
        name=document.need("name", str),
        owners=document.texts("owners"),
        key=document.texts("key"),
        mode=document.need("mode", str),
        cadence=document.need("cadence", str),
        purpose=document.need("purpose", str),
        legal_basis=document.need("legal_basis", str),
        sensitive=document.need("sensitive", bool),
        retention_days=document.need("retention_days", int),
        columns=tuple(map(_column, document.parts("columns"))),
    )
    names = {column.name for column in found.columns}
    if found.mode not in ("delta", "snapshot"):
        raise DocumentError(f"{document.file}: mode must be delta or snapshot")
    if unknown := [name for name in found.key if name not in names]:
        raise DocumentError(f"{document.file}: key names no column: {', '.join(unknown)}")
    _refuse_shared_headings(document, found.columns)
    return found


def _column(table: Document) -> Column:
    kind = table.need("type", str)
    if kind not in TYPES:
        raise DocumentError(f"{table.file}: {table.at}.type must be one of {', '.join(TYPES)}")
    choices = table.need("values", dict) if kind == "choice" else {}
    values: dict[str, str] = {}
    for value in choices:
        for written in (*table.texts(f"values.{value}"), value):
            if values.setdefault(word(written), value) != value:
                raise DocumentError(f"{table.file}: {table.at}.values: {written} stands for two values")
    return Column(
        name=table.need("name", str),
        label=table.need("label", str),
        type=kind,
        required=table.get("required", bool) or False,
        aliases=table.texts("aliases") if table.get("aliases", list) else (),
        values=values,
        meaning=table.need("meaning", str),
    )


def _refuse_shared_headings(document: Document, columns: Iterable[Column]) -> None:
    owner: dict[str, str] = {}
    for column in columns:
        for heading in {word(text) for text in (column.name, column.label, *column.aliases)}:
            if heading in owner:
                raise DocumentError(
                    f"{document.file}: the heading {heading} stands for {owner[heading]} and {column.name}"
                )
            owner[heading] = column.name


def _day(text: str) -> date | None:
    plain = unicodedata.normalize("NFKC", text)
    for form in _DAYS:
        if match := form.fullmatch(plain):
            with suppress(ValueError):
                return date(*map(int, match.groups()))
    return None
