"""What each service shows at /metrics, and what that costs."""

import asyncio
from datetime import date, datetime, timedelta
from pathlib import Path

import httpx
import sqlalchemy as sa
from markupsafe import Markup
from sqlalchemy.exc import OperationalError

from services.demo_clock import DEMO_START
from services.targets import tables as targets
from services.targets.settings import TargetsSettings
from shared.clock import FrozenClock
from shared.messaging.in_process import InProcessBus
from shared.metrics import Reading
from shared.pages import Pages, Words
from shared.service import MEASURE_SHARE, Core, assemble
from shared.storage.work import Work
from tests.support.system import System

USCC = "91371082MA3XTE5T8Q"
COUNTING = timedelta(seconds=2)
MIGRATIONS = Path(targets.__file__).parent / "migrations"


async def shown(system: System, service: str) -> dict[str, float]:
    """The figures of a service: name with labels → value."""
    text = (await system.page(f"/{service}/metrics")).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_the_figures_follow_a_unit_from_registration_to_enrolment(tmp_path: Path) -> None:
    """Clock, lead, message, last look and target, each at the service that knows."""

    async def story() -> None:
        async with System(tmp_path) as system:
            matching = await shown(system, "matching")
            assert matching['yingbao_clocks{reason="",state="running"}'] == 0
            assert matching['yingbao_leads{stage="reminder",state="open"}'] == 0
            await system.register(USCC, date(2025, 12, 1))
            await system.settle()
            assert (await shown(system, "registry"))['yingbao_units{insured="false"}'] == 1
            matching = await shown(system, "matching")
            assert matching['yingbao_leads{stage="reminder",state="open"}'] == 1
            assert matching['yingbao_funnel_leads{place="opened_not_sent"}'] == 1
            assert (await shown(system, "notify"))['yingbao_notices{channel="",state="queued"}'] == 1
            await system.move_to(DEMO_START + timedelta(hours=1))
            notify = await shown(system, "notify")
            assert notify['yingbao_notices{channel="sms",state="delivered"}'] == 1
            assert notify['yingbao_notices{channel="",state="queued"}'] == 0
            assert notify['yingbao_submissions_total{channel="sms",outcome="accepted"}'] == 1
            assert notify['yingbao_last_looks_asked_total{answer="go"}'] == 1
            assert notify['yingbao_last_looks_asked_total{answer="none"}'] == 0
            await system.enrol(USCC, date(2026, 1, 5))
            await system.settle()
            registry = await shown(system, "registry")
            assert registry['yingbao_units{insured="true"}'] == 1
            assert registry['yingbao_last_looks_total{answer="go",reason=""}'] == 1
            assert registry['yingbao_last_looks_total{answer="hold",reason="insured"}'] == 0
            matching = await shown(system, "matching")
            assert matching['yingbao_funnel_leads{place="enrolled"}'] == 1
            assert matching['yingbao_leads{stage="reminder",state="open"}'] == 0
            assert matching['yingbao_consumed_messages_total{outcome="handled"}'] > 0
            assert matching['yingbao_consumer_lag_messages{topic="registry"}'] == 0
            figures = await shown(system, "targets")
            assert 1 in {v for name, v in figures.items() if name.startswith("yingbao_target_people")}

    asyncio.run(story())


class Probe:
    """A service that is counted, which takes time, and whose database can be away."""

    def __init__(self, folder: Path) -> None:
        self.clock = FrozenClock(DEMO_START)
        self.counted = 0
        self.away = False
        core = Core(
            TargetsSettings(data_dir=folder),
            clock=self.clock,
            plumbing=targets.PLUMBING,
            make_work=lambda db: Work(db, targets.PLUMBING, now=self.clock.now(), wall=self.clock.wall()),
        )
        self.service = assemble(
            core,
            InProcessBus(),
            card="",
            routers=[],
            pages=Pages(Words("", ""), lambda db, now, base: Markup(""), lambda db, now, name: None),
            migrations=MIGRATIONS,
            measure=self.measure,
        )

    def measure(self, db: sa.Connection, now: datetime, reading: Reading) -> None:
        if self.away:
            raise OperationalError("SELECT", {}, OSError("away"))
        self.counted += 1
        self.clock.advance(COUNTING)
        reading.gauge("counted", "How often it was counted", self.counted)

    async def shown(self) -> str:
        """What a scraper gets."""
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.service.app), base_url="http://test"
        ) as client:
            answer = await client.get("/metrics")
        assert answer.status_code == 200
        return answer.text


def test_counting_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    """Large tables are counted the more rarely the longer it takes; meanwhile the last figures are shown."""

    async def story() -> None:
        probe = Probe(tmp_path)
        await probe.service.start()
        try:
            assert "yingbao_counted 1.0" in await probe.shown()
            rest = COUNTING / MEASURE_SHARE - COUNTING
            probe.clock.advance(rest - timedelta(seconds=1))
            assert "yingbao_counted 1.0" in await probe.shown()
            assert probe.counted == 1
            probe.clock.advance(timedelta(seconds=1))
            assert "yingbao_counted 2.0" in await probe.shown()
        finally:
            await probe.service.stop()

    asyncio.run(story())


def test_without_its_database_a_service_still_says_how_it_is(tmp_path: Path) -> None:
    """The scrape is answered, says that the database is away, and shows no old figures."""

    async def story() -> None:
        probe = Probe(tmp_path)
        await probe.service.start()
        try:
            assert "yingbao_database_up 1.0" in await probe.shown()
            probe.away = True
            probe.clock.advance(timedelta(hours=1))
            text = await probe.shown()
            assert "yingbao_database_up 0.0" in text
            assert "yingbao_counted" not in text
            assert "yingbao_bus_connected 1.0" in text
            probe.away = False
            assert "yingbao_database_up 1.0" in await probe.shown()
        finally:
            await probe.service.stop()

    asyncio.run(story())
