"""`POST /v1/units` stays out of FastAPI's way and answers exactly as it would."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from services.registry.api import register
from services.registry.schemas import UnitOut
from shared.http import Api, StrictRoute, access, install
from tests.support.registry import OTHER_USCC, UNIT, USCC, Registry

KEY = {"Idempotency-Key": "k1"}
NAMED = {**UNIT, "name": "荣成市另一水产有限公司"}


def post(body: Any, **options: Any) -> Callable[[Registry], httpx.Response]:
    return lambda registry: registry.ask("POST", "/v1/units", body, **options)


STORY = {
    "new": (201, post(UNIT, headers=KEY)),
    "known": (200, post(UNIT)),
    "replayed": (201, post(UNIT, headers=KEY)),
    "key reused": (422, post(NAMED, headers=KEY)),
    "key malformed": (400, post(UNIT, headers={"Idempotency-Key": "a b"})),
    "differs": (409, post(NAMED)),
    "doubtful": (201, post({**UNIT, "uscc": OTHER_USCC, "contacts": []})),
    "town unknown": (422, post({**UNIT, "town": "无此镇"})),
    "fields wrong": (
        422,
        post({"uscc": "1", "kind": "x", "more": 1, "contacts": [{"role": "hr"}], "town": ""}),
    ),
    "nothing given": (422, post({})),
    "null": (422, post(b"null")),
    "a list": (422, post([UNIT])),
    "a number": (422, post(b"1")),
    "no body": (400, post(b"")),
    "no JSON": (400, post(b"{")),
    "no UTF-8": (400, post(b"\xff")),
    "key twice": (400, post(b'{"uscc":"a","uscc":"b"}')),
    "too large": (413, post(b" " * 300_000)),
    "other type": (415, post(UNIT, headers={"Content-Type": "text/plain"})),
    "parameter": (422, lambda registry: registry.ask("POST", "/v1/units?dry=1", UNIT)),
    "no token": (401, post(UNIT, headers={"Authorization": ""})),
    "wrong token": (401, post(UNIT, headers={"Authorization": "Bearer a.b.c"})),
    "lacks scope": (403, post(UNIT, scopes=["units:read"])),
    "other town": (403, post(UNIT, town="崖头街道")),
    "other method": (405, lambda registry: registry.ask("DELETE", "/v1/units")),
}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "plain") as registry:
        yield registry


@pytest.fixture
def framework(tmp_path: Path) -> Iterator[Registry]:
    """The same endpoint on a service of its own, through all of FastAPI."""
    registry = Registry(tmp_path / "framework")
    core = registry.service.core
    app = Api(openapi_url=None)
    app.state.core = core
    install(app, clock=core.clock, rate_limit_per_s=core.settings.rate_limit_per_s)
    router = APIRouter(route_class=StrictRoute)
    router.add_api_route(
        "/v1/units",
        register,
        methods=["POST"],
        dependencies=[access("units:write")],
        response_model=UnitOut,
        status_code=201,
        tags=["units"],
    )
    app.include_router(router)
    registry.service.app = app
    with registry:
        yield registry


def seen(response: httpx.Response) -> tuple[Any, ...]:
    """What a caller can compare: all but the ids of the requests, and which other methods there are."""
    body = {name: value for name, value in response.json().items() if name != "correlation_id"}
    own = {"x-correlation-id", "allow", "content-length"}
    return response.status_code, body, {k: v for k, v in response.headers.items() if k not in own}


def test_every_answer_is_the_framework_s_own(registry: Registry, framework: Registry) -> None:
    """One story on both: status, body and headers."""
    for name, (status, ask) in STORY.items():
        answer = seen(ask(registry))
        assert answer[0] == status, name
        assert answer == seen(ask(framework)), name


def test_it_is_in_the_contract_as_any_other_route(registry: Registry, framework: Registry) -> None:
    """With its body, its answers and its problems."""
    described = registry.service.app.openapi()["paths"]["/v1/units"]["post"]
    assert "UnitIn" in str(described["requestBody"])
    assert described == framework.service.app.openapi()["paths"]["/v1/units"]["post"]


def test_neighbours_at_the_same_address_are_found(registry: Registry) -> None:
    """GET /v1/units is another router's."""
    assert registry.register().status_code == 201
    listed = registry.ask("GET", "/v1/units").json()["items"]
    assert [item["uscc"] for item in listed] == [USCC]
