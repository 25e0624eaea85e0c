"""How registry reacts to what matching tells."""

from collections.abc import Sequence

from services.registry.work import RegistryWork
from shared.events.matching import LeadResolved
from shared.messaging.consumer import Received, on


def mark_wrong_data(work: RegistryWork, received: Sequence[Received[LeadResolved]]) -> None:
    """Marks units whose data an official found wrong, so that somebody looks at them.

    A lead that ended by a correction here is no such case: the data is right now.
    """
    wrong = [item for item in received if item.event.end == "wrong_data" and item.event.by_official]
    known = work.store.units(item.event.uscc for item in wrong)
    marked = [item for item in wrong if item.event.uscc in known]
    work.store.mark_wrong({item.event.uscc: item.time for item in marked})
    for item in marked:
        work.audit("unit_marked_wrong", item.event.uscc, cause=item.cause, lead=item.event.lead_id)


SUBSCRIPTIONS = (on(LeadResolved, mark_wrong_data),)
