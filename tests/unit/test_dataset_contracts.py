"""The contracts of data sets: all of them load, and a contract that contradicts itself does not."""

from pathlib import Path

import pytest

from services.registry.domain import Declared, Form, Insurance, UnitKind
from shared.datasets.contract import FOLDER, load_contracts
from shared.documents import DocumentError

GOOD = (FOLDER / "participations.toml").read_text("utf-8")


def test_choices_of_the_contracts_are_those_of_the_calls() -> None:
    """Every value that a call accepts, and no other."""
    found = {
        (contract.id, column.name): set(column.values.values())
        for contract in load_contracts().values()
        for column in contract.columns
        if column.type == "choice"
    }
    assert found == {
        ("unit_registrations", "kind"): set(UnitKind),
        ("participations", "insurance"): set(Insurance),
        ("participations", "form"): set(Form),
        ("participations", "kind"): set(Declared),
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('mode = "delta"', 'mode = "often"', "delta or snapshot"),
        ('key = ["id_number"', 'key = ["passport"', "passport"),
        ('type = "day"', 'type = "moment"', "type must be one of"),
        ('"人员姓名"', '"身份证号"', "身份证号 stands for id_number and name"),
        ('"失业"', '"工伤"', "stands for two values"),
        ("retention_days = 365\n", "", "retention_days is missing"),
    ],
)
def test_a_contract_that_contradicts_itself_does_not_load(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    """The error names the file and the place."""
    assert old in GOOD
    (tmp_path / "x.toml").write_text(GOOD.replace(old, new), "utf-8")
    with pytest.raises(DocumentError, match=words):
        load_contracts(tmp_path)
