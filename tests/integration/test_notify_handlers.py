"""What events leave in notify's tables, in any cutting; held and released, waiting for contacts, parked keys."""

import asyncio
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.notify import handlers
from services.notify.carriers import Accepted, Receipt
from services.notify.commands import Report, begin_attempts, record_outcomes, take_report
from services.notify.domain import Candidate, Channel, Go
from services.notify.handlers import SUBSCRIPTIONS
from services.notify.tables import PLUMBING, attempt, attempt_notice, notice, unit_contact
from services.notify.work import NotifyWork
from shared.events.matching import LeadHeld
from shared.events.registry import ContactChanged, ReferenceChanged
from shared.messaging.bus import Message
from shared.messaging.consumer import Received, on
from shared.storage.database import Database
from tests.support.cutting import World, assert_same_for_any_cutting, message, poison
from tests.support.native import Postgres
from tests.support.notify import (
    MOBILE,
    NOW,
    OPENID,
    OTHER,
    USCC,
    Desk,
    a_notice,
    at,
    batch,
    contact_changed,
    lead_advanced,
    lead_changed,
    lead_corrected,
    lead_held,
    lead_opened,
    lead_released,
    lead_resolved,
    world,
)

UNITS = st.sampled_from([USCC, OTHER])
VERSIONS = st.integers(1, 3)
REASONS = st.sampled_from(["paused", "code", "disputed"])
CALENDAR = ReferenceChanged(
    reference="calendar", year=2026, holidays=[date(2026, 2, 10)], makeup_days=[], source="test"
)
EVENTS = st.one_of(
    st.builds(contact_changed, UNITS, VERSIONS, st.sampled_from([MOBILE, "13900139000"])),
    st.builds(
        lambda uscc, episode, version, held: lead_opened(
            uscc, episode=episode, contact_version=version, held=held
        ),
        UNITS,
        st.integers(1, 2),
        VERSIONS,
        st.lists(REASONS, max_size=1),
    ),
    st.builds(
        lambda uscc, name, version: lead_changed(uscc, unit_name=name, contact_version=version),
        UNITS,
        st.sampled_from(["甲公司", "乙公司"]),
        VERSIONS,
    ),
    st.builds(lambda uscc, episode: lead_advanced(uscc, episode=episode), UNITS, st.integers(1, 2)),
    st.builds(
        lambda uscc, episode, name: lead_corrected(uscc, episode=episode, unit_name=name),
        UNITS,
        st.integers(1, 2),
        st.sampled_from(["甲公司", "乙公司"]),
    ),
    st.builds(lead_held, REASONS, UNITS),
    st.builds(lead_released, REASONS, UNITS),
    st.builds(lead_resolved, st.sampled_from(["enrolled", "unit_closed"]), UNITS, st.integers(1, 2)),
    st.just(CALENDAR),
)


@st.composite
def sequences(draw: Any, *, at_least: int = 4) -> list[Message]:
    """Messages with duplicates and one that is poison."""
    events = draw(st.lists(EVENTS, min_size=at_least, max_size=14))
    bad = draw(st.integers(0, len(events) - 1))
    messages = [
        (poison if n == bad and not event.broadcast else message)(event, id=f"m{n}", time=NOW)
        for n, event in enumerate(events)
    ]
    for again in draw(st.lists(st.integers(0, len(messages) - 1), max_size=3)):
        messages.insert(again + 1, messages[again])
    return messages


def with_wechat(database: Database) -> World:
    """A unit's reminder is with WeChat, another's waits for its SMS after that."""
    made = world(database, now=NOW)

    def begin(work: NotifyWork) -> None:
        notices = [a_notice(uscc=uscc) for uscc in (USCC, OTHER)]
        work.store.add_notices(notices, at=NOW)
        phones = MOBILE, "13900139000"
        looked = [(Candidate(n, phone, 1, OPENID), Go()) for n, phone in zip(notices, phones, strict=True)]
        messages, _ = begin_attempts(work, looked, looked_at=NOW, looked_wall=NOW)
        record_outcomes(work, [(one.attempt.reference, Accepted(f"g{n}")) for n, one in enumerate(messages)])
        failed = Receipt("g1", OPENID, delivered=False, code="failed:user block", received_at=NOW)
        assert take_report(work, Report(Channel.WECHAT, (failed,))) == ["failed"]

    asyncio.run(made.run(begin))
    return made


def test_notices_of_a_lead_come_in_turn_wherever_the_database_put_them(tmp_path: Path) -> None:
    """By episode, also where a later one was written first."""
    made = world(Database(f"sqlite:///{tmp_path}/notify.db"), now=NOW)

    def episodes(work: NotifyWork) -> list[list[int]]:
        work.store.add_notices([a_notice(episode=episode) for episode in (3, 1, 2)], at=NOW)
        found = work.store.sendable_of_leads([a_notice().lead_id]), work.store.sendable_of_units([USCC])
        return [[one.episode for one in notices] for notices in found]

    assert asyncio.run(made.run(episodes)) == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize("before", [world, with_wechat])
@settings(max_examples=60, deadline=None)
@given(messages=sequences(), cuts=st.lists(st.integers(0, 20), max_size=4))
def test_any_cutting_leaves_the_same(before: Any, messages: list[Message], cuts: list[int]) -> None:
    """Batches, with duplicates and one poison message, leave what one at a time leaves."""
    assert_same_for_any_cutting(before, messages, cuts)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(messages=sequences(at_least=10), cuts=st.lists(st.integers(0, 20), max_size=1))
def test_large_batches_on_postgresql_leave_the_same(
    postgres: Postgres, messages: list[Message], cuts: list[int]
) -> None:
    """As one message at a time leaves on SQLite."""
    assert_same_for_any_cutting(with_wechat, messages, cuts, url=postgres.new_database())


def test_of_several_corrections_of_a_lead_the_first_counts_in_any_cutting() -> None:
    """In one list as one after the other."""
    twice = lead_corrected(unit_name="甲公司"), lead_corrected(unit_name="乙公司")
    assert_same_for_any_cutting(with_wechat, batch(twice, when=NOW), [])


STORY = (
    contact_changed(),
    lead_opened(),
    lead_held("paused"),
    lead_held("code"),
    lead_released("paused"),
    lead_released("code"),
    lead_resolved(),
    lead_resolved(),
)


def forgets_the_first(work: NotifyWork, received: Sequence[Received[LeadHeld]]) -> None:
    """A fold bug: of several holds in one list only the last is seen."""
    handlers.hold_back(work, received[-1:])


def keeps_the_last_contacts(work: NotifyWork, received: Sequence[Received[ContactChanged]]) -> None:
    """A fold bug: the last contacts win instead of those with the highest version."""
    handlers.keep_contacts(work, received[-1:])


@pytest.mark.parametrize(
    ("broken", "events"),
    [
        (on(LeadHeld, forgets_the_first), STORY),
        (on(ContactChanged, keeps_the_last_contacts), (contact_changed(USCC, 2), contact_changed(USCC, 1))),
    ],
    ids=["holds", "contacts"],
)
def test_a_fold_bug_is_caught(broken: Any, events: Sequence[Any]) -> None:
    """The property fails for handlers that lose something inside a list, and holds for the right ones."""
    messages = batch(events, when=NOW)
    assert_same_for_any_cutting(world, messages, [])
    reactions = [*(r for r in SUBSCRIPTIONS if r.event is not broken.event), broken]

    def make(database: Database) -> World:
        return world(database, reactions)

    with pytest.raises(AssertionError, match=r"notice|unit_contact"):
        assert_same_for_any_cutting(make, messages, [])


def after(folder: Path, *events: Any) -> Any:
    """The only notice after these events."""

    async def run() -> Any:
        async with Desk.at_work(folder, NOW) as desk:
            await desk.hear(*events)
            return await desk.one(), await desk.told()

    return asyncio.run(run())


def test_a_lead_queues_one_notice(tmp_path: Path) -> None:
    """Heard twice with one key it is still one; it is due at once."""
    row, _ = after(tmp_path, contact_changed(), lead_opened(), lead_opened())
    assert (row.state, row.due_at, row.held) == ("queued", NOW, [])


def test_a_notice_waits_until_its_lead_says(tmp_path: Path) -> None:
    """not_before is the earliest due instant."""
    row, _ = after(tmp_path, contact_changed(), lead_opened(not_before=at("2026-02-10", "10:10")))
    assert row.due_at == at("2026-02-10", "10:10")


def test_contacts_that_are_not_here_yet_are_waited_for(tmp_path: Path) -> None:
    """Held without a due instant; the version that the lead names lets it go, a lower one does not."""
    row, _ = after(tmp_path / "a", lead_opened(contact_version=2), contact_changed(USCC, 1))
    assert (row.state, row.held, row.due_at) == ("held", ["contact"], None)
    row, _ = after(tmp_path / "b", lead_opened(contact_version=2), contact_changed(USCC, 2))
    assert (row.state, row.held, row.due_at) == ("queued", [], NOW)


def test_all_reasons_have_to_go(tmp_path: Path) -> None:
    """Two reasons, one released: still held; both: queued."""
    events = contact_changed(), lead_opened(held=["code"]), lead_held("paused"), lead_released("code")
    row, _ = after(tmp_path / "a", *events)
    assert (row.state, row.held, row.due_at) == ("held", ["paused"], None)
    row, _ = after(tmp_path / "b", *events, lead_released("paused"))
    assert (row.state, row.due_at) == ("queued", NOW)


def test_changed_facts_replace_all_that_the_lead_said(tmp_path: Path) -> None:
    """Name and holds are the new ones; a reason of our own stays."""
    events = lead_opened(held=["code"]), lead_changed(unit_name="新名", held=["disputed"])
    row, _ = after(tmp_path, *events)
    assert row.held == ["contact", "disputed"]
    assert row.facts["unit_name"] == "新名"


def test_a_lead_that_ended_withdraws_its_notice(tmp_path: Path) -> None:
    """Once, with the lead's end as the reason; held ones too."""
    row, told = after(tmp_path, lead_opened(held=["code"]), lead_resolved("unit_closed"), lead_resolved())
    assert (row.state, row.reason, row.due_at) == ("withdrawn", "unit_closed", None)
    assert told == [("notice_withdrawn", "unit_closed")]


def test_a_reopened_lead_has_a_notice_of_its_own(tmp_path: Path) -> None:
    """The end of episode 1 leaves the notice of episode 2 alone."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:
            events = contact_changed(), lead_opened(), lead_resolved(), lead_opened(episode=2)
            await desk.hear(*events, lead_resolved(episode=1))
            assert await desk.states() == [("withdrawn", "enrolled"), ("queued", None)]

    asyncio.run(run())


def test_a_stage_without_a_text_is_parked(tmp_path: Path) -> None:
    """Nothing is queued that could not be said; the message waits for a text."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:
            await desk.hear(lead_opened(stage="unheard_of"))
            assert await desk.states() == []
            (parked,) = await desk.rows(PLUMBING.parked)
            assert parked.error.startswith("MissingTextError")

    asyncio.run(run())


def test_a_key_parked_here_holds_its_notices(tmp_path: Path) -> None:
    """Those that are there and those that come, until the key is free; other units go on."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:
            await desk.hear(contact_changed(), contact_changed(OTHER), lead_opened(), lead_opened(OTHER))
            await desk.consumer.receive([poison(contact_changed(USCC, 2), id="bad", time=NOW)])
            await desk.hear(lead_opened(episode=2))
            rows = await desk.rows(notice)
            assert {(USCC, 1, "held"), (USCC, 2, "held"), (OTHER, 1, "queued")} == {
                (row.uscc, row.episode, row.state) for row in rows
            }
            assert await desk.next_due() == NOW
            await desk.core.run(lambda work: handlers.release_parked(work, USCC))
            assert {"queued"} == {row.state for row in await desk.rows(notice)}

    asyncio.run(run())


def test_phones_lie_in_ciphertext_only(tmp_path: Path) -> None:
    """Neither number nor name of a contact is in the file in clear, also after a hand-over and a receipt."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:
            await desk.hear(contact_changed(), lead_opened())
            await desk.deliver()
            await desk.receipt()
            assert len(await desk.rows(attempt)) == len(await desk.rows(attempt_notice)) == 1
            assert len(await desk.rows(unit_contact)) == 1

    asyncio.run(run())
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("notify.db*"))
    assert b"R01-" in stored
    assert MOBILE.encode() not in stored
    assert "于示例".encode() not in stored
    assert b"\\u4e8e" not in stored


def test_a_published_year_moves_the_opening(tmp_path: Path) -> None:
    """A day that became a holiday is closed."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:
            await desk.hear(contact_changed(), lead_opened())
            assert await desk.next_due() == NOW
            await desk.hear(CALENDAR)
            assert await desk.next_due() == at("2026-02-11", "08:30")

    asyncio.run(run())


def test_a_partition_that_lags_brings_no_older_calendar_back(tmp_path: Path) -> None:
    """The newer one was heard from another partition already."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:
            await desk.hear(contact_changed(), lead_opened())
            older = CALENDAR.model_copy(update={"holidays": [], "source": "older"})
            for number, (event, time) in enumerate(((CALENDAR, NOW), (older, NOW - timedelta(minutes=1)))):
                await desk.consumer.receive([message(event, id=f"year-{number}", time=time)])
            assert await desk.next_due() == at("2026-02-11", "08:30")

    asyncio.run(run())


def test_the_wait_for_contacts_is_counted_after_an_hour(tmp_path: Path) -> None:
    """Only notices that wait for longer are overdue."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:
            await desk.hear(lead_opened())

            async def overdue(before: Any) -> int:
                return await desk.core.run(lambda work: work.store.contacts_overdue(before))

            assert await overdue(NOW) == 0
            assert await overdue(at("2026-02-10", "10:01")) == 1

    asyncio.run(run())


def test_notices_follow_their_unit_to_its_town(tmp_path: Path) -> None:
    """Also when they were sent; the facts of the message stay, and receipts do not take the town back."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:
            await desk.hear(contact_changed(), lead_opened())
            await desk.deliver()
            await desk.hear(lead_changed(town="崖头街道"))
            await desk.receipt()
            row = await desk.one()
            assert (row.state, row.town, row.facts["town"]) == ("delivered", "崖头街道", "寻山街道")
            await desk.hear(lead_resolved(), lead_opened(episode=2, town="王连街道"))
            assert [row.town for row in await desk.rows(notice)] == ["王连街道"] * 2

    asyncio.run(run())


def test_contacts_of_an_older_version_get_their_index_at_the_start(tmp_path: Path) -> None:
    """Kept before phones were indexed: found by their phone once the service has started."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:
            await desk.hear(contact_changed(USCC), contact_changed(OTHER, 1, None))

            def forget(work: NotifyWork) -> None:
                work.db.execute(unit_contact.update().values(mobile_index=None))

            await desk.core.run(forget)
            await desk.core.run(handlers.index_contacts)
            phones = {row.uscc: row.mobile_index for row in await desk.rows(unit_contact)}
            assert phones == {USCC: desk.tools.phones.of(MOBILE), OTHER: ""}

    asyncio.run(run())


def test_contacts_that_are_told_again_change_nothing(tmp_path: Path) -> None:
    """Also under a new id; a service that had lost them has them again, and what waited for them goes on."""

    async def run() -> None:
        async with Desk.at_work(tmp_path, NOW) as desk:

            async def kept() -> list[Any]:
                return [await desk.rows(unit_contact), await desk.rows(notice)]

            await desk.hear(contact_changed(), lead_opened())
            before = await kept()
            await desk.hear(contact_changed())
            assert await kept() == before
            await desk.core.run(lambda work: work.db.execute(sa.delete(unit_contact)))
            await desk.hear(lead_opened(OTHER))
            await desk.hear(contact_changed(), contact_changed(OTHER))
            assert {row.uscc for row in await desk.rows(unit_contact)} == {USCC, OTHER}
            assert {row.state for row in await desk.rows(notice)} == {"queued"}

    asyncio.run(run())
