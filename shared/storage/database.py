"""The only place that opens a database. SQLite and PostgreSQL differ here and nowhere else."""

import hashlib
import sqlite3
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

WRITES = "writes"
"""Key in `Connection.info`: how many statements other than SELECT this connection has run."""

KEYED = "keyed"
"""Key in `Connection.info`: whether the transaction only has the keys it named, not the whole database."""

WRITERS = 2
"""Transactions that a process runs side by side on PostgreSQL: one computes while the database works for the other."""

_POSTGRES = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    # A process that is stopped in the middle of a transaction must not keep its locks for ever.
    # Nor may a plan that was made for an empty table outlast its growth. Compiling a plan takes a quarter of a
    # second, which no statement of ours wins back; a table without statistics looks expensive enough for it.
    "options": "-c idle_in_transaction_session_timeout=10s -c timezone=UTC"
    " -c plan_cache_mode=force_custom_plan -c jit=off",
}


class Database:
    """One service's database: a writing engine for its committer, a reading one for everybody else.

    Several processes may write to one PostgreSQL database. Each transaction then has it alone, as on SQLite,
    unless it names the keys it touches: such ones run side by side, key by key one after the other. So the
    order of commits is the order of facts per key, also with several processes.

    On SQLite the file is in WAL mode with `synchronous=FULL`, so that an answered commit survives a power
    cut, and a write takes the write lock at its beginning: a plain BEGIN loses read-then-write races.
    """

    def __init__(self, url: str, *, readers: int = 8) -> None:
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.writers = 1 if self.is_sqlite else WRITERS
        """Transactions that may write at the same time in this process."""
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        # Parameters may hold ciphertext or names: they never enter an error text or a log.
        options: dict[str, Any] = {"max_overflow": 0, "hide_parameters": True}
        if self.is_sqlite:
            self._writer = sa.create_engine(self.url, pool_size=2, **options)
            self._reader = sa.create_engine(self.url, pool_size=readers, **options)
            _configure_sqlite(self._writer, begin="BEGIN IMMEDIATE", query_only=False)
            _configure_sqlite(self._reader, begin="BEGIN", query_only=True)
        else:
            options["connect_args"] = _POSTGRES
            # The driver begins nothing: BEGIN goes with the locks, in one round trip.
            self._writer = sa.create_engine(
                self.url, pool_size=WRITERS + 1, isolation_level="AUTOCOMMIT", **options
            )
            self._reader = sa.create_engine(
                self.url,
                pool_size=readers,
                isolation_level="REPEATABLE READ",
                execution_options={"postgresql_readonly": True},
                **options,
            )
            for engine in (self._writer, self._reader):
                sa.event.listen(engine, "handle_error", _without_values)
        sa.event.listen(self._writer, "before_cursor_execute", _count_write)

    @contextmanager
    def write(self, *, keys: Collection[str] | None = None) -> Generator[sa.Connection]:
        """One transaction: commits at the end of the block, rolls back on an error.

        Without `keys` no other transaction runs meanwhile, in whatever process. With `keys` (none is fine)
        it touches only what belongs to them, or to rows that it locks itself.
        """
        with self._writer.connect() as db, db.begin():
            if not self.is_sqlite:
                db.exec_driver_sql(_begin(keys))
            db.info[WRITES] = 0
            db.info[KEYED] = keys is not None
            yield db

    @contextmanager
    def read(self) -> Generator[sa.Connection]:
        """A snapshot to read from; it cannot write."""
        with self._reader.connect() as db, db.begin():
            yield db

    def close(self) -> None:
        """Gives every connection back."""
        self._writer.dispose()
        self._reader.dispose()


def _begin(keys: Collection[str] | None) -> str:
    """Begins a transaction that has the database alone, or these keys of it.

    Keys are locked sorted, so that two that want the same do not wait for each other.
    """
    if keys is None:
        return "BEGIN; SELECT pg_advisory_xact_lock(0)"
    numbers = ",".join(map(str, sorted({_number_of(key) for key in keys})))
    locks = f"count(pg_advisory_xact_lock(key)) FROM unnest('{{{numbers}}}'::bigint[]) AS key"
    return f"BEGIN; SELECT pg_advisory_xact_lock_shared(0); SELECT {locks}"


def _number_of(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), signed=True) or 1


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


_POSTGRES_READS_ONLY = "25006"
"""A server that still recovers, as after a restore, says so of every write."""

_POSTGRES_OUT_OF_MEMORY = "53200"
"""Also: its table of locks is full."""


def is_transient(error: BaseException) -> bool:
    """Whether the same work may well succeed later: the database or the network failed, not the work."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    original = getattr(error, "orig", None)
    if getattr(original, "sqlstate", None) == _POSTGRES_READS_ONLY:
        return True
    code = getattr(original, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_PASSING  # SQLite reports wrong SQL as an operational error too
    return isinstance(error, OperationalError | InterfaceError | OSError)


def is_too_large(error: BaseException) -> bool:
    """Whether the server had no room for so much at once, such as a lock for each key: less of it may pass."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) == _POSTGRES_OUT_OF_MEMORY


def is_race(error: BaseException) -> bool:
    """Whether another process may have inserted the same key meanwhile: tried again, the work sees it."""
    return isinstance(error, IntegrityError) and getattr(error.orig, "sqlstate", None) == "23505"


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
    statement = dialect_insert(db, table)
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
    statement = dialect_insert(db, table).on_conflict_do_nothing(index_elements=list(key))
    result = db.execute(statement.returning(*(table.c[name] for name in key)), list(rows))
    return [tuple(row) for row in result]


def dialect_insert(db: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT with the database's own ON CONFLICT."""
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


def _without_values(context: sa.engine.ExceptionContext) -> None:
    """PostgreSQL's details quote the values of a violated key; the first line of its message names none."""
    errors = (context.original_exception, context.sqlalchemy_exception)
    for error in errors:
        if error is not None and error.args:
            error.args = (str(error.args[0]).split("\n", 1)[0], *error.args[1:])


def _count_write(db: sa.Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
    if not statement.lstrip()[:6].upper().startswith("SELECT"):
        db.info[WRITES] = db.info.get(WRITES, 0) + 1
