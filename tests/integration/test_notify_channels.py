"""WeChat before SMS, messages for phones that serve several units, and that every notice ends once."""

from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.notify.bindings import Turned, follow_again, unfollow
from services.notify.carriers import Accepted, ErrorClass, NotSent, Refused, Unknown
from services.notify.commands import put_aside
from services.notify.domain import changed
from services.notify.pages import pages
from services.notify.store import Store
from services.notify.tables import PLUMBING, attempt, attempt_notice, binding, notice
from shared.calendar import load_calendar
from shared.documents import pack
from tests.support.notify import (
    MOBILE,
    NOW,
    OPENID,
    OTHER,
    USCC,
    Desk,
    at,
    contact_changed,
    due,
    lead_advanced,
    lead_held,
    lead_opened,
    lead_released,
    lead_resolved,
    play,
)

CALENDAR = load_calendar(pack(None))
SEVEN = [f"91371082MA3XTE{n}" for n in ("1AA1", "2BB2", "3CC3", "4DD4", "5EE5", "6FF6", "7GG7")]
NOT_A_FOLLOWER = Refused("43004", ErrorClass.RECIPIENT_REFUSED, "does not follow")


async def channels(desk: Desk) -> list[tuple[str, str]]:
    """Channel and state of every attempt, in order."""
    return [(row.channel, row.state) for row in await desk.rows(attempt)]


# -- WeChat, then SMS ----------------------------------------------------------------------------------


def test_a_bound_phone_gets_wechat_and_no_sms(tmp_path: Path) -> None:
    """Delivered by WeChat: one message, to the follower, and its end says by which channel."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        ((openid, text),) = desk.wechat.messages
        (row,) = await desk.rows(attempt)
        assert openid == OPENID
        assert row.reference in text
        assert (row.channel, row.account, row.text, row.fragments) == ("wechat", "wechat", text, 0)
        assert await desk.wechat_receipt() == ["delivered"]
        desk.clock.advance(timedelta(days=30))
        await desk.settle()
        await desk.deliver()
        assert desk.carrier.messages == []
        assert await desk.told() == [("notice_handed_over", "wechat"), ("notice_delivered", "wechat")]

    play(tmp_path, story)


def test_a_refusal_by_wechat_moves_to_sms_at_once(tmp_path: Path) -> None:
    """In the same breath; who does not follow is not written to there again, and that is audited."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        desk.wechat.outcomes = [NOT_A_FOLLOWER]
        await due(desk)
        await desk.deliver()
        assert await channels(desk) == [("wechat", "refused"), ("sms", "accepted")]
        assert await desk.told() == [("notice_handed_over", "sms")]
        (bound,) = await desk.rows(binding)
        assert (bound.ended_at, bound.ended_by) == (NOW, "43004")
        assert [row.action for row in await desk.rows(PLUMBING.audit)] == ["binding.made", "binding.ended"]
        await desk.receipt()
        assert await desk.states() == [("delivered", None)]

    play(tmp_path, story)


@pytest.mark.parametrize(
    "refused",
    [
        Refused("47003", ErrorClass.CONTENT_REJECTED, "a field"),
        Refused("48001", ErrorClass.CONFIG, "no right"),
        Refused("40001", ErrorClass.AUTH, "a secret"),
        Refused("45009", ErrorClass.QUOTA_OR_BALANCE, "used up"),
    ],
)
def test_what_is_wrong_with_the_official_account_stops_no_sms(tmp_path: Path, refused: Refused) -> None:
    """It moves to SMS too; the binding stays and the brake is not touched."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        desk.wechat.outcomes = [refused]
        await due(desk)
        await desk.deliver()
        assert await channels(desk) == [("wechat", "refused"), ("sms", "accepted")]
        assert [row.ended_at for row in await desk.rows(binding)] == [None]

    play(tmp_path, story)


@pytest.mark.parametrize("outcome", [Refused("-1", ErrorClass.TRANSIENT, "busy"), NotSent("ConnectError")])
def test_a_wechat_that_is_busy_or_away_is_waited_for_twice(tmp_path: Path, outcome: Any) -> None:
    """After 10 and 30 minutes it is tried again, then the SMS goes; other messages don't wait for it."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        desk.wechat.outcomes = [outcome] * 3
        await due(desk)
        await desk.deliver()
        await due(desk, OTHER, mobile="13900139000")
        await desk.deliver()
        assert [mobile for mobile, _ in desk.carrier.messages] == ["13900139000"]
        for minutes in (10, 30):
            desk.clock.advance(timedelta(minutes=minutes - 1))
            await desk.deliver()
            desk.clock.advance(timedelta(minutes=1))
            await desk.deliver()
        assert (len(desk.wechat.messages), len(desk.carrier.messages)) == (3, 1)
        desk.clock.advance(timedelta(minutes=60))
        await desk.deliver()
        assert (len(desk.wechat.messages), len(desk.carrier.messages)) == (3, 2)

    play(tmp_path, story)


def test_wechat_without_receipt_is_followed_by_one_sms_after_24_hours(tmp_path: Path) -> None:
    """Not a second earlier, recorded as a second channel; both silent: unreached, once."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        silent = NOW + timedelta(hours=24)
        desk.clock.move_to(silent - timedelta(seconds=1))
        await desk.settle()
        assert (await desk.next_due(), await desk.next_expiry()) == (None, silent)
        desk.clock.move_to(silent)
        await desk.settle()
        assert await desk.next_due() == silent
        assert await desk.states() == [("handed_over", None)]
        await desk.deliver()
        assert [mobile for mobile, _ in desk.carrier.messages] == [MOBILE]
        desk.clock.advance(timedelta(hours=72))
        await desk.settle()
        await desk.deliver()
        assert await channels(desk) == [("wechat", "accepted"), ("sms", "accepted")]
        assert await desk.told() == [
            ("notice_handed_over", "wechat"),
            ("notice_handed_over", "sms"),
            ("notice_unreached", "silent"),
        ]
        assert (await desk.next_due(), await desk.next_expiry()) == (None, None)

    play(tmp_path, story)


def test_the_sms_after_a_silent_wechat_keeps_the_hours(tmp_path: Path) -> None:
    """Silent on a Saturday: the SMS leaves when the window opens."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        desk.clock.move_to(at("2026-01-17"))
        await desk.settle()
        assert await desk.deliver() == 0
        assert await desk.next_due() == at("2026-01-19", "08:30")
        desk.clock.move_to(at("2026-01-19", "08:30"))
        await desk.deliver()
        assert len(desk.carrier.messages) == 1

    play(tmp_path, story, at("2026-01-16"))


def test_a_failure_reported_by_wechat_moves_to_sms_at_once(tmp_path: Path) -> None:
    """`failed:user block` is as definite as a refusal; its repetition changes nothing."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        assert await desk.wechat_receipt(delivered=False) == ["failed"]
        assert await desk.wechat_receipt(delivered=False) == ["repeated"]
        await desk.deliver()
        assert await channels(desk) == [("wechat", "accepted"), ("sms", "accepted")]
        await desk.receipt(delivered=False)
        assert await desk.states() == [("unreached", "refused")]

    play(tmp_path, story)


@pytest.mark.parametrize("under_way", [False, True])
def test_a_late_receipt_of_wechat_delivers_and_stops_the_sms(tmp_path: Path, under_way: bool) -> None:
    """Before the SMS left nothing leaves; while it is with the carrier the notice ends once all the same."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        desk.clock.advance(timedelta(hours=24))
        await desk.settle()
        if under_way:
            desk.carrier.meanwhile = desk.wechat_receipt
        else:
            await desk.wechat_receipt()
        await desk.deliver()
        await desk.receipt()
        desk.clock.advance(timedelta(hours=72))
        await desk.settle()
        assert len(desk.carrier.messages) == under_way
        assert await desk.told() == [("notice_handed_over", "wechat"), ("notice_delivered", "wechat")]

    play(tmp_path, story)


def test_a_late_receipt_of_wechat_corrects_unreached(tmp_path: Path) -> None:
    """After both were silent: a fact, not a second end."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        for hours in (24, 72):
            desk.clock.advance(timedelta(hours=hours))
            await desk.settle()
            await desk.deliver()
        assert await desk.states() == [("unreached", "silent")]
        assert await desk.wechat_receipt() == ["corrected"]
        assert await desk.states() == [("delivered", "silent")]

    play(tmp_path, story)


def test_wechat_of_unknown_outcome_gets_no_second_channel(tmp_path: Path) -> None:
    """It waits for its receipt, which names another message id; after 72 hours it is unreached(unknown)."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        desk.wechat.outcomes = [Unknown("cut"), Unknown("cut")]
        await due(desk)
        await desk.deliver()
        desk.clock.advance(timedelta(hours=71))
        await desk.settle()
        await desk.deliver()
        assert await desk.wechat_receipt("900") == ["delivered"]
        await due(desk, OTHER)
        desk.clock.move_to(at("2026-02-13", "16:30"))
        await desk.deliver()
        desk.clock.advance(timedelta(hours=72))
        await desk.settle()
        await desk.deliver()
        assert desk.carrier.messages == []
        assert await desk.states() == [("delivered", None), ("unreached", "unknown")]

    play(tmp_path, story)


@pytest.mark.parametrize("silent", [False, True])
def test_when_the_lead_ends_after_wechat_no_sms_follows(tmp_path: Path, silent: bool) -> None:
    """Enrolled while WeChat is silent: the notice ends unreached, and nothing more leaves."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        if silent:
            desk.clock.move_to(at("2026-02-11", "19:00"))
            await desk.settle()
        await desk.hear(lead_resolved())
        desk.clock.move_to(at("2026-02-12"))
        await desk.settle()
        await desk.deliver()
        assert desk.carrier.messages == []
        assert await desk.told() == [("notice_handed_over", "wechat"), ("notice_unreached", "silent")]
        assert (await desk.next_due(), await desk.next_expiry()) == (None, None)

    play(tmp_path, story)


def test_the_second_channel_is_looked_at_and_held_like_the_first(tmp_path: Path) -> None:
    """Insured meanwhile, or paused: the SMS waits; then it goes."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        await desk.hear(lead_held("paused"))
        desk.clock.advance(timedelta(hours=24))
        await desk.settle()
        await desk.deliver()
        assert await desk.next_due() is None
        await desk.hear(lead_released("paused"))
        desk.look.holds = {USCC: "insured"}
        await desk.deliver()
        assert desk.carrier.messages == []
        desk.look.holds = {}
        desk.clock.advance(timedelta(minutes=10))
        await desk.deliver()
        assert len(desk.carrier.messages) == 1

    play(tmp_path, story)


def test_without_a_phone_any_more_the_second_channel_ends_silent(tmp_path: Path) -> None:
    """The contact is gone when the SMS would leave: it was handed over once, and reached nobody we know of."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        await desk.hear(contact_changed(USCC, 2, None))
        desk.clock.advance(timedelta(hours=24))
        await desk.settle()
        await desk.deliver()
        assert await desk.states() == [("unreached", "silent")]

    play(tmp_path, story)


# -- bindings ------------------------------------------------------------------------------------------


def test_a_follower_and_a_phone_are_bound_to_one_another_alone(tmp_path: Path) -> None:
    """A new binding replaces what either had; the same one again changes nothing."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await desk.bound()
        await desk.bound(mobile="13900139000")
        await desk.bound(openid="oExampleFollower000000000002", mobile="13900139000")
        rows = await desk.rows(binding)
        assert [row.ended_by for row in rows] == ["replaced", "replaced", None]
        audit = [row.action for row in await desk.rows(PLUMBING.audit)]
        assert audit == ["binding.made", "binding.ended"] * 2 + ["binding.made"]
        kept = str([tuple(row) for table in (binding, PLUMBING.audit) for row in await desk.rows(table)])
        assert not any(clear in kept for clear in (MOBILE, "13900139000", OPENID))

    play(tmp_path, story)


def test_who_unfollows_gets_sms(tmp_path: Path) -> None:
    """Told twice it ends once."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await desk.core.call(unfollow, Turned(OPENID, NOW))
        await desk.core.call(unfollow, Turned(OPENID, NOW))
        await due(desk)
        await desk.deliver()
        assert (len(desk.wechat.messages), len(desk.carrier.messages)) == (0, 1)
        audit = [row.action for row in await desk.rows(PLUMBING.audit)]
        assert audit == ["binding.made", "binding.ended"]

    play(tmp_path, story)


def test_who_follows_again_is_bound_again(tmp_path: Path) -> None:
    """Told twice it begins once; what a person bound otherwise meanwhile stays as it is."""

    async def story(desk: Desk) -> None:
        now = Turned(OPENID, NOW)
        await desk.core.call(follow_again, now)  # never bound: nothing to restore
        await desk.bound()
        await desk.core.call(unfollow, now)
        await desk.core.call(follow_again, now)
        await desk.core.call(follow_again, now)
        await due(desk)
        await desk.deliver()
        assert [to for to, _ in desk.wechat.messages] == [OPENID]
        assert [row.ended_by for row in await desk.rows(binding)] == ["unfollowed", None]
        await desk.core.call(unfollow, now)
        await desk.bound(MOBILE, "oAnotherFollower00000000001")
        await desk.core.call(unfollow, Turned("oAnotherFollower00000000001", NOW))
        await desk.core.call(follow_again, now)
        assert [row.ended_by for row in await desk.rows(binding)] == ["unfollowed"] * 3

    play(tmp_path, story)


def test_old_news_of_a_follower_changes_nothing(tmp_path: Path) -> None:
    """It left before it was bound, or came before it left: told late, or said again by somebody who kept the call.

    What counts is when it happened, not when we heard; WeChat counts whole seconds.
    """

    async def story(desk: Desk) -> None:
        async def ended() -> list[bool]:
            return [row.ended_at is not None for row in await desk.rows(binding)]

        desk.clock.advance(timedelta(milliseconds=500))
        await desk.bound()
        await desk.core.call(unfollow, Turned(OPENID, NOW - timedelta(seconds=1)))
        assert await ended() == [False]
        desk.clock.advance(timedelta(minutes=1))
        await desk.core.call(unfollow, Turned(OPENID, NOW))
        assert await ended() == [True]
        await desk.core.call(follow_again, Turned(OPENID, NOW - timedelta(seconds=1)))
        assert await ended() == [True]
        await desk.core.call(follow_again, Turned(OPENID, NOW + timedelta(seconds=2)))
        await desk.core.call(unfollow, Turned(OPENID, NOW))
        assert await ended() == [True, False]
        await desk.core.call(unfollow, Turned(OPENID, NOW + timedelta(seconds=3)))
        assert await ended() == [True, True]

    play(tmp_path, story)


def test_a_binding_that_can_not_be_opened_means_sms(tmp_path: Path) -> None:
    """Its key is gone: the message goes all the same."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await desk.core.run(lambda work: work.db.execute(binding.update().values(openid=b"spoilt")))
        await due(desk)
        await desk.deliver()
        assert (len(desk.wechat.messages), len(desk.carrier.messages)) == (0, 1)

    play(tmp_path, story)


# -- one message for all units behind a phone ----------------------------------------------------------


def named(n: int) -> str:
    return f"示例{n}水产有限公司"


async def agent(desk: Desk) -> None:
    """Seven overdue units behind one agent's phone, at night."""
    for n, uscc in enumerate(SEVEN):
        await desk.hear(
            contact_changed(uscc, 1, MOBILE),
            lead_opened(uscc, unit_name=named(n), deadline=at(f"2026-02-{9 - n:02}").date()),
        )


@pytest.mark.parametrize("by", ["event", "look"])
def test_an_agent_gets_one_message_and_those_that_enrolled_are_not_in_it(tmp_path: Path, by: str) -> None:
    """Seven are due, two enrol before the window opens: one message names three and counts five.

    Each of the five has the same end; the reference is genuine for the last four of any of them, and for
    nothing else.
    """

    async def story(desk: Desk) -> None:
        await agent(desk)
        gone, told = [SEVEN[6], SEVEN[0]], SEVEN[1:6]
        if by == "event":
            await desk.hear(*(lead_resolved(uscc=uscc) for uscc in gone))
        else:
            desk.look.holds = dict.fromkeys(gone, "insured")
        assert await desk.deliver() == 0
        desk.clock.move_to(at("2026-02-10", "08:30"))
        await desk.deliver()
        ((mobile, text),) = desk.carrier.messages
        assert mobile == MOBILE
        assert f"{named(5)}、{named(4)}、{named(3)}等5户" in text
        assert "2026年2月4日" in text
        (row,) = await desk.rows(attempt)
        assert {c.notice_id for c in await desk.rows(attempt_notice)} == {
            n.id for n in await desk.rows(notice) if n.uscc in told
        }

        async def genuine(uscc4: str, reference: str = row.reference) -> bool:
            recalled = await desk.core.read(lambda db: Store(db, desk.tools.rules).vouch(reference, uscc4))
            return recalled is not None

        assert [await genuine(uscc[-4:]) for uscc in told] == [True] * 5
        assert [await genuine(uscc[-4:]) for uscc in gone] == [False] * 2
        assert not await genuine(told[0][-4:], "ABC234XYZ")
        await desk.receipt()
        states = {n.uscc: n.state for n in await desk.rows(notice)}
        assert {states[uscc] for uscc in told} == {"delivered"}
        assert {states[uscc] for uscc in gone} == ({"withdrawn"} if by == "event" else {"held"})
        ends = [fact for fact, _ in await desk.told() if fact != "notice_withdrawn"]
        assert sorted(ends) == ["notice_delivered"] * 5 + ["notice_handed_over"] * 5

    play(tmp_path, story, at("2026-02-10", "00:05"))


@pytest.mark.parametrize(
    ("outcome", "genuine"),
    [
        (Accepted("g"), True),
        (Unknown("cut"), True),
        (NotSent("ConnectError"), False),
        (Refused("no", ErrorClass.CONTENT_REJECTED, "no"), False),
    ],
)
def test_only_what_somebody_may_have_got_is_genuine(tmp_path: Path, outcome: Any, genuine: bool) -> None:
    """The number of a message that was refused, or never left, is as good as forged."""

    async def story(desk: Desk) -> None:
        desk.carrier.outcomes = [outcome]
        await due(desk)
        await desk.delivery.deliver()
        (row,) = await desk.rows(attempt)

        def ask(db: Any) -> bool:
            return Store(db, desk.tools.rules).vouch(row.reference, USCC[-4:]) is not None

        assert await desk.core.read(ask) is genuine

    play(tmp_path, story)


def test_seven_units_are_one_message_that_says_seven(tmp_path: Path) -> None:
    """Three names, and how many they are; one submission, which the cap counts once."""

    async def story(desk: Desk) -> None:
        await agent(desk)
        desk.clock.move_to(at("2026-02-10", "08:30"))
        await desk.deliver()
        ((_, text),) = desk.carrier.messages
        assert f"{named(6)}、{named(5)}、{named(4)}等7户" in text
        assert sum(named(n) in text for n in range(7)) == 3
        assert len(desk.look.asked[0]) == 7

    play(tmp_path, story, at("2026-02-10", "00:05"))


def test_when_one_unit_is_left_it_gets_the_lone_text(tmp_path: Path) -> None:
    """Rendered after the look: no 等1户."""

    async def story(desk: Desk) -> None:
        await due(desk, USCC, OTHER)
        desk.look.holds = {OTHER: "insured"}
        desk.clock.move_to(at("2026-02-10", "08:30"))
        await desk.deliver()
        ((_, text),) = desk.carrier.messages
        assert text.startswith("荣成市示例水产有限公司：贵单位于2026年1月9日成立")

    play(tmp_path, story, at("2026-02-10", "00:05"))


def test_inside_the_window_a_lone_unit_goes_at_once_and_a_shared_phone_waits_for_its_slot(
    tmp_path: Path,
) -> None:
    """The slots begin with the window: 08:30, 09:30 …; what falls due until then joins."""

    async def story(desk: Desk) -> None:
        await desk.hear(*(contact_changed(uscc, 1, MOBILE) for uscc in (USCC, OTHER)))
        await desk.hear(lead_opened(USCC))
        await due(desk, SEVEN[0], mobile="13900139000")
        await desk.deliver()
        assert [mobile for mobile, _ in desk.carrier.messages] == ["13900139000"]
        assert await desk.next_due() == at("2026-02-10", "10:30")
        desk.clock.move_to(at("2026-02-10", "10:20"))
        await desk.hear(lead_opened(OTHER))
        await desk.deliver()
        desk.clock.move_to(at("2026-02-10", "10:30"))
        await desk.deliver()
        assert "等2户" in desk.carrier.messages[1][1]

    play(tmp_path, story)


def test_after_the_last_slot_of_a_day_a_shared_phone_waits_for_the_next_opening(tmp_path: Path) -> None:
    """17:30 is the last one; a slot that was missed is caught up at once."""

    async def story(desk: Desk) -> None:
        await due(desk, USCC, OTHER)
        await desk.deliver()
        assert await desk.next_due() == at("2026-02-11", "08:30")
        desk.clock.move_to(at("2026-02-11", "08:47"))
        await desk.deliver()
        assert len(desk.carrier.messages) == 1

    play(tmp_path, story, at("2026-02-10", "17:31"))


def test_what_ended_meanwhile_is_not_put_aside(tmp_path: Path) -> None:
    """Found waiting for a slot, withdrawn before that was written down: it stays withdrawn."""

    async def story(desk: Desk) -> None:
        await due(desk)
        (found,) = await desk.core.read(lambda db: Store(db, desk.tools.rules).due_notices(NOW, 1))
        waits = changed(found, look_again_at=at("2026-02-10", "10:30"))
        await desk.hear(lead_resolved())
        await desk.core.run(lambda work: put_aside(work, [waits]))
        assert await desk.states() == [("withdrawn", "enrolled")]

    play(tmp_path, story)


def test_an_event_lets_a_held_unit_join_the_next_slot(tmp_path: Path) -> None:
    """Released between two slots it does not leave at once: it was due long ago, but not sendable."""

    async def story(desk: Desk) -> None:
        await due(desk, USCC, OTHER)
        await desk.hear(lead_held("paused", OTHER))
        desk.clock.move_to(at("2026-02-10", "10:30"))
        await desk.deliver()
        desk.clock.move_to(at("2026-02-10", "10:40"))
        await desk.hear(lead_released("paused", OTHER))
        await desk.deliver()
        assert len(desk.carrier.messages) == 1
        assert await desk.next_due() == at("2026-02-10", "11:30")

    play(tmp_path, story)


def test_all_units_of_a_message_move_to_sms_together(tmp_path: Path) -> None:
    """One WeChat message and one SMS for both; both notices end alike."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        desk.wechat.outcomes = [NOT_A_FOLLOWER]
        await due(desk, USCC, OTHER)
        desk.clock.move_to(at("2026-02-10", "08:30"))
        await desk.deliver()
        assert (len(desk.wechat.messages), len(desk.carrier.messages)) == (1, 1)
        await desk.receipt()
        assert await desk.states() == [("delivered", None)] * 2

    play(tmp_path, story, at("2026-02-10", "00:05"))


def test_a_message_is_whole_however_small_a_portion_is(tmp_path: Path) -> None:
    """The carrier's rate takes one message in two seconds: all seven units are in it."""

    async def story(desk: Desk) -> None:
        desk.delivery._rate = 0.5
        await agent(desk)
        desk.clock.move_to(at("2026-02-10", "08:30"))
        await desk.deliver()
        ((_, text),) = desk.carrier.messages
        assert "等7户" in text

    play(tmp_path, story, at("2026-02-10", "00:05"))


def test_different_stages_are_different_messages(tmp_path: Path) -> None:
    """A first and a second reminder say different things."""

    async def story(desk: Desk) -> None:
        await due(desk, USCC)
        await desk.hear(contact_changed(OTHER, 1, MOBILE), lead_advanced(OTHER))
        desk.clock.move_to(at("2026-02-10", "08:30"))
        await desk.deliver()
        texts = sorted(text for _, text in desk.carrier.messages)
        assert len(texts) == 2
        assert sum("经提醒仍未" in text for text in texts) == 1

    play(tmp_path, story, at("2026-02-10", "00:05"))


def test_a_lead_that_advances_gets_a_notice_of_its_own(tmp_path: Path) -> None:
    """The key holds the stage: reminder and second reminder each once, whatever is repeated."""

    async def story(desk: Desk) -> None:
        await due(desk)
        await desk.deliver()
        await desk.hear(lead_advanced(), lead_advanced(), lead_opened())
        await desk.deliver()
        assert len(desk.carrier.messages) == 2
        assert sorted(row.stage for row in await desk.rows(notice)) == ["reminder", "second_reminder"]

    play(tmp_path, story)


# -- properties ----------------------------------------------------------------------------------------

PHONE_OF = {USCC: MOBILE, OTHER: MOBILE, SEVEN[0]: "13900139000"}
FOLLOWER_OF = {MOBILE: OPENID, "13900139000": "oExampleFollower000000000002"}
OUTCOMES = [
    Accepted,
    Accepted,
    Unknown("cut"),
    NotSent("ConnectError"),
    NOT_A_FOLLOWER,
    Refused("busy", ErrorClass.TRANSIENT, "later"),
    Refused("no", ErrorClass.CONTENT_REJECTED, "no"),
]
DOINGS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 45, 600, 1_440, 4_320])),
    st.tuples(
        st.sampled_from(["open", "resolve", "hold", "release", "advance"]), st.sampled_from([*PHONE_OF])
    ),
    st.tuples(st.sampled_from(["wechat", "sms"]), st.sampled_from(range(len(OUTCOMES)))),
    st.tuples(st.sampled_from(["receipt", "failure"]), st.integers(0, 5)),
    st.tuples(st.just("bind"), st.sampled_from([*FOLLOWER_OF])),
)


async def do(desk: Desk, what: str, which: Any) -> None:
    events = {
        "open": lead_opened,
        "advance": lead_advanced,
        "resolve": lambda uscc: lead_resolved(uscc=uscc),
        "hold": lambda uscc: lead_held("paused", uscc),
        "release": lambda uscc: lead_released("paused", uscc),
    }
    if what == "wait":
        desk.clock.advance(timedelta(minutes=which))
        await desk.settle()
        await desk.deliver()
    elif what in events:
        await desk.hear(events[what](which))
    elif what in ("wechat", "sms"):
        carrier = desk.wechat if what == "wechat" else desk.carrier
        if OUTCOMES[which] is not Accepted:
            carrier.outcomes.append(OUTCOMES[which])
    elif what == "bind":
        await desk.bound(which, FOLLOWER_OF[which])
    else:
        rows = await desk.rows(attempt)
        row = rows[which % len(rows)] if rows else None
        if row is not None and row.message_group:
            mobile = desk.tools.open_mobile(row.reference, row.mobile)
            take = desk.receipt if row.channel == "sms" else desk.wechat_receipt
            to = {"mobile": mobile} if row.channel == "sms" else {"openid": FOLLOWER_OF[mobile]}
            await take(row.message_group, delivered=what == "receipt", **to)


async def to_the_end(desk: Desk) -> None:
    """Nothing is held any more, and time goes on until nothing is due."""
    await desk.hear(*(lead_released("paused", uscc) for uscc in PHONE_OF))
    for _ in range(200):
        await desk.settle()
        await desk.deliver()
        later = [t for t in (await desk.next_due(), await desk.next_expiry()) if t is not None]
        if not later:
            return
        # what is in flight waits by wall time, which a second more lets pass
        desk.clock.move_to(max(desk.clock.now() + timedelta(seconds=1), min(later)))
    raise AssertionError("it never ends")


@settings(max_examples=40, deadline=None)
@given(doings=st.lists(DOINGS, min_size=5, max_size=25))
def test_every_notice_ends_exactly_once_whatever_the_channels_do(
    doings: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One end each, handed over at most once per channel, never anything after an SMS, all inside the hours."""

    async def story(desk: Desk) -> None:
        left: list[datetime] = []
        desk.carrier.meanwhile = desk.wechat.meanwhile = lambda: left.append(desk.clock.now())
        for uscc, mobile in PHONE_OF.items():
            await desk.hear(contact_changed(uscc, 1, mobile), lead_opened(uscc))
        await desk.bound()
        for what, which in doings:
            await do(desk, what, which)
        await to_the_end(desk)
        told: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for row in await desk.rows(PLUMBING.outbox):
            fact = row.type.split(".")[1].removeprefix("notice_")
            told[row.data["notice_id"]].append((fact, row.data.get("channel")))
        for one in await desk.rows(notice):
            facts = told[one.id]
            ends = [fact for fact, _ in facts if fact in ("withdrawn", "unreached", "delivered")]
            assert ends in (["withdrawn"], ["unreached"], ["delivered"], ["unreached", "delivered"]), facts
            handed = [channel for fact, channel in facts if fact == "handed_over"]
            assert handed in ([], ["wechat"], ["sms"], ["wechat", "sms"]), facts
            went = [
                row.channel
                for row in await desk.core.read(
                    lambda db, id_=one.id: Store(db, desk.tools.rules).attempts_of(id_)
                )
                if row.state in ("accepted", "unknown")
            ]
            assert went in ([], ["wechat"], ["sms"], ["wechat", "sms"]), went
        for moment in left:
            assert CALENDAR.is_working_day(moment.date()), moment
            assert "08:30" <= f"{moment:%H:%M}" < "18:00", moment

    play(tmp_path_factory.mktemp("ends"), story)


# -- as people see it ----------------------------------------------------------------------------------


def test_messages_are_shown_as_a_phone_shows_them(tmp_path: Path) -> None:
    """WeChat as a card of its fields, SMS as a text with its signature; of how many units; the number masked."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        desk.clock.advance(timedelta(minutes=1))
        await due(desk, OTHER, "91371082MA3XTE5T7X", mobile="13900139000")
        desk.clock.move_to(at("2026-02-10", "11:30"))
        await desk.deliver()
        show = pages(desk.tools).fragment
        html = await desk.core.read(lambda db: str(show(db, desk.clock.now(), "")))
        sms, wechat = html.split('<li class="bubble">')[1:]
        assert "<p>【荣成人社】您联系的" in sms
        assert "短信" in sms
        assert "含 2 户" in sms
        assert "<dt>单位</dt><dd>荣成市示例水产有限公司</dd>" in wechat
        assert "微信" in wechat
        assert "【" not in wechat
        assert "户" not in wechat.partition('class="meta"')[2]
        assert "138****8000" in wechat
        assert MOBILE not in html

    play(tmp_path, story)


def test_of_messages_alike_the_newest_is_shown(tmp_path: Path) -> None:
    """Two reminders by SMS to one unit each are one kind: the page has room for the other kinds."""

    async def story(desk: Desk) -> None:
        await due(desk)
        await desk.deliver()
        desk.clock.advance(timedelta(minutes=1))
        await due(desk, OTHER, mobile="13900139000")
        await desk.deliver()
        show = pages(desk.tools).fragment
        html = await desk.core.read(lambda db: str(show(db, desk.clock.now(), "")))
        (bubble,) = html.split('<li class="bubble">')[1:]
        assert "139****9000" in bubble

    play(tmp_path, story)
