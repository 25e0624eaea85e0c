"""Units over HTTP: registering, correcting, closing, reading; what is told and what is never shown."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.privacy import KeyRing, Purpose
from tests.support.registry import OTHER_USCC, UNIT, USCC, WRONG_CHECK, Registry

PATH = f"/v1/units/{USCC}"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path) as registry:
        yield registry


def warnings(answer: Any) -> list[str]:
    return [item["code"] for item in answer.json()["warnings"]]


def pointers(answer: Any) -> list[tuple[str, str]]:
    return [(item["pointer"], item["code"]) for item in answer.json()["errors"]]


@pytest.mark.parametrize(
    "name",
    [
        "荣成示例有限公司【人社局】",
        "【",
        "退款请点http://a.cn",
        "HTTPS店",
        "示例t.cn/x",
        "ＷＷＷ．示例",
        "示例。com",
        "dwz．cn",
        "示例.中国",
        "1.2.3.4餐饮店",
        "---",
    ],
)
def test_a_unit_is_not_named_like_a_message(registry: Registry, name: str) -> None:
    """Names stand in texts to employers: addresses of the net and another sender's brackets are refused."""
    answer = registry.ask("POST", "/v1/units", {**UNIT, "name": name})
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/name"]
    registry.register()
    answer = registry.ask("PATCH", f"/v1/units/{USCC}", {"name": name})
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    "name", ["荣成市A.B.C餐饮店", "Example Co.Ltd", "荣成（中国）有限公司", "1.5米服装店"]
)
def test_a_name_with_points_may_be_registered(registry: Registry, name: str) -> None:
    """They make no address."""
    assert registry.ask("POST", "/v1/units", {**UNIT, "name": name}).status_code == 201


def test_a_new_unit_is_answered_told_and_audited(registry: Registry) -> None:
    """201 with Location, ETag and masked contacts; unit_registered, then contact_changed; an audit row."""
    answer = registry.register()
    assert answer.status_code == 201
    assert (answer.headers["Location"], answer.headers["ETag"]) == (PATH, '"1"')
    assert answer.json()["contacts"] == [
        {"role": "legal_representative", "name": "于*例", "mobile": "138****8000"}
    ]
    assert warnings(answer) == []
    (registered, facts), (changed, contact) = registry.events()
    assert (registered, changed) == ("unit_registered", "contact_changed")
    assert facts == {
        "uscc": USCC,
        "unit_name": "荣成市示例水产有限公司",
        "kind": "enterprise",
        "status": "active",
        "established_on": "2026-01-09",
        "town": "寻山街道",
        "industry": "C1361",
        "code_confirmed": True,
        "contact_version": 1,
        "version": 1,
        "origin": "single",
        "recorded_at": "2026-02-10T10:00:00+08:00",
    }
    assert contact["version"] == 1
    assert [(action, subject) for action, subject, _ in registry.audits()] == [("unit_registered", USCC)]


def test_contacts_travel_sealed_and_lie_encrypted(registry: Registry) -> None:
    """The suite's contact key opens the event; nothing stored holds name or phone in clear."""
    registry.register()
    sealed = registry.events()[1][1]["sealed"]
    cipher = KeyRing.load(registry.settings.contact_keys).cipher(Purpose.CONTACTS)
    assert (
        cipher.open_text(sealed, context=f"contacts:{USCC}")
        == '[{"role": "legal_representative", "name": "于示例", "mobile": "13800138000"}]'
    )
    for secret in ("于示例", "13800138000"):
        assert secret not in registry.dump()


def test_the_same_registration_again_changes_nothing(registry: Registry) -> None:
    """200, no event, no audit row; also when written differently (+86, small letters, blanks)."""
    registry.register()
    events, audits = registry.events(), registry.audits()
    contact = {**UNIT["contacts"][0], "mobile": "+86 138-0013-8000"}
    again = registry.register(uscc=USCC.lower(), name=f" {UNIT['name']} ", contacts=[contact])
    assert again.status_code == 200
    assert (registry.events(), registry.audits()) == (events, audits)


@pytest.mark.parametrize(
    "facts",
    [
        {"name": "另一名称"},
        {"established_on": "2026-01-08"},
        {"town": None},
        {"address": None},
        {"contacts": []},
    ],
)
def test_a_registration_that_differs_is_a_conflict(registry: Registry, facts: dict[str, Any]) -> None:
    """409 names the fields that differ and tells nothing."""
    registry.register()
    events = registry.events()
    answer = registry.register(**facts)
    assert answer.status_code == 409
    assert answer.json()["code"] == "unit_differs"
    assert pointers(answer) == [(f"/{name}", "differs") for name in facts]
    assert registry.events() == events


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"uscc": WRONG_CHECK}, ["code_unconfirmed"]),
        ({"kind": "sole_trader"}, ["kind_mismatch"]),
        ({"contacts": []}, ["no_contact"]),
        ({"uscc": OTHER_USCC, "kind": "cooperative"}, []),
    ],
)
def test_doubtful_registrations_are_accepted_with_warnings(
    registry: Registry, facts: dict[str, Any], expected: list[str]
) -> None:
    """A wrong check character leaves the code unconfirmed; without contact the version stays 0."""
    answer = registry.register(**facts)
    assert (answer.status_code, warnings(answer)) == (201, expected)
    told = registry.events()[0][1]
    assert told["code_confirmed"] is ("code_unconfirmed" not in expected)
    assert told["contact_version"] == (0 if "no_contact" in expected else 1)


@pytest.mark.parametrize(
    ("facts", "where"),
    [
        ({"uscc": "9137108"}, ("/uscc", "uscc_length")),
        ({"uscc": USCC[:-1] + "O"}, ("/uscc", "uscc_alphabet")),
        ({"uscc": 913710820000000000}, ("/uscc", "not_a_text")),
        ({"name": "  "}, ("/name", "blank")),
        ({"name": "名" * 201}, ("/name", "too_long")),
        ({"name": "荣成市示例 13800138000 商店"}, ("/name", "suspicious_name")),
        ({"name": "示例商店１３８００１３８０００"}, ("/name", "suspicious_name")),
        ({"name": "371082198503150023商店"}, ("/name", "suspicious_name")),
        *(({"name": f"{first}示例"}, ("/name", "suspicious_name")) for first in "=+@＝"),
        ({"contacts": [{**UNIT["contacts"][0], "name": "=于示例"}]}, ("/contacts/0/name", "suspicious_name")),
        ({"name": 5}, ("/name", "not_a_text")),
        ({"name": None}, ("/name", "not_a_text")),
        ({"name": "a\ud800"}, ("/name", "bad_characters")),
        ({"name": "a\x00"}, ("/name", "bad_characters")),
        ({"kind": "company"}, ("/kind", "not_allowed")),
        ({"established_on": "2026-02-30"}, ("/established_on", "not_a_day")),
        ({"established_on": "09.01.2026"}, ("/established_on", "not_a_day")),
        ({"established_on": 20260109}, ("/established_on", "not_a_day")),
        ({"established_on": "1899-12-31"}, ("/established_on", "date_out_of_range")),
        ({"established_on": "2026-02-11"}, ("/established_on", "in_future")),
        ({"established_on": None}, ("/established_on", "not_a_day")),
        ({"town": "别处镇"}, ("/town", "unknown_town")),
        ({"industry": "水产"}, ("/industry", "wrong_form")),
        ({"colour": "red"}, ("/colour", "unknown_field")),
        (
            {"contacts": [{**UNIT["contacts"][0], "mobile": "12800138000"}]},
            ("/contacts/0/mobile", "mobile_range"),
        ),
        (
            {"contacts": [{**UNIT["contacts"][0], "mobile": 13800138000}]},
            ("/contacts/0/mobile", "not_a_text"),
        ),
        ({"contacts": UNIT["contacts"] * 21}, ("/contacts", "too_many")),
        ({"contacts": "none"}, ("/contacts", "not_a_list")),
    ],
)
def test_bad_facts_are_refused_with_pointer(
    registry: Registry, facts: dict[str, Any], where: tuple[str, str]
) -> None:
    """422 with the field and a stable code; nothing is written or told."""
    before = registry.dump()
    answer = registry.register(**facts)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert where in pointers(answer)
    assert registry.dump() == before


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b'{"uscc": "1", "uscc": "2"}', {}, 400, "duplicate_key"),
        (b'{"name": "' + b"x" * 1_000_000 + b'"}', {}, 413, "body_too_large"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{", {}, 400, "invalid_json"),
        (b"\xff", {}, 400, "invalid_utf8"),
        (b"", {}, 400, "empty_body"),
        (b"[]", {}, 422, "invalid_fields"),
    ],
)
def test_bad_requests_are_refused(
    registry: Registry, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """A clear problem, never a 5xx."""
    answer = registry.ask("POST", "/v1/units", body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_an_idempotency_key_gives_the_first_answer_again(registry: Registry) -> None:
    """201 a second time, once registered; another body under the key is refused."""
    key = {"Idempotency-Key": "k1"}
    first, second = (registry.ask("POST", "/v1/units", UNIT, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    other = registry.ask("POST", "/v1/units", {**UNIT, "name": "另一名称"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_correction_tells_what_changed(registry: Registry) -> None:
    """200, the version grows, unit_changed names the fields and holds the whole state."""
    registry.register()
    answer = registry.ask(
        "PATCH", PATH, {"established_on": "2026-01-12", "name": UNIT["name"], "address": None}
    )
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"2"')
    name, facts = registry.events()[-1]
    assert name == "unit_changed"
    assert (facts["changed"], facts["established_on"], facts["version"]) == (
        ["address", "established_on"],
        "2026-01-12",
        2,
    )
    assert registry.audits()[-1][:2] == ("unit_changed", USCC)


@pytest.mark.parametrize(
    "body", [{}, {"name": UNIT["name"]}, {"contacts": UNIT["contacts"]}, {"code_confirmed": True}]
)
def test_a_correction_that_changes_nothing_leaves_no_trace(registry: Registry, body: dict[str, Any]) -> None:
    """200 under the same ETag; no event, no audit row."""
    registry.register()
    events, audits = registry.events(), registry.audits()
    answer = registry.ask("PATCH", PATH, body)
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')
    assert (registry.events(), registry.audits()) == (events, audits)


def test_new_contacts_are_a_new_version(registry: Registry) -> None:
    """contact_changed with the next version, and unit_changed since the version is a fact; [] clears."""
    registry.register()
    registry.ask("PATCH", PATH, {"contacts": [{"role": "hr", "name": "李示例", "mobile": "13900139000"}]})
    (contact, new), (changed, facts) = registry.events()[-2:]
    assert (contact, new["version"]) == ("contact_changed", 2)
    assert (changed, facts["changed"], facts["contact_version"]) == ("unit_changed", ["contacts"], 2)
    cleared = registry.ask("PATCH", PATH, {"contacts": []})
    assert (cleared.json()["contact_version"], warnings(cleared)) == (3, ["no_contact"])


def test_a_code_is_confirmed_by_a_person(registry: Registry) -> None:
    """It tells unit_changed and is audited; it cannot be taken back."""
    path = f"/v1/units/{WRONG_CHECK}"
    registry.register(uscc=WRONG_CHECK)
    assert registry.ask("PATCH", path, {"code_confirmed": False}).status_code == 422
    assert registry.ask("PATCH", path, {"code_confirmed": "true"}).status_code == 422
    assert warnings(registry.ask("PATCH", path, {"code_confirmed": True})) == []
    assert registry.events()[-1][1]["code_confirmed"] is True
    assert registry.audits()[-1][2]["changed"] == ["code_confirmed"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"established_on": "2026-02-11"}, ("/established_on", "in_future")),
        ({"town": "别处镇"}, ("/town", "unknown_town")),
        ({"name": None}, ("/name", "not_a_text")),
        ({"contacts": None}, ("/contacts", "not_a_list")),
        ({"uscc": OTHER_USCC}, ("/uscc", "unknown_field")),
        ({"status": "closed"}, ("/status", "unknown_field")),
    ],
)
def test_bad_corrections_are_refused(
    registry: Registry, body: dict[str, Any], where: tuple[str, str]
) -> None:
    """422 with the pointer; nothing changes."""
    registry.register()
    before = registry.dump()
    answer = registry.ask("PATCH", PATH, body)
    assert answer.status_code == 422
    assert where in pointers(answer)
    assert registry.dump() == before


def test_if_match_protects_from_lost_corrections(registry: Registry) -> None:
    """412 for an old version, 200 for the current one."""
    registry.register()
    match = {"If-Match": '"1"'}
    assert registry.ask("PATCH", PATH, {"name": "一"}, headers=match).status_code == 200
    stale = registry.ask("PATCH", PATH, {"name": "二"}, headers=match)
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    assert registry.ask("GET", PATH).json()["name"] == "一"
    assert (
        registry.ask("POST", f"{PATH}/close", {"closed_on": "2026-02-10"}, headers=match).status_code == 412
    )


def test_suspended_and_resumed(registry: Registry) -> None:
    """Each tells unit_changed(status) once; the same again is 200 without an event."""
    registry.register()
    for _ in range(2):
        answer = registry.ask("POST", f"{PATH}/suspend", {"suspended_on": "2026-02-01"})
        assert (answer.status_code, answer.json()["status"]) == (200, "suspended")
    for _ in range(2):
        answer = registry.ask("POST", f"{PATH}/resume", {"resumed_on": "2026-02-05"})
        assert (answer.status_code, answer.json()["status"]) == (200, "active")
    told = [(name, facts["status"], facts["changed"]) for name, facts in registry.events()[2:]]
    assert told == [("unit_changed", "suspended", ["status"]), ("unit_changed", "active", ["status"])]


def test_closed(registry: Registry) -> None:
    """unit_closed with the day, once; another day is a conflict."""
    registry.register()
    for _ in range(2):
        answer = registry.ask("POST", f"{PATH}/close", {"closed_on": "2026-02-10"})
        assert (answer.status_code, answer.json()["status"]) == (200, "closed")
    told = registry.events()[2:]
    assert [(name, facts["status"], facts["closed_on"]) for name, facts in told] == [
        ("unit_closed", "closed", "2026-02-10")
    ]
    assert registry.ask("POST", f"{PATH}/close", {"closed_on": "2026-02-09"}).status_code == 409


@pytest.mark.parametrize(
    ("before", "verb", "body", "status"),
    [
        ([], "resume", {"resumed_on": "2026-02-05"}, 409),
        ([("close", {"closed_on": "2026-02-01"})], "suspend", {"suspended_on": "2026-02-05"}, 409),
        ([("close", {"closed_on": "2026-02-01"})], "resume", {"resumed_on": "2026-02-05"}, 409),
        ([("suspend", {"suspended_on": "2026-02-01"})], "suspend", {"suspended_on": "2026-02-02"}, 409),
        ([("suspend", {"suspended_on": "2026-02-01"})], "resume", {"resumed_on": "2026-01-31"}, 422),
        ([], "close", {"closed_on": "2026-01-08"}, 422),
        ([], "close", {"closed_on": "2026-02-11"}, 422),
        ([], "suspend", {"suspended_on": "2026-02-11"}, 422),
    ],
)
def test_impossible_moves_are_refused(
    registry: Registry, before: list[Any], verb: str, body: dict[str, str], status: int
) -> None:
    """409 where the status forbids it, 422 where the day does; nothing is told."""
    registry.register()
    for earlier, given in before:
        registry.ask("POST", f"{PATH}/{earlier}", given)
    events = registry.events()
    assert registry.ask("POST", f"{PATH}/{verb}", body).status_code == status
    assert registry.events() == events


def test_unknown_units_are_404_everywhere(registry: Registry) -> None:
    """Reading, correcting, moving; a malformed code is 422."""
    assert registry.ask("GET", PATH).status_code == 404
    assert registry.ask("PATCH", PATH, {"name": "一"}).status_code == 404
    assert registry.ask("POST", f"{PATH}/close", {"closed_on": "2026-02-10"}).status_code == 404
    malformed = registry.ask("GET", "/v1/units/123")
    assert (malformed.status_code, pointers(malformed)) == (422, [("/path/uscc", "uscc_length")])


def test_a_unit_shows_how_many_it_insures(registry: Registry) -> None:
    """People per insurance in force today; ended, cancelled and future ones are not counted."""
    registry.register()
    ended = registry.record(started_on="2026-01-10").json()["id"]
    registry.ask("POST", f"/v1/participations/{ended}/end", {"ended_on": "2026-02-09"}, department="HRSS")
    registry.record(started_on="2026-02-10")
    registry.record(insurance="injury", started_on="2026-02-11")
    wrong = registry.record(insurance="medical").json()["id"]
    registry.ask("POST", f"/v1/participations/{wrong}/cancel", {"reason": "录入错误"}, department="HRSS")
    answer = registry.ask("GET", PATH)
    assert (answer.json()["insured"], answer.headers["ETag"]) == ({"pension": 1}, '"1"')
    registry.clock.advance(timedelta(days=1))
    assert registry.ask("GET", PATH).json()["insured"] == {"pension": 1, "injury": 1}


def test_units_are_listed_by_town_name_and_insurance(registry: Registry) -> None:
    """Filters combine; pages follow the cursor; wildcards in `q` mean themselves."""
    registry.register()
    registry.register(uscc=OTHER_USCC, kind="cooperative", name="示例%合作社", town="俚岛镇")
    registry.record()

    def listed(query: str) -> list[str]:
        answer = registry.ask("GET", f"/v1/units{query}")
        assert answer.status_code == 200, answer.text
        return [item["uscc"] for item in answer.json()["items"]]

    assert listed("") == [USCC, OTHER_USCC]
    assert listed("?town=俚岛镇") == [OTHER_USCC]
    assert listed("?insured=true") == [USCC]
    assert listed("?insured=false") == [OTHER_USCC]
    assert listed("?q=水产") == [USCC]
    assert listed("?q=9337") == [OTHER_USCC]
    assert listed("?q=%25") == [OTHER_USCC]
    assert listed("?q=水产&insured=false") == []
    first = registry.ask("GET", "/v1/units?limit=1").json()
    assert [item["uscc"] for item in first["items"]] == [USCC]
    assert listed(f"?limit=1&cursor={first['next_cursor']}") == [OTHER_USCC]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?colour=red", 422),
        ("?town=别处镇", 422),
        ("?limit=0", 422),
        ("?insured=perhaps", 422),
        ("?cursor=x", 400),
    ],
)
def test_bad_filters_are_refused(registry: Registry, query: str, status: int) -> None:
    """Unknown parameters and values are problems, not ignored."""
    assert registry.ask("GET", f"/v1/units{query}").status_code == status


def test_who_acts_for_a_town_reaches_only_its_units(registry: Registry) -> None:
    """Lists, reads, corrections and registrations end at the town's border."""
    registry.register()
    registry.register(uscc=OTHER_USCC, kind="cooperative", town="俚岛镇")
    mine = {"town": "俚岛镇"}
    assert [u["uscc"] for u in registry.ask("GET", "/v1/units", **mine).json()["items"]] == [OTHER_USCC]
    assert registry.ask("GET", "/v1/units?town=寻山街道", **mine).json()["items"] == []
    assert registry.ask("GET", PATH, **mine).status_code == 404
    assert registry.ask("GET", f"/v1/units/{OTHER_USCC}", **mine).status_code == 200
    assert registry.ask("PATCH", PATH, {"name": "一"}, **mine).status_code == 404
    assert registry.ask("POST", f"{PATH}/close", {"closed_on": "2026-02-10"}, **mine).status_code == 404
    assert registry.ask("POST", "/v1/units", {**UNIT, "uscc": WRONG_CHECK}, **mine).status_code == 403
    assert registry.ask("POST", "/v1/units", {**UNIT, "town": "俚岛镇"}, **mine).status_code == 403


def test_every_write_needs_its_scope(registry: Registry) -> None:
    """403 without the scope."""
    registry.register()
    only = {"scopes": ["units:read"]}
    for method, path, body in (
        ("POST", "/v1/units", UNIT),
        ("PATCH", PATH, {}),
        ("POST", f"{PATH}/close", {"closed_on": "2026-02-10"}),
        ("POST", "/v1/participations", {}),
        ("POST", "/v1/last-look", {}),
        ("PUT", "/v1/datasets/participations/complete-through", {}),
        ("PUT", "/v1/calendar/2027", {}),
    ):
        assert registry.ask(method, path, body, **only).status_code == 403, path


def test_contacts_are_told_again_under_the_version_they_have(tmp_path: Path) -> None:
    """Of the named units, or of all that ever had any; also that a unit has none any more. Sealed, audited."""
    with Registry(tmp_path) as registry:
        registry.register()
        registry.register(uscc=OTHER_USCC, kind="cooperative")
        registry.register(uscc=WRONG_CHECK, contacts=[])
        emptied = registry.ask("PATCH", f"/v1/units/{OTHER_USCC}", {"contacts": []})
        assert emptied.status_code == 200
        before = [data for name, data in registry.events() if name == "contact_changed"]

        answer = registry.ask("POST", "/v1/contacts/republish", {"uscc": [USCC]}, department="OPS")
        assert (answer.status_code, answer.json()) == (200, {"republished": 1, "next": None})
        answer = registry.ask("POST", "/v1/contacts/republish", {}, department="OPS")
        assert answer.json() == {"republished": 2, "next": None}
        answer = registry.ask("POST", "/v1/contacts/republish", {"after": USCC}, department="OPS")
        assert answer.json() == {"republished": 1, "next": None}

        again = [data for name, data in registry.events() if name == "contact_changed"][len(before) :]
        assert [(data["uscc"], data["version"]) for data in again] == [
            (USCC, 1),
            (USCC, 1),
            (OTHER_USCC, 2),
            (OTHER_USCC, 2),
        ]
        keys = KeyRing.load_or_create(registry.settings.contact_keys).cipher(Purpose.CONTACTS)
        opened = [keys.open_text(data["sealed"], context=f"contacts:{data['uscc']}") for data in again]
        assert "13800138000" in opened[0]
        assert opened[2] == "[]"
        assert "13800138000" not in registry.dump()
        told = [audit for audit in registry.audits() if audit[0] == "contacts_republished"]
        assert told[1] == ("contacts_republished", USCC, {"units": 2, "last": OTHER_USCC})


def test_contacts_are_told_in_portions(tmp_path: Path) -> None:
    """`next` leads on, without gap or repetition."""
    with Registry(tmp_path) as registry:
        registry.register()
        registry.register(uscc=OTHER_USCC, kind="cooperative")
        seen, portion = [], {"limit": 1}
        while portion:
            answer = registry.ask("POST", "/v1/contacts/republish", portion, department="OPS").json()
            seen.append(answer["republished"])
            portion = {"limit": 1, "after": answer["next"]} if answer["next"] else None
        assert seen == [1, 1, 0]


def test_telling_contacts_again_is_for_operators(tmp_path: Path) -> None:
    """Not for departments, nor for one town."""
    with Registry(tmp_path) as registry:
        for department, town in (("HRSS", None), ("OPS", "寻山街道")):
            answer = registry.ask("POST", "/v1/contacts/republish", {}, department=department, town=town)
            assert answer.status_code == 403
