"""GET /v1/progress, from participations on the bus to the answer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.targets.app import build
from services.targets.settings import TargetsSettings
from services.targets.tables import metadata
from shared.auth import LocalIssuer
from shared.clock import ZONE, FrozenClock
from shared.events.registry import ParticipationStarted
from shared.messaging.in_process import InProcessBus
from tests.support.cutting import message

AT = datetime(2026, 2, 10, 10, tzinfo=ZONE)
BUCKET = "市直/未划分"


def started(id_: int, **given: Any) -> ParticipationStarted:
    return ParticipationStarted(
        **{
            "participation_id": id_,
            "person": id_,
            "insurance": "pension",
            "form": "employer",
            "uscc": "91371082MA3XTE5T8Q",
            "kind": "first",
            "started_on": date(2026, 1, 9),
            "town": "寻山街道",
            "recorded_on": date(2026, 1, 10),
            "first_version": 1,
            "first_ever": True,
            **given,
        }
    )


class Suite:
    """Targets, running alone on files of its own."""

    def __init__(self, folder: Path) -> None:
        self.clock = FrozenClock(AT)
        self.settings = TargetsSettings(data_dir=folder)
        self.bus = InProcessBus()
        self.service = build(self.settings, bus=self.bus, clock=self.clock)
        with self.service.core.database.write() as db:
            metadata.create_all(db)

    @asynccontextmanager
    async def running(self) -> Any:
        self.service.core.start()
        transport = httpx.ASGITransport(app=self.service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://targets") as client:
            try:
                yield client
            finally:
                self.service.core.stop()

    def header(
        self, *, scopes: Sequence[str] = ("progress:read",), town: str | None = None
    ) -> dict[str, str]:
        issuer = LocalIssuer(self.settings.issuer_key, self.clock)
        return {"Authorization": f"Bearer {issuer.token('test', scopes=scopes, town=town)}"}

    def ask(self, query: str = "", *events: ParticipationStarted, **who: Any) -> httpx.Response:
        """Publishes the events, then asks."""

        async def story(client: httpx.AsyncClient) -> httpx.Response:
            await self.bus.publish(
                [message(event, id=f"event-{event.participation_id}", time=AT) for event in events]
            )
            return await client.get(f"/v1/progress{query}", headers=self.header(**who))

        return self._tell(story)

    def bare(self) -> httpx.Response:
        return self._tell(lambda client: client.get("/v1/progress"))

    def _tell(self, story: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> httpx.Response:
        async def whole() -> httpx.Response:
            async with self.running() as client:
                return await story(client)

        return asyncio.run(whole())


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_the_citys_lines_of_this_year(suite: Suite) -> None:
    """Without parameters: eight targets, actual against target, percentages, definition and doubt."""
    answer = suite.ask(
        "",
        *(started(n) for n in range(1, 100)),
        started(100, kind="resumed"),
        started(101, kind="transferred"),
    )
    assert answer.status_code == 200
    body = answer.json()
    assert (body["year"], body["as_of"], body["by"]) == (2026, "2026-02-10", None)
    assert [target["id"] for target in body["targets"]] == [f"T{n}" for n in range(1, 9)]
    assert body["targets"][0] == {
        "id": "T1",
        "name": "企业职工基本养老保险新增参保人数",
        "metric": "new_insured",
        "insurance": "pension",
        "unit": "人",
        "target": 9900,
        "actual": 99,
        "resumed": 1,
        "transferred": 1,
        "completion_pct": 1.0,
        "pace_pct": 11.2,
        "difference_pp": -10.2,
        "reason": None,
        "definition": "本险种首次参保（系统内首条记录且申报为首次参保）；续保、转入另列；"
        "统计至业务当日，开始日期晚于当日的到期后计入",
        "confirm": "待确认",
        "source": "荣政办发〔2024〕3号 一（二）目标任务",
        "lines": [],
    }
    assert body["targets"][1]["actual"] == 0


def test_targets_without_data_say_so(suite: Suite) -> None:
    """T4 to T8: the target is there, the actual is unknown with a reason, never zero."""
    for target in suite.ask("?by=town").json()["targets"][3:]:
        assert target["target"] is not None
        assert target["actual"] is target["completion_pct"] is target["difference_pp"] is None
        assert "no data yet" in target["reason"]
        assert target["lines"] == []


def test_by_town_adds_up_to_the_city(suite: Suite) -> None:
    """All 22 towns in the plan's order and the bucket; no target and no completion until a split is imported."""
    answer = suite.ask(
        "?target=T1&by=town&year=2026",
        started(1),
        started(2),
        started(3, town="俚岛镇"),
        started(4, town=BUCKET, uscc=None, form="flexible"),
        started(5, town="别处"),
    )
    (target,) = answer.json()["targets"]
    actuals = {line["town"]: line["actual"] for line in target["lines"]}
    assert len(actuals) == 23
    assert next(iter(actuals)) == "俚岛镇"
    assert list(actuals)[-1] == BUCKET
    assert {town: n for town, n in actuals.items() if n} == {"俚岛镇": 1, "寻山街道": 2, BUCKET: 2}
    assert target["actual"] == sum(actuals.values()) == 5
    assert {line["target"] for line in target["lines"]} == {None}
    assert "completion_pct" not in target["lines"][0]


@pytest.mark.parametrize("town", ["俚岛镇", "371082101"])
def test_who_acts_for_a_town_sees_its_line_and_the_city(suite: Suite, town: str) -> None:
    """By the town's name or code; the other towns stay out."""
    (target,) = suite.ask("?target=T1&by=town", started(1), started(2, town="俚岛镇"), town=town).json()[
        "targets"
    ]
    assert target["actual"] == 2
    assert [(line["town"], line["actual"]) for line in target["lines"]] == [("俚岛镇", 1)]


def test_by_month_has_twelve_lines(suite: Suite) -> None:
    """In the month of the start, whenever it was recorded; months ahead are unknown."""
    (target,) = suite.ask(
        "?target=T1&by=month", started(1), started(2, started_on=date(2026, 2, 10)), started(3)
    ).json()["targets"]
    assert [line["actual"] for line in target["lines"]] == [2, 1] + [None] * 10
    assert [line["month"] for line in target["lines"]] == list(range(1, 13))


def test_a_future_start_is_counted_when_its_day_has_come(suite: Suite) -> None:
    """The business clock decides."""
    assert (
        suite.ask("?target=T1", started(1, started_on=date(2026, 2, 11))).json()["targets"][0]["actual"] == 0
    )
    again = Suite(suite.settings.data_dir)
    again.clock.move_to(datetime(2026, 2, 11, 0, 0, tzinfo=ZONE))
    assert again.ask("?target=T1").json()["targets"][0]["actual"] == 1


def test_another_year(suite: Suite) -> None:
    """2024 is over: pace 100; 2027 has no target: no completion."""
    old = suite.ask("?year=2024&target=T1").json()["targets"][0]
    assert (old["target"], old["actual"], old["pace_pct"], old["difference_pp"]) == (8500, 0, 100.0, -100.0)
    new = Suite(suite.settings.data_dir).ask("?year=2027&target=T1").json()["targets"][0]
    assert (new["target"], new["completion_pct"], new["pace_pct"]) == (None, None, 0.0)


def test_figures_with_a_fraction_stay_exact(suite: Suite) -> None:
    """20.06 亿元 is 20.06."""
    assert suite.ask("?year=2024&target=T6").json()["targets"][0]["target"] == 20.06


@pytest.mark.parametrize(
    ("query", "where", "code"),
    [
        ("?town=x", "/query/town", "unknown_parameter"),
        ("?by=street", "/query/by", "not_allowed"),
        ("?by=department", "/query/by", "no_split_by_department"),
        ("?target=T9", "/query/target", "unknown_target"),
        ("?target=", "/query/target", "unknown_target"),
        ("?year=abc", "/query/year", "not_a_whole_number"),
        ("?year=0", "/query/year", None),
        ("?year=99999999999999999999", "/query/year", None),
        ("?year=2026&year=2025", "/query/year", "repeated_parameter"),
    ],
)
def test_a_bad_question_is_refused_with_its_fix(
    suite: Suite, query: str, where: str, code: str | None
) -> None:
    """422 with the parameter, a stable code and what to do."""
    answer = suite.ask(query)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == where
    assert code in (None, error["code"])
    assert error["zh"]
    assert error["en"]


def test_access_is_denied_by_default(suite: Suite) -> None:
    """No token: 401; a token without progress:read: 403."""
    assert suite.bare().status_code == 401
    assert Suite(suite.settings.data_dir).ask("", scopes=["units:read"]).status_code == 403


def test_the_contract_names_the_answer(suite: Suite) -> None:
    """The OpenAPI document can be made and holds the route."""
    contract = suite.service.app.openapi()
    assert "/v1/progress" in contract["paths"]
    assert "ProgressOut" in contract["components"]["schemas"]
    suite.service.core.database.close()
