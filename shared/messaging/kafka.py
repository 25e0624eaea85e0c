"""The bus on Apache Kafka. The only file that knows its client.

The broker gives order per partition and delivery at least once; exactly-once effects are the inbox's work.
Nothing rests on broker transactions.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, TopicAlreadyExistsError

from shared.events.catalogue import PARTITIONS, TOPIC_CONFIG
from shared.messaging.bus import Message, Subscription

BATCH = 6_000
"""Most messages handed to a consumer at once: what a transaction costs whatever is in it is shared by many. Each key
is a lock: PostgreSQL has some 6,400 for all, unless it is told to have more, as `docker-compose.yml` does."""

BATCH_BYTES = 256 * 1024
"""About as much as one request carries to a partition; a message larger than that goes alone."""

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

FAILURES = 5
"""So many failures in a row, and a reader joins its group anew."""

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
        """Within seconds, whether a broker is there or not. Nobody publishes any more."""
        tasks = [task for task in (self._connecting, self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._connecting = self._asking = None
        await asyncio.gather(self._drop_producer(), *(reader.stop() for reader in self._readers.values()))

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
        self._producer = await _until_up(self._new_producer)
        self._reachable = True

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=REQUEST_MS,
            retry_backoff_ms=BACKOFF_MS,
        )

    async def _reconnect(self) -> None:
        await self._drop_producer()
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())

    async def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _end(producer)

    async def _publish_to(
        self, producer: AIOKafkaProducer, topic: str, partition: int, messages: Sequence[Message]
    ) -> None:
        batch = producer.create_batch()
        for message in messages:
            key = message.key.encode()
            if batch.append(key=key, value=message.value, timestamp=None) is None:
                await self._send(producer, batch, topic, partition)
                batch = producer.create_batch()
                batch.append(key=key, value=message.value, timestamp=None)  # the first one always fits
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
        self._opening = asyncio.Lock()
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
        # What is under way is finished and its offset committed, unless the broker is away; then it comes again.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS), self._turn:
                pass
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
            async with asyncio.timeout(ANSWER_SECONDS):
                ends = await (await self._watching()).end_offsets(places)
                taken = await asyncio.gather(*(consumer.committed(place) for place in places))
        except (KafkaError, TimeoutError) as error:
            raise ConnectionError(f"the broker does not answer: {type(error).__name__}") from error
        waiting = dict.fromkeys(self._subscription.topics, 0)
        for place, offset in zip(places, taken, strict=True):
            waiting[place.topic.removeprefix(self._prefix)] += max(ends[place] - (offset or 0), 0)
        return waiting

    def _new_member(self) -> AIOKafkaConsumer:
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
        return consumer

    async def _watching(self) -> AIOKafkaConsumer:
        """A connection that no long fetch stands before."""
        async with self._opening:
            if self._watch is None:
                self._watch = await _start(
                    AIOKafkaConsumer(bootstrap_servers=self._bootstrap, request_timeout_ms=REQUEST_MS)
                )
            return self._watch

    async def _leave(self) -> None:
        clients = [client for client in (self._consumer, self._watch) if client is not None]
        self._consumer = self._watch = None
        await asyncio.gather(*(_end(client) for client in clients))

    async def on_partitions_revoked(self, _revoked: Iterable[TopicPartition]) -> None:
        """Partitions go to another instance: first the batch under way is finished, or given up."""
        self._revoking.set()
        async with self._turn:
            pass

    async def on_partitions_assigned(self, _assigned: Iterable[TopicPartition]) -> None:
        """Goes on, from the committed offsets."""
        self._revoking.clear()

    async def _read(self) -> None:
        while True:
            self._consumer = await _until_up(self._new_member)
            await self._read_from(self._consumer)
            await self._leave()

    async def _read_from(self, consumer: AIOKafkaConsumer) -> None:
        """Goes on for ever, or until the client fails again and again: nothing brings it back then."""
        failures = 0
        while failures < FAILURES:
            found: dict[TopicPartition, list[Any]] = {}
            try:
                found = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH)
                if found:
                    async with self._turn:
                        await self._take(consumer, found)
                failures = 0
            except Exception as error:  # noqa: BLE001 - a loop that must never end: logged, tried again
                failures += 1
                log.warning(
                    "bus_reading_failed",
                    consumer=self._subscription.consumer,
                    error=type(error).__name__,
                    failures=failures,
                )
                for at, records in found.items():  # otherwise the next commit passes over them
                    with contextlib.suppress(IllegalStateError):  # the partition is another one's by now
                        consumer.seek(at, records[0].offset)
                await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1])

    async def _take(self, consumer: AIOKafkaConsumer, found: dict[TopicPartition, list[Any]]) -> None:
        batch: list[Message] = []
        for at, records in found.items():
            topic = at.topic.removeprefix(self._prefix)
            # Whatever a stranger has put there: who reads it parks it.
            batch += [
                Message(
                    topic, at.partition, (record.key or b"").decode("utf-8", "replace"), record.value or b""
                )
                for record in records
            ]
        if not await self._insist(batch):
            return
        # Somebody else does it again after a rebalance; the inbox knows what was done.
        with contextlib.suppress(CommitFailedError, IllegalStateError):
            await consumer.commit({at: records[-1].offset + 1 for at, records in found.items()})

    async def _insist(self, batch: Sequence[Message]) -> bool:
        """Delivers until it is taken; False when the partitions are taken away, or the reader stops, meanwhile.

        Nothing more is taken from this assignment then: the client gives nothing out while it is dealt anew, and a
        stop waits in front for the next turn.
        """
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


async def _until_up(make: Callable[[], Any]) -> Any:
    """A started producer or consumer, for as long as it takes; each try is one of its own."""
    failures = 0
    while True:
        try:
            return await _start(make())
        except Exception as error:  # noqa: BLE001 - nobody else would try again
            log.warning("bus_away", error=type(error).__name__, failures=failures)
        await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
        failures += 1


async def _start(client: Any) -> Any:
    """The client, started; one that does not start, or not in time, leaves nothing open."""
    try:
        await client.start()
    except BaseException:
        await _end(client)
        raise
    return client


async def _end(client: Any) -> None:
    """Lets a client say goodbye; where nobody answers, closes its connections all the same."""
    # A task of its own: while the broker is away the client ends in a cancellation that nobody asked for.
    leaving = asyncio.ensure_future(client.stop())
    try:
        await asyncio.wait({leaving}, timeout=STOP_SECONDS)
    finally:
        if not leaving.done() or leaving.cancelled() or leaving.exception():
            leaving.cancel()
            await asyncio.wait({leaving}, timeout=STOP_SECONDS)
            if isinstance(client, AIOKafkaProducer):
                # It still holds a batch and would try for ever beside its successor; only its sender can be ended.
                await asyncio.wait(
                    {asyncio.ensure_future(client._sender.close())},  # noqa: SLF001
                    timeout=STOP_SECONDS,
                )
                await client.client.close()
            else:
                await client._client.close()  # noqa: SLF001


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
