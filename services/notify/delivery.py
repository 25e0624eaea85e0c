"""Hands due notices to the carriers: last look, attempts, submissions, outcomes; and ends what waits too long."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, islice, product
from typing import Final, get_args

import sqlalchemy as sa
import structlog

from services.notify.carriers import NotSent, Refused, Submission, Unknown
from services.notify.commands import (
    OURS,
    STOPPING,
    Outgoing,
    begin_attempts,
    expire,
    give_up_open,
    put_aside,
    record_outcomes,
)
from services.notify.domain import (
    CAP,
    Candidate,
    Channel,
    Go,
    Hold,
    Line,
    Notice,
    changed,
    next_opening,
    next_slot,
    pick_mobile,
)
from services.notify.last_look import MOST, LastLook, NoAnswerError
from services.notify.store import Store
from services.notify.work import NotifyWork, Tools
from shared.clock import start_of, today
from shared.privacy import CannotOpenError
from shared.service import Core, Duty, heard
from shared.storage.database import is_transient

PORTION_S: Final = 2.0
"""One look covers as many notices as the carrier takes in so many seconds."""
SLICE_S: Final = 0.05
"""Attempts are committed for so many seconds at once, a slice ahead: after a kill at most two slices are unknown."""
LONGEST_PAUSE_S: Final = 60.0
RECORD_AGAIN_S: Final = (0.05, 0.2, 1.0, 2.0, 4.0)
"""Waits before outcomes are recorded again: the database of a restarted server is back by then, most often."""
STOPPING_AGAIN_S: Final = 0.2
"""The same while the service stops, as long as it waits."""
UNDER_WAY_S: Final = 5.0
"""A stop waits so long for what is under way: a submission takes less, and leaves time to record it."""
LAST_TRY_S: Final = 2.0
"""Then a stop tries so long to record what is owed: there is time for it also after requests that hung."""

log = structlog.get_logger(__name__)

Looked = tuple[Candidate, Go | Hold]
Begun = tuple[list[Outgoing], bool]
Submit = Callable[[Outgoing], Awaitable[Submission]]
"""Hands one message to a carrier. Never raises for what the network does."""


@dataclass(frozen=True)
class Due:
    """What delivery has to do now: notices that may go, and others as they are to wait for slot or account.

    `abandoned`: there are open attempts, whose outcome nobody waits for any more.
    """

    ready: Sequence[Candidate] = ()
    waiting: Sequence[Notice] = ()
    abandoned: bool = False


class Delivery:
    """The duties of sending. One portion runs at a time; no transaction is open while the network is used.

    `channels` has SMS at least. `latest_s`: a submission begins within so many seconds (monotonic) of the
    beginning of its last look. Outcomes that the database does not take are owed; this process records them before
    it delivers anything else, whoever delivers meanwhile. They are lost only with the process.
    """

    def __init__(
        self,
        core: Core[NotifyWork],
        tools: Tools,
        look: LastLook,
        channels: Mapping[Channel, Submit],
        *,
        rate_per_s: float,
        latest_s: float,
    ) -> None:
        self._core = core
        self._tools = tools
        self._look = look
        self._channels = channels
        self._rate = rate_per_s
        self._latest_s = latest_s
        self._pacing = asyncio.Lock()
        self._next_slot = -math.inf
        self._failures = 0
        self._resume_at = -math.inf
        self._stopping = asyncio.Event()
        self._alone = asyncio.Lock()
        """Held by whoever delivers or pays."""
        self._owed: list[tuple[Outgoing, Submission]] = []
        self._looks = core.metrics.counter(
            "last_looks_asked_total",
            "Answers that registry gave before messages left, none included",
            ["answer"],
        )
        self._submissions = core.metrics.counter(
            "submissions_total", "Submissions, by channel and outcome", ["channel", "outcome"]
        )
        # All are there from the start, so that the first one is a rise.
        for answer in ("go", "hold", "none"):
            self._looks.labels(answer)
        for channel, kind in product(channels, get_args(Submission)):
            self._submissions.labels(channel, kind.__name__.lower())
        self._stops = core.metrics.counter(
            "sending_stops_total", "Stops because the carrier refused the account"
        )

    @property
    def duties(self) -> tuple[Duty, ...]:
        """What time asks of notify."""
        return (
            Duty("deliver", self.deliver, self.next_delivery, exclusive=True, at_stop=self.finish),
            # Not exclusive: nobody else knows what this process owes, so it must not wait for the lease.
            Duty("pay", self.pay, self.next_payment),
            Duty("settle", self.settle, self.next_expiry),
        )

    # -- when ----------------------------------------------------------------------------------------

    def next_delivery(self, db: sa.Connection, now: datetime) -> datetime | None:
        """When a hand-over is next to be tried; now while one is in flight."""
        store = Store(db, self._tools.rules)
        if store.open_attempts():
            return now
        due = store.first_due()
        if due is None:
            return None
        at = max(due, now)
        lines = [line for line in store.lines(at).values() if not line.is_off]
        if not lines:
            return None
        if all(line.left == 0 for line in lines):
            at = _tomorrow(at)
        return next_opening(at, store.calendar(), self._tools.rules.hours)

    def next_payment(self, db: sa.Connection, now: datetime) -> datetime | None:
        """Now while an outcome is owed."""
        return now if self._owed else None

    def next_expiry(self, db: sa.Connection, now: datetime) -> datetime | None:
        """When the next wait for a receipt or an outcome is over."""
        return Store(db, self._tools.rules).first_expiry()

    # -- what ----------------------------------------------------------------------------------------

    async def settle(self) -> bool:
        """Ends one portion of the waits that are over."""
        return await self._core.run(expire)

    async def deliver(self) -> bool:
        """Delivers one portion, but nothing while something is owed.

        When the service stops, what is under way is finished and recorded first.
        """
        # Not waited for: by the time it is paid another process may deliver, and what is open be under way there.
        if self._owed:
            return False
        portion = asyncio.ensure_future(self._portion())
        portion.add_done_callback(heard)
        try:
            return await asyncio.shield(portion)
        except asyncio.CancelledError:
            self._stopping.set()
            await asyncio.wait({portion}, timeout=UNDER_WAY_S)
            raise

    async def pay(self) -> bool:
        """Records what is owed; what is under way is finished first, and may have recorded it."""
        async with self._alone:
            if not self._owed:
                return False
            await self._pay()
            return True

    async def finish(self) -> None:
        """Tries to the last to record what is owed, when the service stops; then gives it up."""
        self._stopping.set()
        try:
            async with asyncio.timeout(LAST_TRY_S):
                await self.pay()
        except Exception as error:  # noqa: BLE001 - whatever happened, the process ends now
            self._give_up(len(self._owed), error)

    async def _portion(self) -> bool:
        async with self._alone:
            core = self._core
            due = await core.read(self._due)
            # Nothing is owed: an attempt that is open now belonged to a process, or a step, that died.
            if due.abandoned:
                await core.run(give_up_open, urgent=True)
                return True
            if core.clock.monotonic() < self._resume_at:
                return False
            if due.waiting:
                await core.run(partial(put_aside, waiting=due.waiting))
            if not due.ready:
                return bool(due.waiting)
            began, looked_at, looked_wall = core.clock.monotonic(), core.clock.now(), core.clock.wall()
            try:
                looked = await self._looked(due.ready)
            except NoAnswerError as error:
                self._looks.labels("none").inc(len(due.ready))
                self._pause("last_look_failed", str(error))
                return False
            begin = partial(begin_attempts, looked_at=looked_at, looked_wall=looked_wall)
            return await self._hand_over_all(looked, begin, began)

    async def _hand_over_all(
        self, looked: Sequence[Looked], begin: Callable[..., Begun], began: float
    ) -> bool:
        """Begins and submits slice by slice, as far as the look reaches; True when something moved on.

        While a slice is submitted the next one is begun: the carrier's rate is not lost on the database. Where
        outcomes can't be recorded, nothing of that next one is submitted.
        """
        moved, down = False, False
        slices = _slices(looked, max(1, math.ceil(self._rate * SLICE_S)))

        async def begun() -> Begun | None:
            if (
                down
                or self._stopping.is_set()
                or self._is_late(began)
                or (part := next(slices, None)) is None
            ):
                return None
            return await self._core.run(partial(begin, looked=part), urgent=True)

        ahead = await begun()
        while ahead is not None:
            (messages, touched), ahead = ahead, None
            submitting = asyncio.ensure_future(self._submit_all(messages, began))
            try:
                try:
                    ahead = await begun()
                finally:
                    outcomes = await submitting
            except Exception:
                if ahead is not None:
                    self._owed += [(message, NotSent("paused")) for message in ahead[0]]
                raise
            # A WeChat that is away waits by itself; SMS go on meanwhile.
            if any(_is_down(outcome) for channel, outcome in outcomes if channel is Channel.SMS):
                down = True
                self._pause("carrier_unreachable", "not sent")  # the slice ahead is released by it
            late = [isinstance(outcome, NotSent) and outcome.why == "late" for _, outcome in outcomes]
            moved |= touched and not (late and all(late))
        if down:
            return False
        if moved:
            self._failures = 0
        elif self._is_late(began):
            self._pause("look_too_slow", "no time was left to submit")
        return moved

    def _is_late(self, began: float) -> bool:
        return self._core.clock.monotonic() - began > self._latest_s

    async def _looked(self, candidates: Sequence[Candidate]) -> list[Looked]:
        """Each candidate with registry's answer. What takes back a wrong message goes in any case."""
        asked = [candidate for candidate in candidates if not candidate.notice.is_correction]
        answers = await self._look.look(asked) if asked else []
        for answer in answers:
            self._looks.labels(type(answer).__name__.lower()).inc()
        told = {c.notice.id: answer for c, answer in zip(asked, answers, strict=True)}
        return [(c, told.get(c.notice.id, Go())) for c in candidates]

    def _due(self, db: sa.Connection) -> Due:
        now = self._core.clock.now()
        store = Store(db, self._tools.rules)
        if store.open_attempts():
            return Due(abandoned=True)
        at = self.next_delivery(db, now)
        if at is None or at > now:
            return Due()
        limit = min(max(1, math.ceil(self._rate * PORTION_S)), MOST)
        return self._gather(store, store.due_notices(now, limit), now)

    def _gather(self, store: Store, first: Sequence[Notice], now: datetime) -> Due:
        """The notices with whatever else is due behind their phones, as whole messages, at most `MOST`."""
        rules, of, lines = self._tools.rules, self._tools.phones.of, store.lines(now)
        found = {c.notice.id: c for c in self._candidates(store, first, lines)}
        shared = store.shared_phones({of(c.mobile) for c in found.values() if c.mobile})
        others = [notice for notice in store.due_behind(shared, now) if notice.id not in found]
        found |= {c.notice.id: c for c in self._candidates(store, others, lines)}
        calendar = store.calendar()
        messages: dict[object, list[Candidate]] = {}
        waiting = []
        for candidate in found.values():
            notice, index = candidate.notice, of(candidate.mobile) if candidate.mobile else ""
            if not notice.is_correction and index in shared:
                slot = next_slot(notice.due_at or now, calendar, rules.hours, rules.slot)
                if slot > now:
                    waiting.append(changed(notice, look_again_at=slot))
                    continue
            if index and (why := lines[candidate.channel].obstacle(index)):
                again = {"look_again_at": _tomorrow(now)} if why == CAP else {}
                waiting.append(changed(notice, held=(why,), mobile_index=index, **again))
                continue
            messages.setdefault(candidate.message, []).append(candidate)
        return Due(_whole(messages.values()), waiting)

    def _candidates(
        self, store: Store, notices: Sequence[Notice], lines: Mapping[Channel, Line]
    ) -> list[Candidate]:
        tools = self._tools
        contacts = store.contacts(notice.uscc for notice in notices)
        corrected = {notice.corrects for notice in notices if notice.corrects}
        wrong, parallels = store.attempts(corrected), store.parallels(corrected)
        found = []
        for notice in notices:
            version, sealed = contacts.get(notice.uscc, (0, b""))
            try:
                if notice.corrects:
                    row = wrong[notice.corrects]
                    mobile: str | None = tools.open_mobile(row.reference, row.mobile)
                else:
                    clear = tools.open_contacts(notice.uscc, sealed) if version else []
                    mobile = pick_mobile(clear, tools.rules.contact_order)
            except (CannotOpenError, ValueError):
                found.append(Candidate(notice, None, version, readable=False))
            else:
                taken_back = parallels.get((notice.lead_id, notice.corrects)) if notice.corrects else None
                found.append(Candidate(notice, mobile, version, wrong=tuple(taken_back or ())))
        line = lines.get(Channel.WECHAT)
        return (
            self._with_followers(store, found, line) if line and Channel.WECHAT in self._channels else found
        )

    def _with_followers(self, store: Store, candidates: Sequence[Candidate], line: Line) -> list[Candidate]:
        """Names the follower where a notice may go by WeChat; what its account does not let through goes by SMS."""
        tools = self._tools
        index = {
            c.notice.id: tools.phones.of(c.mobile)
            for c in candidates
            if c.mobile and not c.notice.sms_only and tools.rules.by_wechat(c.notice)
        }
        index = {id_: phone for id_, phone in index.items() if line.obstacle(phone) is None}
        openids = {}
        for mobile_index, sealed in store.followers(index.values()).items():
            try:
                openids[mobile_index] = tools.open_openid(mobile_index, sealed)
            except CannotOpenError:
                log.warning(
                    "binding_unreadable", service=self._core.name, fix="goes by SMS until bound again"
                )
        return [replace(c, openid=openids.get(index.get(c.notice.id, ""))) for c in candidates]

    # -- the carrier ---------------------------------------------------------------------------------

    async def _submit_all(
        self, messages: Sequence[Outgoing], began: float
    ) -> list[tuple[Channel, Submission]]:
        """Submits at the carrier's rate and records outcomes as they come. Also when it raises nothing is under way."""
        pending = {asyncio.ensure_future(self._submit(message, began)) for message in messages}
        recorded: list[tuple[Channel, Submission]] = []
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                told = [task.result() for task in done]
                self._owed += told
                await self._pay()
                recorded += [(message.attempt.channel, outcome) for message, outcome in told]
        finally:
            if pending:  # recording failed: the next portion must not overlap this one
                done, _ = await asyncio.wait(pending)
                self._owed += [task.result() for task in done]
        return recorded

    async def _pay(self) -> None:
        """Records what is owed. While the database is away it raises, and that stays owed.

        What can't be recorded for another reason ends unknown, and nobody sends it again.
        """
        try:
            await self._record(len(self._owed))
        except Exception as error:
            if is_transient(error):
                raise
            # Owed still, what can never be recorded would stop all sending; and it must not take the others with it.
            while self._owed:
                try:
                    await self._record(1)
                except Exception as its_own:
                    if is_transient(its_own):
                        raise
                    self._give_up(1, its_own)
            raise

    async def _record(self, number: int) -> None:
        """Insists for a while on the first outcomes that are owed."""
        first = self._owed[:number]
        outcomes = [(message.attempt.reference, outcome) for message, outcome in first]
        waits = iter(RECORD_AGAIN_S)
        while True:
            try:
                await self._core.run(partial(record_outcomes, outcomes=outcomes), urgent=True)
            except Exception as error:
                wait = STOPPING_AGAIN_S if self._stopping.is_set() else next(waits, None)
                if wait is None or not is_transient(error):
                    raise
                await self._wait(wait)
            else:
                break
        del self._owed[:number]
        for message, outcome in first:
            self._count(message.attempt.channel, outcome)

    async def _wait(self, seconds: float) -> None:
        """Waits; a stop cuts it short, for what is not recorded in its few seconds ends unknown."""
        if self._stopping.is_set():
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _give_up(self, number: int, error: Exception) -> None:
        """Forgets the first outcomes that are owed: their attempts end unknown."""
        if number:
            del self._owed[:number]
            log.error(
                "outcomes_unknown", service=self._core.name, outcomes=number, error=type(error).__name__
            )

    def _count(self, channel: Channel, outcome: Submission) -> None:
        self._submissions.labels(channel, type(outcome).__name__.lower()).inc()
        if isinstance(outcome, Refused) and outcome.error in STOPPING:
            # A WeChat account that refuses everything sends everybody to SMS: a person has to see that too.
            stops = channel is Channel.SMS
            if stops:
                self._stops.inc()
            event = "sending_stopped" if stops else "wechat_refused"
            log.error(event, service=self._core.name, code=outcome.code, fix=outcome.text)

    async def _submit(self, message: Outgoing, began: float) -> tuple[Outgoing, Submission]:
        await self._turn()
        try:
            # The brake is looked at each time, so that a stop acts within a second whatever is under way.
            brakes = await self._core.read(lambda db: Store(db, self._tools.rules).brakes())
        except Exception as error:  # noqa: BLE001 - whatever happened, the outcome has to be recorded
            log.warning("brake_unread", service=self._core.name, error=type(error).__name__)
            return message, NotSent("brake unread")
        admitted = brakes[message.attempt.channel].admits(message.attempt.mobile_index)
        try:
            return message, await self._hand_over(message, began, admitted=admitted)
        except Exception as error:  # noqa: BLE001 - as above; and something may have left
            log.warning("submission_failed", service=self._core.name, error=type(error).__name__)
            return message, Unknown(type(error).__name__)

    async def _turn(self) -> None:
        """Waits for the carrier's next slot. Counted from the last one that was used: a stall is not made up for."""
        clock = self._core.clock
        async with self._pacing:
            await asyncio.sleep(self._next_slot - clock.monotonic())
            self._next_slot = clock.monotonic() + 1 / self._rate

    async def _hand_over(self, message: Outgoing, began: float, *, admitted: bool) -> Submission:
        if self._stopping.is_set():
            return NotSent("stopping")
        if self._core.clock.monotonic() < self._resume_at:
            return NotSent("paused")
        if not admitted:
            return NotSent("stopped")
        if self._is_late(began):
            return NotSent("late")
        return await self._channels[message.attempt.channel](message)

    def _pause(self, what: str, why: str) -> None:
        """Waits longer, in real time, each time that a neighbour fails."""
        pause = min(2.0 ** min(self._failures, 10), LONGEST_PAUSE_S)  # days of them are no number any more
        self._failures += 1
        self._resume_at = self._core.clock.monotonic() + pause
        log.warning(what, service=self._core.name, why=why, pause_s=pause)


def _tomorrow(at: datetime) -> datetime:
    return start_of(today(at) + timedelta(days=1))


def _is_down(outcome: Submission) -> bool:
    return isinstance(outcome, NotSent) and outcome.why not in OURS


def _slices(looked: Sequence[Looked], size: int) -> Iterator[list[Looked]]:
    """So many messages at a time, each whole."""
    messages: dict[object, list[Looked]] = {}
    for candidate, answer in looked:
        messages.setdefault(candidate.message, []).append((candidate, answer))
    whole = iter(messages.values())
    while part := list(chain.from_iterable(islice(whole, size))):
        yield part


def _whole(messages: Iterable[Sequence[Candidate]]) -> list[Candidate]:
    """As many whole messages as one look may ask about; of one that is longer, as much as fits."""
    ready: list[Candidate] = []
    for members in messages:
        if ready and len(ready) + len(members) > MOST:
            break
        ready += members[:MOST]
    return ready
