"""Kafka keeps the promises of the port."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from shared.events.catalogue import TOPICS
from shared.messaging.bus import Bus, Message, Subscription
from shared.messaging.kafka import KafkaBus, create_topics
from tests.contract.bus_suite import BusSuite, Recorder, note
from tests.support.native import Kafka

ARRIVES_WITHIN_S = 40.0


async def until(holds: Callable[[], bool]) -> None:
    """Waits for what the broker brings about."""
    async with asyncio.timeout(ARRIVES_WITHIN_S):
        while not holds():  # noqa: ASYNC110 - another process decides when
            await asyncio.sleep(0.02)


async def arrived(recorder: Recorder, number: int) -> None:
    """Waits until so many messages were taken."""
    await until(lambda: len(recorder.values) >= number)


class TestKafkaBus(BusSuite):
    """The suite on Kafka."""

    @pytest.fixture(autouse=True)
    def _broker(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.prefix = f"{uuid.uuid4().hex[:8]}."

    def open_bus(self, subscriptions: Sequence[Subscription]) -> AbstractAsyncContextManager[Bus]:
        return self.opened(subscriptions)

    async def arrived(self, recorder: Recorder, number: int) -> None:
        await arrived(recorder, number)

    @asynccontextmanager
    async def opened(self, subscriptions: Sequence[Subscription]) -> AsyncGenerator[KafkaBus]:
        await create_topics(self.kafka.bootstrap, TOPICS, prefix=self.prefix)
        bus = KafkaBus(self.kafka.bootstrap, prefix=self.prefix)
        for subscription in subscriptions:
            bus.subscribe(subscription)
        await bus.start()
        await until(lambda: bus.connected)
        try:
            yield bus
        finally:
            await bus.stop()

    def test_what_was_not_committed_comes_again_after_a_restart(self) -> None:
        """A consumer that never took a message gets it from the next process of its group."""
        stuck, later = Recorder(failures=10_000), Recorder()

        async def run() -> None:
            async with self.opened([Subscription("one", ("registry",), stuck.receive)]) as bus:
                await bus.publish([note("a", 1)])
                await until(lambda: bool(stuck.tries))
            async with self.opened([Subscription("one", ("registry",), later.receive)]) as bus:
                await bus.publish([note("a", 2)])
                await arrived(later, 2)

        asyncio.run(run())
        assert later.values == ["a:1", "a:2"]

    def test_two_instances_share_the_partitions_and_keep_the_order(self) -> None:
        """A second instance joins in the middle: everything arrives, and per key in order."""
        order: list[str] = []

        async def receive(batch: Sequence[Message]) -> None:
            await asyncio.sleep(0.01)
            order.extend(message.value.decode() for message in batch)

        keys = [f"k{n}" for n in range(20)]

        async def run() -> None:
            subscription = Subscription("one", ("registry",), receive)
            async with self.opened([subscription]) as first:
                for number in range(10):
                    await first.publish([note(key, number) for key in keys])
                async with self.opened([subscription]) as second:
                    for number in range(10, 30):
                        await second.publish([note(key, number) for key in keys])
                    await until(lambda: len(set(order)) == 600)

        asyncio.run(run())
        for key in keys:
            first_seen = list(dict.fromkeys(value for value in order if value.startswith(f"{key}:")))
            assert first_seen == [f"{key}:{n}" for n in range(30)]
