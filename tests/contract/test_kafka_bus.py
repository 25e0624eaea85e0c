"""Kafka keeps the promises of the port."""

import asyncio
import gc
import signal
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from structlog.testing import capture_logs

from shared.events.base import Envelope
from shared.events.catalogue import PARTITIONS, TOPICS
from shared.messaging.bus import Bus, Message, Subscription, partition_of
from shared.messaging.consumer import Consumer, Received, on
from shared.messaging.kafka import ANSWER_SECONDS, SESSION_MS, STOP_SECONDS, KafkaBus, create_topics
from shared.storage.work import Work
from tests.contract.bus_suite import BusSuite, Recorder, note
from tests.support.native import Kafka, free_port
from tests.support.probe import PLUMBING, START, Probe, ValueSet, set_values

ARRIVES_WITHIN_S = 40.0
SHORT_SESSION_MS = 1_000
LONGER_THAN_A_BROKER_TAKES_MS = 2_000_000


def value_set(key: str, content: str, number: int) -> Message:
    """A fact of the probe, as its relay would publish it."""
    event = ValueSet(uscc=key, content=content)
    envelope = Envelope(
        id=f"0198a000-0000-7000-8000-{number:012d}",
        source="/registry",
        type=event.name,
        subject=key,
        time=START,
        correlationid="c",
        data=event.model_dump(mode="json"),
    )
    return Message("registry", partition_of(key), key, envelope.model_dump_json(exclude_none=True).encode())


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

    async def eventually(self, ask: Callable[[], Awaitable[Any]], expected: Any) -> None:
        async with asyncio.timeout(ARRIVES_WITHIN_S):
            while await ask() != expected:  # noqa: ASYNC110 - another process decides when
                await asyncio.sleep(0.02)

    def test_what_waits_for_a_stuck_consumer_is_its_lag(self) -> None:
        """Committed is what counts, so redeliveries do not lower it."""
        stuck = Recorder(failures=10_000)

        async def use(bus: Bus) -> None:
            await bus.publish([note("a", n) for n in range(5)])
            await until(lambda: bool(stuck.tries))
            assert await bus.lag("one") == {"registry": 5}

        self.run([Subscription("one", ("registry",), stuck.receive)], use)

    def test_a_broker_that_dies_loses_nothing(self) -> None:
        """What was not answered is published again, in order; consumers go on by themselves."""
        seen = Recorder()

        async def use(bus: Bus) -> None:
            await bus.publish([note("a", 1)])
            await arrived(seen, 1)
            self.kafka.kill()
            await until(lambda: not bus.connected)  # nobody has asked it for anything
            with pytest.raises(ConnectionError):
                await bus.publish([note("a", 2)])
            await asyncio.to_thread(self.kafka.start)
            await until(lambda: bus.connected)
            published = 2
            async with asyncio.timeout(ARRIVES_WITHIN_S):
                while published < 4:
                    with suppress(ConnectionError):
                        await bus.publish([note("a", published)])
                        published += 1
                    await asyncio.sleep(0.05)
            await until(lambda: seen.values[-1:] == ["a:3"])

        self.run([Subscription("one", ("registry",), seen.receive)], use)
        assert list(dict.fromkeys(seen.values)) == ["a:1", "a:2", "a:3"]

    def test_two_publishers_keep_the_order_of_a_key(self) -> None:
        """Instances of a service that publish one after the other write to the same partition."""
        seen = Recorder()

        async def run() -> None:
            async with (
                self.opened([Subscription("one", ("registry",), seen.receive)]) as first,
                self.opened([]) as second,
            ):
                for number in range(0, 20, 2):
                    await first.publish([note("a", number)])
                    await second.publish([note("a", number + 1)])
                await arrived(seen, 20)

        asyncio.run(run())
        assert seen.values == [f"a:{number}" for number in range(20)]

    def test_a_rebalance_commits_nothing_past_a_batch_that_was_given_up(self) -> None:
        """Whoever has its partition next gets it first, although the client has what lies behind it already."""
        tries, taken = Counter[str](), Recorder()
        healed = False

        async def receive(batch: Sequence[Message]) -> None:
            tries.update(message.value.decode() for message in batch)
            if batch[0].value == b"sick:1" and not healed:
                raise ConnectionError("the database is away")
            await taken.receive(batch)

        async def run() -> None:
            nonlocal healed
            subscription = Subscription("one", ("registry",), receive)
            async with self.opened([subscription]) as first:
                await first.publish([note("sick", 1)])
                await until(lambda: tries["sick:1"] == 1)
                await first.publish([note("sick", 2)])
                await until(lambda: tries["sick:1"] == 4)  # long enough to read ahead
                async with self.opened([subscription]) as second:
                    await until(lambda: second.connected)
                    healed = True
                    await arrived(taken, 2)

        asyncio.run(run())
        assert taken.values == ["sick:1", "sick:2"]

    def test_a_stop_commits_nothing_past_a_batch_that_was_given_up(self) -> None:
        """It comes again with the next start, before what lies behind it."""
        tries, taken = Counter[str](), Recorder()

        async def receive(batch: Sequence[Message]) -> None:
            tries.update(message.value.decode() for message in batch)
            if batch[0].value == b"sick:1":
                raise ConnectionError("the database is away")

        async def run() -> None:
            async with self.opened([Subscription("one", ("registry",), receive)]) as bus:
                await bus.publish([note("sick", 1)])
                await until(lambda: tries["sick:1"] == 1)
                await bus.publish([note("sick", 2)])
                await until(lambda: tries["sick:1"] == 4)  # long enough to read ahead
            async with self.opened([Subscription("one", ("registry",), taken.receive)]):
                await arrived(taken, 2)

        asyncio.run(run())
        assert taken.values == ["sick:1", "sick:2"]

    def test_a_handler_slower_than_the_session_keeps_its_partitions(self) -> None:
        """The client's heartbeats go on beside it, so nobody else gets its messages."""
        slow, other = Recorder(), Recorder()
        over, long_after = asyncio.Event(), 2.5 * SHORT_SESSION_MS / 1_000

        async def receive(batch: Sequence[Message]) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), long_after)
            await slow.receive(batch)

        async def run() -> None:
            async with self.opened(
                [Subscription("one", ("registry",), receive)], session_ms=SHORT_SESSION_MS
            ) as first:
                await first.publish([note("a", 1)])
                await arrived(slow, 1)
            async with self.opened([Subscription("one", ("registry",), other.receive)]) as second:
                await second.publish([note("a", 2)])
                await arrived(other, 1)

        asyncio.run(run())
        assert slow.tries == [["a:1"]]
        assert other.values == ["a:2"]

    def test_poison_is_parked_and_goes_on_when_it_is_sent_again(self, probe: Probe) -> None:
        """Other keys pass at once; later messages of its key wait behind it, in order, also after a restart."""
        told = [("a", "1"), ("b", "1"), ("a", "poison"), ("a", "3"), ("b", "3")]
        healed = False

        def keep(work: Work, received: Sequence[Received[ValueSet]]) -> None:
            set_values(work, [heal(item) if healed else item for item in received])

        def heal(item: Received[ValueSet]) -> Received[ValueSet]:
            return item._replace(event=ValueSet(uscc=item.event.uscc, content=item.event.content[:1]))

        def consumer() -> Consumer:
            return Consumer("test", [on(ValueSet, keep)], PLUMBING, probe.committer.run)

        async def play(messages: Sequence[Message]) -> None:
            async with self.opened([Subscription("one", ("registry",), consumer().receive)]) as bus:
                for message in messages:
                    await bus.publish([message])
                await self.eventually(lambda: bus.lag("one"), {"registry": 0})

        asyncio.run(play([value_set(*fact, number) for number, fact in enumerate(told)]))
        assert probe.contents() == {"a": "1", "b": "3"}
        asyncio.run(play([value_set("a", "4", 9)]))
        assert [row.subject for row in probe.rows(PLUMBING.parked)] == ["a"] * 3
        healed = True
        assert asyncio.run(consumer().redrive("registry", "a")) == 3
        assert probe.contents() == {"a": "4", "b": "3"}
        assert probe.rows(PLUMBING.parked) == []

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            (b"\xff\xfe\x00", b"{}"),
            (b"a\x00b", b"rubbish"),
            (b"k" * 300, b"rubbish"),
            (None, b"rubbish"),
            (b"a", None),
            (b"a", value_set("a", "x", 99).value.replace(b"0198a000", b"i" * 500)),
            (b"a", value_set("a", "x", 99).value.replace(b"0198a000", b"\\u0000")),
            (b"a", value_set("a", "x", 99).value.replace(b'"1.0"', b'"99.0"')),
            (None, value_set("a", "x", 99).value),
            (b"a", value_set("b", "x", 99).value),
        ],
        ids=[
            *(
                "key not UTF-8",
                "NUL in the key",
                "long key",
                "no key",
                "no value",
                "long id",
                "NUL in the id",
            ),
            *("other version", "a fact without its key", "a fact with another key"),
        ],
    )
    def test_what_strangers_put_into_a_topic_is_parked(
        self, probe: Probe, key: bytes | None, value: bytes | None
    ) -> None:
        """The facts before and behind it, of the same partition and others, are taken."""
        consumer = Consumer("test", [on(ValueSet, set_values)], PLUMBING, probe.committer.run)
        keys = ["a", "c", "d"]

        async def play() -> None:
            async with self.opened([Subscription("one", ("registry",), consumer.receive)]) as bus:
                await bus.publish([value_set(one, "1", n) for n, one in enumerate(keys)])
                stranger = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap)
                await stranger.start()
                await stranger.send_and_wait(
                    f"{self.prefix}registry", key=key, value=value, partition=partition_of("c")
                )
                await stranger.stop()
                await bus.publish([value_set(one, "2", 10 + n) for n, one in enumerate(keys) if one != "a"])
                await self.eventually(lambda: bus.lag("one"), {"registry": 0})

        asyncio.run(play())
        assert probe.contents() == {"a": "1", "c": "2", "d": "2"}
        assert len(probe.rows(PLUMBING.parked)) == 1

    def test_a_batch_that_cannot_be_handed_over_comes_again(self) -> None:
        """Whatever goes wrong between the broker and the consumer, nothing is passed over."""
        seen = Recorder()

        async def use(bus: Bus) -> None:
            reader = bus._readers["one"]  # type: ignore[attr-defined]
            take, failures = reader._take, [RuntimeError("a defect")]

            async def stumbles(*given: Any) -> None:
                if failures:
                    raise failures.pop()
                await take(*given)

            reader._take = stumbles
            await bus.publish([note("a", 1)])
            await until(lambda: not failures)
            await bus.publish([note("a", 2)])
            await arrived(seen, 2)

        self.run([Subscription("one", ("registry",), seen.receive)], use)
        assert seen.values == ["a:1", "a:2"]

    def test_a_reader_whose_client_is_broken_for_good_joins_anew(self) -> None:
        """Only a new client helps then; what was published meanwhile arrives."""
        seen = Recorder()

        async def use(bus: Bus) -> None:
            await bus.publish([note("a", 1)])
            await arrived(seen, 1)
            await bus._readers["one"]._consumer.stop()  # type: ignore[attr-defined]
            await bus.publish([note("a", 2)])
            await arrived(seen, 2)

        self.run([Subscription("one", ("registry",), seen.receive)], use)
        assert seen.values == ["a:1", "a:2"]

    def test_a_group_that_takes_nobody_in_is_asked_again_and_again(self) -> None:
        """Each time by a client of its own: one that has failed half-way can't be started again."""

        async def run() -> None:
            await create_topics(self.kafka.bootstrap, TOPICS, prefix=self.prefix)
            bus = KafkaBus(self.kafka.bootstrap, prefix=self.prefix, session_ms=LONGER_THAN_A_BROKER_TAKES_MS)
            bus.subscribe(Subscription("one", ("registry",), Recorder().receive))
            with capture_logs() as logged:
                await bus.start()
                await until(lambda: len(logged) >= 3)
                await bus.stop()
            assert {line["error"] for line in logged} == {"InvalidSessionTimeoutError"}

        asyncio.run(run())

    def test_two_who_ask_for_the_lag_at_once_share_a_connection(self) -> None:
        """Nothing is left open behind one that was overwritten."""

        async def use(bus: Bus) -> None:
            lags = await asyncio.gather(*(bus.lag("one") for _ in range(5)))
            assert lags == [{"registry": 0}] * 5

        self.run([Subscription("one", ("registry",), Recorder().receive)], use)
        gc.collect()  # what was left open warns when it is collected, and a warning fails the test

    def test_who_asks_for_the_lag_does_not_wait_for_a_broker_that_hangs(self) -> None:
        """It is as good as away."""

        async def use(bus: Bus) -> None:
            assert await bus.lag("one") == {"registry": 0}
            self.kafka.signal(signal.SIGSTOP)
            try:
                with pytest.raises(ConnectionError):
                    async with asyncio.timeout(1.6 * ANSWER_SECONDS):
                        await bus.lag("one")
            finally:
                self.kafka.signal(signal.SIGCONT)

        self.run([Subscription("one", ("registry",), Recorder().receive)], use)

    def test_a_stop_does_not_wait_for_a_broker_that_hangs(self) -> None:
        """What was handled and not committed comes again."""
        published, hung = asyncio.Event(), asyncio.Event()

        async def receive(_batch: Sequence[Message]) -> None:
            await published.wait()  # or the broker would hang before it says that it has the message
            self.kafka.signal(signal.SIGSTOP)
            hung.set()

        async def run() -> None:
            bus = KafkaBus(self.kafka.bootstrap, prefix=self.prefix)
            await create_topics(self.kafka.bootstrap, TOPICS, prefix=self.prefix)
            bus.subscribe(Subscription("one", ("registry",), receive))
            await bus.start()
            await until(lambda: bus.connected)
            await bus.publish([note("a", 1)])
            published.set()
            await hung.wait()
            waiting = asyncio.create_task(bus.publish([note("a", 2)]))
            async with asyncio.timeout(3 * STOP_SECONDS):
                await bus.stop()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

        try:
            asyncio.run(run())
        finally:
            self.kafka.signal(signal.SIGCONT)

    def test_a_client_that_ends_in_a_cancellation_of_its_own_ends_nobody_else(self) -> None:
        """As one does whose broker is away; its connections are closed all the same."""
        closed: list[str] = []

        class Cancels:
            """A client that is told to stop while it waits for a broker."""

            async def stop(self) -> None:
                raise asyncio.CancelledError

            @property
            def _client(self) -> "Cancels":
                return self

            async def close(self) -> None:
                closed.append("connections")

        async def run() -> None:
            bus = KafkaBus(self.kafka.bootstrap, prefix=self.prefix)
            bus.subscribe(Subscription("one", ("registry",), Recorder().receive))
            bus._readers["one"]._consumer = Cancels()
            await bus._readers["one"]._leave()

        asyncio.run(run())
        assert closed == ["connections"]

    def test_a_topic_that_had_too_few_partitions_is_published_to_once_it_has_them(self) -> None:
        """Somebody made it by hand, and mends it."""
        topic = f"{self.prefix}registry"
        key = next(key for key in map(str, range(100)) if partition_of(key) == PARTITIONS - 1)

        async def run() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
            await admin.start()
            await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
            bus = KafkaBus(self.kafka.bootstrap, prefix=self.prefix)
            await bus.start()
            await until(lambda: bus.connected)
            with pytest.raises(ConnectionError):
                await bus.publish([note(key, 1)])
            await admin.create_partitions({topic: NewPartitions(PARTITIONS)})
            await admin.close()
            async with asyncio.timeout(ARRIVES_WITHIN_S):
                published = False
                while not published:
                    with suppress(ConnectionError):
                        await bus.publish([note(key, 1)])
                        published = True
                    await asyncio.sleep(0.05)
            await bus.stop()

        asyncio.run(run())

    def test_a_bus_is_started_without_its_broker(self) -> None:
        """It says that it is not connected, and connects when the broker comes."""
        port = free_port()

        async def run() -> None:
            bus = KafkaBus(f"127.0.0.1:{port}")
            bus.subscribe(Subscription("one", ("registry",), Recorder().receive))
            await bus.start()
            assert not bus.connected
            with pytest.raises(ConnectionError):
                await bus.publish([note("a", 1)])
            with pytest.raises(ConnectionError):
                await bus.lag("one")
            await bus.stop()

        asyncio.run(run())

    @asynccontextmanager
    async def opened(
        self, subscriptions: Sequence[Subscription], *, session_ms: int = SESSION_MS
    ) -> AsyncGenerator[KafkaBus]:
        await create_topics(self.kafka.bootstrap, TOPICS, prefix=self.prefix)
        bus = KafkaBus(self.kafka.bootstrap, prefix=self.prefix, session_ms=session_ms)
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
