"""The bus on Apache Kafka. The only file that knows its client.

The broker gives order per partition and delivery at least once; exactly-once effects are the inbox's work.
Nothing rests on broker transactions.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, TopicAlreadyExistsError

from shared.events.catalogue import PARTITIONS, TOPIC_CONFIG
from shared.messaging.bus import Message, Subscription

BATCH = 1_000
"""Most messages handed to a consumer at once. Each key of a batch is a lock: PostgreSQL has some 6,000 for all."""

BATCH_BYTES = 256 * 1024
"""Most that one request carries to a partition; a message has to fit."""

POLL_MS = 200
BACKOFF_MS = 500
SESSION_MS = 10_000
"""How long a consumer may be silent before its partitions go to another one."""

REQUEST_MS = 10_000
"""How long a request may take; a broker that takes longer is tried anew."""

PUBLISH_SECONDS = 8.0
"""How long publishing may take; left alone an idempotent client tries for ever."""

STOP_SECONDS = 3.0
"""How long a client may take to say goodbye."""

ASK_SECONDS = 1.0
ANSWER_SECONDS = 5.0
"""How often it is asked whether a broker is there, and how long an answer may take."""

RETRY_SECONDS = (0.05, 0.2, 1.0, 2.0)
"""Waits between deliveries of the same messages; the last one repeats."""

log = structlog.get_logger(__name__)


class KafkaBus:
    """Publishes to and reads from a Kafka cluster.

    `prefix` stands before every topic and consumer group, so that suites can share a cluster. Several
    instances of a service share its partitions. A broker that is away is tried again for ever.
    """

    def __init__(self, bootstrap: str, *, prefix: str = "", session_ms: int = SESSION_MS) -> None:
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._session_ms = session_ms
        self._readers: dict[str, _Reader] = {}
        self._producer: AIOKafkaProducer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._reachable = False

    def subscribe(self, subscription: Subscription) -> None:
        self._readers[subscription.consumer] = _Reader(
            self._bootstrap, self._prefix, subscription, self._session_ms
        )

    @property
    def connected(self) -> bool:
        return (
            self._producer is not None
            and self._reachable
            and all(reader.connected for reader in self._readers.values())
        )

    async def publish(self, messages: Sequence[Message]) -> None:
        """Returns when every replica that must have the messages has them."""
        if self._producer is None:
            raise ConnectionError("the broker is away")
        places = groupby(sorted(messages, key=_place), key=_place)  # stable: order per partition stays
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                await asyncio.gather(
                    *(
                        self._publish_to(self._producer, topic, partition, list(part))
                        for (topic, partition), part in places
                    )
                )
        except (KafkaError, TimeoutError, AssertionError) as error:
            # The client asserts that it knows a partition. What is in doubt is published again, by a producer
            # that does not carry on with the old batches.
            await self._reconnect()
            raise ConnectionError(f"the broker did not take the messages: {type(error).__name__}") from error

    async def start(self) -> None:
        self._connecting = asyncio.create_task(self._connect())
        self._asking = asyncio.create_task(self._keep_asking())
        for reader in self._readers.values():
            reader.start()

    async def stop(self) -> None:
        await asyncio.gather(*(reader.stop() for reader in self._readers.values()))
        tasks = [task for task in (self._connecting, self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._connecting = self._asking = None
        await self._drop_producer()

    async def lag(self, consumer: str) -> dict[str, int]:
        reader = self._readers.get(consumer)
        return {} if reader is None else await reader.lag()

    async def _keep_asking(self) -> None:
        """Asks again and again whether a broker is there: the clients themselves try for ever and tell nobody."""
        while True:
            await asyncio.sleep(ASK_SECONDS)
            if self._producer is not None:
                self._reachable = await self._answers(self._producer)

    async def _answers(self, producer: AIOKafkaProducer) -> bool:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await producer.client.fetch_all_metadata()
        except Exception:  # noqa: BLE001 - whatever it raises, nobody has answered
            return False
        return True

    async def _connect(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=REQUEST_MS,
            retry_backoff_ms=BACKOFF_MS,
        )
        await _until_up(producer)
        self._producer, self._reachable = producer, True

    async def _reconnect(self) -> None:
        await self._drop_producer()
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())

    async def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await producer.stop()
        except (KafkaError, TimeoutError):
            # It still holds a batch and would try for ever beside its successor; only its sender can be ended.
            with contextlib.suppress(KafkaError, TimeoutError):
                await producer._sender.close()  # noqa: SLF001
            await producer.client.close()

    async def _publish_to(
        self, producer: AIOKafkaProducer, topic: str, partition: int, messages: Sequence[Message]
    ) -> None:
        batch = producer.create_batch()
        for message in messages:
            key = message.key.encode()
            if batch.append(key=key, value=message.value, timestamp=None) is None:
                await self._send(producer, batch, topic, partition)
                batch = producer.create_batch()
                if batch.append(key=key, value=message.value, timestamp=None) is None:
                    raise ValueError("a message is larger than a batch may be")
        await self._send(producer, batch, topic, partition)

    async def _send(self, producer: AIOKafkaProducer, batch: Any, topic: str, partition: int) -> None:
        await (await producer.send_batch(batch, self._prefix + topic, partition=partition))


class _Reader(ConsumerRebalanceListener):  # type: ignore[misc]  # the client is untyped
    """One consumer group member: takes batches, hands them over, commits offsets afterwards."""

    def __init__(self, bootstrap: str, prefix: str, subscription: Subscription, session_ms: int) -> None:
        self._session_ms = session_ms
        self._prefix = prefix
        self._subscription = subscription
        self._bootstrap = bootstrap
        self._turn = asyncio.Lock()
        self._revoking = asyncio.Event()
        self._consumer: AIOKafkaConsumer | None = None
        self._watch: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether it has joined its group."""
        return self._consumer is not None

    def start(self) -> None:
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        if self._task is None:
            return
        self._revoking.set()
        async with self._turn:  # what is under way is finished and its offset committed
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        await self._leave()

    async def lag(self) -> dict[str, int]:
        """Messages not yet taken, by topic, whichever instance they wait for."""
        consumer = self._consumer
        if consumer is None:
            raise ConnectionError("the broker is away")
        places = [
            TopicPartition(self._prefix + topic, partition)
            for topic in self._subscription.topics
            for partition in range(PARTITIONS)
        ]
        try:
            ends = await (await self._watching()).end_offsets(places)
            taken = await asyncio.gather(*(consumer.committed(place) for place in places))
        except KafkaError as error:
            raise ConnectionError(f"the broker does not answer: {type(error).__name__}") from error
        waiting = dict.fromkeys(self._subscription.topics, 0)
        for place, offset in zip(places, taken, strict=True):
            waiting[place.topic.removeprefix(self._prefix)] += max(ends[place] - (offset or 0), 0)
        return waiting

    async def _join(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=f"{self._prefix}{self._subscription.consumer}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_interval_ms=600_000,
            session_timeout_ms=self._session_ms,
            heartbeat_interval_ms=self._session_ms // 4,
            request_timeout_ms=REQUEST_MS,
            retry_backoff_ms=BACKOFF_MS,
        )
        consumer.subscribe([self._prefix + topic for topic in self._subscription.topics], listener=self)
        await _until_up(consumer)
        self._consumer = consumer
        return consumer

    async def _watching(self) -> AIOKafkaConsumer:
        """A connection that no long fetch stands before."""
        if self._watch is None:
            watch = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, request_timeout_ms=REQUEST_MS)
            await watch.start()
            self._watch = watch
        return self._watch

    async def _leave(self) -> None:
        clients = [client for client in (self._consumer, self._watch) if client is not None]
        self._consumer = self._watch = None
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(client.stop() for client in clients))

    async def on_partitions_revoked(self, _revoked: Iterable[TopicPartition]) -> None:
        """Partitions go to another instance: first the batch under way is finished, or given up."""
        self._revoking.set()
        async with self._turn:
            pass

    async def on_partitions_assigned(self, _assigned: Iterable[TopicPartition]) -> None:
        """Goes on, from the committed offsets."""
        self._revoking.clear()

    async def _read(self) -> None:
        consumer = await self._join()
        while True:
            found: dict[TopicPartition, list[Any]] = {}
            try:
                found = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH)
                if found:
                    async with self._turn:
                        await self._take(consumer, found)
            except Exception as error:  # noqa: BLE001 - a loop that must never end: logged, tried again
                log.warning(
                    "bus_reading_failed", consumer=self._subscription.consumer, error=type(error).__name__
                )
                for at, records in found.items():  # otherwise the next commit passes over them
                    with contextlib.suppress(IllegalStateError):  # the partition is another one's by now
                        consumer.seek(at, records[0].offset)
                await asyncio.sleep(RETRY_SECONDS[-1])

    async def _take(self, consumer: AIOKafkaConsumer, found: dict[TopicPartition, list[Any]]) -> None:
        batch = [
            # Whatever a stranger has put there: who reads it parks it.
            Message(
                at.topic.removeprefix(self._prefix),
                at.partition,
                (record.key or b"").decode(errors="replace"),
                record.value or b"",
            )
            for at, records in found.items()
            for record in records
        ]
        if not await self._insist(batch):
            return
        # Somebody else does it again after a rebalance; the inbox knows what was done.
        with contextlib.suppress(CommitFailedError, IllegalStateError):
            await consumer.commit({at: records[-1].offset + 1 for at, records in found.items()})

    async def _insist(self, batch: Sequence[Message]) -> bool:
        """Delivers until it is taken; False when the partitions are taken away meanwhile."""
        failures = 0
        while True:
            try:
                await self._subscription.receive(batch)
            except Exception as error:  # noqa: BLE001 - a delivery loop: counted, logged, tried again
                wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                log.warning(
                    "redelivery",
                    consumer=self._subscription.consumer,
                    error=type(error).__name__,
                    failures=failures,
                )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._revoking.wait()
                if self._revoking.is_set():
                    return False
            else:
                return True


async def _until_up(client: Any) -> None:
    """Starts a producer or consumer, for as long as it takes."""
    failures = 0
    try:
        while not await _starts(client, failures):
            await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1
    except asyncio.CancelledError:
        await client.stop()  # what it has opened meanwhile
        raise


async def _starts(client: Any, failures: int) -> bool:
    try:
        await client.start()
    except (KafkaError, OSError) as error:
        log.warning("bus_away", error=type(error).__name__, failures=failures)
        return False
    return True


async def create_topics(
    bootstrap: str, topics: Iterable[str], *, prefix: str = "", replication: int = 1
) -> list[str]:
    """Creates the topics that are not there yet, with the catalogue's partitions and retention."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
    except KafkaError as error:
        await admin.close()
        raise ConnectionError(f"the broker is away: {type(error).__name__}") from error
    created = []
    try:
        for topic in topics:
            new = NewTopic(
                prefix + topic,
                num_partitions=PARTITIONS,
                replication_factor=replication,
                topic_configs=TOPIC_CONFIG,
            )
            answer = await admin.create_topics([new])
            for name, code, *_ in answer.topic_errors:
                if code == 0:
                    created.append(name)
                elif code != TopicAlreadyExistsError.errno:
                    raise ConnectionError(f"the broker refused topic {name}: error {code}")
    finally:
        await admin.close()
    return created


def _place(message: Message) -> tuple[str, int]:
    return message.topic, message.partition
