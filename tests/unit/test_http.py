"""What a service answers to good and bad requests, before any command sees them."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import AfterValidator, ValidationError, model_validator

from shared.auth import LocalIssuer, Verifier
from shared.clock import FrozenClock
from shared.errors import Problem
from shared.http import (
    Body,
    Caller,
    Choice,
    Cursor,
    Day,
    Flag,
    Limit,
    Listing,
    Many,
    Moment,
    Page,
    RowId,
    StrictRoute,
    Text,
    Whole,
    access,
    answer,
    caller,
    decode_cursor,
    encode_cursor,
    etag,
    if_match,
    install,
    page,
    public,
    refuse,
    routes_without_access,
)
from shared.http.access import MOST_CLIENTS, RateLimiter
from shared.metrics import Metrics
from shared.storage.idempotency import Answer, IdempotencyKey


class Kind(StrEnum):
    """Two kinds are enough here."""

    ENTERPRISE = "enterprise"
    OTHER = "other"


class Contact(Body):
    """A nested object."""

    name: Annotated[str, Text(20)]
    mobile: Annotated[str, Text(11)] | None = None


class Thing(Body):
    """A body with a field of every type."""

    name: Annotated[str, Text(20)]
    kind: Choice[Kind] = Kind.OTHER
    day: Day | None = None
    at: Moment | None = None
    count: Whole = 1
    sure: Flag = False
    note: Annotated[str, Text(100, lines=True)] | None = None
    contacts: Many[Contact] = ()

    @model_validator(mode="after")
    def _never_seven(self) -> "Thing":
        if self.count == 7:
            raise refuse("seven", zh="不能是七", en="must not be seven")
        return self


class View(Body):
    """What a list shows."""

    n: int


def boom(_work: Any, _item: Any) -> str:
    """A command whose crash message holds personal data."""
    raise RuntimeError("张三 371082198503150023")


def keep(_work: Any, item: Any) -> str:
    """A command that works."""
    return str(item)


@dataclass
class FakeCore:
    """The core's protocol as the HTTP side uses it: answers are kept by client, route and key."""

    auth: Verifier
    kept: dict[tuple[str, str, str], tuple[str, Answer]] = field(default_factory=dict)
    runs: list[Any] = field(default_factory=list)

    def fingerprint(self, text: bytes) -> str:
        return hashlib.sha256(text).hexdigest()

    async def call(
        self,
        command: Callable[..., Any],
        item: Any,
        *,
        respond: Callable[[Any], Answer],
        key: IdempotencyKey | None,
    ) -> Answer:
        slot = (key.client, key.route, key.key) if key else None
        if key and slot in self.kept:
            fingerprint, stored = self.kept[slot]
            if fingerprint != key.fingerprint:
                raise Problem(
                    422, "idempotency_key_reused", zh="键已用于其他请求", en="other request, same key"
                )
            return Answer(stored.status, stored.body, {**stored.headers, "Idempotency-Replay": "true"})
        self.runs.append(item)
        made = respond(command(None, item))
        if key and slot:
            self.kept[slot] = (key.fingerprint, made)
        return made


def respond(outcome: str) -> Answer:
    """201 with a location."""
    return Answer(201, {"outcome": outcome}, {"Location": "/v1/things/1"})


def routes() -> APIRouter:
    """A little API that has one of everything."""
    router = APIRouter(route_class=StrictRoute, prefix="/v1")
    write = [access("units:write")]
    read = [access("units:read")]

    @router.post("/things", dependencies=write)
    async def add(request: Request, thing: Thing) -> Response:
        return await answer(request, keep, thing.model_dump(mode="json"), respond)

    @router.post("/things/{number}/close", dependencies=write)
    async def close(request: Request, number: RowId) -> Response:
        return await answer(request, keep, number, respond)

    @router.post("/crash", dependencies=write)
    async def crash(request: Request, thing: Thing) -> Response:
        return await answer(request, boom, thing, respond)

    @router.get("/things", dependencies=read)
    async def find(
        town: str | None = None, limit: Limit = 2, cursor: Cursor = None, sure: bool | None = None
    ) -> Page[View]:
        after = decode_cursor(cursor, int)[0] if cursor else 0
        rows = [View(n=n) for n in range(after + 1, 6) if town is None][: limit + 1]
        return page(rows, limit, lambda view: (view.n,))

    @router.get("/things/{name}", dependencies=read)
    async def show(name: str, who: Annotated[Caller, Depends(caller)]) -> dict[str, Any]:
        return {"name": name, "client": who.client_id, "correlation": who.cause.correlation}

    @router.patch("/things/{name}", dependencies=write)
    async def change(request: Request, name: str, thing: Thing) -> dict[str, Any]:
        return {"version": if_match(request), "name": name, "thing": thing.name, "etag": etag(4)}

    @router.post("/last-look", dependencies=[access("last-look")])
    async def look(thing: Thing) -> dict[str, str]:
        return {"name": thing.name}

    @router.put("/brake", dependencies=[access("units:write", whole_city=True)])
    async def brake() -> dict[str, str]:
        return {"state": "stopped"}

    @router.get("/health/live", dependencies=[public("probes")])
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    return router


@dataclass
class Bench:
    """The tiny application with a client in front."""

    app: FastAPI
    core: FakeCore
    clock: FrozenClock
    metrics: Metrics
    token: str
    issuer: LocalIssuer

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request with the bench's token; crashes reach the client as answers, as with a server."""
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        headers = {name: value for name, value in headers.items() if value is not None}

        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(go())

    def post(self, raw: bytes | str, **headers: str) -> httpx.Response:
        """Posts raw bytes as JSON to /v1/things."""
        return self.send(
            "POST", "/v1/things", content=raw, headers={"content-type": "application/json", **headers}
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """In February 2027, so that nothing leans on the date of this machine."""
    clock = FrozenClock(datetime(2027, 2, 3, 1, 0, tzinfo=UTC))
    issuer = LocalIssuer(tmp_path / "issuer.jwk", clock)
    core = FakeCore(Verifier(issuer.jwks, clock))
    metrics = Metrics()
    app = FastAPI(openapi_url=None)
    install(app, clock=clock, metrics=metrics, rate_limit_per_s=5)
    app.state.core = core
    app.include_router(routes())
    token = issuer.token("adm", department="ADM", scopes=["units:write", "units:read"])
    return Bench(app, core, clock, metrics, token, issuer)


def refused(response: httpx.Response, status: int, code: str, *where: str) -> dict[str, Any]:
    """Asserts an RFC 9457 problem with this status, code and these pointers."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["type"] == f"urn:yingbao:problem:{code}"
    assert all(body[name] for name in ("detail_zh", "detail_en", "title"))
    assert body["correlation_id"] == response.headers["x-correlation-id"]
    assert [e["pointer"] for e in body.get("errors", [])] == list(where)
    return body


def test_a_good_body_reaches_the_command(bench: Bench) -> None:
    """Text is trimmed, enumerations and days are read, the answer carries its headers."""
    body = {
        "name": " 示例 ",
        "kind": "enterprise",
        "day": "2026-02-10",
        "at": "2026-02-10T08:30:00+08:00",
        "note": "一\n二",
        "contacts": [{"name": "甲"}],
    }
    response = bench.post(json.dumps(body), **{"content-type": "application/json; charset=utf-8"})
    assert response.status_code == 201
    assert response.headers["location"] == "/v1/things/1"
    assert bench.core.runs[0]["name"] == "示例"
    assert bench.core.runs[0]["contacts"] == [{"name": "甲", "mobile": None}]


@pytest.mark.parametrize(
    ("raw", "status", "code", "where"),
    [
        (b"", 400, "empty_body", []),
        (b"  \n", 400, "empty_body", []),
        (b"{", 400, "invalid_json", []),
        (b'{"name":"a"} x', 400, "invalid_json", []),
        (b'\xef\xbb\xbf{"name":"a"}', 400, "invalid_json", []),
        (b'{"name":"\xff"}', 400, "invalid_utf8", []),
        ('{"name":"a"}'.encode("utf-16"), 400, "invalid_utf8", []),
        (b'{"name":"a","count":NaN}', 400, "invalid_number", []),
        (b'{"name":"a","count":-Infinity}', 400, "invalid_number", []),
        (b'{"name":"a","count":' + b"9" * 5000 + b"}", 400, "invalid_number", []),
        (b'{"name":"a","count":1e999}', 422, "invalid_fields", ["/count"]),
        (b'{"name":"a","count":9223372036854775808}', 422, "invalid_fields", ["/count"]),
        (b"[" * 100_000, 400, "nested_too_deep", []),
        (b'{"name":' + b"[" * 40 + b"]" * 40 + b"}", 400, "nested_too_deep", []),
        (b'{"name":"a","name":"b"}', 400, "duplicate_key", ["/name"]),
        (
            b'{"name":"a","contacts":[{"name":"a"},{"name":"a","name":"b"}]}',
            400,
            "duplicate_key",
            ["/contacts/1/name"],
        ),
        (b'{"name":"a","a/b~\\ud800":1,"a/b~\\ud800":1}', 400, "duplicate_key", ["/a~1b~0\\ud800"]),
        (b'{"name":"a\\u0000"}', 422, "invalid_fields", ["/name"]),
        (b'{"name":"a","contacts":[{"name":"\\ud800"}]}', 422, "invalid_fields", ["/contacts/0/name"]),
        (b'{"name":"a","\\udfff":1}', 422, "invalid_fields", ["/\\udfff"]),
        (b"[]", 422, "invalid_fields", [""]),
        (b'"text"', 422, "invalid_fields", [""]),
        (b"null", 422, "invalid_fields", [""]),
        (b"{}", 422, "invalid_fields", ["/name"]),
        (b'{"name":"a","nmae":"b"}', 422, "invalid_fields", ["/nmae"]),
        (b'{"name":"a","contacts":[{"name":"a","x":1}]}', 422, "invalid_fields", ["/contacts/0/x"]),
    ],
)
def test_a_malformed_body_is_a_clear_problem(
    bench: Bench, raw: bytes, status: int, code: str, where: list[str]
) -> None:
    """Whatever the bytes are, the answer is a 4xx that says what and where, and no command runs."""
    refused(bench.post(raw), status, code, *where)
    assert bench.core.runs == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": ""}, "blank"),
        ({"name": " \t "}, "blank"),
        ({"name": None}, "not_a_text"),
        ({"name": 5}, "not_a_text"),
        ({"name": "x" * 21}, "too_long"),
        ({"name": "a\nb"}, "bad_characters"),
        ({"name": "a\u202eb"}, "bad_characters"),
        ({"note": "a\x07b"}, "bad_characters"),
        ({"count": "5"}, "not_a_whole_number"),
        ({"count": 5.0}, "not_a_whole_number"),
        ({"count": True}, "not_a_whole_number"),
        ({"sure": "true"}, "not_a_flag"),
        ({"sure": 1}, "not_a_flag"),
        ({"kind": "bakery"}, "not_allowed"),
        ({"kind": 1}, "not_allowed"),
        ({"kind": []}, "not_allowed"),
        ({"day": 20260210}, "not_a_day"),
        ({"day": "2026-02-30"}, "not_a_day"),
        ({"day": "2026-2-3"}, "not_a_day"),
        ({"day": "20260210"}, "not_a_day"),
        ({"day": "2026-02-10T00:00:00"}, "not_a_day"),
        ({"day": "２０２６-02-10"}, "not_a_day"),
        ({"day": "0001-01-01"}, "date_out_of_range"),
        ({"at": "2026-02-10T08:30:00"}, "not_an_instant"),
        ({"at": 1770683400}, "not_an_instant"),
        ({"contacts": {}}, "not_a_list"),
        ({"contacts": ["x"]}, "not_an_object"),
    ],
)
def test_a_wrong_value_names_its_field_and_is_not_echoed(
    bench: Bench, change: dict[str, Any], code: str
) -> None:
    """Each wrong value gives one field error with a stable code and both languages."""
    response = bench.post(json.dumps({"name": "a"} | change))
    (where,) = change
    found = refused(
        response, 422, "invalid_fields", "/contacts/0" if change == {"contacts": ["x"]} else f"/{where}"
    )
    assert found["errors"][0]["code"] == code
    assert all(found["errors"][0][language] for language in ("zh", "en"))
    assert "bakery" not in response.text
    assert bench.core.runs == []


@pytest.mark.parametrize(
    "char",
    list(
        "\u200b\u00ad\ufeff\u2066\U000e0041\ue000\uffff\u0378\U0002fffe\u115f\u1160\u3164\uffa0\x85\u2028\r"
    ),
)
@pytest.mark.parametrize("field", ["name", "note"])
def test_what_nobody_can_see_is_refused(bench: Bench, field: str, char: str) -> None:
    """Format marks, private and unassigned characters, fillers: two texts that look alike are alike."""
    body = {"name": "a", field: f"荣成{char}示例"}
    errors = refused(bench.post(json.dumps(body)), 422, "invalid_fields", f"/{field}")["errors"]
    assert errors[0]["code"] == "bad_characters"
    if char != "\r":
        refused(
            bench.send("GET", "/v1/things", params={"town": f"a{char}b"}),
            422,
            "invalid_fields",
            "/query/town",
        )


@pytest.mark.parametrize("name", ["示例\u3000公司", "𠮷野", "阿卜杜·热西提", "\U000323b0", "é", "A&B(荣成)"])
def test_what_a_name_is_written_with_is_let_in(bench: Bench, name: str) -> None:
    """Wide blanks, rare ideographs (also those newer than this Python), points, accents."""
    assert bench.post(json.dumps({"name": name})).status_code == 201


def test_a_name_holds_a_letter_or_a_digit() -> None:
    """Of any script; dashes, points and pictures alone name nobody."""

    class Named(Body):
        name: Annotated[str, Text(20, name=True)]

    for good in ("张", "5", "𠮷", "-é-", "٣", "Ⅳ"):
        assert Named(name=good).name == good
    for bad in ("-", "···", "。", "😀", "\u0301"):
        with pytest.raises(ValidationError, match="letter or digit"):
            Named(name=bad)


def test_a_validator_of_a_schema_speaks_both_languages(bench: Bench) -> None:
    """`refuse` in a schema's own validator arrives with its code and words."""
    errors = refused(bench.post('{"name":"a","count":7}'), 422, "invalid_fields", "")["errors"]
    assert errors == [{"pointer": "", "code": "seven", "zh": "不能是七", "en": "must not be seven"}]


def test_a_plain_annotation_converts_nothing() -> None:
    """A schema that says just `int` does not take numbers as text either."""
    with pytest.raises(ValidationError):
        View.model_validate({"n": "5"})
    assert View.model_validate({"n": 5}).n == 5


def test_a_thousand_wrong_fields_make_a_short_answer(bench: Bench) -> None:
    """The list of errors is bounded."""
    response = bench.post(json.dumps({f"x{n}": n for n in range(200)}))
    assert len(response.json()["errors"]) == 50


def test_an_object_of_thousands_of_keys_is_refused_as_one(bench: Bench) -> None:
    """Before a schema names each of them, at any depth."""
    many = {f"x{n}": n for n in range(201)}
    for body, where in ((many, ""), ({"name": "a", "contacts": [many]}, "/contacts/0")):
        errors = refused(bench.post(json.dumps(body)), 422, "invalid_fields", where)["errors"]
        assert errors[0]["code"] == "too_many_keys"


def test_a_long_list_is_refused_before_its_items() -> None:
    """No validator sees an item of a list that is too long; the first wrong item of a short one ends it."""
    looked_at: list[str] = []

    def look(text: str) -> str:
        looked_at.append(text)
        raise refuse("wrong", zh="不对", en="wrong")

    item = Annotated[str, AfterValidator(look)]

    class Lists(Body):
        """One with the usual length and one with its own, which may hold nothing but wrong items."""

        usual: Many[item] = ()  # type: ignore[valid-type]
        short: Annotated[Many[item], Listing(3)] = ()  # type: ignore[valid-type]

    def faults(**lists: list[str]) -> list[str]:
        with pytest.raises(ValidationError) as refused:
            Lists.model_validate(lists)
        return [error["type"] for error in refused.value.errors()]

    assert faults(usual=["x"] * 240_000) == ["too_many"]
    assert faults(short=["x"] * 4) == ["too_many"]
    assert looked_at == []
    assert faults(usual=["x"] * 1000, short=["x"] * 3) == ["wrong", "wrong"]
    assert looked_at == ["x", "x"]


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/xml"},
        {"content-type": "application/json; charset=gbk"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-encoding": "gzip"},
        {"content-type": ""},
    ],
)
def test_another_content_type_is_refused(bench: Bench, headers: dict[str, str]) -> None:
    """Only uncompressed JSON in UTF-8 is read."""
    refused(bench.post(b'{"name":"a"}', **headers), 415, "unsupported_media_type")


def test_a_missing_content_type_is_refused(bench: Bench) -> None:
    """What the bytes are is not guessed."""
    refused(bench.send("POST", "/v1/things", content=b'{"name":"a"}'), 415, "unsupported_media_type")


def test_a_huge_body_is_not_kept(bench: Bench) -> None:
    """An announced length is refused unread; an endless stream is cut soon after the limit."""
    refused(bench.post(b'{"name":"' + b"x" * 1_000_000 + b'"}'), 413, "body_too_large")
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 65536
            yield b"x" * 65536

    headers = {"content-type": "application/json"}
    response = bench.send("POST", "/v1/things", content=endless(), headers=headers)
    refused(response, 413, "body_too_large")
    assert sent < 1_000_000


def test_a_body_in_pieces_is_one_body(bench: Bench) -> None:
    """However the network cut it."""

    async def pieces() -> Any:
        for byte in '{"name":"示例"}'.encode():
            yield bytes([byte])

    headers = {"content-type": "application/json"}
    assert bench.send("POST", "/v1/things", content=pieces(), headers=headers).status_code == 201
    assert bench.core.runs[0]["name"] == "示例"


def test_a_connection_whose_body_is_not_wanted_is_closed(bench: Bench) -> None:
    """A refusal before the body was read ends the connection; a body that was read leaves it open."""

    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 65536

    def closes(response: httpx.Response, status: int) -> bool:
        assert response.status_code == status
        return response.headers.get("connection") == "close"

    json_type = {"content-type": "application/json"}
    nobody = {**json_type, "Authorization": None}
    assert closes(bench.send("POST", "/v1/things", content=endless(), headers=json_type), 413)
    assert closes(bench.send("POST", "/v1/things", content=endless(), headers=nobody), 401)
    assert closes(bench.send("POST", "/v1/things", content=b"{}", headers=nobody), 401)
    assert closes(bench.send("POST", "/v1/nothing", content=b"{}"), 404)
    assert closes(bench.send("GET", "/v1/things", content=b"{}"), 200)
    assert not closes(bench.post(b"{"), 400)
    assert not closes(bench.post(b'{"name":"a"}'), 201)
    assert not closes(bench.send("POST", "/v1/things/1/close"), 201)
    assert not closes(bench.send("GET", "/v1/nothing"), 404)
    outer = FastAPI(openapi_url=None)
    install(outer, clock=bench.clock)
    outer.mount("/registry", bench.app)
    bench.app = outer
    mounted = bench.send("POST", "/registry/v1/nothing", content=b"{}")
    assert mounted.headers.get_list("connection") == ["close"]


def test_a_body_of_two_lengths_is_refused(bench: Bench) -> None:
    """Two readers could see two requests in it."""
    body = b'{"name":"a"}'
    both = {"transfer-encoding": "chunked", "content-length": str(len(body))}
    answer = bench.post(body, **both)
    refused(answer, 400, "ambiguous_length")
    assert answer.headers["connection"] == "close"
    assert bench.core.runs == []


def test_addresses_are_checked_too(bench: Bench) -> None:
    """Unknown, repeated and impossible query parameters and path parameters are named."""
    refused(bench.send("GET", "/v1/things?twon=a"), 422, "invalid_fields", "/query/twon")
    refused(bench.send("GET", "/v1/things?town=a&town=b"), 422, "invalid_fields", "/query/town")
    refused(bench.send("GET", "/v1/things?town=%00"), 422, "invalid_fields", "/query/town")
    refused(bench.send("GET", "/v1/things?limit=many"), 422, "invalid_fields", "/query/limit")
    refused(bench.send("GET", "/v1/things?limit=0"), 422, "invalid_fields", "/query/limit")
    refused(bench.send("GET", "/v1/things?limit=" + "9" * 5000), 422, "invalid_fields", "/query/limit")
    refused(bench.send("GET", "/v1/things/a%00b"), 422, "invalid_fields", "/path/name")
    assert bench.send("GET", "/v1/things/%FF").status_code == 200
    refused(bench.send("POST", "/v1/things/x/close"), 422, "invalid_fields", "/path/number")
    refused(bench.send("POST", f"/v1/things/{2**63}/close"), 422, "invalid_fields", "/path/number")
    refused(bench.send("GET", "/v1/nothing"), 404, "not_found")
    refused(bench.send("GET", "/v1/things/"), 404, "not_found")
    wrong = bench.send("DELETE", "/v1/things/a")
    refused(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"]


def test_an_address_of_thousands_of_parameters_is_not_looked_at(bench: Bench) -> None:
    """Up to fifty are answered one by one, each name once; more are refused at once, however long."""
    fifty = "&".join(f"x{n}=1" for n in range(50))
    refused(
        bench.send("GET", f"/v1/things?{fifty}"), 422, "invalid_fields", *(f"/query/x{n}" for n in range(50))
    )
    refused(bench.send("GET", "/v1/things?" + "x=1&" * 30), 422, "invalid_fields", "/query/x")
    refused(bench.send("GET", "/v1/things?" + "x=1&" * 50 + "y=1"), 422, "too_many_parameters")


@pytest.mark.parametrize("number", ["1_0", "5.0", "+5", "%205", "5%20", "５", "0x5", "1e1", "", "true"])
def test_a_number_in_an_address_is_digits(bench: Bench, number: str) -> None:
    """In the query and in the path; what a lenient reader would take for a number is refused."""
    answer = bench.send("GET", f"/v1/things?limit={number}")
    errors = refused(answer, 422, "invalid_fields", "/query/limit")["errors"]
    assert errors[0]["code"] == "not_a_whole_number"
    if number:
        refused(bench.send("POST", f"/v1/things/{number}/close"), 422, "invalid_fields", "/path/number")


def test_a_flag_in_an_address_is_true_or_false(bench: Bench) -> None:
    """Nothing else."""
    for good in ("true", "false"):
        assert bench.send("GET", f"/v1/things?sure={good}").status_code == 200
    for bad in ("1", "0", "yes", "True", "on", "t", ""):
        errors = refused(bench.send("GET", f"/v1/things?sure={bad}"), 422, "invalid_fields", "/query/sure")[
            "errors"
        ]
        assert errors[0]["code"] == "not_a_flag"


def test_an_operation_without_a_body_refuses_one(bench: Bench) -> None:
    """Nothing, or an empty object, is fine; anything else was meant for another operation."""
    assert bench.send("POST", "/v1/things/1/close").status_code == 201
    assert bench.send("POST", "/v1/things/1/close", json={}).status_code == 201
    refused(bench.send("POST", "/v1/things/1/close", json={"x": 1}), 422, "body_not_expected")


def test_a_crash_is_a_500_without_words(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """The caller and the log get the id, neither gets what the exception said."""
    headers = {"x-correlation-id": "abc-1"}
    response = bench.send("POST", "/v1/crash", json={"name": "a"}, headers=headers)
    body = refused(response, 500, "internal_error")
    assert body["correlation_id"] == "abc-1"
    logged = "".join(capsys.readouterr())
    assert "request_crashed" in logged
    assert "RuntimeError" in logged
    assert "张三" not in response.text + logged
    assert "198503150023" not in response.text + logged


def test_the_correlation_id_is_taken_only_when_harmless(bench: Bench) -> None:
    """A good one goes through to the cause and back; another is replaced."""
    kept = bench.send("GET", "/v1/things/a", headers={"x-correlation-id": "order-7"})
    assert kept.headers["x-correlation-id"] == kept.json()["correlation"] == "order-7"
    for bad in ("a b", "x" * 65, "<script>", "", "13800138000", "tel:138-0013-8000", "371082198503150023"):
        fresh = bench.send("GET", "/v1/things/a", headers={"x-correlation-id": bad})
        assert fresh.headers["x-correlation-id"] == fresh.json()["correlation"] != bad


def test_access_is_asked_before_anything_is_read(bench: Bench) -> None:
    """401 with a challenge without a good token, 403 naming the scope, both before the body's faults."""
    missing = bench.send("POST", "/v1/things", content=b"{", headers={"Authorization": None})
    refused(missing, 401, "token_missing")
    assert missing.headers["www-authenticate"] == 'Bearer realm="yingbao"'
    wrong = bench.send("GET", "/v1/things", headers={"Authorization": "Bearer a.b.c"})
    refused(wrong, 401, "token_invalid")
    assert 'error="invalid_token"' in wrong.headers["www-authenticate"]
    refused(bench.send("GET", "/v1/things", headers={"Authorization": "Basic YTpi"}), 401, "token_missing")
    reader = bench.issuer.token("reader", scopes=["units:read"])
    poor = bench.send("POST", "/v1/things", content=b"{", headers={"Authorization": f"Bearer {reader}"})
    refused(poor, 403, "insufficient_scope")
    assert 'scope="units:write"' in poor.headers["www-authenticate"]
    bench.clock.advance(timedelta(hours=1, seconds=31))
    refused(bench.send("GET", "/v1/things"), 401, "token_expired")
    assert bench.send("GET", "/v1/health/live", headers={"Authorization": None}).status_code == 200


def test_a_switch_of_the_whole_city_is_not_for_one_town(bench: Bench) -> None:
    """Not for a token limited to a town, whatever its scopes are."""
    assert bench.send("PUT", "/v1/brake").status_code == 200
    for town in ("寻山街道", "x"):
        token = bench.issuer.token("adm", town=town, scopes=["units:write"])
        answer = bench.send("PUT", "/v1/brake", headers={"Authorization": f"Bearer {token}"})
        refused(answer, 403, "outside_town")


def test_every_route_without_a_rule_is_found() -> None:
    """Plain, included and mounted routes are listed when they state no rule, and only those."""
    app, inner = FastAPI(openapi_url=None), FastAPI()
    app.include_router(routes(), prefix="/registry")
    assert routes_without_access(app) == []

    def bare() -> None:
        pass

    nested = APIRouter()
    nested.add_api_route("/nested", bare)
    app.include_router(nested, prefix="/p")
    app.include_router(nested, prefix="/guarded", dependencies=[access("units:read")])
    app.add_api_route("/plain", bare, methods=["PUT"])
    inner.add_api_route("/inner", bare)
    app.mount("/notify", inner)
    found = routes_without_access(app)
    assert {"GET /p/nested", "PUT /plain", "GET /notify/inner"} <= set(found)
    assert "GET, HEAD /notify/openapi.json" in found or any("openapi.json" in line for line in found)
    assert not any("guarded" in line or "registry" in line for line in found)


def test_a_rule_needs_words() -> None:
    """access() without scopes and public() without a reason are mistakes of the programmer."""
    with pytest.raises(ValueError, match="name the scopes"):
        access()
    with pytest.raises(ValueError, match="say why"):
        public(" ")


def test_the_same_key_gives_the_stored_answer(bench: Bench) -> None:
    """Once per client, route and key; another body, path or query under the key is refused."""
    first = bench.post('{"name":"a"}', **{"idempotency-key": "k1"})
    again = bench.post('{"name":"a"}', **{"idempotency-key": "k1"})
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert "idempotency-replay" not in first.headers
    assert again.headers["idempotency-replay"] == "true"
    assert len(bench.core.runs) == 1
    refused(bench.post('{"name":"b"}', **{"idempotency-key": "k1"}), 422, "idempotency_key_reused")
    headers = {"idempotency-key": "k2"}
    assert bench.send("POST", "/v1/things/1/close", headers=headers).status_code == 201
    refused(bench.send("POST", "/v1/things/2/close", headers=headers), 422, "idempotency_key_reused")
    assert {(client, route) for client, route, _ in bench.core.kept} == {
        ("adm", "POST /v1/things"),
        ("adm", "POST /v1/things/{number}/close"),
    }


def test_a_stored_answer_is_not_for_another_town(bench: Bench) -> None:
    """Two tokens of one client with other limits may see other rows: the key is taken, the answer kept back."""

    def close(**limits: str) -> httpx.Response:
        token = bench.issuer.token("desk", scopes=["units:write"], **limits)
        headers = {"Authorization": f"Bearer {token}", "idempotency-key": "k"}
        return bench.send("POST", "/v1/things/1/close", headers=headers)

    assert close(town="甲", department="ADM").status_code == 201
    assert close(town="甲", department="ADM").headers["idempotency-replay"] == "true"
    for other in ({"town": "乙", "department": "ADM"}, {"town": "甲", "department": "TAX"}, {}):
        refused(close(**other), 422, "idempotency_key_reused")


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é".encode("latin-1")])
def test_a_bad_idempotency_key_is_refused(bench: Bench, key: Any) -> None:
    """1 to 255 visible ASCII characters."""
    refused(bench.post('{"name":"a"}', **{"idempotency-key": key}), 400, "bad_idempotency_key")
    assert bench.core.runs == []


def test_if_match_names_one_version(bench: Bench) -> None:
    """Our own ETag is read back; a malformed header is 400, one that can't be ours 412."""

    def change(given: str | None) -> httpx.Response:
        return bench.send("PATCH", "/v1/things/a", json={"name": "a"}, headers={"if-match": given})

    assert change(etag(4)).json()["version"] == 4
    assert change("*").json()["version"] is None
    assert change(None).json()["version"] is None
    for malformed in ("4", '"4', '"1", "2"', ""):
        refused(change(malformed), 400, "bad_if_match")
    bench.clock.advance(timedelta(minutes=1))
    for foreign in ('W/"4"', '"abc"', '"99999999999999999999"'):
        refused(change(foreign), 412, "precondition_failed")


def test_pages_follow_each_other(bench: Bench) -> None:
    """Every item comes once, in order, and the last page has no cursor."""

    def walk() -> Iterator[list[int]]:
        cursor = ""
        while True:
            found = bench.send("GET", f"/v1/things?limit=2{cursor and '&cursor=' + cursor}").json()
            yield [item["n"] for item in found["items"]]
            if found["next_cursor"] is None:
                return
            cursor = found["next_cursor"]

    assert list(walk()) == [[1, 2], [3, 4], [5]]


@pytest.mark.parametrize(
    "cursor", ["x", "%%%", "é", encode_cursor(["1"]), encode_cursor([True]), encode_cursor([1, 2]), "bnVsbA"]
)
def test_a_foreign_cursor_is_refused(bench: Bench, cursor: str) -> None:
    """A cursor that this list didn't make is a 400."""
    refused(bench.send("GET", "/v1/things", params={"cursor": cursor}), 400, "bad_cursor")


def test_cursors_carry_texts_and_numbers() -> None:
    """What goes in comes out; NUL and huge numbers don't."""
    assert decode_cursor(encode_cursor(["寻山", 3]), str, int) == ("寻山", 3)
    for bad in (["\0"], [2**63]):
        with pytest.raises(Problem, match="bad_cursor"):
            decode_cursor(encode_cursor(bad), type(bad[0]))


def test_a_client_that_hurries_is_slowed_down(bench: Bench) -> None:
    """Twice the rate at once, then 429 with Retry-After; others and the last look go on."""
    answers = [bench.send("GET", "/v1/things/a") for _ in range(11)]
    assert [a.status_code for a in answers] == [200] * 10 + [429]
    assert answers[0].headers["ratelimit-policy"] == '"client";q=10;w=2'
    assert answers[0].headers["ratelimit"] == '"client";r=9;t=0'
    refused(answers[-1], 429, "too_many_requests")
    assert answers[-1].headers["retry-after"] == "1"
    assert answers[-1].headers["ratelimit"].startswith('"client";r=0;')
    other = bench.issuer.token("other", scopes=["units:read", "last-look"])
    headers = {"Authorization": f"Bearer {other}"}
    assert bench.send("GET", "/v1/things/a", headers=headers).status_code == 200
    looks = [bench.send("POST", "/v1/last-look", json={"name": "a"}, headers=headers) for _ in range(15)]
    assert {look.status_code for look in looks} == {200}
    bench.clock.advance(timedelta(milliseconds=200))
    assert bench.send("GET", "/v1/things/a").status_code == 200
    assert bench.send("GET", "/v1/things/a").status_code == 429


def test_made_up_clients_fill_no_memory() -> None:
    """Whose bucket is full again is forgotten; who is still being slowed down is not."""
    clock = FrozenClock(datetime(2026, 2, 10, 2, 0, tzinfo=UTC))
    limiter = RateLimiter(5, clock)
    for n in range(MOST_CLIENTS):
        limiter.take(str(n))
    clock.advance(timedelta(seconds=3))
    assert [limiter.take("busy")[0] for _ in range(11)] == [True] * 10 + [False]
    assert len(limiter._buckets) == 1
    assert not limiter.take("busy")[0]


def test_requests_are_counted_by_template(bench: Bench) -> None:
    """Never by path: names and codes would become labels."""
    bench.send("GET", "/v1/things/secret")
    bench.send("GET", "/nowhere/secret")
    bench.send("POST", "/v1/things", content=b"{", headers={"content-type": "application/json"})
    text = bench.metrics.render().decode()
    assert 'yingbao_http_requests_total{method="GET",route="/v1/things/{name}",status="200"} 1.0' in text
    assert 'route="unmatched",status="404"' in text
    assert 'method="POST",route="/v1/things",status="400"' in text
    assert "secret" not in text


def test_four_services_in_one_process_share_the_correlation_id(bench: Bench) -> None:
    """A mounted application keeps the outer one's id, and stamps it once."""
    outer = FastAPI(openapi_url=None)
    install(outer, clock=bench.clock)
    outer.mount("/registry", bench.app)
    bench.app = outer
    response = bench.send("GET", "/registry/v1/things/a")
    assert response.headers.get_list("x-correlation-id") == [response.json()["correlation"]]
    refused(bench.send("GET", "/registry/v1/nothing"), 404, "not_found")
    refused(bench.send("GET", "/elsewhere"), 404, "not_found")


def test_caller_without_a_rule_is_a_mistake() -> None:
    """A route that forgot access(...) doesn't get an anonymous caller."""
    request = Request({"type": "http", "headers": [], "app": SimpleNamespace()})
    with pytest.raises(TypeError, match="without access"):
        asyncio.run(caller(request))
