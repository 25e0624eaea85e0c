"""The independent check of the paths beyond a lone SMS: each right story passes, each planted wrong is found.

The stories are written out by hand, a few units each. Thursday 2026-02-05 is the deadline of all of them, so
their messages are due on the 6th; the 10th working day after that is the 27th.
"""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.demo import check
from services.demo.check import Row
from services.demo.city import END

ZONE = END.tzinfo
NAMES = ("海岚公司", "瀚澜公司", "沣汐公司", "泓屿公司", "浩舟公司", "源帆公司", "鸿湾公司")
PHONE, OPENID = "13800138000", "o" + "A" * 27
DUE = datetime(2026, 2, 6, 8, 30, 1, tzinfo=ZONE)
UNTIL = datetime(2026, 2, 20, 10, tzinfo=ZONE)


def fact(what, at, **about):
    return {"fact": what, "key": f"{what}-{at}", "asked_at": at, "answered_at": at, **about}


def at(text):
    return f"2026-{text}:00+08:00"


def unit(n=0, *facts, mobile=PHONE, established_on="2026-01-06", origin="single", **given):
    registered = fact("registered", at("01-12T09:00"), origin=origin)
    return {
        "uscc": f"91371082MAY00000{n:02}",
        "name": NAMES[n],
        "kind": "enterprise",
        "town": "寻山街道",
        "established_on": established_on,
        "mobile": mobile,
        "phone": "ok",
        "code_valid": True,
        "facts": [registered, *facts],
        **given,
    }


def story(*units, **of_all):
    nights = [datetime(2026, 2, 1, 0, 20, tzinfo=ZONE) + timedelta(days=n) for n in range(35)]
    declared = [
        fact("declared", night.isoformat(), through=(night - timedelta(days=1)).date().isoformat())
        for night in nights
    ]
    return {"until": UNTIL.isoformat(), "declared": declared, "units": list(units), **of_all}


def sms(n=0, when=DUE, *, deadline="2026年2月5日", to=PHONE, accepted=True, seq=1):
    return Row(seq, when, to, f"{NAMES[n]}：登记期限至{deadline}届满", accepted)


def wechat(when=DUE, *, accepted=True, name=NAMES[0], template="R01-REMINDER", to=OPENID):
    data = {"thing1": name, "date2": "2026年2月5日"}
    content = json.dumps({"template_id": template, "data": data}, ensure_ascii=False)
    return Row(1, when, to, content, accepted, "wechat")


def enrolled(when, started_on="2026-02-06"):
    return fact("participation", when, insurance="pension", form="employer", started_on=started_on)


def kinds(records, *rows):
    return {finding.kind for finding in check.check(records, rows)}


# -- WeChat -----------------------------------------------------------------------------------------------


def bound(fares, *facts, **given):
    return story(unit(0, fact("bound", at("01-12T10:00")), *facts, openid=OPENID, wechat=fares, **given))


def test_who_got_it_by_wechat_needs_no_sms():
    """The message to the follower is the reminder; an SMS behind it is one too many."""
    records = bound("ok")
    assert kinds(records, wechat()) == set()
    assert kinds(records) == {"missing"}
    assert kinds(records, wechat(), sms(when=DUE + timedelta(days=3))) == {"needless"}
    assert kinds(records, wechat(), wechat(DUE + timedelta(minutes=1))) == {"doubled"}
    figures = check.tally(records, [wechat()])
    columns = "reached by WeChat", "WeChat refused, then SMS", "joint messages"
    assert [figures[column] for column in columns] == [1, 0, 0]


def test_wechat_comes_first_where_the_phone_is_bound():
    """And only there: not before, not after the follower has left."""
    assert kinds(bound("ok"), sms()) == {"not by WeChat"}
    assert kinds(story(unit(openid=OPENID, wechat="ok")), wechat()) == {"not bound"}
    left = bound("ok", fact("unfollowed", at("02-01T12:00")))
    assert kinds(left, wechat()) == {"not bound"}
    assert kinds(left, sms()) == set()


def test_silence_is_followed_by_an_sms_once():
    """After 24 hours, at the next opening; not before, not twice, not much later."""
    records = bound("silent")
    day_after = DUE + timedelta(days=3)  # the weekend lies between
    assert kinds(records, wechat(), sms(when=day_after)) == set()
    assert kinds(records, wechat()) == {"follow-up: missing"}
    assert kinds(records, wechat(), sms(when=DUE + timedelta(hours=2))) == {"early"}
    assert kinds(records, wechat(), sms(when=day_after), sms(when=day_after + timedelta(hours=1))) == {
        "doubled"
    }
    assert kinds(records, wechat(), sms(when=day_after + timedelta(hours=2))) == {"follow-up: late"}
    figures = check.tally(records, [wechat(), sms(when=day_after)])
    columns = "WeChat silent, then SMS", "reached by WeChat", "unreached"
    assert [figures[column] for column in columns] == [1, 0, 0]


def test_a_refusal_is_followed_by_an_sms_at_once():
    """Refused at the door or by the receipt. A later stage of who was refused goes by SMS alone."""
    for records, first in ((bound("refused"), wechat(accepted=False)), (bound("failing"), wechat())):
        assert kinds(records, first, sms(when=DUE + timedelta(seconds=6))) == set()
        assert kinds(records, first) == {"follow-up: missing"}
        assert kinds(records, first, sms(when=DUE + timedelta(hours=1))) == {"follow-up: late"}
        assert check.tally(records, [first, sms()])["WeChat refused, then SMS"] == 1


def test_no_sms_follows_when_the_unit_enrolled_meanwhile():
    """The lead has ended."""
    records = bound("silent", enrolled(at("02-06T15:00")))
    assert kinds(records, wechat()) == set()
    assert kinds(records, wechat(), sms(when=DUE + timedelta(days=3))) == {"after enrolment"}


def test_who_is_silent_on_both_is_unreached():
    """72 hours after the SMS; the town is asked to look in."""
    rows = [wechat(), sms(when=DUE + timedelta(days=3))]
    figures = check.tally(bound("silent", phone="silent"), rows)
    assert (figures["unreached"], figures["silent on both"], figures["visits asked for"]) == (1, 1, 1)
    assert check.tally(bound("silent", phone="silent"), rows[:1])["unreached"] == 0


def test_a_wechat_message_names_unit_and_deadline_and_goes_to_its_follower():
    """Like an SMS."""
    assert kinds(bound("ok"), wechat(name="另一公司")) == {"wrong text"}
    assert kinds(bound("ok"), wechat(to="o" + "B" * 27)) == {"wrong phone"}


def test_a_second_reminder_by_wechat_is_known_by_its_template():
    """On the tenth working day after the first."""
    records = {**bound("ok"), "until": END.isoformat()}
    second = wechat(datetime(2026, 2, 27, 8, 30, 2, tzinfo=ZONE), template="R01-SECOND")
    assert kinds(records, wechat(), second) == set()
    assert kinds(records, wechat()) == {"second: missing"}


# -- agents -----------------------------------------------------------------------------------------------


def joint(count, names=NAMES[:3], deadline="2026年2月5日", when=DUE):
    text = f"您联系的{'、'.join(names)}等{count}户单位：登记期限最早于{deadline}届满"
    return Row(1, when, PHONE, text, accepted=True)


def seven():
    early = enrolled(at("02-06T07:00"))
    return story(*(unit(n) for n in range(5)), unit(5, early), unit(6, early))


def test_one_message_names_three_and_counts_those_that_are_due():
    """Five of seven: two enrolled before the hours."""
    assert kinds(seven(), joint(5)) == set()
    assert check.tally(seven(), [joint(5)])["joint messages"] == 1
    assert check.tally(seven(), [joint(5)])["reminded"] == 5
    assert kinds(seven(), joint(7)) >= {"wrong count"}
    assert kinds(seven(), joint(4)) == {"wrong count", "missing"}
    assert kinds(seven(), joint(5, NAMES[:2])) == {"wrong count"}
    again = joint(5, when=DUE + timedelta(hours=1))
    assert "wrong count" in kinds(seven(), joint(5), again)


def test_a_joint_message_that_names_who_enrolled_is_found():
    """Named is told."""
    assert "after enrolment" in kinds(seven(), joint(5, (*NAMES[:2], NAMES[5])))


def test_units_behind_one_phone_do_not_get_a_message_each():
    """Three texts to an agent within a minute are what joining is for."""
    records = story(*(unit(n) for n in range(3)))
    assert kinds(records, joint(3)) == set()
    assert kinds(records, *(sms(n, DUE + timedelta(seconds=n)) for n in range(3))) == {"wrong count"}


def test_a_joint_message_names_the_earliest_deadline():
    """Of all that it covers."""
    stopped = stop("02-05T08:00", "02-06T08:00")
    records = story(unit(0), unit(1, established_on="2026-01-05"), sending=stopped)
    both = joint(2, NAMES[:2], "2026年2月4日")
    assert kinds(records, both) == set()
    assert kinds(records, replace(both, content=both.content.replace("4日", "5日"))) == {"wrong text"}


def answer(n, *, genuine, forged=False):
    asked = at("02-06T11:00")
    told = {"uscc": unit(n)["uscc"], "forged": forged, "answer": genuine}
    return fact("verified", asked, **told)


def test_verify_must_know_the_five_and_refuse_the_two_and_a_forged_number():
    """What was answered is judged by who is covered."""
    right = [
        *(answer(n, genuine=n < 5) for n in range(7)),
        answer(0, genuine=False, forged=True),
    ]
    assert kinds({**seven(), "answers": right}, joint(5)) == set()
    figures = check.tally({**seven(), "answers": right}, [joint(5)])
    assert (figures["found genuine"], figures["found not genuine"]) == (5, 3)
    for n, told in enumerate(right):
        wrong = [*right[:n], {**told, "answer": not told["answer"]}, *right[n + 1 :]]
        assert kinds({**seven(), "answers": wrong}, joint(5)) == {"wrong verdict"}


# -- files, stock, disputes -------------------------------------------------------------------------------


def test_an_error_file_names_the_broken_rows_and_no_others():
    """By line."""
    for named, expected in (([4, 7], set()), ([4], {"wrong errors"}), ([4, 5, 7], {"wrong errors"})):
        told = fact("errors", at("02-06T11:00"), planted=[4, 7], answer=named)
        assert kinds({**story(), "answers": [told]}) == expected
        assert check.tally({**story(), "answers": [told]}, [])["rows rejected"] == 2


def test_a_unit_whose_row_could_not_be_read_is_left_alone_until_it_is_settled():
    """A reminder is then due, and not before."""
    disputed = fact("disputed", at("02-03T00:20"))
    settled = fact("settled", at("02-11T09:30"))
    open_ = story(unit(0, disputed))
    assert kinds(open_) == set()
    assert kinds(open_, sms()) == {"while disputed"}
    assert check.tally(open_, [])["held by a rejected row"] == 1
    assert check.tally(open_, [])["leads"] == 0
    after = story(unit(0, disputed, settled))
    assert kinds(after) == {"missing"}
    assert kinds(after, sms(when=datetime(2026, 2, 11, 9, 31, tzinfo=ZONE))) == set()
    assert check.tally(after, [])["held by a rejected row"] == 0


OLD = {"established_on": "2025-11-15", "origin": "batch"}  # its deadline was 2025-12-15


def test_old_cases_of_a_file_wait_for_a_person():
    """Until released nothing is due; those registered by a call do not wait."""
    written = {"deadline": "2025年12月15日"}
    kept = story(unit(**OLD))
    assert kinds(kept) == set()
    assert kinds(kept, sms(when=DUE, **written)) == {"in stock"}
    assert check.tally(kept, [])["left in stock"] == 1
    released = story(unit(0, fact("released", at("02-06T08:00")), **OLD))
    assert kinds(released) == {"missing"}
    assert kinds(released, sms(when=DUE, **written)) == set()
    figures = check.tally(released, [])
    assert (figures["left in stock"], figures["released from stock"], figures["registered by file"]) == (
        0,
        1,
        1,
    )
    assert kinds(story(unit(**{**OLD, "origin": "single"}))) == {"missing"}


def test_a_clock_that_was_running_when_the_file_came_is_no_stock():
    """A file of new units is like so many calls."""
    assert kinds(story(unit(origin="batch"))) == {"missing"}


# -- officials --------------------------------------------------------------------------------------------


def test_an_exemption_ends_the_lead():
    """Nothing leaves after it."""
    records = {**story(unit(0, fact("exempted", at("02-10T10:00")))), "until": END.isoformat()}
    second = replace(sms(when=datetime(2026, 2, 27, 8, 30, 2, tzinfo=ZONE)))
    second = replace(second, content=second.content.replace("届满", "届满，经提醒仍未"))
    assert kinds(records, sms()) == set()
    assert kinds(records, sms(), second) == {"second: after exemption"}
    assert check.tally(records, [sms()])["exempt"] == 1


def stop(off, on):
    return [fact("sending", at(off), state="off"), fact("sending", at(on), state="on")]


def test_nothing_leaves_while_all_sending_is_stopped():
    """What was due meanwhile leaves when it goes on, and must."""
    records = {**story(unit()), "sending": stop("02-06T08:05", "02-06T10:40")}
    assert kinds(records, sms()) == {"while stopped"}
    assert kinds(records, sms(when=datetime(2026, 2, 6, 10, 41, tzinfo=ZONE))) == set()
    assert kinds(records) == {"missing"}
    went_on = datetime(2026, 2, 6, 10, 40, tzinfo=ZONE)
    for seconds, expected in ((2, 1), (61, 0)):
        left = sms(when=went_on + timedelta(seconds=seconds))
        assert check.tally(records, [left])["left when the stop ended"] == expected


@pytest.mark.parametrize(
    "wrong",
    [fact("recalled", at("02-09T10:00")), fact("corrected", at("02-09T10:00"), established_on="2026-02-02")],
)
def test_a_wrong_message_has_to_be_taken_back(wrong):
    """Once, soon, and only after one had left."""
    records = story(unit(0, wrong))
    back = replace(
        sms(when=datetime(2026, 2, 9, 10, 1, tzinfo=ZONE)), content=f"{NAMES[0]}：有误，请勿据此办理"
    )
    assert kinds(records, sms(), back) == set()
    assert kinds(records, sms()) == {"correction: missing"}
    assert kinds(records, sms(), back, replace(back, seq=3)) == {"correction: doubled"}
    late = replace(back, at=datetime(2026, 2, 10, 10, tzinfo=ZONE))
    assert kinds(records, sms(), late) == {"correction: late"}
    assert check.tally(records, [sms(), back])["message taken back"] == 1
    before = replace(back, at=datetime(2026, 2, 9, 9, tzinfo=ZONE))
    assert "correction: unfounded" in kinds(records, sms(), before)
