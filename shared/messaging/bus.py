"""The Bus port: what every way of carrying facts between services promises.

Within a partition messages arrive in the order they were published; every message arrives at least once;
a receiver that raises gets the same messages again. Topics and partitions have no order among each other.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import iter_unpack
from typing import NamedTuple, Protocol

from shared.events.catalogue import PARTITIONS


class Message(NamedTuple):
    """One fact on its way: `value` is a CloudEvents envelope in JSON, `key` its subject."""

    topic: str
    partition: int
    key: str
    value: bytes


@dataclass(frozen=True)
class Subscription:
    """A consumer (a service) and the topics it reads.

    `receive` gets messages in order and returns once their effects are committed or parked. It raises only
    when the same messages should come again. Until then it is not called again.
    """

    consumer: str
    topics: tuple[str, ...]
    receive: Callable[[Sequence[Message]], Awaitable[None]]


class Bus(Protocol):
    """Carries messages from publishers to every consumer that subscribed."""

    def subscribe(self, subscription: Subscription) -> None:
        """Registers a consumer; before `start`."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Returns once the bus answers for the messages; raises when it may have lost some."""

    async def start(self) -> None:
        """Begins to deliver. Does not wait for a broker that is away: it is tried again until it is there."""

    async def stop(self) -> None:
        """Ends delivery; what was published and not taken comes again after the next start."""

    @property
    def connected(self) -> bool:
        """Whether it could carry something now."""

    async def lag(self, consumer: str) -> dict[str, int]:
        """Messages, by topic, that were published and not yet taken by a consumer; all its instances together.

        Raises ConnectionError while the broker is away.
        """


@lru_cache(maxsize=4_096)  # a batch asks for the same keys again and again, and the sum is slow in Python
def partition_of(key: str) -> int:
    """The partition of a key: murmur2 as Kafka's own clients compute it, so that all publishers agree."""
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS


def _murmur2(data: bytes) -> int:
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) - len(data) % 4
    for (word,) in iter_unpack("<I", data[:whole]):
        k = word * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if tail := data[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
