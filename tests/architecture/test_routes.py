"""Every route states its access rule: which scopes it asks for, or why it is public."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from services.all_in_one import Suite
from shared.auth import SCOPES
from shared.clock import ZONE, FrozenClock
from shared.errors import FieldError, unprocessable
from shared.http import Access, problem_response, routes_without_access
from shared.http.contract import ProblemOut

PARTS = ("registry", "matching", "notify", "targets")


@pytest.fixture(params=[False, True], ids=["plain", "demo"])
def suite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Suite]:
    """All services, mounted together; the demo has routes of its own."""
    made = Suite(tmp_path, clock=FrozenClock(datetime(2026, 1, 5, 10, tzinfo=ZONE)), demo=request.param)
    yield made
    made.close()
    for service in made.services.values():
        service.core.database.close()


def test_every_route_of_the_suite_states_its_access_rule(suite: Suite) -> None:
    """The mounted services and the sandbox too."""
    assert routes_without_access(suite.app) == []


@pytest.mark.parametrize("name", PARTS)
def test_every_route_of_a_service_alone_states_its_access_rule(suite: Suite, name: str) -> None:
    """As it runs without the others."""
    assert routes_without_access(suite.services[name].app) == []


@pytest.mark.parametrize("name", PARTS)
def test_a_planted_route_without_a_rule_is_found(suite: Suite, name: str) -> None:
    """In the service, and through its mount in the suite."""

    async def planted() -> None: ...

    suite.services[name].app.add_api_route("/v1/planted", planted)
    assert routes_without_access(suite.services[name].app) == ["GET /v1/planted"]
    assert routes_without_access(suite.app) == [f"GET /{name}/v1/planted"]


def test_a_route_planted_beside_the_services_is_found(suite: Suite) -> None:
    """In the suite itself and in the sandbox."""

    async def planted() -> None: ...

    suite.app.add_api_route("/planted", planted, methods=["POST"])
    suite.sandbox.add_api_route("/planted", planted)
    assert "POST /planted" in routes_without_access(suite.app)
    assert routes_without_access(suite.sandbox) == ["GET /planted"]


def test_routes_ask_for_scopes_that_exist(suite: Suite) -> None:
    """A scope that no token can hold would close the route for everybody."""
    asked = {
        scope
        for service in suite.services.values()
        for route in iter_route_contexts(service.app.routes)
        for dependency in route.dependencies or ()
        if isinstance(dependency.dependency, Access)
        for scope in dependency.dependency.scopes
    }
    assert "progress:read" in asked
    assert asked <= SCOPES


def rules(suite: Suite) -> dict[str, Access]:
    """The access rule of every route that asks for a token, by method and path: `PUT registry /v1/units`."""
    return {
        f"{method} {name} {route.path}": dependency.dependency
        for name, service in suite.services.items()
        for route in iter_route_contexts(service.app.routes)
        for method in route.methods or ()
        for dependency in route.dependencies or ()
        if isinstance(dependency.dependency, Access)
    }


def test_a_token_of_one_town_turns_no_switch_of_the_whole_city(suite: Suite) -> None:
    """Each writing route is either refused to it or named here, because its command looks at the unit's town."""
    asked = rules(suite)
    whole_city = {route for route, rule in asked.items() if rule.whole_city}
    assert whole_city == {
        "POST registry /v1/batches/{id}/withdraw",
        "PUT notify /v1/sending",
        "POST notify /v1/notices/recall",
        "POST notify /v1/bindings",
        "POST registry /v1/contacts/republish",
        "PUT registry /v1/calendar/{year}",
        "PUT registry /v1/datasets/{id}/complete-through",
        "POST registry /v1/last-look",
        "POST registry /v1/datasets/{id}/batches",
        "GET registry /v1/batches",
        "GET registry /v1/batches/{id}",
        "GET registry /v1/batches/{id}/errors",
        "POST registry /v1/batches/{id}/rows/{n}/settle",
        *(f"GET {name} /v1/parked" for name in PARTS),
        *(f"POST {name} /v1/parked/redrive" for name in PARTS),
        *(f"POST {name} /v1/parked/discard" for name in PARTS),
    }
    assert {route for route in asked if not route.startswith("GET ")} - whole_city == {
        "POST registry /v1/units",
        "PATCH registry /v1/units/{uscc}",
        "POST registry /v1/units/{uscc}/close",
        "POST registry /v1/units/{uscc}/suspend",
        "POST registry /v1/units/{uscc}/resume",
        "POST registry /v1/participations",
        "POST registry /v1/participations/{id}/end",
        "POST registry /v1/participations/{id}/cancel",
        "POST matching /v1/leads/{lead_id}/actions",
        "POST matching /v1/visits/{visit_id}/result",
        "POST matching /v1/exemptions",
        "POST matching /v1/stock/release",
    }


def test_the_contract_says_what_a_route_asks_for_and_refuses_with(suite: Suite) -> None:
    """The scopes of its token, and problems as they really are: nothing of the framework's own is left."""
    for service in suite.services.values():
        contract = service.app.openapi()
        assert not {"HTTPValidationError", "ValidationError"} & set(contract["components"]["schemas"])
        assert "HTTPValidationError" not in str(contract["paths"])
    registry = suite.services["registry"].app.openapi()
    change = registry["paths"]["/v1/units/{uscc}"]["patch"]
    assert change["security"] == [{"bearer": ["units:write"]}]
    assert registry["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert {"401", "403", "404", "409", "422"} < set(change["responses"])
    for status in ("401", "403", "404", "409", "422"):
        (media,) = change["responses"][status]["content"].items()
        assert media == ("application/problem+json", {"schema": {"$ref": "#/components/schemas/Problem"}})
    ready = registry["paths"]["/health/ready"]["get"]
    assert (ready["security"], "401" in ready["responses"]) == ([], False)


def test_the_problems_of_the_contract_are_those_that_are_sent() -> None:
    """Field by field."""
    fields = (FieldError("/town", "unknown_town", "无此镇街", "no such town"),)
    sent = json.loads(bytes(problem_response(unprocessable(fields)).body))
    assert set(sent) == set(ProblemOut.model_fields)
    assert ProblemOut.model_validate(sent).model_dump() == sent


def test_every_list_that_a_body_may_hold_has_a_greatest_length(suite: Suite) -> None:
    """Without one, a body of wrong items keeps the process busy for seconds."""
    bodies = []
    for app in (*(service.app for service in suite.services.values()), suite.sandbox):
        contract = app.openapi()
        schemas = contract["components"]["schemas"]
        asked = [
            operation["requestBody"]
            for path in contract["paths"].values()
            for operation in path.values()
            if "requestBody" in operation
        ]
        bodies += [part for body in asked for part in _parts(body, schemas)]
    lists = [part for part in bodies if part.get("type") == "array"]
    assert len(lists) >= 8
    assert [part for part in lists if "maxItems" not in part] == []


def _parts(value: Any, schemas: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every object inside a schema, references followed."""
    if isinstance(value, list):
        for inner in value:
            yield from _parts(inner, schemas)
    elif isinstance(value, dict):
        yield value
        if "$ref" in value:
            yield from _parts(schemas[value["$ref"].rpartition("/")[2]], schemas)
        for inner in value.values():
            yield from _parts(inner, schemas)
