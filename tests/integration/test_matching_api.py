"""Matching over HTTP: clocks, leads with evidence and history, actions, visits, rules."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.matching.app import build
from services.matching.commands import look_at_clocks
from services.matching.settings import MatchingSettings
from services.matching.store import next_look
from services.matching.tables import metadata
from shared.auth import SCOPES, LocalIssuer
from shared.clock import FrozenClock
from shared.events.base import Event
from shared.events.registry import DataComplete
from shared.http import routes_without_access
from shared.messaging.bus import partition_of
from shared.messaging.in_process import InProcessBus
from tests.support.cutting import message
from tests.support.matching import LEAD, USCC, at, registered, started, unreached

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
    """With the notice that reached nobody, and how the lead stands."""

    async def story(suite: Suite, client: httpx.AsyncClient) -> None:
        await suite.open_lead()
        await suite.tell(unreached(), unreached(notice_id="notice-2"))
        visits = await items(client, "/v1/visits", params={"town": "寻山街道", "state": "open"})
        assert [visit["notice_id"] for visit in visits] == ["notice-1", "notice-2"]
        assert (visits[0]["reason"], visits[0]["lead_state"]) == ("silent", "open")
        first = (await client.get("/v1/visits", params={"limit": 1})).json()
        rest = await items(client, "/v1/visits", params={"cursor": first["next_cursor"]})
        assert [visit["notice_id"] for visit in rest] == ["notice-2"]
        assert await items(client, "/v1/visits", params={"state": "done"}) == []

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
        for path in ("/v1/clocks?uscc=x", "/v1/leads", f"/v1/leads/{LEAD}", "/v1/visits", "/v1/rules"):
            assert (await client.get(path)).status_code == 403, path
        note = {"action": "note", "reason": "x"}
        assert (await client.post(f"/v1/leads/{LEAD}/actions", json=note)).status_code == 403

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
