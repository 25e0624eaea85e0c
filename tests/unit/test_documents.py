"""Reading the city pack's files."""

from datetime import date, time
from pathlib import Path

import pytest

from shared.documents import DocumentError, pack, read_csv, read_json, read_toml

TOML = """
day = 2026-01-01
[hours]
opens = 08:30:00
on = true
[[list]]
n = 1
[[list]]
n = "2"
[texts]
words = ["a", "b"]
mixed = ["a", 1]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sample.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def test_values_come_with_their_type(file: Path) -> None:
    """Days, times, numbers, lists and tables by dotted key."""
    document = read_toml(file)
    assert document.need("day", date) == date(2026, 1, 1)
    assert document.need("hours.opens", time) == time(8, 30)
    assert document.part("hours").need("opens", time) == time(8, 30)
    assert document.texts("texts.words") == ("a", "b")
    assert document.parts("list")[0].need("n", int) == 1
    assert document.parts("list")[0].need("n", float) == 1.0
    assert document.get("hours.closes", time) is None


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda d: d.need("hours.closes", time), "hours.closes is missing"),
        (lambda d: d.need("hours.opens.deep", time), "hours.opens.deep is missing"),
        (lambda d: d.need("hours.opens", str), "hours.opens must be str, not time"),
        (lambda d: d.need("hours.on", int), "hours.on must be int, not bool"),
        (lambda d: d.get("day", int), "day must be int, not date"),
        (lambda d: d.parts("list")[1].need("n", int), r"list\[1\].n must be int, not str"),
        (lambda d: d.part("hours").need("x", int), "hours.x is missing"),
        (lambda d: d.texts("texts.mixed"), r"texts.mixed\[1\] must be str, not int"),
    ],
)
def test_an_error_names_file_and_key(file: Path, ask, said: str) -> None:  # type: ignore[no-untyped-def]
    """Whoever mends the pack knows where to look."""
    with pytest.raises(DocumentError, match=rf"sample\.toml: key {said}"):
        ask(read_toml(file))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """Missing, not UTF-8, not TOML, not JSON, not an object."""
    bad = tmp_path / "bad.file"
    with pytest.raises(DocumentError, match=r"bad\.file: there is no such file"):
        read_toml(bad)
    bad.write_bytes("荣成".encode("gbk"))
    with pytest.raises(DocumentError, match=r"bad\.file: cannot be read as UTF-8"):
        read_csv(bad, ["a"])
    bad.write_text("= 1")
    with pytest.raises(DocumentError, match=r"bad\.file: not valid TOML"):
        read_toml(bad)
    with pytest.raises(DocumentError, match=r"bad\.file: not valid JSON"):
        read_json(bad)
    bad.write_text("[]")
    with pytest.raises(DocumentError, match=r"bad\.file: the top must be an object"):
        read_json(bad)


def test_csv_rows_have_their_columns(tmp_path: Path) -> None:
    """A byte order mark is forgiven; missing columns, wrong numbers of cells and empty cells are named."""
    path = tmp_path / "a.csv"
    path.write_text("\ufeffcode,name,note\n1,俚岛镇,\n", encoding="utf-8")
    assert read_csv(path, ["code", "name"]) == [{"code": "1", "name": "俚岛镇", "note": ""}]
    with pytest.raises(DocumentError, match=r"a\.csv: column kind is missing"):
        read_csv(path, ["code", "kind"])
    with pytest.raises(DocumentError, match=r"a\.csv: line 2 lacks a value for note"):
        read_csv(path, ["note"])
    for row in ("1,2", "1,2,3,4"):
        path.write_text(f"code,name,note\n{row}\n", encoding="utf-8")
        with pytest.raises(DocumentError, match=r"a\.csv: line 2 has too many or too few columns"):
            read_csv(path, ["code"])


def test_the_pack_is_the_one_given_or_the_default(tmp_path: Path) -> None:
    """A folder that is not there is refused with the setting to mend."""
    assert pack(tmp_path) == tmp_path
    assert (pack(None) / "calendar.toml").is_file()
    with pytest.raises(DocumentError, match="YINGBAO_CITY_PACK"):
        pack(tmp_path / "none")
