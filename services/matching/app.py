"""Puts matching together."""

from collections import Counter
from datetime import datetime
from functools import partial
from pathlib import Path

import sqlalchemy as sa
import structlog

from services import matching
from services.matching import store
from services.matching.api import routes
from services.matching.commands import advance_leads, look_at_clocks
from services.matching.domain import STOCK, ClockState, LeadState, Rule
from services.matching.funnel import Check, check_funnel, count_places, next_check
from services.matching.handlers import SUBSCRIPTIONS, freeze, thaw
from services.matching.pages import pages
from services.matching.settings import MatchingSettings, read_rule, read_towns
from services.matching.store import next_advance, next_look
from services.matching.tables import PLUMBING
from services.matching.work import MatchingWork
from shared.calendar import load_calendar
from shared.clock import Clock, today
from shared.documents import pack
from shared.messaging.bus import Bus
from shared.metrics import Reading
from shared.service import Core, Duty, Service, assemble

log = structlog.get_logger(__name__)

_SHOWN_ALWAYS = (
    (ClockState.RUNNING, ""),
    (ClockState.WAITING, ""),
    (ClockState.SUSPENDED, ""),
    (ClockState.HELD, STOCK),
    (ClockState.HELD, "provisional"),
)
"""Clocks that are shown also where there are none: what is missing from a chart may be anything."""


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
        _alarm(await core.run(check_funnel))
        return True

    return assemble(
        core,
        bus,
        card=matching.__doc__ or "",
        routers=[routes(rule, read_towns(folder))],
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
        measure=partial(_measure, rule),
    )


def _alarm(check: Check) -> None:
    """Says where leads are lost or stand still."""
    if not check.sound:
        log.error("funnel_unsound", leads=check.leads, places=check.places, lost=check.lost)
    if check.overdue:
        log.warning("leads_stand_still", overdue=check.overdue)


def _measure(rule: Rule, db: sa.Connection, now: datetime, reading: Reading) -> None:
    alike = store.count_leads(db, town=None)
    leads: Counter[tuple[str, ...]] = Counter({(rule.ladder.stages[0].name, LeadState.OPEN): 0})
    for row in alike:
        leads[row.stage, row.state] += row.number
    places = {(place,): number for place, number in count_places(rule.ladder, alike).items()}
    clocks = dict.fromkeys(_SHOWN_ALWAYS, 0) | {
        (row.state, row.reason or ""): row.number for row in store.count_clocks(db)
    }
    waiting = sum(number for (state, _), number in clocks.items() if state == ClockState.WAITING)
    reading.gauges("leads", "Leads by stage and state", ["stage", "state"], leads)
    reading.gauges("funnel_leads", "Leads by place of the funnel", ["place"], places)
    overdue = store.count_overdue(db, today(now), town=None)
    reading.gauge("leads_overdue", "Open leads past their next date", overdue)
    lost = store.count_lost(db)
    reading.gauge("leads_lost", "Open leads without owner, next step or a date for it", lost)
    misplaced = store.count_all_leads(db) - sum(places.values())
    reading.gauge("leads_misplaced", "Leads that are in no place of the funnel", misplaced)
    reading.gauges("clocks", "Legal clocks by state, and why they stand so", ["state", "reason"], clocks)
    due = store.count_due(db, now)
    reading.gauge(
        "clocks_due", "Clocks that time has changed something for and that wait to be looked at", due
    )
    reading.gauges(
        "clocks_waiting_for_data",
        "Clocks that have run out and wait until a data set is complete",
        ["dataset"],
        {(store.PARTICIPATIONS,): waiting},
    )
    reading.gauge("visits_open", "Visits that towns have to make", store.open_visits(db, 0)[0])
