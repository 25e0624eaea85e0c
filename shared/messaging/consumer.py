"""Takes messages in batches and turns each into its effect exactly once.

Inbox row, effect and resulting outbox rows commit together; handlers take lists. A message that fails for
a reason that will not go away is parked with its error, and later ones of its key wait behind it.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import blake2b
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, Union
from uuid import NAMESPACE_OID, uuid5

import sqlalchemy as sa
import structlog
from pydantic import Field, TypeAdapter, ValidationError, create_model

from shared.errors import Problem
from shared.events.base import Envelope, Event
from shared.events.catalogue import EVENTS, topic_of
from shared.messaging.bus import Message
from shared.storage.bulk import among, insert_new_keys
from shared.storage.committer import Run
from shared.storage.database import is_too_large, is_transient
from shared.storage.retention import STAND_IN
from shared.storage.tables import Plumbing
from shared.storage.work import Cause, Work

OUTCOMES = ("handled", "duplicate", "diverted", "parked")
"""What can become of a message; a diverted one waits behind a parked one of its key."""

E_co = TypeVar("E_co", bound=Event, covariant=True)

_A_KEY = re.compile(r"(?!\*/|unreadable:)[!-~]{1,64}")
_NUL = re.compile(rb"(?<!\\)(\\\\)*\\u0000")
"""U+0000 as JSON writes it, and not a text that holds a backslash before `u0000`."""

log = structlog.get_logger(__name__)


class Received(NamedTuple, Generic[E_co]):
    """A new event with what its envelope says: id, partition, time of the fact, and its cause."""

    event: E_co
    id: str
    partition: int
    time: datetime
    cause: Cause


@dataclass(frozen=True)
class Reaction:
    """An event type and the handler that takes the list of new events of it."""

    event: type[Event]
    handler: Callable[[Any, Sequence[Any]], None]


def on(event: type[Event], handler: Callable[[Any, Sequence[Any]], None]) -> Reaction:
    """One line of a service's SUBSCRIPTIONS table."""
    return Reaction(event, handler)


KeyHook = Callable[[Any, str], None]
"""Called with a work and a subject when a key is parked or released."""


class Consumer:
    """One service's reader of the other services' topics.

    `keyed`: each handler touches only what belongs to the keys of its messages, so that several processes
    may handle different keys side by side. So may `writers` threads of one: a batch of at least `worth_parting`
    messages is handled in as many transactions, each with keys of its own.
    """

    def __init__(
        self,
        service: str,
        reactions: Sequence[Reaction],
        plumbing: Plumbing,
        run: Run,
        *,
        keyed: bool = False,
        writers: int = 1,
        worth_parting: int = 256,
        on_parked: KeyHook = lambda work, subject: None,
        on_released: KeyHook = lambda work, subject: None,
    ) -> None:
        self.service = service
        self._handlers = {reaction.event.name: reaction for reaction in reactions}
        self._told = _told([reaction.event for reaction in reactions])
        self._plumbing = plumbing
        self._run = run
        self._keyed = keyed
        self._writers = writers
        self._worth_parting = worth_parting
        self._on_parked = on_parked
        self._on_released = on_released
        self.counts: Counter[str] = Counter()
        """Messages since the start of the process, by outcome."""
        self.splits = 0
        """Batches handled in halves because they failed as a whole; the log gives each with its reason."""

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics this service reads."""
        return tuple(sorted({topic_of(name) for name in self._handlers}))

    async def receive(self, batch: Sequence[Message]) -> None:
        """Commits or parks every message of the batch; raises when the same batch should come again."""
        if not batch:
            return
        ends = await asyncio.gather(
            *(self._receive(part) for part in self._parts(batch)), return_exceptions=True
        )
        for end in ends:
            if end is not None:
                raise end

    async def _receive(self, batch: Sequence[Message]) -> None:
        try:
            counts = await self._run(lambda work: self._apply(work, batch), keys=self._keys(batch))
        except Exception as error:
            if is_transient(error) and not (is_too_large(error) and len(batch) > 1):
                raise
            if len(batch) > 1:
                self.splits += 1
                log.warning("batch_split", service=self.service, messages=len(batch), reason=describe(error))
                middle = len(batch) // 2
                await self._receive(batch[:middle])
                await self._receive(batch[middle:])
                return
            reason = describe(error)
            counts = await self._run(lambda work: self._park(work, batch[0], reason))
            if counts["parked"]:
                log.warning("message_parked", service=self.service, subject=lane(batch[0]), reason=reason)
        self.counts.update(counts)

    async def redrive(self, topic: str, subject: str) -> int:
        """Handles a parked key's messages again, oldest first; stops at the first that fails.

        Returns how many went through. The key is released when none is left.
        """
        done = 0
        while True:
            tried: list[int] = []
            try:
                found = await self._run(partial(self._redrive_first, topic, subject, tried))
            except Exception as error:
                if is_transient(error):
                    raise
                await self._run(partial(self._still_failing, tried[-1:], describe(error)))
                return done
            if not found:
                return done
            done += 1

    async def discard(self, topic: str, subject: str, id_: str, cause: Cause) -> None:
        """Gives up one message of a parked key, which failed for good; those behind it wait for a redrive.

        It is audited; the key is released when none is left. Raises Problem: 404 when the message is not parked, or
        not any more, 409 when it has not failed, for then it may say what is true.
        """
        await self._run(partial(self._discard, topic, subject, id_, cause))

    def _parts(self, batch: Sequence[Message]) -> Sequence[Sequence[Message]]:
        """What is handled side by side. Messages of one key stay together, and in order."""
        if len(batch) < self._worth_parting or self._keys(batch) is None:
            return [batch]
        parts: list[list[Message]] = [[] for _ in range(self._writers)]
        dealt: dict[str, list[Message]] = {}
        for message in batch:
            dealt.setdefault(message.key, parts[len(dealt) % self._writers]).append(message)
        return [part for part in parts if part]

    def _keys(self, batch: Sequence[Message]) -> set[str] | None:
        """What a batch touches; None: everything, as a broadcast may."""
        if not self._keyed or any(message.key == "*" for message in batch):
            return None
        return {message.key for message in batch}

    # -- inside a transaction ----------------------------------------------------------------------

    def _apply(self, work: Work, batch: Sequence[Message]) -> Counter[str]:
        wanted = 0
        first: dict[str, tuple[Message, Envelope]] = {}
        for message in batch:
            envelope = self._envelope(message.value)
            if envelope.type in self._handlers:
                wanted += 1
                first.setdefault(envelope.id, (message, envelope))
        claimed = self._claim(work, first)
        new = [pair for id_, pair in first.items() if id_ in claimed]
        parked = self._parked_keys(work, new)
        diverted, going = [], new
        if parked:
            diverted = [pair for pair in new if (pair[0].topic, lane(pair[0])) in parked]
            going = [pair for pair in new if (pair[0].topic, lane(pair[0])) not in parked]
        self._insert_parked(work, [(message, envelope.id, None) for message, envelope in diverted])
        self._handle(work, going)
        return Counter(handled=len(going), duplicate=wanted - len(new), diverted=len(diverted))

    def _envelope(self, value: bytes) -> Envelope:
        """The envelope, whose `data` is the event where this service has a handler for it."""
        try:
            return self._told.validate_json(value)
        except ValidationError:
            envelope = Envelope.model_validate_json(value)
            if envelope.type in self._handlers:
                raise
            return envelope  # a fact that only a newer version of its publisher tells

    def _claim(self, work: Work, ids: Collection[str]) -> set[str]:
        """Writes ids into the inbox; those that were not there yet are this work's to handle."""
        return insert_new_keys(work.db, self._plumbing.inbox, ids, received_at=work.wall)

    def _handle(self, work: Work, pairs: Sequence[tuple[Message, Envelope]]) -> None:
        received = []
        for message, envelope in pairs:
            event: Any = envelope.data
            # Otherwise nothing holds of what order and locks by key promise.
            if not message.key == envelope.subject == event.subject:
                raise ValueError("the fact is not about its key")
            # Before it is folded with later ones: otherwise PostgreSQL refuses it only where it comes last.
            if b"\\u0000" in message.value and _NUL.search(message.value):
                raise ValueError("no text holds U+0000")
            cause = Cause(envelope.source.strip("/"), envelope.correlationid)
            received.append(Received(event, envelope.id, message.partition, envelope.time, cause))
        for event_type, group in rounds(received):
            self._handlers[event_type.name].handler(work, group)

    def _park(self, work: Work, message: Message, reason: str) -> Counter[str]:
        id_ = _id_of(message)
        if not self._claim(work, [id_]):
            return Counter(duplicate=1)
        is_first = not self._parked_keys(work, [(message, None)])  # in any topic
        self._insert_parked(work, [(message, id_, reason)])
        if is_first:
            self._on_parked(work, lane(message))
        return Counter(parked=1)

    def _parked_keys(self, work: Work, pairs: Iterable[tuple[Message, Any]]) -> set[tuple[str, str]]:
        table = self._plumbing.parked
        if work.db.scalar(sa.select(table.c.seq).limit(1)) is None:  # as nearly always
            return set()
        subjects = {lane(message) for message, _ in pairs}
        found = work.db.execute(
            sa.select(table.c.topic, table.c.subject)
            .distinct()
            .where(among(work.db, table.c.subject, subjects))
        )
        return {(row.topic, row.subject) for row in found}

    def _insert_parked(self, work: Work, rows: Sequence[tuple[Message, str, str | None]]) -> None:
        work.insert(
            self._plumbing.parked,
            [
                {
                    "id": id_,
                    "topic": message.topic,
                    "subject": lane(message),
                    "partition": message.partition,
                    "value": message.value,
                    "error": reason,
                    "attempts": 0 if reason is None else 1,
                    "parked_at": work.wall,
                }
                for message, id_, reason in rows
            ],
        )

    def _first_parked(self, work: Work, topic: str, subject: str) -> Any:
        table = self._plumbing.parked
        return work.db.execute(
            sa.select(table)
            .where(table.c.topic == topic, table.c.subject == subject)
            .order_by(table.c.seq)
            .limit(1)
        ).first()

    def _redrive_first(self, topic: str, subject: str, tried: list[int], work: Work) -> bool:
        row = self._first_parked(work, topic, subject)
        if row is None:
            return False
        tried.append(row.seq)
        message = Message(row.topic, row.partition, row.subject.partition("/")[0], row.value)
        self._handle(work, [(message, self._envelope(row.value))])
        self._take_out(work, row)
        return True

    def _discard(self, topic: str, subject: str, id_: str, cause: Cause, work: Work) -> None:
        table = self._plumbing.parked
        row = work.db.execute(
            sa.select(table).where(table.c.topic == topic, table.c.subject == subject, table.c.id == id_)
        ).first()
        if row is None:
            raise Problem(
                404,
                "not_found",
                zh="该键没有停放这条消息（或已处理）",
                en="This message is not parked under this key, or not any more",
            )
        if row.error is None:
            raise Problem(
                409,
                "not_failed",
                zh="该消息没有失败，只是在等待；请先重新处理（redrive）",
                en="This message has not failed, it only waits; redrive the key first",
            )
        self._take_out(work, row)
        work.audit("parked.discarded", subject, cause=cause, topic=topic, message=id_, error=row.error)

    def _take_out(self, work: Work, row: Any) -> None:
        table = self._plumbing.parked
        work.db.execute(sa.delete(table).where(table.c.seq == row.seq))
        if not work.db.scalar(
            sa.select(sa.exists().where(table.c.subject == row.subject))
        ):  # in no topic any more
            self._on_released(work, row.subject)

    def _still_failing(self, seqs: Sequence[int], reason: str, work: Work) -> None:
        table = self._plumbing.parked
        work.db.execute(
            sa.update(table).where(table.c.seq.in_(seqs)).values(error=reason, attempts=table.c.attempts + 1)
        )


def _told(events: Sequence[type[Event]]) -> TypeAdapter[Envelope]:
    """Reads an envelope and the fact in it at once, which takes two thirds of the time of one after the other."""
    ours = [_envelope_of((event.name,), event) for event in events]
    others = _envelope_of(tuple(EVENTS.keys() - {event.name for event in events}), dict[str, Any])
    return TypeAdapter(Annotated[Union[(*ours, others)], Field(discriminator="type")])  # type: ignore[arg-type]


def _envelope_of(names: tuple[str, ...], data: Any) -> type[Envelope]:
    kind: Any = Literal[names]
    return create_model(f"Envelope of {names[0]}", __base__=Envelope, type=(kind, ...), data=(data, ...))


def lane(message: Message) -> str:
    """What waits behind what: messages of a key, or broadcasts of a partition (as `*/3`).

    A key that nobody of us can have written has a stand-in that every database takes.
    """
    if message.key == "*":
        return f"*/{message.partition}"
    if _A_KEY.fullmatch(message.key):
        return message.key
    return f"unreadable:{blake2b(message.key.encode(), digest_size=16).hexdigest()}"


def rounds(received: Sequence[Received[Any]]) -> list[tuple[type[Event], list[Received[Any]]]]:
    """Cuts a list into calls of one event type each, so that no key changes its order.

    A key that comes again under another type starts a later round; a broadcast stands behind all that came
    before it and in front of all that come after.
    """
    groups: dict[tuple[int, type[Event]], list[Received[Any]]] = {}
    last: dict[str, tuple[int, type[Event]]] = {}
    floor = top = 0
    for item in received:
        kind = type(item.event)
        if kind.broadcast:
            level = top = top + 1
            floor = top = top + 1
            last.clear()
        else:
            level, before = last.get(item.event.subject, (floor, kind))
            if before is not kind:
                level += 1
            last[item.event.subject] = (level, kind)
            top = max(top, level)
        groups.setdefault((level, kind), []).append(item)
    return [(kind, items) for (_, kind), items in sorted(groups.items(), key=lambda group: group[0][0])]


def describe(error: Exception) -> str:
    """An error as it may be stored and shown: its type and place, without any value of the message."""
    if isinstance(error, ValidationError):
        places = ", ".join(
            f"{'/'.join(map(str, item['loc']))}: {item['type']}" for item in error.errors(include_input=False)
        )
        return f"ValidationError at {places}"
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    place = f" in {frame.tb_frame.f_code.co_name}, line {frame.tb_lineno}" if frame else ""
    return f"{type(error).__name__}{place}"


def _id_of(message: Message) -> str:
    """The envelope's id, or a stable stand-in for a message that cannot be read at all."""
    try:
        return Envelope.model_validate_json(message.value).id
    except ValidationError:
        # Its key too: each key that a message stands under waits for its own.
        place = f"{message.topic}:{message.partition}:{lane(message)}"
        stable = uuid5(NAMESPACE_OID, f"{place}:{message.value!r}")
        return STAND_IN + str(stable)[1:]
