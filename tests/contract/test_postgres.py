"""PostgreSQL keeps the promises of storage."""

from pathlib import Path

import pytest

from shared.storage.database import Database
from tests.contract.storage_suite import StorageSuite
from tests.support.native import Postgres


class TestPostgres(StorageSuite):
    """The suite on PostgreSQL."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres: Postgres) -> None:
        self.postgres = postgres

    def open(self, folder: Path) -> Database:
        return Database(self.postgres.new_database())
