"""Reads CSV as departments export it: whatever encoding and delimiter, titles above the headings, broken lines.

A row is a line. Memory stays flat: what is read is one line, or a count. Nothing is guessed into a text that
may be wrong: a line in another encoding than its file is refused.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Final, Literal

from services.registry.domain import Trouble
from shared.datasets.contract import Contract, word

MAX_LINE: Final = 16 * 1024
"""Longest line, in bytes."""
MAX_TITLES: Final = 10
"""The headings are among so many first lines."""
_DELIMITERS: Final = (",", "\t")
_TOTALS: Final = ("合计", "总计", "小计")
_BOM: Final = b"\xef\xbb\xbf"
# Delimiters, quotes and blanks; the full-width one in either encoding, for a survey does not know the file's yet.
_BLANK = re.compile(rb'(?:[\s,"]|\xe3\x80\x80|\xa1\xa1)*')
# Two-byte UTF-8, which Chinese files hold next to nothing of; bytes of GBK are often such by chance.
_FOREIGN = re.compile("[\u0080-\u00b6\u00b8-\u00d6\u00d8-\u07ff]")
_OTHER_FORMATS: Final = (
    (b"PK\x03\x04", "Excel（xlsx）"),
    (b"\xd0\xcf\x11\xe0", "Excel（xls）"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)

Encoding = Literal["utf-8", "gb18030"]
"""GB18030 reads GBK and GB2312 too."""


@dataclass(frozen=True)
class Line:
    """A line of a file, counted from 1, without its end. `end` is where the next one begins, in bytes."""

    number: int
    raw: bytes
    end: int

    @property
    def is_blank(self) -> bool:
        """No cell of it holds anything. Told by the bytes, so that a survey counts what is read afterwards."""
        return _BLANK.fullmatch(self.raw) is not None


@dataclass(frozen=True)
class Layout:
    """How a file is to be read. `columns` names the field of each column, None for one nobody asked for."""

    encoding: Encoding
    delimiter: str
    headings: tuple[str, ...]
    columns: tuple[str | None, ...]
    line: int
    offset: int
    rows: int

    def heading(self, field: str) -> str:
        """The heading over a field, as the file has it; the field itself where it has none."""
        return self.headings[self.columns.index(field)] if field in self.columns else field


@dataclass(frozen=True)
class Row:
    """A line below the headings: its cells by field, or the trouble with it. `text` is the line itself."""

    number: int
    end: int
    text: str
    cells: dict[str, str]
    trouble: Trouble | None = None


def lines(chunks: Iterable[bytes], *, number: int = 0, offset: int = 0) -> Iterator[Line]:
    """The lines of a file from a place on, whichever kind of end they have.

    Of one that is too long, one byte more than allowed is kept.
    """
    rest, dropped = b"", 0
    for chunk in chunks:
        whole = (rest + chunk).splitlines(keepends=True)
        # A carriage return may be half of an end.
        rest = whole.pop() if whole and not whole[-1].endswith(b"\n") else b""
        for raw in whole:
            number, offset, dropped = number + 1, offset + len(raw) + dropped, 0
            yield Line(number, _endless(raw), offset)
        if len(rest) > MAX_LINE + 2:
            kept = rest[: MAX_LINE + 1] + (b"\r" if rest.endswith(b"\r") else b"")
            dropped += len(rest) - len(kept)
            rest = kept
    if rest:
        yield Line(number + 1, _endless(rest), offset + len(rest) + dropped)


def _endless(raw: bytes) -> bytes:
    return raw.rstrip(b"\r\n")[: MAX_LINE + 1]


def survey(chunks: Iterable[bytes], contract: Contract) -> Layout | Trouble:
    """How a whole file is to be read, or why it cannot be."""
    every = lines(chunks)
    first = list(islice(every, MAX_TITLES))
    if not first:
        return Trouble("empty_file", "文件是空的，请检查导出", "the file is empty; check the export")
    for magic, name in _OTHER_FORMATS:
        if first[0].raw.startswith(magic):
            return Trouble(
                "not_csv",
                f"文件是 {name} 格式，请另存为 CSV（UTF-8）再发送",
                f"this is not CSV text but {name.replace('（', ' (').replace('）', ')')}; save it as CSV (UTF-8)",
            )
    heading = max((_read_heading(line, contract) for line in first), key=lambda found: len(found.fields))
    if lacking := [
        column for column in contract.columns if column.required and column.name not in heading.fields
    ]:
        return _no_heading(contract) if len(heading.fields) < 2 else _lacks([item.label for item in lacking])
    if repeated := [name for name, count in Counter(heading.fields).items() if count > 1]:
        names = "、".join(repeated)
        return Trouble(
            "repeated_column", f"列重复：{names}，请只保留一列", f"columns occur twice: {names}; keep one"
        )
    below = [line for line in first if line.number > heading.line.number]
    return _survey_rows(heading, [below, every])


@dataclass(frozen=True)
class _Heading:
    line: Line
    encoding: Encoding
    delimiter: str
    texts: tuple[str, ...]
    columns: tuple[str | None, ...]

    @property
    def fields(self) -> list[str]:
        return [name for name in self.columns if name is not None]


def _read_heading(line: Line, contract: Contract) -> _Heading:
    """The line as the headings that it most likely holds."""
    readings = [_Heading(line, "utf-8", ",", (), ())]
    encodings: tuple[Encoding, ...] = ("utf-8", "gb18030")
    for encoding, delimiter in product(encodings, _DELIMITERS):
        text = _decode(line.raw.removeprefix(_BOM), encoding)
        if text:
            texts = tuple(map(_clean, next(csv.reader([text], delimiter=delimiter), ())))
            found = (contract.headings.get(word(cell)) for cell in texts)
            columns = tuple(column.name if column else None for column in found)
            readings.append(_Heading(line, encoding, delimiter, texts, columns))
    return max(readings, key=lambda reading: len(reading.fields))


def _no_heading(contract: Contract) -> Trouble:
    needed = "、".join(column.label for column in contract.columns if column.required)
    return Trouble(
        "no_heading",
        f"前 {MAX_TITLES} 行内没有找到表头，必需的列：{needed}",
        f"no heading row among the first {MAX_TITLES} lines; needed columns: {needed}",
    )


def _lacks(labels: Sequence[str]) -> Trouble:
    names = "、".join(labels)
    return Trouble("missing_columns", f"表头缺少列：{names}，请补充", f"the headings lack: {names}; add them")


def _survey_rows(heading: _Heading, below: Iterable[Iterable[Line]]) -> Layout | Trouble:
    votes: Counter[Encoding | None] = Counter()
    rows = 0
    for part in below:
        for line in part:
            if not line.is_blank:
                rows += 1
                votes[_encoding(line.raw)] += not line.raw.isascii()
    if not rows:
        return Trouble(
            "no_rows",
            "表头下没有数据行，请检查导出；当期确无数据的无需发送，按申报确定完整日期的数据集另行声明即可",
            "there is no row below the headings; if nothing happened, send nothing, and where completeness is declared,"
            " declare it",
        )
    if votes["utf-8"] == votes["gb18030"]:
        encoding = heading.encoding
    else:
        encoding = "utf-8" if votes["utf-8"] > votes["gb18030"] else "gb18030"
    return Layout(
        encoding=encoding,
        delimiter=heading.delimiter,
        headings=heading.texts,
        columns=heading.columns,
        line=heading.line.number,
        offset=heading.line.end,
        rows=rows,
    )


def rows(chunks: Iterable[bytes], layout: Layout, *, number: int, offset: int) -> Iterator[Row]:
    """The rows from a place on; blank lines are left out."""
    for line in lines(chunks, number=number, offset=offset):
        if not line.is_blank:
            yield _row(line, layout)


def _row(line: Line, layout: Layout) -> Row:
    raw = line.raw
    # Only for the sender's eyes, where the line is refused: then the other encoding may show it best.
    texts = (_decode(raw, layout.encoding), _decode(raw, "utf-8"), _decode(raw, "gb18030"))
    text = next((text for text in texts if text is not None), raw.decode(layout.encoding, "replace"))
    cells, trouble = _cells(raw, layout)
    if trouble is not None:
        return Row(line.number, line.end, text, {}, trouble)
    named = {
        name: _clean(cell) for name, cell in zip(layout.columns, cells, strict=False) if name is not None
    }
    surplus = [cell for cell in cells[len(layout.columns) :] if cell.strip()]
    if surplus or len(cells) < len(layout.columns):
        expected, found = len(layout.columns), len(cells)
        trouble = Trouble(
            "wrong_column_count",
            f"本行有 {found} 列，表头有 {expected} 列，请检查多余或缺少的分隔符",
            f"the row has {found} columns, the headings {expected}; look for a delimiter too many or too few",
        )
    if word(next(filter(str.strip, cells), "")).startswith(_TOTALS):
        trouble = Trouble(
            "total_row",
            "合计行不是数据，请从文件中删除",
            "a row of totals is no data; take it out of the file",
        )
    return Row(line.number, line.end, text, named, trouble)


def _cells(raw: bytes, layout: Layout) -> tuple[list[str], Trouble | None]:
    if len(raw) > MAX_LINE:
        return [], Trouble(
            "line_too_long",
            f"本行超过 {MAX_LINE} 字节，请检查换行",
            f"the line is longer than {MAX_LINE} bytes; look for a missing line break",
        )
    text = _decode(raw, layout.encoding)
    if text is None or _encoding(raw) not in (None, layout.encoding):
        return [], Trouble(
            "other_encoding",
            "本行编码与文件其他行不一致或含损坏的字符，请以 UTF-8 重新导出",
            "the line is in another encoding than the file, or damaged; export it again as UTF-8",
        )
    try:
        return next(csv.reader([text], delimiter=layout.delimiter, strict=True)), None
    except csv.Error:
        return [], Trouble(
            "broken_quotes",
            "引号未成对，或单元格内有换行，请改正",
            "a quotation mark lacks its pair, or a cell holds a line break; mend it",
        )


def _encoding(raw: bytes) -> Encoding | None:
    """The only encoding that makes sense of a line; None where both do, or neither."""
    text = _decode(raw, "utf-8")
    if text is None:
        return None if _decode(raw, "gb18030") is None else "gb18030"
    if text.isascii():
        return None
    foreign = _FOREIGN.search(text) is not None
    return None if foreign and _decode(raw, "gb18030") is not None else "utf-8"


def _decode(raw: bytes, encoding: Encoding) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


def _clean(cell: str) -> str:
    """A cell without what spreadsheets put around it: blanks, an apostrophe, ="…" that keeps digits a text."""
    cell = cell.strip(" \t\r\u3000\ufeff\u00a0")
    if cell.startswith('="') and cell.endswith('"'):
        cell = cell[2:-1]
    return cell.removeprefix("'").strip()
