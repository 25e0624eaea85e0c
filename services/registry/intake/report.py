"""The error file of a batch: every row that was not applied, with what to do about it, ready to be mended."""

import csv
import io
from collections.abc import Iterable, Sequence

from services.registry.domain import Batch, RejectedRow

HEADINGS = ("行号", "列", "错误", "处理办法")


def report_head(batch: Batch) -> bytes:
    """The headings: where, which column, why, what to do; then those of the file. Spreadsheets need the BOM.

    Below them, without a line number, what is wrong with the file as a whole.
    """
    of_file = [["", "", problem.code, f"{problem.zh} / {problem.en}"] for problem in batch.problems]
    return b"\xef\xbb\xbf" + _csv([[*HEADINGS, *batch.layout.get("headings", ())], *of_file])


def report_rows(batch: Batch, rows: Iterable[RejectedRow]) -> bytes:
    """The lines of some rows."""
    delimiter = batch.layout.get("delimiter", ",")
    return _csv([_line(row, delimiter) for row in rows])


def _line(row: RejectedRow, delimiter: str) -> list[str]:
    troubles = row.troubles
    return [
        str(row.row),
        "；".join(dict.fromkeys(trouble.column for trouble in troubles if trouble.column)),
        "；".join(trouble.code for trouble in troubles),
        "；".join(f"{trouble.zh} / {trouble.en}" for trouble in troubles),
        *map(_harmless, _cells(row.text, delimiter)),
    ]


def _cells(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error:  # a row kept with a line break in it
        return [text]


def _harmless(cell: str) -> str:
    """A tab in front keeps a spreadsheet from taking a cell for a formula; a reader takes it away again."""
    return f"\t{cell}" if cell[:1] in ("=", "+", "-", "@") else cell


def _csv(lines: Sequence[Sequence[str]]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerows(lines)
    return written.getvalue().encode()
