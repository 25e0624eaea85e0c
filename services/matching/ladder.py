"""Where a lead stands on the ladder of its rule: what was sent, how long it waits, what comes next. Pure.

A stage begins with its notice. The first end of the notice starts the wait; the step after it is taken on
the last working day of the wait. A day on which the lead was held, if only for a part of it, does not count.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from shared.calendar import Calendar
from shared.clock import start_of, today

CORRECTION = "correction"
"""The stage of messages that take an earlier one back. It is on no ladder."""

MESSAGE = "message"
"""The action of a stage that is taken without a person."""


class Evidence(StrEnum):
    """How much speaks for a breach, from little to much."""

    WEAK = "weak"
    MEDIUM = "medium"
    STRONG = "strong"

    def reaches(self, minimum: "Evidence") -> bool:
        """Whether this is at least so much."""
        order = list(Evidence)
        return order.index(self) >= order.index(minimum)


class Word(StrEnum):
    """What notify said last of the notice of a lead's stage."""

    HANDED_OVER = "handed_over"
    DELIVERED = "delivered"
    UNREACHED = "unreached"
    WITHDRAWN = "withdrawn"


class NextStep(StrEnum):
    """What a person has to do next with a lead; beside these, the name of a stage can be the next step."""

    VISIT = "visit"
    EXEMPTION = "exemption"
    RESOLVE = "resolve"
    CORRECT_DATA = "correct_data"
    RECHECK = "recheck"
    DECIDE = "decide"


class VisitState(StrEnum):
    """`joined`: asked for while another visit of the episode was open, which answers this one too.

    `cancelled`: the lead ended, or the notice arrived after all, before anybody looked in.
    """

    OPEN = "open"
    JOINED = "joined"
    DONE = "done"
    CANCELLED = "cancelled"


class VisitResult(StrEnum):
    """What the town found."""

    ENROLLED = "enrolled"
    INSURED_ELSEWHERE = "insured_elsewhere"
    NO_EMPLOYEES = "no_employees"
    MOVED = "moved"
    PROMISED = "promised"
    REFUSED = "refused"
    NOT_FOUND = "not_found"


_ASKS_FOR = {
    VisitResult.ENROLLED: NextStep.RECHECK,
    VisitResult.INSURED_ELSEWHERE: NextStep.RESOLVE,
    VisitResult.NO_EMPLOYEES: NextStep.EXEMPTION,
    VisitResult.MOVED: NextStep.CORRECT_DATA,
    VisitResult.PROMISED: NextStep.RECHECK,
    VisitResult.REFUSED: NextStep.DECIDE,
    VisitResult.NOT_FOUND: NextStep.CORRECT_DATA,
}
_ENDS_THE_WAIT = frozenset({VisitResult.INSURED_ELSEWHERE, VisitResult.NO_EMPLOYEES})
HOLDS_BACK = _ENDS_THE_WAIT | {VisitResult.ENROLLED, VisitResult.MOVED}
"""Findings that the next message would contradict, or that make its facts doubtful: it waits for an official."""
_LATER = frozenset({VisitResult.ENROLLED, VisitResult.PROMISED})


@dataclass(frozen=True)
class Stage:
    """One rung. Evidence below `minimum_evidence` does not reach it; with `visit` the town looks in as well."""

    name: str
    action: str
    audience: str
    minimum_evidence: Evidence
    wait_working_days: int
    visit: bool


@dataclass(frozen=True)
class Ladder:
    """The stages in order, and within how many working days persons do what is asked of them."""

    stages: tuple[Stage, ...]
    follow_up_working_days: int
    recheck_working_days: int

    def at(self, name: str) -> Stage:
        """The stage of this name; the first where the city pack has dropped it since."""
        return next((stage for stage in self.stages if stage.name == name), self.stages[0])

    def after(self, name: str, evidence: Evidence) -> Stage | None:
        """The next stage, if there is one and the evidence reaches it."""
        place = self.stages.index(self.at(name)) + 1
        found = self.stages[place] if place < len(self.stages) else None
        return found if found and evidence.reaches(found.minimum_evidence) else None


@dataclass(kw_only=True)
class OnLadder:
    """The part of a lead that the ladder moves.

    `notice` is the last word on the notice of this stage, None until it ends; `messaged`: any message of
    this episode was handed over. `wait_left` working days are left after the day `wait_from`, which is None
    while the wait stands still. `act_at` is when the next step is taken, None when only news can bring it on:
    a wait that is over waits on until participations are complete through the day `waits_for`.
    """

    stage: str
    evidence_class: str
    held: list[str]
    next_step: str | None
    next_on: date | None
    notice: str | None = None
    messaged: bool = False
    wait_left: int | None = None
    wait_from: date | None = None
    act_at: datetime | None = None
    waits_for: date | None = None


@dataclass(frozen=True)
class Course:
    """How leads move on a ladder, seen from one day."""

    ladder: Ladder
    calendar: Calendar
    today: date

    def begin(self, lead: OnLadder, stage: Stage) -> None:
        """Puts a lead on a stage, whose notice has to leave next."""
        lead.stage, lead.next_step, lead.notice = stage.name, stage.name, None
        lead.next_on = self.calendar.next_working_day(self.today)
        self._end_wait(lead)

    def hear(self, lead: OnLadder, word: Word, on: date) -> None:
        """Takes in what became of the notice of the lead's stage, on which day."""
        first = lead.notice in (None, Word.WITHDRAWN)
        recovered = lead.notice == Word.UNREACHED and word is not Word.UNREACHED
        lead.notice = word
        if word is Word.WITHDRAWN:
            self._end_wait(lead)
            self.ask(lead, NextStep.DECIDE, within=1)
            return
        if first:
            lead.wait_left = self.ladder.at(lead.stage).wait_working_days
            lead.wait_from = None if lead.held else on
        if word is Word.UNREACHED:
            self.ask(lead, NextStep.VISIT, within=self.ladder.follow_up_working_days)
        elif lead.next_step == lead.stage or (recovered and lead.next_step == NextStep.VISIT):
            self._show_next(lead)
        self.date_step(lead)

    def visited(self, lead: OnLadder, result: VisitResult) -> None:
        """Takes in what the town found. Where nobody is to be insured, no further message is sent by itself."""
        if result in _ENDS_THE_WAIT:
            self._end_wait(lead)
        later = result in _LATER
        within = self.ladder.recheck_working_days if later else self.ladder.follow_up_working_days
        self.ask(lead, _ASKS_FOR[result], within=within)

    def ask(self, lead: OnLadder, step: NextStep, *, within: int) -> None:
        """Makes something a person does the next step, due in so many working days."""
        lead.next_step, lead.next_on = step, self._in(within)

    def stand_still(self, lead: OnLadder) -> None:
        """The lead is held from today on; whoever holds it looks again at the re-check."""
        if lead.wait_left is not None and lead.wait_from is not None:
            gone = self.calendar.working_days_between(lead.wait_from, self.today)
            lead.wait_left = max(lead.wait_left - gone, 0)
        lead.wait_from = lead.act_at = lead.waits_for = None
        lead.next_on = self._in(self.ladder.recheck_working_days)

    def go_on(self, lead: OnLadder) -> None:
        """The lead is held no longer: what is left of its wait counts from tomorrow on."""
        if lead.wait_left is not None:
            lead.wait_from = self.today
        if lead.notice is None and lead.next_step == lead.stage:
            lead.next_on = self.calendar.next_working_day(self.today)
        else:
            lead.next_on = self._in(self.ladder.follow_up_working_days)
        self.date_step(lead)

    def date_step(self, lead: OnLadder) -> None:
        """Sets when the step after a running wait is taken; on a provisional calendar it is not."""
        if lead.wait_left is None or lead.wait_from is None:
            return
        end = self.calendar.add_working_days(lead.wait_from, lead.wait_left)
        lead.act_at, lead.waits_for = None if end.provisional else start_of(end.day), None
        if lead.next_step not in set(NextStep) or self._is_last(lead):
            lead.next_on = end.day

    def climb(self, lead: OnLadder, now: datetime, complete_through: date | None) -> Stage | None:
        """Takes the step after a wait that is over. Returns the stage whose message has to leave now.

        It is not taken before participations are complete through the day before: unknown is no breach. What
        no message does is a person's: the next stage, or a visit where the ladder ends.
        """
        if lead.act_at is None or lead.act_at > now:
            return None
        needed = today(lead.act_at) - timedelta(days=1)
        if complete_through is None or complete_through < needed:
            lead.act_at, lead.waits_for = None, needed
            return None
        stage = self._after(lead)
        if stage is not None and stage.action == MESSAGE:
            self.begin(lead, stage)
            return stage
        self._end_wait(lead)
        if lead.next_step not in set(NextStep) - {NextStep.VISIT}:
            lead.next_step = stage.name if stage else NextStep.VISIT
            lead.next_on = self._in(self.ladder.recheck_working_days)
        return None

    def _show_next(self, lead: OnLadder) -> None:
        stage = self._after(lead)
        lead.next_step = stage.name if stage else NextStep.VISIT

    def _is_last(self, lead: OnLadder) -> bool:
        """Whether the wait itself leads up to the visit that is the next step."""
        return (
            lead.next_step == NextStep.VISIT and lead.notice != Word.UNREACHED and self._after(lead) is None
        )

    def _after(self, lead: OnLadder) -> Stage | None:
        return self.ladder.after(lead.stage, Evidence(lead.evidence_class))

    def _end_wait(self, lead: OnLadder) -> None:
        lead.wait_left = lead.wait_from = lead.act_at = lead.waits_for = None

    def _in(self, working_days: int) -> date:
        return self.calendar.add_working_days(self.today, working_days).day
