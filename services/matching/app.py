"""Puts matching together."""

from pathlib import Path

import sqlalchemy as sa
import structlog

from services import matching
from services.matching.api import routes
from services.matching.commands import advance_leads, look_at_clocks
from services.matching.funnel import Check, check_funnel, next_check
from services.matching.handlers import SUBSCRIPTIONS, freeze, thaw
from services.matching.pages import pages
from services.matching.settings import MatchingSettings, read_rule
from services.matching.store import last_check, next_advance, next_look
from services.matching.tables import PLUMBING
from services.matching.work import MatchingWork
from shared.calendar import load_calendar
from shared.clock import Clock
from shared.documents import pack
from shared.messaging.bus import Bus
from shared.metrics import Metrics
from shared.service import Core, Duty, Service, assemble

log = structlog.get_logger(__name__)


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

    async def check() -> bool:
        _publish(core.metrics, await core.run(check_funnel), alarm=True)
        return True

    def publish_last(work: MatchingWork) -> None:
        if last := last_check(work.db):
            _publish(core.metrics, Check(**last._mapping), alarm=False)

    return assemble(
        core,
        bus,
        card=matching.__doc__ or "",
        routers=[routes(rule)],
        pages=pages(rule),
        migrations=Path(__file__).parent / "migrations",
        reactions=SUBSCRIPTIONS,
        keyed=True,
        duties=[
            Duty("clocks", lambda: core.run(look_at_clocks, keys=()), lambda db, _now: next_look(db)),
            Duty("ladder", lambda: core.run(advance_leads, keys=()), lambda db, _now: next_advance(db)),
            Duty("funnel", check, next_check),
        ],
        on_parked=freeze,
        on_released=thaw,
        at_start=publish_last,
    )


def _publish(metrics: Metrics, check: Check, *, alarm: bool) -> None:
    """Shows a daily check as metrics, and raises the alarm where leads are lost or stand still."""
    places = metrics.gauge("leads", "Leads by place of the funnel, at the last daily check", ["place"])
    for place, number in check.places.items():
        places.labels(place).set(number)
    overdue = metrics.gauge("leads_overdue", "Open leads past their next date, at the last daily check")
    overdue.set(check.overdue)
    if alarm and not check.sound:
        log.error("funnel_unsound", leads=check.leads, places=check.places, lost=check.lost)
    if alarm and check.overdue:
        log.warning("leads_stand_still", overdue=check.overdue)
