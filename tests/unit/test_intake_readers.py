"""How files are read: encodings, delimiters, titles, broken lines. Never a wrong character, never a lost row."""

import csv
import io
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.registry.domain import Batch, RejectedRow
from services.registry.intake.checks import check
from services.registry.intake.files import FRAME, Files
from services.registry.intake.readers import MAX_LINE, Layout, Row, lines, rows, survey
from services.registry.intake.report import report_head, report_rows
from shared.datasets.contract import load_contracts
from shared.privacy import BrokenSealError, KeyRing, Purpose

CONTRACT = load_contracts()["participations"]
HEADINGS = "统一社会信用代码,身份证号码,姓名,险种,参保形式,参保性质,参保开始日期"
ROW = "91371082MA3XTE5T8Q,371082198503150023,王示例,工伤保险,单位参保,首次参保,2026-02-09"


def text(*below: str, headings: str = HEADINGS) -> str:
    return "\n".join([headings, *below]) + "\n"


def read(content: bytes) -> tuple[Layout, list[Row]]:
    layout = survey([content], CONTRACT)
    assert isinstance(layout, Layout), layout
    return layout, list(rows([content[layout.offset :]], layout, number=layout.line, offset=layout.offset))


def trouble(content: bytes) -> str:
    found = survey([content], CONTRACT)
    assert not isinstance(found, Layout)
    assert found.zh
    assert found.en
    return found.code


def troubles(found: list[Row]) -> list[tuple[int, str | None]]:
    return [(row.number, row.trouble and row.trouble.code) for row in found]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_encodings_and_delimiters_are_recognised(encoding: str, delimiter: str) -> None:
    """Each by its bytes; the cells come out under the fields' names."""
    content = text(ROW, ROW).replace(",", delimiter).replace("\n", "\r\n").encode(encoding)
    layout, found = read(content)
    assert layout.rows == 2
    assert layout.encoding == ("utf-8" if encoding.startswith("utf") else "gb18030")
    assert found[0].cells == {
        "uscc": "91371082MA3XTE5T8Q",
        "id_number": "371082198503150023",
        "name": "王示例",
        "insurance": "工伤保险",
        "form": "单位参保",
        "kind": "首次参保",
        "started_on": "2026-02-09",
    }
    assert [row.number for row in found] == [2, 3]


def test_gbk_rows_below_utf8_headings_are_read_as_what_they_are() -> None:
    """As when an export writes its own headings; no character comes out wrong."""
    layout, found = read(text().encode() + f"{ROW}\n".encode("gbk"))
    assert layout.encoding == "gb18030"
    assert found[0].cells["name"] == "王示例"
    assert found[0].trouble is None


def test_bytes_that_both_encodings_allow_follow_the_file() -> None:
    """陆 in GBK is a letter of two bytes in UTF-8 too; the other rows, or else the headings, decide."""
    rare = ROW.replace("王示例", "陆陆").replace("工伤保险,单位参保,首次参保", "injury,employer,first")
    assert len("陆".encode("gbk").decode("utf-8")) == 1
    for content in (text(rare), text(rare, ROW)):
        _, found = read(content.encode("gbk"))
        assert found[0].cells["name"] == "陆陆"


def test_a_line_in_another_encoding_is_refused_never_misread() -> None:
    """A GBK line in a UTF-8 file, and the opposite; the other rows stand."""
    content = text(ROW, ROW).encode() + f"{ROW}\n".encode("gbk") + f"{ROW}\n".encode()
    _, found = read(content)
    assert troubles(found) == [(2, None), (3, None), (4, "other_encoding"), (5, None)]
    assert found[2].text == ROW  # the sender is shown what it sent
    # With an even number of characters in each cell, UTF-8 reads as GBK without an error, and all wrong.
    even = ROW.replace("王示例", "王示")
    content = text(ROW, ROW).encode("gbk") + f"{even}\n".encode() + f"{ROW}\n".encode("gbk")
    assert troubles(read(content)[1]) == [(2, None), (3, None), (4, "other_encoding"), (5, None)]


def test_a_damaged_character_costs_its_row_alone() -> None:
    """A character cut in two."""
    broken = ROW.encode().replace("王".encode(), "王".encode()[:2])
    content = text(ROW, ROW).encode() + broken + b"\n" + ROW.encode()
    assert troubles(read(content)[1]) == [(2, None), (3, None), (4, "other_encoding"), (5, None)]


names = st.text(alphabet=[chr(point) for point in range(0x4E00, 0x9FA6)], min_size=1, max_size=4)


@given(st.lists(names, min_size=1, max_size=30), st.sampled_from(["utf-8", "gbk"]))
def test_no_name_is_ever_misread(people: list[str], encoding: str) -> None:
    """Whatever the characters: each row is read right, or refused."""
    content = text(*(ROW.replace("王示例", name) for name in people)).encode(encoding)
    _, found = read(content)
    for row, name in zip(found, people, strict=True):
        assert row.trouble or row.cells["name"] == name
    assert encoding == "gbk" or not any(row.trouble for row in found)


def test_a_title_above_the_headings_is_passed_over() -> None:
    """And rows keep the numbers that a spreadsheet shows."""
    content = f"2026年2月参保明细,,,,,,\n制表日期：2026-02-10,,,,,,\n\n{text(ROW)}".encode("gbk")
    layout, found = read(content)
    assert (layout.line, [row.number for row in found]) == (4, [5])


def test_headings_are_known_by_many_names_in_any_order_with_others_between() -> None:
    """Stars, brackets, width and blanks do not matter; an unknown column is left out."""
    headings = "序号,姓 名,*社会保障号码,险种（险种名称）,险种类型,参保方式,变更类型,起始日期,信用代码"
    row = "1,王示例,371082198503150023,x,工伤,单位,首次,2026-02-09,91371082MA3XTE5T8Q"
    layout, found = read(text(row, headings=headings).encode())
    assert layout.columns[0] is None
    assert layout.columns[3] is None
    assert found[0].cells["uscc"] == "91371082MA3XTE5T8Q"
    assert layout.heading("id_number") == "*社会保障号码"
    assert layout.heading("ended_on") == "ended_on"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (text().encode(), "no_rows"),
        (f"{text()}\n,,,,,,\n".encode(), "no_rows"),
        (f"{ROW}\n{ROW}\n".encode(), "no_heading"),
        (text(ROW, headings=HEADINGS.replace("险种", "说明")).encode(), "missing_columns"),
        (text(ROW, headings=f"{HEADINGS},姓名").encode(), "repeated_column"),
        (text(ROW).encode("utf-16"), "not_csv"),
        (b"PK\x03\x04 and so on", "not_csv"),
        (b"\xd0\xcf\x11\xe0 and so on", "not_csv"),
        (b"\x00" * 100_000, "no_heading"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_as_a_whole(content: bytes, code: str) -> None:
    """With the reason and the fix."""
    assert trouble(content) == code


def test_missing_columns_are_named() -> None:
    """All of them."""
    found = survey(
        [text(ROW, headings=HEADINGS.replace("险种", "说明").replace("姓名", "x")).encode()], CONTRACT
    )
    assert not isinstance(found, Layout)
    assert "姓名、险种" in found.zh


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (ROW.replace("王示例", '"王示例'), "broken_quotes"),
        (ROW.replace("王示例", '"王"示例'), "broken_quotes"),
        (f"{ROW},x", "wrong_column_count"),
        (ROW.replace(",王示例", ""), "wrong_column_count"),
        ("合计,,,,,,2", "total_row"),
        ("合计：2", "total_row"),
        (ROW.replace("王示例", "王" * MAX_LINE), "line_too_long"),
        (f"{ROW},,", None),
        (ROW.replace("王示例", '"王示例"'), None),
        (ROW.replace("371082198503150023", '="371082198503150023"'), None),
        (ROW.replace("371082198503150023", "'371082198503150023\t"), None),
    ],
)
def test_a_broken_line_costs_itself_alone(line: str, code: str | None) -> None:
    """The rows around it stand, whatever is open in it."""
    _, found = read(text(ROW, line, ROW).encode())
    assert troubles(found) == [(2, None), (3, code), (4, None)]
    if code is None:
        assert found[1].cells["id_number"] == "371082198503150023"
        assert found[1].cells["name"] == "王示例"


@pytest.mark.parametrize("encoding", ["utf-8", "gbk"])
@pytest.mark.parametrize(
    "blank", ['"","","","","","",""', "\u3000,\u3000,,,,,", ',,"",," ",,', "\u3000\t", '""', "\x0b,\x0c"]
)
def test_a_row_without_content_is_no_row(encoding: str, blank: str) -> None:
    """Quotes and blanks of either width; neither counted nor read, and the rows around it keep their numbers."""
    layout, found = read(text(ROW, blank, ROW).encode(encoding))
    assert (layout.rows, troubles(found)) == (2, [(2, None), (4, None)])
    assert trouble(text(blank).encode(encoding)) == "no_rows"


@pytest.mark.parametrize("blank", ["\u2003", "\ufeff", "\u00a0,", "\x1c", "\x85", "'", '=""'])
def test_blanks_that_nobody_foresaw_cost_their_own_row(blank: str) -> None:
    """It is a row without the columns that it needs."""
    layout, found = read(text(ROW, blank, ROW).encode())
    assert (layout.rows, [row.number for row in found]) == (3, [2, 3, 4])


def test_every_kind_of_line_end_ends_a_line() -> None:
    """Of an old Macintosh too, alone or among others; none of them is ever in a cell."""
    content = text(ROW, ROW)
    for end in ("\n", "\r\n", "\r"):
        _, found = read(content.replace("\n", end).encode())
        assert troubles(found) == [(2, None), (3, None)]
    cut = text(ROW, ROW.replace("王示例", "王\r示例"), ROW)
    _, found = read(f"参保\r明细,\r\n{cut}".encode())
    assert troubles(found) == [
        (4, None),
        (5, "wrong_column_count"),
        (6, "wrong_column_count"),
        (7, None),
    ]


_PIECES = (
    b"\r",
    b"\n",
    b'"',
    b",",
    b"\t",
    b" ",
    b"\x00",
    b"\xa1\xa1",
    b"\xe3\x80\x80",
    b"=",
    b"'",
    "合计".encode(),
)
valid = st.sampled_from([text(ROW, ROW).encode(), text(ROW, ROW).replace(",", "\t").encode("gbk")])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file with some of its bytes replaced by what breaks readers, or by anything."""
    content = draw(valid)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(start + 60, len(content))))
        content = content[:start] + draw(st.sampled_from(_PIECES) | st.binary(max_size=4)) + content[end:]
    return content


@given(
    st.binary(max_size=200) | st.binary(max_size=60).map(text().encode().__add__) | mutated(),
    st.integers(1, 60),
)
def test_no_file_ever_stops_the_intake(content: bytes, size: int) -> None:
    """Whatever the bytes: refused, or as many rows as were counted, checked, and reported as they were sent."""
    layout = survey([content[at : at + size] for at in range(0, len(content), size)], CONTRACT)
    if not isinstance(layout, Layout):
        return
    found = list(rows([content[layout.offset :]], layout, number=layout.line, offset=layout.offset))
    assert len(found) == layout.rows
    checked = [check(row, CONTRACT, layout, date(2026, 2, 10)) for row in found]
    rejected = [RejectedRow("b1", item.row.number, item.row.text, item.troubles) for item in checked]
    report = report_head(reported(layout)) + report_rows(reported(layout), rejected)
    assert len(list(csv.reader(io.StringIO(report.decode(), newline="")))) == len(rejected) + 1


def reported(layout: Layout) -> Batch:
    return Batch(
        *("b1", "participations", "HRSS", "", 1, None, "", ""),
        received_at=datetime(2026, 2, 10, tzinfo=UTC),
        layout=asdict(layout),
    )


def test_a_line_that_no_reader_takes_is_reported_whole() -> None:
    """In one cell, as it was sent."""
    layout, _ = read(text(ROW).encode())
    report = report_rows(reported(layout), [RejectedRow("b1", 2, "a,b\rc,d", ())])
    assert report == b'2,,,,"a,b\rc,d"\r\n'


@given(st.binary(max_size=400), st.integers(min_value=1, max_value=50))
def test_lines_end_where_they_say_however_the_bytes_come(content: bytes, size: int) -> None:
    """Reading on from any end gives the same lines."""
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    found = list(lines(chunks))
    assert found == list(lines([content]))
    for line in found:
        behind = list(lines([content[line.end :]], number=line.number, offset=line.end))
        assert behind == found[line.number :]


def test_a_line_that_is_too_long_ends_where_it_ends() -> None:
    """However much of it was dropped, the next one begins behind it."""
    content = b"x" * 3 * MAX_LINE + b"\ny\n"
    found = list(lines(content[at : at + 10_000] for at in range(0, len(content), 10_000)))
    assert [(len(line.raw), line.end) for line in found] == [
        (MAX_LINE + 1, 3 * MAX_LINE + 1),
        (1, 3 * MAX_LINE + 3),
    ]


def test_a_long_line_ends_at_its_own_carriage_return() -> None:
    """Also where that is the last byte of what was read at once."""
    content = [b"x" * 2 * MAX_LINE + b"\r", b"y\r", b"\nz"]
    assert [(line.raw[-1:], line.end - 2 * MAX_LINE) for line in lines(content)] == [
        (b"x", 1),
        (b"y", 4),
        (b"z", 5),
    ]


def test_bytes_without_a_line_break_take_no_memory() -> None:
    """What is too long is counted, not kept."""

    def endless() -> Iterator[bytes]:
        for _ in range(500):
            yield b"x" * FRAME

    tracemalloc.start()
    (line,) = lines(endless())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(line.raw), line.end) == (MAX_LINE + 1, 500 * FRAME)
    assert peak < 20 * FRAME


# -- files on disk ---------------------------------------------------------------------------------------


NOON = datetime(2026, 2, 10, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "batches", KeyRing.create().cipher(Purpose.RECORDS))


def kept(files: Files, content: bytes, id_: str = "b1") -> str:
    receiving = files.receive(id_)
    for at in range(0, len(content), 10_000):
        receiving.add(content[at : at + 10_000])
    return receiving.finish()


def test_a_kept_file_is_read_from_any_place_and_lies_sealed(files: Files, tmp_path: Path) -> None:
    """By frames; nothing of it in clear."""
    content = b"".join(b"%09d\n" % number for number in range(20_000))
    kept(files, content)
    for offset in (0, 1, FRAME - 1, FRAME, 2 * FRAME + 5, len(content) - 1, len(content)):
        assert b"".join(files.chunks("b1", offset)) == content[offset:]
    assert b"000000017" not in (tmp_path / "batches" / "b1").read_bytes()


def test_a_changed_or_swapped_file_does_not_open(files: Files, tmp_path: Path) -> None:
    """Frames are bound to their batch and place."""
    kept(files, b"a" * 3 * FRAME)
    path = tmp_path / "batches" / "b1"
    sealed = path.read_bytes()
    path.with_name("b2").write_bytes(sealed)
    third = len(sealed) // 3
    path.write_bytes(sealed[third : 2 * third] + sealed[:third] + sealed[2 * third :])
    for id_ in ("b1", "b2"):
        with pytest.raises(BrokenSealError):
            list(files.chunks(id_))


def test_an_abandoned_file_leaves_nothing(files: Files, tmp_path: Path) -> None:
    """Finished or not; and at the start everything old goes that no batch asks for.

    A young one may be of a request that another process is just answering.
    """
    receiving = files.receive("b1")
    receiving.add(b"x")
    receiving.abandon()
    kept(files, b"x", "b2")
    kept(files, b"x", "b3")
    unfinished = files.receive("b4")
    unfinished.add(b"x")
    kept(files, b"x", "b5")
    for path in (tmp_path / "batches").iterdir():
        os.utime(path, (NOON, NOON + (path.name == "b5")))
    files.keep_only({"b2"}, before=datetime.fromtimestamp(NOON + 1, UTC))
    unfinished.abandon()
    assert sorted(path.name for path in (tmp_path / "batches").iterdir()) == ["b2", "b5"]
    files.remove("b2")
    files.remove("b2")


# -- contracts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("2026-02-09", "2026-02-09"),
        ("2026/2/9", "2026-02-09"),
        ("20260209", "2026-02-09"),
        ("2026年2月9日", "2026-02-09"),
        ("2026.2.9", "2026-02-09"),
        ("2026-02-09 00:00:00", "2026-02-09"),
        ("2026119", None),
        ("2026-11", None),
        ("2026-02-30", None),
        ("46062", None),
        ("9/2/2026", None),
    ],
)
def test_days_are_read_as_people_write_them_and_never_guessed(written: str, day: str | None) -> None:
    """Ambiguous ones are refused."""
    column = next(column for column in CONTRACT.columns if column.name == "started_on")
    found: Any = column.read(written)
    assert getattr(found, "code", str(found)) == (day or "not_a_day")


def test_choices_are_known_by_chinese_words_and_by_value() -> None:
    """養老 alone is not: there are three of them."""
    column = next(column for column in CONTRACT.columns if column.name == "insurance")
    assert [
        column.read(word) for word in ("职工养老", "pension", "城乡居民基本养老保险", "institution_pension")
    ] == [
        "pension",
        "pension",
        "resident_pension",
        "institution_pension",
    ]
    refused: Any = column.read("养老保险")
    assert (refused.code, "工伤保险" in refused.zh, "injury" in refused.en) == ("not_allowed", True, True)
