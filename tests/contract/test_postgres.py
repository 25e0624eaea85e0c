"""PostgreSQL keeps the promises of storage."""

from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

import services
from services.cli import TABLES
from shared.storage.bulk import insert_rows
from shared.storage.database import Database, is_transient
from shared.storage.migrations import differences, upgrade
from tests.contract.storage_suite import FULL, StorageSuite, record
from tests.support.native import Postgres


class TestPostgres(StorageSuite):
    """The suite on PostgreSQL."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres: Postgres) -> None:
        self.postgres = postgres

    def open(self, folder: Path) -> Database:
        return Database(self.postgres.new_database())

    def test_a_connection_lost_in_the_middle_of_bulk_rows_is_passing(self, database: Database) -> None:
        """The error says that the same work may succeed later, and the next transaction does."""

        def write_into_a_lost_connection() -> None:
            with database.write() as db:
                backend = db.scalar(sa.text("SELECT pg_backend_pid()"))
                with psycopg.connect(self.postgres.dsn("postgres")) as other:
                    other.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))
                insert_rows(db, record, [FULL])

        with pytest.raises(DBAPIError) as error:
            write_into_a_lost_connection()
        assert is_transient(error.value)
        with database.write() as db:
            insert_rows(db, record, [FULL])
        assert len(self.records(database)) == 1

    def test_a_server_that_takes_no_writes_yet_is_passing(self, database: Database) -> None:
        """As a restored one while it still recovers."""
        with database.write() as db:
            db.exec_driver_sql("SET TRANSACTION READ ONLY")
            with pytest.raises(DBAPIError) as error:
                insert_rows(db, record, [FULL])
        assert is_transient(error.value)

    def test_a_statement_is_planned_for_the_tables_as_they_are(self, database: Database) -> None:
        """However often it came before: a plan for an empty table reads all of it when it is full."""
        with database.read() as db:
            for _ in range(20):
                db.execute(sa.select(record).where(record.c.seq == 1))
            kept = db.exec_driver_sql(
                "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE '%%record%%'"
            ).one()
        assert kept.custom_plans > 0
        assert kept.generic_plans == 0

    def test_no_statement_is_compiled(self, database: Database) -> None:
        """However dear it looks, as it does over a table without statistics: compiling takes longer than ours do."""
        with database.read() as db:
            plan = db.scalars(sa.text("EXPLAIN SELECT sum(n) FROM generate_series(1, 100000000) AS n")).all()
        assert "JIT:" not in plan
        assert "Aggregate" in plan[0]


@pytest.mark.parametrize("name", list(TABLES))
def test_the_revisions_lead_to_the_tables(name: str, postgres: Postgres) -> None:
    """Each service's revisions run on PostgreSQL and leave what its code expects; twice is once."""
    database = Database(postgres.new_database())
    folder = Path(services.__file__).parent / name / "migrations"
    upgrade(database, folder)
    upgrade(database, folder)
    found = differences(database, TABLES[name].metadata)
    database.close()
    assert found == []
