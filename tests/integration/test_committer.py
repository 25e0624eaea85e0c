"""The writer of a process: requests share commits, and each is answered as if it had been alone."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from shared.errors import Problem
from shared.storage.committer import touches
from shared.storage.idempotency import Answer, IdempotencyKey
from shared.storage.work import Work
from tests.support.probe import PLUMBING, Probe, Put, put_then_refuse, put_values, value


class Held:
    """Keeps threads of a committer busy until released, so that requests pile up behind them."""

    def __init__(self, probe: Probe, threads: int) -> None:
        self._probe = probe
        self._threads = threads
        self._all_here = threading.Barrier(threads + 1)
        self._release = threading.Event()

    async def begin(self) -> None:
        """Returns when each of the threads is held."""
        run = self._probe.committer.run
        self._tasks = asyncio.gather(*(run(self._hold, urgent=True, keys=()) for _ in range(self._threads)))
        await asyncio.to_thread(self._all_here.wait, 10)

    async def end(self) -> None:
        """Lets them go."""
        self._release.set()
        await self._tasks

    def _hold(self, _work: Work) -> None:
        self._all_here.wait(10)
        self._release.wait(10)


def together(probe: Probe, *calls: Any) -> list[Any]:
    """Sends calls so that they wait at the same time; gives outcomes or exceptions."""

    async def run() -> list[Any]:
        held = Held(probe, probe.database.writers)
        await held.begin()
        waiting = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        await held.end()
        return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(run())


def key(name: str, fingerprint: str = "f") -> IdempotencyKey:
    return IdempotencyKey("client", "POST /x", name, fingerprint)


def created(outcome: str) -> Answer:
    return Answer(201, {"outcome": outcome}, {"Location": "/x"})


def test_requests_that_wait_together_share_one_commit(probe: Probe) -> None:
    """Forty waiting requests are committed once and each gets its own answer."""
    outcomes = together(probe, *(probe.committer.call(put_values, Put(f"k{n}", "v")) for n in range(40)))
    assert outcomes == [f"set k{n}" for n in range(40)]
    probe.committer.stop()
    assert probe.commits == 1
    assert len(probe.rows(PLUMBING.outbox)) == len(probe.rows(PLUMBING.audit)) == 40


def test_a_refused_item_does_not_touch_its_neighbours(probe: Probe) -> None:
    """A problem for one item of a list leaves the others committed."""
    good, bad = together(
        probe,
        probe.committer.call(put_values, Put("a", "1")),
        probe.committer.call(put_values, Put("b", "refuse")),
    )
    assert good == "set a"
    assert isinstance(bad, Problem)
    assert probe.contents() == {"a": "1"}


def test_a_crash_in_a_group_is_answered_to_its_owner_alone(probe: Probe) -> None:
    """A group that fails is run again one by one: the good ones commit, the bad one gets its error."""
    good, bad, later = together(
        probe,
        probe.committer.call(put_values, Put("a", "1")),
        probe.committer.call(put_values, Put("b", "crash")),
        probe.committer.call(put_values, Put("c", "3")),
    )
    assert (good, later) == ("set a", "set c")
    assert isinstance(bad, RuntimeError)
    assert probe.contents() == {"a": "1", "c": "3"}
    assert [row.subject for row in probe.rows(PLUMBING.outbox)] == ["a", "c"]


def test_a_command_that_writes_and_then_refuses_leaves_nothing(probe: Probe) -> None:
    """Neither its rows nor its events stay, alone or in company."""
    good, bad = together(
        probe,
        probe.committer.call(put_values, Put("a", "1")),
        probe.committer.call(put_then_refuse, Put("b", "2")),
    )
    assert good == "set a"
    assert isinstance(bad, Problem)
    assert bad.code == "too_late"
    assert probe.contents() == {"a": "1"}
    assert [row.subject for row in probe.rows(PLUMBING.outbox)] == ["a"]


def test_a_repeated_key_gets_the_stored_answer_and_happens_once(probe: Probe) -> None:
    """The second request is answered with the first's status, body and headers, marked as a replay."""

    async def twice() -> list[Answer]:
        return [
            await probe.committer.call(put_values, Put("a", content), respond=created, key=key("k"))
            for content in ("1", "2")
        ]

    first, second = asyncio.run(twice())
    assert (second.status, second.body) == (first.status, first.body)
    assert second.headers == {"Location": "/x", "Idempotency-Replay": "true"}
    assert probe.contents() == {"a": "1"}
    stored = probe.rows(PLUMBING.idempotency)[0].answer
    assert b"set a" not in stored


def test_a_key_with_another_body_is_refused(probe: Probe) -> None:
    """422, and the first answer stays."""

    async def twice() -> None:
        await probe.committer.call(put_values, Put("a", "1"), respond=created, key=key("k"))
        await probe.committer.call(put_values, Put("a", "2"), respond=created, key=key("k", "other"))

    with pytest.raises(Problem) as refused:
        asyncio.run(twice())
    assert (refused.value.status, refused.value.code) == (422, "idempotency_key_reused")
    assert probe.contents() == {"a": "1"}


def test_a_key_in_progress_is_refused_with_a_time_to_retry(probe: Probe) -> None:
    """409 while the first request waits; one happens."""
    first, second = together(
        probe,
        probe.committer.call(put_values, Put("a", "1"), respond=created, key=key("k")),
        probe.committer.call(put_values, Put("a", "1"), respond=created, key=key("k")),
    )
    assert first.status == 201
    assert isinstance(second, Problem)
    assert (second.status, second.retry_after) == (409, 1)


def test_a_refusal_is_not_remembered(probe: Probe) -> None:
    """Only committed answers are stored: after a refusal the same key may succeed."""

    async def twice() -> Answer:
        with pytest.raises(Problem):
            await probe.committer.call(put_values, Put("a", "refuse"), respond=created, key=key("k"))
        answer: Answer = await probe.committer.call(put_values, Put("a", "1"), respond=created, key=key("k"))
        return answer

    assert asyncio.run(twice()).status == 201


def test_urgent_work_goes_before_what_waits(probe: Probe) -> None:
    """Of tasks that wait, the urgent one runs first."""
    order: list[str] = []

    async def run() -> None:
        others, held = Held(probe, probe.database.writers - 1), Held(probe, 1)
        await others.begin()
        await held.begin()
        slow = probe.committer.run(lambda _: order.append("ordinary"), keys=())
        fast = probe.committer.run(lambda _: order.append("urgent"), urgent=True, keys=())
        both = asyncio.gather(slow, fast)
        await asyncio.sleep(0)
        await held.end()
        await both
        await others.end()

    asyncio.run(run())
    assert order == ["urgent", "ordinary"]


def test_on_postgresql_one_process_runs_transactions_side_by_side(probe: Probe) -> None:
    """As many as it has threads: while the database works for one, the other one computes."""
    assert probe.database.writers == (1 if probe.database.is_sqlite else 2)

    async def run() -> None:
        held = Held(probe, probe.database.writers)
        await held.begin()
        await held.end()

    asyncio.run(run())


def test_requests_share_the_next_commit_though_a_thread_is_free(probe: Probe) -> None:
    """While a group runs, those that come wait together: many small commits would cost more than they bring."""
    begun, release = threading.Event(), threading.Event()

    @touches(lambda _item: ())
    def hold(_work: Work, _item: object) -> None:
        begun.set()
        assert release.wait(10)

    async def run() -> None:
        first = asyncio.ensure_future(probe.committer.call(hold, None))
        await asyncio.to_thread(begun.wait, 10)
        others = []
        for n in range(9):
            others.append(asyncio.ensure_future(probe.committer.call(put_values, Put(f"k{n}", "v"))))
            await asyncio.sleep(0)
            if probe.database.writers > 1:  # a thread is free, and has looked
                await probe.committer.run(lambda work: None, keys=())
        release.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    probe.committer.stop()
    assert probe.commits == 1


def test_a_task_does_not_wait_behind_a_group_while_a_thread_is_free(probe: Probe) -> None:
    """Requests and tasks that wait together go to different threads."""
    release = threading.Event()

    @touches(lambda _item: ())
    def hold(_work: Work, _item: object) -> None:
        assert release.wait(10)

    async def run() -> None:
        held = Held(probe, probe.database.writers)
        await held.begin()
        group = asyncio.ensure_future(probe.committer.call(hold, None))
        task = asyncio.ensure_future(probe.committer.run(lambda work: None, keys=()))
        await asyncio.sleep(0)
        if probe.database.writers == 1:
            release.set()
        await held.end()
        await task
        release.set()
        await group

    asyncio.run(run())


def test_requests_and_tasks_take_turns(probe: Probe) -> None:
    """Tasks that wait in a row do not keep a request from its turn."""
    order: list[str] = []

    @touches(lambda _item: ())
    def ask(_work: Work, item: str) -> None:
        order.append(item)

    async def run() -> None:
        others, held = Held(probe, probe.database.writers - 1), Held(probe, 1)
        await others.begin()
        await held.begin()
        tasks = [probe.committer.run(lambda _: order.append("task"), keys=()) for _ in range(3)]
        all_of_them = asyncio.gather(*tasks, probe.committer.call(ask, "request"))
        await asyncio.sleep(0)
        await held.end()
        await all_of_them
        await others.end()

    asyncio.run(run())
    assert order.index("request") <= 1


def test_a_database_failure_is_tried_again(probe: Probe) -> None:
    """A transaction that the database failed twice goes through the third time, once."""
    tries = 0

    def fails_twice(work: Work) -> None:
        nonlocal tries
        tries += 1
        work.insert(value, [{"key": "a", "content": str(tries)}])
        if tries < 3:
            raise sa.exc.OperationalError("insert", None, Exception("locked"))

    asyncio.run(probe.committer.run(fails_twice))
    assert probe.contents() == {"a": "3"}


def test_a_commit_without_acknowledgement_is_repeated_only_under_a_key(probe: Probe) -> None:
    """It stands and nobody knows: with a key the stored answer is found, without one the caller is told."""
    lost = iter([True])
    commit = probe.database.write

    @contextmanager
    def acknowledged(**keys: Any) -> Iterator[sa.Connection]:
        with commit(**keys) as db:
            yield db
        if probe.contents() and next(lost, False):
            raise sa.exc.OperationalError("COMMIT", None, Exception("connection lost"))

    probe.database.write = acknowledged  # type: ignore[method-assign]
    ran: Counter[str] = Counter()

    def counted(work: Work, item: Put) -> Any:
        ran[item.key] += 1
        return put_values(work, [item])[0]

    with_key, without = together(
        probe,
        probe.committer.call(counted, Put("a", "1"), key=key("one"), respond=created),
        probe.committer.call(counted, Put("b", "1")),
    )
    assert isinstance(without, Problem)
    assert (without.status, without.code) == (503, "outcome_unknown")
    assert (with_key.status, with_key.body) == (201, {"outcome": "set a"})
    assert ran == {"a": 1, "b": 1}
    assert probe.contents() == {"a": "1", "b": "1"}


def test_a_stop_finishes_what_was_accepted(tmp_path: Path) -> None:
    """Requests that wait when the service stops are still answered, and are durable."""
    probe = Probe(tmp_path)

    async def run() -> list[Any]:
        calls = [asyncio.ensure_future(probe.committer.call(put_values, Put(f"k{n}", "v"))) for n in range(5)]
        await asyncio.sleep(0)
        probe.committer.start()
        await asyncio.to_thread(probe.committer.stop)
        return await asyncio.gather(*calls)

    assert asyncio.run(run()) == [f"set k{n}" for n in range(5)]
    assert len(Probe(tmp_path).contents()) == 5


def test_the_key_of_a_caller_who_left_is_free_when_the_request_is_done(probe: Probe) -> None:
    """Not before: until then the same key is refused. Afterwards it gets the stored answer."""

    async def run() -> Answer:
        def ask() -> Any:
            return probe.committer.call(put_values, Put("a", "1"), respond=created, key=key("k"))

        held = Held(probe, probe.database.writers)
        await held.begin()
        first = asyncio.create_task(ask())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(Problem, match="in progress"):
            await ask()
        await held.end()
        await asyncio.to_thread(probe.committer.stop)  # it finishes the group first
        probe.committer.start()
        answer: Answer = await ask()
        return answer

    assert asyncio.run(run()).headers["Idempotency-Replay"] == "true"


def test_stored_answers_are_found_by_their_key_however_many_there_are(tmp_path: Path) -> None:
    """SQLite looks each of them up in the index of the primary key; for a list of triples it reads all."""
    probe = Probe(tmp_path)
    probe.committer.start()
    asked = []

    def listen(_db: Any, _cursor: Any, statement: str, given: Any, *_rest: Any) -> None:
        if "FROM idempotency" in statement:
            asked.append((statement, given))

    sa.event.listen(probe.database._writer, "before_cursor_execute", listen)
    together(
        probe,
        *(probe.committer.call(put_values, Put("a", "1"), respond=created, key=key(n)) for n in "xyz"),
    )
    probe.committer.stop()
    (statement, given), *more = asked
    assert more == []
    with probe.database.read() as db:
        plan = [row.detail for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)]
    assert plan == [
        "SEARCH idempotency USING INDEX sqlite_autoindex_idempotency_1 (client=? AND route=? AND key=?)"
    ]
    probe.database.close()
