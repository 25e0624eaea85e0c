"""What the law and the city say, written out by hand: working days, deadlines, hours, waits, who is obliged."""

from datetime import date, datetime, time, timedelta, timezone

SHANGHAI = timezone(timedelta(hours=8))
OPENS, CLOSES = time(8, 30), time(18, 0)
LEGAL_DAYS = 30
GO_LIVE_ON = date(2026, 1, 1)
LATE_REGISTRATION_WAIT = timedelta(minutes=10)
SILENCE = timedelta(hours=72)
WECHAT_SILENCE = timedelta(hours=24)
# the second reminder is due on this working day after the first one's, days of suspension not counted
SECOND_AFTER_WORKING_DAYS = 10
# a joint message names so many units and counts the others
MOST_NAMES = 3

OBLIGED_KINDS = {
    "enterprise",
    "private_non_enterprise",
    "social_organisation",
    "foundation",
    "law_firm",
    "cooperative",
}
STOPPING_INSURANCES = {"pension", "unemployment", "injury"}

# Working days as published for 2025 and 2026: New Year 1–3 January, Spring Festival 15–23 February,
# Qingming 4–6 April; worked instead: Sunday 4 January, Saturday 14 February, Saturday 28 February.
WORKED: dict[tuple[int, int], tuple[int, ...]] = {
    (2025, 12): (1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 15, 16, 17, 18, 19, 22, 23, 24, 25, 26, 29, 30, 31),
    (2026, 1): (4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 19, 20, 21, 22, 23, 26, 27, 28, 29, 30),
    (2026, 2): (2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 24, 25, 26, 27, 28),
    (2026, 3): (2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 23, 24, 25, 26, 27, 30, 31),
    (2026, 4): (1, 2, 3, 7, 8, 9, 10, 13, 14, 15, 16, 17, 20, 21, 22, 23, 24, 27, 28, 29, 30),
}


def is_working_day(day: date) -> bool:
    """By the table above; a day outside of it raises KeyError."""
    return day.day in WORKED[day.year, day.month]


def next_working_day(day: date) -> date:
    """The day itself when it is a working day, else the first one after it."""
    while not is_working_day(day):
        day += timedelta(days=1)
    return day


def deadline(established_on: date) -> date:
    """The day the legal clock ends with: day 30, the first not counted, or the next working day."""
    return next_working_day(established_on + timedelta(days=LEGAL_DAYS))


def day_of(at: datetime) -> date:
    """The calendar day in Shanghai."""
    return at.astimezone(SHANGHAI).date()


def instant(text: str) -> datetime:
    """An instant as records and ledger write it. Raises ValueError where it has no offset from UTC."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC; write instants like 2026-02-10T08:30:00+08:00")
    return at.astimezone(SHANGHAI)
