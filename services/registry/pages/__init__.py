"""What registry shows people: how complete its data is, and how many units nobody is insured through."""

from datetime import date, datetime
from typing import Final

import sqlalchemy as sa
from markupsafe import Markup

from services.registry.domain import City, Unit, late_days
from services.registry.store import Store, Vault
from shared.clock import today
from shared.pages import SHOWN, ListPage, Pages, Templates, Words

_COLUMNS: Final = (
    Words("单位", "unit"),
    Words("统一社会信用代码", "code"),
    Words("镇街", "town"),
    Words("设立日期", "established"),
    Words("状态", "status"),
)
_STATUS: Final = {"active": "存续", "suspended": "歇业", "revoked": "吊销", "closed": "注销"}
_ALL: Final = Words("登记单位", "units registered")
_UNINSURED: Final = Words("无人参保的单位", "units that insure nobody")
_NO_UNIT: Final = Words(
    "还没有单位；登记第一户：POST /registry/v1/units",
    "No unit yet; register the first: POST /registry/v1/units",
)
_ALL_INSURED: Final = Words("没有无人参保的单位", "Every unit insures somebody")


def pages(city: City, vault: Vault) -> Pages:
    """The pages, for this city. Nothing sealed is opened for them."""
    templates = Templates("services.registry")

    def fragment(db: sa.Connection, now: datetime, base: str) -> Markup:
        store, day = Store(db, vault), today(now)
        marks = store.complete_through()
        return templates.render(
            "fragment.html",
            base=base,
            units=store.count_units(day),
            uninsured=store.count_units(day, insured=False),
            datasets=[
                (item, marks.get(item.id), late_days(item.mode, marks.get(item.id), day))
                for item in city.datasets.values()
            ],
        )

    def listing(db: sa.Connection, now: datetime, name: str, skip: int) -> ListPage | None:
        store, day = Store(db, vault), today(now)
        if name == "units":
            return _units(store, day, skip, insured=None)
        return _units(store, day, skip, insured=False) if name == "uninsured" else None

    return Pages(Words("单位库", "registry"), fragment, listing)


def _units(store: Store, day: date, skip: int, *, insured: bool | None) -> ListPage:
    found = store.unit_page(towns=(), insured=insured, q=None, after="", limit=SHOWN, today=day, skip=skip)
    return ListPage(
        _ALL if insured is None else _UNINSURED,
        _COLUMNS,
        [_cells(unit) for unit in found],
        store.count_units(day, insured=insured),
        "/registry/v1/units" + ("" if insured is None else "?insured=false"),
        _NO_UNIT if insured is None else _ALL_INSURED,
    )


def _cells(unit: Unit) -> tuple[str | date | None, ...]:
    return (unit.name, unit.uscc, unit.town, unit.established_on, _STATUS[unit.status])
