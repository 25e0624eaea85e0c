"""The embedded process: one per data folder, durable, and closed unless it is a demo."""

import asyncio
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.all_in_one import DataFolderInUse, Suite
from services.cli import TABLES
from services.demo_clock import DEMO_START
from shared.clock import FrozenClock
from shared.storage.database import Database
from shared.storage.migrations import differences, upgrade
from tests.support.system import System

USCC = "91371082MA3XTE5T8Q"


def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """The lock of the first one stands until it ends."""
    suite = Suite(tmp_path, clock=FrozenClock(DEMO_START))

    async def run() -> None:
        async with suite.app.router.lifespan_context(suite.app):
            with pytest.raises(DataFolderInUse, match="another process runs on"):
                Suite(tmp_path, clock=FrozenClock(DEMO_START))

    asyncio.run(run())
    again = Suite(tmp_path, clock=FrozenClock(DEMO_START))
    again.close()


def test_without_demo_neither_clock_nor_carrier_can_be_reached(tmp_path: Path) -> None:
    """They exist in demo and test modes only."""
    suite = Suite(tmp_path, clock=FrozenClock(DEMO_START))

    async def run() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(suite.app), base_url="http://x") as client:
            paths = ("/demo/clock", "/sandbox/messages", "/sandbox/script", "/registry/demo/quiet")
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(run()) == [404] * 4
    suite.close()


def test_a_contract_says_where_its_paths_begin(tmp_path: Path) -> None:
    """Below the prefix of the service that is mounted here."""
    suite = Suite(tmp_path, clock=FrozenClock(DEMO_START))

    async def run() -> list[str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(suite.app), base_url="http://x") as client:
            answers = [(await client.get(f"/{name}/openapi.json")).json() for name in suite.services]
            return [answer["servers"][0]["url"] for answer in answers]

    assert asyncio.run(run()) == [f"/{name}" for name in suite.services]
    suite.close()


def test_the_demo_clock_never_passes_the_last_year(tmp_path: Path) -> None:
    """Neither by an instant in another zone nor day by day; what is refused moves nothing."""
    clock = FrozenClock(DEMO_START)
    suite = Suite(tmp_path, clock=clock, demo=True)

    async def jump(body: dict[str, Any]) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(suite.app), base_url="http://x") as client:
            return await client.post("/demo/clock", json=body)

    async def run() -> None:
        answer = await jump({"to": "2200-12-31T23:00:00-05:00"})
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/to"]
        assert clock.now() == DEMO_START
        assert (await jump({"to": "2200-12-30T10:00:00+08:00"})).status_code == 200
        assert (await jump({"advance_days": 1})).status_code == 200
        answer = await jump({"advance_days": 1})
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/advance_days"]
        assert clock.now().date() == date(2200, 12, 31)

    asyncio.run(run())
    suite.close()


def test_a_restart_goes_on_where_the_process_ended(tmp_path: Path) -> None:
    """Units, clocks and the day are there again; nothing is sent twice."""

    async def run() -> None:
        async with System(tmp_path) as system:
            await system.register(USCC, date(2025, 12, 10))
            await system.settle()
            day = system.clock
        async with System(tmp_path, clock=day) as system:
            clocks = await system.ask("GET", f"/matching/v1/clocks?uscc={USCC}")
            assert clocks["items"][0]["deadline"] == "2026-01-09"
            await system.move_to(day.now().replace(day=12))
            assert len(system.ledger()) == 1
        async with System(tmp_path, clock=day) as system:
            await system.move_to(day.now().replace(day=20))
            assert len(system.ledger()) == 1

    asyncio.run(run())


@pytest.mark.parametrize("service", sorted(TABLES))
def test_the_revisions_lead_to_the_tables_in_code(tmp_path: Path, service: str) -> None:
    """A database that was migrated has exactly the tables that the code declares."""
    database = Database(f"sqlite:///{tmp_path}/migrated.db")
    folder = Path(__file__).parents[2] / "services" / service / "migrations"
    upgrade(database, folder)
    upgrade(database, folder)
    assert differences(database, TABLES[service].metadata) == []
    database.close()


def test_a_lacking_table_is_a_difference(tmp_path: Path) -> None:
    """The comparison can fail."""
    database = Database(f"sqlite:///{tmp_path}/empty.db")
    assert differences(database, TABLES["targets"].metadata)
    database.close()
