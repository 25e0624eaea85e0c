"""Registers units one POST at a time, on SQLite and on PostgreSQL, beside an ordinary endpoint.

    python -m tests.bench.register [--only sqlite] [--rounds 3] [--seconds 5] [--connections 32]

Ours is the registry service alone in a uvicorn process, with everything on: token, idempotency key, checks,
encryption, audit and outbox rows, relay and sealer; its bus is in process. The ordinary one is FastAPI with a
SQLModel session that inserts the unit and its contact, and nothing else, in the same kind of server on the same
database: SQLite with WAL and synchronous=FULL, then a PostgreSQL started for this. Rounds alternate; the figures
are medians. The load comes from this process, which prints how busy it was itself: near 100 % it would be the
generator that is measured. The last line is one JSON object (design: register).
"""

import argparse
import asyncio
import itertools
import json
import logging
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
import uvicorn
from fastapi import FastAPI
from sqlmodel import Field, Session, SQLModel, create_engine

from services.cli import spare_the_collector
from services.registry.app import build
from services.registry.settings import RegistrySettings
from shared.auth import LocalIssuer, department_scopes
from shared.clock import SystemClock
from shared.identifiers import org_code_check_char, uscc_check_char
from shared.messaging.in_process import InProcessBus
from tests.support.native import Postgres, free_port, started

DATABASES = ("sqlite", "postgresql")
SERVERS = ("ours", "ordinary")


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--only", choices=DATABASES)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--connections", type=int, default=32)
    options.add_argument(
        "--serve", nargs=4, metavar=("WHICH", "FOLDER", "URL", "PORT"), help=argparse.SUPPRESS
    )
    given = options.parse_args()
    if given.serve:
        which, folder, url, port = given.serve
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        app = _ours(Path(folder), url) if which == "ours" else _ordinary(url)
        spare_the_collector()  # as `yingbao serve` does; for both, so that it makes no difference between them
        uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)
        return
    figures = {
        name: _figures(name, given.rounds, given.seconds, given.connections)
        for name in DATABASES
        if given.only in (None, name)
    }
    print(json.dumps(figures))


def _figures(database: str, rounds: int, seconds: float, connections: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="register-") as folder, _urls(database, Path(folder)) as urls:
        print(f"on {database}", flush=True)
        found = _play(Path(folder), urls, rounds, seconds, connections)
    ours, ordinary = found["ours"], found["ordinary"]
    per_s, ordinary_per_s = _median(ours, "per_s"), _median(ordinary, "per_s")
    return {
        "per_s": round(per_s),
        "ordinary_per_s": round(ordinary_per_s),
        "ratio": round(per_s / ordinary_per_s, 2),
        "p99_ms": round(_median(ours, "p99_ms"), 1),
        "ordinary_p99_ms": round(_median(ordinary, "p99_ms"), 1),
    }


@contextmanager
def _urls(database: str, folder: Path) -> Iterator[dict[str, str]]:
    """An empty database for each of the two servers."""
    if database == "sqlite":
        yield {which: f"sqlite:///{folder / which}.db" for which in SERVERS}
        return
    server = started(Postgres(folder / "postgresql"))
    try:
        yield {which: server.new_database() for which in SERVERS}
    finally:
        server.stop()


def _play(
    folder: Path, urls: Mapping[str, str], rounds: int, seconds: float, connections: int
) -> dict[str, list[dict[str, float]]]:
    token = LocalIssuer(folder / "issuer.jwk", SystemClock()).token(
        "ADM", department="ADM", scopes=department_scopes("ADM")
    )
    units = _units()
    found: dict[str, list[dict[str, float]]] = {which: [] for which in SERVERS}
    servers = {which: _serve(which, folder, url) for which, url in urls.items()}
    try:
        for which, (_, port) in servers.items():  # both warm before anything counts
            asyncio.run(_load(port, token, units, seconds / 3, connections))
            print(f"{which} is up", flush=True)
        for number in range(rounds):
            for which, (_, port) in servers.items():
                load = asyncio.run(_load(port, token, units, seconds, connections))
                found[which].append(figures := load.figures())
                print(
                    f"round {number + 1}, {which}: {figures['per_s']:.0f}/s, p99 {figures['p99_ms']:.0f} ms,"
                    f" generator busy {figures['busy']:.0%}",
                    flush=True,
                )
    finally:
        for process, _ in servers.values():
            process.terminate()
            process.wait(20)
    return found


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return statistics.median(figures[name] for figures in rounds)


def _units() -> Iterator[tuple[str, bytes]]:
    """Codes with right check characters, and the body that registers each."""
    for n in itertools.count(1):
        code = f"91371082{n:08d}{org_code_check_char(f'{n:08d}')}"
        uscc = code + uscc_check_char(code)
        body = {
            "uscc": uscc,
            "name": f"荣成市示例{n}有限公司",
            "kind": "enterprise",
            "established_on": "2026-01-05",
            "town": "寻山街道",
            "address": "示例路1号",
            "industry": "C1361",
            "contacts": [{"role": "legal_representative", "name": "张示例", "mobile": "13800138000"}],
        }
        yield uscc, json.dumps(body, ensure_ascii=False).encode()


# -- the load ------------------------------------------------------------------------------------------


@dataclass
class _Load:
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    busy: float = 0.0

    def figures(self) -> dict[str, float]:
        p99 = statistics.quantiles(self.latencies, n=100)[98]
        return {"per_s": len(self.latencies) / self.seconds, "p99_ms": p99 * 1e3, "busy": self.busy}


async def _load(
    port: int, token: str, units: Iterator[tuple[str, bytes]], seconds: float, connections: int
) -> _Load:
    load = _Load()
    began, cpu = time.perf_counter(), time.process_time()
    end = began + seconds
    await asyncio.gather(*(_one_connection(port, token, units, end, load) for _ in range(connections)))
    load.seconds = time.perf_counter() - began
    load.busy = (time.process_time() - cpu) / load.seconds
    return load


async def _one_connection(
    port: int, token: str, units: Iterator[tuple[str, bytes]], end: float, load: _Load
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < end:
        uscc, body = next(units)
        sent = time.perf_counter()
        writer.write(
            f"POST /v1/units HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: {uscc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        answer = await reader.readexactly(length)
        load.latencies.append(time.perf_counter() - sent)
        assert head.startswith(b"HTTP/1.1 201"), (head, answer)
    writer.close()


# -- the servers ---------------------------------------------------------------------------------------


def _serve(which: str, folder: Path, url: str) -> tuple["subprocess.Popen[bytes]", int]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.register", "--serve", which, str(folder), url, str(port)]
    )
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, port
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the server {which} did not start")


def _ours(folder: Path, url: str) -> FastAPI:
    settings = RegistrySettings(data_dir=folder, database_url=url, rate_limit_per_s=1_000_000)
    return build(settings, bus=InProcessBus(), clock=SystemClock()).app


class PlainUnit(SQLModel, table=True):
    uscc: str = Field(primary_key=True)
    name: str
    kind: str
    established_on: str
    town: str | None = None
    address: str | None = None
    industry: str | None = None


class PlainContact(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    uscc: str
    role: str
    name: str
    mobile: str


class PlainContactIn(SQLModel):
    role: str
    name: str
    mobile: str


class PlainUnitIn(SQLModel):
    uscc: str
    name: str
    kind: str
    established_on: str
    town: str | None = None
    address: str | None = None
    industry: str | None = None
    contacts: list[PlainContactIn] = []


def _ordinary(url: str) -> FastAPI:
    """What FastAPI's own tutorial shows: a session per request, in a thread of its pool."""
    is_sqlite = url.startswith("sqlite")
    engine = create_engine(url, pool_size=40, connect_args={"timeout": 30} if is_sqlite else {})

    @sa.event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: Any) -> None:
        if is_sqlite:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")

    SQLModel.metadata.create_all(engine)
    app = FastAPI()

    @app.post("/v1/units", status_code=201)
    def register(body: PlainUnitIn) -> PlainUnit:
        with Session(engine) as session:
            unit = PlainUnit(**body.model_dump(exclude={"contacts"}))
            session.add(unit)
            session.add_all(PlainContact(uscc=unit.uscc, **contact.model_dump()) for contact in body.contacts)
            session.commit()
            session.refresh(unit)
            return unit

    return app


if __name__ == "__main__":
    main()
