"""What every bus promises; the same tests run on each adapter. A subclass provides `open_bus`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from shared.events.catalogue import PARTITIONS
from shared.messaging.bus import Bus, Message, Subscription, partition_of


def note(key: str, number: int, topic: str = "registry") -> Message:
    """A message that says which one it is."""
    return Message(topic, partition_of(key), key, f"{key}:{number}".encode())


class Recorder:
    """A consumer that remembers what it took, and can be told to fail first."""

    def __init__(self, failures: int = 0) -> None:
        self.batches: list[list[str]] = []
        self.failures = failures
        self.tries: list[list[str]] = []

    async def receive(self, batch: Sequence[Message]) -> None:
        """Takes a batch, or fails as often as it was told."""
        values = [message.value.decode() for message in batch]
        self.tries.append(values)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("try again")
        self.batches.append(values)

    @property
    def values(self) -> list[str]:
        """Everything taken, in order."""
        return [value for batch in self.batches for value in batch]


class BusSuite:
    """The promises of `shared.messaging.bus.Bus`."""

    def open_bus(self, subscriptions: Sequence[Subscription]) -> AbstractAsyncContextManager[Bus]:
        """A started bus with these consumers."""
        raise NotImplementedError

    async def arrived(self, recorder: Recorder, number: int) -> None:
        """Waits until so many messages were taken. The in-process bus has delivered when it has published."""
        assert len(recorder.values) >= number

    def run(self, subscriptions: Sequence[Subscription], use: Any) -> None:
        """Opens a bus and uses it."""

        async def inside() -> None:
            async with self.open_bus(subscriptions) as bus:
                await use(bus)

        asyncio.run(inside())

    def test_order_within_a_key_is_kept(self) -> None:
        """Messages of a key arrive in the order in which they were published."""
        seen = Recorder()

        async def use(bus: Bus) -> None:
            for start in range(0, 60, 20):
                await bus.publish([note(key, n) for n in range(start, start + 20) for key in "abc"])
            await self.arrived(seen, 180)

        self.run([Subscription("one", ("registry",), seen.receive)], use)
        for key in "abc":
            assert [v for v in seen.values if v.startswith(key)] == [f"{key}:{n}" for n in range(60)]

    def test_every_consumer_gets_every_message_of_its_topics(self) -> None:
        """Two consumers both get it; a topic nobody asked for goes to nobody."""
        one, two = Recorder(), Recorder()

        async def use(bus: Bus) -> None:
            await bus.publish([note("a", 1), note("a", 2, "notify")])
            await self.arrived(one, 1)
            await self.arrived(two, 2)

        self.run(
            [
                Subscription("one", ("registry",), one.receive),
                Subscription("two", ("registry", "notify"), two.receive),
            ],
            use,
        )
        assert one.values == ["a:1"]
        assert sorted(two.values) == ["a:1", "a:2"]

    def test_a_consumer_that_fails_gets_the_same_messages_again(self) -> None:
        """Nothing is skipped and nothing overtakes: redelivery comes before later messages."""
        seen = Recorder(failures=2)

        async def use(bus: Bus) -> None:
            await bus.publish([note("a", 1), note("a", 2)])
            await bus.publish([note("a", 3)])
            await self.arrived(seen, 3)

        self.run([Subscription("one", ("registry",), seen.receive)], use)
        assert seen.values == ["a:1", "a:2", "a:3"]
        assert seen.tries[0][0] == seen.tries[1][0] == "a:1"

    def test_a_consumer_that_fails_does_not_lose_messages_for_others(self) -> None:
        """The healthy one gets everything while the other one is still failing."""
        sick, well = Recorder(failures=3), Recorder()

        async def use(bus: Bus) -> None:
            await bus.publish([note("a", 1)])
            await self.arrived(sick, 1)
            await self.arrived(well, 1)

        self.run(
            [
                Subscription("sick", ("registry",), sick.receive),
                Subscription("well", ("registry",), well.receive),
            ],
            use,
        )
        assert sick.values == well.values == ["a:1"]

    def test_messages_come_in_batches_with_their_partition(self) -> None:
        """Many small messages are handed over together, and each knows its partition."""
        batches: list[Sequence[Message]] = []
        seen = Recorder()

        async def receive(batch: Sequence[Message]) -> None:
            batches.append(batch)
            await seen.receive(batch)

        async def use(bus: Bus) -> None:
            await bus.publish([note(f"k{n}", n) for n in range(300)])
            await self.arrived(seen, 300)

        self.run([Subscription("one", ("registry",), receive)], use)
        assert len(batches) < 100
        taken = [message for batch in batches for message in batch]
        assert all(message.partition == partition_of(message.key) for message in taken)
        assert {message.partition for message in taken} == set(range(PARTITIONS))

    def test_the_lag_of_a_consumer_is_what_it_has_not_taken(self) -> None:
        """It falls to nothing, per topic; of a consumer that nobody subscribed nothing is said."""
        seen = Recorder()

        async def use(bus: Bus) -> None:
            assert bus.connected
            await bus.publish([note("a", n) for n in range(5)])
            await self.arrived(seen, 5)
            await self.eventually(lambda: bus.lag("one"), {"notify": 0, "registry": 0})
            assert await bus.lag("other") == {}

        self.run([Subscription("one", ("notify", "registry"), seen.receive)], use)

    async def eventually(self, ask: Callable[[], Awaitable[Any]], expected: Any) -> None:
        """Waits until the answer is the expected one; the in-process bus has it at once."""
        assert await ask() == expected
