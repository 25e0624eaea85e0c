"""SQLite keeps the promises of storage, and its own: a commit survives a power cut."""

from pathlib import Path

import sqlalchemy as sa

from shared.storage.database import Database
from tests.contract.storage_suite import StorageSuite


class TestSqlite(StorageSuite):
    """The suite on a SQLite file."""

    def open(self, folder: Path) -> Database:
        return Database(f"sqlite:///{folder}/suite.db")

    def test_every_connection_is_durable(self, database: Database) -> None:
        """WAL with synchronous=FULL, on the writing and the reading side."""
        for connect in (database.write, database.read):
            with connect() as db:
                assert db.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
                assert db.execute(sa.text("PRAGMA synchronous")).scalar() == 2
