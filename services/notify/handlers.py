"""How notify reacts: to contacts, to leads and what becomes of them, to the calendar, to parked keys."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from services.notify.commands import withdraw
from services.notify.domain import (
    ALLOWLIST,
    STOPPED,
    TEXT,
    Facts,
    Notice,
    after_event,
    changed,
    lead_reasons,
    notice_id,
)
from services.notify.work import NotifyWork
from shared.calendar import Year
from shared.events.matching import (
    LeadAdvanced,
    LeadChanged,
    LeadCorrected,
    LeadFacts,
    LeadHeld,
    LeadOpened,
    LeadReleased,
    LeadResolved,
)
from shared.events.registry import ContactChanged, ReferenceChanged
from shared.messaging.consumer import Received, on
from shared.privacy import CannotOpenError

_OF_CONTACTS: Final = {"phone", ALLOWLIST, STOPPED, TEXT}
"""Holds that other contacts may end."""

LeadEvent = TypeVar("LeadEvent", LeadChanged, LeadHeld, LeadReleased, LeadResolved)
Stage = TypeVar("Stage", LeadOpened, LeadAdvanced)
AnyLead = TypeVar("AnyLead", bound=LeadFacts)
Told = TypeVar("Told", LeadOpened, LeadAdvanced, LeadChanged)


class MissingTextError(LookupError):
    """The city pack has no text for a stage of a rule; add it to texts.toml and re-send the parked key."""


def keep_contacts(work: NotifyWork, received: Sequence[Received[ContactChanged]]) -> None:
    """Keeps the newest contacts of units under the own key, and lets go on what waited for them.

    What the old phone stood in the way of is judged anew: the phone may be another one.
    """
    units = {item.event.uscc for item in received}
    versions = {uscc: version for uscc, (version, _) in work.store.contacts(units).items()}
    notices = {notice.id: notice for notice in work.store.sendable_of_units(units)}
    newest: dict[str, tuple[int, bytes, str]] = {}
    for item in received:
        event = item.event
        contacts = work.tools.open_sealed(event.uscc, event.sealed)
        if event.version <= versions.get(event.uscc, 0):
            continue
        versions[event.uscc] = event.version
        sealed, index = work.tools.seal_contacts(event.uscc, contacts), work.tools.index_contacts(contacts)
        newest[event.uscc] = event.version, sealed, index
        for notice in notices.values():
            if notice.uscc == event.uscc:
                here = {"contact"} if notice.facts.contact_version <= event.version else set()
                notices[notice.id] = after_event(notice, work.now, drop=here | _OF_CONTACTS)
    work.store.put_contacts(newest)
    work.store.save_notices([n for n in notices.values() if n.uscc in newest], at=work.now)


def queue_notices(work: NotifyWork, received: Sequence[Received[Stage]]) -> None:
    """Queues the notice of each lead's stage; its key makes sure that there is one."""
    units = {item.event.uscc for item in received}
    contacts, parked = work.store.contacts(units), work.store.parked(units)
    notices: dict[str, Notice] = {}
    for item in received:
        event, notice = item.event, _notice(work, item)
        held = set(event.held)
        if event.contact_version > contacts.get(event.uscc, (0, b""))[0]:
            held.add("contact")
        if event.uscc in parked:
            held.add("parked_here")
        notices.setdefault(notice.id, changed(notice, held=tuple(sorted(held))))
    work.store.add_notices(list(notices.values()), at=work.now)
    _follow_unit(work, received)


def queue_corrections(work: NotifyWork, received: Sequence[Received[LeadCorrected]]) -> None:
    """Whoever got a message about a lead that should not have been hears so, once; the others hear nothing.

    It goes to the phone that the wrong message went to, so no contacts are waited for.
    """
    parked = work.store.parked({item.event.uscc for item in received})
    wrong = work.store.last_references(item.event.lead_id for item in received)
    notices: dict[str, Notice] = {}
    for item in received:
        event, notice = item.event, _notice(work, item)
        reference = wrong.get((event.lead_id, event.episode))
        if reference is not None:
            held = ("parked_here",) if event.uscc in parked else ()
            notices.setdefault(notice.id, changed(notice, held=held, corrects=reference))
    work.store.add_notices(list(notices.values()), at=work.now)


def _notice(work: NotifyWork, item: Received[AnyLead]) -> Notice:
    event = item.event
    notice = Notice(
        id=notice_id(event.lead_id, event.episode, event.stage, event.uscc),
        lead_id=event.lead_id,
        rule=event.rule,
        episode=event.episode,
        stage=event.stage,
        recipient=event.uscc,
        uscc=event.uscc,
        facts=_facts(event),
        not_before=event.not_before or item.time,
        created_at=item.time,
        correlation=item.cause.correlation,
        town=event.town,
    )
    if notice.wording not in work.rules.templates:
        raise MissingTextError
    return notice


def renew_facts(work: NotifyWork, received: Sequence[Received[LeadChanged]]) -> None:
    """Notices that may still leave say what the lead says now; all of them follow their unit to its town."""
    contacts = work.store.contacts({item.event.uscc for item in received})

    def renew(notice: Notice, item: Received[LeadChanged]) -> Notice:
        event = item.event
        add = set(event.held)
        if event.contact_version > contacts.get(event.uscc, (0, b""))[0]:
            add.add("contact")
        return after_event(
            notice,
            work.now,
            add=add,
            drop=({"contact", TEXT} | lead_reasons(notice.held)) - add,
            facts=_facts(event),
            not_before=event.not_before or notice.not_before,
        )

    _change_unsent(work, received, renew)
    _follow_unit(work, received)


def hold_back(work: NotifyWork, received: Sequence[Received[LeadHeld]]) -> None:
    """Unsent notices of a held lead wait."""
    _change_unsent(
        work, received, lambda notice, item: after_event(notice, work.now, add=(item.event.reason,))
    )


def let_go_on(work: NotifyWork, received: Sequence[Received[LeadReleased]]) -> None:
    """Unsent notices go on once no reason to wait is left."""
    _change_unsent(
        work, received, lambda notice, item: after_event(notice, work.now, drop=(item.event.reason,))
    )


def withdraw_unsent(work: NotifyWork, received: Sequence[Received[LeadResolved]]) -> None:
    """Unsent notices of a lead that ended are withdrawn."""

    def end(notice: Notice, item: Received[LeadResolved]) -> Notice:
        event = item.event
        return withdraw(work, notice, event.end) if notice.episode <= event.episode else notice

    _change_unsent(work, received, end)


def index_contacts(work: NotifyWork) -> None:
    """Finds the phones in contacts that were kept before phones were indexed."""
    indexed = {}
    for uscc, (version, sealed) in work.store.contacts_without_index().items():
        with suppress(CannotOpenError, ValueError):  # delivery holds their notices
            contacts = work.tools.open_contacts(uscc, sealed)
            indexed[uscc] = version, sealed, work.tools.index_contacts(contacts)
    work.store.put_contacts(indexed)


def replace_calendar(work: NotifyWork, received: Sequence[Received[ReferenceChanged]]) -> None:
    """Takes over years of the working-day calendar. A partition that lags tells older ones: nobody heeds them."""
    for item in received:
        event = item.event
        if event.reference == "calendar":
            year = Year(event.year, frozenset(event.holidays), frozenset(event.makeup_days), event.source)
            work.store.put_year(year, item.time)


def hold_parked(work: NotifyWork, subject: str) -> None:
    """A message of this unit is parked here: what it would have changed is not known, so its notices wait."""
    held = [after_event(n, work.now, add=("parked_here",)) for n in work.store.sendable_of_units([subject])]
    work.store.save_notices(held, at=work.now)


def release_parked(work: NotifyWork, subject: str) -> None:
    """Nothing of this unit is parked here any more."""
    freed = [after_event(n, work.now, drop=("parked_here",)) for n in work.store.sendable_of_units([subject])]
    work.store.save_notices(freed, at=work.now)


def _follow_unit(work: NotifyWork, received: Sequence[Received[Told]]) -> None:
    work.store.put_towns({item.event.lead_id: item.event.town for item in received})


def _facts(event: LeadFacts) -> Facts:
    return Facts(
        unit_name=event.unit_name,
        kind=event.kind,
        town=event.town,
        established_on=event.established_on,
        deadline=event.deadline,
        void=event.void.model_dump(),
        contact_version=event.contact_version,
    )


def _change_unsent(
    work: NotifyWork,
    received: Sequence[Received[LeadEvent]],
    change: Callable[[Notice, Received[LeadEvent]], Notice],
) -> None:
    """Changes what may still leave of each event's lead, in turn; later events see what earlier ones did.

    What takes back a wrong message goes whatever becomes of the lead.
    """
    leads = {item.event.lead_id for item in received}
    notices = {n.id: n for n in work.store.sendable_of_leads(leads) if not n.is_correction}
    before = dict(notices)
    for item in received:
        for notice in list(notices.values()):
            if notice.lead_id == item.event.lead_id and notice.sendable:
                notices[notice.id] = change(notice, item)
    work.store.save_notices([n for id_, n in notices.items() if n is not before[id_]], at=work.now)


SUBSCRIPTIONS = (
    on(ContactChanged, keep_contacts),
    on(ReferenceChanged, replace_calendar),
    on(LeadOpened, queue_notices),
    on(LeadAdvanced, queue_notices),
    on(LeadCorrected, queue_corrections),
    on(LeadChanged, renew_facts),
    on(LeadHeld, hold_back),
    on(LeadReleased, let_go_on),
    on(LeadResolved, withdraw_unsent),
)
