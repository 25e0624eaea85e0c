"""The one-machine stack as files: valid, without secrets, and complete."""

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services.dashboards import DASHBOARDS
from services.docs import SETTINGS, env_example
from shared.settings import variables
from tests.support.compose import COMPOSE, PROMETHEUS, ROOT, SERVICES, interpolated, read_yaml, required

DECIDED = {
    *("MODE", "ROLE", "KEYS_FILE", "JWKS_FILE", "ISSUER", "CLIENT_ID", "RECEIPT_DELAY_S", "WECHAT_TEMPLATES"),
    *("YINGBAO_KAFKA_PREFIX", "YINGBAO_CITY_PACK"),
}
"""Settings that the stack leaves as they are; a name without prefix stands for that of every service."""

RUNBOOK = ROOT / "docs" / "operations.md"


@pytest.fixture(scope="module")
def services() -> Mapping[str, Any]:
    return read_yaml(COMPOSE)["services"]  # type: ignore[no-any-return]


def test_the_compose_file_follows_its_schema(tmp_path: Path) -> None:
    """The Compose specification's own, from an installed package; a misspelt key is found."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert subprocess.run([*check, COMPOSE], capture_output=True, check=False).returncode == 0
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text("utf-8").replace("volumes:", "volume:", 1), "utf-8")
    assert subprocess.run([*check, wrong], capture_output=True, check=False).returncode == 1


def test_no_secret_stands_in_the_compose_file(services: Mapping[str, Any]) -> None:
    """Each comes from .env, and those that are needed stop the start when they are missing."""
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|AES_KEY")
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if secret.search(name) and not name.endswith("_CALLBACK_URL"):
                assert re.fullmatch(r"\$\{[A-Z0-9_]+:[?-]\}", value), name
    with pytest.raises(ValueError, match="POSTGRES_PASSWORD has to be set"):
        interpolated(services["postgres"]["environment"]["POSTGRES_PASSWORD"], {})
    assert set(required()) == {
        *("POSTGRES_PASSWORD", "GRAFANA_PASSWORD"),
        *("YINGBAO_NOTIFY_CARRIER_SECRET_KEY", "YINGBAO_NOTIFY_RECEIPTS_SECRET"),
    }


def test_every_setting_reaches_its_service(services: Mapping[str, Any]) -> None:
    """What a service can be told is in its environment, or is decided here for good; and nothing else is."""
    for name, settings in SETTINGS.items():
        known = {variable for variable, _ in variables(settings)}
        decided = {v for v in known if v.removeprefix(f"YINGBAO_{name.upper()}_") in DECIDED}
        if name != "notify":
            decided |= {v for v in known if v == "YINGBAO_CONTACT_KEYS_FILE"}
        told = set(services[name]["environment"])
        assert known - decided <= told, known - decided - told
        assert told <= known | {"YINGBAO_LOG_LEVEL", "FORWARDED_ALLOW_IPS"}, told - known


def test_a_worker_is_its_service_without_requests(services: Mapping[str, Any]) -> None:
    """None runs unless it is asked for; it has no port of the machine, and Prometheus finds it with its service."""
    watched = {job["job_name"]: job for job in read_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]}
    assert set(watched) == set(SERVICES)
    for name in SERVICES:
        command = [*services[name]["command"][:2], "--role", "worker", *services[name]["command"][2:]]
        worker = {"command": command, "ports": [], "deploy": {"replicas": f"${{{name.upper()}_WORKERS:-0}}"}}
        assert services[f"{name}-worker"] == services[name] | worker
        assert watched[name]["static_configs"] == [{"targets": [f"{name}:8000"]}]
        (found,) = watched[name]["dns_sd_configs"]
        assert found == {"names": [f"{name}-worker"], "type": "A", "port": 8000}


def test_the_manual_removes_volumes_that_there_are() -> None:
    """A volume is removed by its whole name, and after the container that holds it, stopped or not."""
    declared, text = read_yaml(COMPOSE), RUNBOOK.read_text("utf-8")
    removed = re.findall(r"^(.*)docker volume rm (\w+)$", text, re.MULTILINE)
    assert len(removed) == text.count("docker volume ")
    for before, volume in removed:
        project, _, name = volume.partition("_")
        assert project == declared["name"]
        assert f"docker compose rm -f {name} && " in before
        assert name in declared["volumes"]


def test_what_may_be_set_is_shown_with_the_value_it_has() -> None:
    """Required ones, and those where any text means yes, are empty; the compose file's default goes first."""
    shown = env_example(
        "${POSTGRES_PASSWORD:?} ${YINGBAO_NOTIFY_CARRIER:-yunmas} ${YINGBAO_NOTIFY_RATE_PER_S:-}"
        " ${DEMO:-false} ${DEMO:+/suite/clock.json}"
    )
    assert "\n# DEMO=\n" in shown
    assert "\nPOSTGRES_PASSWORD=\n" in shown
    assert "\n# YINGBAO_NOTIFY_CARRIER=yunmas\n" in shown
    assert "\n# YINGBAO_NOTIFY_RATE_PER_S=100.0\n" in shown


def test_what_the_image_copies_makes_a_whole_wheel(tmp_path: Path) -> None:
    """The files that the Dockerfile names are enough to build from, and the wheel has what is no Python."""
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    context = tmp_path / "src"
    context.mkdir()
    for source, target in re.findall(r"^COPY (?!--from)(.+) (\S+)$", dockerfile, re.MULTILINE):
        for part in source.split():
            place = context / target / (part if target == "./" else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, place)
    build = [
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([sys.executable, *build, str(context)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"services/rongcheng/towns.csv", "services/registry/migrations/versions/0001_initial.py"} <= names
    assert {name for name in names if name.endswith((".html", ".css"))}
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert sent == {part.removeprefix("./") for part in _copied(dockerfile)}


def _copied(dockerfile: str) -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    return [part for line in lines for part in line.split()]


def test_the_files_of_prometheus_are_sound() -> None:
    """As its own tool says."""
    for what, file in (("config", "prometheus.yml"), ("rules", "alerts.yml")):
        command = ["promtool", "check", what, str(PROMETHEUS / file)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0, file


def test_every_alert_says_what_to_do_in_both_languages() -> None:
    """Summary and description are Chinese, then English; the runbook has a section of the alert's name."""
    rules = [rule for group in read_yaml(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]
    sections = set(
        re.findall(r"^### (\w+)$", RUNBOOK.read_text("utf-8").partition("## When an alert")[2], re.MULTILINE)
    )
    for rule in rules:
        name, notes = rule["alert"], rule["annotations"]
        assert rule["labels"]["severity"] in {"page", "ticket"}, name
        for text in (notes["summary"], notes["description"]):
            chinese, _, english = text.partition(" · ")
            assert re.search(r"[一-鿿]", chinese), name
            assert re.search(r"[a-z]{2}", english), name
        assert notes["runbook"] == f"docs/operations.md#{name.lower()}"
    assert {rule["alert"] for rule in rules} == sections


def test_titles_are_chinese_first_and_no_query_hides_that_nothing_is_there() -> None:
    """`or vector(0)` would show a healthy nought where a figure is missing."""
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            assert re.match(r"\S*[一-鿿].* · \S", panel.title), panel.title
            assert not any("vector(" in query.expr for query in panel.queries), panel.title
    assert "vector(" not in (PROMETHEUS / "alerts.yml").read_text("utf-8")
