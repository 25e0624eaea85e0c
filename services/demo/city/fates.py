"""What happens to one unit: each fate is a function that writes it down, and how many units have it."""

from collections.abc import Callable
from datetime import date, datetime, timedelta

from services.demo.check import deadline, is_working_day, next_working_day
from services.demo.city.builder import FIRST_LAST, Builder, Plan, lead_day, sending_day
from services.demo.city.model import START

_NO_CLOCK = ("public_institution", "government_body", "village_collective", "other")
_OVERDUE_AT_START = 3
# deadline days whose feed arrives two days later, always before they are declared complete
_LATE_FEED_DAYS = (date(2026, 1, 26), date(2026, 2, 24), date(2026, 3, 9), date(2026, 3, 10))


def _in_time(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 18)))
    at = b.before_deadline(plan)
    b.enrol(plan, at, at.date() - timedelta(days=b.rng.randint(0, 1)))


def _in_time_before_story(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 5), date(2026, 1, 30)))
    started_on = b.between(plan.unit.established_on, START.date() - timedelta(days=1))
    b.enrol(plan, START + timedelta(minutes=10), started_on)


def _on_the_last_day(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 18)))
    b.enrol(plan, b.clock(plan.last), plan.last)


def _last_day_late_feed(b: Builder, fate: str, n: int) -> None:
    last = _LATE_FEED_DAYS[n % len(_LATE_FEED_DAYS)]
    plan = b.unit(fate, b.established(last, last))
    b.enrol(plan, b.clock(last + timedelta(days=2)), last)


def _enrols_before_sending(b: Builder, fate: str, n: int) -> None:
    # every third over days without sending
    over_rest = n % 3 == 0
    plan = b.unit(
        fate,
        b.established(
            date(2026, 1, 9), date(2026, 3, 18), lambda d: is_working_day(lead_day(d)) is not over_rest
        ),
    )
    at = b.before_sending(plan)
    # an enrolment may be backdated into the period; it ends the lead all the same
    b.enrol(plan, at, plan.last if n % 4 == 0 else at.date())


def _enrols_after_reminder(b: Builder, fate: str, n: int) -> None:
    plan = b.unit(fate, b.established(FIRST_LAST, date(2026, 3, 10)))
    at = b.after_sending(plan, 18)
    b.enrol(plan, at, plan.last if n % 6 == 0 else at.date())


def _never_enrols(b: Builder, fate: str, _n: int) -> None:
    b.unit(fate, b.established(FIRST_LAST, date(2026, 3, 18)))


def _closed_before_deadline(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 18)))
    b.close(plan, b.before_deadline(plan))


def _closed_before_sending(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 18)))
    b.close(plan, b.before_sending(plan))


def _closed_after_reminder(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(FIRST_LAST, date(2026, 3, 10)))
    b.close(plan, b.after_sending(plan, 18))


def _suspended_and_resumed(b: Builder, fate: str, n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 12), date(2026, 2, 27)))
    b.suspend(plan, b.before_deadline(plan))
    # half come back after the deadline, half on its very day
    b.resume(plan, b.after_sending(plan, 10) if n % 2 else b.clock(plan.last, (17, 0), (17, 50)))


def _suspended_before_sending(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 2, 27)))
    b.suspend(plan, b.before_sending(plan))
    b.resume(plan, b.after_sending(plan, 10))


def _suspended_for_good(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 18)))
    b.suspend(plan, b.before_deadline(plan))


def _corrected_before_deadline(b: Builder, fate: str, n: int) -> None:
    def when(plan: Plan) -> datetime:
        return b.clock(b.between(plan.last - timedelta(days=6), plan.last - timedelta(days=1)))

    _corrected(b, fate, n, when)


def _corrected_before_sending(b: Builder, fate: str, n: int) -> None:
    _corrected(b, fate, n, b.before_sending)


def _corrected(b: Builder, fate: str, n: int, when: Callable[[Plan], datetime]) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 2, 13)))
    at = when(plan)
    days = [plan.unit.established_on + timedelta(days=n) for n in range(1, 17)]
    # no day that has not come, and none whose clock ends with the old one or has ended already
    later = b.rng.choice([d for d in days if d <= at.date() and deadline(d) > max(plan.last, at.date())])
    b.correct(plan, at, later)
    if n % 2:
        enrolled = b.clock(b.between(max(at.date(), plan.last) + timedelta(days=1), deadline(later)))
        b.enrol(plan, enrolled, enrolled.date())


def _cancelled_before_deadline(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 14), date(2026, 3, 18)))
    at = b.before_deadline(plan)
    key = b.participation(plan, at, at.date(), "pension")
    b.cancel(plan, b.clock(plan.last, (16, 40), (17, 50)), key)


def _cancelled_after_deadline(b: Builder, fate: str, n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 6)))
    at = b.before_deadline(plan)
    key = b.participation(plan, at, at.date(), ("pension", "injury", "unemployment")[n % 3])
    b.cancel(plan, b.after_sending(plan, 8), key)


def _medical_only(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 18)))
    at = b.before_deadline(plan)
    b.participation(plan, at, at.date(), "medical")


def _flexible_only(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 18)))
    at = b.before_deadline(plan)
    b.participation(plan, at, at.date(), "pension", form="flexible", person=plan.unit.contact)


def _project_only(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 18)))
    at = b.before_deadline(plan)
    b.participation(plan, at, at.date(), "injury", form="project")


def _sole_trader(b: Builder, fate: str, n: int) -> None:
    plan = b.unit(fate, b.established(FIRST_LAST, date(2026, 3, 18)), kind="sole_trader")
    if n % 5 == 0:
        at = b.clock(b.between(plan.registered.date() + timedelta(days=1), date(2026, 3, 19)))
        b.enrol(plan, at, at.date())


def _no_clock(b: Builder, fate: str, n: int) -> None:
    kind = _NO_CLOCK[n % len(_NO_CLOCK)]
    b.unit(fate, b.established(FIRST_LAST, date(2026, 3, 18)), kind=kind)


def _wrong_code_confirmed(b: Builder, fate: str, n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 6)), valid=False)
    # a quarter is confirmed while the clock still runs
    b.confirm(plan, b.after_sending(plan, 8) if n % 4 else b.before_deadline(plan))


def _wrong_code_never(b: Builder, fate: str, _n: int) -> None:
    b.unit(fate, b.established(FIRST_LAST, date(2026, 3, 13)), valid=False)


def _no_phone(b: Builder, fate: str, _n: int) -> None:
    b.unit(fate, b.established(FIRST_LAST, date(2026, 3, 13)), mobile=None)


def _odd_phone(b: Builder, fate: str, _n: int) -> None:
    phone = {
        "silent_phone": "silent",
        "refused_phone": "refused",
        "failing_phone": "failing",
        "dropped_connection": "dropped",
        "duplicate_receipt": "duplicate",
    }[fate]
    # early enough that 72 hours of silence are over when the story ends
    b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 6)), phone=phone)


def _late_registered(b: Builder, fate: str, n: int) -> None:
    last = date(2026, 1, 4) if n < _OVERDUE_AT_START else None
    established_on = b.established(last or date(2026, 1, 5), last or date(2026, 2, 20))
    registered = START if last else b.clock(_long_overdue(b, established_on), (9, 0), (16, 0))
    b.unit(fate, established_on, registered=registered)


def _late_registered_in_the_evening(b: Builder, fate: str, _n: int) -> None:
    """The wait runs over the end of the hours: the reminder leaves the next morning."""
    established_on = b.established(date(2026, 1, 5), date(2026, 2, 20))
    b.unit(
        fate,
        established_on,
        registered=b.clock(_long_overdue(b, established_on), (17, 53), (17, 57)),
    )


def _late_registered_enrols(b: Builder, fate: str, _n: int) -> None:
    """The participation call follows within the wait."""
    established_on = b.established(date(2026, 1, 5), date(2026, 2, 20))
    registered = b.clock(_long_overdue(b, established_on), (9, 0), (16, 0))
    plan = b.unit(fate, established_on, registered=registered)
    b.enrol(plan, registered + timedelta(minutes=4), registered.date())


def _long_overdue(b: Builder, established_on: date) -> date:
    first = sending_day(deadline(established_on)) + timedelta(days=2)
    return b.between(first, date(2026, 3, 17))


def _future_start_in_time(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 16), date(2026, 3, 18)))
    at = b.clock(next_working_day(plan.registered.date() + timedelta(days=1)))
    b.participation(plan, at, b.between(at.date() + timedelta(days=1), plan.last), "pension")


def _future_start_after_reminder(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 6)))
    at = b.before_deadline(plan)
    started_on = sending_day(plan.last) + timedelta(days=b.rng.randint(2, 9))
    b.participation(plan, at, started_on, "pension")


def _future_start_over_weekend(b: Builder, fate: str, _n: int) -> None:
    """The clock ends on a Friday, the people start on Saturday: there is nobody left to remind on Monday."""
    friday = 4
    established_on = b.established(
        date(2026, 1, 9),
        date(2026, 3, 6),
        lambda d: d.weekday() == friday and not is_working_day(d + timedelta(days=1)),
    )
    plan = b.unit(fate, established_on)
    b.participation(plan, b.before_deadline(plan), plan.last + timedelta(days=1), "injury")


def _ended_before_deadline(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 16), date(2026, 3, 18)))
    at = b.before_deadline(plan)
    key = b.participation(plan, at, at.date(), "pension")
    b.end(plan, b.clock(plan.last, (16, 40), (17, 50)), key)


def _ended_after_deadline(b: Builder, fate: str, _n: int) -> None:
    plan = b.unit(fate, b.established(date(2026, 1, 9), date(2026, 3, 6)))
    at = b.before_deadline(plan)
    key = b.participation(plan, at, at.date(), "pension")
    b.end(plan, b.after_sending(plan, 8), key)


def _waiting_at_the_end(b: Builder, fate: str, _n: int) -> None:
    """The clock ended, but the feed of the last two nights is late."""
    b.unit(fate, b.established(date(2026, 3, 19), date(2026, 3, 20)))


FATES: dict[str, tuple[int, Callable[[Builder, str, int], None]]] = {
    "in_time": (32, _in_time),
    "in_time_before_story": (8, _in_time_before_story),
    "on_the_last_day": (6, _on_the_last_day),
    "last_day_late_feed": (10, _last_day_late_feed),
    "enrols_before_sending": (14, _enrols_before_sending),
    "enrols_after_reminder": (34, _enrols_after_reminder),
    "never_enrols": (36, _never_enrols),
    "closed_before_deadline": (8, _closed_before_deadline),
    "closed_before_sending": (6, _closed_before_sending),
    "closed_after_reminder": (6, _closed_after_reminder),
    "suspended_and_resumed": (6, _suspended_and_resumed),
    "suspended_before_sending": (4, _suspended_before_sending),
    "suspended_for_good": (4, _suspended_for_good),
    "corrected_before_deadline": (6, _corrected_before_deadline),
    "corrected_before_sending": (4, _corrected_before_sending),
    "cancelled_before_deadline": (4, _cancelled_before_deadline),
    "cancelled_after_deadline": (6, _cancelled_after_deadline),
    "medical_only": (8, _medical_only),
    "flexible_only": (6, _flexible_only),
    "project_only": (4, _project_only),
    "sole_trader": (24, _sole_trader),
    "no_clock": (12, _no_clock),
    "wrong_code_confirmed": (8, _wrong_code_confirmed),
    "wrong_code_never": (6, _wrong_code_never),
    "no_phone": (10, _no_phone),
    "silent_phone": (5, _odd_phone),
    "refused_phone": (5, _odd_phone),
    "failing_phone": (4, _odd_phone),
    "dropped_connection": (2, _odd_phone),
    "duplicate_receipt": (2, _odd_phone),
    "late_registered": (10, _late_registered),
    "late_registered_in_the_evening": (2, _late_registered_in_the_evening),
    "late_registered_enrols": (5, _late_registered_enrols),
    "future_start_in_time": (4, _future_start_in_time),
    "future_start_after_reminder": (4, _future_start_after_reminder),
    "future_start_over_weekend": (2, _future_start_over_weekend),
    "ended_before_deadline": (4, _ended_before_deadline),
    "ended_after_deadline": (4, _ended_after_deadline),
    "waiting_at_the_end": (6, _waiting_at_the_end),
}
"""How many units have which fate, and what it is."""
