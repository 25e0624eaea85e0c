"""Puts registry together."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import get_args

import prometheus_client
import sqlalchemy as sa

from services import registry
from services.registry.api import Room, files, looks, plain, router
from services.registry.commands import complete_live_days
from services.registry.domain import BatchState, City, Hold, late_days, live_due
from services.registry.handlers import SUBSCRIPTIONS
from services.registry.intake.apply import Intake
from services.registry.intake.files import Files
from services.registry.pages import pages
from services.registry.settings import RegistrySettings
from services.registry.store import Store, Vault
from services.registry.tables import PLUMBING
from services.registry.work import RegistryWork
from shared.clock import Clock, start_of, today
from shared.datasets.contract import load_contracts
from shared.messaging.bus import Bus
from shared.metrics import Metrics, Reading
from shared.privacy import KeyRing, Purpose
from shared.service import Core, Duty, Service, assemble

LOOKERS = 2
"""Reading threads that serve the last look alone, so that no other question delays a message's last check."""


def build(
    settings: RegistrySettings, *, bus: Bus, clock: Clock, neighbours: object = None
) -> Service[RegistryWork]:
    """The whole service; it asks no neighbour. Raises DocumentError where the city pack lacks something."""
    city, vault = settings.city(), _vault(settings)

    def make_work(db: sa.Connection) -> RegistryWork:
        return RegistryWork(db, vault, city, now=clock.now(), wall=clock.wall())

    core = Core(settings, clock=clock, plumbing=PLUMBING, make_work=make_work)

    async def complete() -> bool:
        # As a request among requests: what was asked of this process before midnight commits before it. What still
        # waits in another one comes after it; should that be an enrolment, the last look holds the message.
        done: bool = await core.call(complete_live_days, None)
        return done

    def next_day(db: sa.Connection, now: datetime) -> datetime | None:
        store = Store(db, vault)
        marks, pending = store.complete_through(), {batch.dataset for batch in store.pending_batches()}
        live = [item.id for item in city.datasets.values() if item.mode == "live" and item.id not in pending]
        return min((live_due(marks.get(id_), now) for id_ in live), default=None)

    contracts = load_contracts()
    kept = Files(settings.data_dir / "batches", vault.records)
    intake = Intake(core, vault, kept, contracts)
    service = assemble(
        core,
        bus,
        card=registry.__doc__ or "",
        routers=[plain, router, files, looks],
        pages=pages(city, vault),
        migrations=Path(__file__).parent / "migrations",
        reactions=SUBSCRIPTIONS,
        duties=[
            Duty("complete_live_days", complete, next_day),
            Duty("intake", intake.step, intake.next_due, exclusive=True),
        ],
        at_start=intake.clear_files,
        measure=partial(_measure, vault, city, kept=kept),
    )
    lookers = ThreadPoolExecutor(LOOKERS, thread_name_prefix="registry-look")
    service.app.state.room = Room(core, vault, city, lookers, _looked(core.metrics), kept, contracts)
    return service


def _vault(settings: RegistrySettings) -> Vault:
    own = KeyRing.load_or_create(settings.keys)
    return Vault(
        records=own.cipher(Purpose.RECORDS),
        people=own.index(Purpose.ID_INDEX),
        letters=KeyRing.load_or_create(settings.contact_keys).cipher(Purpose.CONTACTS),
    )


def _looked(metrics: Metrics) -> prometheus_client.Counter:
    """Counts the answers of the last look; all are there from the start, so that the first one is a rise."""
    counter = metrics.counter(
        "last_looks_total", "Messages asked about just before they leave, by answer", ["answer", "reason"]
    )
    counter.labels("go", "")
    for reason in get_args(Hold):
        counter.labels("hold", reason)
    return counter


def _measure(
    vault: Vault, city: City, db: sa.Connection, now: datetime, reading: Reading, *, kept: Files
) -> None:
    store, day = Store(db, vault), today(now)
    marks = store.complete_through()
    late = {(item.id,): late_days(item.mode, marks.get(item.id), day) for item in city.datasets.values()}
    reading.gauges(
        "dataset_late_days",
        "Days that a batch data set lags behind the day before yesterday",
        ["dataset"],
        late,
    )
    reading.gauges(
        "dataset_complete_timestamp_seconds",
        "The end of the last day that a data set is complete through",
        ["dataset"],
        {(id_,): start_of(through + timedelta(days=1)).timestamp() for id_, through in marks.items()},
    )
    batches = dict.fromkeys(((str(state),) for state in BatchState), 0) | store.count_batches()
    reading.gauges("batches", "Files that departments sent, by state", ["state"], batches)
    reading.gauge(
        "batches_without_file",
        "Batches to be applied of which this process does not find the file in its data folder",
        sum(not kept.has(batch.file_id) for batch in store.pending_batches()),
    )
    units, uninsured = store.count_units(day), store.count_units(day, insured=False)
    reading.gauges(
        "units",
        "Registered units, by whether anybody is insured through them",
        ["insured"],
        {("true",): units - uninsured, ("false",): uninsured},
    )
