"""The operator's commands beside a running suite: contacts told again, old rows forgotten, figures built anew."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from services.alone import alone
from services.cli import app, token_minter
from services.registry.settings import RegistrySettings
from shared.auth import LocalIssuer, Verifier
from shared.clock import SystemClock
from shared.ids import first_event_id
from shared.settings import MissingSetting
from tests.support.native import free_port, wait_until
from tests.support.pages import code
from tests.support.registry import PARTICIPATION, UNIT

LONG_AGO = first_event_id(datetime(2020, 2, 3, tzinfo=UTC))
AGED = f"0 - seq, '{LONG_AGO}', type, subject, partition, time, correlation, data, published_at"
"""Columns of a log: a row as if it was born then."""

NOWHERE = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
"""A database that does not answer."""


@contextmanager
def running(data: Path) -> Iterator[str]:
    """The suite as a process of its own; gives its address."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "services.cli", "serve", "--demo", "--data", data, "--port", str(port)]
    with (data / "server.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))

    def up() -> bool:
        try:
            return httpx.get(f"{url}/registry/health/ready").is_success
        except httpx.TransportError:
            return False

    try:
        wait_until(up, "the suite is up", alive=lambda: server.poll() is None)
        yield url
    finally:
        server.terminate()
        server.wait(15)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def count(data: Path, service: str, query: str) -> int:
    with closing(sqlite3.connect(data / f"{service}.db")) as db:
        return int(db.execute(query).fetchone()[0])


def settled(url: str) -> None:
    def quiet() -> bool:
        return all(
            httpx.get(f"{url}/{name}/demo/quiet").json()["quiet"]
            for name in ("registry", "matching", "notify", "targets")
        )

    wait_until(quiet, "the suite is quiet")


def test_pruning_without_a_database_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, not a traceback."""
    for name in ("REGISTRY", "MATCHING", "NOTIFY", "TARGETS"):
        monkeypatch.setenv(f"YINGBAO_{name}_DATABASE_URL", NOWHERE)
    status, said = run("events", "prune")
    assert (status, said.startswith("registry: the database is away")) == (1, True)


def test_the_running_log_is_not_pruned(tmp_path: Path) -> None:
    """What a lost Kafka would be filled from again stays, whatever month is named."""
    status, said = run("events", "prune", "--log-before", "2199-01", "--data", tmp_path)
    assert (status, "the log of the last 35 days is needed" in said) == (1, True)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("serve", "registry"), "set YINGBAO_REGISTRY_DATABASE_URL"),
        (("serve", "notify"), "set YINGBAO_NOTIFY_CARRIER_SECRET_KEY"),
        (("serve", "targets"), "the database fails: connection failed"),
        (("serve", "--role", "worker"), "--role worker is for one service"),
        (("serve", "targets", "--demo"), "set YINGBAO_TARGETS_DEMO=true"),
        (("topics",), "127.0.0.1:1 does not answer"),
    ],
    ids=[
        "no database named",
        "no key of the carrier",
        "database away",
        "role of nobody",
        "demo of one",
        "broker away",
    ],
)
def test_what_is_missing_is_said_in_a_sentence(command: tuple[str, ...], said: str) -> None:
    """A process of its own makes no database file that nobody asked for, and nothing ends in a traceback."""
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli", *command],
        env={
            **os.environ,
            "YINGBAO_KAFKA": "127.0.0.1:1",
            "YINGBAO_NOTIFY_DATABASE_URL": NOWHERE,
            "YINGBAO_TARGETS_DATABASE_URL": NOWHERE,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    text = ended.stdout + ended.stderr
    assert (ended.returncode, said in text, "Traceback" in text) == (1, True, False)


def test_notify_alone_asks_for_its_neighbours(tmp_path: Path) -> None:
    """The addresses of the suite in one process would be somebody else's, and reminders would wait for ever."""
    told = {"data_dir": tmp_path, "kafka": "127.0.0.1:1", "database_url": f"sqlite:///{tmp_path}/notify.db"}
    secrets = {"carrier_secret_key": SecretStr("k"), "receipts_secret": SecretStr("r" * 16)}
    neighbours = {"registry_url": "http://registry:8000", "carrier_url": "http://carrier:8000"}
    for left_out in neighbours:
        given = {name: url for name, url in neighbours.items() if name != left_out}
        with pytest.raises(
            MissingSetting, match="set YINGBAO_NOTIFY_REGISTRY_URL and YINGBAO_NOTIFY_CARRIER_URL"
        ):
            alone("notify", **told, **secrets, **given)
    alone("notify", **told, **secrets, **neighbours).core.database.close()


def test_a_token_is_signed_as_registry_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the key file and in the name that its settings give; without one the folder's, and no new one is made."""
    status, said = run("token", "--department", "ADM", "--data", tmp_path)
    assert (status, f"there is no {tmp_path}/issuer.jwk yet" in "".join(said.splitlines())) == (1, True)
    monkeypatch.setenv("YINGBAO_REGISTRY_ISSUER_KEY_FILE", str(tmp_path / "other.jwk"))
    monkeypatch.setenv("YINGBAO_REGISTRY_ISSUER", "https://issuer.example")
    settings = RegistrySettings()
    issuer = LocalIssuer(settings.issuer_key, SystemClock(), issuer=settings.issuer)
    verifier = Verifier(issuer.jwks, SystemClock(), issuer=settings.issuer)
    status, said = run("token", "--department", "ADM", "--data", tmp_path)
    assert (status, verifier.verify(said.strip()).department) == (0, "ADM")


def test_commands_beside_a_running_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contacts of one unit and of all; an old month of the log; then the same figures from what is kept.

    They are built where the old ones are gone, too.
    """
    contacts = "SELECT count(*) FROM contact_log"
    with running(tmp_path) as url:

        def post(path: str, body: Any, department: str) -> None:
            bearer = {"Authorization": f"Bearer {token_minter(tmp_path)(department)}"}
            assert httpx.post(f"{url}/registry{path}", json=body, headers=bearer).is_success

        for number in range(2):
            post("/v1/units", {**UNIT, "uscc": code(number), "established_on": "2026-01-02"}, "ADM")
        post("/v1/participations", {**PARTICIPATION, "uscc": code(0), "started_on": "2026-01-05"}, "HRSS")
        settled(url)
        assert count(tmp_path, "registry", contacts) == 2

        registry = ("--url", f"{url}/registry", "--data", tmp_path)
        status, said = run("contacts", "republish", "--uscc", code(1), *registry)
        assert (status, said.strip()) == (0, "1 units: contacts told again")
        assert run("contacts", "republish", *registry)[1].strip() == "2 units: contacts told again"
        status, said = run("contacts", "republish", "--uscc", code(1), "--uscc", code(7), *registry)
        assert status == 1
        assert "1 of the given units are unknown" in said
        settled(url)
        assert count(tmp_path, "registry", contacts) == 6
        assert count(tmp_path, "notify", "SELECT count(*) FROM unit_contact") == 2

        with closing(sqlite3.connect(tmp_path / "registry.db")) as db:
            for table in ("contact_log", "event_log"):
                db.execute(f"INSERT INTO {table} SELECT {AGED} FROM {table} LIMIT 1")  # noqa: S608
            db.commit()
        assert run("events", "prune", "--data", tmp_path)[1].splitlines() == [
            "registry: no partitions; 1 rows of contact_log",
            *(f"{name}: no partitions; no rows" for name in ("matching", "notify", "targets")),
        ]
        status, said = run("events", "prune", "--log-before", "2020-03", "--data", tmp_path)
        assert "1 rows of event_log" in said

    new = f"sqlite:///{tmp_path}/rebuilt.db"
    status, said = run("events", "rebuild", "targets", "--into", new, "--data", tmp_path)
    assert (status, said.splitlines()[-2:]) == (
        0,
        ["targets: 1 facts, 0 parked", "the same figures as targets has now"],
    )
    assert count(tmp_path, "rebuilt", "SELECT count(*) FROM spell") == 1
    status, said = run("events", "rebuild", "targets", "--into", new, "--data", tmp_path)
    assert (status, "is not empty" in " ".join(said.split())) == (1, True)
    status, said = run("events", "rebuild", "notify", "--into", f"{new}2", "--data", tmp_path)
    assert (status, "unknown service notify" in said) == (1, True)

    with closing(sqlite3.connect(tmp_path / "targets.db")) as db:
        db.execute("UPDATE spell SET town = 'elsewhere'")
        db.commit()
    status, said = run("events", "rebuild", "targets", "--into", f"{new}3", "--data", tmp_path)
    assert (status, "other figures than targets has now: spell" in said) == (1, True)

    (tmp_path / "targets.db").write_bytes(b"")
    status, said = run("events", "rebuild", "targets", "--into", f"{new}4", "--data", tmp_path)
    assert (status, "nothing to compare with" in said, "1 facts" in said) == (0, True, True)
    monkeypatch.setenv("YINGBAO_TARGETS_DATABASE_URL", NOWHERE)
    status, said = run("events", "rebuild", "targets", "--into", f"{new}5", "--data", tmp_path)
    assert (status, "nothing to compare with" in said, "1 facts" in said) == (0, True, True)
