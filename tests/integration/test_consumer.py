"""Messages become effects exactly once; poison stops its key and nothing else."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import Problem
from shared.messaging.bus import Message, partition_of
from shared.messaging.consumer import Consumer, Received, lane, on, rounds
from shared.service import _parked_keys
from shared.storage.database import Database
from shared.storage.retention import STAND_IN
from shared.storage.work import Cause, Work
from tests.support.cutting import World, assert_same_for_any_cutting, message, poison
from tests.support.probe import (
    CAUSE,
    PLUMBING,
    START,
    Announced,
    ValueCleared,
    ValueSet,
    clear_values,
    contents,
    metadata,
    set_values,
)

REACTIONS = (on(ValueSet, set_values), on(ValueCleared, clear_values))


def make_world(database: Database, reactions: Any = REACTIONS) -> World:
    return World(
        database, metadata, PLUMBING, lambda db: Work(db, PLUMBING, now=START, wall=START), reactions
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(Database(f"sqlite:///{tmp_path}/probe.db"))


def put(key: str, content: str, id_: str) -> Message:
    return message(ValueSet(uscc=key, content=content), id=id_, time=START)


def values(world: World) -> dict[str, str]:
    with world.database.read() as db:
        return contents(db)


def receive(world: World, *batch: Message) -> None:
    asyncio.run(world.consumer.receive(batch))


def test_a_message_that_comes_again_has_no_second_effect(world: World) -> None:
    """Neither in the same batch nor in a later one."""
    receive(world, put("a", "1", "m1"), put("a", "1", "m1"))
    receive(world, put("a", "2", "m2"))
    receive(world, put("a", "1", "m1"))
    assert values(world) == {"a": "2"}
    assert world.consumer.counts == {"handled": 2, "duplicate": 2, "diverted": 0}


def test_a_fact_about_another_key_than_its_message_is_parked(world: World) -> None:
    """Its effect would escape order and locks, which go by the key of the message."""
    foreign = put("b", "1", "m1")
    told = put("c", "1", "m2").value.replace(b'"subject":"c"', b'"subject":"d"')
    receive(world, foreign._replace(key="a"), foreign._replace(key="d", value=told))
    assert values(world) == {}
    with world.database.read() as db:
        assert db.scalars(sa.select(PLUMBING.parked.c.subject)).all() == ["a", "d"]


def test_a_poison_message_parks_its_key_and_no_other(world: World) -> None:
    """Later messages of the key wait behind it, other keys go on, and an error without values is kept."""
    receive(world, put("a", "1", "m1"), put("b", "poison", "m2"), put("b", "2", "m3"), put("c", "3", "m4"))
    receive(world, put("b", "3", "m5"), put("a", "4", "m6"))
    assert values(world) == {"a": "4", "c": "3"}
    with world.database.read() as db:
        parked = list(db.execute(sa.select(PLUMBING.parked).order_by(PLUMBING.parked.c.seq)))
    assert [(row.subject, row.id) for row in parked] == [("b", "m2"), ("b", "m3"), ("b", "m5")]
    assert parked[0].error.startswith("ValueError in set_values")
    assert parked[1].error is None


def test_a_redriven_key_catches_up_in_order_and_is_released_once(tmp_path: Path) -> None:
    """After the cause is mended the queue runs in order, past the inbox, and the key is free."""
    hooks: list[str] = []
    bad = {"now": True}

    def sometimes(work: Work, received: Any) -> None:
        if bad["now"]:
            raise ValueError("not yet")
        set_values(work, received)

    world = World(
        Database(f"sqlite:///{tmp_path}/probe.db"),
        metadata,
        PLUMBING,
        lambda db: Work(db, PLUMBING, now=START, wall=START),
        (on(ValueSet, sometimes),),
        on_parked=lambda _, subject: hooks.append(f"parked {subject}"),
        on_released=lambda _, subject: hooks.append(f"released {subject}"),
    )
    receive(world, put("a", "1", "m1"), put("a", "2", "m2"))
    assert asyncio.run(world.consumer.redrive("registry", "a")) == 0
    bad["now"] = False
    receive(world, put("a", "3", "m3"))
    assert values(world) == {}
    assert asyncio.run(world.consumer.redrive("registry", "a")) == 3
    assert values(world) == {"a": "3"}
    assert hooks == ["parked a", "released a"]
    receive(world, put("a", "1", "m1"), put("a", "4", "m4"))
    assert values(world) == {"a": "4"}


def test_a_message_that_can_never_pass_is_given_up_by_somebody(tmp_path: Path) -> None:
    """It alone: those behind it pass, the key is released when none is left, and the trail says who did it."""
    hooks: list[str] = []
    world = World(
        Database(f"sqlite:///{tmp_path}/probe.db"),
        metadata,
        PLUMBING,
        lambda db: Work(db, PLUMBING, now=START, wall=START),
        (on(ValueSet, set_values),),
        on_released=lambda _, subject: hooks.append(f"released {subject}"),
    )
    receive(world, put("a", "poison", "m1"), put("a", "2", "m2"))
    cause = Cause("official", "request")
    asyncio.run(world.consumer.discard("registry", "a", "m1", cause))
    for id_, code in (
        ("m1", "not_found"),
        ("m2", "not_failed"),
    ):  # again, as after a lost answer; one that waits
        with pytest.raises(Problem) as refused:
            asyncio.run(world.consumer.discard("registry", "a", id_, cause))
        assert refused.value.code == code
    assert (values(world), hooks) == ({}, [])
    assert asyncio.run(world.consumer.redrive("registry", "a")) == 1
    assert (values(world), hooks) == ({"a": "2"}, ["released a"])
    with world.database.read() as db:
        (row,) = db.execute(sa.select(PLUMBING.audit))
    assert (row.action, row.actor, row.details["message"]) == ("parked.discarded", "official", "m1")


def test_a_redrive_that_the_database_fails_blames_nobody(world: World) -> None:
    """Whoever asked for it hears so, and the message has failed no second time."""
    receive(world, put("a", "poison", "m1"))

    async def away(do: Any, /, *, keys: Any = None) -> Any:
        raise ConnectionError("the database is away")

    with pytest.raises(ConnectionError):
        asyncio.run(Consumer("test", REACTIONS, PLUMBING, away).redrive("registry", "a"))
    with world.database.read() as db:
        assert db.scalars(sa.select(PLUMBING.parked.c.attempts)).all() == [1]


def test_who_only_waits_is_not_blamed_for_what_failed_before_it(world: World) -> None:
    """Not even when somebody gives up the failed message before its second failure is written down."""
    receive(world, put("a", "poison", "m1"), put("a", "2", "m2"))
    calls = 0

    async def overtaken(do: Any, /, *, keys: Any = None) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first one tried to handle m1
            await world.consumer.discard("registry", "a", "m1", CAUSE)
        return await world.run(do, keys=keys)

    slow = Consumer("test", REACTIONS, PLUMBING, overtaken)
    assert asyncio.run(slow.redrive("registry", "a")) == 0
    with world.database.read() as db:
        (row,) = db.execute(sa.select(PLUMBING.parked))
    assert (row.id, row.error, row.attempts) == ("m2", None, 0)


def test_a_poisoned_broadcast_stops_the_broadcasts_of_its_partition_alone(tmp_path: Path) -> None:
    """Those of other partitions, and the keys, go on; a redrive finds it again."""
    heard: list[str] = []

    def hear(work: Work, received: Any) -> None:
        for item in received:
            if item.event.content == "poison":
                raise ValueError("poison")
            heard.append(f"{item.partition} {item.event.content}")

    world = make_world(Database(f"sqlite:///{tmp_path}/probe.db"), (on(Announced, hear), *REACTIONS))

    def said(partition: int, content: str, id_: str) -> Message:
        made = message(Announced(content=content), id=id_, time=START)
        return Message(made.topic, partition, made.key, made.value)

    receive(
        world, said(1, "poison", "m1"), said(1, "later", "m2"), said(2, "fine", "m3"), put("a", "1", "m4")
    )
    assert heard == ["2 fine"]
    assert values(world) == {"a": "1"}
    with world.database.read() as db:
        assert db.scalars(sa.select(PLUMBING.parked.c.subject)).all() == ["*/1", "*/1"]
    assert asyncio.run(world.consumer.redrive("registry", "*/1")) == 0


def test_an_unreadable_message_is_parked_once(world: World) -> None:
    """Bytes that are no envelope are kept, not dropped, also when they come twice; the inbox knows them by arrival."""
    junk = [Message("registry", n, "a", b"\xff not json") for n in range(6)]
    receive(world, *junk, *junk)
    receive(world, *junk)
    with world.database.read() as db:
        assert db.scalar(sa.select(sa.func.count()).select_from(PLUMBING.parked)) == len(junk)
        assert all(id_ >= STAND_IN for id_ in db.scalars(sa.select(PLUMBING.inbox.c.id)))


def test_the_same_junk_is_parked_under_each_key(world: World) -> None:
    """An empty message, say: each key that it stands under is held, and what comes later waits."""
    keys = [key for key in map(str, range(60)) if partition_of(key) == 0][:3]
    receive(world, *(Message("registry", 0, key, b"") for key in keys))
    receive(world, *(put(key, "later", f"m{key}") for key in keys))
    assert values(world) == {}
    assert world.consumer.counts == {"parked": 3, "handled": 0, "duplicate": 0, "diverted": 3}
    with world.database.read() as db:
        assert len(db.execute(sa.select(PLUMBING.parked)).all()) == 6


@pytest.mark.parametrize("cut", [1, 2])
def test_a_text_with_nul_is_parked_however_the_batch_is_cut(world: World, cut: int) -> None:
    """PostgreSQL takes none; where a later fact of the key covers it, it would pass unseen."""
    batch = [put("a", "1\0", "m1"), put("a", "2", "m2"), put("b", r"\u0000", "m3")]
    receive(world, *batch[:cut])
    receive(world, *batch[cut:])
    assert values(world) == {"b": r"\u0000"}
    assert world.consumer.counts["parked"] == world.consumer.counts["diverted"] == 1


def test_a_foreign_key_stops_no_broadcast(world: World) -> None:
    """One that is written like the place where broadcasts of a partition wait is a stranger's."""
    strange = [Message("registry", 3, key, b"junk") for key in ("*/3", "unreadable:00")]
    receive(world, *strange)
    with world.database.read() as db:
        lanes = set(db.scalars(sa.select(PLUMBING.parked.c.subject)))
    assert not lanes & {"*/3", "unreadable:00"}
    assert lanes == set(map(lane, strange))


def test_a_discard_that_comes_twice_takes_one_message(world: World) -> None:
    """Of two that failed, the other stays, whoever repeats it: the caller, or the program after a lost commit."""
    receive(world, Message("registry", 0, "a", b"junk 1"), Message("registry", 0, "a", b"junk 2"))
    with world.database.read() as db:
        ids = list(db.scalars(sa.select(PLUMBING.parked.c.id).order_by(PLUMBING.parked.c.seq)))
    asyncio.run(world.consumer.discard("registry", "a", ids[0], CAUSE))
    with pytest.raises(Problem) as refused:
        asyncio.run(world.consumer.discard("registry", "a", ids[0], CAUSE))
    assert refused.value.status == 404
    with world.database.read() as db:
        assert list(db.scalars(sa.select(PLUMBING.parked.c.id))) == ids[1:]


def test_the_error_shown_for_a_key_is_that_of_its_first_message(world: World) -> None:
    """The one that a redrive tries next, whatever stands behind it."""
    receive(world, Message("registry", 0, "a", b"junk"), Message("registry", 0, "a", b"{}"))
    with world.database.read() as db:
        first, second = db.scalars(sa.select(PLUMBING.parked.c.error).order_by(PLUMBING.parked.c.seq))
        (shown,) = _parked_keys(db, PLUMBING.parked)
    assert first < second  # by the alphabet the wrong one would be shown
    assert (shown["error"], shown["messages"]) == (first, 2)


def test_a_database_failure_parks_nothing_and_asks_again(tmp_path: Path) -> None:
    """The same batch may come again and then has its effect."""
    failing = {"now": True}

    def sometimes(work: Work, received: Any) -> None:
        if failing["now"]:
            raise sa.exc.OperationalError("insert", None, Exception("disk full"))
        set_values(work, received)

    world = make_world(Database(f"sqlite:///{tmp_path}/probe.db"), (on(ValueSet, sometimes),))
    with pytest.raises(sa.exc.OperationalError):
        receive(world, put("a", "1", "m1"))
    failing["now"] = False
    receive(world, put("a", "1", "m1"))
    assert values(world) == {"a": "1"}


def test_rounds_keep_the_order_of_a_key_and_the_place_of_a_broadcast() -> None:
    """A key that comes again under another type starts a later call; a broadcast stands between its
    neighbours; what may go together does.
    """

    def received(event: Any) -> Received[Any]:
        return Received(event, "id", 0, START, CAUSE)

    a1, b1 = ValueSet(uscc="a", content="1"), ValueSet(uscc="b", content="1")
    clear_a, a2 = ValueCleared(uscc="a"), ValueSet(uscc="a", content="2")
    said, c1 = Announced(content="x"), ValueSet(uscc="c", content="1")
    cut = [
        (kind, [item.event for item in group])
        for kind, group in rounds([received(e) for e in (a1, clear_a, b1, a2, said, c1)])
    ]
    assert cut == [
        (ValueSet, [a1, b1]),
        (ValueCleared, [clear_a]),
        (ValueSet, [a2]),
        (Announced, [said]),
        (ValueSet, [c1]),
    ]


events = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["1", "2", "clear"]), st.booleans()), max_size=12
)


def sequence(parts: list[tuple[str, str, bool]], poisoned: int) -> list[Message]:
    found: list[Message] = []
    for number, (key, content, again) in enumerate(parts):
        event = ValueCleared(uscc=key) if content == "clear" else ValueSet(uscc=key, content=content)
        make = poison if number == poisoned else message
        found += [make(event, id=f"m{number}", time=START)] * (2 if again else 1)
    return found


@settings(max_examples=60, deadline=None)
@given(events, st.integers(0, 11), st.lists(st.integers(0, 30), max_size=6))
def test_any_cutting_leaves_the_same(parts: Any, poisoned: int, cuts: list[int]) -> None:
    """Tables, outbox and parked keys do not depend on how a sequence is cut into batches."""
    assert_same_for_any_cutting(make_world, sequence(parts, poisoned), cuts)


def keeps_first(work: Work, received: Any) -> None:
    """Keeps the first of two values instead of the last."""
    first: dict[str, Any] = {}
    for item in received:
        first.setdefault(item.event.uscc, item)
    set_values(work, list(first.values()))


def notes_backwards(work: Work, received: Any) -> None:
    """Leaves the trace of what came last in front."""
    for item in reversed(received):
        work.audit("value.heard", item.event.uscc, cause=item.cause, content=item.event.content)


@pytest.mark.parametrize(("broken", "where"), [(keeps_first, "value"), (notes_backwards, "audit")])
def test_a_planted_fold_bug_is_found(broken: Any, where: str) -> None:
    """A handler that takes a list otherwise than one by one fails the property."""
    messages = [put("a", "1", "m1"), put("a", "2", "m2")]
    with pytest.raises(AssertionError, match=where):
        assert_same_for_any_cutting(lambda db: make_world(db, (on(ValueSet, broken),)), messages, [])


def announces(work: Work, received: Any) -> None:
    """Tells everybody, which only a work that has the database alone may do."""
    work.emit(Announced(content=received[0].event.content), cause=received[0].cause)


def test_what_keys_forbid_is_found() -> None:
    """A world with keys runs its handlers as the service does."""

    def keyed(database: Database) -> World:
        return replace(make_world(database, (on(ValueSet, announces),)), keyed=True)

    assert_same_for_any_cutting(lambda db: replace(keyed(db), keyed=False), [put("a", "1", "m1")], [])
    with pytest.raises(AssertionError, match="not at fault"):
        assert_same_for_any_cutting(keyed, [put("a", "1", "m1")], [])


def parting(world: World, **given: Any) -> tuple[Consumer, list[set[str] | None]]:
    """A consumer that may handle three parts side by side, and the keys of its transactions."""
    transactions: list[set[str] | None] = []

    async def run(do: Any, /, *, keys: Any = None) -> Any:
        transactions.append(keys)
        await asyncio.sleep(0)  # the others begin before this one is handled
        return await world.run(do, keys=keys)

    terms = {"keyed": True, "writers": 3, "worth_parting": 4, **given}
    return Consumer("test", REACTIONS, PLUMBING, run, **terms), transactions


def test_a_large_batch_is_handled_in_parts_with_keys_of_their_own(world: World) -> None:
    """Even in keys, and the messages of a key in their order; a small batch, or one for everybody, as a whole."""
    consumer, transactions = parting(world)
    batch = [put(key, str(n), f"m{key}{n}") for n in range(3) for key in "abcdefg"]
    asyncio.run(consumer.receive(batch))
    assert transactions == [{"a", "d", "g"}, {"b", "e"}, {"c", "f"}]
    assert values(world) == dict.fromkeys("abcdefg", "2")
    assert consumer.counts == {"handled": 21, "duplicate": 0, "diverted": 0}
    transactions.clear()
    asyncio.run(consumer.receive(batch[:3]))
    everybody = message(Announced(content="x"), id="n1", time=START)
    asyncio.run(consumer.receive([*batch, everybody]))
    assert transactions == [{"a", "b", "c"}, None]
    for alone, keys in (({"writers": 1}, [{*"abcdefg"}]), ({"keyed": False}, [None])):
        consumer, transactions = parting(world, **alone)
        asyncio.run(consumer.receive(batch))
        assert transactions == keys


def test_a_part_that_the_database_fails_brings_the_whole_batch_again(world: World) -> None:
    """Not before the other parts have ended; what they did is known then."""
    ended: list[str] = []

    async def run(do: Any, /, *, keys: Any = None) -> Any:
        if "a" in keys and not ended:
            raise ConnectionError("the database is away")
        for _ in range(9):  # long enough for whoever would not wait for it
            await asyncio.sleep(0)
        counts = await world.run(do, keys=keys)
        ended.append(min(keys))
        return counts

    consumer = Consumer("test", REACTIONS, PLUMBING, run, keyed=True, writers=2, worth_parting=2)
    batch = [put("a", "1", "m1"), put("b", "1", "m2")]
    with pytest.raises(ConnectionError):
        asyncio.run(consumer.receive(batch))
    assert ended == ["b"]
    asyncio.run(consumer.receive(batch))
    assert values(world) == {"a": "1", "b": "1"}
    assert consumer.counts == {"handled": 2, "duplicate": 1, "diverted": 0}


def test_a_batch_that_the_server_has_no_room_for_is_taken_in_smaller_ones(world: World) -> None:
    """Its table of locks may be as small as it comes; what is alone and still too much comes again."""
    room = 3

    class FullError(Exception):
        sqlstate = "53200"

    async def run(do: Any, /, *, keys: Any = None) -> Any:
        if len(keys) > room:
            raise sa.exc.OperationalError("SELECT", None, FullError())
        return await world.run(do, keys=keys)

    consumer = Consumer("test", REACTIONS, PLUMBING, run, keyed=True)
    asyncio.run(consumer.receive([put(key, "1", f"m{key}") for key in "abcdefg"]))
    assert values(world) == dict.fromkeys("abcdefg", "1")
    room = 0
    with pytest.raises(sa.exc.OperationalError):
        asyncio.run(consumer.receive([put("a", "2", "n1"), put("b", "2", "n2")]))
    with world.database.read() as db:
        assert not db.execute(sa.select(PLUMBING.parked)).all()


def test_poison_in_a_part_parks_its_key_and_no_other(world: World) -> None:
    """However many parts there are."""
    consumer, _ = parting(world)
    batch = [put(key, "poison" if key == "e" else "1", f"m{key}") for key in "abcdefg"]
    asyncio.run(consumer.receive([*batch, put("e", "2", "m8")]))
    assert values(world) == dict.fromkeys("abcdfg", "1")
    with world.database.read() as db:
        assert db.scalars(sa.select(PLUMBING.parked.c.id).order_by(PLUMBING.parked.c.seq)).all() == [
            "me",
            "m8",
        ]


def test_a_fact_that_nobody_here_knows_is_passed_over(world: World) -> None:
    """Whether the catalogue has it or only a newer version of its publisher; one of ours with wrong data is parked."""
    known = put("a", "1", "m1")
    newer = known._replace(value=known.value.replace(b"value_set.v1", b"value_set.v9"))
    other = known._replace(value=known.value.replace(ValueSet.name.encode(), b"registry.unit_closed.v1"))
    torn = poison(ValueSet(uscc="b", content="1"), id="m2", time=START)
    receive(world, newer, other, torn)
    assert values(world) == {}
    with world.database.read() as db:
        (row,) = db.execute(sa.select(PLUMBING.parked))
        assert db.scalars(sa.select(PLUMBING.inbox.c.id)).all() == ["m2"]
    place = f"{ValueSet.name}/data"
    assert row.id == "m2"
    assert row.error == f"ValidationError at {place}/uscc: missing, {place}/content: missing"


def fails_together(work: Work, received: Any) -> None:
    """Takes single messages only."""
    if len(received) > 1:
        raise ValueError("together")
    set_values(work, received)


def fails_on_two(work: Work, received: Any) -> None:
    """Fails for good because of a message that is sound."""
    if any(item.event.content == "2" for item in received):
        raise ValueError("two")
    set_values(work, received)


@pytest.mark.parametrize("broken", [fails_together, fails_on_two])
def test_a_failure_is_found_beside_a_poison_message(broken: Any) -> None:
    """The poison explains the splits of what holds it, and that it is parked, and nothing else."""
    torn = poison(ValueSet(uscc="d", content="4"), id="m4", time=START)
    messages = [put("a", "1", "m1"), put("b", "2", "m2"), put("c", "3", "m3"), torn]
    assert_same_for_any_cutting(make_world, messages, [])
    with pytest.raises(AssertionError, match="at fault"):
        assert_same_for_any_cutting(lambda db: make_world(db, (on(ValueSet, broken),)), messages, [])
