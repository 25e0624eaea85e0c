"""Revisions take along what is there, and partitions come and go without one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from services.cli import TABLES
from shared.storage.database import Database
from shared.storage.migrations import _config, differences, upgrade
from tests.support.native import Postgres

AT = datetime(2026, 3, 20, tzinfo=UTC)
FOLDERS = Path(__file__).parents[2] / "services"


def test_partitions_are_no_difference_from_the_tables_in_code(postgres: Postgres) -> None:
    """Another table is one, and a lacking one."""
    database, metadata = Database(postgres.new_database()), TABLES["targets"].metadata
    upgrade(database, FOLDERS / "targets" / "migrations")
    with database.write() as db:
        db.execute(sa.text("CREATE TABLE inbox_20260320 (LIKE inbox)"))
        db.execute(sa.text("CREATE TABLE surprise (id integer)"))
        db.execute(sa.text("DROP TABLE parked"))
    found = {(item[0], item[1].name) for item in differences(database, metadata)}
    database.close()
    assert found == {("add_table", "parked"), ("add_index", "parked_key"), ("remove_table", "surprise")}


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_facts_stay_when_the_logs_are_split(tmp_path: Path, postgres: Postgres, backend: str) -> None:
    """What registry had published; contacts move to their own log. What is known stays known."""
    database = Database(f"sqlite:///{tmp_path}/x.db" if backend == "sqlite" else postgres.new_database())
    folder, plumbing = FOLDERS / "registry" / "migrations", TABLES["registry"].PLUMBING
    facts = {"subject": "a", "partition": None, "correlation": "c", "data": {"n": 1}}
    rows = [
        {"seq": seq, "id": f"id-{seq}", "type": type_, "time": AT, "published_at": AT, **facts}
        for seq, type_ in ((3, "registry.unit_registered.v1"), (4, "registry.contact_changed.v1"))
    ]
    with database.write() as db:
        command.upgrade(_config(folder, db), "0002")
        db.execute(sa.insert(plumbing.event_log), rows)
        db.execute(sa.insert(plumbing.inbox).values(id="id-9", received_at=AT))
    upgrade(database, folder)
    with database.read() as db:
        assert [dict(row._mapping) for row in db.execute(sa.select(plumbing.event_log))] == rows[:1]
        assert [dict(row._mapping) for row in db.execute(sa.select(plumbing.contact_log))] == rows[1:]
        assert db.execute(sa.select(plumbing.inbox)).all() == [("id-9", AT)]
    database.close()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_open_disputes_are_found_by_whom_they_are_about(
    tmp_path: Path, postgres: Postgres, backend: str
) -> None:
    """Those of before, too; settled ones are not looked for."""
    database = Database(f"sqlite:///{tmp_path}/x.db" if backend == "sqlite" else postgres.new_database())
    folder, tables = FOLDERS / "registry" / "migrations", TABLES["registry"]
    rows = [
        {"batch_id": "b1", "row": row, "sealed": b"", "uscc": "u", "keys": keys, "disputed": disputed}
        for row, keys, disputed in (
            (2, ["number", "name"], True),
            (3, ["x"], False),
            (4, [], None),
            (5, ["x"], True),
        )
    ]
    with database.write() as db:
        command.upgrade(_config(folder, db), "0004")
        db.execute(sa.insert(tables.REJECTED_ROW), rows)
    upgrade(database, folder)
    with database.read() as db:
        found = db.execute(sa.select(tables.DISPUTE_KEY).order_by("row", "digest")).all()
    database.close()
    assert found == [("name", "b1", 2), ("number", "b1", 2), ("x", "b1", 5)]
