"""The command `yingbao`."""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated, Any, NoReturn

import httpx
import sqlalchemy as sa
import structlog
import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import DBAPIError, OperationalError

from services import docs as documents
from services.all_in_one import SETTINGS, DataFolderInUse, Suite, lock_folder, refuse_fixed
from services.alone import SERVICES, alone
from services.demo import story
from services.demo_clock import DEMO_START
from services.matching import tables as matching_tables
from services.notify import tables as notify_tables
from services.notify.sandbox import SandboxSettings
from services.notify.sandbox import __main__ as sandbox
from services.rebuild import NotEmptyError, differing, rebuild_targets
from services.registry import tables as registry_tables
from services.registry.settings import RegistrySettings
from services.targets import tables as targets_tables
from services.targets.settings import TargetsSettings
from shared.auth import LocalIssuer, department_scopes
from shared.calendar import read_calendar
from shared.clock import SimulatedClock, SystemClock
from shared.documents import DocumentError, pack, read_csv
from shared.events.catalogue import TOPIC_DAYS, TOPICS
from shared.logs import configure
from shared.messaging.kafka import create_topics
from shared.messaging.replay import Publisher
from shared.settings import MissingSetting, UnknownSetting, refuse_unknown
from shared.storage import migrations
from shared.storage.audit import read_head
from shared.storage.audit import verify as verify_trail
from shared.storage.database import Database, is_transient
from shared.storage.retention import PARTITIONS_KEY, add_partitions, prune

app = typer.Typer(
    help="应保尽保: finds who should be in social insurance and is not, tells them, and proves progress.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
calendar = typer.Typer(help="Working days, as the State Council publishes them each November.")
app.add_typer(calendar, name="calendar")
contacts = typer.Typer(help="What departments supplied about how to reach units.")
app.add_typer(contacts, name="contacts")
events = typer.Typer(help="What the services told each other: kept, forgotten, played again.")
app.add_typer(events, name="events")
audit = typer.Typer(help="The trail of who did what, chained so that nobody alters it unseen.")
app.add_typer(audit, name="audit")

Data = Annotated[Path, typer.Option("--data", help="Folder for databases and keys.")]
Port = Annotated[int, typer.Option(help="Port on 127.0.0.1.")]

OPERATORS = "OPS"
"""Whoever runs the suite; no department of the plan."""

GRACE_SECONDS = 6
"""How long requests under way may take when a process is told to stop; the loops need the rest of ten."""

STOP_SECONDS = 9.0
"""How long a stop may take altogether."""

DEMO_MARKER = "demo-folder"
"""A file that says that the demo made this folder and may empty it."""

TABLES = {
    "registry": registry_tables,
    "matching": matching_tables,
    "notify": notify_tables,
    "targets": targets_tables,
}


@app.command()
def serve(  # noqa: PLR0917 - options of a command line
    service: Annotated[
        str | None,
        typer.Argument(help="registry, matching, notify, targets or sandbox; none: the whole suite."),
    ] = None,
    role: Annotated[str, typer.Option(help="Of one service: all, api or worker.")] = "all",
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder for databases and keys.", show_default="var/data")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port on that address.")] = 8000,
    demo: Annotated[bool, typer.Option("--demo", help="Simulated clock and open sandbox.")] = False,
) -> None:
    """Runs the whole suite in one process, or one service alone, until it is stopped."""
    if service in (None, "sandbox") and role != "all":
        _fail(f"--role {role} is for one service, such as: yingbao serve matching --role {role}")
    if service == "sandbox":
        sandbox.main(["--host", host, "--port", str(port)])
        return
    if service is not None:
        if demo:
            _fail(
                f"--demo is for the whole suite; for {service} alone set YINGBAO_{service.upper()}_DEMO=true"
            )
        _serve_alone(service, role, data, host, port)
        return
    data = data or Path("var/data")
    refuse_unknown(os.environ, [*SETTINGS, SandboxSettings])
    refuse_fixed(os.environ)
    configure("yingbao", level=TargetsSettings(data_dir=data).log_level)
    clock = SimulatedClock(data / "clock.json", start=DEMO_START) if demo else SystemClock()
    suite = Suite(data, clock=clock, demo=demo)
    _run(suite.app, host, port)


def _serve_alone(name: str, role: str, data: Path | None, host: str, port: int) -> None:
    _refuse_other("service", name, list(SERVICES))
    _refuse_other("role", role, ["all", "api", "worker"])
    own = SERVICES[name][0]
    refuse_unknown(os.environ, [own], others=[*(other for other in SERVICES if other != name), "sandbox"])
    told: dict[str, Any] = {"role": role} if data is None else {"role": role, "data_dir": data}
    service = alone(name, **told)
    configure(name, level=service.core.settings.log_level)
    with service.core.database.read():  # a sentence now, not a traceback at the start
        pass
    _run(service.app, host, port)


def spare_the_collector() -> None:
    """Settles what a process has built before it serves; the collector took a tenth of the time."""
    # What was built stays to the end: no use looking through it again and again.
    gc.collect()
    gc.freeze()
    # A batch makes tens of thousands of objects that all live until it commits: no use looking after each 700.
    gc.set_threshold(100_000, 20, 20)


def _run(asgi: Any, host: str, port: int) -> None:
    spare_the_collector()
    config = uvicorn.Config(
        asgi,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    _Server(config).run()


class _Server(uvicorn.Server):
    """Ends soon after it was told to, also when a database neither answers nor goes away."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        timer = threading.Timer(STOP_SECONDS, _end_as_killed)
        timer.daemon = True
        timer.start()
        super().handle_exit(sig, frame)


def _end_as_killed() -> None:
    """What was under way is found at the next start, as after a kill."""
    structlog.get_logger(__name__).error("stop_took_too_long", seconds=STOP_SECONDS)
    os._exit(1)


@app.command()
def topics(
    replication: Annotated[int, typer.Option(min=1, help="Copies that the cluster keeps of each topic.")] = 1,
) -> None:
    """Creates the topics of the catalogue on Kafka; those that are there stay as they are."""
    settings = TargetsSettings()
    if settings.kafka is None:
        _fail("set YINGBAO_KAFKA, the bootstrap servers, such as kafka:9092")
    try:
        created = asyncio.run(
            create_topics(settings.kafka, TOPICS, prefix=settings.kafka_prefix, replication=replication)
        )
    except OSError as error:
        _fail(f"{settings.kafka} does not answer: {error}")
    Console().print(f"created {', '.join(created)}" if created else "all topics are there")


@app.command()
def demo(
    port: Port = 8000,
    data: Data = Path("var/demo"),
    exit_after: Annotated[bool, typer.Option("--exit", help="End after the story.")] = False,
) -> None:
    """Plays the main job on a sample city and checks that the story came true; exit code 1 when not.

    It begins anew each time: the folder of an earlier demo is emptied, any other one is refused.
    """
    _refuse_taken(port)
    _begin_anew(data)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the server ends too
    with (data / "server.log").open("w") as log:
        server = subprocess.Popen(  # noqa: S603 - our own command
            [
                sys.executable,
                "-m",
                "services.cli",
                "serve",
                "--demo",
                "--data",
                str(data),
                "--port",
                str(port),
            ],
            env={**os.environ, "YINGBAO_REGISTRY_PARTICIPATIONS_MODE": "batch"},
            stdout=log,
            stderr=log,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until_up(server, url, data / "server.log")
            code = story.run(story.Addresses.below(url), token_minter(data), data, exit_after)
        except KeyboardInterrupt:
            Console(stderr=True).print("stopped before the story was judged", style="red")
            code = 128 + signal.SIGINT
        finally:
            server.terminate()
            server.wait(15)
    raise typer.Exit(code)


@app.command()
def token(
    department: Annotated[
        str, typer.Option(help="Code of the department, such as ADM or HRSS; OPS are the operators.")
    ],
    town: Annotated[str | None, typer.Option(help="Limit to the units of one town, by name.")] = None,
    hours: Annotated[int, typer.Option(min=1, max=24 * 31, help="How long it is valid.")] = 12,
    data: Data = Path("var/demo"),
) -> None:
    """Prints a bearer token of the local issuer, for development."""
    folder = pack(None)
    codes = {row["code"] for row in read_csv(folder / "departments.csv", ["code"])}
    _refuse_other("department", department, sorted(codes | {OPERATORS}))
    if town is not None:
        _refuse_other("town", town, [row["name"] for row in read_csv(folder / "towns.csv", ["name"])])
    bearer = _issuer(data).token(
        department,
        department=department,
        town=town,
        scopes=department_scopes(department),
        ttl=timedelta(hours=hours),
    )
    print(bearer)  # noqa: T201 - the output is the product


@calendar.command("import")
def import_calendar(
    file: Annotated[Path, typer.Argument(help="TOML file like calendar.toml of the city pack.")],
    url: Annotated[str, typer.Option(help="Address of registry.")] = "http://127.0.0.1:8000/registry",
    data: Data = Path("var/demo"),
) -> None:
    """Sends the working days of one or more years to registry, which tells the others."""
    years = read_calendar(file).years
    bearer = token_minter(data)("HRSS")
    for year in years.values():
        body = {
            "holidays": sorted(map(str, year.holidays)),
            "makeup_days": sorted(map(str, year.makeup_days)),
            "source": year.source,
        }
        answer = httpx.put(
            f"{url}/v1/calendar/{year.year}", json=body, headers={"Authorization": f"Bearer {bearer}"}
        )
        if answer.is_error:
            _fail(answer.text)
        Console().print(f"{year.year}: taken over")


@contacts.command()
def republish(
    uscc: Annotated[
        list[str] | None, typer.Option(help="Only this unit; may be given up to 500 times.")
    ] = None,
    url: Annotated[str, typer.Option(help="Address of registry.")] = "http://127.0.0.1:8000/registry",
    data: Data = Path("var/demo"),
) -> None:
    """Lets registry tell the contacts of units again as they stand; services that lost them have them then."""
    bearer, total = token_minter(data)("OPS"), 0
    body: dict[str, Any] | None = {"uscc": uscc or []}
    with Console().status("telling contacts again") as status:
        while body is not None:
            try:
                answer = httpx.post(
                    f"{url}/v1/contacts/republish", json=body, headers={"Authorization": f"Bearer {bearer}"}
                )
            except httpx.TransportError as error:
                _fail(f"{url} does not answer: {error}")
            if answer.is_error:
                _fail(answer.text)
            portion = answer.json()
            total += portion["republished"]
            status.update(f"{total} units")
            body = {"after": portion["next"]} if portion["next"] and not uscc else None
    Console().print(f"{total} units: contacts told again")
    if uscc and total < len(set(uscc)):
        _fail(f"{len(set(uscc)) - total} of the given units are unknown or never had contacts")


@events.command("prune")
def prune_events(
    log_before: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m"], help="Also drop the event log of all months before this one."),
    ] = None,
    data: Data = Path("var/data"),
) -> None:
    """Forgets what was kept long enough, in every service; run it daily. The services may run meanwhile.

    Inbox rows go after 42 days, contact events after 35, answers to idempotent requests after 7. The event
    log stays unless --log-before is given: figures can't be rebuilt from months that are gone.
    """
    wall, before = SystemClock().wall(), log_before.date() if log_before else None
    latest = (wall - timedelta(days=TOPIC_DAYS)).date().replace(day=1)
    if before is not None and before > latest:
        _fail(
            f"--log-before {before:%Y-%m}: the log of the last {TOPIC_DAYS} days is needed, should Kafka be lost;"
            f" {latest:%Y-%m} at most"
        )
    for name, database in _databases(data).items():
        plumbing = TABLES[name].PLUMBING
        try:
            with database.write(keys=[PARTITIONS_KEY]) as db:
                add_partitions(db, plumbing, wall=wall)
            pruned = prune(database, plumbing, wall=wall, log_before=before)
        except DBAPIError as error:
            if not is_transient(error):
                raise
            _fail(f"{name}: the database is away, or somebody reads a table without end; run this again")
        finally:
            database.close()
        rows = ", ".join(f"{number} rows of {table}" for table, number in pruned.rows.items())
        print(f"{name}: {', '.join(pruned.partitions) or 'no partitions'}; {rows or 'no rows'}")  # noqa: T201


@events.command("rebuild")
def rebuild_events(
    service: Annotated[str, typer.Argument(help="targets, the service that is built from events alone.")],
    into: Annotated[str, typer.Option(help="SQLAlchemy URL of an empty database to build into.")],
    data: Data = Path("var/data"),
) -> None:
    """Builds a service's figures anew from what the others told, and compares them with those it has.

    Stop the service before, and start it on the new database afterwards; the others may run, and what they
    tell meanwhile is in the new figures alone. Figures that can't be read any more are not compared. Nothing
    is published and nobody is notified.
    """
    _refuse_other("service", service, ["targets"])
    found = _databases(data)
    publishers = {name: Publisher(found[name], TABLES[name].PLUMBING) for name in found}
    new = Database(into)
    with Progress(TextColumn("{task.completed} facts"), TimeElapsedColumn(), transient=True) as progress:
        task = progress.add_task("replay", total=None)

        def told(number: int) -> None:
            progress.advance(task, number)

        try:
            counts = asyncio.run(rebuild_targets(new, publishers, SystemClock(), told=told))
        except NotEmptyError:
            _fail(f"{new.url.render_as_string()} is not empty; name a database that is")
    print(f"targets: {counts['handled']} facts, {counts['parked'] + counts['diverted']} parked")  # noqa: T201
    try:
        differences = differing(found["targets"], new)
    except DBAPIError:
        print("nothing to compare with: the figures that targets had can't be read")  # noqa: T201
        return
    finally:
        for database in (*found.values(), new):
            database.close()
    if differences:
        _fail(
            f"other figures than targets has now: {', '.join(differences)}; "
            "expected where something was told since targets stopped, and a sign not to go on"
            " where the log was pruned with --log-before"
        )
    print("the same figures as targets has now")  # noqa: T201 - the output is the product


@audit.command()
def verify(
    data: Data = Path("var/demo"),
    expect: Annotated[
        list[str] | None, typer.Option(help="Hash of a block, as logged earlier; may be given several times.")
    ] = None,
) -> None:
    """Reads the audit trail of all services; exit code 1 when something was changed, removed or added.

    A tail that was cut off is found by the file <service>.audit.head in the data folder, or in YINGBAO_AUDIT_HEADS.
    Where that could be altered as well, give --expect: the service logs the hash of each block it seals.
    """
    missing = set(expect or ())
    whole = True
    heads = {its.service: read_head(its.audit_head) for its in (cls(data_dir=data) for cls in SETTINGS)}
    for name, database in _databases(data).items():
        with database.read() as db:
            plumbing = TABLES[name].PLUMBING
            began = sa.inspect(db).has_table(plumbing.audit.name)
            verdict = verify_trail(db, plumbing, heads[name]) if began else None
        database.close()
        if verdict is None:
            gone = heads[name] is not None
            print(f"{name}: {'BROKEN, its tables are gone' if gone else 'no tables yet'}")  # noqa: T201
            whole = whole and not gone
            continue
        state = "whole" if not verdict.breaks else "BROKEN"
        print(  # noqa: T201 - the output is the product
            f"{name}: {state}, {len(verdict.hashes)} blocks,"
            f" newest {verdict.hashes[-1] if verdict.hashes else 'none'}, {verdict.unsealed} rows unsealed"
            + (f" since {verdict.unsealed_since}" if verdict.unsealed_since else "")
        )
        if heads[name] is None and verdict.hashes:
            print("  no newest block is remembered: a tail that was cut off would not be found")  # noqa: T201
        for sentence in verdict.breaks:
            print(f"  {sentence}")  # noqa: T201
        whole = whole and not verdict.breaks
        missing -= set(verdict.hashes)
    for noted in sorted(missing):
        print(f"no service has block {noted}: the trail was cut or rewritten")  # noqa: T201
    raise typer.Exit(0 if whole and not missing else 1)


@app.command()
def docs(
    check: Annotated[bool, typer.Option("--check", help="Only say whether they are fresh.")] = False,
) -> None:
    """Writes the generated documents: events, data sets, AsyncAPI, topics, settings, .env.example, dashboards."""
    stale = documents.write(check=check)
    if check and stale:
        _fail(f"stale: {', '.join(map(str, stale))}; run `make docs`")


@app.command()
def revision(service: str, message: str) -> None:
    """Drafts the migration that brings a service's schema to its tables in code."""
    folder = Path(__file__).parent / service / "migrations"
    with TemporaryDirectory() as scratch:
        database = Database(f"sqlite:///{scratch}/scratch.db")
        migrations.upgrade(database, folder)
        written = migrations.write_revision(database, folder, TABLES[service].metadata, message)
        database.close()
    Console().print(f"wrote {written}" if written else "nothing to do: tables and revisions agree")


def _databases(data: Path) -> dict[str, Database]:
    """Every service's database, as its settings say; ends the command where one is missing."""
    settings = [cls(data_dir=data) for cls in SETTINGS]
    for its in settings:
        if its.database_url is None and not (data / f"{its.service}.db").exists():
            _fail(
                f"{its.service}: no database in {data}; give the folder with --data (demo: var/demo, serve: var/data),"
                f" or set YINGBAO_{its.service.upper()}_DATABASE_URL"
            )
    return {its.service: Database(its.database) for its in settings}


def token_minter(data: Path) -> Callable[[str], str]:
    """A function that mints a token for a department with the local issuer of a data folder."""

    def mint(department: str) -> str:
        return _issuer(data).token(department, department=department, scopes=department_scopes(department))

    return mint


def _issuer(data: Path) -> LocalIssuer:
    """The issuer that registry trusts; a new one made by mistake would sign tokens that nobody accepts."""
    its = RegistrySettings(data_dir=data)
    if not its.issuer_key.exists():
        _fail(f"there is no {its.issuer_key} yet: start the suite first, or name its folder with --data")
    return LocalIssuer(its.issuer_key, SystemClock(), issuer=its.issuer)


def _refuse_other(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        _fail(f"unknown {what} {given}; known are: {', '.join(known)}")


def _refuse_taken(port: int) -> None:
    """Ends the command when something else listens: its answers would be taken for the suite's."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            _fail(f"port {port} is taken; choose another one: make demo PORT=8123")


def _begin_anew(data: Path) -> None:
    """Empties the folder of an earlier demo that no longer runs; refuses to touch anything else."""
    marker = data / DEMO_MARKER
    if data.exists() and any(data.iterdir()):
        if not marker.exists():
            _fail(f"{data} holds something that is no demo: choose another folder with --data, or empty it")
        try:
            lock_folder(data).close()
        except DataFolderInUse as error:
            _fail(str(error))
        shutil.rmtree(data)
    data.mkdir(parents=True, exist_ok=True)
    marker.write_text("`yingbao demo` empties this folder each time it starts\n")


def _wait_until_up(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Returns when the suite answers; ends the command when its process has ended instead."""
    for _ in range(600):
        if server.poll() is not None:
            _fail(f"the suite did not start; its last words:\n{log.read_text()[-2_000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/registry/health/ready").is_success:
                return
        time.sleep(0.1)
    _fail(f"the suite did not answer within a minute; see {log}")


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print(message, style="red", markup=False)
    sys.exit(1)


def main() -> None:
    """The command line; errors that a person can mend are one line, not a traceback."""
    try:
        app()
    except (UnknownSetting, MissingSetting, DataFolderInUse, DocumentError, httpx.TransportError) as error:
        _fail(str(error))
    except ValidationError as error:
        _fail("\n".join(_advice(error.title, item) for item in error.errors(include_input=False)))
    except OperationalError as error:
        _fail(f"the database fails: {error.orig}")


def _advice(settings: str, error: Mapping[str, Any]) -> str:
    name = "_".join(str(part) for part in error["loc"])
    known = name if name.startswith("YINGBAO_") else f"YINGBAO_{settings.removesuffix('Settings')}_{name}"
    return f"{known.upper()}: {error['msg']}"


if __name__ == "__main__":
    main()
