"""What matching shows people: the funnel, the clocks about to run out, and what stands still and why."""

import json
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from markupsafe import Markup

from services.matching import store
from services.matching.domain import STOCK, ClockState, Hold, Rule
from services.matching.funnel import Place, count_places, place_of
from shared.clock import today
from shared.pages import SHOWN, ListPage, Pages, Templates, Words, code_words

AHEAD: Final = timedelta(days=6)
"""How far the clocks about to run out are looked at: today and six days more."""

IN_FRAGMENT: Final = 8
"""Rows of a list that stand on the first page."""

PLACES: Final = {
    Place.OPENED_NOT_SENT: Words("已立线索，未发送", "opened, not sent"),
    Place.REMINDED: Words("已提醒", "reminded"),
    Place.SECOND_REMINDED: Words("已二次提醒", "reminded twice"),
    Place.UNREACHED_VISIT: Words("未送达，待走访", "unreached, visit"),
    Place.HELD: Words("暂缓", "held"),
    Place.ENROLLED: Words("已参保办结", "ended: enrolled"),
    Place.EXEMPT: Words("豁免办结", "ended: exempt"),
    Place.ENDED_OTHER: Words("其他办结", "ended otherwise"),
}

HOLDS: Final = {
    Hold.PAUSED: Words("人工暂停", "paused by an official"),
    Hold.VISITED: Words("走访情况待经办人员核定", "an official has to decide after a visit"),
    Hold.CODE: Words("统一社会信用代码待核实", "code to be confirmed"),
    Hold.DISPUTED: Words("报送数据有误，待部门更正", "a row sent about it was rejected"),
    Hold.PARKED: Words("该单位有消息处理失败，待运维重放", "a message about the unit is parked"),
    Hold.SUSPENDED: Words("歇业", "out of business for a while"),
    STOCK: Words("存量，待人工分批放行", "stock, to be released in portions"),
    "provisional": Words("期限涉及未公布的放假年度", "deadline in a year without calendar"),
}

_CODES: Final = {
    "enrolled": "已参保",
    "exempt": "豁免",
    "no_obligation": "无参保义务",
    "unit_closed": "单位已注销或吊销",
    "wrong_data": "数据有误",
    "settled_by_inspection": "稽核监察已处理",
    "reminder": "首次提醒",
    "second_reminder": "二次提醒",
    "letter": "提醒函",
    "referral": "移送",
    "credit_candidate": "信用惩戒备选",
    "correction": "更正",
    "visit": "走访",
    "exemption": "核准豁免",
    "resolve": "办结",
    "correct_data": "更正数据",
    "recheck": "复查",
    "decide": "研判",
    "no_contact": "无联系方式",
    "refused": "运营商拒收",
    "silent": "无回执",
    "unknown": "结果未知",
}
"""Stages, next steps, ends and reasons of visits in Chinese; a city pack may name stages of its own."""

_WHO: Final = (Words("单位", "unit"), Words("统一社会信用代码", "code"), Words("镇街", "town"))
_UNIT: Final = (*_WHO, Words("期限届满", "deadline"))
_LEAD: Final = (
    *_UNIT,
    Words("阶段", "stage"),
    Words("下一步或结果", "next step or end"),
    Words("应办日期", "by"),
)
_CLOCK: Final = (*_UNIT, Words("设立日期", "established"))
_VISIT: Final = (
    *_WHO,
    Words("原因", "reason"),
    Words("提出时间", "asked"),
)
_NONE: Final = Words(
    "目前没有；数据变化后刷新本页", "None now; load the page again after the data has changed"
)
_VISITS: Final = Words("待走访", "visits to make")
_OVERDUE: Final = Words("逾期未办", "overdue steps")
_WEEK: Final = Words("七日内期限届满", "clocks running out within seven days")


def pages(rule: Rule) -> Pages:
    """The pages, for this rule."""
    templates = Templates("services.matching")

    def fragment(db: sa.Connection, now: datetime, base: str) -> Markup:
        day = today(now)
        places = count_places(rule.ladder, store.count_leads(db, town=None))
        ending, clocks = store.clocks_ending(db, day, day + AHEAD, IN_FRAGMENT)
        return templates.render(
            "fragment.html",
            base=base,
            day=day,
            leads=sum(places.values()),
            places=[(place, PLACES[place], places[place]) for place in Place],
            overdue=store.count_overdue(db, day, town=None),
            visits=store.open_visits(db, 0)[0],
            stock=sum(row.number for row in store.stock(db, town=None)),
            ending=ending,
            clocks=clocks,
            standing=_standing(db),
        )

    def listing(db: sa.Connection, now: datetime, name: str, skip: int) -> ListPage | None:
        kind, _, which = name.partition(".")
        found: dict[str, Callable[[], ListPage | None]] = {
            "place": lambda: _in_place(db, rule, which, skip),
            "clocks": lambda: _clocks(db, which, skip),
            "overdue": lambda: _overdue(db, today(now), skip),
            "visits": lambda: _visits(db, skip),
            "week": lambda: _week(db, today(now), skip),
        }
        return found[kind]() if kind in found else None

    return Pages(Words("数据比对", "matching"), fragment, listing)


def _standing(db: sa.Connection) -> list[tuple[str, Words, int]]:
    """What does not go on by itself: the list behind it, why, and how many."""
    clocks = [
        (f"clocks.{row.state}.{row.reason or ''}".rstrip("."), _why(row), row.number)
        for row in store.count_standing(db)
    ]
    leads = [
        (f"place.{Place.HELD}", _prefixed(json.loads(row.why)), row.number) for row in store.count_held(db)
    ]
    return clocks + leads


def _why(row: Any) -> Words:
    if row.state == ClockState.WAITING:
        if row.through is None:
            return Words(
                "期限已满，参保数据尚未申报完整日期", "run out; participations never declared complete"
            )
        return Words(
            f"期限已满，参保数据仅完整至 {row.through}",
            f"run out; participations complete through {row.through} only",
        )
    if row.state == ClockState.SUSPENDED:
        return HOLDS[Hold.SUSPENDED]
    return HOLDS.get(row.reason, Words(str(row.reason), "held"))


def _prefixed(reasons: Sequence[str]) -> Words:
    words = [HOLDS.get(reason, Words(reason, "held")) for reason in reasons]
    return Words(
        "线索暂缓：" + "、".join(word.zh for word in words),
        "lead held: " + ", ".join(word.en for word in words),
    )


def _in_place(db: sa.Connection, rule: Rule, which: str, skip: int) -> ListPage | None:
    if which not in set(Place):
        return None
    alike = [
        row
        for row in store.count_leads(db, town=None)
        if which
        == place_of(
            rule.ladder,
            state=row.state,
            end=row.end,
            stage=row.stage,
            notice=row.notice,
            messaged=row.messaged,
        )
    ]
    total = sum(row.number for row in alike)
    return _leads(PLACES[Place(which)], total, store.leads_alike(db, alike, SHOWN, skip=skip))


def _overdue(db: sa.Connection, day: date, skip: int) -> ListPage:
    total = store.count_overdue(db, day, town=None)
    return _leads(_OVERDUE, total, store.overdue_leads(db, day, SHOWN, skip=skip))


def _leads(title: Words, total: int, rows: Sequence[Any]) -> ListPage:
    cells = [
        (
            row.unit_name,
            row.uscc,
            row.town,
            row.deadline,
            code_words(_CODES, row.stage),
            code_words(_CODES, row.next_step or row.end),
            row.next_on,
        )
        for row in rows
    ]
    return ListPage(title, _LEAD, cells, total, "/matching/v1/leads", _NONE)


def _clocks(db: sa.Connection, which: str, skip: int) -> ListPage | None:
    state, _, reason = which.partition(".")
    if state not in set(ClockState):
        return None
    total, rows = store.standing_clocks(db, state, reason or None, SHOWN, skip=skip)
    return _of_clocks(HOLDS.get(reason, Words("等待参保数据", "waiting for data")), total, rows)


def _week(db: sa.Connection, day: date, skip: int) -> ListPage:
    return _of_clocks(_WEEK, *store.clocks_ending(db, day, day + AHEAD, SHOWN, skip=skip))


def _of_clocks(title: Words, total: int, rows: Sequence[Any]) -> ListPage:
    cells = [(row.unit_name, row.uscc, row.town, row.deadline, row.established_on) for row in rows]
    return ListPage(title, _CLOCK, cells, total, "/matching/v1/clocks?uscc=…", _NONE)


def _visits(db: sa.Connection, skip: int) -> ListPage:
    total, rows = store.open_visits(db, SHOWN, skip=skip)
    cells = [
        (row.unit_name, row.uscc, row.town, code_words(_CODES, row.reason), row.created_at) for row in rows
    ]
    return ListPage(_VISITS, _VISIT, cells, total, "/matching/v1/visits?state=open", _NONE)
