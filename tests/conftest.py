"""Servers that tests share: started when the first test asks, stopped at the end of the run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.native import Kafka, Postgres, started
from tests.support.probe import Probe


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running PostgreSQL."""
    server = started(Postgres(Path(tmp_path_factory.mktemp("postgres"))))
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
