"""The bus of the embedded mode: no broker, and nothing hidden until one comes.

It has partitions, batches and redelivery like the other. Durability comes from the publisher's outbox:
`publish` returns only after every consumer has committed or parked, so a crash before that publishes again.
"""

import asyncio
from collections.abc import Sequence

import structlog

from shared.messaging.bus import Message, Subscription

BATCH = 500
"""Most messages handed to a consumer at once."""

RETRY_SECONDS = (0.02, 0.1, 0.5, 1.0)
"""Waits between deliveries of the same messages; the last one repeats."""

log = structlog.get_logger(__name__)


class InProcessBus:
    """Delivers to all consumers of this process. Consumers take turns with themselves, not with each other."""

    def __init__(self) -> None:
        self._lanes: list[tuple[Subscription, asyncio.Lock]] = []

    def subscribe(self, subscription: Subscription) -> None:
        self._lanes.append((subscription, asyncio.Lock()))

    async def publish(self, messages: Sequence[Message]) -> None:
        await asyncio.gather(*(self._deliver(*lane, messages) for lane in self._lanes))

    async def start(self) -> None:
        """Nothing to begin: delivery happens inside `publish`."""

    async def stop(self) -> None:
        """Nothing to end: what was not delivered is still in the publisher's outbox."""

    @property
    def connected(self) -> bool:
        return True

    async def lag(self, consumer: str) -> dict[str, int]:
        """None: what was published has been taken."""
        topics = {
            topic
            for subscription, _ in self._lanes
            for topic in subscription.topics
            if subscription.consumer == consumer
        }
        return dict.fromkeys(sorted(topics), 0)

    async def _deliver(
        self, subscription: Subscription, turn: asyncio.Lock, messages: Sequence[Message]
    ) -> None:
        wanted = [message for message in messages if message.topic in subscription.topics]
        async with turn:
            for start in range(0, len(wanted), BATCH):
                await self._insist(subscription, wanted[start : start + BATCH])

    async def _insist(self, subscription: Subscription, batch: Sequence[Message]) -> None:
        failures = 0
        while True:
            try:
                return await subscription.receive(batch)
            except Exception as error:  # noqa: BLE001 - a delivery loop: counted, logged, tried again
                wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                log.warning(
                    "redelivery",
                    consumer=subscription.consumer,
                    error=type(error).__name__,
                    failures=failures,
                )
                await asyncio.sleep(wait)
