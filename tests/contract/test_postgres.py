"""PostgreSQL keeps the promises of storage."""

from pathlib import Path

import pytest

import services
from services.cli import TABLES
from shared.storage.database import Database
from shared.storage.migrations import differences, upgrade
from tests.contract.storage_suite import StorageSuite
from tests.support.native import Postgres


class TestPostgres(StorageSuite):
    """The suite on PostgreSQL."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres: Postgres) -> None:
        self.postgres = postgres

    def open(self, folder: Path) -> Database:
        return Database(self.postgres.new_database())


@pytest.mark.parametrize("name", list(TABLES))
def test_the_revisions_lead_to_the_tables(name: str, postgres: Postgres) -> None:
    """Each service's revisions run on PostgreSQL and leave what its code expects; twice is once."""
    database = Database(postgres.new_database())
    folder = Path(services.__file__).parent / name / "migrations"
    upgrade(database, folder)
    upgrade(database, folder)
    assert differences(database, TABLES[name].metadata) == []
    database.close()
