"""Servers that tests share: started when the first test asks, stopped at the end of the run."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.native import Kafka, Postgres, started
from tests.support.probe import Probe


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL.

    Its folder is not below pytest's own, which another run closes to everybody else when it begins.
    """
    with TemporaryDirectory(prefix="yingbao-postgres-") as folder:
        server = started(Postgres(Path(folder)))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A running Kafka broker."""
    server = started(Kafka(Path(tmp_path_factory.mktemp("kafka"))))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def probe(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Probe]:
    """A small service with a running committer, on each database."""
    url = request.getfixturevalue("postgres").new_database() if request.param == "postgresql" else None
    probe = Probe(tmp_path, url=url)
    probe.committer.start()
    yield probe
    probe.committer.stop()
    probe.database.close()
