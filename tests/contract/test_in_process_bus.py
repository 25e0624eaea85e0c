"""The embedded bus keeps the promises of the port, and its own: published means handled."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from shared.messaging.bus import Bus, Subscription, partition_of
from shared.messaging.in_process import InProcessBus
from tests.contract.bus_suite import BusSuite, Recorder, note


@asynccontextmanager
async def opened(subscriptions: Sequence[Subscription]) -> AsyncGenerator[Bus]:
    bus = InProcessBus()
    for subscription in subscriptions:
        bus.subscribe(subscription)
    await bus.start()
    yield bus
    await bus.stop()


class TestInProcessBus(BusSuite):
    """The suite on the in-process bus."""

    def open_bus(self, subscriptions: Sequence[Subscription]) -> AbstractAsyncContextManager[Bus]:
        return opened(subscriptions)

    def test_published_means_handled(self) -> None:
        """`publish` has not returned while a consumer has neither committed nor parked."""
        order: list[str] = []
        seen = Recorder()

        async def receive(batch: Sequence[object]) -> None:
            await asyncio.sleep(0)
            order.append("handled")

        async def use(bus: Bus) -> None:
            await bus.publish([note("a", 1)])
            order.append("published")

        self.run([Subscription("one", ("registry",), receive)], use)
        assert order == ["handled", "published"]
        assert seen.values == []


def test_partitions_agree_with_kafkas_own_clients() -> None:
    """murmur2 of known keys, computed with the Java client's algorithm (toPositive(murmur2(key)) % 6)."""
    known = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
    for key, murmur2 in known.items():
        assert partition_of(key) == (murmur2 & 0x7FFFFFFF) % 6
