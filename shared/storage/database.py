"""The only place that opens a database. SQLite and PostgreSQL differ here and nowhere else."""

import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

WRITES = "writes"
"""Key in `Connection.info`: how many statements other than SELECT this connection has run."""


class Database:
    """One service's database: a writing engine for its committer, a reading one for everybody else.

    On SQLite the file is in WAL mode with `synchronous=FULL`, so that an answered commit survives a power
    cut, and a write takes the write lock at its beginning: a plain BEGIN loses read-then-write races.
    """

    def __init__(self, url: str, *, readers: int = 8) -> None:
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        # Parameters may hold ciphertext or names: they never enter an error text or a log.
        self._writer = sa.create_engine(self.url, pool_size=2, max_overflow=0, hide_parameters=True)
        self._reader = sa.create_engine(self.url, pool_size=readers, max_overflow=0, hide_parameters=True)
        if self.is_sqlite:
            _configure_sqlite(self._writer, begin="BEGIN IMMEDIATE", query_only=False)
            _configure_sqlite(self._reader, begin="BEGIN", query_only=True)
        sa.event.listen(self._writer, "before_cursor_execute", _count_write)

    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        """One transaction: commits at the end of the block, rolls back on an error."""
        with self._writer.connect() as db, db.begin():
            db.info[WRITES] = 0
            yield db

    @contextmanager
    def read(self) -> Generator[sa.Connection]:
        """A snapshot to read from; it cannot write."""
        with self._reader.connect() as db, db.begin():
            if not self.is_sqlite:
                db.execute(sa.text("SET TRANSACTION READ ONLY"))
            yield db

    def close(self) -> None:
        """Gives every connection back."""
        self._writer.dispose()
        self._reader.dispose()


_SQLITE_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


def is_transient(error: BaseException) -> bool:
    """Whether the same work may well succeed later: the database or the network failed, not the work."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_PASSING  # SQLite reports wrong SQL as an operational error too
    return isinstance(error, OperationalError | InterfaceError | OSError)


def upsert(
    db: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    key: Sequence[str],
    update: Sequence[str],
) -> None:
    """Inserts rows, or sets the `update` columns where the key is there. Keys in `rows` are distinct."""
    if not rows:
        return
    statement = _dialect_insert(db, table)
    db.execute(
        statement.on_conflict_do_update(
            index_elements=list(key), set_={name: statement.excluded[name] for name in update}
        ),
        list(rows),
    )


def insert_new(
    db: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], *, key: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Inserts the rows whose key is not there yet and returns those keys. Keys in `rows` are distinct."""
    if not rows:
        return []
    statement = _dialect_insert(db, table).on_conflict_do_nothing(index_elements=list(key))
    result = db.execute(statement.returning(*(table.c[name] for name in key)), list(rows))
    return [tuple(row) for row in result]


def _dialect_insert(db: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if db.dialect.name == "sqlite" else postgresql.insert(table)


def _configure_sqlite(engine: sa.Engine, *, begin: str, query_only: bool) -> None:
    @sa.event.listens_for(engine, "connect")
    def _connect(dbapi_connection: Any, _record: Any) -> None:
        # The driver must not begin transactions itself: only then does our own BEGIN decide.
        dbapi_connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=10000",
            f"query_only={'ON' if query_only else 'OFF'}",
        ):
            dbapi_connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(db: sa.Connection) -> None:
        db.exec_driver_sql(begin)


def _count_write(db: sa.Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
    if not statement.lstrip()[:6].upper().startswith("SELECT"):
        db.info[WRITES] = db.info.get(WRITES, 0) + 1
