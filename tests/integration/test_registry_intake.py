"""Files of departments: taken in, applied row by row through the commands, and what is done with the rest."""

import csv
import io
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from services.registry.domain import Batch, RejectedRow, Trouble
from services.registry.intake.apply import MISSING_FOR, Intake, apply_piece, begin, refuse
from shared.identifiers import id_check_char
from tests.integration.test_registry_last_look import item as question
from tests.support.registry import (
    AT,
    ID_NUMBER,
    OTHER_ID_NUMBER,
    OTHER_USCC,
    USCC,
    WRONG_CHECK,
    Registry,
)

HEADINGS = "统一社会信用代码,身份证号码,姓名,险种,参保形式,参保性质,参保开始日期,参保终止日期"
UNIT_HEADINGS = "统一社会信用代码,单位名称,单位类型,成立日期,镇街,住所,行业代码,法定代表人,法定代表人手机"
WRONG_ID = "371082198503150024"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path, participations_mode="batch") as registry:
        yield registry


def row(
    uscc: str = USCC,
    *,
    id_number: str = ID_NUMBER,
    name: str = "王示例",
    insurance: str = "职工养老",
    kind: str = "首次",
    started_on: str = "2026-02-09",
    ended_on: str = "",
) -> str:
    return f"{uscc},{id_number},{name},{insurance},单位,{kind},{started_on},{ended_on}"


def file(*rows: str, headings: str = HEADINGS) -> bytes:
    return "\n".join([headings, *rows, ""]).encode()


def units(*rows: str) -> bytes:
    return file(*rows, headings=UNIT_HEADINGS)


def unit_row(uscc: str = USCC, established_on: str = "2026-01-09", town: str = "寻山街道") -> str:
    address = "荣成市寻山街道示例路1号"
    return f"{uscc},荣成市示例水产有限公司,企业,{established_on},{town},{address},C1361,于示例,13800138000"


def taken_in(registry: Registry, content: bytes, *args: Any, **given: Any) -> dict[str, Any]:
    sent = registry.send(content, *args, **given)
    assert sent.status_code == 202, sent.text
    registry.take_in()
    return registry.batch(sent)


def counts(batch: dict[str, Any]) -> tuple[str, int, int, int]:
    return (batch["state"], batch["accepted"], batch["unchanged"], batch["rejected"])


def errors(registry: Registry, batch: dict[str, Any], department: str = "HRSS") -> list[dict[str, str]]:
    answer = registry.ask("GET", f"/v1/batches/{batch['id']}/errors", department=department)
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))


def told(registry: Registry, *names: str) -> list[dict[str, Any]]:
    return [data for name, data in registry.events() if name in names]


def held(registry: Registry, uscc: str = USCC) -> str | None:
    body = {"items": [question(uscc)]}
    answer = registry.ask("POST", "/v1/last-look", body, department="notify", scopes=["last-look"])
    reason: str | None = answer.json()["items"][0]["reason"]
    return reason


def many(number: int) -> list[str]:
    """Rows of so many people, each of their own."""
    found = []
    for serial in range(number):
        body = f"3710{serial // 100_000:02}19{60 + serial // 1000 % 40}0101{serial % 1000:03}"
        found.append(row(id_number=body + id_check_char(body)))
    return found


# -- the same as single calls ----------------------------------------------------------------------------


def plain(registry: Registry) -> list[tuple[str, dict[str, Any]]]:
    """Events without what is random."""
    return [
        (name, {key: value for key, value in data.items() if key not in ("sealed", "person", "origin")})
        for name, data in registry.events()
        if name != "batch_accepted"
    ]


def test_rows_do_what_single_calls_do(tmp_path: Path) -> None:
    """Units and participations: the same events, a unit's origin apart, and the same audit of each fact."""
    with Registry(tmp_path / "single") as single, Registry(tmp_path / "file") as by_file:
        single.register()
        id_ = single.record().json()["id"]
        single.ask("POST", f"/v1/participations/{id_}/end", {"ended_on": "2026-02-10"}, department="HRSS")
        taken_in(by_file, units(unit_row()), "unit_registrations", department="ADM")
        taken_in(by_file, file(row(ended_on="2026-02-10")))
        assert plain(by_file) == plain(single)
        assert [name for name, _ in plain(by_file)][-2:] == ["participation_started", "participation_ended"]
        assert told(by_file, "unit_registered")[0]["origin"] == "batch"
        facts = [action for action, _, _ in by_file.audits() if not action.startswith("batch")]
        assert facts == [action for action, _, _ in single.audits()]


def test_a_file_is_answered_applied_and_told(registry: Registry) -> None:
    """202 with its place; afterwards the counts; batch_accepted behind everything else."""
    sent = registry.send(file(row(), row(), row(id_number=WRONG_ID)))
    assert (sent.status_code, sent.json()["state"]) == (202, "received")
    assert sent.headers["Location"] == f"/v1/batches/{sent.json()['id']}"
    assert registry.due("intake") == AT
    registry.take_in()
    assert registry.due("intake") is None
    batch = registry.batch(sent)
    assert counts(batch) == ("applied", 1, 1, 1)
    assert (batch["rows"], batch["done"], batch["open_disputes"], batch["problems"]) == (3, 3, 1, [])
    name, facts = registry.events()[-1]
    assert (name, facts) == (
        "batch_accepted",
        {
            "batch_id": batch["id"],
            "dataset": "participations",
            "department": "HRSS",
            "sha256": batch["sha256"],
            "rows": 3,
            "accepted": 1,
            "unchanged": 1,
            "rejected": 1,
            "complete_through": None,
        },
    )


@pytest.mark.parametrize(
    ("dataset", "department", "headings"),
    [
        ("participations", "HRSS", HEADINGS),
        ("unit_registrations", "ADM", "统一社会信用代码,单位名称,单位类型,成立日期"),
    ],
)
def test_a_template_is_a_file_without_rows(
    registry: Registry, dataset: str, department: str, headings: str
) -> None:
    """It opens in a spreadsheet, has every heading, and with a row below them it can be sent."""
    answer = registry.ask("GET", f"/v1/datasets/{dataset}/template", department=department)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.content.startswith(b"\xef\xbb\xbf" + headings.encode())
    batch = taken_in(registry, answer.content, dataset, department=department)
    assert [problem["code"] for problem in batch["problems"]] == ["no_rows"]
    assert registry.ask("GET", "/v1/datasets/wages/template").status_code == 404


def test_the_same_file_is_the_same_batch(registry: Registry) -> None:
    """Before and after it is applied; nothing is told twice. With another complete_through it is refused."""
    first = registry.send(file(row()))
    again = registry.send(file(row()))
    registry.take_in()
    later = registry.send(file(row()))
    assert registry.take_in() == 0
    assert first.json()["id"] == again.json()["id"] == later.json()["id"]
    assert later.json()["state"] == "applied"
    assert len(told(registry, "participation_started")) == len(told(registry, "batch_accepted")) == 1
    other = registry.send(file(row()), query="?complete_through=2026-02-09")
    assert (other.status_code, other.json()["code"]) == (409, "batch_differs")


def test_a_unit_without_a_date_is_accepted(registry: Registry) -> None:
    """Its event has none, so it gets no clock."""
    batch = taken_in(registry, units(unit_row(established_on="")), "unit_registrations", department="ADM")
    assert counts(batch) == ("applied", 1, 0, 0)
    assert told(registry, "unit_registered")[0]["established_on"] is None


def test_rows_of_units_are_checked_like_calls(registry: Registry) -> None:
    """Town, code, number, kind; a unit known with other facts stays as it is. Each names row, column and fix."""
    registry.register()
    content = units(
        unit_row(),
        unit_row(established_on="2026-01-10"),
        unit_row(OTHER_USCC, town="不存在镇").replace("企业,", "合作社,"),
        unit_row("91371082MA3XTE5T"),
        unit_row(OTHER_USCC).replace("13800138000", "0631-7551234").replace("企业,", "公司制,"),
        unit_row(WRONG_CHECK),
        unit_row(OTHER_USCC, established_on="1899-12-31"),
        unit_row(OTHER_USCC).replace("荣成市示例水产有限公司", "+13800138000商店"),
    )
    batch = taken_in(registry, content, "unit_registrations", department="ADM")
    assert counts(batch) == ("applied", 1, 1, 6)
    found = errors(registry, batch, "ADM")
    assert [(line["行号"], line["列"], line["错误"]) for line in found] == [
        ("3", "成立日期", "differs"),
        ("4", "镇街", "unknown_town"),
        ("5", "统一社会信用代码", "uscc_length"),
        ("6", "单位类型；法定代表人手机", "not_allowed；mobile_range"),
        ("8", "成立日期", "date_out_of_range"),
        ("9", "单位名称", "suspicious_name"),
    ]
    assert all(" / " in line["处理办法"] and line["单位名称"] for line in found)
    assert told(registry, "intake_disputed") == []


def test_a_row_that_ends_what_ended_otherwise_is_refused(registry: Registry) -> None:
    """The end that was recorded first stays; an impossible end is a row error."""
    taken_in(registry, file(row(ended_on="2026-02-10")))
    batch = taken_in(registry, file(row(ended_on="2026-02-09"), row(ended_on="2026-02-08"), row(kind="转入")))
    assert counts(batch) == ("applied", 0, 0, 3)
    assert [line["错误"] for line in errors(registry, batch)] == ["wrong_state", "wrong_end", "differs"]
    assert [data["ended_on"] for data in told(registry, "participation_ended")] == ["2026-02-10"]


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "empty_file"), (file(), "no_rows"), (b"PK\x03\x04", "not_csv"), (file(row())[200:], "no_heading")],
)
def test_an_unreadable_file_applies_and_completes_nothing(
    registry: Registry, content: bytes, code: str
) -> None:
    """Refused with the reason, however often it is sent; no event at all."""
    batch = taken_in(registry, content, query="?complete_through=2026-02-09")
    assert registry.send(content, query="?complete_through=2026-02-09").json() == batch
    assert counts(batch) == ("refused", 0, 0, 0)
    assert [problem["code"] for problem in batch["problems"]] == [code]
    assert registry.events() == []
    (line,) = errors(registry, batch)
    assert (line["行号"], line["错误"]) == ("", code)
    assert line["处理办法"].endswith(batch["problems"][0]["en"])


def test_only_an_owner_sends_csv_of_a_known_set(registry: Registry, tmp_path: Path) -> None:
    """404, 403, 415, 413, 422 and 401, and nothing is kept."""
    assert registry.send(file(row()), "unknown").status_code == 404
    refused = registry.send(file(row()), department="ADM")
    assert (refused.status_code, refused.json()["code"]) == (403, "not_the_owner")
    assert refused.json()["detail_en"].endswith(": HRSS")
    path, csv_type = "/v1/datasets/participations/batches", {"Content-Type": "text/csv; charset=gbk"}
    in_town = registry.ask("POST", path, file(row()), department="HRSS", town="寻山街道", headers=csv_type)
    assert in_town.status_code == 403
    assert registry.ask("POST", path, file(row()), department="HRSS").status_code == 415
    huge = {**csv_type, "Content-Length": str(200 * 1024 * 1024 + 1)}
    assert registry.ask("POST", path, b"x", department="HRSS", headers=huge).status_code == 413
    for query in ("?complete_through=soon", "?complete_through=2026-02-10", "?x=1"):
        assert registry.send(file(row()), query=query).status_code == 422
    assert (
        registry.ask("POST", path, file(row()), scopes=["units:write"], headers=csv_type).status_code == 403
    )
    assert list((tmp_path / "batches").iterdir()) == []
    assert registry.take_in() == 0


def test_a_set_without_completeness_takes_no_day(registry: Registry) -> None:
    """422 where it is said, before the file is kept."""
    answer = registry.send(
        units(unit_row()), "unit_registrations", department="ADM", query="?complete_through=2026-02-09"
    )
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/complete_through")
    assert registry.take_in() == 0


def test_a_department_lists_its_own_files(registry: Registry) -> None:
    """The newest first, by cursor and data set, with their counts; nobody else's."""
    first = taken_in(registry, file(row(), row(kind="不详")))
    second = registry.send(file(row(insurance="工伤"))).json()
    registry.send(units(unit_row()), "unit_registrations", department="ADM")
    page = registry.ask("GET", "/v1/batches?limit=1", department="HRSS").json()
    assert [(one["id"], one["state"]) for one in page["items"]] == [(second["id"], "received")]
    path = f"/v1/batches?dataset=participations&cursor={page['next_cursor']}"
    rest = registry.ask("GET", path, department="HRSS").json()
    assert rest == {
        "items": [{name: first[name] for name in rest["items"][0]}],
        "next_cursor": None,
    }
    assert counts(rest["items"][0]) == ("applied", 1, 0, 1)
    of_others = registry.ask("GET", "/v1/batches?dataset=unit_registrations", department="HRSS").json()
    assert of_others["items"] == []
    assert registry.ask("GET", "/v1/batches?dataset=x", department="HRSS").status_code == 422


def test_a_batch_is_its_senders_alone(registry: Registry) -> None:
    """404 for any other department, 403 for one town; reading the errors leaves an audit row."""
    batch = taken_in(registry, file(row(id_number=WRONG_ID)))
    path = f"/v1/batches/{batch['id']}"
    for method, rest, body in (
        ("GET", "", None),
        ("GET", "/errors", None),
        ("POST", "/rows/2/settle", {"reason": "已核实"}),
    ):
        assert registry.ask(method, path + rest, body, department="AMR").status_code == 404
        in_town = registry.ask(method, path + rest, body, department="HRSS", town="寻山街道")
        assert in_town.status_code == 403
    assert "batch_errors_read" not in [action for action, _, _ in registry.audits()]
    (line,) = errors(registry, batch)
    assert (line["行号"], line["列"], line["错误"]) == ("2", "身份证号码", "id_number_check_digit")
    assert line["身份证号码"] == WRONG_ID
    assert registry.audits()[-1] == ("batch_errors_read", batch["id"], {"rows": 1})


def test_nothing_of_a_file_lies_in_clear(registry: Registry, tmp_path: Path) -> None:
    """Neither while it waits nor what was rejected; an applied or refused file is gone."""
    sent = registry.send(file(row(), row(id_number=WRONG_ID, name="孙示例")))
    (kept,) = (tmp_path / "batches").iterdir()
    assert ID_NUMBER.encode() not in kept.read_bytes()
    registry.take_in()
    assert list((tmp_path / "batches").iterdir()) == []
    dump = registry.dump()
    assert registry.batch(sent)["rejected"] == 1
    for secret in (ID_NUMBER, WRONG_ID, "孙示例"):
        assert secret not in dump


def test_mended_errors_can_be_sent_back(registry: Registry) -> None:
    """The error file is a file of the data set; what looks like a formula is harmless in a spreadsheet."""
    batch = taken_in(registry, file(row(id_number=WRONG_ID, name="-王示例")))
    answer = registry.ask("GET", f"/v1/batches/{batch['id']}/errors", department="HRSS")
    assert "\t-王示例" in answer.text
    mended = answer.content.decode().replace(WRONG_ID, ID_NUMBER)
    assert counts(taken_in(registry, mended.encode())) == ("applied", 1, 0, 0)


# -- completeness ----------------------------------------------------------------------------------------


def test_completeness_is_declared_behind_the_last_row(registry: Registry) -> None:
    """With the batch, once it is applied, though a row was rejected."""
    registry.send(file(row(), row(id_number=WRONG_ID)), query="?complete_through=2026-02-09")
    registry.take_in(1)
    assert told(registry, "data_complete") == []
    registry.take_in()
    names = [name for name, _ in registry.events()]
    assert names == ["participation_started", "intake_disputed", "data_complete", "batch_accepted"]
    assert told(registry, "data_complete") == [{"dataset": "participations", "through": "2026-02-09"}]


def test_a_file_of_which_no_row_was_taken_completes_nothing(registry: Registry) -> None:
    """Shifted columns are no day without enrolments."""
    shifted = row().partition(",")[2] + ","
    batch = taken_in(registry, file(shifted), query="?complete_through=2026-02-09")
    assert counts(batch) == ("applied", 0, 0, 1)
    assert [problem["code"] for problem in batch["problems"]] == ["nothing_applied"]
    assert told(registry, "data_complete") == []


def test_an_older_day_declares_nothing(registry: Registry) -> None:
    """Refused when it is sent; where another was declared meanwhile, applied with a problem."""
    sent = registry.send(file(row()), query="?complete_through=2026-02-08")
    path = "/v1/datasets/participations/complete-through"
    registry.ask("PUT", path, {"through": "2026-02-09"}, department="HRSS")
    registry.take_in()
    assert [problem["code"] for problem in registry.batch(sent)["problems"]] == ["only_forward"]
    assert registry.batch(sent)["state"] == "applied"
    assert registry.send(file(row(name="李")), query="?complete_through=2026-02-08").status_code == 409
    assert len(told(registry, "data_complete")) == 1


def test_a_live_day_waits_for_the_files_of_its_set(tmp_path: Path) -> None:
    """What was received before midnight is applied before the day is called complete."""
    with Registry(tmp_path) as registry:
        refused = registry.send(file(row()), query="?complete_through=2026-02-09")
        assert (refused.status_code, refused.json()["code"]) == (409, "live_dataset")
        registry.send(file(row()))
        assert registry.due() is None
        assert registry.wait(registry._duty("complete_live_days").step()) is False
        registry.take_in()
        assert registry.due() == AT
        assert registry.wait(registry._duty("complete_live_days").step()) is True


# -- disputed rows ---------------------------------------------------------------------------------------


def test_a_rejected_participation_holds_its_unit_until_it_is_settled(registry: Registry) -> None:
    """Told with the row; the last look holds; settling releases, twice is once."""
    registry.register()
    assert held(registry) is None
    batch = taken_in(registry, file(row(id_number=WRONG_ID)))
    assert told(registry, "intake_disputed") == [
        {"uscc": USCC, "batch_id": batch["id"], "row": 2, "dataset": "participations"}
    ]
    assert held(registry) == "row_disputed"
    for _ in range(2):
        path = f"/v1/batches/{batch['id']}/rows/2/settle"
        settled = registry.ask("POST", path, {"reason": "电话核实，未参保"}, department="HRSS")
        assert (settled.status_code, settled.json()) == (
            200,
            {"batch_id": batch["id"], "row": 2, "uscc": USCC},
        )
    assert held(registry) is None
    assert told(registry, "intake_settled") == [{"uscc": USCC, "batch_id": batch["id"], "row": 2}]
    assert (
        registry.batch(httpx.Response(202, headers={"Location": f"/v1/batches/{batch['id']}"}))[
            "open_disputes"
        ]
        == 0
    )


@pytest.mark.parametrize(
    ("bad", "settles"),
    [
        (row(id_number=WRONG_ID), True),
        (row(started_on="2026-13-01", name="王改名"), True),
        (row(id_number="王示例"), True),
        (row(id_number=WRONG_ID, name="李示例"), False),
        (row(OTHER_USCC, id_number=WRONG_ID), False),
    ],
)
def test_the_corrected_row_settles(registry: Registry, bad: str, settles: bool) -> None:
    """In a later batch, for the same unit and the same number or name; whatever the pieces of its own are."""
    taken_in(registry, file(bad, row(insurance="失业"), row(id_number=OTHER_ID_NUMBER, name="赵示例")))
    assert told(registry, "intake_settled") == []
    taken_in(registry, file(row(), row(insurance="工伤")))
    assert len(told(registry, "intake_settled")) == settles


@pytest.mark.parametrize(
    "line",
    [
        row(name='"王示例'),
        f"{row()},x,y",
        row(kind="什么"),
        row(WRONG_CHECK, id_number=WRONG_ID),
    ],
)
def test_the_unit_of_a_broken_row_is_found(registry: Registry, line: str) -> None:
    """Also where the line fell apart."""
    taken_in(registry, file(line))
    assert [data["uscc"] for data in told(registry, "intake_disputed")] == [line[:18]]


@pytest.mark.parametrize("number", [ID_NUMBER, WRONG_ID])
def test_an_id_number_in_the_column_of_the_code_is_no_unit(registry: Registry, number: str) -> None:
    """With shifted columns it would lie open in events; it holds nothing, and settling it is refused."""
    batch = taken_in(registry, file(row(number, id_number=USCC), f"{row(number, name='x')},z"))
    assert counts(batch) == ("applied", 0, 0, 2)
    assert told(registry, "intake_disputed") == []
    assert number not in registry.dump()
    path = f"/v1/batches/{batch['id']}/rows/2/settle"
    answer = registry.ask("POST", path, {"reason": "x"}, department="HRSS")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_disputed")
    path = f"/v1/batches/{batch['id']}/rows/9/settle"
    assert registry.ask("POST", path, {"reason": "x"}, department="HRSS").status_code == 404


def test_of_many_disputes_only_those_about_the_row_are_opened(registry: Registry) -> None:
    """By number or name; a settled one is looked for no more."""
    bad = [row(id_number=WRONG_ID, name=f"某{serial}") for serial in range(30)]
    batch = taken_in(registry, file(*bad, row(id_number=WRONG_ID)))

    def found(name: str, number: str = ID_NUMBER, uscc: str = USCC) -> list[int]:
        def ask(work: Any) -> list[int]:
            return [item.row for item in work.store.disputes(work.store.row_keys(uscc, number, name))]

        rows: list[int] = registry.run(ask)
        return rows

    assert (found("王示例"), found("某7"), found("某7", uscc=OTHER_USCC)) == ([32], [9], [])
    assert found("", WRONG_ID) == list(range(2, 33))
    taken_in(registry, file(row(), row(OTHER_USCC, name="某7")))
    assert told(registry, "intake_settled") == [{"uscc": USCC, "batch_id": batch["id"], "row": 32}]
    assert found("王示例") == []
    taken_in(registry, file(*(row(id_number=OTHER_ID_NUMBER, name=name) for name in ("某8", "某9"))))
    assert [data["row"] for data in told(registry, "intake_settled")] == [32, 10, 11]


# -- crashes and size ------------------------------------------------------------------------------------


def facts(registry: Registry) -> list[Any]:
    return [
        (name, {key: value for key, value in data.items() if key not in ("person", "batch_id")})
        for name, data in registry.events()
    ]


def test_a_good_row_settles_no_bad_one_of_its_own_file(registry: Registry) -> None:
    """However far below it stands: both are the sender's word, and one of them was not understood."""
    batch = taken_in(registry, file(row(kind="不详"), *many(250), row(insurance="工伤")))
    assert (batch["accepted"], batch["open_disputes"]) == (251, 1)


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    """A new service on the same files after every single piece: the same facts, each once."""
    rows = [*many(450), row(id_number=WRONG_ID), *many(10)]
    with Registry(tmp_path / "whole", participations_mode="batch") as whole:
        taken_in(whole, file(*rows), query="?complete_through=2026-02-09")
        expected = facts(whole)
    folder = tmp_path / "killed"
    with Registry(folder, participations_mode="batch") as registry:
        sent = registry.send(file(*rows), query="?complete_through=2026-02-09")
    for steps in range(1, 10):
        with Registry(folder, participations_mode="batch") as registry:
            registry.run(registry.service._at_start)
            if not registry.take_in(1):
                break
            assert len(told(registry, "participation_started")) == min(200 * (steps - 1), 450)
    with Registry(folder, participations_mode="batch") as registry:
        assert facts(registry) == expected
        assert counts(registry.batch(sent)) == ("applied", 450, 10, 1)
        assert list((folder / "batches").iterdir()) == []


def test_a_piece_that_fails_leaves_nothing_of_itself(registry: Registry) -> None:
    """Rows, events, place and counts commit together; the next try applies each once."""
    sent = registry.send(file(*many(30)))
    registry.take_in(1)
    run = registry.service.core.run

    async def failing(do: Callable[[Any], Any]) -> Any:
        def do_and_fail(work: Any) -> None:
            do(work)
            raise RuntimeError("killed before the commit")

        return await run(do_and_fail)

    registry.service.core.run = failing
    with pytest.raises(RuntimeError):
        registry.take_in(1)
    registry.service.core.run = run
    assert (registry.batch(sent)["done"], registry.events()) == (0, [])
    registry.take_in()
    assert counts(registry.batch(sent)) == ("applied", 30, 0, 0)
    assert len(told(registry, "participation_started")) == 30


def test_a_piece_that_was_applied_already_is_passed_over(registry: Registry) -> None:
    """As when two instances had read it at once."""
    sent = registry.send(file(*many(250)))
    registry.take_in(1)
    intake = registry._duty("intake").step.__self__
    piece = intake._piece(registry.run(lambda work: work.store.batch(sent.json()["id"])))
    for _ in range(2):
        registry.run(partial(apply_piece, piece=piece))
        assert registry.batch(sent)["done"] == 200
    registry.take_in()
    assert counts(registry.batch(sent)) == ("applied", 250, 0, 0)


@pytest.mark.parametrize("cut", [False, True])
def test_a_lost_or_shortened_file_completes_nothing_until_it_is_sent_again(
    registry: Registry, tmp_path: Path, cut: bool
) -> None:
    """Gone, or cut at a frame's end after it was surveyed. Then it goes on where it was, each row once."""
    content = file(*many(3000 if cut else 300))
    sent = registry.send(content, query="?complete_through=2026-02-09")
    registry.take_in(2)
    (kept,) = (tmp_path / "batches").iterdir()
    sealed = kept.read_bytes()
    kept.write_bytes(sealed[: 4 + int.from_bytes(sealed[:4], "big")]) if cut else kept.unlink()
    registry.clock.advance(MISSING_FOR)
    registry.take_in()
    batch = registry.batch(sent)
    assert (batch["state"], codes(batch)) == ("refused", ["file_lost"])
    assert told(registry, "data_complete", "batch_accepted") == []
    assert 0 < batch["accepted"] < batch["rows"]

    again = registry.send(content, query="?complete_through=2026-02-09")
    assert again.json()["id"] == batch["id"]
    assert (again.json()["state"], again.json()["done"]) == ("applying", batch["done"])
    registry.take_in()
    assert counts(registry.batch(sent)) == ("applied", batch["rows"], 0, 0)
    assert codes(registry.batch(sent)) == []
    assert len(told(registry, "participation_started")) == batch["rows"]
    assert len(told(registry, "data_complete")) == len(told(registry, "batch_accepted")) == 1
    assert list((tmp_path / "batches").iterdir()) == []


def test_a_file_that_is_not_here_waits_for_its_hour(registry: Registry, tmp_path: Path) -> None:
    """Another process may have it. It is counted, nothing is due meanwhile, and the files behind it go on."""
    sent = registry.send(file(row()))
    (kept,) = (tmp_path / "batches").iterdir()
    kept.rename(tmp_path / "elsewhere")
    assert registry.take_in() == 0
    assert registry.due("intake") == AT + MISSING_FOR
    figures = registry.ask("GET", "/metrics").text
    assert "yingbao_batches_without_file 1.0" in figures
    assert counts(taken_in(registry, file(row(id_number=OTHER_ID_NUMBER)))) == ("applied", 1, 0, 0)
    (tmp_path / "elsewhere").rename(kept)
    registry.take_in()
    assert counts(registry.batch(sent)) == ("applied", 1, 0, 0)


def codes(batch: dict[str, Any]) -> list[str]:
    return [problem["code"] for problem in batch["problems"]]


def read(registry: Registry, sent: httpx.Response) -> Batch:
    batch = registry.run(lambda work: work.store.batch(sent.json()["id"]))
    assert isinstance(batch, Batch)
    return batch


def intake_of(registry: Registry) -> Intake:
    intake = registry._duty("intake").step.__self__
    assert isinstance(intake, Intake)
    return intake


@pytest.mark.parametrize("at_step", [0, 1])
def test_an_error_of_ours_ends_its_own_file_alone(registry: Registry, at_step: int) -> None:
    """In the survey, or in a piece: nothing of that is kept, the queue goes on, and it can be sent again."""
    content = file(*many(250))
    sent, behind = registry.send(content), registry.send(file(row(insurance="失业")))
    registry.take_in(at_step)
    intake = intake_of(registry)
    contracts, intake._contracts = intake._contracts, {}
    registry.take_in(1)
    intake._contracts = contracts
    batch = registry.batch(sent)
    assert (counts(batch), codes(batch)) == (("refused", 0, 0, 0), ["unreadable"])
    assert registry.events() == []
    assert (
        'yingbao_intake_failures_total{dataset="participations"} 1.0' in registry.ask("GET", "/metrics").text
    )
    registry.take_in()
    assert counts(registry.batch(behind)) == ("applied", 1, 0, 0)
    registry.send(content)
    registry.take_in()
    assert (counts(registry.batch(sent)), codes(registry.batch(sent))) == (("applied", 250, 0, 0), [])


@pytest.mark.parametrize(
    ("error", "state", "done"),
    [(ValueError("x"), "refused", 200), (sa.exc.OperationalError("x", None, OSError()), "applying", 200)],
)
def test_a_piece_that_fails_for_good_is_not_kept(
    registry: Registry, error: Exception, state: str, done: int
) -> None:
    """What was applied before it stays. Where only the database is away, the file waits."""
    sent = registry.send(file(*many(250)))
    registry.take_in(2)
    run = registry.service.core.run

    async def failing(do: Any) -> Any:
        def do_and_fail(work: Any) -> None:
            do(work)
            raise error

        return await run(do_and_fail if do.func is apply_piece else do)

    registry.service.core.run = failing
    try:
        registry.take_in(1)
    except sa.exc.OperationalError:
        assert state == "applying"
    batch = registry.batch(sent)
    assert (batch["state"], batch["done"]) == (state, done)
    assert len(told(registry, "participation_started")) == done


def test_a_file_that_was_withdrawn_while_it_was_surveyed_stays_withdrawn(registry: Registry) -> None:
    """Whatever the survey found: the sender's word came later."""
    sent = registry.send(file(row()))
    batch = read(registry, sent)
    found = intake_of(registry)._survey(batch)
    withdrawn = registry.ask(
        "POST", f"/v1/batches/{batch.id}/withdraw", {"reason": "错误", "replaced": True}, department="HRSS"
    )
    assert withdrawn.status_code == 202
    trouble = Trouble("file_lost", "", "")
    for late in (partial(begin, found=found), partial(begin, found=trouble), partial(refuse, why=trouble)):
        registry.run(partial(late, batch=batch))
        assert registry.batch(sent)["state"] == "withdrawing"
    registry.take_in()
    assert registry.batch(sent)["state"] == "withdrawn"
    assert told(registry, "participation_started") == []


def test_a_second_survey_changes_nothing(registry: Registry) -> None:
    """As of a process that was thought dead."""
    sent = registry.send(file(*many(250)))
    batch = read(registry, sent)
    found = intake_of(registry)._survey(batch)
    registry.take_in(2)
    registry.run(partial(begin, batch=batch, found=found))
    registry.take_in()
    assert counts(registry.batch(sent)) == ("applied", 250, 0, 0)


def test_a_row_that_was_rejected_before_stays_as_it_was(registry: Registry) -> None:
    """Rejected again it stops nothing, and is not disputed anew once it is settled."""
    batch = taken_in(registry, file(row(id_number=WRONG_ID)))
    registry.ask("POST", f"/v1/batches/{batch['id']}/rows/2/settle", {"reason": "x"}, department="HRSS")
    again = RejectedRow(batch["id"], 2, "", (), uscc=USCC, keys=("k",), disputed=True)
    registry.run(lambda work: work.store.add_rejected([again]))
    assert registry.run(lambda work: work.store.open_disputes(batch["id"])) == 0
    assert registry.run(lambda work: work.store.disputes(["k"])) == []


def test_twenty_thousand_rows_take_no_more_memory_than_four_hundred(registry: Registry) -> None:
    """What is held at once is a piece, the survey and every row included."""

    def peak(number: int) -> int:
        sent = registry.send(file(*(f"第{serial}行" for serial in range(number))))
        tracemalloc.start()
        registry.take_in()
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert counts(registry.batch(sent)) == ("applied", 0, 0, number)
        return highest

    small = peak(400)
    assert peak(20_000) < small + 2_000_000


def test_pieces_follow_the_time_they_take(registry: Registry) -> None:
    """Ten times too slow: a tenth of the rows; quick: at most twice as many; within bounds."""
    intake = registry._duty("intake").step.__self__
    sizes = []
    for seconds in (1.0, 1.0, 0.1, 0.001, 0.0, *([0.0001] * 9)):
        intake._pace(seconds)
        sizes.append(intake._rows)
    assert sizes[:5] == [20, 20, 20, 40, 40]
    assert sizes[-1] == 1000
