"""A suite with something in every corner of the first page, and a reader who follows its links."""

import re
from datetime import date, datetime
from html import unescape
from urllib.parse import urljoin

from shared.clock import ZONE
from shared.identifiers import org_code_check_char, uscc_check_char
from tests.support.system import System

BATCH = {"registry": {"participations_mode": "batch"}}
"""Participations are complete only as far as somebody declares."""

DECLARED = date(2026, 1, 7)
TODAY = datetime(2026, 1, 21, 10, tzinfo=ZONE)
NAUGHTY = "荣成<b>甲</b>渔业有限公司"
LONG = "Rongcheng" + "Shipbuilding" * 5
"""A name that no browser breaks by itself."""


def code(number: int) -> str:
    """A valid USCC of an enterprise."""
    organisation = f"MA3XT{number:03d}"
    first17 = f"91371082{organisation}{org_code_check_char(organisation)}"
    return first17 + uscc_check_char(first17)


async def lived_in(system: System) -> None:
    """Leads reminded, unreached, held and enrolled; clocks running, waiting and suspended; visits; newly insured."""
    overdue = date(2025, 12, 8)
    wrong = code(6)[:-1] + ("0" if code(6)[-1] != "0" else "1")
    await system.register(code(0), overdue, name=NAUGHTY)
    await system.register(code(1), overdue, contacts=[])
    await system.register(code(2), overdue, contacts=[_contact("13800138002")])
    await system.register(code(3), date(2025, 12, 25), name=LONG)
    await system.register(code(4), date(2025, 12, 9))
    await system.register(code(5), overdue)
    await system.register(wrong, overdue)
    await system.register(code(7), overdue)
    await system.ask(
        "POST", f"/registry/v1/units/{code(5)}/suspend", {"suspended_on": "2026-01-05"}, department="ADM"
    )
    await system.enrol(code(7), date(2026, 1, 5))
    through = {"through": DECLARED.isoformat()}
    await system.move_to(datetime(2026, 1, 8, 9, tzinfo=ZONE))
    await system.ask("PUT", "/registry/v1/datasets/participations/complete-through", through)
    await system.move_to(datetime(2026, 1, 9, 10, tzinfo=ZONE))
    await system.enrol(
        code(2), date(2026, 1, 9), person={"id_number": "371082199001010017", "name": "李示例"}
    )
    await system.move_to(TODAY)


def _contact(mobile: str) -> dict[str, str]:
    return {"role": "legal_representative", "name": "于示例", "mobile": mobile}


async def browse(system: System, start: str = "/") -> dict[str, str]:
    """A page and every list it links to: path → HTML."""
    found = {start: (await system.page(start)).text}
    for link in figures(found[start]):
        path = urljoin(start, link)
        found[path] = (await system.page(path)).text
    return found


def figures(html: str) -> dict[str, int]:
    """The figures of a page: the list that each links to → the number shown."""
    links = re.findall(r'<a href="([^"]*/lists/[^"]+)">(.*?)</a>', html, re.DOTALL)
    found = [(href, re.search(r"[\d,]+", _text(inner))) for href, inner in links]
    return {href: int(number[0].replace(",", "")) for href, number in found if number}


def rows(html: str) -> int:
    """How many rows the one table of a list has."""
    return html.partition("<tbody>")[2].count("<tr>")


def text(html: str) -> str:
    """What a person reads on a page."""
    return _text(html.partition("<body>")[2])


def _text(html: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html)))
