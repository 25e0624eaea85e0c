"""Real PostgreSQL and real Apache Kafka, started on free ports for a test run and stopped after it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg

ROOT = Path(__file__).parents[2]
JARS = ROOT / ".tools" / "kafka"
"""Where `deploy/test-system.sh` puts Kafka's jars."""

UP_WITHIN_S = 120.0


def free_port() -> int:
    """A port on the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], bool], what: str, *, alive: Callable[[], bool] = lambda: True) -> None:
    """Waits for something that a process of its own does; fails after a while, or when the process died."""
    give_up = time.monotonic() + UP_WITHIN_S
    while not holds():
        if not alive() or time.monotonic() > give_up:
            raise RuntimeError(f"never happened: {what}")
        time.sleep(0.05)


class Native:
    """A server process with a folder of its own that can be killed, paused and started again."""

    process: "subprocess.Popen[bytes]"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Starts it on the same files and waits until it answers."""
        self.launch()
        try:
            self.wait_until_up()
        except RuntimeError:
            self.stop()
            raise

    def launch(self) -> None:
        """Starts it on the same files."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env=self.environment(), start_new_session=True
            )

    def wait_until_up(self) -> None:
        """Waits until it answers."""
        what = f"{self.folder.name} is up; see {self.folder / 'server.log'}"
        wait_until(self.answers, what, alive=lambda: self.process.poll() is None)

    def command(self) -> Sequence[str]:
        """What is run."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it serves."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """The process's environment."""
        return dict(os.environ)

    def signal(self, number: int) -> None:
        """Sends a signal to the process and what it started."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill -9: no chance to put anything right."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ends it for good."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


class Postgres(Native):
    """A PostgreSQL cluster of its own. As root it runs as the system's user `postgres`.

    `flags` are more of the server's command line.
    """

    def __init__(self, folder: Path, flags: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self._flags = flags
        self._bin = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
        self.data = folder / "data"
        if os.geteuid() == 0:
            for part in (folder, *folder.parents):
                if part.stat().st_mode & 0o001 == 0:
                    part.chmod(part.stat().st_mode | 0o011)
            shutil.chown(folder, "postgres")
        subprocess.run(
            [
                *(
                    *self.as_owner,
                    str(self._bin / "initdb"),
                    "-D",
                    str(self.data),
                    "-A",
                    "trust",
                    "-U",
                    "yingbao",
                ),
                *("--no-sync", "--encoding=UTF8", "--locale=C"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    @property
    def as_owner(self) -> list[str]:
        """What goes before a command so that it runs as the server does."""
        return (
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        )

    def command(self) -> Sequence[str]:
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 100,
            "synchronous_commit": "on",
            "max_locks_per_transaction": 512,  # as docker-compose.yml has it
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [*self.as_owner, str(self._bin / "postgres"), "-D", str(self.data), *flags, *self._flags]

    def environment(self) -> dict[str, str]:
        # Under a shifted date libfaketime breaks the server's timers: its lock and idle time-outs never come.
        return {
            name: value
            for name, value in os.environ.items()
            if name != "LD_PRELOAD" and not name.startswith("FAKETIME")
        }

    def signal(self, number: int) -> None:
        """Sends a signal to the server; one that kills or stops also to its children, each its own group."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        super().signal(number)
        for child in children if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT) else ():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)

    def answers(self) -> bool:
        try:
            psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def dsn(self, name: str) -> str:
        """What psycopg connects to."""
        return f"postgresql://yingbao@127.0.0.1:{self.port}/{name}"

    def new_database(self) -> str:
        """An empty database; gives its SQLAlchemy URL."""
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name}")
        return self.dsn(name).replace("postgresql://", "postgresql+psycopg://")


class Kafka(Native):
    """One KRaft broker from Kafka's own jars. `advertised` is the port that clients are sent to, if not its own."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any] | None = None, *, advertised: int | None = None
    ) -> None:
        super().__init__(folder)
        self._config = folder / "server.properties"
        if settings is not None:
            self.port = int(settings["advertised.listeners"].rpartition(":")[2])
        self.advertised = advertised or self.port
        properties = settings or self._settings(free_port())
        self._config.write_text("\n".join(f"{name}={value}" for name, value in properties.items()))
        subprocess.run(
            self._java(
                "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", str(self._config)
            ),
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _settings(self, controller: int) -> Mapping[str, Any]:
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.advertised}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.folder / "logs",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1_000,
            "auto.create.topics.enable": "false",
        }

    @property
    def bootstrap(self) -> str:
        """The address that clients use."""
        return f"127.0.0.1:{self.advertised}"

    def command(self) -> Sequence[str]:
        return self._java("kafka.Kafka", str(self._config))

    def answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", self.port)) != 0:
                return False
        return b"Kafka Server started" in (self.folder / "server.log").read_bytes().split(b"\n---")[-1]

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            log.write(b"\n---")
        super().start()

    def _java(self, main: str, *arguments: str) -> list[str]:
        if not JARS.is_dir():
            raise RuntimeError(f"Kafka's jars are not in {JARS}: run deploy/test-system.sh")
        return ["java", "-Xmx384m", "-XX:+UseSerialGC", "-cp", f"{JARS}/*", main, *arguments]


class Prometheus(Native):
    """Prometheus with a configuration file; rule files stand beside it."""

    def __init__(self, folder: Path, config: Path) -> None:
        super().__init__(folder)
        self._config = config
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10)

    def command(self) -> Sequence[str]:
        return [
            *("prometheus", f"--config.file={self._config}", f"--storage.tsdb.path={self.folder / 'data'}"),
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def query(self, expr: str) -> dict[str, float]:
        """What an expression gives now: a value per set of labels. Raises ValueError when it isn't understood."""
        answer = self._client.get("/api/v1/query", params={"query": expr}).json()
        if answer["status"] != "success":
            raise ValueError(f"{expr}: {answer['error']}")
        rows = answer["data"]["result"]
        return {json.dumps(row["metric"], sort_keys=True): float(row["value"][1]) for row in rows}

    def names(self) -> set[str]:
        """The names of all metrics that were scraped."""
        return set(self._client.get("/api/v1/label/__name__/values").json()["data"])

    def rules(self) -> list[dict[str, Any]]:
        """The alert rules as they were read."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def stop(self) -> None:
        self._client.close()
        super().stop()


def started(native: Any) -> Any:
    """Starts a server and gives it."""
    native.start()
    return native
