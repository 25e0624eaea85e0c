"""Reads the city pack: dated facts in TOML, JSON and CSV, with errors that name the file and the key."""

import csv
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_ROOT = Path(__file__).resolve().parent.parent
# An installed wheel carries the pack inside `services`; a checkout keeps it under `deploy`.
_DEFAULT_PACKS = (_ROOT / "services" / "rongcheng", _ROOT / "deploy" / "rongcheng")


class DocumentError(Exception):
    """A file of the city pack is missing, unreadable, or lacks something. The message says which and what."""


@dataclass(frozen=True)
class Document:
    """A TOML or JSON file, or a table inside one. `at` is where in the file the table lies, "" at the top."""

    file: Path
    data: Mapping[str, Any]
    at: str = ""

    def need(self, key: str, kind: type[T]) -> T:
        """The value at a dotted key, of exactly this type (a whole number also passes as float)."""
        found = self.get(key, kind)
        if found is None:
            raise DocumentError(f"{self.file}: key {self._full(key)} is missing; add it")
        return found

    def get(self, key: str, kind: type[T]) -> T | None:
        """Like `need`, but None where the key is absent; a value of another type is still an error."""
        found: Any = self.data
        for step in key.split("."):
            if not isinstance(found, Mapping) or step not in found:
                return None
            found = found[step]
        return self._typed(key, found, kind)

    def texts(self, key: str) -> tuple[str, ...]:
        """The list of texts at a key."""
        return self.values(key, str)

    def values(self, key: str, kind: type[T]) -> tuple[T, ...]:
        """The list at a key, each value of exactly this type."""
        return tuple(self._typed(f"{key}[{n}]", item, kind) for n, item in enumerate(self.need(key, list)))

    def parts(self, key: str) -> tuple["Document", ...]:
        """The tables of the list at a key, as documents that name their place in errors."""
        return tuple(
            Document(self.file, table, self._full(f"{key}[{n}]"))
            for n, table in enumerate(self.values(key, dict))
        )

    def part(self, key: str) -> "Document":
        """The table at a key, as a document."""
        return Document(self.file, self.need(key, dict), self._full(key))

    def _full(self, key: str) -> str:
        return f"{self.at}.{key}" if self.at else key

    def _typed(self, key: str, found: Any, kind: type[T]) -> T:
        if kind is float and type(found) is int:
            found = float(found)
        # Exact types: True is no number, and a date with a time is no day.
        if type(found) is not kind:
            raise DocumentError(
                f"{self.file}: key {self._full(key)} must be {kind.__name__}, not {type(found).__name__}"
            )
        return found


def pack(path: Path | None) -> Path:
    """The folder of the city pack: the one given, else the packaged one, else the repository's."""
    candidates = _DEFAULT_PACKS if path is None else (path,)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise DocumentError(f"no city pack found at {looked}; set YINGBAO_CITY_PACK to a folder")


def read_toml(path: Path) -> Document:
    """A TOML file."""
    try:
        return Document(path, tomllib.loads(_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"{path}: not valid TOML: {error}") from error


def read_json(path: Path) -> Document:
    """A JSON file whose top is an object."""
    try:
        data = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DocumentError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise DocumentError(f"{path}: the top must be an object")
    return Document(path, data)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file (UTF-8, heading row), which must have at least these columns, each filled in."""
    reader = csv.DictReader(_text(path).splitlines())
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise DocumentError(f"{path}: column {', '.join(missing)} is missing")
    rows: list[dict[str, str]] = []
    for row in reader:
        if None in row or None in row.values():
            raise DocumentError(f"{path}: line {reader.line_num} has too many or too few columns")
        empty = [column for column in columns if not row[column]]
        if empty:
            raise DocumentError(f"{path}: line {reader.line_num} lacks a value for {', '.join(empty)}")
        rows.append(row)
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DocumentError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"{path}: cannot be read as UTF-8 text: {error}") from error
