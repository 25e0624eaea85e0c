"""Matching over HTTP: clocks, leads with evidence and history, actions, visits, rules."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from services.matching.app import build
from services.matching.commands import look_at_clocks
from services.matching.settings import MatchingSettings
from services.matching.store import next_look
from services.matching.tables import lead, metadata, unit
from shared.auth import SCOPES, LocalIssuer
from shared.clock import FrozenClock
from shared.events.base import Event
from shared.events.registry import DataComplete
from shared.http import routes_without_access
from shared.messaging.bus import partition_of
from shared.messaging.in_process import InProcessBus
from shared.service import Duty
from tests.support.cutting import message
from tests.support.matching import LEAD, USCC, at, delivered, handed_over, registered, started, unreached

OTHER = "91371082MA3XTE5T9N"


class Suite:
    """Matching alone behind HTTP, its loops replaced by calls."""

    def __init__(self, folder: Path) -> None:
        self.clock = FrozenClock(at("2026-01-12"))
        self.settings = MatchingSettings(data_dir=folder)
        self.service = build(self.settings, bus=InProcessBus(), clock=self.clock)
        self._issuer = LocalIssuer(self.settings.issuer_key, self.clock)
        self._ids = 0
        with self.service.core.database.write() as db:
            metadata.create_all(db)

    async def tell(self, *events: Event) -> None:
        consumer = self.service.consumer
        assert consumer
        for event in events:
            self._ids += 1
            one = message(event, id=f"event-{self._ids}", time=self.clock.now())
            if event.broadcast:
                one = type(one)(one.topic, partition_of(USCC), one.key, one.value)
            await consumer.receive([one])

    async def open_lead(self) -> None:
        await self.tell(registered(), started(3, insurance="medical"))
        self.clock.move_to(at("2026-02-10", "00:00"))
        await self.tell(DataComplete(dataset="participations", through=date(2026, 2, 9)))
        await self.service.core.run(look_at_clocks)

    async def next_due(self) -> datetime | None:
        return await self.service.core.read(next_look)

    async def duty(self, name: str) -> bool:
        """One step of what the service does by itself."""
        return await self._duty(name).step()

    async def due(self, name: str) -> datetime | None:
        now = self.clock.now()
        return await self.service.core.read(lambda db: self._duty(name).next_due(db, now))

    def _duty(self, name: str) -> Duty:
        return next(duty for duty in self.service.duties if duty.name == name)

    def headers(self, *scopes: str, town: str | None = None) -> dict[str, str]:
        token = self._issuer.token("official", town=town, scopes=scopes or SCOPES, ttl=timedelta(days=90))
        return {"Authorization": f"Bearer {token}"}


def run(folder: Path, story: Callable[[Suite, httpx.AsyncClient], Awaitable[None]]) -> None:
    async def play() -> None:
        suite = Suite(folder)
        suite.service.core.start()
        transport = httpx.ASGITransport(app=suite.service.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://matching", headers=suite.headers()
        ) as client:
            try:
                await story(suite, client)
            finally:
                suite.service.core.stop()

    asyncio.run(play())


async def items(client: httpx.AsyncClient, path: str, **kwargs: Any) -> list[dict[str, Any]]:
    answer = await client.get(path, **kwargs)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def test_the_clock_says_what_it_waits_for(tmp_path: Path) -> None:
    """Run out but without data: how far participations are complete stands in the answer."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.tell(registered())
        (clock,) = await items(client, "/v1/clocks", params={"uscc": USCC})
        assert (clock["state"], clock["deadline"], clock["waiting_for"]) == ("running", "2026-02-09", None)
        suite.clock.move_to(at("2026-02-10"))
        await suite.service.core.run(look_at_clocks)
        (clock,) = await items(client, "/v1/clocks", params={"uscc": USCC})
        assert clock["waiting_for"] == "participations declared complete through no day yet"
        await suite.tell(DataComplete(dataset="participations", through=date(2026, 2, 8)))
        (clock,) = await items(client, "/v1/clocks", params={"uscc": USCC})
        assert (clock["state"], clock["lead_id"]) == ("waiting", None)
        assert clock["waiting_for"] == "participations complete through 2026-02-08 only"
        assert await items(client, "/v1/clocks", params={"uscc": OTHER}) == []

    run(tmp_path, story)


def test_a_lead_shows_what_it_rests_on(tmp_path: Path) -> None:
    """Sentence, date, deadline, calendar, completeness, participations seen, version of the rule, history."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        suite.clock.move_to(at("2026-02-11"))
        await suite.tell(started(4, started_on=date(2026, 2, 11)))
        lead = (await client.get(f"/v1/leads/{LEAD}")).json()
        assert (lead["state"], lead["end"], lead["uscc"]) == ("ended", "enrolled", USCC)
        assert lead["reason"].startswith("2026-01-09 设立")
        evidence = lead["evidence"]
        assert (evidence["established_on"], evidence["deadline"]) == ("2026-01-09", "2026-02-09")
        assert evidence["participations_complete_through"] == "2026-02-09"
        assert "2026年部分节假日" in evidence["calendar_source"]
        assert evidence["rule_version"] == "2026-01-01"
        seen = {found["id"]: found["seen_when_opened"] for found in lead["participations"]}
        assert seen == {3: True, 4: False}
        assert [line["action"] for line in lead["history"]] == ["opened", "resolved"]
        assert (await client.get("/v1/leads/R01-unknown")).status_code == 404

    run(tmp_path, story)


def test_leads_are_filtered_and_paged(tmp_path: Path) -> None:
    """By rule, unit, town and state; a page names the next one."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        await suite.tell(
            *(
                registered(uscc=f"unit-{n}", town="崖头街道", established_on=date(2025, 12, 1))
                for n in range(9)
            )
        )
        every = await items(client, "/v1/leads", params={"rule": "R01"})
        assert LEAD in [lead["id"] for lead in every]
        assert len(every) >= 2
        found, cursor = [], None
        while True:
            params = {"limit": 1} | ({"cursor": cursor} if cursor else {})
            answer = (await client.get("/v1/leads", params=params)).json()
            found += answer["items"]
            cursor = answer["next_cursor"]
            if cursor is None:
                break
        assert found == every
        for params, expected in (
            ({"uscc": USCC}, [LEAD]),
            ({"town": "寻山街道"}, [LEAD]),
            ({"state": "ended"}, []),
            ({"rule": "R02"}, []),
        ):
            assert [lead["id"] for lead in await items(client, "/v1/leads", params=params)] == expected
        assert (await client.get("/v1/leads", params={"colour": "red"})).status_code == 422

    run(tmp_path, story)


def test_an_official_resolves_and_reopens(tmp_path: Path) -> None:
    """Each action answers with the lead; with an Idempotency-Key it happens once."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        path = f"/v1/leads/{LEAD}/actions"
        body = {"action": "resolve", "end": "no_obligation", "reason": "无雇工"}
        key = {"Idempotency-Key": "once"}
        answer = await client.post(path, json=body, headers=key)
        assert answer.status_code == 200
        assert (answer.json()["state"], answer.json()["end_reason"]) == ("ended", "无雇工")
        assert (await client.post(path, json=body, headers=key)).json() == answer.json()
        again = await client.post(path, json=body)
        assert (again.status_code, again.json()["code"]) == (409, "lead_ended")
        (clock,) = await items(client, "/v1/clocks", params={"uscc": USCC})
        assert (clock["state"], clock["reason"]) == ("stopped", "no_obligation")
        opened = await client.post(path, json={"action": "reopen", "reason": "有雇工"})
        assert (opened.json()["state"], opened.json()["episode"], opened.json()["end"]) == ("open", 2, None)

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"action": "resolve", "reason": "x"}, "/end"),
        ({"action": "note", "end": "wrong_data", "reason": "x"}, "/end"),
        ({"action": "resolve", "end": "exempt", "reason": "x"}, "/end"),
        ({"action": "exempt", "reason": "x"}, "/proof"),
        ({"action": "note", "reason": "x", "proof": "x"}, "/proof"),
        ({"action": "note", "reason": "x", "expires_on": "2026-06-30"}, "/expires_on"),
        ({"action": "resolve", "end": "enrolled", "reason": "x"}, "/end"),
        ({"action": "note"}, "/reason"),
        ({"action": "note", "reason": "  "}, "/reason"),
        ({"action": "advance", "reason": "x"}, "/action"),
        ({"action": "note", "reason": "x", "who": "me"}, "/who"),
    ],
)
def test_an_action_that_makes_no_sense_is_refused(tmp_path: Path, body: dict[str, str], pointer: str) -> None:
    """With the field that is wrong."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        answer = await client.post(f"/v1/leads/{LEAD}/actions", json=body)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]

    run(tmp_path, story)


def test_a_town_sees_and_touches_its_own_rows_only(tmp_path: Path) -> None:
    """Clocks, leads, actions and visits of another town are not there."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        await suite.tell(unreached())
        for town, count in (("寻山街道", 1), ("崖头街道", 0)):
            client.headers.update(suite.headers(town=town))
            assert len(await items(client, "/v1/clocks", params={"uscc": USCC})) == count
            assert len(await items(client, "/v1/leads")) == count
            assert len(await items(client, "/v1/visits")) == count
            note = {"action": "note", "reason": "电话"}
            answers = {
                (await client.get(f"/v1/leads/{LEAD}")).status_code,
                (await client.post(f"/v1/leads/{LEAD}/actions", json=note)).status_code,
            }
            assert answers == ({200} if count else {404})

    run(tmp_path, story)


def test_visits_are_listed_for_their_town(tmp_path: Path) -> None:
    """With the notice that reached nobody, and how the lead stands; what joined a visit is the same walk."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        await suite.tell(
            unreached(), delivered(), unreached(notice_id="notice-2"), unreached(notice_id="notice-3")
        )
        everything = await items(client, "/v1/visits")
        assert [visit["state"] for visit in everything] == ["cancelled", "open"]
        joined = await items(client, "/v1/visits", params={"state": "joined"})
        assert [visit["notice_id"] for visit in joined] == ["notice-3"]
        visits = await items(client, "/v1/visits", params={"town": "寻山街道", "state": "open"})
        assert [visit["notice_id"] for visit in visits] == ["notice-2"]
        assert (visits[0]["reason"], visits[0]["lead_state"]) == ("silent", "open")
        first = (await client.get("/v1/visits", params={"limit": 1})).json()
        rest = await items(client, "/v1/visits", params={"cursor": first["next_cursor"]})
        assert [visit["notice_id"] for visit in rest] == ["notice-2"]
        assert await items(client, "/v1/visits", params={"state": "done"}) == []
        assert [len(await items(client, "/v1/visits", params={"uscc": u})) for u in (USCC, OTHER)] == [2, 0]

    run(tmp_path, story)


def test_the_rules_are_shown_with_their_source(tmp_path: Path) -> None:
    """As the city pack states them."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        (rule,) = await items(client, "/v1/rules")
        assert (rule["id"], rule["days"], rule["late_registration_wait_s"]) == ("R01", 30, 600)
        assert rule["void_insurances"] == ["pension", "unemployment", "injury"]

    run(tmp_path, story)


def test_every_route_states_who_may(tmp_path: Path) -> None:
    """No route without an access rule, and a token without the scope is refused."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        assert routes_without_access(suite.service.app) == []
        await suite.open_lead()
        client.headers.update(suite.headers("units:read"))
        for path in (
            "/v1/clocks?uscc=x",
            "/v1/leads",
            f"/v1/leads/{LEAD}",
            "/v1/visits",
            "/v1/rules",
            "/v1/exemptions",
            "/v1/stock",
            "/v1/funnel",
        ):
            assert (await client.get(path)).status_code == 403, path
        client.headers.update(suite.headers("leads:read", "visits:read"))
        for path, body in (
            (f"/v1/leads/{LEAD}/actions", {"action": "note", "reason": "x"}),
            ("/v1/exemptions", {"uscc": USCC, "reason": "x", "proof": "x"}),
            ("/v1/visits/x/result", {"result": "promised"}),
            ("/v1/stock/release", {"count": 1}),
        ):
            assert (await client.post(path, json=body)).status_code == 403, path

    run(tmp_path, story)


def test_time_has_to_be_looked_at_when_a_clock_runs_out(tmp_path: Path) -> None:
    """A running clock names its instant; one that waits for data names none."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.tell(registered())
        assert await suite.next_due() == at("2026-02-10", "00:00")
        suite.clock.move_to(at("2026-02-10"))
        await suite.service.core.run(look_at_clocks)
        assert await suite.next_due() is None

    run(tmp_path, story)


# -- exemptions, visits, stock, funnel -----------------------------------------------------------------------


def test_an_official_exempts_with_proof(tmp_path: Path) -> None:
    """The lead answers as ended; the exemption is listed with its last day; proof is a must."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        path = f"/v1/leads/{LEAD}/actions"
        refused = await client.post(path, json={"action": "exempt", "reason": "无雇工"})
        assert [error["pointer"] for error in refused.json()["errors"]] == ["/proof"]
        body = {"action": "exempt", "reason": "无雇工", "proof": "承诺书", "expires_on": "2026-06-30"}
        answer = await client.post(path, json=body)
        assert (answer.status_code, answer.json()["end"]) == (200, "exempt")
        (kept,) = await items(client, "/v1/exemptions", params={"uscc": USCC})
        assert (kept["expires_on"], kept["proof"], kept["granted_by"]) == ("2026-06-30", "承诺书", "official")
        (clock,) = await items(client, "/v1/clocks", params={"uscc": USCC})
        assert (clock["state"], clock["reason"]) == ("stopped", "exempt")

    run(tmp_path, story)


def test_a_unit_is_exempted_before_it_has_a_lead(tmp_path: Path) -> None:
    """201, then 200 in place of the first; a unit nobody knows is 404, another town's too."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.tell(registered())
        body = {"uscc": USCC, "reason": "分支机构由总公司参保", "proof": "总公司证明"}
        answer = await client.post("/v1/exemptions", json=body)
        assert (answer.status_code, answer.json()["expires_on"]) == (201, "2027-01-12")
        again = await client.post("/v1/exemptions", json={**body, "expires_on": "2026-03-31"})
        assert (again.status_code, again.json()["expires_on"]) == (200, "2026-03-31")
        assert (await client.post("/v1/exemptions", json={**body, "uscc": OTHER})).status_code == 404
        late = await client.post("/v1/exemptions", json={**body, "expires_on": "2030-01-01"})
        assert (late.status_code, late.json()["errors"][0]["pointer"]) == (422, "/expires_on")
        client.headers.update(suite.headers(town="崖头街道"))
        assert (await client.post("/v1/exemptions", json=body)).status_code == 404
        assert await items(client, "/v1/exemptions") == []

    run(tmp_path, story)


def test_a_town_reports_its_visit(tmp_path: Path) -> None:
    """Once; the answer is the lead with its next step, the list shows what was found."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        await suite.tell(unreached())
        (visit,) = await items(client, "/v1/visits")
        path, body = f"/v1/visits/{visit['id']}/result", {"result": "no_employees", "note": "夫妻店"}
        client.headers.update(suite.headers(town="崖头街道"))
        assert (await client.post(path, json=body)).status_code == 404
        client.headers.update(suite.headers(town="寻山街道"))
        answer = await client.post(path, json=body)
        assert (answer.status_code, answer.json()["next_step"]) == (200, "exemption")
        assert (await client.post(path, json=body)).json()["code"] == "visit_closed"
        (visit,) = await items(client, "/v1/visits", params={"state": "done"})
        assert (visit["result"], visit["note"]) == ("no_employees", "夫妻店")
        unknown = await client.post(path, json={"result": "maybe"})
        assert unknown.json()["errors"][0]["pointer"] == "/result"
        assert (await client.post("/v1/visits/none/result", json=body)).status_code == 404

    run(tmp_path, story)


def test_the_stock_is_counted_and_released_by_town(tmp_path: Path) -> None:
    """A town's official sees and releases the town's own only."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.tell(DataComplete(dataset="participations", through=date(2026, 1, 11)))
        for n, town in enumerate(("寻山街道", "寻山街道", "崖头街道")):
            day = date(2025, 11, 20 - n)
            await suite.tell(registered(uscc=f"unit-{n}", origin="batch", established_on=day, town=town))
        stock = (await client.get("/v1/stock")).json()
        assert (stock["count"], stock["oldest"]) == (3, "2025-12-18")
        assert {town["town"]: town["count"] for town in stock["towns"]} == {"寻山街道": 2, "崖头街道": 1}
        assert (await client.post("/v1/stock/release", json={"count": 0})).status_code == 422
        client.headers.update(suite.headers(town="寻山街道"))
        assert (await client.get("/v1/stock")).json()["count"] == 2
        theirs = await client.post("/v1/stock/release", json={"count": 9, "town": "崖头街道"})
        assert theirs.json() == {"released": 0}
        mine = await client.post("/v1/stock/release", json={"count": 1})
        assert mine.json() == {"released": 1}
        client.headers.update(suite.headers())
        towns = (await client.get("/v1/stock")).json()["towns"]
        assert {town["town"]: town["count"] for town in towns} == {"寻山街道": 1, "崖头街道": 1}

    run(tmp_path, story)


def test_a_town_that_is_none_is_refused_with_those_that_are(tmp_path: Path) -> None:
    """A typing error is no empty list; the same for the state of a visit."""

    async def story(_: Suite, client: httpx.AsyncClient) -> None:
        asked = [
            (await client.get(path, params={"town": "寻山"}), "/query/town")
            for path in ("/v1/leads", "/v1/visits", "/v1/funnel")
        ]
        asked.append((await client.post("/v1/stock/release", json={"count": 1, "town": "寻山"}), "/town"))
        for answer, pointer in asked:
            (error,) = answer.json()["errors"]
            assert (answer.status_code, error["pointer"], error["code"]) == (422, pointer, "unknown_town")
            assert "寻山街道" in error["zh"]
        (error,) = (await client.get("/v1/visits", params={"state": "closed"})).json()["errors"]
        assert error["pointer"] == "/query/state"
        assert "joined" in error["en"]

    run(tmp_path, story)


def test_the_funnel_holds_every_lead_once(tmp_path: Path) -> None:
    """Now, and as the last daily check of the city found it; a town sees its own figures."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        funnel = (await client.get("/v1/funnel")).json()
        assert (funnel["leads"], funnel["overdue"], funnel["checked"]) == (1, 0, None)
        assert funnel["places"]["opened_not_sent"] == 1
        await suite.tell(handed_over())
        suite.clock.move_to(at("2026-03-03", "00:10"))
        assert await suite.duty("funnel")
        funnel = (await client.get("/v1/funnel", params={"town": "寻山街道"})).json()
        assert (funnel["places"]["reminded"], funnel["overdue"]) == (1, 1)
        checked = funnel["checked"]
        assert (checked["day"], checked["leads"], checked["overdue"]) == ("2026-03-03", 1, 1)
        assert (checked["sound"], checked["places"]["reminded"]) == (True, 1)
        assert (await client.get("/v1/funnel", params={"town": "崖头街道"})).json()["leads"] == 0
        client.headers.update(suite.headers(town="崖头街道"))
        funnel = (await client.get("/v1/funnel")).json()
        assert (funnel["leads"], funnel["overdue"], funnel["checked"]) == (0, 0, None)
        assert (await client.get("/v1/funnel", params={"town": "寻山街道"})).status_code == 404

    run(tmp_path, story)


def test_the_funnel_is_checked_daily_ten_minutes_after_midnight(tmp_path: Path) -> None:
    """Missed days are one check; figures are metrics; what stands still or is lost raises an alarm."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        assert await suite.due("funnel") == at("2026-01-12", "00:10")
        await suite.open_lead()
        await suite.duty("funnel")
        assert await suite.due("funnel") == at("2026-02-11", "00:10")
        suite.clock.move_to(at("2026-02-20"))
        with capture_logs() as logs:
            await suite.duty("funnel")
        assert [line["event"] for line in logs] == ["leads_stand_still"]
        assert await suite.due("funnel") == at("2026-02-21", "00:10")
        metrics = (await client.get("/metrics")).text
        assert 'yingbao_funnel_leads{place="opened_not_sent"} 1.0' in metrics
        assert 'yingbao_funnel_leads{place="held"} 0.0' in metrics
        assert "yingbao_leads_overdue 1.0" in metrics
        with suite.service.core.database.write() as db:
            db.execute(sa.update(lead).values(next_on=None))
        with capture_logs() as logs:
            await suite.duty("funnel")
        assert [line["event"] for line in logs] == ["funnel_unsound"]
        checked = (await client.get("/v1/funnel")).json()["checked"]
        assert (checked["lost"], checked["sound"], checked["overdue"]) == (1, False, 0)

    run(tmp_path, story)


def test_a_lead_whose_unit_is_missing_makes_the_funnel_unsound(tmp_path: Path) -> None:
    """The places are counted by way of the units, the leads without: the sums must agree."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        with suite.service.core.database.write() as db:
            db.execute(sa.delete(unit))
        await suite.duty("funnel")
        checked = (await client.get("/v1/funnel")).json()["checked"]
        assert (checked["leads"], checked["sound"]) == (1, False)

    run(tmp_path, story)


def test_the_ladder_is_due_when_a_wait_is_over(tmp_path: Path) -> None:
    """The duty names the instant of the step, and takes it."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        assert await suite.due("ladder") is None
        await suite.tell(handed_over())
        assert await suite.due("ladder") == at("2026-03-02", "00:00")
        suite.clock.move_to(at("2026-03-02", "00:00"))
        await suite.tell(DataComplete(dataset="participations", through=date(2026, 3, 1)))
        assert await suite.duty("ladder")
        assert await suite.due("ladder") is None
        found = (await client.get(f"/v1/leads/{LEAD}")).json()
        assert (found["stage"], found["notice"], found["act_at"]) == ("second_reminder", None, None)

    run(tmp_path, story)
