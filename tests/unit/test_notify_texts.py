"""What messages say, whom they go to, and where a notice stands."""

import shutil
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.notify.domain import AttemptState, Channel, NoticeState, changed, pick_mobile
from services.notify.fragments import MOST_BODY, TextTooLongError, units
from services.notify.settings import NotifySettings, read_rules
from services.notify.words import (
    Field,
    Issuer,
    Subject,
    Template,
    TextError,
    WechatTemplate,
    make_reference,
)
from shared.documents import DocumentError, pack
from tests.support.notify import RULES, a_notice, at

ISSUER = Issuer("荣成市人力资源和社会保障局", "12333")
REFERENCE = "ABC234XYZ"
WHOLE = "{unit} {established_on} {deadline} 如已用工 {office} {service_number} {reference}"
GROUP = "{units} {count} {deadline} 如已用工 {office} {service_number} {reference}"
REMINDER = RULES.templates["R01", "reminder"]


def subject(unit: str = "荣成市示例水产有限公司", *, deadline: date = date(2026, 2, 9)) -> Subject:
    return Subject(unit, date(2026, 1, 9), deadline)


@pytest.mark.parametrize("stage", ["reminder", "second_reminder"])
def test_a_text_says_everything_it_has_to(stage: str) -> None:
    """Unit, both dates, 如已用工, office, service number and reference; no link, no brace left."""
    text = RULES.templates["R01", stage].write_sms([subject()], ISSUER, REFERENCE).text
    said = (
        "荣成市示例水产有限公司",
        "2026年1月9日",
        "2026年2月9日",
        "如已用工",
        ISSUER.office,
        "12333",
        REFERENCE,
    )
    for one in said:
        assert one in text
    assert not set("{}") & set(text)
    assert "http" not in text


@pytest.mark.parametrize("stage", ["reminder", "second_reminder"])
def test_a_text_about_several_units_names_the_three_most_urgent_and_counts_all(stage: str) -> None:
    """By deadline; the earliest deadline is the one that is said."""
    units_ = [subject(f"示例{n}公司", deadline=date(2026, 2, 28 - n)) for n in range(7)]
    text = RULES.templates["R01", stage].write_sms(units_, ISSUER, REFERENCE).text
    assert "示例6公司、示例5公司、示例4公司等7户" in text
    assert "示例3公司" not in text
    assert "2026年2月22日" in text
    assert all(one in text for one in ("如已用工", ISSUER.office, "12333", REFERENCE))


@pytest.mark.parametrize(("length", "named"), [(80, 3), (130, 2), (200, 1)])
def test_a_text_names_as_many_units_as_fit(length: int, named: int) -> None:
    """Carriers take 500 characters; with long names fewer are named, and all are counted."""
    text = REMINDER.write_sms(
        [subject(f"{n}{'名' * (length - 1)}") for n in range(5)], ISSUER, REFERENCE
    ).text
    assert units(text) <= MOST_BODY
    assert (text.count("名" * (length - 1)), "等5户" in text) == (named, True)


def test_a_text_that_can_not_fit_is_an_error() -> None:
    """Nothing is cut off in silence."""
    with pytest.raises(TextTooLongError):
        REMINDER.write_sms([subject("名" * 400)], ISSUER, REFERENCE)


def test_a_correction_names_the_message_that_was_wrong() -> None:
    """Its reference is said beside the correction's own."""
    text = RULES.templates["R01", "correction"].write_sms([subject()], ISSUER, REFERENCE, "WRXNG2345").text
    assert all(one in text for one in ("荣成市示例水产有限公司", "WRXNG2345", REFERENCE, "有误"))


def test_a_wechat_message_has_its_fields_and_reads_like_them() -> None:
    """Long names are cut to what WeChat shows, never the count; the text holds labels and values."""
    name = "荣成市示例海洋食品加工贸易有限公司第一分公司"
    lone = REMINDER.write_wechat([subject(name)], ISSUER, REFERENCE)
    many = REMINDER.write_wechat([subject(name)] * 12, ISSUER, REFERENCE)
    assert lone.fields["thing1"] == "荣成市示例海洋食品加工贸易有限公司第一…"
    assert many.fields["thing1"] == "荣成市示例海洋食品加工贸易有限…等12户"
    assert {len(lone.fields["thing1"]), len(many.fields["thing1"])} == {20}
    assert (lone.fields["date2"], lone.fields["character_string5"]) == ("2026年2月9日", REFERENCE)
    assert f"核验编号：{REFERENCE}" in lone.text
    assert lone.template_id


@pytest.mark.parametrize(
    "variable", ["unit", "established_on", "deadline", "office", "service_number", "reference"]
)
def test_a_text_without_a_mandatory_variable_is_refused(variable: str) -> None:
    """The error names the variable that is missing."""
    with pytest.raises(TextError, match=variable):
        Template(WHOLE.replace(f"{{{variable}}}", ""), GROUP, ())


@pytest.mark.parametrize("variable", ["units", "count", "deadline", "office", "service_number", "reference"])
def test_a_text_for_several_without_a_mandatory_variable_is_refused(variable: str) -> None:
    """The error names the variable that is missing."""
    with pytest.raises(TextError, match=variable):
        Template(WHOLE, GROUP.replace(f"{{{variable}}}", ""), ())


def test_a_correction_has_to_say_what_it_takes_back() -> None:
    """Without the wrong message's reference it is refused."""
    with pytest.raises(TextError, match="corrects"):
        Template("{unit} {office} {service_number} {reference}", GROUP, (), correction=True)


def test_wechat_fields_without_a_mandatory_variable_are_refused() -> None:
    """The deadline can't be left out there either."""
    with pytest.raises(TextError, match="deadline"):
        WechatTemplate("T", [Field("thing1", "单位", "{units}{office}{service_number}{reference}")])


def test_a_text_with_an_unknown_variable_or_without_a_word_is_refused() -> None:
    """A typo in a variable and a lost word are both named."""
    with pytest.raises(TextError, match="uint"):
        Template(WHOLE + "{uint}", GROUP, ())
    with pytest.raises(TextError, match="办理"):
        Template(WHOLE, GROUP, ("如已用工", "办理"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{reference}", ""),
        ("{unit}：贵", "{unit}" + "长" * 400),
        ("{units}单位", "{units}" + "长" * 400),
        ('name = "date2"', 'name = "thing2x"'),
        ('name = "character_string5", label = "核验编号", value = "{reference}"', "name = 5"),
        ('value = "{office}"', 'value = "发出单位是{office}的某一科室"'),
    ],
)
def test_notify_does_not_start_with_such_a_city_pack(tmp_path: Path, old: str, new: str) -> None:
    """The error names file and key; texts too long for a long name count, and what WeChat would refuse."""
    city = tmp_path / "city"
    shutil.copytree(pack(None), city)
    texts = city / "texts.toml"
    assert old in texts.read_text("utf-8")
    texts.write_text(texts.read_text("utf-8").replace(old, new), "utf-8")
    with pytest.raises(DocumentError, match=r"texts\.toml: .*R01\.reminder"):
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
    """By role, in the city's order; a landline or a number with a typo is no mobile; +86 is forgiven."""
    order = ("hr", "legal_representative", "agent")
    agent = {"role": "agent", "mobile": "13900139000"}
    boss = {"role": "legal_representative", "mobile": "+86 138-0013-8000"}
    assert pick_mobile([agent, boss], order) == "13800138000"
    assert pick_mobile([agent, {"role": "hr", "mobile": "0631-7551234"}], order) == "13900139000"
    assert pick_mobile([{"role": "hr", "mobile": None}], order) is None
    assert pick_mobile([], order) is None
    assert pick_mobile([agent, boss], ("agent",)) == "13900139000"
    assert pick_mobile([boss], ("agent",)) == "13800138000"


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


def test_with_wechat_a_notice_waits_and_after_it_the_sms_is_due() -> None:
    """Events and holds still count for the SMS that may follow; after the SMS nothing does."""
    sent = changed(a_notice(), state=NoticeState.HANDED_OVER, channel=Channel.WECHAT)
    assert (sent.sendable, sent.moving_on, sent.due_at) == (True, False, None)
    moving = changed(sent, sms_only=True, look_again_at=at("2026-02-11"))
    assert (moving.state, moving.moving_on, moving.due_at) == ("handed_over", True, at("2026-02-11"))
    assert changed(moving, held=("paused",)).due_at is None
    assert changed(moving, trying=AttemptState.OPEN).due_at is None
    done = changed(moving, channel=Channel.SMS)
    assert (done.sendable, done.due_at) == (False, None)


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
    longest = REMINDER.write_sms([Subject("𠮷" * 100, day, day)], ISSUER, REFERENCE).text
    room = 500 - units(longest)
    texts.write_text(whole.replace("{unit}", "{unit}" + "长" * room, 1), "utf-8")
    read_rules(NotifySettings(), city)
    texts.write_text(whole.replace("{unit}", "{unit}" + "长" * (room + 1), 1), "utf-8")
    with pytest.raises(DocumentError, match="500"):
        read_rules(NotifySettings(), city)
