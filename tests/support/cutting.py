"""The property every handler and list command has to satisfy: it does not matter how a sequence is cut.

A sequence of messages (or command items) is applied one at a time on one fresh database and in arbitrary
batches on another; tables, outbox events and parked keys must come out the same.
"""

import asyncio
import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from shared.events.base import Envelope, Event
from shared.events.catalogue import topic_of
from shared.messaging.bus import Message, partition_of
from shared.messaging.consumer import Consumer, KeyHook, Reaction
from shared.storage.database import Database
from shared.storage.tables import Plumbing

NOT_COMPARED = frozenset({"seq", "id", "wall", "received_at"})
"""Columns and JSON keys that may differ between two runs of the same sequence."""

OF_WHOM = ("subject", "partition", "lead_id", "mobile_index")
"""Columns that say whom a numbered row is about."""


@dataclass
class World:
    """A service's tables and handlers on a fresh database file."""

    database: Database
    metadata: sa.MetaData
    plumbing: Plumbing
    make_work: Callable[[sa.Connection], Any]
    reactions: Sequence[Reaction] = ()
    on_parked: KeyHook = lambda work, subject: None
    on_released: KeyHook = lambda work, subject: None
    keyed: bool = False
    """As the service says of its consumer."""

    def __post_init__(self) -> None:
        with self.database.write() as db:
            self.metadata.create_all(db)
        self.consumer = Consumer(
            "test",
            self.reactions,
            self.plumbing,
            self.run,
            keyed=self.keyed,
            writers=2,
            worth_parting=2,
            on_parked=self.on_parked,
            on_released=self.on_released,
        )

    async def run(self, do: Callable[[Any], Any], *, keys: Collection[str] | None = None) -> Any:
        """Runs `do(work)` in a transaction of its own, as the committer would."""
        with self.database.write(keys=keys) as db:
            work = self.make_work(db)
            result = do(work)
            work.flush()
        return result

    def snapshot(self, ignore: Iterable[str] = ()) -> dict[str, Any]:
        """Everything in the database, without order where none is promised.

        Numbered rows (those with a `seq`) keep the order of those about the same one.
        """
        hidden = NOT_COMPARED | set(ignore)
        found: dict[str, Any] = {}
        with self.database.read() as db:
            for table in self.metadata.sorted_tables:
                if table in (self.plumbing.lease, self.plumbing.inbox):
                    continue
                ordered = "seq" in table.c
                rows = db.execute(sa.select(table).order_by(table.c.seq) if ordered else sa.select(table))
                groups: dict[str, list[str]] = defaultdict(list)
                for row in rows:
                    record = dict(row._mapping)
                    key = "/".join(str(record.get(name)) for name in OF_WHOM) if ordered else ""
                    groups[key].append(json.dumps(_without(record, hidden), default=str, sort_keys=True))
                found[table.name] = {key: g if ordered else sorted(g) for key, g in groups.items()}
        return found


MakeWorld = Callable[[Database], World]


def message(event: Event, *, id: str, time: Any, correlation: str = "test") -> Message:  # noqa: A002
    """An event as the bus carries it."""
    topic = topic_of(event.name)
    envelope = Envelope(
        id=id,
        source=f"/{topic}",
        type=event.name,
        subject=event.subject,
        time=time,
        correlationid=correlation,
        data=event.model_dump(mode="json"),
    )
    return Message(
        topic,
        partition_of(event.subject),
        event.subject,
        envelope.model_dump_json(exclude_none=True).encode(),
    )


def poison(event: Event, *, id: str, time: Any) -> Message:  # noqa: A002
    """The same message with its data torn out: handling it fails for good."""
    good = message(event, id=id, time=time)
    torn = {**json.loads(good.value), "data": {}}
    return Message(good.topic, good.partition, good.key, json.dumps(torn).encode())


def batches(sequence: Sequence[Any], cuts: Iterable[int]) -> list[Sequence[Any]]:
    """The sequence cut before the given positions (taken modulo its length)."""
    places = sorted({0, len(sequence), *(cut % (len(sequence) + 1) for cut in cuts)})
    return [sequence[a:b] for a, b in itertools.pairwise(places)]


def assert_same_for_any_cutting(
    make_world: MakeWorld,
    messages: Sequence[Message],
    cuts: Iterable[int],
    *,
    ignore: Iterable[str] = (),
    url: str | None = None,
) -> None:
    """Handling `messages` in batches leaves what handling them one at a time leaves.

    With `url` the batches go to that database, and one at a time to an SQLite file as ever.
    """

    def handle(world: World, parts: Sequence[Sequence[Message]]) -> None:
        async def all_parts() -> None:
            for part in parts:
                await world.consumer.receive(part)
            torn = sum(map(_is_torn, messages))
            assert world.consumer.counts["parked"] <= torn, "a message was parked that is not at fault"
            handled = itertools.chain.from_iterable(map(world.consumer._parts, parts))
            explained = sum(map(_splits_explained, handled))
            assert world.consumer.splits <= explained, "a batch failed in which no message is at fault"

        asyncio.run(all_parts())

    _compare(make_world, _both(messages, cuts), ignore, handle, url)


def assert_list_command_same_for_any_cutting(
    make_world: MakeWorld,
    command: Callable[[Any, Sequence[Any]], Sequence[Any]],
    items: Sequence[Any],
    cuts: Iterable[int],
    *,
    ignore: Iterable[str] = (),
    url: str | None = None,
) -> None:
    """A list command leaves and answers the same however its items are cut into lists. `url` as above."""

    def handle(world: World, parts: Sequence[Sequence[Any]]) -> list[str]:
        async def all_parts() -> list[str]:
            answers = []
            for part in parts:
                outcomes = await world.run(partial(_commanded, command, part))
                assert len(outcomes) == len(part)
                answers += [str(getattr(o, "code", None) or o.__class__.__name__) for o in outcomes]
            return answers

        return asyncio.run(all_parts())

    _compare(make_world, _both(items, cuts), ignore, handle, url)


def _is_torn(one: Message) -> bool:
    return not json.loads(one.value)["data"]


def _splits_explained(batch: Sequence[Message]) -> int:
    """How often the consumer halves a batch at most, if it fails only where a torn message is in it."""
    if len(batch) < 2 or not any(map(_is_torn, batch)):
        return 0
    middle = len(batch) // 2
    return 1 + _splits_explained(batch[:middle]) + _splits_explained(batch[middle:])


def _commanded(
    command: Callable[[Any, Sequence[Any]], Sequence[Any]], items: Sequence[Any], work: Any
) -> Sequence[Any]:
    return command(work, items)


def _compare(
    make_world: MakeWorld,
    both: tuple[Sequence[Sequence[Any]], Sequence[Sequence[Any]]],
    ignore: Iterable[str],
    handle: Callable[[World, Sequence[Sequence[Any]]], Any],
    url: str | None = None,
) -> None:
    """`both`: the sequence one at a time, and cut."""
    with tempfile.TemporaryDirectory() as folder:
        results: list[tuple[Any, Any]] = []
        for place, parts in zip((None, url), both, strict=True):
            database = Database(place or f"sqlite:///{Path(folder) / str(len(results))}.db")
            world = make_world(database)
            answers = handle(world, parts)
            results.append((answers, world.snapshot(ignore)))
            database.close()
    assert results[0] == results[1], _difference(results[0], results[1])


def _both(
    sequence: Sequence[Any], cuts: Iterable[int]
) -> tuple[Sequence[Sequence[Any]], Sequence[Sequence[Any]]]:
    return batches(sequence, range(len(sequence))), batches(sequence, cuts)


def _difference(one: Any, cut: Any) -> str:
    if one[0] != cut[0]:
        return f"answers differ: one at a time {one[0]}, in batches {cut[0]}"
    tables = [name for name in one[1] if one[1][name] != cut[1].get(name)]
    return "\n".join(f"{t}:\n  one {one[1][t]}\n  cut {cut[1].get(t)}" for t in tables)


def _without(value: Any, hidden: Iterable[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, hidden) for k, v in value.items() if k not in hidden}
    if isinstance(value, list):
        return [_without(v, hidden) for v in value]
    return value.hex() if isinstance(value, bytes) else value
