"""Puts matching together."""

from pathlib import Path

import sqlalchemy as sa

from services import matching
from services.matching.api import routes
from services.matching.commands import look_at_clocks
from services.matching.handlers import SUBSCRIPTIONS, freeze, thaw
from services.matching.settings import MatchingSettings, read_rule
from services.matching.store import next_look
from services.matching.tables import PLUMBING
from services.matching.work import MatchingWork
from shared.calendar import load_calendar
from shared.clock import Clock
from shared.documents import pack
from shared.messaging.bus import Bus
from shared.service import Core, Duty, Service, assemble


def build(
    settings: MatchingSettings, *, bus: Bus, clock: Clock, neighbours: object = None
) -> Service[MatchingWork]:
    """The whole service, with rule and calendar of its city pack; it asks no neighbour.

    Raises DocumentError where the pack lacks something.
    """
    folder = pack(settings.city_pack)
    rule = read_rule(folder, late_registration_wait_s=settings.late_registration_wait_s)
    calendar = load_calendar(folder)

    def make_work(db: sa.Connection) -> MatchingWork:
        return MatchingWork(db, rule=rule, calendar=calendar, now=clock.now(), wall=clock.wall())

    core = Core(settings, clock=clock, plumbing=PLUMBING, make_work=make_work)
    return assemble(
        core,
        bus,
        card=matching.__doc__ or "",
        routers=[routes(rule)],
        migrations=Path(__file__).parent / "migrations",
        reactions=SUBSCRIPTIONS,
        duties=[Duty("clocks", lambda: core.run(look_at_clocks), lambda db, _now: next_look(db))],
        on_parked=freeze,
        on_released=thaw,
    )
