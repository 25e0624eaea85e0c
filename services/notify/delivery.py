"""Hands due notices to the carrier: last look, attempts, submissions, outcomes; and ends what waits too long."""

import asyncio
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from services.notify.carriers import Carrier, NotSent, Refused, Submission, Unknown
from services.notify.commands import STOPPING, begin_attempts, expire, give_up_open, record_outcomes
from services.notify.domain import (
    Attempt,
    Candidate,
    Go,
    Hold,
    SendingState,
    next_opening,
    pick_mobile,
)
from services.notify.last_look import MOST, LastLook, NoAnswerError
from services.notify.store import Store
from services.notify.work import NotifyWork, Tools
from shared.clock import start_of, today
from shared.privacy import CannotOpenError
from shared.service import Core, Duty

PORTION_S: Final = 2.0
"""One look covers as many notices as the carrier takes in so many seconds."""
SLICE_S: Final = 0.1
"""Attempts are committed for so many seconds at once: no more than those are unknown after a kill."""
LONGEST_PAUSE_S: Final = 60.0

log = structlog.get_logger(__name__)

Begun = tuple[list[Attempt], bool]

_OURS: Final = frozenset({"late", "stopped", "stopping"})
"""Why a submission was not begun by us; anything else that was not sent is the line's fault."""


class Delivery:
    """The duties of sending. One portion runs at a time; no transaction is open while the network is used.

    `latest_s`: a submission begins within so many seconds (monotonic) of the beginning of its last look.
    """

    def __init__(
        self,
        core: Core[NotifyWork],
        tools: Tools,
        look: LastLook,
        carrier: Carrier,
        *,
        rate_per_s: float,
        latest_s: float,
    ) -> None:
        self._core = core
        self._tools = tools
        self._look = look
        self._carrier = carrier
        self._rate = rate_per_s
        self._latest_s = latest_s
        self._next_slot = -math.inf
        self._failures = 0
        self._resume_at = -math.inf
        self._stopping = False
        self._looks = core.metrics.counter("looks_total", "Answers of the last look, by notice", ["answer"])
        self._submissions = core.metrics.counter("submissions_total", "Submissions, by outcome", ["outcome"])
        self._stops = core.metrics.counter(
            "sending_stops_total", "Stops because the carrier refused the account"
        )

    @property
    def duties(self) -> tuple[Duty, ...]:
        """What time asks of notify."""
        return Duty("deliver", self.deliver, self.next_delivery), Duty(
            "settle", self.settle, self.next_expiry
        )

    # -- when ----------------------------------------------------------------------------------------

    def next_delivery(self, db: sa.Connection, now: datetime) -> datetime | None:
        """When a hand-over is next to be tried; now while one is in flight."""
        store = Store(db, self._tools.rules)
        if store.open_attempts():
            return now
        due = store.first_due()
        if due is None or store.sending().state is SendingState.OFF:
            return None
        at = max(due, now)
        if store.left_today(at) == 0:
            at = start_of(today(at) + timedelta(days=1))
        return next_opening(at, store.calendar(), self._tools.rules.hours)

    def next_expiry(self, db: sa.Connection, now: datetime) -> datetime | None:
        """When the next wait for a receipt or an outcome is over."""
        return Store(db, self._tools.rules).first_expiry()

    # -- what ----------------------------------------------------------------------------------------

    async def settle(self) -> bool:
        """Ends one portion of the waits that are over."""
        return await self._core.run(expire)

    async def deliver(self) -> bool:
        """Delivers one portion. When the service stops, what is under way is finished and recorded first."""
        portion = asyncio.ensure_future(self._portion())
        try:
            return await asyncio.shield(portion)
        except asyncio.CancelledError:
            self._stopping = True
            await asyncio.wait({portion})
            raise

    async def _portion(self) -> bool:
        core = self._core
        # A portion leaves no attempt open: one that is open now belonged to a process, or a step, that died.
        if await core.read(lambda db: Store(db, self._tools.rules).open_attempts()):
            await core.run(give_up_open, urgent=True)
            return True
        if core.clock.monotonic() < self._resume_at:
            return False
        candidates = await core.read(self._candidates)
        if not candidates:
            return False
        began, looked_at, looked_wall = core.clock.monotonic(), core.clock.now(), core.clock.wall()
        try:
            answers = await self._look.look(candidates)
        except NoAnswerError as error:
            self._looks.labels("none").inc(len(candidates))
            self._pause("last_look_failed", str(error))
            return False
        looked = list(zip(candidates, answers, strict=True))
        for answer in answers:
            self._looks.labels(type(answer).__name__.lower()).inc()
        begin = partial(begin_attempts, looked_at=looked_at, looked_wall=looked_wall)
        return await self._hand_over_all(looked, begin, began)

    async def _hand_over_all(
        self, looked: Sequence[tuple[Candidate, Go | Hold]], begin: Callable[..., Begun], began: float
    ) -> bool:
        """Begins and submits slice by slice, as far as the look reaches; True when something moved on."""
        moved, size = False, max(1, math.ceil(self._rate * SLICE_S))
        for start in range(0, len(looked), size):
            if self._stopping or self._is_late(began):
                break
            attempts, changed = await self._core.run(
                partial(begin, looked=looked[start : start + size]), urgent=True
            )
            outcomes = await self._submit_all(attempts, began)
            unsent = {outcome.why for outcome in outcomes if isinstance(outcome, NotSent)}
            if unsent - _OURS:
                self._pause("carrier_unreachable", "not sent")
                return False
            moved |= changed and not (unsent == {"late"} and all(isinstance(o, NotSent) for o in outcomes))
        if moved:
            self._failures = 0
        elif self._is_late(began):
            self._pause("look_too_slow", "no time was left to submit")
        return moved

    def _is_late(self, began: float) -> bool:
        return self._core.clock.monotonic() - began > self._latest_s

    def _candidates(self, db: sa.Connection) -> list[Candidate]:
        now = self._core.clock.now()
        due = self.next_delivery(db, now)
        if due is None or due > now:
            return []
        store = Store(db, self._tools.rules)
        limit = min(max(1, math.ceil(self._rate * PORTION_S)), MOST)
        left = store.left_today(now)
        notices = store.due_notices(now, limit if left is None else min(limit, left))
        contacts = store.contacts(notice.uscc for notice in notices)
        found = []
        for notice in notices:
            version, sealed = contacts.get(notice.uscc, (0, b""))
            try:
                clear = self._tools.open_contacts(notice.uscc, sealed) if version else []
            except (CannotOpenError, ValueError):
                found.append(Candidate(notice, None, version, readable=False))
                continue
            found.append(Candidate(notice, pick_mobile(clear), version))
        return found

    # -- the carrier ---------------------------------------------------------------------------------

    async def _submit_all(self, attempts: Sequence[Attempt], began: float) -> list[Submission]:
        """Submits at the carrier's rate and records outcomes as they come."""
        pending = {asyncio.ensure_future(self._submit(attempt, began)) for attempt in attempts}
        recorded: list[Submission] = []
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                outcomes = [task.result() for task in done]
                await self._core.run(partial(record_outcomes, outcomes=outcomes), urgent=True)
                for _, outcome in outcomes:
                    self._count(outcome)
                    recorded.append(outcome)
        finally:
            if pending:  # recording failed: the next portion must not overlap this one
                await asyncio.wait(pending)
        return recorded

    def _count(self, outcome: Submission) -> None:
        self._submissions.labels(type(outcome).__name__.lower()).inc()
        if isinstance(outcome, Refused) and outcome.error in STOPPING:
            self._stops.inc()
            log.error("sending_stopped", service=self._core.name, code=outcome.code, fix=outcome.text)

    async def _submit(self, attempt: Attempt, began: float) -> tuple[str, Submission]:
        clock = self._core.clock
        slot = max(self._next_slot, clock.monotonic())
        self._next_slot = slot + 1 / self._rate
        try:
            await asyncio.sleep(slot - clock.monotonic())
            # The brake is looked at each time, so that a stop acts within a second whatever is under way.
            sending = await self._core.read(lambda db: Store(db, self._tools.rules).sending())
            outcome = await self._hand_over(attempt, began, admitted=sending.admits(attempt.mobile_index))
        except Exception as error:  # noqa: BLE001 - whatever happened, the outcome has to be recorded
            log.warning("submission_failed", service=self._core.name, error=type(error).__name__)
            outcome = Unknown(type(error).__name__)
        return attempt.reference, outcome

    async def _hand_over(self, attempt: Attempt, began: float, *, admitted: bool) -> Submission:
        if self._stopping:
            return NotSent("stopping")
        if not admitted:
            return NotSent("stopped")
        if self._is_late(began):
            return NotSent("late")
        return await self._carrier.submit(attempt.mobile, attempt.text)

    def _pause(self, what: str, why: str) -> None:
        """Waits longer, by wall time, each time that a neighbour fails."""
        pause = min(2.0**self._failures, LONGEST_PAUSE_S)
        self._failures += 1
        self._resume_at = self._core.clock.monotonic() + pause
        log.warning(what, service=self._core.name, why=why, pause_s=pause)
