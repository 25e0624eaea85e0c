"""Receipts: what they settle, early, late, twice, or without a known name; and silence."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.notify.carriers import Accepted, ErrorClass, NotSent, Receipt, Refused, Unknown
from services.notify.commands import Report, begin_attempts, record_outcomes, take_report
from services.notify.domain import Candidate, Go
from services.notify.tables import receipt
from services.notify.work import NotifyWork
from shared.storage.database import Database
from tests.support.cutting import World, assert_list_command_same_for_any_cutting
from tests.support.notify import MOBILE, NOW, OTHER, RULES, USCC, Desk, a_notice, due, play, world


async def sent(desk: Desk, outcome: Any = None) -> None:
    """One message on its way."""
    desk.carrier.outcomes = [outcome] if outcome else []
    await due(desk)
    await desk.deliver()


def test_a_receipt_ends_the_notice_and_its_repetition_does_not(tmp_path: Path) -> None:
    """Delivered once; the second and a failure after it are kept and change nothing."""

    async def story(desk: Desk) -> None:
        await sent(desk)
        assert await desk.receipt() == ["delivered"]
        assert await desk.receipt() == ["repeated"]
        assert await desk.receipt(delivered=False) == ["repeated"]
        assert await desk.states() == [("delivered", None)]
        assert await desk.told() == [("notice_handed_over", "sms"), ("notice_delivered", "sms")]
        assert len(await desk.rows(receipt)) == 3
        assert await desk.next_expiry() is None

    play(tmp_path, story)


def test_a_failure_makes_it_unreached(tmp_path: Path) -> None:
    """unreached(refused)."""

    async def story(desk: Desk) -> None:
        await sent(desk)
        assert await desk.receipt(delivered=False) == ["failed"]
        assert await desk.states() == [("unreached", "refused")]

    play(tmp_path, story)


def test_without_a_receipt_it_is_silent_and_a_late_one_corrects_that(tmp_path: Path) -> None:
    """After 72 hours unreached(silent); a later receipt makes it delivered, as a fact beside the one end."""

    async def story(desk: Desk) -> None:
        await sent(desk)
        assert await desk.next_expiry() == NOW + timedelta(hours=72)
        desk.clock.advance(timedelta(hours=72))
        await desk.settle()
        assert await desk.states() == [("unreached", "silent")]
        ended = (await desk.one()).ended_at
        desk.clock.advance(timedelta(hours=1))
        assert await desk.receipt() == ["corrected"]
        row = await desk.one()
        assert ("delivered", True, ended) == (row.state, row.corrected, row.ended_at)
        assert await desk.told() == [
            ("notice_handed_over", "sms"),
            ("notice_unreached", "silent"),
            ("notice_delivered", "sms"),
        ]

    play(tmp_path, story)


@pytest.mark.parametrize("outcome", [Accepted("group-1"), Unknown("cut")])
def test_a_receipt_may_come_before_the_carriers_answer_is_recorded(tmp_path: Path, outcome: Any) -> None:
    """It is kept, and settles the notice once the outcome is there, also an unknown one."""

    async def story(desk: Desk) -> None:
        results: list[str] = []

        async def push() -> None:
            results.extend(await desk.receipt())

        desk.carrier.meanwhile = push
        await sent(desk, outcome)
        assert results == ["unmatched"]
        assert await desk.states() == [("delivered", None)]
        assert await desk.told() == [("notice_handed_over", "sms"), ("notice_delivered", "sms")]
        assert [row.reference for row in await desk.rows(receipt)] != [None]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("delivered", "state", "result"),
    [(True, ("delivered", None), "delivered"), (False, ("unreached", "refused"), "failed")],
)
def test_a_receipt_settles_the_only_unknown_submission_to_its_phone(
    tmp_path: Path, delivered: bool, state: Any, result: str
) -> None:
    """The group that was never learnt is adopted: handed over, and its end."""

    async def story(desk: Desk) -> None:
        await sent(desk, Unknown("cut"))
        assert await desk.receipt("never-learnt", mobile="13900139000") == ["unmatched"]
        assert await desk.receipt("never-learnt", delivered=delivered) == [result]
        assert [state] == await desk.states()
        assert (await desk.told())[0] == ("notice_handed_over", "sms")
        assert await desk.receipt("never-learnt") == (["repeated"] if delivered else ["corrected"])

    play(tmp_path, story)


def test_a_receipt_after_72_hours_corrects_an_unknown_one(tmp_path: Path) -> None:
    """unreached(unknown) becomes delivered."""

    async def story(desk: Desk) -> None:
        await sent(desk, Unknown("cut"))
        desk.clock.advance(timedelta(hours=72))
        await desk.settle()
        assert await desk.receipt("late") == ["corrected"]
        assert await desk.states() == [("delivered", "unknown")]

    play(tmp_path, story)


def test_a_receipt_that_could_be_about_two_submissions_settles_neither(tmp_path: Path) -> None:
    """One given up as unknown, one unknown now: nobody can say which arrived."""

    async def story(desk: Desk) -> None:
        await sent(desk, Unknown("cut"))
        desk.clock.advance(timedelta(hours=72))
        await desk.settle()
        desk.carrier.outcomes = [Unknown("cut again")]
        desk.clock.move_to(NOW + timedelta(days=3))
        await due(desk, OTHER)
        desk.clock.advance(timedelta(minutes=30))
        await desk.deliver()
        assert await desk.attempts() == ["unknown", "unknown"]
        assert await desk.receipt("whose") == ["unmatched"]
        assert {("unreached", "unknown"), ("queued", None)} == set(await desk.states())

    play(tmp_path, story)


def test_a_receipt_of_another_account_settles_nothing(tmp_path: Path) -> None:
    """Group and mobile alone name nothing."""

    async def story(desk: Desk) -> None:
        await sent(desk)
        pushed = Receipt("group-1", MOBILE, delivered=True, code="CM:0000", received_at=desk.clock.now())
        assert await desk.core.call(take_report, Report("other", (pushed,))) == ["unmatched"]
        assert await desk.states() == [("handed_over", None)]

    play(tmp_path, story)


# -- any cutting ---------------------------------------------------------------------------------------

PHONES = (MOBILE, "13900139000", "13700137000")
FOLLOWERS = tuple(f"oExampleFollower00000000000{n}" for n in range(3))
RECEIPTS = st.builds(
    lambda group, mobile, delivered: Receipt(
        group, mobile, delivered, "CM:0000" if delivered else "CM:2007", NOW
    ),
    st.sampled_from(["g0", "g1", "g2", "g3"]),
    st.sampled_from(PHONES),
    st.booleans(),
)
REFERENCES = ["322222222", "422222222", "522222222"]


def three_open(database: Database, followers: Sequence[str | None] = (None,) * 3) -> World:
    """Three submissions under way, to three phones."""
    made = world(database, now=NOW)
    units = USCC, OTHER, "91371082MA3XTE5T7R"

    def begin(work: NotifyWork) -> None:
        notices = [a_notice(uscc=uscc) for uscc in units]
        work.store.add_notices(notices, at=NOW)
        work.store.put_contacts(dict.fromkeys(units, (1, b"", "")))
        looked = [
            (Candidate(n, mobile, 1, openid), Go())
            for n, mobile, openid in zip(notices, PHONES, followers, strict=True)
        ]
        messages, _ = begin_attempts(work, looked, looked_at=NOW, looked_wall=NOW)
        assert [message.attempt.reference for message in messages] == REFERENCES

    asyncio.run(made.run(begin))
    return made


def three_open_by_wechat(database: Database) -> World:
    """The same, each to a follower."""
    return three_open(database, FOLLOWERS)


def three_sent(database: Database) -> World:
    """Two accepted submissions and one of unknown outcome."""
    made = three_open(database)
    outcomes = list(zip(REFERENCES, (Accepted("g0"), Unknown("cut"), Accepted("g2")), strict=True))
    asyncio.run(made.run(lambda work: record_outcomes(work, outcomes)))
    return made


@settings(max_examples=40, deadline=None)
@given(st.lists(RECEIPTS, min_size=2, max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_any_cutting_of_receipts_leaves_the_same(receipts: list[Receipt], cuts: list[int]) -> None:
    """One report with many receipts leaves what many reports leave, and answers the same."""

    def take(work: NotifyWork, pushed: Any) -> list[Any]:
        return [type(result, (), {})() for result in take_report(work, Report(RULES.account, tuple(pushed)))]

    assert_list_command_same_for_any_cutting(three_sent, take, receipts, cuts)


def test_a_fold_bug_in_receipts_is_caught() -> None:
    """Taking each phone's last receipt only is another result, and the property sees it."""

    def last_per_phone(work: NotifyWork, pushed: Any) -> list[Any]:
        take_report(work, Report(RULES.account, tuple({r.mobile: r for r in pushed}.values())))
        return [None for _ in pushed]

    both = [Receipt("g0", MOBILE, ok, "CM", NOW) for ok in (True, False)]
    with pytest.raises(AssertionError, match=r"notice|receipt"):
        assert_list_command_same_for_any_cutting(three_sent, last_per_phone, both, [])


OUTCOMES = st.sampled_from(
    [
        Accepted("g0"),
        Accepted("g1"),
        Unknown("cut"),
        NotSent("down"),
        Refused("busy", ErrorClass.TRANSIENT, "later"),
        Refused("IllegalMac", ErrorClass.AUTH, "mend the key"),
        Refused("43004", ErrorClass.RECIPIENT_REFUSED, "does not follow"),
    ]
)


@pytest.mark.parametrize("before", [three_open, three_open_by_wechat])
@settings(max_examples=40, deadline=None)
@given(
    outcomes=st.lists(st.tuples(st.sampled_from(REFERENCES), OUTCOMES), min_size=2, max_size=8),
    cuts=st.lists(st.integers(0, 8), max_size=3),
)
def test_any_cutting_of_outcomes_leaves_the_same(before: Any, outcomes: list[Any], cuts: list[int]) -> None:
    """Outcomes recorded together or one by one, some of them twice, leave the same."""

    def record(work: NotifyWork, items: Any) -> list[None]:
        record_outcomes(work, items)
        return [None for _ in items]

    assert_list_command_same_for_any_cutting(before, record, outcomes, cuts)
