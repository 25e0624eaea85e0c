"""Taking back wrong messages: corrections that matching asks for, and recalls."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.notify.carriers import Accepted, ErrorClass, NotSent, Refused, Submission, Unknown
from services.notify.commands import PORTION, Recall, Recalled, recall
from services.notify.store import Store, Wrong
from services.notify.tables import PLUMBING, attempt, notice
from shared.storage.work import Cause
from tests.support.notify import (
    MOBILE,
    NOW,
    OTHER,
    USCC,
    Desk,
    at,
    batch,
    contact_changed,
    due,
    lead_corrected,
    lead_held,
    lead_opened,
    lead_resolved,
    play,
)

REMINDERS = Wrong(rule="R01", stage="reminder", since=NOW)


async def take_back(desk: Desk, wrong: Wrong = REMINDERS) -> Recalled:
    return await desk.core.call(recall, Recall(wrong, "文本有误", Cause("official", "c")))


async def stages(desk: Desk) -> dict[str, str]:
    """State by stage; one unit alone."""
    return {row.stage: row.state for row in await desk.rows(notice)}


# -- corrections that matching asks for ----------------------------------------------------------------


def test_who_got_a_wrong_message_hears_so_once_on_the_same_phone(tmp_path: Path) -> None:
    """The contact has changed and the lead has ended: the correction goes to the phone of the wrong message."""

    async def story(desk: Desk) -> None:
        await due(desk)
        await desk.deliver()
        (wrong,) = await desk.rows(attempt)
        await desk.hear(
            contact_changed(USCC, 2, "13900139000"),
            lead_corrected(),
            lead_resolved("wrong_data"),
            lead_held("paused"),
            lead_corrected(),
        )
        desk.look.broken = True
        await desk.deliver()
        (mobile, text) = desk.carrier.messages[1]
        assert (len(desk.carrier.messages), mobile) == (2, MOBILE)
        assert wrong.reference in text
        assert "有误" in text
        assert await stages(desk) == {"reminder": "handed_over", "correction": "handed_over"}

    play(tmp_path, story)


def test_nothing_is_corrected_where_nothing_was_sent(tmp_path: Path) -> None:
    """Unsent, or refused: nobody has a wrong message. Of another episode neither."""

    async def story(desk: Desk) -> None:
        desk.carrier.outcomes = [Refused("no", ErrorClass.CONTENT_REJECTED, "no"), Accepted("g")]
        await due(desk, OTHER, mobile="13900139000")
        await desk.deliver()
        await desk.hear(lead_corrected(OTHER), lead_opened(OTHER, episode=2))
        await desk.deliver()
        await desk.hear(contact_changed(), lead_opened(), lead_corrected(), lead_corrected(OTHER))
        assert {row.stage for row in await desk.rows(notice)} == {"reminder"}

    play(tmp_path, story)


def test_an_agent_gets_one_correction_for_one_wrong_message(tmp_path: Path) -> None:
    """Two units were in it: both are in the correction, at once and not at the next slot."""

    async def story(desk: Desk) -> None:
        await due(desk, USCC, OTHER)
        desk.clock.move_to(at("2026-02-10", "08:30"))
        await desk.deliver()
        desk.clock.move_to(at("2026-02-10", "08:40"))
        await desk.hear(lead_corrected(USCC), lead_corrected(OTHER))
        await desk.deliver()
        assert len(desk.carrier.messages) == 2
        assert "等2户" in desk.carrier.messages[1][1]

    play(tmp_path, story, at("2026-02-10", "00:05"))


def test_the_cap_does_not_keep_a_correction_back(tmp_path: Path) -> None:
    """Three messages this week already: what is wrong is corrected all the same."""

    async def story(desk: Desk) -> None:
        for n in range(3):
            await due(desk, USCC)
            await desk.hear(lead_opened(episode=n + 1))
            await desk.deliver()
        await desk.hear(lead_corrected(episode=3))
        await desk.deliver()
        assert len(desk.carrier.messages) == 4

    play(tmp_path, story)


def test_after_wechat_the_correction_goes_by_sms(tmp_path: Path) -> None:
    """To the phone that the follower belongs to; there is no template for it."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        await desk.hear(lead_resolved("wrong_data"), lead_corrected())
        await desk.deliver()
        assert [mobile for mobile, _ in desk.carrier.messages] == [MOBILE]
        assert "有误" in desk.carrier.messages[0][1]

    play(tmp_path, story)


# -- recall --------------------------------------------------------------------------------------------


def test_a_recall_withdraws_the_unsent_and_corrects_the_sent(tmp_path: Path) -> None:
    """Each once; who got it is listed; another stage, and what was queued before, are left alone."""

    async def story(desk: Desk) -> None:
        await due(desk)
        await desk.deliver()
        desk.clock.advance(timedelta(minutes=1))
        await due(desk, OTHER, mobile="13900139000")
        await desk.hear(lead_held("paused", OTHER))
        late = Wrong(rule="R01", stage="reminder", since=desk.clock.now())
        done = await take_back(desk, late)
        assert (done.withdrawn, done.corrections, done.got) == (1, 0, ())
        assert (await take_back(desk, Wrong(rule="R01", stage="second_reminder", since=NOW))).got == ()
        done = await take_back(desk)
        (row,) = await desk.rows(attempt)
        assert (done.withdrawn, done.under_way, done.corrections) == (0, 0, 1)
        assert [(g.uscc, g.channel, g.reference, g.at) for g in done.got] == [
            (USCC, "sms", row.reference, NOW)
        ]
        assert (await take_back(desk, Wrong(references=[row.reference]))).corrections == 0
        await desk.deliver()
        assert len(desk.carrier.messages) == 2
        assert row.reference in desk.carrier.messages[1][1]
        audit = [row.details for row in await desk.rows(PLUMBING.audit)]
        assert [
            (a["reason"], a["withdrawn"], a["corrections"]) for a in audit if a["stage"] == "reminder"
        ] == [
            ("文本有误", 1, 0),
            ("文本有误", 0, 1),
        ]

    play(tmp_path, story)


def test_numbers_of_people_in_the_reason_of_a_recall_are_masked(tmp_path: Path) -> None:
    """The audit row keeps the other words."""

    async def story(desk: Desk) -> None:
        item = Recall(REMINDERS, "发给了 13800138000", Cause("official", "c"))
        await desk.core.call(recall, item)
        assert [row.details["reason"] for row in await desk.rows(PLUMBING.audit)] == ["发给了 138****8000"]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Accepted("g"), {"reminder": "handed_over", "correction:reminder": "handed_over"}),
        (NotSent("ConnectError"), {"reminder": "withdrawn"}),
        (Refused("no", ErrorClass.CONTENT_REJECTED, "no"), {"reminder": "unreached"}),
    ],
)
def test_what_is_under_way_is_corrected_if_it_arrives(
    tmp_path: Path, outcome: Submission, expected: dict[str, str]
) -> None:
    """Recalled while the carrier has it: a correction only where somebody got it."""

    async def story(desk: Desk) -> None:
        done: list[Recalled] = []

        async def meanwhile() -> None:
            desk.carrier.meanwhile = lambda: None
            done.append(await take_back(desk))

        desk.carrier.outcomes, desk.carrier.meanwhile = [outcome], meanwhile
        await due(desk)
        await desk.deliver()
        assert (done[0].under_way, done[0].corrections) == (1, 0)
        assert await stages(desk) == expected

    play(tmp_path, story)


def test_a_message_of_unknown_outcome_is_corrected_when_its_phone_is_free(tmp_path: Path) -> None:
    """Somebody may have it; a receipt that settles it queues no second correction."""

    async def story(desk: Desk) -> None:
        desk.carrier.outcomes = [Unknown("cut")]
        await due(desk)
        await desk.deliver()
        done = await take_back(desk)
        assert (done.under_way, done.corrections, len(done.got)) == (1, 1, 1)
        await desk.deliver()
        assert len(desk.carrier.messages) == 1
        await desk.receipt()
        await desk.deliver()
        assert await stages(desk) == {"reminder": "delivered", "correction:reminder": "handed_over"}

    play(tmp_path, story)


def test_after_a_recall_no_sms_follows_a_silent_wechat(tmp_path: Path) -> None:
    """The wrong words don't go out a second time."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        assert (await take_back(desk)).corrections == 1
        await desk.deliver()
        desk.clock.advance(timedelta(hours=24))
        await desk.settle()
        await desk.deliver()
        assert ["有误" in text for _, text in desk.carrier.messages] == [True]
        assert (await stages(desk))["reminder"] == "unreached"

    play(tmp_path, story)


def test_a_correction_names_the_wechat_message_and_the_sms_that_followed(tmp_path: Path) -> None:
    """Whichever was recalled: the party has both, and both are said to be taken back; the correction is not."""

    async def story(desk: Desk) -> None:
        await desk.bound()
        await due(desk)
        await desk.deliver()
        desk.clock.advance(timedelta(hours=24))
        await desk.settle()
        await desk.deliver()
        wechat, sms = await desk.rows(attempt)
        assert (wechat.channel, sms.channel) == ("wechat", "sms")
        await take_back(desk, Wrong(references=[wechat.reference]))
        await desk.deliver()
        text = desk.carrier.messages[-1][1]
        assert f"（核验编号{wechat.reference}、{sms.reference}）有误" in text

        async def taken_back(row: Any) -> bool | None:
            return await desk.core.read(
                lambda db: Store(db, desk.tools.rules).vouch(row.reference, USCC[-4:])
            )

        assert [await taken_back(row) for row in await desk.rows(attempt)] == [True, True, False]

    play(tmp_path, story)


def test_a_great_recall_is_done_in_portions(tmp_path: Path) -> None:
    """Each answer says where the next one begins; together they take back everything, once."""

    async def story(desk: Desk) -> None:
        units = [f"91371082MA3{n:07}" for n in range(PORTION + 1)]
        told = [(contact_changed(u, 1, f"138{n:08}"), lead_opened(u)) for n, u in enumerate(units)]
        for kind in zip(*told, strict=True):
            await desk.consumer.receive(batch(kind, when=NOW))
        first = await take_back(desk)
        item = Recall(REMINDERS, "文本有误", Cause("official", "c"), first.goes_on)
        second = await desk.core.call(recall, item)
        assert (first.withdrawn, second.withdrawn, second.goes_on) == (PORTION, 1, None)
        assert await desk.states() == [("withdrawn", "recalled")] * (PORTION + 1)

    play(tmp_path, story)


@pytest.mark.parametrize("sent", [False, True])
def test_a_correction_may_be_recalled_but_not_corrected(tmp_path: Path, sent: bool) -> None:
    """Unsent it is withdrawn; sent it is listed and stays the last word."""

    async def story(desk: Desk) -> None:
        await due(desk)
        await desk.deliver()
        await take_back(desk)
        if sent:
            await desk.deliver()
        done = await take_back(desk, Wrong(rule="R01", stage="correction:reminder", since=NOW))
        assert (done.withdrawn, len(done.got), done.corrections) == (not sent, sent, 0)

    play(tmp_path, story)
