"""The one-machine stack, natively: the compose file's environment, a short story, and everything that watches it."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from services.cli import token_minter
from services.dashboards import DASHBOARDS, MAIN_JOB
from shared.clock import ZONE
from shared.identifiers import org_code_check_char, uscc_check_char
from shared.messaging.bus import Message, partition_of
from shared.messaging.kafka import KafkaBus
from tests.support.compose import PROMETHEUS, ROOT, SERVICES, Composed, read_yaml, required
from tests.support.native import Prometheus, wait_until

SECRETS = {
    "POSTGRES_PASSWORD": "onlyfortests",
    "GRAFANA_PASSWORD": "onlyfortests",
    "YINGBAO_NOTIFY_CARRIER_SECRET_KEY": "the key of the sandbox account",
    "YINGBAO_NOTIFY_RECEIPTS_SECRET": "0123456789abcdef0123",
}
"""What .env.example leaves open."""

CHOICES = {
    "DEMO": "true",
    "YINGBAO_REGISTRY_PARTICIPATIONS_MODE": "batch",
    "YINGBAO_MATCHING_LATE_REGISTRATION_WAIT_S": "0",
    "YINGBAO_NOTIFY_WECHAT_SECRET": "the secret of the official account",
    "YINGBAO_NOTIFY_WECHAT_TOKEN": "the token of the callback",
    "YINGBAO_NOTIFY_WECHAT_AES_KEY": "a" * 43,
}
"""What may be set: the story needs a clock that can be moved, and data that is waited for."""


def invented_code(number: int) -> str:
    """A code with right check characters that nobody has."""
    organisation = f"MA3XTE{number:02d}"
    first17 = "91371082" + organisation + org_code_check_char(organisation)
    return first17 + uscc_check_char(first17)


OVERDUE, RUNNING, ENROLS, POISONED, LATE, UNHEARD, LEFT = map(invented_code, range(7))

RUNBOOK = ROOT / "docs" / "operations.md"

Figures = Mapping[str, Mapping[str, float]]


class Story:
    """What the departments and the operators of the test do."""

    def __init__(self, stack: Composed) -> None:
        self.stack = stack
        self._token = token_minter(stack.suite)

    def ask(self, service: str, method: str, path: str, body: Any = None, department: str = "HRSS") -> Any:
        """An answer of a service, which must be 2xx."""
        headers = {"Authorization": f"Bearer {self._token(department)}"}
        url = f"{self.stack.url(service)}{path}"
        answer = httpx.request(method, url, json=body, headers=headers, timeout=20)
        assert answer.is_success, (path, answer.text)
        return answer.json()

    def register(self, uscc: str, established_on: str) -> None:
        """A company with somebody to write to."""
        contact = {
            "role": "legal_representative",
            "name": "张三",
            "mobile": f"138{int(uscc[-8:], 36) % 10**8:08d}",
        }
        body = {
            "uscc": uscc,
            "name": f"荣成市示例{uscc[-3:]}有限公司",
            "kind": "enterprise",
            "established_on": established_on,
            "town": "寻山街道",
            "contacts": [contact],
        }
        self.ask("registry", "POST", "/v1/units", body, "ADM")

    def insure(self, uscc: str) -> None:
        """Its first employee is insured."""
        person = {"id_number": "371082198503150023", "name": "李四"}
        body = {
            "uscc": uscc,
            "person": person,
            "insurance": "pension",
            "form": "employer",
            "kind": "first",
            "started_on": "2026-01-05",
        }
        self.ask("registry", "POST", "/v1/participations", body)

    def notices(self, uscc: str) -> list[str]:
        """The states of its notices."""
        found = self.ask("notify", "GET", f"/v1/notices?uscc={uscc}")["items"]
        return [notice["state"] for notice in found]

    def clock(self, uscc: str) -> str:
        """Where its legal clock stands."""
        clocks = self.ask("matching", "GET", f"/v1/clocks?uscc={uscc}")["items"]
        return clocks[0]["state"] if clocks else "unknown"

    def send(self, state: str) -> None:
        """Moves the brake, with a cap."""
        self.ask("notify", "PUT", "/v1/sending", {"state": state, "daily_cap": 1_000})


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    assert sorted(SECRETS) == sorted(required())
    running = Composed(Path(tmp_path_factory.mktemp("stack")), {**SECRETS, **CHOICES})
    try:
        running.start()
        yield running
    finally:
        running.stop()


def figures(prometheus: Prometheus) -> dict[str, Figures]:
    """What every panel of the main job shows now: panel → query → series → value."""
    return {
        panel.title: {query.expr: prometheus.query(query.expr) for query in panel.queries}
        for panel in MAIN_JOB.panels
    }


def test_a_story_shows_on_every_panel(stack: Composed) -> None:
    """Each panel of the main job has data and moves; every query and alert rule asks for what exists."""
    prometheus = stack.watch("2s")

    def shows(expr: str, what: str) -> None:
        wait_until(lambda: any(prometheus.query(expr).values()), what)

    shows("sum(up) == 4", "all four are scraped")
    shows("min(yingbao_bus_connected) == 1", "all four have joined their groups")
    shows("count(count by (job) (rate(yingbao_http_requests_total[5m]))) == 4", "rates can be told")
    before = figures(prometheus)
    story = Story(stack)

    # One is overdue and waits for data, one runs, one enrols in time and counts.
    story.register(OVERDUE, "2025-11-20")
    story.register(RUNNING, "2025-12-20")
    wait_until(lambda: story.clock(OVERDUE) == "waiting", "the overdue clock waits for data")
    wait_until(lambda: story.clock(RUNNING) == "running", "the other clock runs")
    shows("yingbao_clocks_waiting_for_data == 1", "the wait is shown")
    waiting = figures(prometheus)
    complete = {"through": "2026-01-04"}
    story.ask("registry", "PUT", "/v1/datasets/participations/complete-through", complete)
    wait_until(lambda: story.notices(OVERDUE) == ["handed_over"], "the reminder is handed over")
    jump = {"to": datetime(2026, 1, 5, 10, 30, tzinfo=ZONE).isoformat()}
    story.ask("registry", "POST", "/demo/clock", jump)
    wait_until(lambda: story.notices(OVERDUE) == ["delivered"], "the receipt arrives")

    # One enrols while its lead has not heard of it: the last look keeps its reminder back.
    story.send("off")
    story.register(ENROLS, "2025-11-21")
    wait_until(lambda: story.notices(ENROLS) == ["queued"], "its reminder is queued")
    with stopped_intake(stack, "matching"):
        story.insure(ENROLS)
        story.send("on")
        shows('yingbao_last_looks_total{answer="hold",reason="insured"} > 0', "the last look refuses")
        shows("sum(yingbao_consumer_lag_messages{job='matching'}) > 0", "the lag is shown")
        looked = figures(prometheus)
    wait_until(lambda: story.notices(ENROLS) == ["withdrawn"], "its reminder is withdrawn")

    shows("sum(yingbao_target_people) > 0", "the new participant counts")

    # A message that cannot be taken in parks its key; a broker that is away lets facts wait.
    asyncio.run(poison(stack))
    shows("yingbao_parked_keys{job='matching'} == 1", "the key is parked")
    stack.kafka.kill()
    story.register(LATE, "2026-01-05")
    shows("yingbao_outbox_age_seconds{job='registry'} > 1", "the outbox grows old")
    later = [waiting, looked, figures(prometheus)]

    for panel in MAIN_JOB.panels:
        assert all(any(then[panel.title][query.expr] for then in later) for query in panel.queries), (
            panel.title
        )
        assert any(then[panel.title] != before[panel.title] for then in later), f"{panel.title} stood still"
    watched_names(prometheus)


def stopped_intake(stack: Composed, service: str) -> Any:
    """While it lasts, a service can't take messages in: its inbox is locked."""
    connection = psycopg.connect(stack.postgres.dsn(service))
    connection.execute("LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE")
    return connection


async def poison(stack: Composed) -> None:
    """Publishes a message with registry's name that matching can't take in."""
    bus = KafkaBus(stack.addresses["kafka:9092"], prefix="yingbao.")
    envelope = {
        "specversion": "1.0",
        "id": "0" * 36,
        "source": "/registry",
        "type": "registry.unit_registered.v1",
        "subject": POISONED,
        "time": "2026-01-05T10:00:00+08:00",
        "correlationid": "poison",
        "data": {},
    }
    await bus.start()
    try:
        async with asyncio.timeout(30):
            while not bus.connected:  # noqa: ASYNC110 - the broker decides when
                await asyncio.sleep(0.05)
        value = json.dumps(envelope).encode()
        await bus.publish([Message("registry", partition_of(POISONED), POISONED, value)])
    finally:
        await bus.stop()


def watched_names(prometheus: Prometheus) -> None:
    """Every query of the dashboards and every alert rule is understood, and asks for figures that exist."""
    alerts = [rule for group in read_yaml(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]
    panels = [panel for dashboard in DASHBOARDS for panel in dashboard.panels]
    asked = [query.expr for panel in panels for query in panel.queries]
    asked += [rule["expr"] for rule in alerts]
    for expr in asked:
        prometheus.query(expr)
    rules = prometheus.rules()
    assert sorted(rule["name"] for rule in rules) == sorted(rule["alert"] for rule in alerts)
    assert {rule["health"] for rule in rules} == {"ok"}
    names = set(re.findall(r"\byingbao_\w+", " ".join(asked)))
    assert names <= prometheus.names(), names - prometheus.names()


def test_what_a_lost_broker_had_is_published_again(stack: Composed) -> None:
    """As docs/operations.md says, in its own words: facts nobody had read yet are read after all."""
    (again,) = re.findall(r"```sql\n(.*?)```", RUNBOOK.read_text("utf-8"), re.DOTALL)
    story = Story(stack)
    stack.new_broker()
    for name in SERVICES:
        stack.running[name].stop()
    stack.start_services(*SERVICES)
    wait_until(lambda: story.clock(LATE) == "running", "what waited in the outbox is heard of")
    with stopped_intake(stack, "matching"):
        story.register(UNHEARD, "2026-01-05")
        wait_until(lambda: stored(stack, "registry", "outbox") == 0, "it is published")
        for name in SERVICES:
            stack.running[name].kill()
    stack.new_broker()
    for name in SERVICES:
        with psycopg.connect(stack.postgres.dsn(name), autocommit=True) as db:
            db.execute(again)
    clocks = stored(stack, "matching", "clock")
    stack.start_services(*SERVICES)
    wait_until(lambda: story.clock(UNHEARD) == "running", "what was lost is heard of")
    wait_until(lambda: story.ask("matching", "GET", "/demo/quiet")["quiet"], "everything is read")
    assert stored(stack, "matching", "clock") == clocks + 1
    assert story.notices(OVERDUE) == ["delivered"]


def test_a_worker_does_what_its_service_would_do(stack: Composed) -> None:
    """Beside it, and while it is away."""
    stack.start_services("matching-worker")
    stack.running["matching"].stop()
    clocks = stored(stack, "matching", "clock")
    Story(stack).register(LEFT, "2026-01-05")
    wait_until(lambda: stored(stack, "matching", "clock") == clocks + 1, "the worker hears of the unit")
    stack.start_services("matching")
    stack.running["matching-worker"].stop()


def test_the_operators_commands_do_what_the_manual_says(stack: Composed) -> None:
    """Each `docker compose run … tools …` of it ends well; a parked key is listed and sent again."""
    lines = re.findall(r"docker compose run [^`)\n]*\btools [^`)\n]+", RUNBOOK.read_text("utf-8"))
    shutil.copy(ROOT / "deploy" / "rongcheng" / "calendar.toml", stack.folder / "year.toml")
    with psycopg.connect(stack.postgres.dsn("postgres"), autocommit=True) as db:
        db.execute("CREATE DATABASE targets_new")
    told = {line: stack.typed(line) for line in dict.fromkeys(lines)}
    named = {re.sub(r".*? tools (-c 'yingbao )?(\w+).*", r"\2", line) for line in told}
    assert named == {"audit", "calendar", "contacts", "events", "token"}
    assert "the same figures as targets has now" in "".join(told.values())
    assert "2026: taken over" in "".join(told.values())
    assert "matching: whole" in told["docker compose run --rm tools audit verify --data /suite"]
    token = told["docker compose run --rm tools token --department OPS --data /suite"].strip()
    client = httpx.Client(headers={"Authorization": f"Bearer {token}"}, base_url=stack.url("matching"))
    with client:
        (parked,) = client.get("/v1/parked").json()["items"]
        assert (parked["topic"], parked["subject"]) == ("registry", POISONED)
        key = {"topic": parked["topic"], "subject": parked["subject"]}
        again = client.post("/v1/parked/redrive", json=key).json()
        assert again == {"handled": 0, "error": parked["error"]}
        assert client.get("/v1/parked").json()["items"][0]["attempts"] == 2
        named = {**key, "message": parked["message"]}
        assert client.post("/v1/parked/discard", json=named).json() == {"discarded": parked["message"]}
        assert client.get("/v1/parked").json()["items"] == []
        for route, body in (("discard", named), ("redrive", key)):
            assert client.post(f"/v1/parked/{route}", json=body).status_code == 404


def test_a_tail_that_was_cut_from_the_audit_trail_is_found(stack: Composed) -> None:
    """Where the stack's services remember their newest blocks, the operator's command looks for them."""
    Story(stack).send("off")
    wait_until(lambda: stored(stack, "notify", "audit WHERE block IS NULL") == 0, "it is sealed")
    with psycopg.connect(stack.postgres.dsn("notify")) as db:
        db.execute("DELETE FROM audit WHERE block = (SELECT max(no) FROM audit_block)")
        db.execute("DELETE FROM audit_block WHERE no = (SELECT max(no) FROM audit_block)")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        stack.run("tools", "audit", "verify", "--data", "/suite")
    assert "notify: BROKEN" in failed.value.stdout
    assert "is remembered as sealed, and not in the chain" in failed.value.stdout


def stored(stack: Composed, service: str, table: str) -> int:
    """How many rows a table has."""
    with psycopg.connect(stack.postgres.dsn(service)) as db:
        (number,) = db.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)  # noqa: S608 - our own names
    return int(number)
