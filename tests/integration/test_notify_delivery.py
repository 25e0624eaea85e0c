"""Hand-over: the last look, one attempt per notice, what the carrier's answers do, the brake, the hours, kills."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services import cli
from services.notify import delivery
from services.notify.carriers import Accepted, ErrorClass, NotSent, Refused, Submission, Unknown
from services.notify.commands import ChangeSending, change_sending, try_texts_again
from services.notify.domain import Channel, SendingState
from services.notify.pages import pages
from services.notify.tables import PLUMBING, attempt, notice, unit_contact
from shared.calendar import Year, load_calendar
from shared.clock import FrozenClock, SystemClock
from shared.documents import pack
from shared.events.registry import ReferenceChanged
from shared.messaging.in_process import InProcessBus
from shared.service import assemble
from shared.storage.lease import Lease
from shared.storage.work import Cause
from tests.support.notify import (
    MOBILE,
    NOW,
    OTHER,
    RULES,
    USCC,
    Desk,
    at,
    batch,
    contact_changed,
    due,
    lead_advanced,
    lead_changed,
    lead_held,
    lead_opened,
    lead_released,
    lead_resolved,
    play,
    tools,
)

CALENDAR = load_calendar(pack(None))


async def turn(
    desk: Desk, state: str, *channels: Channel, daily_cap: int | None = None, allowlist: Any = None
) -> None:
    item = ChangeSending(
        channels or tuple(Channel),
        SendingState(state),
        keeps_cap=daily_cap is None,
        daily_cap=daily_cap,
        allowlist=allowlist,
        cause=Cause("official", "c"),
    )
    await desk.core.run(lambda work: change_sending(work, item))


# -- the ordinary way ----------------------------------------------------------------------------------


def test_a_due_notice_is_handed_over_once(tmp_path: Path) -> None:
    """One message to the right phone, naming unit and reference; one event; nothing more to do."""

    async def story(desk: Desk) -> None:
        await due(desk)
        await desk.deliver()
        ((mobile, text),) = desk.carrier.messages
        (row,) = await desk.rows(attempt)
        assert mobile == MOBILE
        assert "荣成市示例水产有限公司" in text
        assert row.reference in text
        assert (row.state, row.text, row.message_group, row.fragments) == ("accepted", text, "group-1", 3)
        assert (row.looked_at, row.opened_at) == (NOW, NOW)
        assert await desk.states() == [("handed_over", None)]
        assert await desk.told() == [("notice_handed_over", "sms")]
        assert await desk.next_due() is None
        assert await desk.deliver() == 0

    play(tmp_path, story)


def test_the_look_says_what_the_notice_rests_on(tmp_path: Path) -> None:
    """One question for all that are due, with the contacts' version that the phone comes from."""

    async def story(desk: Desk) -> None:
        await due(desk, USCC)
        await due(desk, OTHER, mobile="13900139000")
        await desk.hear(contact_changed(USCC, 4))
        await desk.deliver()
        ((first, second),) = desk.look.asked
        assert {(USCC, 4), (OTHER, 1)} == {
            (first.notice.uscc, first.contact_version),
            (second.notice.uscc, second.contact_version),
        }

    play(tmp_path, story)


def test_nothing_leaves_outside_the_hours(tmp_path: Path) -> None:
    """On a holiday not even registry is asked; the next opening is the next due instant."""

    async def story(desk: Desk) -> None:
        await due(desk)
        assert await desk.deliver() == 0
        assert desk.look.asked == []
        assert await desk.next_due() == at("2026-02-24", "08:30")
        desk.clock.move_to(at("2026-02-24", "08:30"))
        await desk.deliver()
        assert await desk.states() == [("handed_over", None)]

    play(tmp_path, story, at("2026-02-15"))


STEPS = st.lists(
    st.tuples(st.integers(0, 5_000), st.sampled_from(["queue", "queue", "pass", "kill", "holiday"])),
    min_size=3,
    max_size=10,
)


@settings(max_examples=20, deadline=None)
@given(
    steps=STEPS,
    begin=st.datetimes(at("2026-02-01").replace(tzinfo=None), at("2026-03-05").replace(tzinfo=None)),
)
def test_whatever_the_time_and_the_backlog_nothing_leaves_outside_the_hours(
    steps: list[tuple[int, str]], begin: datetime, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random instants around Spring Festival, days that become holidays, processes that die with a message at
    the carrier: messages leave from 08:30 to 18:00 on working days only, no phone gets two, and whatever is due
    leaves when the next opening comes, unless it may have left already.
    """
    folder, clock = (
        tmp_path_factory.mktemp("hours"),
        FrozenClock(at(f"{begin:%Y-%m-%d}", f"{begin:%H:%M:%S}")),
    )
    calendar, left, gear = CALENDAR, list[str](), tools()

    async def run() -> None:
        async with AsyncExitStack() as processes:
            dead: list[asyncio.Future[int]] = []
            never = asyncio.Event()

            async def start() -> Desk:
                desk: Desk = await processes.enter_async_context(Desk.at_work(folder, clock, gear=gear))
                desk.carrier.meanwhile = lambda: sent(desk)
                return desk

            def sent(desk: Desk) -> None:
                left.append(desk.carrier.messages[-1][0])
                assert calendar.is_working_day(clock.now().date()), clock.now()
                assert "08:30" <= f"{clock.now():%H:%M}" < "18:00", clock.now()

            async def kill(desk: Desk) -> Desk:
                """The process hangs for ever in its next submission, if it has one; another takes over."""
                reached = asyncio.Event()

                async def hang() -> None:
                    sent(desk)
                    reached.set()
                    await never.wait()

                desk.carrier.meanwhile = hang
                portion = asyncio.ensure_future(desk.deliver())
                arrived = asyncio.ensure_future(reached.wait())
                await asyncio.wait({portion, arrived}, return_when=asyncio.FIRST_COMPLETED)
                arrived.cancel()
                dead.append(portion)
                return await start()

            desk = await start()
            nonlocal calendar
            for n, (minutes, step) in enumerate(steps):
                clock.advance(timedelta(minutes=minutes))
                if step == "queue":
                    await due(desk, f"91371082MA3XTE{n:04}", mobile=f"1380013{n:04}")
                elif step == "kill":
                    desk = await kill(desk)
                elif step == "holiday":
                    year, day = calendar.years[2026], {clock.now().date()}
                    calendar = calendar.with_year(
                        replace(year, holidays=year.holidays | day, makeup_days=year.makeup_days - day)
                    )
                    await desk.hear(published(calendar.years[2026]))
                await desk.deliver()
            for _ in steps:
                if (opening := await desk.next_due()) is not None:
                    clock.move_to(opening)
                    await desk.deliver()
            assert len(left) == len(set(left)) == sum(step == "queue" for _, step in steps)
            for row in await desk.rows(notice):
                assert row.state == "handed_over" or row.trying == "unknown"
            never.set()
            await asyncio.gather(*dead)

    asyncio.run(run())


def published(year: Year) -> ReferenceChanged:
    return ReferenceChanged(
        reference="calendar",
        year=year.year,
        holidays=sorted(year.holidays),
        makeup_days=sorted(year.makeup_days),
        source=year.source,
    )


def test_hours_that_end_during_the_look_count(tmp_path: Path) -> None:
    """Begun in time, answered too late: the message leaves the next morning."""

    async def story(desk: Desk) -> None:
        await due(desk)
        desk.look.meanwhile = lambda: desk.clock.advance(timedelta(seconds=2))
        await desk.deliver()
        assert await desk.attempts() == []
        assert await desk.next_due() == at("2026-02-11", "08:30")

    play(tmp_path, story, at("2026-02-10", "17:59:49"))


# -- the last look -------------------------------------------------------------------------------------


def test_a_hold_waits_and_is_looked_at_again_with_back_off(tmp_path: Path) -> None:
    """Held for the look's reason; due again after 10 and 30 minutes; then it goes."""

    async def story(desk: Desk) -> None:
        await due(desk)
        desk.look.holds[USCC] = "insured"
        await desk.deliver()
        row = await desk.one()
        assert (row.state, row.held) == ("held", ["look:insured"])
        assert await desk.next_due() == NOW + timedelta(minutes=10)
        desk.clock.advance(timedelta(minutes=10))
        await desk.deliver()
        assert await desk.next_due() == NOW + timedelta(minutes=40)
        del desk.look.holds[USCC]
        desk.clock.advance(timedelta(minutes=30))
        await desk.deliver()
        assert await desk.states() == [("handed_over", None)]
        assert len(desk.carrier.messages) == 1

    play(tmp_path, story)


def test_an_event_makes_a_hold_look_again_at_once(tmp_path: Path) -> None:
    """A fact that differed is corrected: no need to wait for the back-off."""

    async def story(desk: Desk) -> None:
        await due(desk)
        desk.look.holds[USCC] = "fact_differs"
        await desk.deliver()
        assert await desk.next_due() == NOW + timedelta(minutes=1)
        desk.look.holds.clear()
        await desk.hear(lead_changed(unit_name="改名后的公司"))
        await desk.deliver()
        assert "改名后的公司" in desk.carrier.messages[0][1]

    play(tmp_path, story)


def test_without_an_answer_nothing_leaves_and_everything_leaves_later(tmp_path: Path) -> None:
    """Registry away: in flight, looked at again after a pause in wall time, then handed over."""

    async def story(desk: Desk) -> None:
        await due(desk)
        desk.look.broken = True
        assert await desk.deliver() == 0
        assert desk.carrier.messages == []
        assert await desk.attempts() == []
        assert await desk.next_due() == NOW
        desk.look.broken = False
        await desk.deliver()
        assert desk.carrier.messages == []
        desk.clock.advance(timedelta(seconds=1))
        await desk.deliver()
        assert len(desk.carrier.messages) == 1

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("event", "state", "looks"),
    [
        (lead_resolved(), "withdrawn", 1),
        (lead_held("paused"), "held", 1),
        (lead_changed(unit_name="新名"), "handed_over", 2),
        (contact_changed(USCC, 2, "13900139000"), "handed_over", 2),
    ],
    ids=["ended", "held", "facts", "contacts"],
)
def test_what_happens_during_the_look_counts(tmp_path: Path, event: Any, state: str, looks: int) -> None:
    """A notice that changed since its look began does not leave on that look."""

    async def story(desk: Desk) -> None:
        await due(desk)

        async def once() -> None:
            if len(desk.look.asked) == 1:
                await desk.hear(event)

        desk.look.meanwhile = once
        await desk.deliver()
        await desk.deliver()
        assert [state] == [row.state for row in await desk.rows(notice)]
        assert len(desk.look.asked) == looks
        assert all(mobile != MOBILE for mobile, _ in desk.carrier.messages) or "新名" in str(
            desk.carrier.messages
        )

    play(tmp_path, story)


def test_a_message_that_would_reach_the_carrier_late_is_looked_at_again(tmp_path: Path) -> None:
    """More than the limit after the beginning of its look: no attempt is made, and none before a pause."""

    async def story(desk: Desk) -> None:
        await due(desk)
        desk.look.meanwhile = lambda: len(desk.look.asked) == 1 and desk.clock.advance(timedelta(seconds=4))
        for _ in range(3):
            assert await desk.deliver() == 0
        assert (len(desk.look.asked), await desk.attempts()) == (1, [])
        assert await desk.next_due() == desk.clock.now()
        desk.clock.advance(timedelta(seconds=1))
        await desk.deliver()
        assert (len(desk.look.asked), await desk.attempts()) == (2, ["accepted"])

    play(tmp_path, story)


def test_a_portion_in_which_everything_was_late_pauses(tmp_path: Path) -> None:
    """Late between attempt and submission: released, and looked at again after a pause, not at once."""

    async def story(desk: Desk) -> None:
        await due(desk)
        run = desk.core.run

        async def slow(do: Any, *, urgent: bool = False) -> Any:
            result = await run(do, urgent=urgent)
            if isinstance(result, tuple) and result[0]:
                desk.clock.advance(timedelta(seconds=4))
            return result

        desk.core.run = slow
        for _ in range(3):
            assert await desk.deliver() == 0
        assert (await desk.attempts(), desk.carrier.messages) == (["released"], [])
        desk.core.run = run
        desk.clock.advance(timedelta(seconds=1))
        await desk.deliver()
        assert await desk.attempts() == ["released", "accepted"]

    play(tmp_path, story)


# -- phones --------------------------------------------------------------------------------------------


def test_without_a_usable_phone_the_notice_ends_when_it_would_be_sent(tmp_path: Path) -> None:
    """No contact at all, or none with a mobile: unreached(no_contact), at the opening and not before."""

    async def story(desk: Desk) -> None:
        await desk.hear(lead_opened(contact_version=0), contact_changed(OTHER, 1, None), lead_opened(OTHER))
        await desk.deliver()
        assert {("queued", None)} == set(await desk.states())
        desk.clock.move_to(at("2026-02-11", "08:30"))
        await desk.deliver()
        assert await desk.states() == [("unreached", "no_contact")] * 2
        assert await desk.told() == [("notice_unreached", "no_contact")] * 2

    play(tmp_path, story, at("2026-02-10", "20:00"))


def test_a_phone_gets_at_most_three_messages_a_week(tmp_path: Path) -> None:
    """Messages count, not the units in them: the rest waits until the first is seven days old, and joins."""

    async def story(desk: Desk) -> None:
        for n, (day, time) in enumerate((("10", "10:00"), ("10", "11:30"), ("11", "08:30"), ("11", "09:30"))):
            await due(desk, f"91371082MA3XTE000{n}", f"91371082MA3XTE001{n}")
            desk.clock.move_to(at(f"2026-02-{day}", time))
            await desk.deliver()
        assert len(desk.carrier.messages) == 3
        assert await desk.next_due() == at("2026-02-24", "08:30")
        desk.clock.move_to(at("2026-02-24", "08:30"))
        await desk.deliver()
        assert len(desk.carrier.messages) == 4
        assert {("handed_over", None)} == set(await desk.states())

    play(tmp_path, story, at("2026-02-10", "08:00"))


def test_a_phone_with_a_submission_of_unknown_outcome_gets_nothing_else(tmp_path: Path) -> None:
    """The other notice waits for that outcome, without being due; then it goes."""

    async def story(desk: Desk) -> None:
        await one_unknown_one_due(desk)
        assert await desk.attempts() == ["unknown"]
        assert await desk.next_due() is None
        assert [row.held for row in await desk.rows(notice) if row.held] == [["phone"]]
        await desk.receipt("group-of-the-carrier")
        await desk.deliver()
        assert sorted([("delivered", None), ("handed_over", None)]) == sorted(await desk.states())

    play(tmp_path, story)


def test_a_phone_is_free_again_when_its_unknown_submission_is_given_up(tmp_path: Path) -> None:
    """After 72 hours the other notice goes, at the next opening."""

    async def story(desk: Desk) -> None:
        await one_unknown_one_due(desk)
        desk.clock.advance(timedelta(hours=72))
        await desk.settle()
        await desk.deliver()
        assert {("unreached", "unknown"), ("handed_over", None)} == set(await desk.states())

    play(tmp_path, story)


async def one_unknown_one_due(desk: Desk) -> None:
    """A submission of unknown outcome; another unit behind the same phone has its slot."""
    desk.carrier.outcomes = [Unknown("cut")]
    await due(desk, USCC)
    await desk.deliver()
    await due(desk, OTHER)
    desk.clock.move_to(at("2026-02-10", "10:30"))
    await desk.deliver()


# -- what the carrier says -----------------------------------------------------------------------------


REFUSED = Refused("InvalidMessage", ErrorClass.CONTENT_REJECTED, "no")
BUSY = Refused("busy", ErrorClass.TRANSIENT, "later")


def test_a_permanent_refusal_ends_the_notice(tmp_path: Path) -> None:
    """unreached(refused), with the carrier's code kept."""

    async def story(desk: Desk) -> None:
        desk.carrier.outcomes = [REFUSED]
        await due(desk)
        await desk.deliver()
        assert await desk.states() == [("unreached", "refused")]
        assert await desk.told() == [("notice_unreached", "refused")]
        assert [row.code for row in await desk.rows(attempt)] == ["InvalidMessage"]

    play(tmp_path, story)


def test_a_passing_refusal_is_tried_again_later(tmp_path: Path) -> None:
    """The attempt is refused, the notice queued with back-off in business time."""

    async def story(desk: Desk) -> None:
        desk.carrier.outcomes = [BUSY, BUSY]
        await due(desk)
        await desk.deliver()
        assert await desk.next_due() == NOW + timedelta(minutes=10)
        desk.clock.advance(timedelta(minutes=10))
        await desk.deliver()
        assert await desk.next_due() == NOW + timedelta(minutes=40)
        desk.clock.advance(timedelta(minutes=30))
        await desk.deliver()
        assert await desk.attempts() == ["refused", "refused", "accepted"]
        assert await desk.told() == [("notice_handed_over", "sms")]

    play(tmp_path, story)


def test_a_refusal_of_the_account_stops_sending(tmp_path: Path) -> None:
    """The brake goes off, audited; the notice stays queued and goes when a person turns it on again."""

    async def story(desk: Desk) -> None:
        desk.carrier.outcomes = [Refused("IllegalMac", ErrorClass.AUTH, "check the key")]
        await due(desk)
        await desk.deliver()
        assert await desk.attempts() == ["released"]
        assert await desk.states() == [("held", None)]
        assert await desk.next_due() is None
        audit = await desk.rows(PLUMBING.audit)
        assert [(row.action, row.details["code"]) for row in audit] == [("sending.stopped", "IllegalMac")]
        await turn(desk, "on")
        await desk.deliver()
        assert await desk.states() == [("handed_over", None)]

    play(tmp_path, story)


def test_what_provably_never_left_is_sent_after_a_pause(tmp_path: Path) -> None:
    """The line is down: attempt released, in flight, handed over once when the line is back."""

    async def story(desk: Desk) -> None:
        desk.carrier.outcomes = [NotSent("ConnectError")]
        await due(desk)
        await desk.deliver()
        assert await desk.next_due() == NOW
        assert len(desk.carrier.messages) == 1
        desk.clock.advance(timedelta(seconds=1))
        await desk.deliver()
        assert await desk.attempts() == ["released", "accepted"]

    play(tmp_path, story)


def test_a_line_that_is_down_for_days_still_only_pauses(tmp_path: Path) -> None:
    """The pause grows to a minute and stays there, however often it comes."""

    async def story(desk: Desk) -> None:
        desk.delivery._failures = 2_000
        desk.carrier.outcomes = [NotSent("ConnectError")]
        await due(desk)
        await desk.deliver()
        desk.clock.advance(timedelta(seconds=delivery.LONGEST_PAUSE_S))
        await desk.deliver()
        assert await desk.attempts() == ["released", "accepted"]

    play(tmp_path, story)


def test_what_was_begun_ahead_waits_with_a_carrier_that_is_away(tmp_path: Path) -> None:
    """Two slices of five: the second has been begun when the first fails, and the carrier is not asked for it."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW, rate_per_s=100) as desk:
            for n in range(10):
                await due(desk, f"91371082MA3XTE{n:04}", mobile=f"138001380{n:02}")
            desk.carrier.outcomes = [NotSent("ConnectError")] * 5
            await desk.delivery.deliver()
            assert len(desk.carrier.messages) == 5
            assert await desk.attempts() == ["released"] * 10
            desk.clock.advance(timedelta(seconds=1))
            await desk.deliver()
            assert Counter(await desk.attempts()) == {"released": 10, "accepted": 10}

    asyncio.run(run())


def test_a_slice_is_begun_while_the_one_before_it_is_submitted(tmp_path: Path) -> None:
    """So the carrier never waits for the database; and no more than one is ahead."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW, rate_per_s=100) as desk:
            for n in range(20):
                await due(desk, f"91371082MA3XTE{n:04}", mobile=f"138001380{n:02}")
            go_on = asyncio.Event()
            desk.carrier.meanwhile = go_on.wait
            portion = asyncio.ensure_future(desk.delivery.deliver())
            async with asyncio.timeout(10):
                while len(await desk.attempts()) < 10 or len(desk.carrier.messages) < 5:
                    pass
            assert await desk.attempts() == ["open"] * 10
            go_on.set()
            await portion
            assert await desk.attempts() == ["accepted"] * 20

    asyncio.run(run())


def test_an_unknown_outcome_is_never_sent_again_and_ends_after_72_hours(tmp_path: Path) -> None:
    """Events do not revive it; not a second earlier than 72 hours; unreached(unknown)."""

    async def story(desk: Desk) -> None:
        desk.carrier.outcomes = [Unknown("cut")]
        await due(desk)
        await desk.deliver()
        await desk.hear(lead_changed(unit_name="新名"), lead_held("paused"), lead_released("paused"))
        await desk.deliver()
        assert len(desk.carrier.messages) == 1
        assert await desk.next_due() is None
        end = NOW + timedelta(hours=72)
        assert await desk.next_expiry() == end
        desk.clock.move_to(end - timedelta(seconds=1))
        await desk.settle()
        assert await desk.states() == [("queued", None)]
        desk.clock.move_to(end)
        await desk.settle()
        assert await desk.states() == [("unreached", "unknown")]
        assert await desk.told() == [("notice_unreached", "unknown")]
        assert await desk.next_expiry() is None

    play(tmp_path, story)


def test_a_crash_of_the_carriers_adapter_is_an_unknown_outcome(tmp_path: Path) -> None:
    """Whatever it raises, the attempt is settled as unknown."""

    def crash() -> None:
        raise RuntimeError("a defect")

    async def story(desk: Desk) -> None:
        desk.carrier.meanwhile = crash
        await due(desk)
        await desk.deliver()
        assert await desk.attempts() == ["unknown"]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("outcome", "settled"),
    [
        (Accepted("g"), "accepted"),
        (NotSent("late"), "released"),
        (REFUSED, "refused"),
        (Unknown("cut"), "unknown"),
    ],
    ids=["accepted", "not sent", "refused", "unknown"],
)
def test_a_deliverer_that_comes_back_settles_what_was_given_up(
    tmp_path: Path, outcome: Submission, settled: str
) -> None:
    """It was stopped for longer than its lease: what it knows for certain counts, and frees the phone."""

    async def run() -> None:
        clock, gear = FrozenClock(NOW), tools()
        async with (
            Desk.at_work(tmp_path, clock, gear=gear) as stopped,
            Desk.at_work(tmp_path, clock, gear=gear) as desk,
        ):
            reached, goes_on = asyncio.Event(), asyncio.Event()

            async def stand_still() -> None:
                reached.set()
                await goes_on.wait()

            stopped.carrier.meanwhile, stopped.carrier.outcomes = stand_still, [outcome]
            await due(stopped)
            portion = asyncio.ensure_future(stopped.delivery.deliver())
            await reached.wait()
            await desk.deliver()  # gives it up
            await due(desk, OTHER)
            clock.move_to(at("2026-02-10", "10:30"))
            await desk.deliver()
            assert await desk.attempts() == ["unknown"]
            goes_on.set()
            await portion
            assert await desk.attempts() == [settled]
            assert desk.carrier.messages == []
            clock.move_to(at("2026-02-10", "11:30"))
            await desk.deliver()
            assert bool(desk.carrier.messages) == (settled != "unknown")

    asyncio.run(run())


# -- the lead ends while an attempt is under way -------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state", "told"),
    [
        (Accepted("g"), ("handed_over", None), [("notice_handed_over", "sms")]),
        (NotSent("ConnectError"), ("withdrawn", "enrolled"), [("notice_withdrawn", "enrolled")]),
        (BUSY, ("withdrawn", "enrolled"), [("notice_withdrawn", "enrolled")]),
        (REFUSED, ("unreached", "refused"), [("notice_unreached", "refused")]),
        (Unknown("cut"), ("queued", None), []),
    ],
    ids=["accepted", "not sent", "busy", "refused", "unknown"],
)
def test_while_an_attempt_is_open_it_decides_first(
    tmp_path: Path, outcome: Submission, state: Any, told: Any
) -> None:
    """The lead ended meanwhile: handed over stays so; what did not leave is withdrawn and never tried again."""

    async def story(desk: Desk) -> None:
        desk.carrier.outcomes = [outcome]
        desk.carrier.meanwhile = lambda: desk.hear(lead_resolved())
        await due(desk)
        await desk.deliver()
        desk.clock.advance(timedelta(minutes=30))
        await desk.deliver()
        assert [state] == await desk.states()
        assert told == await desk.told()
        assert len(desk.carrier.messages) == 1

    play(tmp_path, story)


# -- the brake -----------------------------------------------------------------------------------------


def test_off_nothing_leaves(tmp_path: Path) -> None:
    """Nothing is asked, nothing is due, until it is on again."""

    async def story(desk: Desk) -> None:
        await turn(desk, "off")
        await due(desk)
        assert await desk.deliver() == 0
        assert (desk.look.asked, await desk.next_due()) == ([], None)
        await turn(desk, "on")
        await desk.deliver()
        assert len(desk.carrier.messages) == 1

    play(tmp_path, story)


def test_a_stop_during_the_look_or_before_the_submission_acts_at_once(tmp_path: Path) -> None:
    """In the attempt's transaction nothing is opened; after it what has not begun is released."""

    async def story(desk: Desk) -> None:
        await due(desk)
        desk.look.meanwhile = lambda: turn(desk, "off")
        await desk.deliver()
        assert await desk.attempts() == []
        assert await desk.states() == [("queued", None)]
        await turn(desk, "on")
        desk.look.meanwhile = lambda: None
        run = desk.core.run

        async def then_stop(do: Any, *, urgent: bool = False) -> Any:
            result = await run(do, urgent=urgent)
            if isinstance(result, tuple) and result[0]:
                desk.core.run = run
                await turn(desk, "off")
            return result

        desk.core.run = then_stop
        await desk.deliver()
        assert (await desk.attempts(), desk.carrier.messages) == (["released"], [])
        assert await desk.states() == [("queued", None)]

    play(tmp_path, story)


def test_only_phones_on_the_allowlist_get_messages(tmp_path: Path) -> None:
    """The others are held without being due, and judged anew when the list changes."""

    async def story(desk: Desk) -> None:
        await turn(desk, "allowlist", allowlist=("13900139000",))
        await due(desk, USCC)
        await due(desk, OTHER, mobile="13900139000")
        await desk.deliver()
        assert [mobile for mobile, _ in desk.carrier.messages] == ["13900139000"]
        assert await desk.next_due() is None
        await turn(desk, "allowlist", allowlist=(MOBILE,))
        await desk.deliver()
        assert [mobile for mobile, _ in desk.carrier.messages] == ["13900139000", MOBILE]

    play(tmp_path, story)


def test_each_account_has_a_brake_of_its_own(tmp_path: Path) -> None:
    """WeChat stopped: its followers get SMS. SMS stopped: who can get WeChat gets it, the others are held
    without being due until the brake is turned again.
    """

    async def story(desk: Desk) -> None:
        await desk.bound()
        await turn(desk, "off", Channel.WECHAT)
        await due(desk)
        await desk.deliver()
        assert (len(desk.wechat.messages), len(desk.carrier.messages)) == (0, 1)
        await turn(desk, "on", Channel.WECHAT)
        await turn(desk, "off", Channel.SMS)
        await desk.hear(lead_advanced())
        await due(desk, OTHER, mobile="13900139000")
        await desk.deliver()
        assert (len(desk.wechat.messages), len(desk.carrier.messages)) == (1, 1)
        held = [row.held for row in await desk.rows(notice) if row.uscc == OTHER]
        assert (held, await desk.next_due()) == ([["stopped"]], None)
        await turn(desk, "on", Channel.SMS)
        await desk.deliver()
        assert [mobile for mobile, _ in desk.carrier.messages] == [MOBILE, "13900139000"]

    play(tmp_path, story)


def test_each_account_has_a_cap_of_its_own(tmp_path: Path) -> None:
    """A follower beyond WeChat's cap gets SMS; beyond that of SMS a notice says so and waits for the next day,
    or for a higher cap.
    """

    async def story(desk: Desk) -> None:
        await turn(desk, "on", Channel.WECHAT, daily_cap=1)
        await turn(desk, "on", Channel.SMS, daily_cap=1)
        for n in range(2):
            await desk.bound(f"1380013800{n}", f"oExampleFollower00000000000{n}")
            await due(desk, f"91371082MA3XTE000{n}", mobile=f"1380013800{n}")
            await desk.deliver()
        assert (len(desk.wechat.messages), len(desk.carrier.messages)) == (1, 1)
        await turn(desk, "on", Channel.WECHAT, daily_cap=5)
        for n in range(2, 4):
            await due(desk, f"91371082MA3XTE000{n}", mobile=f"1380013800{n}")
        await desk.deliver()
        assert [row.held for row in await desk.rows(notice) if row.state == "held"] == [["look:cap"]] * 2
        assert await desk.next_due() == at("2026-02-11", "08:30")
        await turn(desk, "on", Channel.SMS, daily_cap=2)
        await desk.deliver()
        assert len(desk.carrier.messages) == 2
        desk.clock.move_to(at("2026-02-11", "08:30"))
        await desk.deliver()
        assert len(desk.carrier.messages) == 3

    play(tmp_path, story)


def test_a_stop_in_the_middle_of_thousands_acts_within_a_second(tmp_path: Path) -> None:
    """However long the queue: from the answer on at most what the rate allows in a second is begun; audited."""
    rate, backlog, enough = 500, 3_000, 400

    async def story(desk: Desk) -> None:
        await turn(desk, "off")
        units = [f"91371082MA3{n:07}" for n in range(backlog)]
        told = [(contact_changed(u, 1, f"138{n:08}"), lead_opened(u)) for n, u in enumerate(units)]
        for kind in zip(*told, strict=True):
            await desk.consumer.receive(batch(kind, when=NOW))
        await turn(desk, "on")
        many = asyncio.Event()
        desk.carrier.meanwhile = lambda: many.set() if len(desk.carrier.messages) == enough else None

        async def go_on() -> None:
            while await desk.delivery.deliver():
                pass

        going = asyncio.ensure_future(go_on())
        await many.wait()
        await turn(desk, "off")
        at_the_answer = len(desk.carrier.messages)
        await going
        assert len(desk.carrier.messages) - at_the_answer <= rate
        assert enough <= len(desk.carrier.messages) < backlog
        audit = [(row.details["before"], row.details["after"]) for row in await desk.rows(PLUMBING.audit)]
        assert audit[-2:] == [("on", "off")] * 2  # both accounts

    async def run() -> None:
        async with Desk.at_work(tmp_path, _Steady(NOW), rate_per_s=rate) as desk:
            await story(desk)

    asyncio.run(run())


class _Steady(SystemClock):
    """Business time stands still inside the hours; waits are real."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def now(self) -> datetime:
        return self._at


def test_a_stall_is_not_made_up_for(tmp_path: Path) -> None:
    """After the process stood still for a while the carrier still gets no more than it takes in any time."""
    rate, stall_s = 100, 0.08

    async def story(desk: Desk) -> None:
        passed: list[float] = []

        async def one() -> None:
            await desk.delivery._turn()
            passed.append(desk.clock.monotonic())
            while len(passed) == 1 and desk.clock.monotonic() < passed[0] + stall_s:
                pass  # nothing else runs meanwhile

        await asyncio.gather(*(one() for _ in range(8)))
        assert all(later - earlier > 0.9 / rate for earlier, later in itertools.pairwise(passed))

    async def run() -> None:
        async with Desk.at_work(tmp_path, _Steady(NOW), rate_per_s=rate) as desk:
            await story(desk)

    asyncio.run(run())


def test_the_daily_cap_leaves_the_rest_for_the_next_day(tmp_path: Path) -> None:
    """Two a day: what is left is due at the next opening, and leaves then."""

    async def story(desk: Desk) -> None:
        await turn(desk, "off", Channel.WECHAT)
        await turn(desk, "on", Channel.SMS, daily_cap=2)
        for n in range(3):
            await due(desk, f"91371082MA3XTE000{n}", mobile=f"1380013800{n}")
        assert await desk.could_leave() == 3
        await desk.deliver()
        assert len(desk.carrier.messages) == 2
        assert await desk.next_due() == at("2026-02-11", "08:30")
        await due(desk, "91371082MA3XTE0003", mobile="13800138003")
        assert await desk.could_leave() == 0  # nobody need be told that it waits
        desk.clock.move_to(at("2026-02-11", "08:30"))
        await desk.deliver()
        assert len(desk.carrier.messages) == 2 + 2

    play(tmp_path, story)


def test_a_cap_that_is_lowered_during_the_look_counts(tmp_path: Path) -> None:
    """The attempts' transaction judges by the cap as it is then."""

    async def story(desk: Desk) -> None:
        for n in range(3):
            await due(desk, f"91371082MA3XTE000{n}", mobile=f"1380013800{n}")
        desk.look.meanwhile = lambda: turn(desk, "on", daily_cap=1)
        await desk.deliver()
        assert len(desk.carrier.messages) == 1

    play(tmp_path, story)


def test_what_never_left_does_not_count_for_the_cap(tmp_path: Path) -> None:
    """A released attempt leaves the day's one message to the next attempt."""

    async def story(desk: Desk) -> None:
        await turn(desk, "on", daily_cap=1)
        desk.carrier.outcomes = [NotSent("ConnectError")]
        await due(desk)
        await desk.deliver()
        desk.clock.advance(timedelta(seconds=1))
        await desk.deliver()
        assert await desk.attempts() == ["released", "accepted"]

    play(tmp_path, story)


def test_a_stop_acts_on_everything_that_has_not_begun(tmp_path: Path) -> None:
    """A hundred messages are on their way to the carrier: those whose turn comes after the stop don't leave.

    What was released goes when the brake is on again, each once.
    """

    async def story(desk: Desk) -> None:
        for n in range(100):
            await due(desk, f"91371082MA3XT{n:05}", mobile=f"138001{n:05}")
        read, reads, stop = desk.core.read, 0, None

        async def then_stop(ask: Any) -> Any:
            # what is open or due, and then the brake once for each message
            nonlocal reads, stop
            reads += 1
            if reads > 1 + 10:
                stop = stop or asyncio.ensure_future(turn(desk, "off"))
                await stop
            return await read(ask)

        desk.core.read = then_stop
        await desk.delivery.deliver()
        desk.core.read = read
        assert len(desk.carrier.messages) == 10
        assert (await desk.attempts()).count("released") == 90
        await turn(desk, "on")
        await desk.deliver()
        assert len({mobile for mobile, _ in desk.carrier.messages}) == len(desk.carrier.messages) == 100

    play(tmp_path, story)


def test_where_the_brake_can_not_be_read_nothing_leaves_and_nothing_is_lost(tmp_path: Path) -> None:
    """The database blinks before one submission: the message goes a little later, once."""

    async def story(desk: Desk) -> None:
        await due(desk)
        read, reads = desk.core.read, 0

        async def blinks(ask: Any) -> Any:
            nonlocal reads
            reads += 1
            if reads == 2:  # the first asks what is due
                raise ConnectionError("gone")
            return await read(ask)

        desk.core.read = blinks
        await desk.delivery.deliver()
        assert (desk.carrier.messages, await desk.attempts()) == ([], ["released"])
        await desk.deliver()
        assert len(desk.carrier.messages) == 1

    play(tmp_path, story)


def test_an_outcome_is_recorded_when_the_database_is_back(tmp_path: Path) -> None:
    """It blinks just then: what the carrier said is not forgotten."""

    async def story(desk: Desk) -> None:
        await due(desk)
        run, failures = desk.core.run, iter([ConnectionError("gone"), ConnectionError("gone")])

        async def blinks(do: Any, **how: Any) -> Any:
            if desk.carrier.messages and (failure := next(failures, None)):
                raise failure
            return await run(do, **how)

        desk.core.run = blinks
        await desk.delivery.deliver()
        assert await desk.attempts() == ["accepted"]

    play(tmp_path, story)


class _Cut:
    """Lets writes fail with `error` while it is set."""

    def __init__(self, desk: Desk) -> None:
        self.error: Exception | None = None
        self.failed = 0
        self.enough = asyncio.Event()
        """Set when recording fails for the last time."""
        self._run, desk.core.run = desk.core.run, self.run

    async def run(self, do: Any, **how: Any) -> Any:
        if self.error is None:
            return await self._run(do, **how)
        self.failed += 1
        if self.failed > len(delivery.RECORD_AGAIN_S) or not isinstance(self.error, OSError):
            self.enough.set()
        raise self.error


async def two_slices(desk: Desk, cut: _Cut, error: Exception, *, begun: int = 10) -> None:
    """Ten are due in slices of five; writes fail from when the first is at the carrier and `begun` are open.

    Its first message is answered at once, the others when recording fails for the last time.
    """
    for n in range(10):
        await due(desk, f"91371082MA3XTE{n:04}", mobile=f"138001380{n:02}")

    async def at_the_carrier() -> None:
        first = len(desk.carrier.messages) == 1
        while len(await desk.attempts()) < begun:
            pass
        cut.error = error
        if not first:
            await cut.enough.wait()

    desk.carrier.meanwhile = at_the_carrier
    with pytest.raises(type(error)):
        await desk.delivery.deliver()
    assert await desk.attempts() == ["open"] * begun
    desk.carrier.meanwhile = lambda: None


async def one_owed(desk: Desk) -> _Cut:
    """A message is accepted, and the database away when that is to be recorded."""
    cut = _Cut(desk)

    def go_away() -> None:
        cut.error = ConnectionError("gone")

    desk.carrier.meanwhile = go_away
    await due(desk)
    with pytest.raises(ConnectionError):
        await desk.delivery.deliver()
    assert cut.failed == 1 + len(delivery.RECORD_AGAIN_S)
    return cut


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording is tried as often as ever, without the pauses."""
    monkeypatch.setattr(delivery, "RECORD_AGAIN_S", (0.0,) * len(delivery.RECORD_AGAIN_S))


@pytest.mark.usefixtures("no_waits")
def test_a_database_that_is_away_for_long_leaves_nothing_unknown(tmp_path: Path) -> None:
    """The slice at the carrier ends as it was answered, the one that was begun ahead is sent once."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW, rate_per_s=100) as desk:
            cut = _Cut(desk)
            desk.carrier.outcomes = [Accepted("g"), REFUSED]
            await two_slices(desk, cut, ConnectionError("gone"))
            assert await desk.next_due() == NOW
            with pytest.raises(ConnectionError):
                await desk.delivery.pay()
            assert not await desk.delivery.deliver()
            assert len(desk.carrier.messages) == 5
            cut.error = None
            await desk.deliver()
            assert Counter(await desk.attempts()) == {"accepted": 9, "refused": 1, "released": 5}
            released = {row.code for row in await desk.rows(attempt) if row.state == "released"}
            assert released == {"paused"}
            assert len({mobile for mobile, _ in desk.carrier.messages}) == len(desk.carrier.messages) == 10
            counted = desk.delivery._submissions.labels("sms", "accepted")._value.get()
            assert counted == 9

    asyncio.run(run())


@pytest.mark.usefixtures("no_waits")
def test_what_is_owed_of_a_slice_is_what_was_answered(tmp_path: Path) -> None:
    """The next slice could not even be begun; of the first, whose outcome is unknown, nothing is sent again."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW, rate_per_s=100) as desk:
            cut = _Cut(desk)

            async def begins_once(do: Any, **how: Any) -> Any:
                if "looked" in do.keywords and await desk.attempts():
                    cut.error = ConnectionError("gone")
                return await cut.run(do, **how)

            desk.core.run = begins_once
            desk.carrier.outcomes = [Unknown("cut")] * 5
            await two_slices(desk, cut, ConnectionError("gone"), begun=5)
            desk.core.run, cut.error = cut.run, None
            await desk.deliver()
            assert Counter(await desk.attempts()) == {"unknown": 5, "accepted": 5}

    asyncio.run(run())


@pytest.mark.usefixtures("no_waits")
def test_what_can_not_be_recorded_stops_nothing_else(tmp_path: Path) -> None:
    """A defect, not the database: that message ends unknown, and sending goes on."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW, rate_per_s=100) as desk:
            cut = _Cut(desk)
            await two_slices(desk, cut, ValueError("a defect"))
            cut.error = None
            await desk.deliver()
            assert Counter(await desk.attempts()) == {"unknown": 1, "accepted": 9, "released": 5}
            assert len(desk.carrier.messages) == 10

    asyncio.run(run())


@pytest.mark.parametrize("goes_away", [False, True], ids=["in reach", "away again"])
@pytest.mark.usefixtures("no_waits")
def test_what_can_not_be_recorded_takes_nothing_else_with_it(tmp_path: Path, goes_away: bool) -> None:
    """Three are answered at once, one of them meets a defect: each is recorded on its own, when that is possible."""

    async def story(desk: Desk) -> None:
        cut, all_there = _Cut(desk), asyncio.Event()

        async def meets_a_defect(do: Any, **how: Any) -> Any:
            if cut.error is None and BUSY in [outcome for _, outcome in do.keywords.get("outcomes", ())]:
                cut.error = next(errors, None)
                raise ValueError("a defect")
            return await cut.run(do, **how)

        async def together() -> None:
            if len(desk.carrier.messages) == 3:
                all_there.set()
            await all_there.wait()

        for n in range(3):
            await due(desk, f"91371082MA3XTE000{n}", mobile=f"1380013800{n}")
        errors = iter([ConnectionError("gone")] if goes_away else [])
        desk.core.run, desk.carrier.meanwhile = meets_a_defect, together
        desk.carrier.outcomes = [BUSY, Accepted("g"), Accepted("g")]
        with capture_logs() as logged:
            if goes_away:
                with pytest.raises(ConnectionError):
                    await desk.delivery.deliver()
                assert await desk.attempts() == ["open"] * 3
                cut.error = None
            with pytest.raises(ValueError, match="a defect"):
                await (desk.delivery.pay() if goes_away else desk.delivery.deliver())
        assert unknown_in(logged) == [1]
        desk.core.run = cut.run
        await desk.deliver()
        assert Counter(await desk.attempts()) == {"unknown": 1, "accepted": 2}

    play(tmp_path, story)


def unknown_in(logged: list[Any]) -> list[int]:
    """How many outcomes were said to be unknown, each time that it was said."""
    return [line["outcomes"] for line in logged if line["event"] == "outcomes_unknown"]


@asynccontextmanager
async def one_given_up(folder: Path) -> AsyncGenerator[tuple[Desk, Desk]]:
    """A process that owes an outcome and could record it now; and another one, which gave up that attempt."""
    clock, gear = FrozenClock(NOW), tools()
    async with (
        Desk.at_work(folder, clock, gear=gear) as owing,
        Desk.at_work(folder, clock, gear=gear) as other,
    ):
        cut = await one_owed(owing)
        await other.deliver()
        assert await other.attempts() == ["unknown"]
        cut.error = None
        yield owing, other


@pytest.mark.usefixtures("no_waits")
def test_what_is_owed_is_recorded_while_another_process_delivers(tmp_path: Path) -> None:
    """It has the leases, and is left alone with what it has begun."""

    async def run() -> None:
        async with one_given_up(tmp_path) as (owing, other):
            reached, go_on = asyncio.Event(), asyncio.Event()

            async def hang() -> None:
                reached.set()
                await go_on.wait()

            other.carrier.meanwhile = hang
            await due(other, OTHER, mobile="13800138001")
            portion = asyncio.ensure_future(other.delivery.deliver())
            await reached.wait()
            service = assemble(
                owing.core,
                InProcessBus(),
                card="",
                routers=[],
                pages=pages(owing.tools),
                migrations=tmp_path,
                duties=owing.delivery.duties,
            )
            for duty in service.duties:
                assert await other.core.run(Lease(PLUMBING, duty.name, "other").take)
                await service._when_due(duty)
            assert sorted(await other.attempts()) == ["accepted", "open"]
            go_on.set()
            await portion
            assert await other.attempts() == ["accepted", "accepted"]

    asyncio.run(run())


@pytest.mark.usefixtures("no_waits")
def test_while_an_outcome_is_owed_paying_is_due(tmp_path: Path) -> None:
    """Also when another process has given it up, and nothing else is."""

    async def due_now(desk: Desk) -> list[str]:
        def ask(db: sa.Connection) -> list[str]:
            return [duty.name for duty in desk.delivery.duties if duty.next_due(db, NOW) == NOW]

        return await desk.core.read(ask)

    async def run() -> None:
        async with one_given_up(tmp_path) as (owing, other):
            assert (await due_now(other), await due_now(owing)) == ([], ["pay"])
            assert await owing.delivery.pay()
            assert await due_now(owing) == []

    asyncio.run(run())


class _Slow:
    """Keeps what records outcomes waiting until it may go on."""

    def __init__(self, desk: Desk) -> None:
        self.recording = 0
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self._run, desk.core.run = desk.core.run, self.run

    async def run(self, do: Any, **how: Any) -> Any:
        if "outcomes" in getattr(do, "keywords", ()):
            self.recording += 1
            self.reached.set()
            await self.go_on.wait()
        return await self._run(do, **how)


def test_paying_waits_for_what_is_under_way(tmp_path: Path) -> None:
    """Which has recorded it by then."""

    async def story(desk: Desk) -> None:
        await due(desk)
        slow = _Slow(desk)
        portion = asyncio.ensure_future(desk.delivery.deliver())
        await slow.reached.wait()
        paying = asyncio.ensure_future(desk.delivery.pay())
        await desk.attempts()  # time enough to begin
        slow.go_on.set()
        assert (await portion, await paying) == (True, False)
        assert slow.recording == 1

    play(tmp_path, story)


@pytest.mark.usefixtures("no_waits")
def test_nothing_is_delivered_while_paying(tmp_path: Path) -> None:
    """Nor waited for, or the lease could be another one's by then."""

    async def story(desk: Desk) -> None:
        cut = await one_owed(desk)
        cut.error = None
        slow = _Slow(desk)
        paying = asyncio.ensure_future(desk.delivery.pay())
        await slow.reached.wait()
        async with asyncio.timeout(10):
            assert not await desk.delivery.deliver()
        assert await desk.attempts() == ["open"]
        slow.go_on.set()
        await paying
        assert await desk.attempts() == ["accepted"]

    play(tmp_path, story)


# -- a stop --------------------------------------------------------------------------------------------


async def stop(desk: Desk) -> list[int]:
    """What the service asks of the duties when it stops; returns what its log says of unknown outcomes."""
    with capture_logs() as logged:
        async with asyncio.timeout(10):
            for duty in desk.delivery.duties:
                if duty.at_stop is not None:
                    await duty.at_stop()
    return unknown_in(logged)


@pytest.fixture
def short_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop waits hardly at all."""
    monkeypatch.setattr(delivery, "UNDER_WAY_S", 0.05)
    monkeypatch.setattr(delivery, "LAST_TRY_S", 0.05)


@pytest.mark.usefixtures("no_waits")
def test_a_stop_records_what_is_owed(tmp_path: Path) -> None:
    """The database came back between two tries."""

    async def story(desk: Desk) -> None:
        cut = await one_owed(desk)
        cut.error = None
        assert await stop(desk) == []
        assert await desk.attempts() == ["accepted"]

    play(tmp_path, story)


def test_a_stop_cuts_the_pause_between_two_tries_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that comes back while the service stops gets what was said, however long the pause."""
    monkeypatch.setattr(delivery, "RECORD_AGAIN_S", (1_000.0,))

    async def story(desk: Desk) -> None:
        await due(desk)
        cut = _Cut(desk)
        desk.carrier.meanwhile = lambda: setattr(cut, "error", ConnectionError("gone"))
        portion = asyncio.ensure_future(desk.delivery.deliver())
        async with asyncio.timeout(10):
            while cut.failed < 1:  # noqa: ASYNC110 - the first try
                await asyncio.sleep(0)
            portion.cancel()
            while cut.failed < 3:  # noqa: ASYNC110 - the stop tries again and again
                await asyncio.sleep(0)
            cut.error = None
            await asyncio.wait({portion})
        assert await stop(desk) == []
        assert await desk.attempts() == ["accepted"]

    play(tmp_path, story)


async def away(desk: Desk) -> None:
    """The database is still away."""
    await one_owed(desk)


async def hangs(desk: Desk) -> None:
    """It answers no more."""
    cut = await one_owed(desk)
    cut.error = None
    _Slow(desk)


async def hangs_with_a_portion(desk: Desk) -> None:
    """It answers no more while a portion is under way; the stop does not wait for that for ever."""
    await due(desk)
    slow = _Slow(desk)
    portion = asyncio.ensure_future(desk.delivery.deliver())
    await slow.reached.wait()
    portion.cancel()
    done, _ = await asyncio.wait({portion}, timeout=10)
    assert done


@pytest.mark.parametrize("harm", [away, hangs, hangs_with_a_portion])
@pytest.mark.usefixtures("no_waits", "short_stop")
def test_a_stop_says_what_it_could_not_record(
    tmp_path: Path, harm: Callable[[Desk], Awaitable[None]]
) -> None:
    """It tries, but not for ever."""

    async def story(desk: Desk) -> None:
        await harm(desk)
        assert await stop(desk) == [1]
        assert await desk.attempts() == ["open"]

    play(tmp_path, story)


def test_a_stop_has_the_time_that_delivery_takes_of_it() -> None:
    """Requests that hang leave enough for a last try; and a process that takes too long could not say what it owes."""
    assert delivery.UNDER_WAY_S + delivery.LAST_TRY_S < cli.STOP_SECONDS
    assert cli.GRACE_SECONDS + delivery.LAST_TRY_S < cli.STOP_SECONDS


# -- crashes -------------------------------------------------------------------------------------------


def test_killed_between_attempt_and_outcome(tmp_path: Path) -> None:
    """The next process finds the attempt open, calls it unknown, and sends nothing again."""

    async def run() -> None:
        clock = FrozenClock(NOW)
        async with Desk.at_work(tmp_path, clock) as dying, Desk.at_work(tmp_path, clock) as desk:
            reached, never = asyncio.Event(), asyncio.Event()

            async def hang() -> None:
                reached.set()
                await never.wait()

            dying.carrier.meanwhile = hang
            await due(dying)
            portion = asyncio.ensure_future(dying.deliver())
            await reached.wait()
            assert await desk.attempts() == ["open"]
            assert await desk.next_due() == NOW
            await desk.deliver()
            assert await desk.attempts() == ["unknown"]
            assert (desk.carrier.messages, desk.look.asked) == ([], [])
            assert await desk.states() == [("queued", None)]
            never.set()
            await portion

    asyncio.run(run())


def test_a_stop_of_the_service_waits_for_what_is_under_way(tmp_path: Path) -> None:
    """Cancelled in the middle of a submission: its outcome is recorded, not lost."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:
            reached, go_on = asyncio.Event(), asyncio.Event()

            async def hang() -> None:
                reached.set()
                await go_on.wait()

            desk.carrier.meanwhile = hang
            await due(desk)
            portion = asyncio.ensure_future(desk.delivery.deliver())
            await reached.wait()
            portion.cancel()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await portion
            assert await desk.attempts() == ["accepted"]

    asyncio.run(run())


def test_a_kill_leaves_at_most_two_slices_unknown(tmp_path: Path) -> None:
    """200 are due and looked at once; killed during the fifth slice of five, the others go later, each once."""

    async def run() -> None:
        clock, gear = FrozenClock(NOW), tools()
        dying_at_work = Desk.at_work(tmp_path, clock, gear=gear, rate_per_s=100)
        async with dying_at_work as dying, Desk.at_work(tmp_path, clock, gear=gear) as desk:
            mobiles = [f"13800138{n:03}" for n in range(200)]
            for n, mobile in enumerate(mobiles):
                await due(dying, f"91371082MA3XTE{n:04}", mobile=mobile)
            reached, never = asyncio.Event(), asyncio.Event()

            async def die_in_the_fifth_slice() -> None:
                clock.advance(timedelta(milliseconds=10))
                if len(dying.carrier.messages) > 20:
                    reached.set()
                    await never.wait()

            dying.carrier.meanwhile = die_in_the_fifth_slice
            portion = asyncio.ensure_future(dying.deliver())
            await reached.wait()
            await desk.deliver()
            dead = list(dying.carrier.messages)
            counts = Counter(await desk.attempts())
            assert len(dying.look.asked) == 1
            assert counts == {"accepted": 190, "unknown": 10}
            sent = Counter(mobile for mobile, _ in dead + desk.carrier.messages)
            assert set(sent.values()) == {1}
            assert set(sent) <= set(mobiles)
            assert len(desk.carrier.messages) == 170
            never.set()
            await portion

    asyncio.run(run())


# -- what can't be said --------------------------------------------------------------------------------


def test_a_text_that_is_too_long_holds_its_notice_alone(tmp_path: Path) -> None:
    """The other notice of the portion goes; new facts let this one go on."""

    async def story(desk: Desk) -> None:
        await desk.hear(contact_changed(), lead_opened(unit_name="𠮷" * 300))
        await due(desk, OTHER, mobile="13900139000")
        await desk.deliver()
        assert [mobile for mobile, _ in desk.carrier.messages] == ["13900139000"]
        held = {row.uscc: (row.state, row.held) for row in await desk.rows(notice)}
        assert held[USCC] == ("held", ["text"])
        assert await desk.next_due() is None
        assert await desk.core.read(lambda db: desk.store(db).unsayable()) == 1
        await desk.hear(lead_changed(unit_name="短名"))
        await desk.deliver()
        assert [mobile for mobile, _ in desk.carrier.messages] == ["13900139000", MOBILE]

    play(tmp_path, story)


def test_a_unit_that_can_not_be_named_is_left_out_of_its_message(tmp_path: Path) -> None:
    """Its two neighbours behind the same phone get theirs, in the same breath, without it."""

    async def story(desk: Desk) -> None:
        await due(desk, USCC, OTHER)
        endless = "91371082MA3XTE0001"
        await desk.hear(
            contact_changed(endless), lead_opened(endless, unit_name="𠮷" * 300, deadline=date(2026, 2, 1))
        )
        desk.clock.move_to(at("2026-02-10", "08:30"))
        await desk.deliver()
        ((_, text),) = desk.carrier.messages
        assert "等2户" in text
        assert {row.uscc: row.held for row in await desk.rows(notice)} == {
            USCC: [],
            OTHER: [],
            endless: ["text"],
        }

    play(tmp_path, story, at("2026-02-10", "00:05"))


def test_units_that_can_not_be_named_together_are_held_and_no_others(tmp_path: Path) -> None:
    """Each text alone fits, the joint one never does: held to be seen, and the portion goes on."""

    async def run() -> None:
        words = RULES.templates["R01", "reminder"]
        wordy = replace(words, group=words.group + "长" * 500)
        rules = replace(RULES, templates={**RULES.templates, ("R01", "reminder"): wordy})
        async with Desk.at_work(tmp_path, at("2026-02-10", "00:05"), gear=tools(rules=rules)) as desk:
            await due(desk, USCC, OTHER)
            await due(desk, "91371082MA3XTE0001", mobile="13900139000")
            desk.clock.move_to(at("2026-02-10", "08:30"))
            await desk.deliver()
            assert [mobile for mobile, _ in desk.carrier.messages] == ["13900139000"]
            assert sorted(row.held for row in await desk.rows(notice)) == [[], ["text"], ["text"]]

    asyncio.run(run())


def test_a_stage_whose_text_is_gone_holds_its_notices_until_a_start_with_one(tmp_path: Path) -> None:
    """The city pack lost a text after the notice was queued."""

    async def run() -> None:
        templates = dict(RULES.templates) | {("R01", "other"): RULES.templates["R01", "reminder"]}
        async with Desk.at_work(
            tmp_path, NOW, gear=tools(rules=replace(RULES, templates=templates))
        ) as before:
            await before.hear(contact_changed(), lead_opened(stage="other"))
        async with Desk.at_work(tmp_path, NOW) as without:
            await due(without, OTHER, mobile="13900139000")
            await without.deliver()
            assert len(without.carrier.messages) == 1
            assert ("held", None) in await without.states()
        async with Desk.at_work(
            tmp_path, NOW, gear=tools(rules=replace(RULES, templates=templates), random=lambda n: b"\x7f" * n)
        ) as mended:
            await mended.core.run(try_texts_again)
            await mended.deliver()
            assert await mended.states() == [("handed_over", None)] * 2

    asyncio.run(run())


def test_contacts_that_do_not_open_hold_their_notice_alone(tmp_path: Path) -> None:
    """Nobody knows whether there is a phone, so it is not unreached; new contacts let it go."""

    async def story(desk: Desk) -> None:
        await due(desk, USCC)
        await due(desk, OTHER, mobile="13900139000")
        spoilt = sa.update(unit_contact).where(unit_contact.c.uscc == USCC).values(contacts=b"spoilt")
        await desk.core.run(lambda work: work.db.execute(spoilt))
        await desk.deliver()
        assert [mobile for mobile, _ in desk.carrier.messages] == ["13900139000"]
        assert ("held", ["text"]) in [(row.state, row.held) for row in await desk.rows(notice)]
        await desk.hear(contact_changed(USCC, 2))
        await desk.deliver()
        assert await desk.states() == [("handed_over", None)] * 2

    play(tmp_path, story)


@pytest.mark.parametrize("obstacle", ["phone", "allowlist"])
def test_new_contacts_are_judged_anew(tmp_path: Path, obstacle: str) -> None:
    """What stood against the old phone says nothing about the new one."""

    async def story(desk: Desk) -> None:
        if obstacle == "allowlist":
            await turn(desk, "allowlist", allowlist=("13900139000",))
            await due(desk, OTHER)
        else:
            await one_unknown_one_due(desk)
        await desk.deliver()
        (waiting,) = [row for row in await desk.rows(notice) if row.held]
        assert waiting.held == [obstacle]
        await desk.hear(contact_changed(waiting.uscc, 2, "13900139000"))
        await desk.deliver()
        assert desk.carrier.messages[-1][0] == "13900139000"

    play(tmp_path, story)
