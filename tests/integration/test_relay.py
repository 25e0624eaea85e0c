"""The relay publishes what was committed, in order, and only the holder of the lease does."""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from shared.events.base import Envelope
from shared.events.catalogue import PARTITIONS
from shared.events.registry import ContactChanged
from shared.messaging.bus import Message, Subscription, partition_of
from shared.messaging.relay import BATCH, Relay
from shared.storage.lease import LEASE
from shared.storage.work import Cause, Work
from tests.support.probe import CAUSE, PLUMBING, START, Announced, Probe, Put, ValueSet, put_values

A_MEGABYTE = 1_000_000


class Sink:
    """A bus that remembers what was published; `broken` makes it fail."""

    def __init__(self) -> None:
        self.published: list[Message] = []
        self.broken = False

    def subscribe(self, subscription: Subscription) -> None:
        raise AssertionError("a relay only publishes")

    async def publish(self, messages: Sequence[Message]) -> None:
        if self.broken:
            raise ConnectionError("away")
        self.published += messages

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    @property
    def contents(self) -> list[str]:
        return [Envelope.model_validate_json(m.value).data["content"] for m in self.published]


def relay(probe: Probe, bus: Sink, holder: str = "one") -> Relay:
    return Relay(
        source="registry",
        holder=holder,
        plumbing=PLUMBING,
        bus=bus,
        wall=probe.clock.wall,
        run=probe.committer.run,
        read=probe.read,
    )


async def put(probe: Probe, *contents: str) -> None:
    for content in contents:
        await probe.committer.call(put_values, Put("a", content))


def test_facts_are_published_in_order_and_moved_to_the_log(probe: Probe) -> None:
    """Afterwards the outbox is empty and the log holds the same ids."""
    bus = Sink()

    async def run() -> None:
        await put(probe, "1", "2", "3")
        one = relay(probe, bus)
        await one.step()
        await one.step()

    asyncio.run(run())
    assert bus.contents == ["1", "2", "3"]
    assert probe.rows(PLUMBING.outbox) == []
    ids = [Envelope.model_validate_json(m.value).id for m in bus.published]
    assert [row.id for row in probe.rows(PLUMBING.event_log)] == ids


def test_a_message_says_all_that_was_written(probe: Probe) -> None:
    """In an envelope of its own, whose data is the fact's, whatever stands in it."""
    bus = Sink()
    said, told = ValueSet(uscc="a", content='甲"}, {{}} \n\\'), Announced(content="{}}")
    cause = Cause("clerk", '"}\\')

    async def run() -> None:
        await probe.committer.run(lambda work: work.emit(said, told, cause=cause))
        await relay(probe, bus).step()

    asyncio.run(run())
    for fact, sent, row in zip(
        [said, *[told] * PARTITIONS], bus.published, probe.rows(PLUMBING.event_log), strict=True
    ):
        partition = partition_of("a") if fact is said else row.partition
        assert (sent.topic, sent.key, sent.partition) == ("registry", fact.subject, partition)
        envelope = Envelope(
            id=row.id,
            source="/registry",
            type=fact.name,
            subject=fact.subject,
            time=START,
            correlationid=cause.correlation,
            partition=row.partition,
            data=fact.model_dump(),
        )
        assert json.loads(sent.value) == json.loads(envelope.model_dump_json(exclude_none=True))


def test_a_fact_that_no_broker_takes_is_not_told(probe: Probe) -> None:
    """It would stand before everything else for ever; its work fails, and nothing of it is kept."""
    fits, too_large = (ValueSet(uscc="a", content="户" * length) for length in (299_000, 300_000))
    asyncio.run(probe.committer.run(lambda work: work.emit(fits, cause=CAUSE)))
    with pytest.raises(ValueError, match="larger than a broker takes"):
        asyncio.run(probe.committer.run(lambda work: work.emit(fits, too_large, cause=CAUSE)))
    bus = Sink()
    asyncio.run(relay(probe, bus).step())
    (published,) = bus.published
    assert len(published.value) < A_MEGABYTE


def test_personal_facts_are_kept_apart(probe: Probe) -> None:
    """They are published in their place, and lie in the log that is emptied soon."""
    bus, plain = Sink(), [ValueSet(uscc="a", content=content) for content in "13"]

    async def run() -> None:
        def tell(work: Work) -> None:
            contacts = ContactChanged(uscc="a", version=1, sealed="2")
            work.emit(plain[0], contacts, plain[1], cause=CAUSE)

        await probe.committer.run(tell)
        await relay(probe, bus).step()

    asyncio.run(run())
    types = [Envelope.model_validate_json(m.value).type for m in bus.published]
    assert types == [ValueSet.name, ContactChanged.name, ValueSet.name]
    assert [row.data["content"] for row in probe.rows(PLUMBING.event_log)] == ["1", "3"]
    assert [row.data["sealed"] for row in probe.rows(PLUMBING.contact_log)] == ["2"]
    assert probe.rows(PLUMBING.outbox) == []


def test_a_bus_that_is_away_loses_nothing(probe: Probe) -> None:
    """What could not be published stays, and goes with the same id later."""
    bus = Sink()

    async def run() -> None:
        await put(probe, "1")
        one = relay(probe, bus)
        bus.broken = True
        with pytest.raises(ConnectionError):
            await one.step()
        assert len(probe.rows(PLUMBING.outbox)) == 1
        bus.broken = False
        await one.step()

    asyncio.run(run())
    assert bus.contents == ["1"]


def test_only_the_holder_of_the_lease_publishes(probe: Probe) -> None:
    """Another process waits until the lease has expired; the former holder then no longer moves rows."""
    bus = Sink()

    async def run() -> None:
        one, two = relay(probe, bus), relay(probe, bus, "two")
        await put(probe, "1")
        await one.step()
        await put(probe, "2")
        await two.step()
        probe.clock.advance(LEASE + timedelta(seconds=1))
        await two.step()
        await put(probe, "3")
        await one.step()

    asyncio.run(run())
    assert bus.contents == ["1", "2"]


def test_a_stopped_holder_that_wakes_after_its_lease_moves_nothing(probe: Probe) -> None:
    """Rows published by a holder that lost its lease meanwhile stay for the new one."""

    class Slow(Sink):
        async def publish(self, messages: Sequence[Message]) -> None:
            await super().publish(messages)
            probe.clock.advance(LEASE + timedelta(seconds=1))
            await relay(probe, other, "two").step()

    bus, other = Slow(), Sink()

    async def run() -> None:
        await put(probe, "1")
        await relay(probe, bus).step()

    asyncio.run(run())
    assert other.contents == ["1"]
    assert len(probe.rows(PLUMBING.event_log)) == 1


def test_a_killed_embedded_process_takes_its_own_lease_back_at_once(probe: Probe) -> None:
    """The same holder name after a restart need not wait for the expiry."""
    bus = Sink()

    async def run() -> None:
        await put(probe, "1")
        await relay(probe, bus).step()
        await put(probe, "2")
        await relay(probe, bus).step()

    asyncio.run(run())
    assert bus.contents == ["1", "2"]


def test_a_broadcast_goes_once_to_each_partition_behind_what_was_committed_before(probe: Probe) -> None:
    """One row per partition, each with its own id."""
    bus = Sink()

    async def run() -> None:
        def both(work: Work) -> None:
            work.emit(ValueSet(uscc="a", content="first"), Announced(content="said"), cause=CAUSE)

        await probe.committer.run(both)
        await relay(probe, bus).step()

    asyncio.run(run())
    assert [m.partition for m in bus.published[1:]] == list(range(PARTITIONS))
    assert len({Envelope.model_validate_json(m.value).id for m in bus.published}) == PARTITIONS + 1
    assert bus.contents[0] == "first"


def test_what_commits_late_with_a_number_in_between_is_published_too(probe: Probe) -> None:
    """Numbers are given out before they commit: what was not read is not moved."""

    class Meanwhile(Sink):
        async def publish(self, messages: Sequence[Message]) -> None:
            await super().publish(messages)
            if len(self.published) == 2:
                with probe.database.write() as db:
                    db.execute(sa.insert(PLUMBING.outbox), [late])

    bus = Meanwhile()
    late: dict[str, Any] = {}

    def take_out(work: Work) -> None:
        outbox = PLUMBING.outbox
        late.update(work.db.execute(sa.select(outbox).where(outbox.c.seq == 2)).one()._mapping)
        work.db.execute(sa.delete(outbox).where(outbox.c.seq == 2))

    async def run() -> None:
        await put(probe, "1", "2", "3")
        await probe.committer.run(take_out)
        one = relay(probe, bus)
        await one.step()
        assert [row.seq for row in probe.rows(PLUMBING.outbox)] == [2]
        await one.step()

    asyncio.run(run())
    assert bus.contents == ["1", "3", "2"]
    assert [row.seq for row in probe.rows(PLUMBING.event_log)] == [1, 2, 3]


def test_a_holder_asks_for_its_lease_again_before_it_ends(probe: Probe) -> None:
    """Until then nobody else can have taken it: one transaction less for each batch."""
    one = relay(probe, Sink())
    asked = []

    async def counted(do: Any, *, keys: Any = None) -> Any:
        asked.append(do == one._lease.take)
        return await probe.committer.run(do, keys=keys)

    one._run = counted

    async def run() -> None:
        for content in ("1", "2"):
            await put(probe, content)
            await one.step()
        probe.clock.advance(0.75 * LEASE)
        await put(probe, "3")
        await one.step()

    asyncio.run(run())
    assert asked == [True, False, False, True, False]
    assert probe.rows(PLUMBING.lease)[0].expires_at == probe.clock.wall() + LEASE


def test_a_full_batch_says_that_more_may_wait(probe: Probe) -> None:
    """So that its loop goes on at once; after a smaller one the next commit wakes it."""
    one = relay(probe, Sink())

    def emit(work: Work) -> None:
        work.emit(*(ValueSet(uscc="a", content=str(n)) for n in range(BATCH + 1)), cause=CAUSE)

    async def run() -> list[bool]:
        await probe.committer.run(emit)
        return [await one.step() for _ in range(3)]

    assert asyncio.run(run()) == [True, False, False]
