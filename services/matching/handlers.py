"""How matching reacts to what registry and notify tell. The whole of it is the table at the bottom.

Facts of one unit come in order; each is taken in and the case considered again before the next.
"""

from collections.abc import Sequence
from datetime import date

from services.matching.domain import Case, Fact, Lead, Step, Unit, owes_correction, start_clock
from services.matching.ladder import CORRECTION, Word
from services.matching.store import PARTICIPATIONS
from services.matching.work import MatchingWork
from shared.calendar import Year
from shared.clock import today
from shared.events.notify import (
    NoticeDelivered,
    NoticeFacts,
    NoticeHandedOver,
    NoticeUnreached,
    NoticeWithdrawn,
)
from shared.events.registry import (
    DataComplete,
    IntakeDisputed,
    IntakeSettled,
    ParticipationCancelled,
    ParticipationEnded,
    ParticipationFacts,
    ParticipationStarted,
    ReferenceChanged,
    UnitChanged,
    UnitClosed,
    UnitFacts,
    UnitRegistered,
)
from shared.messaging.consumer import Received, on
from shared.storage.work import Cause

CHUNK = 500
"""Units considered at once when a new calendar moves deadlines."""


# -- units ---------------------------------------------------------------------------------------------


def take_unit_facts(work: MatchingWork, received: Sequence[Received[UnitFacts]]) -> None:
    """Starts, moves, suspends or stops the clock of each unit as its new facts ask."""
    cases = work.kept_cases(item.event.uscc for item in received)
    for item in received:
        case, unit = cases[item.event.uscc], _unit(item.event)
        if case.unit is not None and case.unit.version >= unit.version:
            continue
        if case.clock is None:
            about = work.circumstances(case)
            start_clock(case, unit, about, recorded_at=item.time, partition=item.partition)
        case.unit = unit
        work.reconsider(case, item.cause)


def _unit(event: UnitFacts) -> Unit:
    return Unit(
        uscc=event.uscc,
        name=event.unit_name,
        kind=event.kind,
        status=event.status,
        established_on=event.established_on,
        town=event.town,
        code_confirmed=event.code_confirmed,
        contact_version=event.contact_version,
        version=event.version,
        origin=event.origin,
    )


# -- participations ------------------------------------------------------------------------------------


def take_started(work: MatchingWork, received: Sequence[Received[ParticipationStarted]]) -> None:
    """Stops the clock or resolves the lead of a unit that insures somebody; a future start is waited for."""
    _take_participations(work, received, "in_force")


def take_ended(work: MatchingWork, received: Sequence[Received[ParticipationEnded]]) -> None:
    """Keeps the end. It was true until then, so it brings no clock back."""
    _take_participations(work, received, "ended")


def _take_participations(
    work: MatchingWork, received: Sequence[Received[ParticipationFacts]], state: str
) -> None:
    of_units = _through_units(received)
    cases = work.kept_cases(uscc for uscc, _ in of_units)
    _keep_participations(work, of_units, state)
    for uscc, item in of_units:
        case, event = cases[uscc], item.event
        if not work.rule.is_voided_by(event.insurance, event.form):
            continue
        if case.enrolled_from is None or event.started_on < case.enrolled_from:
            case.enrolled_from = event.started_on
            work.reconsider(case, item.cause)


def take_back_cancelled(work: MatchingWork, received: Sequence[Received[ParticipationCancelled]]) -> None:
    """Gives a unit its clock back, with the old deadline, when nothing true is left that stopped it."""
    of_units = _through_units(received)
    usccs = [uscc for uscc, _ in of_units]
    cases, starts = work.kept_cases(usccs), work.store.starts(usccs)
    _keep_participations(work, of_units, "cancelled")
    for uscc, item in of_units:
        case = cases[uscc]
        if starts[uscc].pop(item.event.participation_id, None) is not None:
            case.enrolled_from = min(starts[uscc].values(), default=None)
            work.reconsider(case, item.cause)


def _through_units(
    received: Sequence[Received[ParticipationFacts]],
) -> list[tuple[str, Received[ParticipationFacts]]]:
    return [(item.event.uscc, item) for item in received if item.event.uscc is not None]


def _keep_participations(
    work: MatchingWork, of_units: Sequence[tuple[str, Received[ParticipationFacts]]], state: str
) -> None:
    work.store.put_participations(
        {
            "id": item.event.participation_id,
            "uscc": uscc,
            "person": item.event.person,
            "insurance": item.event.insurance,
            "form": item.event.form,
            "started_on": item.event.started_on,
            "state": state,
            "taken_in_at": work.now,
        }
        for uscc, item in of_units
    )


# -- rows in dispute ------------------------------------------------------------------------------------


def take_disputed(work: MatchingWork, received: Sequence[Received[IntakeDisputed]]) -> None:
    """Holds clock and lead of a unit that a rejected row may say is insured."""
    cases = work.kept_cases(item.event.uscc for item in received)
    rows = [item.event.model_dump(include={"uscc", "batch_id", "row"}) for item in received]
    work.store.dispute(list({tuple(row.values()): row for row in rows}.values()))
    for item in received:
        cases[item.event.uscc].disputed = True
        work.reconsider(cases[item.event.uscc], item.cause)


def take_settled(work: MatchingWork, received: Sequence[Received[IntakeSettled]]) -> None:
    """Lets them go on when the last such row is settled."""
    cases = work.kept_cases(item.event.uscc for item in received)
    for item in received:
        event = item.event
        cases[event.uscc].disputed = work.store.settle(event.uscc, event.batch_id, event.row)
        work.reconsider(cases[event.uscc], item.cause)


# -- what concerns every unit --------------------------------------------------------------------------


def take_complete(work: MatchingWork, received: Sequence[Received[DataComplete]]) -> None:
    """Lets clocks and ladders go on that waited for participations of these days. It only moves forward."""
    work.save_kept()
    known: dict[str, dict[int, date]] = {}
    for item in received:
        dataset, through = item.event.dataset, item.event.through
        days = known.setdefault(dataset, work.store.complete(dataset))
        days[item.partition] = max(through, days.get(item.partition, through))
    for dataset, days in known.items():
        work.store.put_complete(dataset, days)
    if PARTICIPATIONS in known:
        work.complete = known[PARTICIPATIONS]
        for partition in {i.partition for i in received if i.event.dataset == PARTICIPATIONS}:
            work.store.end_waiting(partition, work.complete[partition], now=work.now)


def take_calendar(work: MatchingWork, received: Sequence[Received[ReferenceChanged]]) -> None:
    """Moves the pending deadlines and the running waits that a newly published year changes.

    Each partition tells it for its own units. One that lags tells an older year when the newer is known already: its
    units go by the newer at once, and nobody else's go back.
    """
    work.save_kept()
    for item in received:
        event = item.event
        if event.reference != "calendar":
            continue
        year = Year(event.year, frozenset(event.holidays), frozenset(event.makeup_days), event.source)
        if work.store.put_year(year, item.time):
            work.calendar = work.calendar.with_year(year)
        usccs = work.store.resting_on(event.year, item.partition, days=work.rule.days)
        for start in range(0, len(usccs), CHUNK):
            cases = work.cases(usccs[start : start + CHUNK])
            for case in cases.values():
                work.reconsider(case, item.cause)
            work.save(cases)


# -- notices -------------------------------------------------------------------------------------------


def follow_notices(work: MatchingWork, received: Sequence[Received[NoticeFacts]]) -> None:
    """Keeps what became of each notice; the ladder goes on from there. Whom none reached, the town visits."""
    cases = work.cases(item.event.uscc for item in received if item.event.lead_id is not None)
    unreached = [item.event.notice_id for item in received if isinstance(item.event, NoticeUnreached)]
    visited = work.store.visited_for(unreached) if unreached else set()
    for item in received:
        case, event = cases.get(item.event.uscc), item.event
        if case is None or case.lead is None or case.lead.id != event.lead_id:
            continue
        lead, word = case.lead, _WORDS[type(event)]
        details = event.model_dump(include={"notice_id", "stage", "channel", "reference", "reason"})
        work.note(lead, f"notice_{word}", item.cause, **details)
        if event.stage.startswith(CORRECTION):  # also those of a recalled stage
            continue
        _hear(work, case, lead, item, word)
        if isinstance(event, NoticeUnreached) and event.notice_id not in visited:
            visited.add(event.notice_id)
            work.ask_for_visit(
                lead,
                item.cause,
                town=case.unit.town if case.unit else None,
                reason=event.reason,
                episode=event.episode,
                notice_id=event.notice_id,
            )
        if isinstance(event, NoticeDelivered):
            work.notice_arrived(lead.id, event.episode, event.notice_id, item.cause)
    work.save(cases)


def _hear(work: MatchingWork, case: Case, lead: Lead, item: Received[NoticeFacts], word: Word) -> None:
    event = item.event
    if event.episode != lead.episode:
        return
    if _may_have_arrived(event) and not lead.messaged:
        lead.messaged = True
        if not lead.is_open and owes_correction(case):  # it left just before the lead ended
            work.tell(case, Step(Fact.CORRECTED, lead.end or ""), item.cause)
    if lead.is_open and event.stage == lead.stage:
        work.circumstances(case).course.hear(lead, word, today(event.at))


def _may_have_arrived(event: NoticeFacts) -> bool:
    """Whether somebody has the message, or nobody knows: then it counts as sent, and has to be taken back too."""
    unknown = isinstance(event, NoticeUnreached) and event.reason == "unknown"
    return unknown or isinstance(event, NoticeHandedOver | NoticeDelivered)


_WORDS = {
    NoticeHandedOver: Word.HANDED_OVER,
    NoticeDelivered: Word.DELIVERED,
    NoticeUnreached: Word.UNREACHED,
    NoticeWithdrawn: Word.WITHDRAWN,
}


# -- parked keys ---------------------------------------------------------------------------------------


def freeze(work: MatchingWork, subject: str) -> None:
    """Holds clock and lead of a key with a parked message: the facts may be out of date."""
    work.save_kept()
    work.store.freeze(subject)
    _reconsider_key(work, subject)


def thaw(work: MatchingWork, subject: str) -> None:
    """Lets them go on."""
    work.save_kept()
    work.store.thaw(subject)
    _reconsider_key(work, subject)


def _reconsider_key(work: MatchingWork, subject: str) -> None:
    cases = work.cases([subject])
    work.reconsider(cases[subject], Cause("matching", f"parked-{subject}"))
    work.save(cases)


SUBSCRIPTIONS = (
    on(UnitRegistered, take_unit_facts),
    on(UnitChanged, take_unit_facts),
    on(UnitClosed, take_unit_facts),
    on(ParticipationStarted, take_started),
    on(ParticipationEnded, take_ended),
    on(ParticipationCancelled, take_back_cancelled),
    on(IntakeDisputed, take_disputed),
    on(IntakeSettled, take_settled),
    on(DataComplete, take_complete),
    on(ReferenceChanged, take_calendar),
    on(NoticeHandedOver, follow_notices),
    on(NoticeDelivered, follow_notices),
    on(NoticeWithdrawn, follow_notices),
    on(NoticeUnreached, follow_notices),
)
