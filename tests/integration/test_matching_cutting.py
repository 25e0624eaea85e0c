"""However a sequence of messages is cut into batches, matching's tables, events and parked keys are the same."""

from collections.abc import Sequence
from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.matching import handlers
from services.matching.handlers import SUBSCRIPTIONS
from services.matching.store import Store
from services.matching.work import MatchingWork
from shared.calendar import Calendar
from shared.events.base import Event
from shared.events.catalogue import PARTITIONS
from shared.events.notify import NoticeHandedOver, NoticeUnreached
from shared.events.registry import (
    DataComplete,
    ParticipationCancelled,
    ParticipationStarted,
    UnitChanged,
    UnitFacts,
)
from shared.messaging.bus import Message, partition_of
from shared.messaging.consumer import Reaction, Received, on
from shared.storage.database import Database
from tests.support.cutting import MakeWorld, World, assert_same_for_any_cutting, message, poison
from tests.support.matching import (
    CALENDAR,
    USCC,
    at,
    calendar,
    cancelled,
    changed,
    closed,
    delivered,
    disputed,
    ended,
    handed_over,
    registered,
    settled,
    started,
    unreached,
    withdrawn,
    world,
)
from tests.support.native import Postgres

NOW = at("2026-02-12")
USCCS = (USCC, "91371082MA3XTE5T9N", "91371082MA3XTE5T0A")
PUBLISHED = Calendar({year: CALENDAR.years[year] for year in CALENDAR.years if year < 2026})
"""2026 comes by event, so that provisional deadlines occur."""

usccs = st.sampled_from(USCCS)
numbers = st.integers(1, 4)
dates = st.sampled_from([date(2025, 11, 20), date(2026, 1, 5), date(2026, 1, 9), date(2026, 1, 26), None])
unit_facts = st.fixed_dictionaries(
    {
        "uscc": usccs,
        "established_on": dates,
        "kind": st.sampled_from(["enterprise", "enterprise", "sole_trader"]),
        "status": st.sampled_from(["active", "active", "suspended"]),
        "code_confirmed": st.booleans(),
        "unit_name": st.sampled_from(["甲公司", "乙公司"]),
        "origin": st.sampled_from(["single", "single", "batch"]),
    }
)
DAYS = (date(2026, 1, 20), date(2026, 2, 9), date(2026, 2, 12), date(2026, 2, 20))
participations = st.builds(
    lambda number: {
        "participation_id": number,
        "uscc": USCCS[number % 3],
        "insurance": "medical" if number % 4 == 0 else "pension",
        "started_on": DAYS[number % 4 - number % 3],
    },
    st.integers(1, 9),
)
"""A participation is the same each time it is spoken of."""

notices = st.builds(
    lambda uscc, number, episode, stage, day: {
        "uscc": uscc,
        "lead_id": f"R01-{uscc}",
        "notice_id": f"notice-{number}",
        "episode": episode,
        "stage": stage,
        "at": at(day),
    },
    usccs,
    numbers,
    st.integers(1, 2),
    st.sampled_from(["reminder", "reminder", "second_reminder", "correction"]),
    st.sampled_from(["2026-01-05", "2026-02-10"]),
)
"""The wait after a notice of January is over, so that whatever comes next takes the step."""

year_2026 = CALENDAR.years[2026]
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(lambda facts: registered(**facts), unit_facts),
    st.builds(lambda facts, version: changed(version, **facts), unit_facts, st.integers(2, 9)),
    st.builds(lambda uscc, version: closed(version, uscc=uscc), usccs, st.integers(5, 9)),
    st.builds(lambda given: started(**given), participations),
    st.builds(lambda given: started(**given), participations),
    st.builds(lambda given: ended(**given), participations),
    st.builds(lambda given: cancelled(**given), participations),
    st.builds(
        lambda day, dataset: DataComplete(dataset=dataset, through=day),
        st.sampled_from([date(2026, 2, 1), date(2026, 2, 9), date(2026, 2, 12)]),
        st.sampled_from(["participations", "participations", "tax_payments"]),
    ),
    st.just(calendar(2026, year_2026.holidays, year_2026.makeup_days)),
    st.builds(lambda row, uscc: disputed(row, uscc=uscc), st.integers(2, 4), usccs),
    st.builds(lambda row, uscc: settled(row, uscc=uscc), st.integers(2, 4), usccs),
    st.builds(lambda given: handed_over(**given), notices),
    st.builds(lambda given: delivered(**given), notices),
    st.builds(lambda given: unreached(**given), notices),
    st.builds(lambda given: withdrawn(**given), notices),
)

KNOWN: list[Event] = [
    *(registered(uscc=uscc) for uscc in USCCS),
    *(DataComplete(dataset="participations", through=date(2026, 2, 4)) for _ in USCCS),
]
"""What every sequence begins with, so that most events meet a unit."""


def messages_of(told: Sequence[Event], torn: int | None = None) -> list[Message]:
    """One message each; a broadcast goes to the partition of the units in turn."""
    made = []
    for n, event in enumerate(told):
        one = (poison if n == torn else message)(event, id=f"event-{n}", time=NOW - timedelta(minutes=1))
        own = partition_of(USCCS[n % len(USCCS)])
        made.append(one._replace(partition=own) if event.broadcast else one)
    return made


def make(reactions: Sequence[Reaction] = SUBSCRIPTIONS) -> MakeWorld:
    def make_world(database: Database) -> World:
        return world(database, now=lambda: NOW, reactions=reactions, published=PUBLISHED)

    return make_world


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(events, min_size=2, max_size=14),
    st.lists(st.integers(0, 40), max_size=4),
    st.lists(st.integers(0, 40), max_size=3),
    st.one_of(st.none(), st.integers(6, 14)),
)
def test_any_cutting_leaves_the_same(
    told: list[Event], cuts: list[int], doubled: list[int], torn: int | None
) -> None:
    """With duplicates and one message that cannot be read among them."""
    messages = messages_of([*KNOWN, *told], torn)
    for place in doubled:
        messages.append(messages[place % len(messages)])
    assert_same_for_any_cutting(make(), messages, cuts)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.lists(events, min_size=10, max_size=40), st.lists(st.integers(0, 50), max_size=1))
def test_large_batches_on_postgresql_leave_the_same(
    postgres: Postgres, told: list[Event], cuts: list[int]
) -> None:
    """As one message at a time leaves on SQLite."""
    assert_same_for_any_cutting(make(), messages_of([*KNOWN, *told]), cuts, url=postgres.new_database())


@pytest.mark.parametrize("server", [None, "postgres"])
def test_leads_that_end_together_are_one_batch(server: str | None, request: pytest.FixtureRequest) -> None:
    """Each with a visit that is not made any more."""
    told = [*LEADING[:-1], *(registered(uscc=uscc) for uscc in USCCS)]
    told += [unreached(uscc=uscc, lead_id=f"R01-{uscc}", notice_id=f"about-{uscc}") for uscc in USCCS]
    ends = [closed(2, uscc=uscc) for uscc in USCCS]
    url = request.getfixturevalue(server).new_database() if server else None
    assert_same_for_any_cutting(make(), messages_of([*told, *ends]), range(len(told) + 1), url=url)


# -- the checker itself -------------------------------------------------------------------------------------


def _replaced(event: type[Event], handler: object) -> tuple[Reaction, ...]:
    return tuple(
        on(event, handler) if reaction.event is event else reaction  # type: ignore[arg-type]
        for reaction in SUBSCRIPTIONS
    )


def _only_the_last_change(work: MatchingWork, received: Sequence[Received[UnitFacts]]) -> None:
    handlers.take_unit_facts(work, list({item.event.uscc: item for item in received}.values()))


def _cancelled_without_order(
    work: MatchingWork, received: Sequence[Received[ParticipationCancelled]]
) -> None:
    handlers.take_back_cancelled(work, received[::-1])


def _only_the_earliest_start(work: MatchingWork, received: Sequence[Received[ParticipationStarted]]) -> None:
    handlers.take_started(work, sorted(received, key=lambda item: item.event.started_on))


def _last_hand_over_first(work: MatchingWork, received: Sequence[Received[NoticeHandedOver]]) -> None:
    handlers.follow_notices(work, received[::-1])


def _last_unreached_first(work: MatchingWork, received: Sequence[Received[NoticeUnreached]]) -> None:
    handlers.follow_notices(work, received[::-1])


LEADING = [
    calendar(2026, year_2026.holidays, year_2026.makeup_days),
    *(DataComplete(dataset="participations", through=date(2026, 2, 9)) for _ in USCCS),
    registered(),
]
"""Leaves an open lead of the first unit."""


@pytest.mark.parametrize(
    ("event", "broken", "told"),
    [
        (
            UnitChanged,
            _only_the_last_change,
            [*LEADING, changed(2, status="suspended"), changed(3)],
        ),
        (
            ParticipationCancelled,
            _cancelled_without_order,
            [
                *LEADING,
                started(1, started_on=date(2026, 1, 20)),
                started(2, started_on=date(2026, 2, 9)),
                cancelled(1, recorded_on=date(2026, 2, 10)),
                cancelled(2, recorded_on=date(2026, 2, 11)),
            ],
        ),
        (
            ParticipationStarted,
            _only_the_earliest_start,
            [*LEADING, started(1, started_on=date(2026, 2, 9)), started(2, started_on=date(2026, 1, 20))],
        ),
        (
            NoticeHandedOver,
            _last_hand_over_first,
            [
                *LEADING,
                handed_over(notice_id="a", at=at("2026-02-10")),
                handed_over(notice_id="b", at=at("2026-02-12")),
            ],
        ),
        (NoticeUnreached, _last_unreached_first, [*LEADING, unreached(), unreached(notice_id="b")]),
    ],
)
def test_a_handler_that_folds_wrongly_is_caught(
    event: type[Event], broken: object, told: list[Event]
) -> None:
    """Each planted fold bug makes the comparison fail, and the sound handler passes on the same messages."""
    causes = [replace_correlation(one, f"request-{n}") for n, one in enumerate(messages_of(told))]
    assert_same_for_any_cutting(make(), causes, [])
    with pytest.raises(AssertionError):
        assert_same_for_any_cutting(make(_replaced(event, broken)), causes, [])


@pytest.mark.parametrize("writes", ["add_history", "add_visits"])
def test_rows_of_a_lead_that_change_their_order_are_caught(
    writes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its history is shown oldest first, its visits first asked first."""
    told = messages_of([*LEADING, unreached(notice_id="a"), unreached(notice_id="b", reason="refused")])
    assert_same_for_any_cutting(make(), told, [])
    write = getattr(Store, writes)
    monkeypatch.setattr(Store, writes, lambda store, rows: write(store, rows[::-1]))
    with pytest.raises(AssertionError):
        assert_same_for_any_cutting(make(), told, [])


def replace_correlation(one: Message, correlation: str) -> Message:
    """The same message under a request of its own, so that effects show which one they answer."""
    return one._replace(
        value=one.value.replace(b'"correlationid":"test"', f'"correlationid":"{correlation}"'.encode())
    )


def test_the_units_lie_in_known_partitions() -> None:
    """Broadcasts in the test reach the partitions that its units are in."""
    assert {partition_of(uscc) for uscc in USCCS} <= set(range(PARTITIONS))
