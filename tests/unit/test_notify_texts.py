"""What messages say, whom they go to, and where a notice stands."""

import shutil
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.notify.domain import (
    AttemptState,
    Facts,
    NoticeState,
    Template,
    TextError,
    changed,
    make_reference,
    pick_mobile,
)
from services.notify.fragments import units
from services.notify.settings import NotifySettings, read_rules
from shared.documents import DocumentError, pack
from tests.support.notify import RULES, a_notice, at

FACTS = Facts("荣成市示例水产有限公司", "enterprise", None, date(2026, 1, 9), date(2026, 2, 9), {}, 1)
WHOLE = "{unit} {established_on} {deadline} 如已用工 {office} {service_number} {reference}"


def test_a_text_says_everything_it_has_to() -> None:
    """Unit, both dates, 如已用工, office, service number and reference; no link, no brace left."""
    text = RULES.templates["R01", "reminder"].render(
        FACTS, office=RULES.office, service_number=RULES.service_number, reference="ABC234XYZ"
    )
    for said in (
        FACTS.unit_name,
        "2026年1月9日",
        "2026年2月9日",
        "如已用工",
        RULES.office,
        "12333",
        "ABC234XYZ",
    ):
        assert said in text
    assert not set("{}") & set(text)
    assert "http" not in text


@pytest.mark.parametrize(
    "variable", ["unit", "established_on", "deadline", "office", "service_number", "reference"]
)
def test_a_text_without_a_mandatory_variable_is_refused(variable: str) -> None:
    """The error names the variable that is missing."""
    with pytest.raises(TextError, match=variable):
        Template(WHOLE.replace(f"{{{variable}}}", ""), ())


def test_a_text_with_an_unknown_variable_or_without_a_word_is_refused() -> None:
    """A typo in a variable and a lost word are both named."""
    with pytest.raises(TextError, match="uint"):
        Template(WHOLE + "{uint}", ())
    with pytest.raises(TextError, match="办理"):
        Template(WHOLE, ("如已用工", "办理"))


@pytest.mark.parametrize(("old", "new"), [("{reference}", ""), ("{unit}", "{unit}" + "长" * 400)])
def test_notify_does_not_start_with_such_a_city_pack(tmp_path: Path, old: str, new: str) -> None:
    """The error names file and key; a text too long for a long name counts too."""
    city = tmp_path / "city"
    shutil.copytree(pack(None), city)
    texts = city / "texts.toml"
    texts.write_text(texts.read_text("utf-8").replace(old, new), "utf-8")
    with pytest.raises(DocumentError, match=r"texts\.toml: R01\.reminder\.sms"):
        read_rules(NotifySettings(), city)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=6, max_size=6))
def test_a_reference_has_nine_characters_nobody_confuses(random: bytes) -> None:
    """No 0, 1, I or O."""
    reference = make_reference(random)
    assert len(reference) == 9
    assert not set(reference) & set("01IO")
    assert reference.isalnum()


def test_every_bit_of_a_reference_counts() -> None:
    """45 bits: numbers that differ in any of them give different references."""
    assert len({make_reference((1 << bit).to_bytes(6)) for bit in range(45)}) == 45


def test_the_best_contact_with_a_usable_number_is_written_to() -> None:
    """By role; a landline or a number with a typo is no mobile; +86 is forgiven."""
    agent = {"role": "agent", "mobile": "13900139000"}
    boss = {"role": "legal_representative", "mobile": "+86 138-0013-8000"}
    assert pick_mobile([agent, boss]) == "13800138000"
    assert pick_mobile([agent, {"role": "hr", "mobile": "0631-7551234"}]) == "13900139000"
    assert pick_mobile([{"role": "hr", "mobile": None}]) is None
    assert pick_mobile([]) is None


def test_only_events_end_a_hold_that_is_not_the_looks() -> None:
    """Held for a look it is due again; held for anything else it is not; under way it is neither."""
    notice = a_notice()
    later = at("2026-02-10", "11:00")
    looked = changed(notice, held=("look:insured",), look_again_at=later)
    assert (looked.state, looked.due_at) == (NoticeState.HELD, later)
    blocked = changed(looked, held=("look:insured", "paused"))
    assert (blocked.state, blocked.due_at) == (NoticeState.HELD, None)
    assert changed(notice, trying=AttemptState.UNKNOWN).due_at is None
    assert changed(looked, state=NoticeState.WITHDRAWN).due_at is None


def test_a_real_account_begins_with_its_brake_on() -> None:
    """云MAS begins off with 500 a day, the sandbox on and uncapped."""
    real = read_rules(NotifySettings(carrier="yunmas"), pack(None)).sending
    assert (real.state, real.daily_cap) == ("off", 500)
    assert (RULES.sending.state, RULES.sending.daily_cap) == ("on", None)


def test_a_time_out_that_leaves_no_time_is_refused() -> None:
    """Connecting may take 0.6 of it, and a submission begins within 5 seconds of its look or not at all."""
    assert NotifySettings(carrier_timeout_s=8.3).latest_s > 0
    for values in ({"carrier_timeout_s": 8.34}, {"submit_within_s": 1.7}):
        with pytest.raises(ValueError, match="YINGBAO_NOTIFY_CARRIER_TIMEOUT_S"):
            NotifySettings(**values)


def test_the_longest_name_is_tried_as_carriers_count(tmp_path: Path) -> None:
    """The whole message with 200 code units of a name has 500 at most: one more in the template is refused."""
    city = tmp_path / "city"
    shutil.copytree(pack(None), city)
    texts = city / "texts.toml"
    whole = texts.read_text("utf-8")
    day = date(2026, 12, 31)
    longest = RULES.templates["R01", "reminder"].render(
        Facts("𠮷" * 100, "", None, day, day, {}, 0),
        office=RULES.office,
        service_number=RULES.service_number,
        reference="2" * 9,
    )
    room = 500 - units(longest)
    texts.write_text(whole.replace("{unit}", "{unit}" + "长" * room), "utf-8")
    read_rules(NotifySettings(), city)
    texts.write_text(whole.replace("{unit}", "{unit}" + "长" * (room + 1)), "utf-8")
    with pytest.raises(DocumentError, match="500"):
        read_rules(NotifySettings(), city)
