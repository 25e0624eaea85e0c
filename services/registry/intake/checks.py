"""Checks rows against the contract of their data set, by the very rules that single calls are held to."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pydantic import ValidationError

from services.registry.domain import AHEAD, ContactRole, Trouble
from services.registry.intake.readers import Layout, Row
from services.registry.schemas import ParticipationIn, UnitRowIn
from shared.datasets.contract import Contract
from shared.errors import FieldError
from shared.http import field_errors
from shared.identifiers import USCC_ALPHABET, check_uscc
from shared.privacy import scrub

_CODE = re.compile(f"(?<![0-9A-Z])[{USCC_ALPHABET}]{{18}}(?![0-9A-Z])")
_CONTACTS = (
    (ContactRole.LEGAL_REPRESENTATIVE, "legal_representative", "legal_representative_mobile"),
    (ContactRole.CONTACT, "contact", "contact_mobile"),
)


@dataclass(frozen=True)
class Checked:
    """A row with the facts of its command, or the troubles that stand against it."""

    row: Row
    facts: Mapping[str, Any]
    ended_on: date | None = None
    troubles: tuple[Trouble, ...] = ()

    @property
    def uscc(self) -> str | None:
        """The unit that the row speaks of, where its code can be read.

        A line that fell apart is searched for the one code in it. In shifted columns the code may be an ID
        number: that is no unit, and would lie open in every event.
        """
        if self.row.trouble is None:
            check = check_uscc(self.row.cells.get("uscc", ""))
            return None if check.problem or scrub(check.value) != check.value else check.value
        codes = {code for code in _CODE.findall(self.row.text.upper()) if check_uscc(code).check_ok}
        return codes.pop() if len(codes) == 1 and scrub("".join(codes)) == "".join(codes) else None


def check(row: Row, contract: Contract, layout: Layout, today: date) -> Checked:
    """One row."""
    if row.trouble is not None:
        return Checked(row, {}, troubles=(row.trouble,))
    read = {column.name: column.read(row.cells.get(column.name, "")) for column in contract.columns}
    faults = [value for value in read.values() if isinstance(value, FieldError)]
    values: dict[str, Any] = {
        name: value for name, value in read.items() if value and not isinstance(value, FieldError)
    }
    ended_on: date | None = values.pop("ended_on", None)
    if ended_on and not values.get("started_on", ended_on) <= ended_on <= today + AHEAD:
        faults.append(
            FieldError(
                "/ended_on",
                "wrong_end",
                "须不早于开始日期，且不晚于一年后",
                "must not be before the start, nor more than a year ahead",
            )
        )
    is_participation = contract.id == "participations"
    facts, columns = _participation(values) if is_participation else _unit(values)
    try:
        facts = (ParticipationIn if is_participation else UnitRowIn).model_validate(facts).facts()
    except ValidationError as error:
        # What the contract found is not said twice.
        found = {fault.pointer for fault in faults}
        for fault in field_errors(error):
            named = replace(fault, pointer=f"/{columns.get(fault.pointer, fault.pointer[1:])}")
            if named.pointer not in found:
                faults.append(named)
    return Checked(row, facts, ended_on, troubles_of(faults, layout))


def troubles_of(faults: Iterable[FieldError], layout: Layout) -> tuple[Trouble, ...]:
    """What is wrong, under the headings of the file."""
    return tuple(
        Trouble(fault.code, fault.zh, fault.en, layout.heading(fault.pointer.rpartition("/")[2]))
        for fault in faults
    )


def _participation(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The body of a single call, and which column each of its pointers stands for."""
    person = {name: values.pop(name) for name in ("id_number", "name") if name in values}
    return {**values, "person": person}, {f"/person/{name}": name for name in ("id_number", "name")}


def _unit(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The same of a unit. A contact is somebody with a number; without a name the legal representative."""
    representative = values.get("legal_representative")
    contacts: list[dict[str, Any]] = []
    columns: dict[str, str] = {}
    for role, name, mobile in _CONTACTS:
        named, number = values.pop(name, representative), values.pop(mobile, None)
        if number is not None:
            columns |= {f"/contacts/{len(contacts)}/name": name, f"/contacts/{len(contacts)}/mobile": mobile}
            contacts.append({"role": role, "mobile": number, **({"name": named} if named else {})})
    return {**values, "contacts": contacts}, columns
