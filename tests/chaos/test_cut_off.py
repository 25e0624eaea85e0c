"""Cut off: without the broker registrations go on and nothing wrong leaves; without registry nothing leaves."""

from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.demo import check
from services.demo.city.model import INSURES, REGISTERS, START, Unit
from services.demo.story import LEDGER, Suite
from services.demo.story.driver import DECLARE
from services.demo.story.suite import real_patience
from tests.chaos.harm import Harmed
from tests.chaos.telling import small_city
from tests.support.native import wait_until

ESTABLISHED = date(2025, 12, 5)
"""The clock of such a unit ends with Sunday 2026-01-04, on which people work instead of another day."""
WAIT = timedelta(minutes=10)
"""How long the reminder waits that is due when its unit is registered."""
CITY = small_city({"never_enrols": 40})


class Town:
    """A running suite, and what its departments do; no request is sent twice."""

    def __init__(self, harmed: Harmed, client: httpx.Client) -> None:
        self.harmed = harmed
        self._client = client
        self._addresses = harmed.stack.addresses()
        self.suite = Suite(self._client, harmed.stack.token, real_patience(), self._addresses)
        self._units = iter(CITY.units)
        self._people = iter(CITY.people)
        self.suite.ask("PUT", DECLARE, body={"through": "2026-01-04"})

    def post(self, path: str, body: Any, department: str) -> int:
        """The status of the answer."""
        headers = {"Authorization": f"Bearer {self.harmed.stack.token(department)}"}
        return self._client.post(self._addresses.of(path), json=body, headers=headers).status_code

    def register(self) -> Unit:
        """A unit whose clock has run out."""
        unit = next(self._units)
        body = {**unit.body(), "established_on": ESTABLISHED.isoformat()}
        assert self.post("/registry/v1/units", body, REGISTERS) == httpx.codes.CREATED
        return unit

    def enrol(self, unit: Unit) -> None:
        """Somebody of a unit is insured from today."""
        person = next(self._people)
        body = {
            "uscc": unit.uscc,
            "person": {"id_number": person.id_number, "name": person.name},
            "insurance": "pension",
            "form": "employer",
            "kind": "first",
            "started_on": self.harmed.clock.now().date().isoformat(),
        }
        assert self.post("/registry/v1/participations", body, INSURES) == httpx.codes.CREATED

    def queued(self, units: list[Unit]) -> bool:
        """Whether notify knows that it has to tell all of them."""
        waiting = {item["uscc"] for item in self.suite.everything("/notify/v1/notices", state="queued")}
        return waiting >= {unit.uscc for unit in units}

    def told(self, units: list[Unit]) -> Counter[str | None]:
        """How many messages the carrier has of each."""
        rows = check.read_ledger(self.harmed.folder / LEDGER)
        phones = {unit.mobile: unit.uscc for unit in units}
        return Counter(phones[row.recipient] for row in rows if row.recipient in phones)

    def degraded(self) -> bool:
        """Whether registry says that it is ready but for the broker."""
        return bool(self.suite.ask("GET", "/registry/health/ready")["degraded"])

    def looks_without_answer(self) -> float:
        """Counted by notify."""
        text = self._client.get(f"{self._addresses.notify}/metrics").text
        lines = [line for line in text.splitlines() if "looks_total" in line and 'answer="none"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def go_on(self, until: datetime) -> None:
        """Lets time pass, settling wherever something is due."""
        while (due := self.suite.settle()) is not None and due <= until:
            self.harmed.clock.move_to(due)
        self.harmed.clock.move_to(until)
        self.suite.settle()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with Harmed(Path(tmp_path_factory.mktemp("cut"))) as harmed, httpx.Client(timeout=30) as client:
        yield Town(harmed, client)


@pytest.fixture(autouse=True)
def _healed(town: Town) -> Iterator[None]:
    yield
    for line in town.harmed.lines.values():
        line.heal()


def once(units: list[Unit]) -> Counter[str | None]:
    return Counter(unit.uscc for unit in units)


def test_ten_minutes_without_the_broker(town: Town) -> None:
    """Every registration is answered; what was queued leaves where the look allows; then all catches up."""
    before = [town.register() for _ in range(4)]
    wait_until(lambda: town.queued(before), "the first units' reminders are queued")
    meanwhile = []
    town.harmed.lines["broker"].cut()
    for minute in range(1, 11):
        town.harmed.clock.move_to(START + timedelta(minutes=minute))
        meanwhile += [town.register() for _ in range(2)]
        if minute == 5:
            town.enrol(before[0])
            town.enrol(meanwhile[0])
    town.harmed.clock.move_to(START + WAIT + timedelta(minutes=2))
    wait_until(
        lambda: town.told(before) == once(before[1:]), "the queued reminders leave, but for the enrolled"
    )
    wait_until(town.degraded, "registry is ready all the same, and says what is missing")
    assert town.harmed.rows("registry", "SELECT count(*) FROM outbox") != [(0,)]
    town.harmed.lines["broker"].heal()
    town.go_on(START + timedelta(hours=2))
    assert town.told(before) == once(before[1:])
    assert town.told(meanwhile) == once(meanwhile[1:])
    assert town.harmed.rows("registry", "SELECT count(*) FROM outbox") == [(0,)]


def test_without_registry_no_reminder_leaves(town: Town) -> None:
    """Notices that are due wait for an answer; with registry back they leave, but for who enrolled."""
    units = [town.register() for _ in range(3)]
    wait_until(lambda: town.queued(units), "the reminders are queued")
    town.harmed.lines["last look"].cut()
    town.harmed.clock.move_to(town.harmed.clock.now() + WAIT + timedelta(minutes=1))
    town.enrol(units[0])
    asked = town.looks_without_answer()
    wait_until(lambda: town.looks_without_answer() >= asked + 4, "notify asks in vain, again and again")
    assert town.told(units) == Counter()
    town.harmed.lines["last look"].heal()
    town.go_on(town.harmed.clock.now() + timedelta(hours=1))
    assert town.told(units) == once(units[1:])
