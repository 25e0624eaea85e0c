"""The sample city: units, people and what happens to them, from a seed, with the truth written beside it.

Everything is invented. Codes and numbers are well formed, so that the real checks see real shapes; the
organisation codes lie in a block (MAY…) that has not been issued. Each unit has one *fate*, a name for what
happens to it; what must follow from that is not said here but worked out by `check` from the facts alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from random import Random
from typing import Any

from services.demo.check import deadline, is_working_day, next_working_day
from shared.clock import ZONE
from shared.identifiers import USCC_ALPHABET, id_check_char, org_code_check_char, uscc_check_char

START = datetime(2026, 1, 5, 10, tzinfo=ZONE)
END = START + timedelta(days=75)
# Nights on which the participation feed did not declare; it catches up on the next other night.
MISSED_NIGHTS = frozenset(
    {
        *(date(2026, 1, day) for day in (27, 28)),
        *(date(2026, 2, day) for day in (25, 26)),
        *(date(2026, 3, day) for day in (10, 11, 12)),
        *(date(2026, 3, day) for day in (20, 21)),
    }
)
DECLARES_AT = time(0, 20)

REGISTERS, INSURES = "ADM", "HRSS"  # the departments that act: approvals, social insurance

# How many units have which fate. The numbers are minimum counts of the story, about 400 units in all.
FATES: dict[str, int] = {
    "in_time": 48,
    "in_time_before_story": 8,
    "on_the_last_day": 6,
    "last_day_late_feed": 14,
    "enrols_before_sending": 14,
    "enrols_after_reminder": 42,
    "never_enrols": 58,
    "closed_before_deadline": 10,
    "closed_before_sending": 6,
    "closed_after_reminder": 6,
    "suspended_and_resumed": 6,
    "suspended_before_sending": 4,
    "suspended_for_good": 4,
    "corrected_before_deadline": 6,
    "corrected_before_sending": 4,
    "cancelled_before_deadline": 4,
    "cancelled_after_deadline": 6,
    "medical_only": 8,
    "flexible_only": 6,
    "project_only": 4,
    "sole_trader": 40,
    "no_clock": 24,
    "wrong_code_confirmed": 8,
    "wrong_code_never": 6,
    "no_phone": 10,
    "silent_phone": 5,
    "refused_phone": 5,
    "failing_phone": 4,
    "dropped_connection": 2,
    "duplicate_receipt": 2,
    "late_registered": 10,
    "late_registered_in_the_evening": 2,
    "late_registered_enrols": 5,
    "future_start_in_time": 4,
    "future_start_after_reminder": 4,
    "future_start_over_weekend": 2,
    "ended_before_deadline": 4,
    "ended_after_deadline": 4,
    "waiting_at_the_end": 6,
}

# What the carrier does to the phones of a fate: `Unit.phone` and the sandbox's script.
_PHONES: dict[str, tuple[str, dict[str, Any]]] = {
    "silent_phone": ("silent", {"action": "silent"}),
    "refused_phone": ("refused", {"action": "refuse", "code": "InvalidMessage"}),
    "failing_phone": ("failing", {"action": "fail", "code": "CM:2007"}),
    "dropped_connection": ("dropped", {"action": "accept_and_drop", "times": 1}),
    "duplicate_receipt": ("duplicate", {"action": "duplicate_receipt"}),
}

# kind → first two characters of the code, industry, name ({} = an invented word)
_KINDS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "enterprise": (
        ("91", "C1361", "荣成市{}水产食品有限公司"),
        ("91", "A0411", "荣成{}海带养殖有限公司"),
        ("91", "C3731", "山东{}船舶制造有限公司"),
        ("91", "E4710", "荣成市{}建筑工程有限公司"),
        ("91", "F5292", "威海{}网络科技有限公司"),
        ("91", "G5430", "荣成{}货运有限公司"),
        ("91", "H6210", "荣成市{}餐饮管理有限公司"),
        ("91", "I6513", "山东{}软件有限公司"),
    ),
    "sole_trader": (("92", "H6210", "荣成市{}小吃店"), ("92", "F5219", "荣成市{}百货店")),
    "cooperative": (("93", "A0411", "荣成市{}渔业专业合作社"),),
    "social_organisation": (("51", "S9421", "荣成市{}行业协会"),),
    "private_non_enterprise": (("52", "P8310", "荣成市{}幼儿园"),),
    "foundation": (("53", "S9430", "荣成市{}公益基金会"),),
    "law_firm": (("31", "L7231", "山东{}律师事务所"),),
    "public_institution": (("12", "P8331", "荣成市{}实验学校"),),
    "government_body": (("11", "S9221", "荣成市{}事务服务局"),),
    "village_collective": (("N2", "S9610", "荣成市{}村股份经济合作社"),),
    "other": (("81", "S9411", "荣成市{}工会委员会"),),
}
# of twelve obliged units in a row, which kinds
_OBLIGED = ("enterprise",) * 7 + (
    "cooperative",
    "private_non_enterprise",
    "social_organisation",
    "foundation",
    "law_firm",
)
_NO_CLOCK = ("public_institution", "government_body", "village_collective", "other")

_WORD_START = "海瀚沣泓浩源鸿恒润盛泰安嘉锦景瑞祥庆丰宏"
_WORD_END = "岚澜汐屿舟帆湾川岭松桦岩辰曜远航拓晟铭钧棠霖"
_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧"
_GIVEN = "伟芳秀敏静强磊洋艳勇军杰娟涛明超霞平刚桂文辉玲鹏红晓玉华建国海"
# Area codes of first issue, with the years of birth that carried them at registration.
_AREAS = (
    ("371082", 1967, 2006),
    ("370633", 1983, 1987),
    ("371023", 1987, 1988),
    ("371002", 1975, 2005),
    ("371081", 1972, 2004),
    ("370602", 1970, 2003),
    ("210211", 1969, 2002),
    ("230103", 1968, 2001),
    ("411524", 1975, 2004),
    ("513022", 1974, 2003),
)
_MOBILE_PREFIXES = (
    "130",
    "131",
    "135",
    "138",
    "139",
    "150",
    "152",
    "158",
    "166",
    "172",
    "176",
    "186",
    "188",
    "191",
    "199",
)


@dataclass(frozen=True)
class Person:
    """An invented person; no two share an ID number."""

    id_number: str
    name: str


@dataclass(frozen=True)
class Unit:
    """A unit as its department registers it, and what is true of it beside that.

    `phone` says what the carrier does to its number: ok, silent, refused, failing, dropped, duplicate, none.
    """

    uscc: str
    name: str
    kind: str
    established_on: date
    town: str
    industry: str
    address: str
    contact_role: str
    contact: Person
    mobile: str | None
    code_valid: bool
    phone: str
    fate: str

    def body(self) -> dict[str, Any]:
        """The registration as HTTP wants it."""
        contact = {"role": self.contact_role, "name": self.contact.name, "mobile": self.mobile}
        return {
            "uscc": self.uscc,
            "name": self.name,
            "kind": self.kind,
            "established_on": self.established_on.isoformat(),
            "town": self.town,
            "address": self.address,
            "industry": self.industry,
            "contacts": [contact] if self.mobile else [],
        }


@dataclass(frozen=True)
class Action:
    """One call of the story, not before `at`. `{id}` in the path is the id that the call `after` answered.

    `fact` is what is true once the call was answered 2xx, for the records; None for what is no fact of a unit.
    """

    key: str
    at: datetime
    method: str
    path: str
    body: Any
    department: str
    uscc: str | None = None
    after: str | None = None
    fact: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Done:
    """An action that was answered: business instants before the request and after the answer."""

    asked_at: datetime
    answered_at: datetime


@dataclass(frozen=True)
class City:
    """Units, people and the story's actions in order of time."""

    units: tuple[Unit, ...]
    people: tuple[Person, ...]
    actions: tuple[Action, ...]

    def records(self, done: Mapping[str, Done], *, until: datetime) -> dict[str, Any]:
        """The truth for the check: facts of every unit and what was declared, as far as it was done."""
        facts: dict[str, list[dict[str, Any]]] = {u.uscc: [] for u in self.units}
        declared = []
        for action in self.actions:
            if action.fact is None or action.key not in done:
                continue
            when = done[action.key]
            stamped = {
                **action.fact,
                "key": action.key,
                "asked_at": when.asked_at.isoformat(),
                "answered_at": when.answered_at.isoformat(),
            }
            if action.uscc is None:
                declared.append(stamped)
            else:
                facts[action.uscc].append(stamped)
        units = [
            {
                "uscc": u.uscc,
                "name": u.name,
                "kind": u.kind,
                "town": u.town,
                "established_on": u.established_on.isoformat(),
                "mobile": u.mobile,
                "phone": u.phone,
                "code_valid": u.code_valid,
                "fate": u.fate,
                "facts": facts[u.uscc],
            }
            for u in self.units
        ]
        return {"until": until.isoformat(), "declared": declared, "units": units}

    def planned(self) -> dict[str, Done]:
        """Every action as if it had been answered at the instant it was planned for."""
        return {a.key: Done(a.at, a.at) for a in self.actions}


def lead_day(last: date) -> date:
    """The day in whose first hour the participations are declared complete through a deadline day."""
    night = max(last + timedelta(days=1), START.date())
    while night in MISSED_NIGHTS:
        night += timedelta(days=1)
    return night


def sending_day(last: date) -> date:
    """The day on which the reminder for a deadline leaves when nothing comes between."""
    return next_working_day(lead_day(last))


def generate(seed: int, towns: Sequence[str]) -> City:
    """The city of a seed; the same seed and towns make the same city."""
    return _Builder(Random(seed), towns).build()


@dataclass
class _Plan:
    """A unit in the making: when it was established, when its clock ends, when it is registered."""

    unit: Unit
    last: date
    registered: datetime
    prefix: str
    calls: int = field(default=0)


class _Builder:
    """Makes units fate by fate; each `_fate_…` method writes down what happens to one unit."""

    def __init__(self, rng: Random, towns: Sequence[str]) -> None:
        self._rng = rng
        self._towns = list(towns)
        self._units: list[Unit] = []
        self._people: list[Person] = []
        self._actions: list[Action] = []
        self._taken: set[str] = set()
        self._words = [a + b for a in _WORD_START for b in _WORD_END]
        rng.shuffle(self._words)
        rng.shuffle(self._towns)
        self._obliged = 0

    def build(self) -> City:
        for fate, count in FATES.items():
            for n in range(count):
                _STORIES[fate](self, fate, n)
        self._script_phones()
        self._declare_nights()
        order = sorted(self._actions, key=lambda a: (a.at, a.key))
        return City(tuple(self._units), tuple(self._people), tuple(order))

    # -- values -------------------------------------------------------------------------------------------

    def _unique(self, make: Callable[[], str]) -> str:
        while (value := make()) in self._taken:
            pass
        self._taken.add(value)
        return value

    def _uscc(self, kind_code: str, *, valid: bool) -> str:
        def make() -> str:
            head = "MAY" + "".join(self._rng.choices("0123456789ABCDEFGHJKLMNPQRTUWXY", k=5))
            first17 = kind_code + "371082" + head + org_code_check_char(head)
            right = uscc_check_char(first17)
            return first17 + (right if valid else self._rng.choice(USCC_ALPHABET.replace(right, "")))

        return self._unique(make)

    def _mobile(self) -> str:
        return self._unique(lambda: f"{self._rng.choice(_MOBILE_PREFIXES)}{self._rng.randrange(10**8):08}")

    def _person(self) -> Person:
        def make() -> str:
            area, first, last = self._rng.choice(_AREAS)
            born = date(self._rng.randint(first, last), 1, 1) + timedelta(days=self._rng.randrange(365))
            first17 = f"{area}{born:%Y%m%d}{self._rng.randint(1, 999):03}"
            return first17 + id_check_char(first17)

        given = "".join(self._rng.choices(_GIVEN, k=self._rng.choice((1, 2, 2))))
        person = Person(self._unique(make), self._rng.choice(_SURNAMES) + given)
        self._people.append(person)
        return person

    def _established(self, low: date, high: date, fits: Callable[[date], bool] = lambda _: True) -> date:
        """A day of establishment whose deadline lies in a span and fits."""
        days = (low - timedelta(days=45) + timedelta(days=n) for n in range((high - low).days + 46))
        # founded on a working day, as offices register them; earlier than this is before going live
        choices = [d for d in days if d >= _FIRST and low <= deadline(d) <= high and fits(deadline(d))]
        on_working_days = [d for d in choices if is_working_day(d)]
        return self._rng.choice(on_working_days or choices)

    def _clock(
        self, day: date, first: tuple[int, int] = (9, 0), last: tuple[int, int] = (16, 30)
    ) -> datetime:
        """A minute of a day between two times."""
        span = (last[0] - first[0]) * 60 + last[1] - first[1]
        at = datetime.combine(day, time(*first), ZONE)
        return at + timedelta(minutes=self._rng.randint(0, span))

    def _between(self, low: date, high: date, *, working: bool = True) -> date:
        """A day of a span, its ends included; a working day when there is one and it is asked for."""
        days = [low + timedelta(days=n) for n in range((high - low).days + 1)]
        return self._rng.choice([d for d in days if working and is_working_day(d)] or days)

    # -- units and calls -----------------------------------------------------------------------------------

    def _unit(
        self,
        fate: str,
        established_on: date,
        *,
        kind: str | None = None,
        registered: datetime | None = None,
        valid: bool = True,
        phone: bool = True,
    ) -> _Plan:
        if kind is None:
            kind = _OBLIGED[self._obliged % len(_OBLIGED)]
            self._obliged += 1
        code, industry, name = self._rng.choice(_KINDS[kind])
        word = self._words.pop()
        town = self._towns[len(self._units) % len(self._towns)]
        unit = Unit(
            uscc=self._uscc(code, valid=valid),
            name=name.format(word),
            kind=kind,
            established_on=established_on,
            town=town,
            industry=industry,
            address=f"荣成市{town}{word}路{self._rng.randint(1, 300)}号",
            contact_role=self._rng.choice(
                ("legal_representative", "legal_representative", "hr", "finance", "contact")
            ),
            contact=self._person(),
            mobile=self._mobile() if phone else None,
            code_valid=valid,
            phone=_PHONES[fate][0] if fate in _PHONES else "ok" if phone else "none",
            fate=fate,
        )
        registered = registered or self._registration(established_on)
        plan = _Plan(unit, deadline(established_on), registered, f"{len(self._units):03}")
        self._units.append(unit)
        request = ("POST", "/registry/v1/units", unit.body())
        self._call(plan, registered, request, {"fact": "registered"}, department=REGISTERS)
        return plan

    def _registration(self, established_on: date) -> datetime:
        """Units from before the story come with its first calls; others within a working week."""
        if established_on < START.date():
            return START
        day = next_working_day(established_on + timedelta(days=self._rng.randint(1, 5)))
        return self._clock(day)

    def _call(
        self,
        plan: _Plan,
        at: datetime,
        request: tuple[str, str, Mapping[str, Any]],
        fact: Mapping[str, Any],
        *,
        department: str,
        after: str | None = None,
    ) -> str:
        """Adds an action of a unit; returns its key. `request` is method, path, body."""
        method, path, body = request
        key = f"{plan.prefix}-{plan.calls:02}-{fact['fact']}"
        plan.calls += 1
        self._actions.append(Action(key, at, method, path, body, department, plan.unit.uscc, after, fact))
        return key

    def _participation(
        self,
        plan: _Plan,
        at: datetime,
        started_on: date,
        insurance: str,
        *,
        form: str = "employer",
        person: Person | None = None,
    ) -> str:
        person = person or self._person()
        kind = self._rng.choices(("first", "resumed", "transferred"), (75, 15, 10))[0]
        body: dict[str, Any] = {
            "person": {"id_number": person.id_number, "name": person.name},
            "insurance": insurance,
            "form": form,
            "kind": kind,
            "started_on": started_on.isoformat(),
        }
        if form != "flexible":
            body = {"uscc": plan.unit.uscc, **body}
        fact = {
            "fact": "participation",
            "insurance": insurance,
            "form": form,
            "started_on": started_on.isoformat(),
        }
        request = ("POST", "/registry/v1/participations", body)
        return self._call(plan, at, request, fact, department=INSURES)

    def _enrol(self, plan: _Plan, at: datetime, started_on: date) -> None:
        """One to three people, in all or one of the insurances that stop a clock, some also in medical."""
        for _ in range(self._rng.choice((1, 1, 2, 3))):
            person = self._person()
            insurances = self._rng.choice((("pension", "unemployment", "injury"), ("pension",), ("injury",)))
            for insurance in (*insurances, *(("medical",) if self._rng.random() < 0.3 else ())):
                self._participation(plan, at, started_on, insurance, person=person)

    def _end(self, plan: _Plan, at: datetime, participation: str) -> None:
        path = "/registry/v1/participations/{id}/end"
        ended_on = at.date().isoformat()
        fact = {"fact": "ended", "of": participation, "ended_on": ended_on}
        request = ("POST", path, {"ended_on": ended_on})
        self._call(plan, at, request, fact, department=INSURES, after=participation)

    def _cancel(self, plan: _Plan, at: datetime, participation: str) -> None:
        path = "/registry/v1/participations/{id}/cancel"
        fact = {"fact": "cancelled", "of": participation}
        request = ("POST", path, {"reason": "录入错误"})
        self._call(plan, at, request, fact, department=INSURES, after=participation)

    def _close(self, plan: _Plan, at: datetime) -> None:
        self._unit_call(plan, at, "close", "closed", "closed_on")

    def _suspend(self, plan: _Plan, at: datetime) -> None:
        self._unit_call(plan, at, "suspend", "suspended", "suspended_on")

    def _resume(self, plan: _Plan, at: datetime) -> None:
        self._unit_call(plan, at, "resume", "resumed", "resumed_on")

    def _unit_call(self, plan: _Plan, at: datetime, verb: str, fact: str, on: str) -> None:
        body = {on: at.date().isoformat()}
        path = f"/registry/v1/units/{plan.unit.uscc}/{verb}"
        self._call(plan, at, ("POST", path, body), {"fact": fact, **body}, department=REGISTERS)

    def _correct(self, plan: _Plan, at: datetime, established_on: date) -> None:
        body = {"established_on": established_on.isoformat()}
        path = f"/registry/v1/units/{plan.unit.uscc}"
        self._call(plan, at, ("PATCH", path, body), {"fact": "corrected", **body}, department=REGISTERS)

    def _confirm(self, plan: _Plan, at: datetime) -> None:
        path = f"/registry/v1/units/{plan.unit.uscc}"
        request = ("PATCH", path, {"code_confirmed": True})
        self._call(plan, at, request, {"fact": "confirmed"}, department=REGISTERS)

    def _script_phones(self) -> None:
        rules = [
            {"match": {"mobile": u.mobile}, **_PHONES[u.fate][1]} for u in self._units if u.fate in _PHONES
        ]
        self._actions.append(Action("000-script", START, "PUT", "/sandbox/script", rules, REGISTERS))

    def _declare_nights(self) -> None:
        # what was known before the story is complete once its first calls are in
        self._declare(START + timedelta(minutes=20), START.date() - timedelta(days=1))
        night = START.date() + timedelta(days=1)
        while night <= END.date():
            if night not in MISSED_NIGHTS:
                self._declare(datetime.combine(night, DECLARES_AT, ZONE), night - timedelta(days=1))
            night += timedelta(days=1)

    def _declare(self, at: datetime, through: date) -> None:
        body = {"through": through.isoformat()}
        path = "/registry/v1/datasets/participations/complete-through"
        key = f"declared-{through.isoformat()}"
        self._actions.append(Action(key, at, "PUT", path, body, INSURES, fact={"fact": "declared", **body}))

    # -- when things happen to a unit -----------------------------------------------------------------------

    def _before_deadline(self, plan: _Plan) -> datetime:
        """After its registration and before the deadline day."""
        return self._clock(
            self._between(plan.registered.date() + timedelta(days=1), plan.last - timedelta(days=1))
        )

    def _before_sending(self, plan: _Plan) -> datetime:
        """After its lead opened, before the hours in which messages leave."""
        day = lead_day(plan.last)
        return self._clock(day, (6, 30), (8, 10)) if is_working_day(day) else self._clock(day)

    def _after_sending(self, plan: _Plan, within: int) -> datetime:
        """From the second day after the reminder on, before the story's last day."""
        first = sending_day(plan.last) + timedelta(days=2)
        last = min(first + timedelta(days=within), END.date() - timedelta(days=1))
        return self._clock(self._between(first, last))

    # -- fates ----------------------------------------------------------------------------------------------

    def in_time(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 18)))
        at = self._before_deadline(plan)
        self._enrol(plan, at, at.date() - timedelta(days=self._rng.randint(0, 1)))

    def in_time_before_story(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 5), date(2026, 1, 30)))
        started_on = self._between(plan.unit.established_on, START.date() - timedelta(days=1))
        self._enrol(plan, START + timedelta(minutes=10), started_on)

    def on_the_last_day(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 18)))
        self._enrol(plan, self._clock(plan.last), plan.last)

    def last_day_late_feed(self, fate: str, n: int) -> None:
        last = _LATE_FEED_DAYS[n % len(_LATE_FEED_DAYS)]
        plan = self._unit(fate, self._established(last, last))
        self._enrol(plan, self._clock(last + timedelta(days=2)), last)

    def enrols_before_sending(self, fate: str, n: int) -> None:
        # every third over days without sending
        over_rest = n % 3 == 0
        plan = self._unit(
            fate,
            self._established(
                date(2026, 1, 9), date(2026, 3, 18), lambda d: is_working_day(lead_day(d)) is not over_rest
            ),
        )
        at = self._before_sending(plan)
        # an enrolment may be backdated into the period; it ends the lead all the same
        self._enrol(plan, at, plan.last if n % 4 == 0 else at.date())

    def enrols_after_reminder(self, fate: str, n: int) -> None:
        plan = self._unit(fate, self._established(_FIRST_LAST, date(2026, 3, 10)))
        at = self._after_sending(plan, 18)
        self._enrol(plan, at, plan.last if n % 6 == 0 else at.date())

    def never_enrols(self, fate: str, _n: int) -> None:
        self._unit(fate, self._established(_FIRST_LAST, date(2026, 3, 18)))

    def closed_before_deadline(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 18)))
        self._close(plan, self._before_deadline(plan))

    def closed_before_sending(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 18)))
        self._close(plan, self._before_sending(plan))

    def closed_after_reminder(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(_FIRST_LAST, date(2026, 3, 10)))
        self._close(plan, self._after_sending(plan, 18))

    def suspended_and_resumed(self, fate: str, n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 12), date(2026, 2, 27)))
        self._suspend(plan, self._before_deadline(plan))
        # half come back after the deadline, half on its very day
        self._resume(
            plan, self._after_sending(plan, 10) if n % 2 else self._clock(plan.last, (17, 0), (17, 50))
        )

    def suspended_before_sending(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 2, 27)))
        self._suspend(plan, self._before_sending(plan))
        self._resume(plan, self._after_sending(plan, 10))

    def suspended_for_good(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 18)))
        self._suspend(plan, self._before_deadline(plan))

    def corrected_before_deadline(self, fate: str, n: int) -> None:
        def when(plan: _Plan) -> datetime:
            return self._clock(self._between(plan.last - timedelta(days=6), plan.last - timedelta(days=1)))

        self._corrected(fate, n, when)

    def corrected_before_sending(self, fate: str, n: int) -> None:
        self._corrected(fate, n, self._before_sending)

    def _corrected(self, fate: str, n: int, when: Callable[[_Plan], datetime]) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 2, 13)))
        at = when(plan)
        days = [plan.unit.established_on + timedelta(days=n) for n in range(1, 17)]
        # no day that has not come, and none whose clock ends with the old one or has ended already
        later = self._rng.choice(
            [d for d in days if d <= at.date() and deadline(d) > max(plan.last, at.date())]
        )
        self._correct(plan, at, later)
        if n % 2:
            enrolled = self._clock(
                self._between(max(at.date(), plan.last) + timedelta(days=1), deadline(later))
            )
            self._enrol(plan, enrolled, enrolled.date())

    def cancelled_before_deadline(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 14), date(2026, 3, 18)))
        at = self._before_deadline(plan)
        key = self._participation(plan, at, at.date(), "pension")
        self._cancel(plan, self._clock(plan.last, (16, 40), (17, 50)), key)

    def cancelled_after_deadline(self, fate: str, n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 6)))
        at = self._before_deadline(plan)
        key = self._participation(plan, at, at.date(), ("pension", "injury", "unemployment")[n % 3])
        self._cancel(plan, self._after_sending(plan, 8), key)

    def medical_only(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 18)))
        at = self._before_deadline(plan)
        self._participation(plan, at, at.date(), "medical")

    def flexible_only(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 18)))
        at = self._before_deadline(plan)
        self._participation(plan, at, at.date(), "pension", form="flexible", person=plan.unit.contact)

    def project_only(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 18)))
        at = self._before_deadline(plan)
        self._participation(plan, at, at.date(), "injury", form="project")

    def sole_trader(self, fate: str, n: int) -> None:
        plan = self._unit(fate, self._established(_FIRST_LAST, date(2026, 3, 18)), kind="sole_trader")
        if n % 5 == 0:
            at = self._clock(self._between(plan.registered.date() + timedelta(days=1), date(2026, 3, 19)))
            self._enrol(plan, at, at.date())

    def no_clock(self, fate: str, n: int) -> None:
        kind = _NO_CLOCK[n % len(_NO_CLOCK)]
        self._unit(fate, self._established(_FIRST_LAST, date(2026, 3, 18)), kind=kind)

    def wrong_code_confirmed(self, fate: str, n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 6)), valid=False)
        # a quarter is confirmed while the clock still runs
        self._confirm(plan, self._after_sending(plan, 8) if n % 4 else self._before_deadline(plan))

    def wrong_code_never(self, fate: str, _n: int) -> None:
        self._unit(fate, self._established(_FIRST_LAST, date(2026, 3, 13)), valid=False)

    def no_phone(self, fate: str, _n: int) -> None:
        self._unit(fate, self._established(_FIRST_LAST, date(2026, 3, 13)), phone=False)

    def odd_phone(self, fate: str, _n: int) -> None:
        # early enough that 72 hours of silence are over when the story ends
        self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 6)))

    def late_registered(self, fate: str, n: int) -> None:
        last = date(2026, 1, 4) if n < _OVERDUE_AT_START else None
        established_on = self._established(last or date(2026, 1, 5), last or date(2026, 2, 20))
        registered = START if last else self._clock(self._long_overdue(established_on), (9, 0), (16, 0))
        self._unit(fate, established_on, registered=registered)

    def late_registered_in_the_evening(self, fate: str, _n: int) -> None:
        """The wait runs over the end of the hours: the reminder leaves the next morning."""
        established_on = self._established(date(2026, 1, 5), date(2026, 2, 20))
        self._unit(
            fate,
            established_on,
            registered=self._clock(self._long_overdue(established_on), (17, 53), (17, 57)),
        )

    def late_registered_enrols(self, fate: str, _n: int) -> None:
        """The participation call follows within the wait."""
        established_on = self._established(date(2026, 1, 5), date(2026, 2, 20))
        registered = self._clock(self._long_overdue(established_on), (9, 0), (16, 0))
        plan = self._unit(fate, established_on, registered=registered)
        self._enrol(plan, registered + timedelta(minutes=4), registered.date())

    def _long_overdue(self, established_on: date) -> date:
        first = sending_day(deadline(established_on)) + timedelta(days=2)
        return self._between(first, date(2026, 3, 17))

    def future_start_in_time(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 16), date(2026, 3, 18)))
        at = self._clock(next_working_day(plan.registered.date() + timedelta(days=1)))
        self._participation(plan, at, self._between(at.date() + timedelta(days=1), plan.last), "pension")

    def future_start_after_reminder(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 6)))
        at = self._before_deadline(plan)
        started_on = sending_day(plan.last) + timedelta(days=self._rng.randint(2, 9))
        self._participation(plan, at, started_on, "pension")

    def future_start_over_weekend(self, fate: str, _n: int) -> None:
        """The clock ends on a Friday, the people start on Saturday: there is nobody left to remind on Monday."""
        friday = 4
        established_on = self._established(
            date(2026, 1, 9),
            date(2026, 3, 6),
            lambda d: d.weekday() == friday and not is_working_day(d + timedelta(days=1)),
        )
        plan = self._unit(fate, established_on)
        self._participation(plan, self._before_deadline(plan), plan.last + timedelta(days=1), "injury")

    def ended_before_deadline(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 16), date(2026, 3, 18)))
        at = self._before_deadline(plan)
        key = self._participation(plan, at, at.date(), "pension")
        self._end(plan, self._clock(plan.last, (16, 40), (17, 50)), key)

    def ended_after_deadline(self, fate: str, _n: int) -> None:
        plan = self._unit(fate, self._established(date(2026, 1, 9), date(2026, 3, 6)))
        at = self._before_deadline(plan)
        key = self._participation(plan, at, at.date(), "pension")
        self._end(plan, self._after_sending(plan, 8), key)

    def waiting_at_the_end(self, fate: str, _n: int) -> None:
        """The clock ended, but the feed of the last two nights is late."""
        self._unit(fate, self._established(date(2026, 3, 19), date(2026, 3, 20)))


# the first day of establishment whose clock ended after going live on 2026-01-01, and that deadline
_FIRST, _FIRST_LAST = date(2025, 12, 2), date(2026, 1, 4)
_OVERDUE_AT_START = 3
# deadline days whose feed arrives two days later, always before they are declared complete
_LATE_FEED_DAYS = (date(2026, 1, 26), date(2026, 2, 24), date(2026, 3, 9), date(2026, 3, 10))

_STORIES: dict[str, Callable[[_Builder, str, int], None]] = {
    fate: _Builder.odd_phone if fate in _PHONES else getattr(_Builder, fate) for fate in FATES
}
