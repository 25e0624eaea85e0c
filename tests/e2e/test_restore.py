"""The database of the one-machine stack, archived and restored as docker-compose.yml and docs/operations.md say."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from tests.support.compose import COMPOSE, ROOT, read_yaml
from tests.support.native import Postgres, started, wait_until

RUNBOOK = ROOT / "docs" / "operations.md"
DECLARED = read_yaml(COMPOSE)["services"]["postgres"]


class Machine:
    """The container of PostgreSQL as a process; what it is told names folders of this machine."""

    def __init__(self, folder: Path) -> None:
        self.archive = folder / "archive"
        self.archive.mkdir()
        flags = [part.replace("/archive", str(self.archive)) for part in DECLARED["command"][1:]]
        self.postgres = Postgres(folder / "postgres", flags)
        shutil.chown(self.archive, self.postgres.data.owner(), self.postgres.data.group())

    def run(self, words: Sequence[str], given: Path = Path(os.devnull)) -> bytes:
        """What a command prints in the container. Raises CalledProcessError."""
        data = self.postgres.data
        names = {
            "/var/lib/postgresql/data": str(data),
            "/archive": str(self.archive),
            "postgres:postgres": f"{data.owner()}:{data.group()}",
        }
        command = [self._renamed(word, names) for word in words]
        reach = {"PGHOST": "127.0.0.1", "PGPORT": str(self.postgres.port)}
        with given.open("rb") as source:
            done = subprocess.run(
                command, check=True, stdin=source, stdout=subprocess.PIPE, env={**os.environ, **reach}
            )
        return done.stdout

    def healthy(self) -> bool:
        """What the health check of the container says."""
        try:
            self.run(DECLARED["healthcheck"]["test"][1:])
        except subprocess.CalledProcessError:
            return False
        return True

    @staticmethod
    def _renamed(word: str, names: dict[str, str]) -> str:
        for there, here in names.items():
            word = word.replace(there, here)
        return word


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def told(what: str) -> list[str]:
    """The command that the manual gives a container of the database, by a word of it."""
    text = RUNBOOK.read_text("utf-8")
    found = re.findall(
        r"docker compose (?:exec|run)[^\n]* postgres (pg_basebackup[^>\n]*|-c '[^']*(?:'\"'[^']*)*')", text
    )
    (command,) = [line for line in found if what in line]
    words = shlex.split(command)
    return ["sh", *words] if words[0] == "-c" else words


def test_a_crashed_database_comes_back_to_its_last_transaction(machine: Machine, tmp_path: Path) -> None:
    """From a base backup, the archive, and what is saved of the log before the old disk is given up."""
    postgres = machine.postgres
    base = tmp_path / "base.tar"
    started(postgres)
    try:
        with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as db:
            db.execute("CREATE TABLE fact (no int)")
            db.execute("INSERT INTO fact VALUES (1)")
            base.write_bytes(machine.run(told("pg_basebackup")))
            db.execute("INSERT INTO fact VALUES (2)")
            (segment,) = db.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone() or ("",)
            wait_until((machine.archive / segment).exists, "it is archived")
            db.execute("INSERT INTO fact VALUES (3)")
        postgres.kill()
        machine.run([*postgres.as_owner, *told("/pg_wal")])
        for part in postgres.data.iterdir():
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        machine.run(told("recovery.signal"), base)
        postgres.start()
        with psycopg.connect(postgres.dsn("postgres")) as db:
            assert db.execute("SELECT no FROM fact ORDER BY no").fetchall() == [(1,), (2,), (3,)]
        assert machine.healthy()
    finally:
        postgres.stop()


def test_a_database_that_still_recovers_answers_nobody(machine: Machine) -> None:
    """It is not healthy: nobody reads what is old, and nobody is told that it can't be written."""
    postgres = machine.postgres
    (postgres.data / "standby.signal").touch()

    def refusal() -> str:
        try:
            psycopg.connect(postgres.dsn("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            return str(error)
        raise AssertionError("it answers")

    postgres.launch()
    try:
        wait_until(lambda: "Hot standby mode is disabled" in refusal(), "it has recovered what it has")
        assert not machine.healthy()
    finally:
        postgres.stop()


def test_half_a_file_never_stands_in_the_archive(machine: Machine, tmp_path: Path) -> None:
    """A copy that is killed is made again; the same file once more is fine, another one of its name is refused."""
    (flag,) = [flag for flag in DECLARED["command"] if flag.startswith("-carchive_command=")]
    log, place = tmp_path / "pg_wal", machine.archive / "000000010000000000000001"
    log.write_bytes(b"facts")
    script = flag.partition("=")[2].replace("%p", str(log)).replace("%f", place.name)
    killed = tmp_path / "bin" / "cp"
    killed.parent.mkdir()
    killed.write_text('#!/bin/sh\nprintf fac > "$2"\nkill -9 $PPID\n')
    killed.chmod(0o755)

    def archive(before: str = "") -> int:
        try:
            machine.run(["sh", "-c", before + script])
        except subprocess.CalledProcessError as error:
            return error.returncode
        return 0

    assert archive(f"PATH={killed.parent}:$PATH; ") != 0
    assert not place.exists()
    assert archive() == 0
    assert place.read_bytes() == b"facts"
    assert archive() == 0
    log.write_bytes(b"other")
    assert archive() != 0
    assert place.read_bytes() == b"facts"
