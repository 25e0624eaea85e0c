"""What every service is made of: one core that reads and writes, loops that never stop, operational routes.

`assemble` turns a service's own parts (routes, reactions, duties) into a running whole; each service's
`app.build` calls it and nothing else wires anything.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Protocol, TypeVar

import sqlalchemy as sa
import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from sqlalchemy.exc import DBAPIError

from shared.auth import KeySource, LocalIssuer, Verifier, jwks_file
from shared.clock import Clock
from shared.errors import Problem
from shared.events.catalogue import TOPICS
from shared.http import (
    Api,
    Body,
    Caller,
    StrictRoute,
    Text,
    access,
    caller,
    install,
    problem_response,
    public,
)
from shared.messaging.bus import Bus, Subscription
from shared.messaging.consumer import OUTCOMES, Consumer, KeyHook, Reaction
from shared.messaging.relay import Relay
from shared.metrics import Metrics, Reading
from shared.pages import Pages, page_routes
from shared.privacy import KeyRing, Purpose
from shared.settings import ServiceSettings
from shared.storage.audit import BLOCK, keep_head, seal
from shared.storage.committer import Command, Committer
from shared.storage.database import Database, is_transient
from shared.storage.idempotency import Answer, IdempotencyKey
from shared.storage.lease import Lease
from shared.storage.migrations import upgrade
from shared.storage.retention import PARTITIONS_KEY, add_partitions
from shared.storage.tables import Plumbing
from shared.storage.work import Work

W = TypeVar("W", bound=Work)
T = TypeVar("T")

POLL_SECONDS = 0.25
"""How often a loop looks by itself; a commit or a jump of the clock in this process wakes it from its rest."""

REST_SECONDS = 0.05
LONGEST_REST_SECONDS = 0.1
LOOK_SHARE = 0.05
"""How loops rest: so long that a look at what is due takes this share of the time, within the two bounds. Under load a
look for each commit would cost as much as the commits; but every rest delays what a fact sets off, hop by hop."""

SEAL_SECONDS = 0.5
"""How often committed audit rows are sealed; not at each commit, or every commit would bring another one."""

MEASURE_SHARE = 0.05
"""Most of a scraper's time that goes into counting in the database; meanwhile it gets the last figures again."""

LAG_WITHIN_SECONDS = 1.0
"""How long a scrape waits for the broker to say how far the consumer is behind."""

PARTITION_SECONDS = 3_600.0
"""How often the partitions of the coming days are looked after."""

RETRY_SECONDS = (0.05, 0.2, 1.0, 5.0)
"""Waits after a failed step of a loop; the last one repeats."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Duty:
    """Work that time asks for.

    `step` does one portion and returns True when it did something; it is called again at once then.
    `next_due(db, now)` is the business instant of the earliest thing to do, at or before `now` when
    something is due or in flight, None when nothing is scheduled. It also answers `GET /demo/quiet`.
    `exclusive`: a step is more than one transaction, so only one process at a time may be at it.
    `at_stop` does what can't be left to the next start, while the database is still there; it bounds its own time.
    """

    name: str
    step: Callable[[], Awaitable[bool]]
    next_due: Callable[[sa.Connection, datetime], datetime | None]
    exclusive: bool = False
    at_stop: Callable[[], Awaitable[None]] | None = None


class Core(Generic[W]):
    """Reads and writes of one service, opened as its settings say; on `app.state.core`.

    `make_work` opens the service's Work on a connection. `keys` are the keys of the service's own records.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        clock: Clock,
        plumbing: Plumbing,
        make_work: Callable[[sa.Connection], W],
    ) -> None:
        self.name = settings.service
        self.settings = settings
        self.clock = clock
        self.plumbing = plumbing
        self.database = Database(settings.database)
        self.keys = KeyRing.load_or_create(settings.keys)
        self.metrics = Metrics()
        self.auth = Verifier(key_source(settings, clock), clock, issuer=settings.issuer)
        self.alarms: list[asyncio.Event] = []
        self.committer = Committer(
            self.database,
            plumbing,
            make_work,
            cipher=self.keys.cipher(Purpose.IDEMPOTENCY),
            committed=self._wake_from_thread,
        )
        # Embedded, a file lock refuses a second process, so the leases of a killed one are our own.
        self.holder = self.name if settings.mode == "embedded" else secrets.token_hex(16)
        self._fingerprints = self.keys.index(Purpose.IDEMPOTENCY)
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix=f"{self.name}-read")
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(
        self, do: Callable[[W], T], *, urgent: bool = False, keys: Collection[str] | None = None
    ) -> T:
        """Runs `do(work)` in a transaction of its own; urgent ones go before everything that waits.

        With `keys` others may write meanwhile, to other keys (`Database.write`).
        """
        return await self.committer.run(do, urgent=urgent, keys=keys)

    async def call(
        self,
        command: Command,
        item: Any,
        *,
        respond: Callable[[Any], Answer] | None = None,
        key: IdempotencyKey | None = None,
    ) -> Any:
        """Runs one item of a command; returns its outcome, or `respond(outcome)`; raises Problem."""
        return await self.committer.call(command, item, respond=respond, key=key)

    async def read(self, ask: Callable[[sa.Connection], T]) -> T:
        """Asks the database in a reading thread."""

        def ask_in_thread() -> T:
            with self.database.read() as db:
                return ask(db)

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers, ask_in_thread)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # The server was restarted and all connections are stale; new ones are not.
            return await loop.run_in_executor(self._readers, ask_in_thread)

    def fingerprint(self, request: bytes) -> str:
        """A keyed digest of a request, to tell whether a repeated key means the same one."""
        return self._fingerprints.of(request.decode("utf-8", "surrogateescape"))

    def wake(self) -> None:
        """Lets every loop look after its rest: something was committed, or the clock jumped."""
        for alarm in self.alarms:
            alarm.set()

    def _wake_from_thread(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may just be closing; its polls are over anyway
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self.wake)

    def start(self) -> None:
        """Starts the committer; called in the event loop that serves."""
        self._loop = asyncio.get_running_loop()
        self.committer.start()

    def stop(self) -> None:
        """Finishes waiting writes and gives the connections back."""
        self.committer.stop()
        self._readers.shutdown()
        self.database.close()


class Service(Generic[W]):
    """A service that can be started, watched and stopped."""

    def __init__(
        self,
        core: Core[W],
        app: FastAPI,
        *,
        bus: Bus,
        migrations: Path,
        consumer: Consumer | None,
        relay: Relay,
        duties: Sequence[Duty],
        at_start: Callable[[W], None] | None,
        pages: Pages,
        measure: "Measure",
    ) -> None:
        self.name = core.name
        self.core = core
        self.app = app
        self.consumer = consumer
        self.bus = bus
        self._migrations = migrations
        self._relay = relay
        self.duties = tuple(duties)
        """What it does by itself when time comes."""
        self.pages = pages
        """What it shows people."""
        self._at_start = at_start
        self._measure = measure
        self._reading: Reading | None = None
        self._measure_again_at = 0.0
        self._loops: list[asyncio.Task[None]] = []
        self._looking: asyncio.Future[dict[str, bool | Exception]] | None = None
        self.rest_s = REST_SECONDS
        """How long a loop rests that has nothing to do."""
        self.failing: set[str] = set()
        """Names of the loops whose last step failed."""
        self._leases = {
            duty.name: Lease(core.plumbing, duty.name, core.holder) for duty in duties if duty.exclusive
        }

    @property
    def works(self) -> bool:
        """Whether it does what nobody asks for: publishes, consumes, and what time brings."""
        return self.core.settings.role != "api"

    async def start(self) -> None:
        """Migrates the database, puts right what a dead process left, and starts the loops."""
        await asyncio.to_thread(upgrade, self.core.database, self._migrations)
        self.core.start()
        if not self.works:
            return
        if self._at_start is not None:
            await self.core.run(self._at_start)
        if self.core.settings.mode == "server":  # embedded, the bus belongs to the whole suite
            await self.bus.start()
        self._loops.append(asyncio.create_task(self._repeat("relay", self._relay.step)))
        for duty in self.duties:
            self._loops.append(asyncio.create_task(self._attend(duty)))
        self._loops.append(asyncio.create_task(self._repeat("audit", self._seal, every=SEAL_SECONDS)))
        self._loops.append(
            asyncio.create_task(self._repeat("partitions", self._add_partitions, every=PARTITION_SECONDS))
        )

    async def stop(self) -> None:
        """Ends the loops; what they had not finished is found again at the next start."""
        for loop in self._loops:
            loop.cancel()
        loops = asyncio.gather(*self._loops, return_exceptions=True)
        try:
            if self.works and self.core.settings.mode == "server":
                await self.bus.stop()
        finally:
            await loops
        self._loops.clear()
        try:
            with contextlib.suppress(
                DBAPIError
            ):  # with a lost database: sealed at the next start, leases expire
                if self.works:
                    await self._relay.stop()
                    for lease in self._leases.values():
                        await self.core.run(lease.give_back, keys=[lease.key])
                    await self._seal()
        finally:
            await asyncio.to_thread(self.core.stop)

    async def degraded(self) -> list[str]:
        """What does not work just now, while requests are answered.

        Raises Problem (503) in a process that answers none, when the broker is away; and what the database
        raises when it is.
        """
        table = self.core.plumbing.lease
        await self.core.read(lambda db: db.scalar(sa.select(sa.func.count()).select_from(table)))
        if not self.works or self.bus.connected:
            return sorted(self.failing)
        if self.core.settings.role == "worker":
            raise Problem(503, "bus_unavailable", zh="消息总线不可用", en="The broker is away", retry_after=2)
        return sorted({*self.failing, "bus"})

    async def quiet(self) -> tuple[bool, datetime | None]:
        """Whether nothing is due or in flight here, and the instant of the next thing that is scheduled."""
        if not self.core.committer.idle:
            return False, None
        self.core.wake()  # another process may have moved the clock, or committed something
        if self.works and self.consumer is not None:
            try:
                waiting = await self.bus.lag(self.name)
            except ConnectionError:
                return False, None  # nobody knows what waits behind a broker that is away
            if any(waiting.values()):
                return False, None
        now = self.core.clock.now()

        def ask(db: sa.Connection) -> tuple[bool, datetime | None]:
            if db.scalar(sa.select(sa.exists(sa.select(self.core.plumbing.outbox.c.seq)))):
                return False, None
            dues = [due for duty in self.duties if (due := duty.next_due(db, now)) is not None]
            earliest = min(dues, default=None)
            return earliest is None or earliest > now, earliest

        return await self.core.read(ask)

    async def measure(self) -> Reading:
        """The figures that live in the database, or the last ones while counting anew would cost too much."""
        core = self.core
        began = core.clock.monotonic()
        if self._reading is not None and began < self._measure_again_at:
            return self._reading
        reading = Reading()
        try:
            await core.read(partial(self._read_figures, reading))
        except DBAPIError as error:
            if not is_transient(error):
                raise
            reading = Reading()
            reading.gauge("database_up", _UP, 0)
        else:
            reading.gauge("database_up", _UP, 1)
            self._reading = reading
            took = core.clock.monotonic() - began
            self._measure_again_at = began + took / MEASURE_SHARE
        return reading

    async def running(self) -> Reading:
        """The figures of this process's own loops, and what the bus still has for it."""
        reading = Reading()
        if not self.works:
            return reading
        reading.gauge("loops_failing", "Loops whose last step failed", len(self.failing))
        reading.gauge("bus_connected", "Whether the bus could carry something now", self.bus.connected)
        if self.consumer is not None:
            outcomes = {(outcome,): self.consumer.counts[outcome] for outcome in OUTCOMES}
            reading.counters("consumed_messages", "Messages of the bus, by outcome", ["outcome"], outcomes)
            lag = {(topic,): number for topic, number in (await self._lag()).items()}
            meaning = "Messages published and not yet taken in, by topic, all instances together"
            reading.gauges("consumer_lag_messages", meaning, ["topic"], lag)
        return reading

    async def _lag(self) -> dict[str, int]:
        """How far the consumer is behind; nothing while the broker does not say."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(LAG_WITHIN_SECONDS):
                return await self.bus.lag(self.name)
        return {}

    def _read_figures(self, reading: Reading, db: sa.Connection) -> None:
        now = self.core.clock.now()
        _measure_plumbing(db, self.core.plumbing, now, reading)
        self._measure(db, now, reading)

    async def _attend(self, duty: Duty) -> None:
        try:
            await self._repeat(duty.name, partial(self._when_due, duty))
        finally:
            if duty.at_stop is not None:
                await duty.at_stop()

    async def _when_due(self, duty: Duty) -> bool:
        # One event wakes all loops: those that ask at the same moment share one look at the database.
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
            self._looking.add_done_callback(heard)
        due = (await asyncio.shield(self._looking))[duty.name]
        if isinstance(due, Exception):
            raise due
        if not due:
            return False
        lease = self._leases.get(duty.name)
        if lease is None or lease.is_fresh(self.core.clock.wall()):
            return await duty.step()
        mine = await self.core.run(lease.take, urgent=True, keys=[lease.key])
        return mine and await duty.step()  # else another process is at it

    async def _look(self) -> dict[str, bool | Exception]:
        """Which duties are due; where one can't say, why: it is no reason for the others to stand still."""
        await asyncio.sleep(0)  # the others that were woken join
        self._looking = None  # whoever asks from now on may know of a later commit
        clock = self.core.clock
        now, began = clock.now(), clock.monotonic()

        def ask(db: sa.Connection, duty: Duty) -> bool | Exception:
            try:
                due = duty.next_due(db, now)
            except DBAPIError:
                raise  # nobody gets an answer any more
            except Exception as error:  # noqa: BLE001 - its own loop raises it
                return error
            return due is not None and due <= now

        found = await self.core.read(lambda db: {duty.name: ask(db, duty) for duty in self.duties})
        self.rest_s = min(max(REST_SECONDS, (clock.monotonic() - began) / LOOK_SHARE), LONGEST_REST_SECONDS)
        return found

    async def _seal(self) -> bool:
        """Seals the audit rows of the last moments. File and log show later whether a tail was cut."""
        core = self.core
        block = await core.run(lambda work: seal(work.db, core.plumbing, wall=work.wall), keys=["seal"])
        if block is not None:
            log.info("audit_sealed", service=self.name, block=block.no, rows=block.rows, hash=block.hash)
            try:
                kept = await asyncio.to_thread(keep_head, core.settings.audit_head, block)
            except OSError as error:  # sealed it is; only the file lags behind
                log.warning("audit_head_failed", service=self.name, error=type(error).__name__)
            else:
                if not kept:
                    log.warning("audit_head_kept", service=self.name, block=block.no)
        return block is not None and block.rows == BLOCK

    async def _add_partitions(self) -> bool:
        """Makes the partitions of the coming days, so that each is there before its first row."""
        core = self.core
        added = await core.run(
            lambda work: add_partitions(work.db, core.plumbing, wall=work.wall), keys=[PARTITIONS_KEY]
        )
        if added:
            log.info("partitions_added", service=self.name, names=added)
        return False

    async def _repeat(
        self, name: str, step: Callable[[], Awaitable[bool]], *, every: float | None = None
    ) -> None:
        """Runs a step again and again: when something was committed or, with `every`, by the clock alone."""
        failures_total = self.core.metrics.counter("loop_failures_total", "Failed steps of a loop", ["loop"])
        alarm = asyncio.Event()
        if every is None:
            self.core.alarms.append(alarm)
        failures = 0
        while True:
            alarm.clear()
            looked = self.core.clock.monotonic()
            try:
                progressed = await step()
            except Exception as error:  # noqa: BLE001 - a loop that must never end: counted, logged, tried again
                self.failing.add(name)
                failures_total.labels(name).inc()
                log.warning("loop_failed", service=self.name, loop=name, error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                failures += 1
                continue
            failures = 0
            self.failing.discard(name)
            if not progressed:
                # Not wait_for: on Python 3.11 it can swallow a cancellation that comes with the alarm.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(every or POLL_SECONDS):
                        await alarm.wait()
                await asyncio.sleep(self.rest_s - (self.core.clock.monotonic() - looked))


def heard(task: "asyncio.Future[Any]") -> None:
    """Takes note of how a task ended that nobody may wait for any more: else the log shows its error at a stop."""
    if not task.cancelled():
        task.exception()


class Measure(Protocol):
    """Counts what one service wants to be watched by; called at a scrape."""

    def __call__(self, db: sa.Connection, now: datetime, reading: Reading, /) -> None:
        """Adds figures to the reading."""


def assemble(
    core: Core[W],
    bus: Bus,
    *,
    card: str,
    routers: Sequence[APIRouter],
    pages: Pages,
    migrations: Path,
    reactions: Sequence[Reaction] = (),
    keyed: bool = False,
    duties: Sequence[Duty] = (),
    on_parked: KeyHook = lambda work, subject: None,
    on_released: KeyHook = lambda work, subject: None,
    at_start: Callable[[W], None] | None = None,
    measure: Measure = lambda db, now, reading: None,
) -> Service[W]:
    """Puts a service together. `card` is the description in its OpenAPI document.

    `migrations` is the folder of its Alembic revisions; `at_start` puts right what a dead process left;
    `measure` adds the service's own figures to `/metrics`; `keyed` as for Consumer. The pages are served in
    demo mode only. What the settings' role leaves out is neither started nor served.
    """
    role = core.settings.role
    consumer = None
    if reactions:
        consumer = Consumer(
            core.name,
            reactions,
            core.plumbing,
            core.run,
            keyed=keyed,
            writers=core.database.writers,
            on_parked=on_parked,
            on_released=on_released,
        )
    if consumer is not None and role != "api":
        bus.subscribe(Subscription(core.name, consumer.topics, consumer.receive))
    relay = Relay(
        source=core.name,
        holder=core.holder,
        plumbing=core.plumbing,
        bus=bus,
        wall=core.clock.wall,
        run=core.run,
        read=core.read,
    )
    app = Api(
        title=f"yingbao {core.name}",
        description=card,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    service = Service(
        core,
        app,
        bus=bus,
        migrations=migrations,
        consumer=consumer,
        relay=relay,
        duties=duties,
        at_start=at_start,
        pages=pages,
        measure=measure,
    )
    app.state.core = core
    app.state.service = service
    install(app, clock=core.clock, metrics=core.metrics, rate_limit_per_s=core.settings.rate_limit_per_s)
    app.add_exception_handler(DBAPIError, _database_failed)
    for router in (*(routers if role != "worker" else ()), _operations(demo=core.settings.demo)):
        app.include_router(router)
    if core.settings.demo and role != "worker":
        app.include_router(page_routes(pages, core))
    return service


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    await app.state.service.start()
    try:
        yield
    finally:
        await app.state.service.stop()


def key_source(settings: ServiceSettings, clock: Clock) -> KeySource:
    """Where the public keys that sign bearer tokens come from: a JWKS file, or the local issuer."""
    if settings.jwks_file is not None:
        return jwks_file(settings.jwks_file)
    return LocalIssuer(settings.issuer_key, clock, issuer=settings.issuer).jwks


def _database_failed(_request: Request, error: Exception) -> Response:
    """503 while the database is away; what is our own mistake stays a crash."""
    if not is_transient(error):
        raise error
    return problem_response(
        Problem(
            503,
            "storage_unavailable",
            zh="数据库暂不可用，请稍后重试",
            en="The database is away; try again",
            retry_after=2,
        )
    )


# -- operational routes --------------------------------------------------------------------------------


class ParkedKey(Body):
    """Which parked key is meant."""

    topic: Annotated[str, Text(32)]
    subject: Annotated[str, Text(64)]


class ParkedMessage(ParkedKey):
    """Which message of a parked key is meant, by its id."""

    message: Annotated[str, Text(36)]


def _operations(*, demo: bool) -> APIRouter:
    router = APIRouter(route_class=StrictRoute)
    probe = public("probes of whoever runs the process; they show nothing of anybody")

    @router.get("/health/live", dependencies=[probe], tags=["operations"])
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @router.get("/health/ready", dependencies=[probe], tags=["operations"])
    async def ready(request: Request) -> dict[str, Any]:
        """The database answers. A loop that fails or a lost broker is `degraded`: requests still work.

        A process that answers no requests is of no use without the broker: 503.
        """
        return {"status": "ready", "degraded": await request.app.state.service.degraded()}

    @router.get(
        "/metrics",
        dependencies=[public("scraped inside the network; holds counts only")],
        tags=["operations"],
    )
    async def scrape(request: Request) -> Response:
        """Prometheus metrics of this service."""
        service: Service[Any] = request.app.state.service
        metrics = service.core.metrics
        text = metrics.render(await service.measure(), await service.running())
        return Response(text, media_type=metrics.content_type)

    @router.get("/openapi.json", dependencies=[public("the contract of this API")], include_in_schema=False)
    async def contract(request: Request) -> dict[str, Any]:
        return {**request.app.openapi(), "servers": [{"url": request.scope.get("root_path") or "/"}]}

    _parked_routes(router)

    if demo:

        @router.get("/demo/quiet", dependencies=[public("exists in demo and test modes only")], tags=["demo"])
        async def quiet(request: Request) -> dict[str, Any]:
            """Whether nothing is due or in flight, and the next instant something is."""
            still, due = await request.app.state.service.quiet()
            return {"quiet": still, "next_due": due}

    return router


def _parked_routes(router: APIRouter) -> None:
    operating = access("operations", whole_city=True)

    @router.get("/v1/parked", dependencies=[operating], tags=["operations"])
    async def parked(request: Request) -> dict[str, Any]:
        """Keys with a message that failed for good, its id, why it failed, and how many messages are parked."""
        core: Core[Any] = request.app.state.core
        return {"items": await core.read(lambda db: _parked_keys(db, core.plumbing.parked))}

    @router.post("/v1/parked/redrive", dependencies=[operating], tags=["operations"])
    async def redrive(
        body: ParkedKey, request: Request, who: Annotated[Caller, Depends(caller)]
    ) -> dict[str, Any]:
        """Handles the messages of a parked key again, oldest first; stops at the first that still fails."""
        service: Service[Any] = request.app.state.service
        handled = await _reader(service, body).redrive(body.topic, body.subject)
        left = await service.core.read(lambda db: _parked_keys(db, service.core.plumbing.parked, body))
        if not handled and not left:
            raise Problem(404, "not_found", zh="该键没有停放的消息", en="Nothing is parked for this key")
        await service.core.run(
            lambda work: work.audit(
                "parked.redriven", body.subject, cause=who.cause, topic=body.topic, handled=handled
            )
        )
        return {"handled": handled, "error": left[0]["error"] if left else None}

    @router.post("/v1/parked/discard", dependencies=[operating], tags=["operations"])
    async def discard(
        body: ParkedMessage, request: Request, who: Annotated[Caller, Depends(caller)]
    ) -> dict[str, Any]:
        """Gives up a parked message that failed and can never pass; what waits behind it stays."""
        service: Service[Any] = request.app.state.service
        await _reader(service, body).discard(body.topic, body.subject, body.message, who.cause)
        return {"discarded": body.message}


def _reader(service: Service[Any], key: ParkedKey) -> Consumer:
    if service.consumer is None or key.topic not in TOPICS:
        raise Problem(404, "not_found", zh="本服务不接收该主题", en="This service does not read that topic")
    return service.consumer


def _parked_keys(db: sa.Connection, table: sa.Table, only: ParkedKey | None = None) -> list[dict[str, Any]]:
    wanted = [] if only is None else [table.c.topic == only.topic, table.c.subject == only.subject]
    keys = (
        sa.select(
            sa.func.min(table.c.seq).label("first"),
            sa.func.count().label("messages"),
            sa.func.min(table.c.parked_at).label("since"),
        )
        .where(*wanted)
        .group_by(table.c.topic, table.c.subject)
        .subquery()
    )
    found = sa.select(
        table.c.topic,
        table.c.subject,
        table.c.id.label("message"),
        keys.c.messages,
        keys.c.since,
        table.c.attempts,
        table.c.error,
    ).join_from(keys, table, table.c.seq == keys.c.first)
    return [dict(row._mapping) for row in db.execute(found.order_by(keys.c.since))]


_UP = "Whether the database answered when it was asked for these figures"


def _measure_plumbing(db: sa.Connection, plumbing: Plumbing, now: datetime, reading: Reading) -> None:
    """What every service is watched by."""
    outbox, parked = plumbing.outbox, plumbing.parked
    audit, blocks = plumbing.audit, plumbing.audit_block
    rows, oldest = db.execute(
        sa.select(sa.func.count(), sa.func.min(outbox.c.time)).select_from(outbox)
    ).one()
    age = 0.0 if oldest is None else max((now - oldest).total_seconds(), 0.0)
    reading.gauge("outbox_rows", "Facts committed and not yet published", rows)
    reading.gauge("outbox_age_seconds", "Age of the oldest unpublished fact", age)
    keys = sa.select(parked.c.topic, parked.c.subject).distinct().subquery()
    messages, stopped = (
        db.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in (parked, keys)
    )
    reading.gauge(
        "parked_messages", "Messages parked after an error, and those that wait behind them", messages
    )
    reading.gauge("parked_keys", "Keys (units, people) that stand still behind a parked message", stopped)
    unsealed = db.scalar(sa.select(sa.func.count()).select_from(audit).where(audit.c.block.is_(None))) or 0
    reading.gauge("audit_unsealed_rows", "Audit rows committed and not yet sealed", unsealed)
    last_seal = db.scalar(sa.select(blocks.c.sealed_at).order_by(blocks.c.no.desc()).limit(1))
    reading.gauge(
        "audit_last_seal_timestamp_seconds",
        "Wall time of the newest block of the audit trail; 0 before the first",
        0.0 if last_seal is None else last_seal.timestamp(),
    )
