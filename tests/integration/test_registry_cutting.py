"""It does not matter how items and messages are cut into batches: same tables, events, answers, parked keys."""

import itertools
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from services.registry.commands import (
    CancelParticipation,
    RecordParticipation,
    RegisterUnit,
    cancel_participation,
    record_participations,
    register_units,
)
from services.registry.domain import Contact, ContactRole, Declared, Form, Insurance, UnitKind
from services.registry.handlers import SUBSCRIPTIONS, mark_wrong_data
from services.registry.settings import RegistrySettings
from services.registry.store import Store, Vault
from services.registry.tables import PLUMBING, metadata
from services.registry.work import RegistryWork
from shared.clock import ZONE
from shared.events.matching import LeadResolved
from shared.messaging.bus import Message
from shared.messaging.consumer import on
from shared.privacy import KeyRing, Purpose
from shared.storage.database import Database
from shared.storage.work import Cause
from tests.support.cutting import (
    World,
    assert_list_command_same_for_any_cutting,
    assert_same_for_any_cutting,
    message,
    poison,
)
from tests.support.native import Postgres
from tests.support.registry import ID_NUMBER, OTHER_ID_NUMBER, OTHER_USCC, USCC, WRONG_CHECK

NOW = datetime(2026, 2, 10, 10, tzinfo=ZONE)
CAUSE = Cause("tester", "correlation-1")
CITY = RegistrySettings().city()
KEYS = KeyRing.create()
SEALED = ("sealed",)
"""Ciphertexts differ with every sealing; that they open to the right thing is tested elsewhere."""
bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
cuts = st.lists(st.integers(0, 20), max_size=6)


def world(database: Database) -> World:
    """Tokens count up, so that two runs are alike."""
    token = itertools.count(1)
    vault = Vault(
        records=KEYS.cipher(Purpose.RECORDS),
        people=KEYS.index(Purpose.ID_INDEX),
        letters=KEYS.cipher(Purpose.CONTACTS),
        new_token=lambda: next(token),
    )

    def make_work(db: sa.Connection) -> RegistryWork:
        return RegistryWork(db, vault, CITY, now=NOW, wall=NOW)

    return World(database, metadata, PLUMBING, make_work, SUBSCRIPTIONS)


CONTACT = Contact(ContactRole.HR, "李示例", "13900139000")

registrations = st.builds(
    RegisterUnit,
    cause=st.just(CAUSE),
    within=st.sampled_from([None, None, "寻山街道"]),
    uscc=st.sampled_from([USCC, OTHER_USCC, WRONG_CHECK]),
    name=st.sampled_from(["甲", "甲", "乙"]),
    kind=st.just(UnitKind.ENTERPRISE),
    established_on=st.sampled_from([date(2026, 1, 9), date(2026, 1, 9), date(2026, 2, 11)]),
    town=st.sampled_from(["寻山街道", "寻山街道", "俚岛镇", "别处镇"]),
    contacts=st.sampled_from([(), (CONTACT,)]),
)
enrolments = st.builds(
    RecordParticipation,
    cause=st.just(CAUSE),
    within=st.just(None),
    uscc=st.sampled_from([USCC, USCC, OTHER_USCC, None]),
    id_number=st.sampled_from([ID_NUMBER, ID_NUMBER, OTHER_ID_NUMBER, "371082198503150024"]),
    name=st.sampled_from(["王示例", "王示例", "赵另名"]),
    insurance=st.sampled_from([Insurance.PENSION, Insurance.PENSION, Insurance.INJURY]),
    form=st.sampled_from([Form.EMPLOYER, Form.EMPLOYER, Form.FLEXIBLE]),
    kind=st.sampled_from([Declared.FIRST, Declared.FIRST, Declared.RESUMED]),
    started_on=st.sampled_from([date(2026, 2, 1), date(2026, 2, 2)]),
)


def known_unit(world: World) -> World:
    """A world in which one unit is registered, and one person's only participation was cancelled."""
    register = RegisterUnit(CAUSE, None, USCC, "甲", UnitKind.ENTERPRISE, date(2026, 1, 9), "寻山街道")
    enrol = RecordParticipation(
        CAUSE,
        None,
        USCC,
        ID_NUMBER,
        "王示例",
        Insurance.PENSION,
        Form.EMPLOYER,
        Declared.FIRST,
        date(2026, 2, 1),
    )
    with world.database.write() as db:
        work = world.make_work(db)
        register_units(work, [register])
        (outcome,) = record_participations(work, [enrol])
        cancel_participation(work, CancelParticipation(CAUSE, None, outcome.participation.id, "误"))
        work.flush()
    return world


@bounded
@given(st.lists(registrations, min_size=1, max_size=12), cuts)
def test_registering_units(items: list[RegisterUnit], where: list[int]) -> None:
    """New, known, differing and faulty units, several times in one list."""
    assert_list_command_same_for_any_cutting(world, register_units, items, where, ignore=SEALED)


@bounded
@given(st.lists(enrolments, min_size=1, max_size=12), cuts)
def test_recording_participations(items: list[RecordParticipation], where: list[int]) -> None:
    """Same person, same spell, first of an insurance, faulty ones, several times in one list."""
    assert_list_command_same_for_any_cutting(
        lambda database: known_unit(world(database)), record_participations, items, where, ignore=SEALED
    )


@st.composite
def ends_of_leads(draw: st.DrawFn, *, at_least: int = 1) -> list[Message]:
    """In any order, some twice, one of them torn."""
    events = [
        LeadResolved(
            lead_id=f"L{n}", uscc=uscc, rule="R01", episode=n, end=end, reason="示例", by_official=True
        )
        for n, (uscc, end) in enumerate(
            draw(
                st.lists(
                    st.tuples(
                        st.sampled_from([USCC, OTHER_USCC]),
                        st.sampled_from(["wrong_data", "wrong_data", "enrolled"]),
                    ),
                    min_size=at_least,
                    max_size=10,
                )
            )
        )
    ]
    torn = draw(st.integers(-1, len(events) - 1))
    messages = [
        (poison if n == torn else message)(event, id=f"event-{n}", time=NOW + timedelta(minutes=n))
        for n, event in enumerate(events)
    ]
    # A copy never comes before its first delivery.
    for copy in draw(st.lists(st.integers(0, len(events) - 1), max_size=3)):
        messages.insert(draw(st.integers(copy + 1, len(messages))), messages[copy])
    return messages


@bounded
@given(ends_of_leads(), cuts)
def test_marking_wrong_data(messages: list[Message], where: list[int]) -> None:
    """The last end of a unit's leads decides."""
    assert_same_for_any_cutting(lambda database: known_unit(world(database)), messages, where, ignore=SEALED)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(enrolments, min_size=8, max_size=20),
    ends_of_leads(at_least=6),
    st.lists(st.integers(0, 20), max_size=1),
)
def test_large_batches_on_postgresql_leave_the_same(
    postgres: Postgres, items: list[RecordParticipation], messages: list[Message], where: list[int]
) -> None:
    """As one at a time leaves on SQLite."""

    def make_world(database: Database) -> World:
        return known_unit(world(database))

    assert_list_command_same_for_any_cutting(
        make_world, record_participations, items, where, ignore=SEALED, url=postgres.new_database()
    )
    assert_same_for_any_cutting(make_world, messages, where, ignore=SEALED, url=postgres.new_database())


# -- planted: each of these must be caught ---------------------------------------------------------------


class Deaf(dict[Any, Any]):
    """A dictionary that keeps what the database gave and nothing that is added."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Forgets it."""


def test_the_check_catches_a_unit_registered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a later item of the list does not see the unit that an earlier one registered."""
    units = Store.units
    monkeypatch.setattr(Store, "units", lambda store, usccs: Deaf(units(store, usccs)))
    item = RegisterUnit(CAUSE, None, USCC, "甲", UnitKind.ENTERPRISE, date(2026, 1, 9), "寻山街道")
    with pytest.raises(IntegrityError):
        assert_list_command_same_for_any_cutting(world, register_units, [item, item], [], ignore=SEALED)


def test_the_check_catches_two_firsts_of_one_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the decision about the first is not carried from one item of the list to the next."""

    class Forgets(dict[Any, Any]):
        def __init__(self, stored: dict[Any, Any]) -> None:
            super().__init__(stored)
            self._stored = stored

        def get(self, key: Any, default: Any = None) -> Any:
            return self._stored.get(key, default)

    firsts = Store.firsts
    monkeypatch.setattr(Store, "firsts", lambda store, people: Forgets(firsts(store, people)))
    items = [
        RecordParticipation(
            CAUSE,
            None,
            USCC,
            ID_NUMBER,
            "王示例",
            Insurance.PENSION,
            Form.EMPLOYER,
            Declared.FIRST,
            date(2026, 2, day),
        )
        for day in (1, 2)
    ]
    with pytest.raises(AssertionError):
        assert_list_command_same_for_any_cutting(
            lambda database: known_unit(world(database)), record_participations, items, [], ignore=SEALED
        )


def test_the_check_catches_a_mark_that_goes_backwards() -> None:
    """Planted: of several ends in one list the first is kept, not the last."""

    def backwards(work: RegistryWork, received: Sequence[Any]) -> None:
        mark_wrong_data(work, list(reversed(received)))

    def make_world(database: Database) -> World:
        made = known_unit(world(database))
        return World(database, metadata, PLUMBING, made.make_work, (on(LeadResolved, backwards),))

    messages = [
        message(
            LeadResolved(
                lead_id=f"L{n}",
                uscc=USCC,
                rule="R01",
                episode=n,
                end="wrong_data",
                reason="示例",
                by_official=True,
            ),
            id=f"event-{n}",
            time=NOW + timedelta(minutes=n),
        )
        for n in (1, 2)
    ]
    with pytest.raises(AssertionError):
        assert_same_for_any_cutting(make_world, messages, [], ignore=SEALED)
