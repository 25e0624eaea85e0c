"""Puts targets together."""

from datetime import datetime
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from services import targets
from services.targets.api import routes
from services.targets.domain import Plan, progress
from services.targets.handlers import SUBSCRIPTIONS
from services.targets.pages import pages
from services.targets.settings import TargetsSettings, read_plan
from services.targets.store import Figures
from services.targets.tables import PLUMBING
from services.targets.work import TargetsWork
from shared.clock import Clock, today
from shared.documents import pack
from shared.messaging.bus import Bus
from shared.metrics import Reading
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
        measure=partial(_measure, plan),
    )


def _measure(plan: Plan, db: sa.Connection, now: datetime, reading: Reading) -> None:
    day = today(now)
    tallies = Figures(db).tallies(day.year, day)
    lines = [progress(target, day.year, day, tallies) for target in plan.targets if target.is_counted]
    actual = {(line.target.id,): float(line.actual.new) for line in lines if line.actual}
    goals = {(line.target.id,): float(line.goal) for line in lines if line.goal is not None}
    reading.gauges(
        "target_people", "People newly insured this year, by target of the plan", ["target"], actual
    )
    reading.gauges(
        "target_goal", "What the plan asks for this year, by target, in its unit", ["target"], goals
    )
