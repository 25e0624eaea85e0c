"""The writer of a process: runs every change, grouping requests into one commit.

One thread on SQLite, two on PostgreSQL, where transactions take turns per key (docs/adr/0024-side-by-side.md).

Requests that arrive together share a transaction and are answered after it commits. There are no
savepoints: when a group fails it is run again, each request in a transaction of its own, so a command
touches nothing but the database. A commit that was not acknowledged is an exception, for it may stand.
See docs/adr/0003-one-committer.md.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa

from shared.errors import Problem
from shared.privacy import Cipher
from shared.storage.database import Database, is_race, is_transient
from shared.storage.idempotency import Answer, IdempotencyKey
from shared.storage.tables import Plumbing
from shared.storage.work import Work

W = TypeVar("W", bound=Work)
T = TypeVar("T")

GROUP = 128
"""Most requests that share a transaction."""

WAITING = 4_000
"""Most requests that may wait; more are refused with 503, so that no caller waits in vain."""

TRIES = 3
"""How often a transaction is tried when the database fails it."""

_LIST = "_is_list_command"
_KEYS = "_keys_of_an_item"


class Run(Protocol):
    """Runs a function of a work in a transaction of its own, as `Committer.run` does."""

    def __call__(self, do: Callable[[Any], T], /, *, keys: Collection[str] | None = None) -> Awaitable[T]:
        """Returns what `do` returned, after the commit."""


class Command(Protocol):
    """A use case: takes a work and one item (or, marked as a list command, a list) and answers."""

    __name__: str

    def __call__(self, work: Any, item: Any, /) -> Any:
        """Runs; an ordinary command raises Problem, a list command returns one answer per item."""


def list_command(command: T) -> T:
    """Marks a command that takes a list of items and returns an outcome or a Problem for each."""
    setattr(command, _LIST, True)
    return command


def touches(keys: Callable[[Any], Collection[str]]) -> Callable[[T], T]:
    """Says which ordering keys an item of a command touches, so that processes can run it side by side.

    A command without this has the service's database alone while it runs.
    """

    def mark(command: T) -> T:
        setattr(command, _KEYS, keys)
        return command

    return mark


@dataclass(eq=False)
class _Job:
    """Something that somebody waits for."""

    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Any]"


@dataclass(eq=False)
class _Task(_Job):
    do: Callable[[Any], Any]
    keys: Collection[str] | None


@dataclass(eq=False)
class _Call(_Job):
    command: Command
    item: Any
    respond: Callable[[Any], Answer] | None
    key: IdempotencyKey | None


class _OutcomeUnknown(Exception):  # noqa: N818 - it may have succeeded
    """A commit was not acknowledged, and what it did must not be done twice."""


class Committer(Generic[W]):
    """Runs every write of one process.

    `make_work` opens a Work on a connection; `committed` is called, in the thread, after each commit that
    changed something.
    """

    def __init__(
        self,
        database: Database,
        plumbing: Plumbing,
        make_work: Callable[[sa.Connection], W],
        *,
        cipher: Cipher,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._plumbing = plumbing
        self._make_work = make_work
        self._cipher = cipher
        self._committed = committed
        self._ready = threading.Condition()
        self._urgent: deque[_Task] = deque()
        self._tasks: deque[_Task] = deque()
        self._calls: deque[_Call] = deque()
        self._keys_in_progress: set[tuple[str, str, str]] = set()
        self._busy = 0
        self._grouping = False
        self._task_is_next = False
        self._stopping = False
        self._threads: list[threading.Thread] = []

    # -- asking, from any event loop ---------------------------------------------------------------

    async def run(
        self, do: Callable[[W], T], *, urgent: bool = False, keys: Collection[str] | None = None
    ) -> T:
        """Runs `do(work)` in a transaction of its own; urgent ones go before everything that waits.

        With `keys` others may write meanwhile, to other keys (`Database.write`). It may be run again after it
        was done, where the database did not acknowledge the commit: so it reads first what there is to do.
        """
        loop = asyncio.get_running_loop()
        task = _Task(loop, loop.create_future(), do, keys)
        self._enqueue(self._urgent if urgent else self._tasks, task)
        result: T = await task.done
        return result

    async def call(
        self,
        command: Command,
        item: Any,
        *,
        respond: Callable[[Any], Answer] | None = None,
        key: IdempotencyKey | None = None,
    ) -> Any:
        """Runs one item of a command together with what else waits.

        Returns the outcome, or the Answer that `respond` makes of it. With a key, an answer given before
        is given again; the same key with another body is refused (422), one in progress too (409).
        """
        if len(self._calls) >= WAITING:
            raise Problem(
                503, "busy", zh="系统繁忙，请稍后重试", en="Too much is waiting; try again", retry_after=1
            )
        loop = asyncio.get_running_loop()
        call = _Call(loop, loop.create_future(), command, item, respond, key)
        if key is None:
            self._enqueue(self._calls, call)
            return await call.done
        if key.identity in self._keys_in_progress:
            raise Problem(
                409,
                "idempotency_in_progress",
                zh="同一 Idempotency-Key 的请求正在处理，请稍后重试",
                en="A request with this Idempotency-Key is in progress; try again",
                retry_after=1,
            )
        self._keys_in_progress.add(key.identity)
        self._enqueue(self._calls, call)
        return await call.done

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        with self._ready:
            return not (self._busy or self._urgent or self._tasks or self._calls)

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts a thread for each connection that may write at the same time."""
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"committer-{number}", daemon=True)
            for number in range(self._database.writers)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finishes what waits, then ends the threads."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    # -- the thread --------------------------------------------------------------------------------

    def _enqueue(self, queue: "deque[Any]", job: _Job) -> None:
        with self._ready:
            if self._stopping:
                raise Problem(
                    503, "stopping", zh="服务正在停止，请重试", en="Stopping; try again", retry_after=1
                )
            queue.append(job)
            self._ready.notify()

    def _serve(self) -> None:
        while True:
            with self._ready:
                while (job := self._next()) is None:
                    if self._stopping:
                        return
                    self._ready.wait()
                self._busy += 1
            if isinstance(job, list):
                self._run_calls(job)
            else:
                self._run_task(job)
            with self._ready:
                self._busy -= 1
                if isinstance(job, list):
                    self._grouping = False
                    self._ready.notify()

    def _next(self) -> "list[_Call] | _Task | None":
        """A group of requests or a task. They take turns, so that neither starves the other.

        One thread at a time has requests: meanwhile others wait together, and share the next commit.
        """
        if self._urgent:
            return self._urgent.popleft()
        number = 0 if self._grouping else min(GROUP, len(self._calls))
        if self._tasks and (self._task_is_next or not number):
            self._task_is_next = False
            return self._tasks.popleft()
        if not number:
            return None
        self._grouping = self._task_is_next = True
        return [self._calls.popleft() for _ in range(number)]

    def _run_calls(self, calls: Sequence[_Call]) -> None:
        try:
            outcomes = self._transaction(
                lambda work: self._outcomes(work, calls),
                _keys(calls),
                repeatable=all(call.key for call in calls),
            )
        except _OutcomeUnknown:
            self._resolve([(call, _outcome_unknown()) for call in calls if not call.key])
            for call in calls:
                if call.key:
                    self._run_calls([call])
        except Exception as error:  # noqa: BLE001 - whoever asked gets it, whatever it is
            if len(calls) == 1:
                self._resolve([(calls[0], error)])
                return
            for call in calls:
                self._run_calls([call])
        else:
            self._resolve(list(zip(calls, outcomes, strict=True)))

    def _run_task(self, task: _Task) -> None:
        try:
            outcome = self._transaction(task.do, task.keys, repeatable=True)
        except Exception as error:  # noqa: BLE001 - whoever asked gets it, whatever it is
            outcome = error
        self._resolve([(task, outcome)])

    def _transaction(self, do: Callable[[W], T], keys: Collection[str] | None, *, repeatable: bool) -> T:
        """Tries until the database takes it; `repeatable` says whether it may do the same twice.

        A commit that the database does not acknowledge may stand all the same.
        """
        for attempt in range(1, TRIES + 1):
            changed = False
            try:
                with self._database.write(keys=keys) as db:
                    work = self._make_work(db)
                    result = do(work)
                    work.flush()
                    changed = work.writes > 0
            except Exception as error:
                if changed and not repeatable and is_transient(error):
                    raise _OutcomeUnknown from error
                if attempt == TRIES or not (is_transient(error) or is_race(error)):
                    raise
            else:
                if changed:
                    self._committed()
                return result
        raise AssertionError("the last attempt raises")

    def _outcomes(self, work: W, calls: Sequence[_Call]) -> list[Any]:
        """Outcome, Answer or Problem for each call, in order; raises when the group must be split."""
        outcomes: dict[_Call, Any] = self._replays(work, [call for call in calls if call.key])
        groups: dict[Command, list[_Call]] = {}
        for call in calls:
            if call not in outcomes:
                groups.setdefault(call.command, []).append(call)
        # Requests that wait at the same time have no order among each other; those of one command keep theirs.
        for command, group in groups.items():
            if getattr(command, _LIST, False):
                outcomes.update(zip(group, command(work, [call.item for call in group]), strict=True))
            else:
                outcomes.update((call, self._one(work, call, alone=len(calls) == 1)) for call in group)
            for call in group:
                if call.respond and not isinstance(outcomes[call], Problem):
                    outcomes[call] = call.respond(outcomes[call])
        self._store_answers(work, groups, outcomes)
        return [outcomes[call] for call in calls]

    def _one(self, work: W, call: _Call, *, alone: bool) -> Any:
        before = work.writes
        try:
            return call.command(work, call.item)
        except Problem as problem:
            if alone or work.writes != before:
                raise  # it had written something: only a rollback of its own takes that back
            return problem

    def _replays(self, work: W, calls: Sequence[_Call]) -> dict[_Call, Any]:
        table = self._plumbing.idempotency
        wanted = {call.key.identity: call for call in calls if call.key}
        replays: dict[_Call, Any] = {}
        # Column by column: for a list of triples SQLite reads the whole table.
        for client, route in {identity[:2] for identity in wanted}:
            keys = [key for *owner, key in wanted if owner == [client, route]]
            given = (table.c.client == client) & (table.c.route == route) & table.c.key.in_(keys)
            for row in work.db.execute(sa.select(table).where(given)):
                call = wanted[row.client, row.route, row.key]
                replays[call] = self._replay(row, call)
        return replays

    def _replay(self, row: Any, call: _Call) -> Answer | Problem:
        if call.key is None or row.fingerprint != call.key.fingerprint:
            return Problem(
                422,
                "idempotency_key_reused",
                zh="该 Idempotency-Key 已用于另一请求，请换一个",
                en="This Idempotency-Key was used for another request; use a new one",
            )
        return Answer.replayed(self._cipher.open(row.answer, context=_context(call.key)))

    def _store_answers(self, work: W, groups: dict[Command, list[_Call]], outcomes: dict[_Call, Any]) -> None:
        answers = {
            call.key: answer
            for group in groups.values()
            for call in group
            if call.key and isinstance(answer := outcomes[call], Answer)
        }
        sealed = self._cipher.seal_all({_context(key): answer.stored() for key, answer in answers.items()})
        rows = [{**vars(key), "answer": sealed[_context(key)], "stored_at": work.wall} for key in answers]
        work.insert(self._plumbing.idempotency, rows)

    # -- answering, in the event loops of those who asked ------------------------------------------

    def _resolve(self, results: "Sequence[tuple[_Job, Any]]") -> None:
        """Wakes everybody who waits, once per event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Any]]] = {}
        for job, outcome in results:
            by_loop.setdefault(job.loop, []).append((job, outcome))
        for loop, settled in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._settle, settled)

    def _settle(self, settled: "Sequence[tuple[_Job, Any]]") -> None:
        for job, outcome in settled:
            if isinstance(job, _Call) and job.key:
                self._keys_in_progress.discard(job.key.identity)
            if job.done.done():
                continue  # whoever asked has left; the request is done all the same
            if isinstance(outcome, BaseException):
                job.done.set_exception(outcome)
            else:
                job.done.set_result(outcome)


def _keys(calls: Sequence[_Call]) -> set[str] | None:
    """What a group touches, its idempotency keys too; None when one of its commands does not say."""
    keys: set[str] = set()
    for call in calls:
        of_item = getattr(call.command, _KEYS, None)
        if of_item is None:
            return None
        keys.update(of_item(call.item))
        if call.key:
            keys.add(_context(call.key))
    return keys


def _outcome_unknown() -> Problem:
    return Problem(
        503,
        "outcome_unknown",
        zh="数据库未确认是否已保存，请先查询结果再决定是否重试；带 Idempotency-Key 的请求可直接重试",
        en="The database did not confirm, so it may be done: look before you try again, or use an Idempotency-Key",
    )


def _context(key: IdempotencyKey) -> str:
    return f"idempotency:{key.client}:{key.route}:{key.key}"
