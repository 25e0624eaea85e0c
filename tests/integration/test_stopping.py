"""How a service ends."""

import asyncio
from pathlib import Path

from markupsafe import Markup

from services.demo_clock import DEMO_START
from services.targets import tables as targets
from services.targets.settings import TargetsSettings
from shared.clock import FrozenClock
from shared.messaging.bus import Bus
from shared.messaging.in_process import InProcessBus
from shared.pages import Pages, Words
from shared.service import Core, Duty, Service, assemble
from shared.storage.work import Work

MIGRATIONS = Path(targets.__file__).parent / "migrations"
LONG_S = 20.0


class LeavesSlowly(InProcessBus):
    """A bus that takes leave of its broker only when nobody can want anything of it any more."""

    def __init__(self, everybody_ended: asyncio.Event) -> None:
        super().__init__()
        self._everybody_ended = everybody_ended

    async def stop(self) -> None:
        await self._everybody_ended.wait()
        await super().stop()


def a_service(folder: Path, bus: Bus, *duties: Duty) -> Service[Work]:
    clock = FrozenClock(DEMO_START)
    core = Core(
        TargetsSettings(data_dir=folder, mode="server"),
        clock=clock,
        plumbing=targets.PLUMBING,
        make_work=lambda db: Work(db, targets.PLUMBING, now=clock.now(), wall=clock.wall()),
    )
    return assemble(
        core,
        bus,
        card="",
        routers=[],
        pages=Pages(Words("", ""), lambda db, now, base: Markup(""), lambda db, now, name: None),
        migrations=MIGRATIONS,
        duties=duties,
    )


def test_what_a_service_does_by_itself_ends_before_its_bus_has_gone(tmp_path: Path) -> None:
    """A broker that is away can take seconds; nothing is begun meanwhile that a kill would cut off."""

    async def run() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def step() -> bool:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return True

        service = a_service(tmp_path, LeavesSlowly(ended), Duty("waits", step, lambda db, now: now))
        async with asyncio.timeout(LONG_S):
            await service.start()
            await begun.wait()
            await service.stop()

    asyncio.run(run())


def test_a_duty_has_a_last_word_when_its_steps_have_ended(tmp_path: Path) -> None:
    """Also when the stop comes while a step that failed waits to be tried again; the database is still there."""

    async def run() -> None:
        failed, written = asyncio.Event(), list[str]()

        async def step() -> bool:
            failed.set()
            raise ConnectionError("gone")

        async def at_stop() -> None:
            written.append(await service.core.run(lambda work: "last word"))

        duty = Duty("fails", step, lambda db, now: now, at_stop=at_stop)
        service = a_service(tmp_path, InProcessBus(), duty)
        async with asyncio.timeout(LONG_S):
            await service.start()
            await failed.wait()
            assert not written
            await service.stop()
        assert written == ["last word"]

    asyncio.run(run())
