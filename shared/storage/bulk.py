"""Many rows, or many keys, in one statement, in the form that each driver takes fastest.

Binding every value through SQLAlchemy costs more than the database's own work. Here a column is converted at
once, and rows go as tuples (SQLite), by COPY (PostgreSQL, new rows) or as one JSON document (PostgreSQL, upsert).
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import psycopg
import sqlalchemy as sa
from pydantic_core import to_json

from shared.storage.database import WRITES, dialect_insert

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class JsonText:
    """A JSON document that is text already, as the value of a JSON column."""

    text: str


def insert_rows(db: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Inserts rows, all with the same columns, in their order. Only defaults of the database apply."""
    if not rows:
        return
    if db.dialect.name == "sqlite":
        db.exec_driver_sql(_insert_tuples(db, table, rows), _tuples(db, table, rows))
    else:
        _copy(db, f"COPY {_target(db, table, rows)} FROM STDIN", _lines(db, table, rows))


def upsert_rows(db: sa.Connection, table: sa.Table, rows: Rows, *, key: str, update: Collection[str]) -> None:
    """Inserts rows, or sets the `update` columns where the key is there. Keys in `rows` are distinct."""
    if not rows:
        return
    quote = db.dialect.identifier_preparer.quote
    updates = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in update)
    conflict = f"ON CONFLICT ({quote(key)}) DO UPDATE SET {updates}"
    values = _tuples(db, table, rows)
    if db.dialect.name == "sqlite":
        db.exec_driver_sql(f"{_insert_tuples(db, table, rows)} {conflict}", values)
        return
    # Read as texts and cast, as a JSON column has to be; without lengths, for a cast would cut what is too long.
    kinds = {name: table.c[name].type.compile(db.dialect).split("(")[0] for name in rows[0]}
    given = ", ".join(f"{quote(name)} text" for name in kinds)
    chosen = ", ".join(f"{quote(name)}::{kind}" for name, kind in kinds.items())
    document = to_json([dict(zip(kinds, row, strict=True)) for row in values]).decode()
    db.exec_driver_sql(
        f"INSERT INTO {_target(db, table, rows)} SELECT {chosen}"  # noqa: S608 - names of our own tables
        f" FROM json_to_recordset(%s::json) AS given ({given}) {conflict}",
        (document,),
    )


def among(db: sa.Connection, column: sa.ColumnElement[Any], texts: Collection[str]) -> sa.ColumnElement[bool]:
    """Whether a text column holds one of these: one parameter, however many they are."""
    # A query, not an array: PostgreSQL then joins, also where it knows nothing of the table yet, instead of
    # comparing each row with each text.
    return column.in_(each(db, texts))


def insert_new_keys(db: sa.Connection, table: sa.Table, keys: Collection[str], **same: Any) -> set[str]:
    """Inserts a row for each key that is not there yet, all with the `same` values; returns those keys.

    The key is the table's primary key, a text.
    """
    if not keys:
        return set()
    (key,) = table.primary_key.columns
    values = [sa.literal(value, table.c[name].type) for name, value in same.items()]
    # SQLite takes ON CONFLICT after a SELECT only when that has a WHERE.
    rows = each(db, keys).add_columns(*values).where(sa.true())
    statement = dialect_insert(db, table).from_select([key.name, *same], rows).on_conflict_do_nothing()
    return set(db.scalars(statement.returning(key)).all())


def each(db: sa.Connection, texts: Collection[str]) -> sa.Select[tuple[str]]:
    """One row for each text, in a column `text`: one parameter, however many they are."""
    if db.dialect.name == "sqlite":
        rows = sa.func.json_each(json.dumps(list(texts))).table_valued("value")
        return sa.select(rows.c.value.label("text"))
    return sa.select(sa.func.json_array_elements_text(sa.literal(list(texts), sa.JSON)).label("text"))


def _target(db: sa.Connection, table: sa.Table, rows: Rows) -> str:
    prepare = db.dialect.identifier_preparer
    return f"{prepare.format_table(table)} ({', '.join(map(prepare.quote, rows[0]))})"


def _insert_tuples(db: sa.Connection, table: sa.Table, rows: Rows) -> str:
    marks = ", ".join("?" * len(rows[0]))
    return f"INSERT INTO {_target(db, table, rows)} VALUES ({marks})"  # noqa: S608 - names of our own tables


def _tuples(db: sa.Connection, table: sa.Table, rows: Rows) -> list[tuple[Any, ...]]:
    return list(zip(*_columns(db, table, rows), strict=True))


def _lines(db: sa.Connection, table: sa.Table, rows: Rows) -> str:
    """Rows in the text format of COPY: the driver would format each value anew, though most of a column is the same."""
    columns = [_texts(values) for values in _columns(db, table, rows)]
    return "".join(f"{line}\n" for line in map("\t".join, zip(*columns, strict=True)))


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_TO_ESCAPE = re.compile(r"[\\\t\n\r]")


def _texts(values: list[Any]) -> list[str]:
    try:
        # One search is cheaper than many, and seldom finds anything.
        if not _TO_ESCAPE.search("".join(values)):
            return values
    except TypeError:
        pass  # not all of them are texts
    texts = {value: str(value).translate(_ESCAPES) for value in set(values)}
    for value in texts:
        if isinstance(value, psycopg.Binary):
            texts[value] = f"\\\\x{bytes(value.obj).hex()}"
    if None in texts:
        texts[None] = "\\N"
    return list(map(texts.__getitem__, values))


def _columns(db: sa.Connection, table: sa.Table, rows: Rows) -> Iterator[list[Any]]:
    for name in rows[0]:
        yield _bound(table.c[name].type, list(map(itemgetter(name), rows)), db.dialect)


def _bound(kind: sa.types.TypeEngine[Any], values: list[Any], dialect: sa.Dialect) -> list[Any]:
    """The values as the driver takes them. Each is converted once: in a batch most of a column is the same."""
    if isinstance(kind, sa.JSON):
        # By identity, for a document can't be hashed; `values` keeps every one of them alive meanwhile.
        texts = {id(value): value for value in values}
        texts = {i: v.text if isinstance(v, JsonText) else to_json(v).decode() for i, v in texts.items()}
        return [texts[id(value)] for value in values]
    convert = kind.dialect_impl(dialect).bind_processor(dialect)
    if convert is None:
        return values
    bound = {value: convert(value) for value in set(values)}
    return list(map(bound.__getitem__, values))


def _copy(db: sa.Connection, statement: str, lines: str) -> None:
    driver: psycopg.Connection[Any] = db.connection.driver_connection  # type: ignore[assignment]
    db.info[WRITES] = db.info.get(WRITES, 0) + 1
    try:
        with driver.cursor().copy(statement) as copy:
            copy.write(lines)
    except psycopg.Error as error:
        # As SQLAlchemy would raise it; beyond the first line PostgreSQL quotes the row.
        error.args = (str(error).split("\n", 1)[0],)
        raise sa.exc.DBAPIError.instance(
            statement,
            None,
            error,
            psycopg.Error,
            hide_parameters=True,
            connection_invalidated=driver.closed,
            dialect=db.dialect,
        ) from error
