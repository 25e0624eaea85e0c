"""Checks of the numbers that units, people and phones carry. Pure values; who asks says what day it is.

Nothing here decides what is refused: a check says what is wrong, the caller what follows from it.
"""

import re
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from functools import lru_cache

# GB 32100-2015: no I, O, S, V, Z.
USCC_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_VALUE = {char: value for value, char in enumerate(USCC_ALPHABET)}
_USCC_WEIGHTS = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
_ORG_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_LONG = 18
_OLD = 15
# First two digits of the place of first issue (GB/T 2260): provinces, Hong Kong, Macao and Taiwan (also
# residence permits 81–83).
_PROVINCES = frozenset(
    str(code)
    for codes in ((11, 16), (21, 24), (31, 38), (41, 47), (50, 55), (61, 66), (71, 72), (81, 84))
    for code in range(*codes)
)
_OLDEST = date(1900, 1, 1)
_MOBILE = re.compile(r"1[3-9][0-9]{9}")
# Numbers of things, not of people (Internet of Things).
_THINGS = ("140", "144", "146", "148")


class UsccProblem(StrEnum):
    """Why a text cannot be a unified social credit code at all."""

    LENGTH = "length"
    ALPHABET = "alphabet"


class IdProblem(StrEnum):
    """Why a text is no ID number."""

    LENGTH = "length"
    ALPHABET = "alphabet"
    DATE = "date"
    TOO_EARLY = "too_early"
    FUTURE = "future"
    CHECK_DIGIT = "check_digit"


class MobileProblem(StrEnum):
    """Why a text is no mobile number that a person reads messages on."""

    LENGTH = "length"
    ALPHABET = "alphabet"
    RANGE = "range"
    THING = "thing"


@dataclass(frozen=True)
class UsccCheck:
    """What was found. `value` is trimmed and in capitals; with a `problem` it is unusable.

    Without one, `check_ok` tells whether the check character fits (codes with a wrong one are really
    issued), `org_code_ok` the same of the organisation code inside (a warning only).
    Source: GB 32100-2015, GB 11714-1997.
    """

    value: str
    problem: UsccProblem | None
    check_ok: bool
    org_code_ok: bool


@dataclass(frozen=True)
class IdCheck:
    """What was found. `value` has 18 characters and a capital X where the text was usable; it is not shown.

    `area_known` false is a warning only: codes of places change, that of first issue stays.
    Source: GB 11643-1999.
    """

    value: str = field(repr=False)
    problem: IdProblem | None
    born_on: date | None = field(repr=False)
    area_known: bool


@dataclass(frozen=True)
class MobileCheck:
    """What was found. `value` is the bare 11 digits, or the text if there is a `problem`; it is not shown."""

    value: str = field(repr=False)
    problem: MobileProblem | None


@lru_cache(1024)
def check_uscc(text: str) -> UsccCheck:
    """Looks at a unified social credit code. Outer blanks and small letters are forgiven, nothing else is."""
    value = _capitals(text)
    if len(value) != _LONG:
        return UsccCheck(value, UsccProblem.LENGTH, check_ok=False, org_code_ok=False)
    if any(char not in _USCC_VALUE for char in value):
        return UsccCheck(value, UsccProblem.ALPHABET, check_ok=False, org_code_ok=False)
    return UsccCheck(
        value,
        None,
        check_ok=uscc_check_char(value[:17]) == value[17],
        org_code_ok=org_code_check_char(value[8:16]) == value[16],
    )


def check_id_number(text: str, *, today: date) -> IdCheck:
    """Looks at a citizen's ID number; 15 old digits become 18 first. `today` bounds the date of birth.

    Residents of Hong Kong, Macao and Taiwan (81–83) and foreigners with permanent residence (9…) pass.
    """
    value = _capitals(text)
    if len(value) not in (_LONG, _OLD):
        return IdCheck(value, IdProblem.LENGTH, None, area_known=False)
    body = value[:17] if len(value) == _LONG else value
    if not _digits(body) or not _digits(value[-1].replace("X", "0")):
        return IdCheck(value, IdProblem.ALPHABET, None, area_known=False)
    if len(value) == _OLD:
        body = f"{value[:6]}19{value[6:]}"
        value = body + id_check_char(body)
    area_known = value[0] == "9" or value[:2] in _PROVINCES
    try:
        born_on = date(int(value[6:10]), int(value[10:12]), int(value[12:14]))
    except ValueError:
        return IdCheck(value, IdProblem.DATE, None, area_known)
    return IdCheck(value, _id_problem(value, born_on, today), born_on, area_known)


def check_mobile(text: str) -> MobileCheck:
    """Looks at a mobile number: +86, 0086, 86, blanks and dashes are forgiven. The carrier is unknowable."""
    value = text.replace(" ", "").replace("-", "")
    for prefix in ("+86", "0086", "86"):
        if value.startswith(prefix):
            value = value[len(prefix) :]
            break
    if not _digits(value):
        return MobileCheck(text, MobileProblem.ALPHABET)
    if len(value) != 11:
        return MobileCheck(text, MobileProblem.LENGTH)
    if not _MOBILE.fullmatch(value):
        return MobileCheck(text, MobileProblem.RANGE)
    if value.startswith(_THINGS):
        return MobileCheck(text, MobileProblem.THING)
    return MobileCheck(value, None)


def uscc_check_char(first17: str) -> str:
    """The 18th character of a unified social credit code (GB 32100-2015)."""
    total = sum(_USCC_VALUE[char] * weight for char, weight in zip(first17, _USCC_WEIGHTS, strict=True))
    return USCC_ALPHABET[-total % 31]


def org_code_check_char(first8: str) -> str:
    """The 9th character of an organisation code (GB 11714-1997); letters count A = 10 … Z = 35."""
    total = sum(int(char, 36) * weight for char, weight in zip(first8, _ORG_WEIGHTS, strict=True))
    return "0123456789X"[-total % 11]


def id_check_char(first17: str) -> str:
    """The 18th character of an ID number (GB 11643-1999, mod 11-2)."""
    total = sum(int(char) * weight for char, weight in zip(first17, _ID_WEIGHTS, strict=True))
    return "10X98765432"[total % 11]


def _id_problem(value: str, born_on: date, today: date) -> IdProblem | None:
    if born_on < _OLDEST:
        return IdProblem.TOO_EARLY
    if born_on > today:
        return IdProblem.FUTURE
    if id_check_char(value[:17]) != value[17]:
        return IdProblem.CHECK_DIGIT
    return None


def _capitals(text: str) -> str:
    # Only ASCII: some other letters turn into several, or into ASCII ones, when put in capitals.
    value = text.strip()
    return value.upper() if value.isascii() else value


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
