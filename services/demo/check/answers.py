"""Judges what the services answered to the story's questions: is this message genuine, which rows were rejected."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.demo.check.finding import Finding
from services.demo.check.law import instant
from services.demo.check.rows import Row


def judge_answers(records: Mapping[str, Any], of_unit: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    """Every answer that contradicts records or ledger."""
    for answer in records.get("answers", ()):
        judge = _verified if answer["fact"] == "verified" else _errors
        yield from judge(answer, of_unit)


def is_genuine(answer: Mapping[str, Any], of_unit: Mapping[str, Sequence[Row]]) -> bool:
    """A real number of a message is genuine with every unit that the message covers, and with no other."""
    asked = instant(answer["asked_at"])
    told = any(row.accepted and row.at <= asked for row in of_unit[answer["uscc"]])
    return told and not answer["forged"]


def _verified(answer: Mapping[str, Any], of_unit: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    expected = is_genuine(answer, of_unit)
    if answer["answer"] is not expected:
        yield Finding("wrong verdict", answer["uscc"], f"{answer['key']}: genuine should be {expected}")


def _errors(answer: Mapping[str, Any], _of_unit: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    """An error file holds the broken rows and no others."""
    if answer["answer"] != answer["planted"]:
        text = f"rows {answer['planted']} are broken, the error file names {answer['answer']}"
        yield Finding("wrong errors", answer["key"], text)
