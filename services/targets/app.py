"""Puts targets together."""

from pathlib import Path

import sqlalchemy as sa

from services import targets
from services.targets.api import routes
from services.targets.handlers import SUBSCRIPTIONS
from services.targets.pages import pages
from services.targets.settings import TargetsSettings, read_plan
from services.targets.tables import PLUMBING
from services.targets.work import TargetsWork
from shared.clock import Clock
from shared.documents import pack
from shared.messaging.bus import Bus
from shared.service import Core, Service, assemble


def build(
    settings: TargetsSettings,
    *,
    bus: Bus,
    clock: Clock,
    neighbours: object = None,
) -> Service[TargetsWork]:
    """The whole service, with the plan of its city pack; it asks no neighbour.

    Raises DocumentError where the pack lacks something.
    """
    plan = read_plan(pack(settings.city_pack))

    def make_work(db: sa.Connection) -> TargetsWork:
        return TargetsWork(db, PLUMBING, now=clock.now(), wall=clock.wall())

    return assemble(
        Core(settings, clock=clock, plumbing=PLUMBING, make_work=make_work),
        bus,
        card=targets.__doc__ or "",
        routers=[routes(plan)],
        pages=pages(plan),
        migrations=Path(__file__).parent / "migrations",
        reactions=SUBSCRIPTIONS,
    )
