"""What every database promises the services; the same tests run on each. A subclass provides `open`."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from shared.clock import ZONE
from shared.storage.database import Database, insert_new, insert_rows, upsert
from shared.storage.types import Instant

metadata = sa.MetaData()
counter = sa.Table(
    "counter", metadata, sa.Column("name", sa.String(20), primary_key=True), sa.Column("number", sa.Integer)
)
moment = sa.Table("moment", metadata, sa.Column("at", Instant, primary_key=True), sa.Column("note", sa.JSON))
thing = sa.Table(
    "thing",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("note", sa.JSON),
    sa.Column("gone", sa.Date),
)


class StorageSuite:
    """The promises of `shared.storage.database`."""

    def open(self, folder: Path) -> Database:
        """An empty database."""
        raise NotImplementedError

    @pytest.fixture
    def database(self, tmp_path: Path) -> Any:
        database = self.open(tmp_path)
        with database.write() as db:
            metadata.create_all(db)
        yield database
        database.close()

    def test_a_failed_transaction_leaves_nothing(self, database: Database) -> None:
        """Rows written before the error are gone."""

        def fails() -> None:
            with database.write() as db:
                db.execute(sa.insert(counter).values(name="a", number=1))
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fails()
        with database.read() as db:
            assert db.execute(sa.select(counter)).all() == []

    def test_two_writers_that_read_first_lose_no_update(self, database: Database) -> None:
        """Read-then-write of several threads adds up."""
        with database.write() as db:
            db.execute(sa.insert(counter).values(name="a", number=0))

        def add() -> None:
            for _ in range(20):
                with database.write() as db:
                    number = db.scalar(
                        sa.select(counter.c.number).where(counter.c.name == "a").with_for_update()
                    )
                    db.execute(sa.update(counter).values(number=(number or 0) + 1))

        threads = [threading.Thread(target=add) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with database.read() as db:
            assert db.scalar(sa.select(counter.c.number)) == 40

    def test_a_reader_sees_one_state_and_cannot_write(self, database: Database) -> None:
        """What commits meanwhile does not show, and a write is refused."""
        with database.read() as reader:
            assert reader.scalar(sa.select(sa.func.count()).select_from(counter)) == 0
            with database.write() as db:
                db.execute(sa.insert(counter).values(name="a", number=1))
            if database.is_sqlite:
                assert reader.scalar(sa.select(sa.func.count()).select_from(counter)) == 0
        with pytest.raises(DBAPIError), database.read() as reader:
            reader.execute(sa.insert(counter).values(name="b", number=1))

    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_rows_come_back_as_they_were(self, database: Database, number: int) -> None:
        """Whatever the way in: one row or many, with signs that a text format would take for its own."""
        text = "a\\N\t\\.\n,\"'{甲}\r"
        rows = [
            {"id": id_, "text": text, "data": b"\x00\\\xff\n", "note": {text: [None, 1]}, "gone": None}
            for id_ in range(number)
        ]
        with database.write() as db:
            insert_rows(db, thing, rows)
            assert db.info["writes"] == (number > 0)
        with database.read() as db:
            assert [dict(row._mapping) for row in db.execute(sa.select(thing).order_by(thing.c.id))] == rows

    def test_many_rows_of_which_one_is_there_fail_as_one_does(self, database: Database) -> None:
        """None of them is inserted."""
        row = {"text": "", "data": b"", "note": None, "gone": None}

        def insert(*ids: int) -> None:
            with database.write() as db:
                insert_rows(db, thing, [{"id": id_, **row} for id_ in ids])

        insert(2)
        for ids in ([2], [1, 2, 3]):
            with pytest.raises(IntegrityError):
                insert(*ids)
        with database.read() as db:
            assert list(db.scalars(sa.select(thing.c.id))) == [2]

    def test_insert_new_tells_which_rows_were_new(self, database: Database) -> None:
        """Only absent keys are inserted and returned; present rows stay as they were."""
        with database.write() as db:
            assert insert_new(db, counter, [{"name": "a", "number": 1}], key=["name"]) == [("a",)]
            rows = [{"name": name, "number": 2} for name in "abc"]
            assert sorted(insert_new(db, counter, rows, key=["name"])) == [("b",), ("c",)]
            assert insert_new(db, counter, [], key=["name"]) == []
            assert db.scalar(sa.select(counter.c.number).where(counter.c.name == "a")) == 1

    def test_insert_new_takes_many_rows(self, database: Database) -> None:
        """A batch larger than one statement may hold answers for every row."""
        with database.write() as db:
            rows = [{"name": str(n), "number": n} for n in range(3_000)]
            assert len(insert_new(db, counter, rows, key=["name"])) == 3_000
            assert insert_new(db, counter, rows, key=["name"]) == []

    def test_upsert_inserts_and_replaces(self, database: Database) -> None:
        """Present keys get the new values."""
        with database.write() as db:
            upsert(db, counter, [{"name": "a", "number": 1}], key=["name"], update=["number"])
            upsert(
                db,
                counter,
                [{"name": "a", "number": 5}, {"name": "b", "number": 2}],
                key=["name"],
                update=["number"],
            )
            upsert(db, counter, [], key=["name"], update=["number"])
            assert {row.name: row.number for row in db.execute(sa.select(counter))} == {"a": 5, "b": 2}

    def test_instants_keep_their_moment_and_their_order(self, database: Database) -> None:
        """Whatever zone they came in, they sort by time and come back aware."""
        base = datetime(2026, 1, 5, 10, tzinfo=ZONE)
        instants = [base + timedelta(microseconds=1), base.astimezone(UTC), base + timedelta(days=40)]
        with database.write() as db:
            db.execute(sa.insert(moment), [{"at": at, "note": {}} for at in instants])
        with database.read() as db:
            back = list(db.scalars(sa.select(moment.c.at).order_by(moment.c.at)))
            assert back == sorted(instants)
            assert db.scalars(sa.select(moment.c.at).where(moment.c.at <= base)).all() == [base]
        with pytest.raises(sa.exc.StatementError) as naive, database.write() as db:
            db.execute(sa.insert(moment).values(at=datetime(2026, 1, 5, 10), note={}))
        assert "time zone" in str(naive.value)

    def test_an_error_never_shows_the_values(self, database: Database) -> None:
        """Statements may be logged, their parameters may not."""
        with pytest.raises(DBAPIError) as error, database.write() as db:
            db.execute(sa.insert(counter), [{"name": "secret-name", "number": 1}] * 2)
        assert "secret-name" not in str(error.value)
