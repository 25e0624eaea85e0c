"""How targets reacts to participations.

Facts of one participation come in order; facts of one person need not, since they travel under the keys of
different units. So spells follow the order of arrival, and who counts follows registry's version.
"""

from collections.abc import Sequence

from services.targets.domain import Decision, First, Spell, SpellState, latest
from services.targets.work import TargetsWork
from shared.events.registry import ParticipationCancelled, ParticipationEnded, ParticipationStarted
from shared.messaging.consumer import Received, on


def count_started(work: TargetsWork, received: Sequence[Received[ParticipationStarted]]) -> None:
    """Keeps the spells, and counts the people of whom nothing earlier is known."""
    events = [item.event for item in received]
    work.figures.add_spells(
        [
            Spell(
                participation_id=event.participation_id,
                person=event.person,
                insurance=event.insurance,
                kind=event.kind,
                town=event.town,
                started_on=event.started_on,
                recorded_on=event.recorded_on,
                baseline=event.baseline,
            )
            for event in events
        ]
    )
    # A later spell of a known person decides nothing: its version belongs to an earlier decision.
    work.figures.decide(latest(_first_ever(event) for event in events if event.first_ever))


def close_ended(work: TargetsWork, received: Sequence[Received[ParticipationEnded]]) -> None:
    """Closes the spells. They were true, so what they counted stays counted."""
    work.figures.set_state([item.event.participation_id for item in received], SpellState.ENDED)


def take_back_cancelled(work: TargetsWork, received: Sequence[Received[ParticipationCancelled]]) -> None:
    """Takes the spells back, and counts what registry says is the person's first instead, if anything."""
    events = [item.event for item in received]
    work.figures.set_state([event.participation_id for event in events], SpellState.CANCELLED)
    work.figures.decide(latest(_after_cancellation(event) for event in events))


def _first_ever(event: ParticipationStarted) -> Decision:
    first = First(
        event.participation_id, event.kind, event.town, event.started_on, event.recorded_on, event.baseline
    )
    return Decision(event.person, event.insurance, event.first_version, first)


def _after_cancellation(event: ParticipationCancelled) -> Decision:
    first = None
    if now := event.counts_now:
        first = First(now.participation_id, now.kind, now.town, now.started_on, now.recorded_on, now.baseline)
    return Decision(event.person, event.insurance, event.first_version, first)


SUBSCRIPTIONS = (
    on(ParticipationStarted, count_started),
    on(ParticipationEnded, close_ended),
    on(ParticipationCancelled, take_back_cancelled),
)
