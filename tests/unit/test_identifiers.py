"""Checks of unit codes, ID numbers and mobile numbers."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.identifiers import (
    USCC_ALPHABET,
    IdProblem,
    MobileProblem,
    UsccProblem,
    check_id_number,
    check_mobile,
    check_uscc,
    id_check_char,
    org_code_check_char,
    uscc_check_char,
)

TODAY = date(2026, 1, 5)
CODES = [
    "91110000600037341L",
    "91110108551385082Q",
    "91371082MA3XTE5T8Q",
    "92371082MA3XTE5T8M",
    "93371082MA3XTE5U6D",
    "52371082MJE123451U",
    "11371082004260010F",
    "12371082494260012J",
    "31371082MD01234549",
    "N2371082MF4123459Y",
]


def with_check(first17: str) -> str:
    """An ID number with the right last character."""
    return first17 + id_check_char(first17)


@pytest.mark.parametrize("code", CODES)
def test_real_and_sample_codes_pass(code: str) -> None:
    """Codes of all kinds of units, also those that begin with a letter."""
    found = check_uscc(code)
    assert (found.value, found.problem, found.check_ok, found.org_code_ok) == (code, None, True, True)


def test_outer_blanks_and_small_letters_are_forgiven() -> None:
    """The value is trimmed and in capitals."""
    assert check_uscc("  91371082ma3xte5t8q\n").value == "91371082MA3XTE5T8Q"
    assert check_uscc("91371082ma3xte5t8q").check_ok


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", UsccProblem.LENGTH),
        ("91371082MA3XTE5T8", UsccProblem.LENGTH),
        ("91371082MA3XTE5T8QQ", UsccProblem.LENGTH),
        ("371082200001234", UsccProblem.LENGTH),
        ("91371082-MA3XTE5T8", UsccProblem.ALPHABET),
        ("91371082 MA3XTE5T8", UsccProblem.ALPHABET),
        *[(f"91371082{char}A3XTE5T8Q", UsccProblem.ALPHABET) for char in "IOSVZ"],
        ("９1371082MA3XTE5T8Q", UsccProblem.ALPHABET),
        ("91371082MA3XTE5\N{LATIN SMALL LIGATURE FF}8", UsccProblem.LENGTH),
        ("91371082MA3XTE5T\x00Q", UsccProblem.ALPHABET),
    ],
)
def test_wrong_length_or_alphabet_is_a_problem(text: str, problem: UsccProblem) -> None:
    """Inner blanks and dashes are not stripped; look-alike characters do not pass."""
    assert check_uscc(text).problem is problem


def test_a_wrong_check_character_is_told_but_is_no_problem() -> None:
    """Such codes are really issued; the organisation code inside is judged apart."""
    found = check_uscc("91371082MA3XTE5T8P")
    assert (found.problem, found.check_ok, found.org_code_ok) == (None, False, True)
    first17 = "91371082MA3XTE5T7"
    found = check_uscc(first17 + uscc_check_char(first17))
    assert (found.problem, found.check_ok, found.org_code_ok) == (None, True, False)


@given(st.text(USCC_ALPHABET, min_size=16, max_size=16), st.integers(0, 17), st.sampled_from(USCC_ALPHABET))
def test_generated_codes_pass_and_one_changed_character_is_seen(first16: str, place: int, char: str) -> None:
    """The check characters made here are those that the check wants, and any single change breaks them."""
    first17 = first16 + org_code_check_char(first16[8:])
    code = first17 + uscc_check_char(first17)
    found = check_uscc(code)
    assert found.check_ok
    assert found.org_code_ok
    changed = code[:place] + char + code[place + 1 :]
    assert check_uscc(changed).check_ok == (changed == code)


@pytest.mark.parametrize(
    "number",
    [
        "371082198503150023",
        "37063319620720001X",
        "371082200802290042",
        with_check("37108219600101001"),
        with_check("37063319850101001"),
        with_check("37102319870101001"),
        with_check("81000019900101001"),
        with_check("82000019900101001"),
        with_check("83000019900101001"),
        with_check("91112419810803002"),
    ],
)
def test_numbers_that_people_here_carry_pass(number: str) -> None:
    """Present and historical places, residents of Hong Kong, Macao and Taiwan, foreigners."""
    found = check_id_number(number, today=TODAY)
    assert (found.value, found.problem, found.area_known) == (number, None, True)
    assert found.born_on == date(int(number[6:10]), int(number[10:12]), int(number[12:14]))


def test_a_small_x_and_outer_blanks_are_forgiven() -> None:
    """The value has a capital X."""
    found = check_id_number(" 37063319620720001x ", today=TODAY)
    assert (found.value, found.problem) == ("37063319620720001X", None)


def test_an_old_number_of_15_digits_becomes_18() -> None:
    """The century is 19; the check digit is added."""
    found = check_id_number("370633620720001", today=TODAY)
    assert (found.value, found.problem) == ("37063319620720001X", None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", IdProblem.LENGTH),
        ("37108219850315002", IdProblem.LENGTH),
        ("3710821985031500233", IdProblem.LENGTH),
        ("37108219850315002A", IdProblem.ALPHABET),
        ("3710821985031500X3", IdProblem.ALPHABET),
        ("37063362072000X", IdProblem.ALPHABET),
        ("37108219850315002３", IdProblem.ALPHABET),
        (with_check("37108219850230002"), IdProblem.DATE),
        (with_check("37108219000229002"), IdProblem.DATE),
        (with_check("37108200000101002"), IdProblem.DATE),
        ("370633621320001", IdProblem.DATE),
        (with_check("37108218991231002"), IdProblem.TOO_EARLY),
        (with_check("37108220260106002"), IdProblem.FUTURE),
        (with_check("37108220990101002"), IdProblem.FUTURE),
        ("371082198503150024", IdProblem.CHECK_DIGIT),
        ("37108219850315002X", IdProblem.CHECK_DIGIT),
    ],
)
def test_a_bad_number_names_its_problem(text: str, problem: IdProblem) -> None:
    """One problem each, the first that shows."""
    assert check_id_number(text, today=TODAY).problem is problem


def test_somebody_born_today_or_in_1900_passes() -> None:
    """The bounds of the date of birth belong to it."""
    assert check_id_number(with_check("37108220260105002"), today=TODAY).problem is None
    assert check_id_number(with_check("37108219000101002"), today=TODAY).problem is None


def test_an_unknown_area_is_a_warning_only() -> None:
    """No province begins with 19."""
    found = check_id_number(with_check("19108219850315002"), today=TODAY)
    assert (found.problem, found.area_known) == (None, False)


def test_checks_do_not_show_the_number() -> None:
    """What lands in an error or a log by accident holds no personal data."""
    found = check_id_number("371082198503150023", today=TODAY)
    assert "1985" not in repr(found)
    assert "13800138000" not in repr(check_mobile("13800138000"))


@given(
    st.from_regex(r"[1-6][0-9]{5}", fullmatch=True),
    st.dates(date(1900, 1, 1), TODAY),
    st.from_regex(r"[0-9]{3}", fullmatch=True),
    st.integers(0, 17),
    st.sampled_from("0123456789X"),
)
def test_generated_numbers_pass_and_one_changed_digit_is_seen(
    area: str, born_on: date, sequence: str, place: int, char: str
) -> None:
    """Every single wrong digit is found, by date or by check digit."""
    number = with_check(f"{area}{born_on:%Y%m%d}{sequence}")
    assert check_id_number(number, today=TODAY).problem is None
    changed = number[:place] + char + number[place + 1 :]
    assert (check_id_number(changed, today=TODAY).problem is None) == (changed == number)


@given(st.text())
def test_any_text_gets_an_answer(text: str) -> None:
    """No input makes a check fail."""
    check_uscc(text)
    check_id_number(text, today=TODAY)
    check_mobile(text)


@pytest.mark.parametrize(
    "text",
    [
        "13800138000",
        "+8613800138000",
        "+86 138 0013 8000",
        "008613800138000",
        "8613800138000",
        "138-0013-8000",
    ],
)
def test_usual_ways_to_write_a_mobile_number_pass(text: str) -> None:
    """The value is the bare 11 digits."""
    found = check_mobile(text)
    assert (found.value, found.problem) == ("13800138000", None)


@pytest.mark.parametrize("text", ["13000000000", "17012345678", "19212345678", "19912345678", "16212345678"])
def test_all_ranges_of_people_pass(text: str) -> None:
    """Virtual operators and the fourth network included."""
    assert check_mobile(text).problem is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", MobileProblem.ALPHABET),
        ("1380013800", MobileProblem.LENGTH),
        ("138001380000", MobileProblem.LENGTH),
        ("1440013800000", MobileProblem.LENGTH),
        ("0631-7562345", MobileProblem.RANGE),
        ("12000138000", MobileProblem.RANGE),
        ("10600138000", MobileProblem.RANGE),
        ("14000138000", MobileProblem.THING),
        ("14400138000", MobileProblem.THING),
        ("14600138000", MobileProblem.THING),
        ("14800138000", MobileProblem.THING),
        ("1380013800o", MobileProblem.ALPHABET),
        ("１3800138000", MobileProblem.ALPHABET),
        ("13800138000,13800138001", MobileProblem.ALPHABET),
        ("13800138000\n", MobileProblem.ALPHABET),
    ],
)
def test_a_bad_mobile_number_names_its_problem(text: str, problem: MobileProblem) -> None:
    """Landlines, numbers of things, two numbers in one field, other digits."""
    found = check_mobile(text)
    assert (found.value, found.problem) == (text, problem)
