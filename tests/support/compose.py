"""The one-machine stack without a container engine: docker-compose.yml read as an engine reads it.

A container's own network and volumes are all that is replaced, by the two tables of `Composed`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from tests.support.native import Kafka, Native, Postgres, Prometheus, free_port, started

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
PROMETHEUS = ROOT / "deploy" / "prometheus"

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what a container listens on
SERVICES = ("registry", "matching", "notify", "targets")
WORKERS = tuple(f"{name}-worker" for name in SERVICES)


def read_yaml(file: Path) -> Any:
    """A YAML file, aliases and merge keys resolved."""
    return YAML(typ="safe", pure=True).load(file)


def required() -> list[str]:
    """What .env.example leaves to be filled in."""
    return re.findall(r"^([A-Z0-9_]+)=$", EXAMPLE.read_text("utf-8"), re.MULTILINE)


def interpolated(value: Any, told: Mapping[str, str]) -> str:
    """A value of the compose file with its variables put in: `${A:-b}`, `${A:?}`, `${A:+b}`."""

    def put_in(match: re.Match[str]) -> str:
        name, kind, other = match.groups()
        known = told.get(name, "")
        if kind == "?" and not known:
            raise ValueError(f"{name} has to be set")
        return (other if known else "") if kind == "+" else known or (other if kind == "-" else "")

    return re.sub(r"\$\{([A-Z0-9_]+):([-?+])([^}]*)\}", put_in, str(value))


class Container(Native):
    """A container's command as a process."""

    def __init__(self, folder: Path, arguments: Sequence[str], environ: Mapping[str, str], url: str) -> None:
        super().__init__(folder)
        self._arguments = arguments
        self._environ = environ
        self._url = url

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "services.cli", *self._arguments]

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **self._environ}

    def answers(self) -> bool:
        try:
            return httpx.get(self._url).is_success
        except httpx.TransportError:
            return False


class Composed:
    """The stack's processes. `told` is the .env file."""

    def __init__(self, folder: Path, told: Mapping[str, str]) -> None:
        self.folder = folder
        self._told = told
        self._services = read_yaml(COMPOSE)["services"]
        self.postgres = Postgres(folder / "postgres")
        self.addresses = {
            "postgres:5432": f"127.0.0.1:{self.postgres.port}",
            **{
                f"{name}:{port}": f"127.0.0.1:{free_port()}"
                for name, port in (
                    ("kafka", 9092),
                    ("kafka", 9093),
                    *((s, 8000) for s in (*SERVICES, *WORKERS, "sandbox")),
                )
            },
        }
        """Where each address of the stack's network is."""
        self.suite = self._volume("suite")
        self.running: dict[str, Native] = {}

    def start(self) -> None:
        """Starts everything in the order in which the containers depend on each other."""
        self.running["postgres"] = started(self.postgres)
        script = ROOT / "deploy" / "postgres" / "databases.sql"
        psql = ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script), self.postgres.dsn("postgres")]
        subprocess.run(psql, check=True)
        self.running["kafka"] = self.kafka = started(Kafka(self.folder / "kafka", self._kafka_settings()))
        self.run("topics", *self._services["topics"]["command"])
        self.start_services("registry")  # it makes the clock's file, so that the sandbox doesn't
        self.start_services("matching", "notify", "targets", "sandbox")

    def start_services(self, *names: str) -> None:
        """Starts some at once and waits for all."""
        for name in names:
            url = f"{self.url(name)}/{'quiet' if name == 'sandbox' else 'health/ready'}"
            container = Container(self.folder / name, self._command(name), self.environ(name), url)
            self.running.setdefault(name, container).launch()
        for name in names:
            self.running[name].wait_until_up()

    def run(self, name: str, *command: str) -> str:
        """What a command prints in a container of its own, with the environment of a service; it must succeed."""
        return self._run(name, "yingbao", command)

    def typed(self, line: str) -> str:
        """What a line `docker compose run …` prints, typed by an operator in `folder`; it must succeed.

        Its shell knows nothing of .env. The container sees of that folder what the line mounts.
        """
        arguments = line.removeprefix("docker compose run ")
        shell = ["sh", "-uc", f"printf '%s\\n' {arguments}"]
        read = subprocess.run(shell, env={}, cwd=self.folder, check=True, stdout=subprocess.PIPE, text=True)
        words = iter(read.stdout.splitlines())
        entrypoint, mounted = "yingbao", {}
        for word in words:
            if word == "--entrypoint":
                entrypoint = next(words)
            elif word == "-v":
                source, _, target = next(words).partition(":")
                mounted[target.removesuffix(":ro")] = source
            elif word != "--rm":
                return self._run(word, entrypoint, [mounted.get(part, part) for part in words])
        raise ValueError(f"no container in {line}")

    def _run(self, name: str, entrypoint: str, arguments: Sequence[str]) -> str:
        environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [entrypoint, *(self._moved(part, name) for part in arguments)],
            env={**environ, **self.environ(name)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout

    def new_broker(self) -> None:
        """The broker as it is after the loss of its volume, with its topics."""
        self.kafka.stop()
        shutil.rmtree(self.folder / "kafka")
        shutil.rmtree(self._volume("kafka"))
        self.running["kafka"] = self.kafka = started(Kafka(self.folder / "kafka", self._kafka_settings()))
        self.run("topics", *self._services["topics"]["command"])

    def watch(self, scrape_interval: str) -> Prometheus:
        """Starts Prometheus on the stack's own files, at a pace of the test's choice."""
        folder = self.folder / "prometheus"
        folder.mkdir()
        config = self._moved((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
        (folder / "prometheus.yml").write_text(config.replace("15s", scrape_interval))
        (folder / "alerts.yml").write_bytes((PROMETHEUS / "alerts.yml").read_bytes())
        watching = started(Prometheus(folder, folder / "prometheus.yml"))
        self.running["prometheus"] = watching
        return watching  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Ends what runs, the last one first."""
        for native in reversed(self.running.values()):
            native.stop()

    def url(self, name: str) -> str:
        """Where a service answers."""
        return f"http://{self.addresses[f'{name}:8000']}"

    def environ(self, name: str) -> dict[str, str]:
        """The environment of a service of the compose file, as it is here."""
        declared = self._services[name]["environment"]
        return {key: self._moved(interpolated(value, self._told), name) for key, value in declared.items()}

    def _command(self, name: str) -> list[str]:
        host, _, port = self.addresses.get(f"{name}:8000", "").partition(":")
        return [{EVERYWHERE: host, "8000": port}.get(part, part) for part in self._services[name]["command"]]

    def _kafka_settings(self) -> dict[str, str]:
        """As the image makes them of its environment: KAFKA_NODE_ID is node.id."""
        names = {key: key.removeprefix("KAFKA_").lower().replace("_", ".") for key in self.environ("kafka")}
        return {names[key]: value for key, value in self.environ("kafka").items()}

    def _moved(self, text: str, name: str = "") -> str:
        """A text with addresses and volumes where they are here."""
        for there, here in self.addresses.items():
            text = text.replace(there, here)
            if name and there.startswith(f"{name}:"):
                text = text.replace(there.replace(name, EVERYWHERE, 1), here)
        for volume in self._services.get(name, {}).get("volumes", ()):
            source, _, target = volume.partition(":")
            if not source.startswith("."):
                text = re.sub(rf"(?<!\S){target}(?=/|\s|$)", str(self._volume(source)), text)
        return text

    def _volume(self, name: str) -> Path:
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
