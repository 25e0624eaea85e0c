"""What every database promises the services; the same tests run on each. A subclass provides `open`."""

import contextlib
import threading
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from shared.clock import ZONE
from shared.storage.bulk import JsonText, among, insert_new_keys, insert_rows, upsert_rows
from shared.storage.database import WRITES, Database, insert_new, is_race, upsert
from shared.storage.tables import Serial
from shared.storage.types import Instant

metadata = sa.MetaData()
counter = sa.Table(
    "counter", metadata, sa.Column("name", sa.String(20), primary_key=True), sa.Column("number", sa.Integer)
)
moment = sa.Table("moment", metadata, sa.Column("at", Instant, primary_key=True), sa.Column("note", sa.JSON))


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


secret = sa.Table(
    "secret",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sealed", sa.LargeBinary),
)
record = sa.Table(
    "record",
    metadata,
    sa.Column("seq", Serial, primary_key=True),
    sa.Column("key", sa.String(8), unique=True),
    sa.Column("day", sa.Date),
    sa.Column("at", Instant),
    sa.Column("yes", sa.Boolean),
    sa.Column("number", sa.BigInteger),
    sa.Column("colour", sa.Enum(Colour, native_enum=False, values_callable=list)),
    sa.Column("word", sa.String(8)),
    sa.Column("note", sa.JSON),
    sa.Column("line", sa.Text),
    sa.Column("default", sa.Integer, server_default="7"),
)
"""One column of every kind that services have, one with a name that SQL reserves."""

AT = datetime(2026, 1, 5, 10, 0, 0, 250, tzinfo=ZONE)
FULL = {
    "key": "a",
    "day": date(2026, 1, 5),
    "at": AT,
    "yes": True,
    "number": 1 << 62,
    "colour": Colour.BLUE,
    "word": Colour.RED,
    "line": "tab\t line\n return\r back\\slash \\N \\. ,\"'",
    "note": {"text": 'tab\t line\n back\\slash \\N 荣成 "quoted"', "list": [1, None]},
}
EMPTY = {**dict.fromkeys(FULL), "key": "b", "note": []}


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

    def test_bulk_rows_come_back_as_they_were(self, database: Database) -> None:
        """Every kind of column, empty ones and the database's own defaults, in the order given."""
        with database.write() as db:
            insert_rows(db, record, [FULL, EMPTY])
            insert_rows(db, record, [])
        assert self.records(database) == [{**FULL, "default": 7}, {**EMPTY, "default": 7}]

    def test_bulk_bytes_come_back_as_they_were(self, database: Database) -> None:
        """Every byte, none and nothing."""
        sealed = {"all": bytes(range(256)), "none": b"", "nothing": None}
        with database.write() as db:
            insert_rows(db, secret, [{"name": name, "sealed": value} for name, value in sealed.items()])
        with database.read() as db:
            assert {row.name: row.sealed for row in db.execute(sa.select(secret))} == sealed

    @pytest.mark.parametrize("text", ["\\", "\t", "\n", "\r", "\\N", "\\.", "\\t", ""])
    def test_bulk_texts_come_back_as_they_were(self, database: Database, text: str) -> None:
        """Also what means something to COPY, each alone and between plain ones."""
        with database.write() as db:
            insert_rows(db, counter, [{"name": name, "number": 1} for name in ("a", f"b{text}", f"{text}c")])
            insert_rows(db, counter, [{"name": text, "number": 1}])
        with database.read() as db:
            assert set(db.scalars(sa.select(counter.c.name))) == {"a", f"b{text}", f"{text}c", text}

    def test_bulk_rows_equal_those_bound_one_by_one(self, database: Database) -> None:
        """The stored bytes of instants, days, words and choices are those that other statements compare with."""
        with database.write() as db:
            insert_rows(db, record, [FULL])
            db.execute(sa.insert(record), [{**FULL, "key": "c"}])
            as_text = [sa.cast(record.c[name], sa.Text) for name in FULL if name not in ("key", "note")]
            assert len(db.execute(sa.select(*as_text).distinct()).all()) == 1

    def test_many_bulk_rows_keep_their_order(self, database: Database) -> None:
        """The counted key follows the order of the rows."""
        rows = [{"key": str(n), "note": {"n": n}} for n in reversed(range(3_000))]
        with database.write() as db:
            insert_rows(db, record, rows)
            back = list(db.scalars(sa.select(record.c.key).order_by(record.c.seq)))
        assert back == [row["key"] for row in rows]

    def test_bulk_json_is_taken_as_text_too(self, database: Database) -> None:
        """A document that is text already is not quoted again, and equal text is no document."""
        with database.write() as db:
            insert_rows(
                db, record, [{"key": "a", "note": JsonText('{"a": [1]}')}, {"key": "b", "note": '{"a": [1]}'}]
            )
        assert [row["note"] for row in self.records(database)] == [{"a": [1]}, '{"a": [1]}']

    def test_a_bulk_upsert_inserts_and_replaces(self, database: Database) -> None:
        """Present keys get the new values, of every kind; other columns stay."""
        with database.write() as db:
            upsert_rows(db, record, [FULL], key="key", update=["note"])
            changed = [{**EMPTY, "key": "a"}, {**FULL, "key": "b"}]
            upsert_rows(db, record, changed, key="key", update=[name for name in FULL if name != "day"])
            upsert_rows(db, record, [], key="key", update=["note"])
        first, second = self.records(database)
        assert first == {**EMPTY, "key": "a", "day": FULL["day"], "default": 7}
        assert second == {**FULL, "key": "b", "default": 7}

    def test_a_bulk_upsert_cuts_nothing(self, database: Database) -> None:
        """What is too long for its column is refused where the database has lengths, never shortened."""
        with contextlib.suppress(DBAPIError), database.write() as db:
            upsert_rows(db, record, [{"key": "much too long"}], key="key", update=["key"])
        assert [row["key"] for row in self.records(database)] in ([], ["much too long"])

    def test_bulk_keys_are_found(self, database: Database) -> None:
        """One parameter for however many texts, whatever they hold."""
        with database.write() as db:
            keys = ["a", "b", "'\"%s?", "荣成"]
            insert_rows(db, record, [{"key": key} for key in keys])
            wanted = [*keys[1:], *map(str, range(2_000))]
            found = db.scalars(sa.select(record.c.key).where(among(db, record.c.key, wanted)))
            assert sorted(found) == sorted(keys[1:])
            assert db.scalars(sa.select(record.c.key).where(among(db, record.c.key, []))).all() == []

    def test_of_bulk_keys_only_new_ones_are_inserted(self, database: Database) -> None:
        """They are told, and what is there stays as it is."""
        with database.write() as db:
            insert_rows(db, counter, [{"name": "a", "number": 0}])
            assert insert_new_keys(db, counter, ["b", "a", "荣成"], number=1) == {"b", "荣成"}
            assert insert_new_keys(db, counter, ["b"], number=2) == set()
            assert insert_new_keys(db, counter, []) == set()
        with database.read() as db:
            found = {row.name: row.number for row in db.execute(sa.select(counter))}
        assert found == {"a": 0, "b": 1, "荣成": 1}

    def test_bulk_rows_count_as_written(self, database: Database) -> None:
        """So that a refused command that wrote something is rolled back."""
        with database.write() as db:
            for n, write in enumerate((insert_rows, partial(upsert_rows, key="key", update=["note"]))):
                before = db.info[WRITES]
                write(db, record, [{"key": str(n), "note": {}}])
                assert db.info[WRITES] > before

    def test_a_bulk_key_that_is_there_already_is_a_race_and_shows_no_value(self, database: Database) -> None:
        """The error is SQLAlchemy's, so the committer tries again; what was to be written is not in it."""
        with pytest.raises(IntegrityError) as error, database.write() as db:
            insert_rows(db, record, [{"key": "secret"}] * 2)
        assert "secret" not in str(error.value)
        assert is_race(error.value) or database.is_sqlite
        assert self.records(database) == []

    def records(self, database: Database) -> list[dict[str, Any]]:
        with database.read() as db:
            rows = db.execute(sa.select(record).order_by(record.c.seq))
            return [{name: getattr(row, name) for name in (*FULL, "default")} for row in rows]

    def test_an_error_never_shows_the_values(self, database: Database) -> None:
        """Statements may be logged, their parameters may not."""
        with pytest.raises(DBAPIError) as error, database.write() as db:
            db.execute(sa.insert(counter), [{"name": "secret-name", "number": 1}] * 2)
        assert "secret-name" not in str(error.value)
