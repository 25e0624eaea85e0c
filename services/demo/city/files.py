"""What departments send as files: units, participations, broken lines, and the stock of old cases."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from services.demo.city.builder import BY_FILE, Builder, Plan, spell
from services.demo.city.model import INSURES, REGISTERS, Action, Person
from shared.clock import ZONE

_UNIT_HEADINGS = "统一社会信用代码,企业名称,企业类型,成立日期,所属镇街,住所,行业代码,法定代表人,法人手机"
_PARTICIPATION_HEADINGS = "统一社会信用代码,身份证号,姓名,险种,参保形式,参保性质,参保日期"
_KIND_NAMES = {
    "enterprise": "有限责任公司",
    "cooperative": "农民专业合作社",
    "private_non_enterprise": "民办非企业单位",
    "social_organisation": "社会团体",
    "foundation": "基金会",
    "law_firm": "律师事务所",
}
_UNITS_SENT = datetime(2026, 1, 12, 9, tzinfo=ZONE)
_STOCK_SENT = datetime(2026, 1, 5, 11, tzinfo=ZONE)
_PARTICIPATIONS_SENT = datetime(2026, 2, 3, 0, 20, tzinfo=ZONE)
_MENDED = datetime(2026, 2, 11, 9, 30, tzinfo=ZONE)


def _files(b: Builder) -> None:
    """A file of units, and one of their participations with rows that nobody can read.

    Those rows may say that their units insure somebody, so the units are left alone until somebody settles
    the rows or sends them again.
    """
    fates = {"file_never_enrols": 6, "file_enrols": 6, "row_settled": 2, "row_sent_again": 2, "row_left": 1}
    plans = [
        # deadlines from 5 to 9 February: after the participations, before what is done about their rows
        b.unit(fate, b.established(date(2026, 2, 5), date(2026, 2, 9)), registered=BY_FILE)
        for fate, count in fates.items()
        for _ in range(count)
    ]
    broken = "9137108,荣成市断行有限公司,有限责任公司"
    _send_units(b, "units", _UNITS_SENT, plans, encoding="utf-8-sig", broken=(broken,))
    people = {plan.unit.uscc: b.inventor.person() for plan in plans if plan.unit.fate != "file_never_enrols"}
    insured = [plan for plan in plans if plan.unit.fate == "file_enrols"]
    unreadable = [plan for plan in plans if plan.unit.fate.startswith("row_")]
    _send_participations(b, insured, unreadable, people)
    _mend_rows(b, unreadable, people, first_line=2 + len(insured))


def _send_units(
    b: Builder,
    key: str,
    at: datetime,
    plans: Sequence[Plan],
    *,
    encoding: str,
    broken: tuple[str, ...] = (),
) -> None:
    lines = [_UNIT_HEADINGS, *(_unit_line(plan) for plan in plans), *broken]
    facts = [{**plan.registration, "uscc": plan.unit.uscc} for plan in plans]
    path = "/registry/v1/datasets/unit_registrations/batches"
    content = "\r\n".join(lines).encode(encoding)
    b.actions.append(Action(f"file-{key}", at, "POST", path, content, REGISTERS, facts=tuple(facts)))
    planted = [len(lines) - n for n in reversed(range(len(broken)))]
    _fetch_errors(b, key, at + timedelta(minutes=30), planted, department=REGISTERS)


def _unit_line(plan: Plan) -> str:
    u = plan.unit
    facts = (u.uscc, u.name, _KIND_NAMES[u.kind], u.established_on.isoformat(), u.town, u.address, u.industry)
    return _csv((*facts, u.contact.name, u.mobile or ""))


def _send_participations(
    b: Builder, insured: Sequence[Plan], unreadable: Sequence[Plan], people: dict[str, Person]
) -> None:
    """The feed of one night as a file, which says that the days until then are complete."""
    night = _PARTICIPATIONS_SENT.date()
    through = (night - timedelta(days=1)).isoformat()
    started_on = date(2026, 1, 26)
    lines, facts = [_PARTICIPATION_HEADINGS], []
    for plan in insured:
        lines.append(_participation_line(plan, people[plan.unit.uscc], started_on))
        facts.append(_enrolled(plan, started_on))
    for plan in unreadable:
        person = people[plan.unit.uscc]
        wrong = person.id_number[:-1] + ("1" if person.id_number[-1] != "1" else "2")
        lines.append(_participation_line(plan, Person(wrong, person.name), started_on))
        facts.append({"fact": "disputed", "uscc": plan.unit.uscc})
    facts.append({"fact": "declared", "through": through})
    path = f"/registry/v1/datasets/participations/batches?complete_through={through}"
    content = "\r\n".join(lines).encode("gbk")
    at, key = _PARTICIPATIONS_SENT, "file-participations"
    b.actions.append(Action(key, at, "POST", path, content, INSURES, facts=tuple(facts)))
    b.nights_by_file.add(night)
    planted = list(range(2 + len(insured), len(lines) + 1))
    morning = datetime.combine(night, time(9), ZONE)
    _fetch_errors(b, "participations", morning, planted, department=INSURES)


def _mend_rows(b: Builder, unreadable: Sequence[Plan], people: dict[str, Person], first_line: int) -> None:
    """Some rows concern nobody's insurance, some come again with the right number, one is left as it is."""
    again = [plan for plan in unreadable if plan.unit.fate == "row_sent_again"]
    for line, plan in enumerate(unreadable, first_line):
        if plan.unit.fate == "row_settled":
            path = f"/registry/v1/batches/{{id}}/rows/{line}/settle"
            request = ("POST", path, {"reason": "经核实该人员未在本单位参保"})
            b.call(
                plan, _MENDED, request, {"fact": "settled"}, department=INSURES, after="file-participations"
            )
    started_on = date(2026, 1, 26)
    lines = [_participation_line(plan, people[plan.unit.uscc], started_on) for plan in again]
    facts: list[dict[str, Any]] = [_enrolled(plan, started_on) for plan in again]
    facts += [{"fact": "settled", "uscc": plan.unit.uscc} for plan in again]
    content = "\n".join([_PARTICIPATION_HEADINGS, *lines]).encode()
    path = "/registry/v1/datasets/participations/batches"
    at = _MENDED + timedelta(minutes=30)
    b.actions.append(Action("file-again", at, "POST", path, content, INSURES, facts=tuple(facts)))


def _participation_line(plan: Plan, person: Person, started_on: date) -> str:
    facts = (person.id_number, person.name, "企业养老", "单位参保", "新参保", f"{started_on:%Y/%m/%d}")
    return _csv((plan.unit.uscc, *facts))


def _enrolled(plan: Plan, started_on: date) -> dict[str, Any]:
    return {**spell("pension", started_on), "uscc": plan.unit.uscc, "key": f"{plan.prefix}-by-file"}


def _stock(b: Builder) -> None:
    """Old cases that came in a file: a person lets them go on in portions, the oldest first."""
    portions = {
        "stock_released": [(date(2025, 12, day), 2) for day in (15, 16, 17)],
        "stock_released_later": [(date(2025, 12, day), 2) for day in (22, 23)],
        "stock_left": [(date(2025, 12, 29), 2), (date(2026, 1, 4), 2)],
    }
    plans = [
        b.unit(fate, last - timedelta(days=30), registered=BY_FILE)
        for fate, lasts in portions.items()
        for last, count in lasts
        for _ in range(count)
    ]
    _send_units(b, "stock", _STOCK_SENT, plans, encoding="gb18030")
    for n, (fate, day) in enumerate((("stock_released", 7), ("stock_released_later", 14))):
        freed = [plan.unit.uscc for plan in plans if plan.unit.fate == fate]
        b.actions.append(
            Action(
                key=f"stock-{n}",
                at=datetime(2026, 1, day, 9, 30, tzinfo=ZONE),
                method="POST",
                path="/matching/v1/stock/release",
                body={"count": len(freed)},
                department=INSURES,
                facts=tuple({"fact": "released", "uscc": uscc} for uscc in freed),
                keeps="released",
            )
        )


def _fetch_errors(b: Builder, key: str, at: datetime, planted: Sequence[int], *, department: str) -> None:
    """The department fetches the rows that were not applied."""
    path = "/registry/v1/batches/{id}/errors"
    facts = ({"fact": "errors", "planted": list(planted)},)
    b.actions.append(
        Action(f"errors-{key}", at, "GET", path, None, department, after=f"file-{key}", facts=facts)
    )


def _csv(cells: Iterable[str]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(cells)
    return written.getvalue()


FILES: tuple[Callable[[Builder], None], ...] = (_files, _stock)
"""Each makes its units, with fates of their own."""
