"""What several units go through together: WeChat, agents, a stop, exemptions, visits, messages taken back."""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta

from services.demo.city.builder import (
    FIRST_LAST,
    Builder,
    Plan,
    second_day,
    sending_day,
    working_days_after,
)
from services.demo.city.model import INSURES, START, Action, Find
from shared.clock import ZONE

_DAY = timedelta(days=1)
# early enough that silence, the SMS behind it, 72 hours and a visit are over before the holidays
_EARLY = date(2026, 1, 9), date(2026, 1, 21)
# a first message on the day after, a second one, and some days left to visit
_VISITED = date(2026, 1, 5), date(2026, 2, 13)
# two agents: an ordinary working day is the deadline of all their units, and so is the next one
_AGENT_ESTABLISHED, _OTHER_AGENT_ESTABLISHED = date(2026, 1, 4), date(2026, 1, 12)
_STOPPED_ON = date(2026, 2, 10)


# -- WeChat -----------------------------------------------------------------------------------------------


def _wechat(b: Builder) -> None:
    """Bound phones: what WeChat brings, and what an SMS has to bring instead."""
    bound = [
        *_followers(b, "wechat_reached", 8, FIRST_LAST, date(2026, 3, 18)),
        *_followers(b, "wechat_enrols", 3, FIRST_LAST, date(2026, 3, 6)),
        *_followers(b, "wechat_silent", 4, date(2026, 1, 9), date(2026, 3, 13), wechat="silent"),
        *_followers(b, "wechat_refused", 4, date(2026, 1, 9), date(2026, 3, 13), wechat="refused"),
        *_followers(b, "wechat_blocked", 2, date(2026, 1, 9), date(2026, 3, 13), wechat="failing"),
        *_followers(b, "both_silent", 3, *_EARLY, wechat="silent", phone="silent"),
    ]
    leaving = _followers(b, "unfollows", 2, date(2026, 2, 5), date(2026, 3, 13))
    _follow(b, START, [*bound, *leaving])
    for plan in (*bound, *leaving):
        body = {"mobile": plan.unit.mobile, "openid": plan.unit.openid, "source": "sms_code"}
        at = START + timedelta(minutes=5)
        b.call(plan, at, ("POST", "/notify/v1/bindings", body), {"fact": "bound"}, department=INSURES)
    _follow(b, datetime.combine(date(2026, 1, 15), time(12), ZONE), bound, gone=leaving)
    for plan in bound:
        if plan.unit.fate == "wechat_enrols":
            at = b.after_sending(plan, 9)
            b.enrol(plan, at, at.date())
        if plan.unit.fate == "both_silent":
            day = sending_day(plan.last) + timedelta(days=7)
            _visit(b, plan, b.clock(b.between(day, day + timedelta(days=3))), "promised")


def _followers(
    b: Builder, fate: str, count: int, low: date, high: date, *, wechat: str = "ok", phone: str = "ok"
) -> list[Plan]:
    return [b.unit(fate, b.established(low, high), wechat=wechat, phone=phone) for _ in range(count)]


def _follow(b: Builder, at: datetime, plans: list[Plan], gone: list[Plan] | None = None) -> None:
    """Who follows the official account from now on."""
    facts = tuple({"fact": "unfollowed", "uscc": plan.unit.uscc} for plan in gone or ())
    key = f"followers-{at:%Y-%m-%d}"
    openids = sorted(plan.unit.openid or "" for plan in plans)
    b.actions.append(Action(key, at, "PUT", "/sandbox/followers", openids, INSURES, facts=facts))


# -- agents -----------------------------------------------------------------------------------------------


def _agents(b: Builder) -> None:
    """Seven overdue units behind one phone, of which two enrol before the hours; and an agent of two."""
    seven = _behind_one_phone(b, _AGENT_ESTABLISHED, {"agent": 4, "agent_enrols_later": 1, "agent_enrols": 2})
    _behind_one_phone(b, _OTHER_AGENT_ESTABLISHED, {"small_agent": 2})
    day = sending_day(seven[0].last)
    for plan in seven:
        if plan.unit.fate == "agent_enrols":
            b.enrol(plan, b.clock(day, (6, 30), (8, 10)), day)
        if plan.unit.fate == "agent_enrols_later":
            later = b.clock(working_days_after(day, 4))
            b.enrol(plan, later, later.date())
    _verify(b, seven, datetime.combine(day, time(11), ZONE))


def _behind_one_phone(b: Builder, established_on: date, fates: dict[str, int]) -> list[Plan]:
    mobile = b.inventor.mobile()
    return [
        b.unit(fate, established_on, kind="enterprise", mobile=mobile, role="agent")
        for fate, count in fates.items()
        for _ in range(count)
    ]


def _verify(b: Builder, plans: list[Plan], at: datetime) -> None:
    """Somebody asks of each unit whether the agent's message is genuine, and of a number that nobody sent."""
    find = Find("/sandbox/messages", {"limit": "500"}, names=tuple(plan.unit.name for plan in plans))
    for plan in (*plans, None):
        unit = (plan or plans[0]).unit
        reference = "{id}" if plan else "ZZZZZZZZZ"
        path = f"/notify/v1/verify?reference={reference}&uscc4={unit.uscc[-4:]}"
        fact = {"fact": "verified", "uscc": unit.uscc, "forged": plan is None}
        b.actions.append(
            Action(
                key=f"verify-{unit.uscc if plan else 'forged'}",
                at=at,
                method="GET",
                path=path,
                body=None,
                department=INSURES,
                find=find if plan else None,
                facts=(fact,),
                keeps="genuine",
            )
        )


# -- a stop -----------------------------------------------------------------------------------------------


def _stop(b: Builder) -> None:
    """All sending is stopped on a morning on which messages are due, and goes on later."""
    for _ in range(4):
        b.unit("stopped_while_due", b.established(_STOPPED_ON - _DAY, _STOPPED_ON - _DAY))
    for state, at in (("off", time(8, 5)), ("on", time(10, 40))):
        moment = datetime.combine(_STOPPED_ON, at, ZONE)
        body = {"state": state}
        facts = ({"fact": "sending", **body},)
        b.actions.append(
            Action(f"sending-{state}", moment, "PUT", "/notify/v1/sending", body, INSURES, facts=facts)
        )


# -- what officials do with a lead ------------------------------------------------------------------------


def _exemptions(b: Builder) -> None:
    """Somebody shows that the unit has no employees: the lead ends, no second reminder leaves."""
    for _ in range(4):
        plan = b.unit("exempted", b.established(FIRST_LAST, date(2026, 3, 6)))
        _exempt(b, plan, b.after_sending(plan, 8))


def _exempt(b: Builder, plan: Plan, at: datetime) -> None:
    body = {"action": "exempt", "reason": "经核实无雇工", "proof": "镇街走访记录与单位书面承诺"}
    request = ("POST", "/matching/v1/leads/{id}/actions", body)
    find = Find("/matching/v1/leads", {"uscc": plan.unit.uscc})
    b.call(plan, at, request, {"fact": "exempted"}, department=INSURES, find=find)


def _visits(b: Builder) -> None:
    """The town looks in after the second reminder and reports what it found."""
    for n, result in enumerate(("promised", "refused", "not_found", "no_employees", "no_employees", "moved")):
        plan = b.unit("visited", b.established(*_VISITED))
        day = working_days_after(second_day(plan.last), 1 + n % 3)
        _visit(b, plan, b.clock(day), result)
        if result == "no_employees":
            _exempt(b, plan, b.clock(working_days_after(day, 1)))


def _visit(b: Builder, plan: Plan, at: datetime, result: str) -> None:
    request = ("POST", "/matching/v1/visits/{id}/result", {"result": result, "note": "镇街网格员上门"})
    find = Find("/matching/v1/visits", where={"uscc": plan.unit.uscc})
    b.call(plan, at, request, {"fact": "visited", "result": result}, department=INSURES, find=find)


def _taken_back(b: Builder) -> None:
    """A message turns out to be wrong: a later date of establishment, or a person recalls it."""
    for n in range(4):
        plan = b.unit("corrected_after_reminder", b.established(date(2026, 1, 9), date(2026, 2, 6)))
        at = b.clock(working_days_after(sending_day(plan.last), 2 + n % 2))
        later = at.date() - timedelta(days=3)
        b.correct(plan, at, later)
        enrolled = b.clock(b.between(at.date() + timedelta(days=4), later + timedelta(days=24)))
        b.enrol(plan, enrolled, enrolled.date())
    for _ in range(2):
        plan = b.unit("recalled", b.established(date(2026, 1, 9), date(2026, 3, 6)))
        at = b.clock(working_days_after(sending_day(plan.last), 1))
        request = ("POST", "/notify/v1/notices/recall", {"references": ["{id}"], "reason": "措辞有误"})
        find = Find("/sandbox/messages", {"limit": "500"}, names=(plan.unit.name,))
        b.call(plan, at, request, {"fact": "recalled"}, department=INSURES, find=find)


PATHS: tuple[Callable[[Builder], None], ...] = (_wechat, _agents, _stop, _exemptions, _visits, _taken_back)
"""Each makes its units, with fates of their own."""
