"""What can be done with notices: try to send, record what came of it, end, and turn the brake."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog

from services.notify.carriers import Accepted, ErrorClass, Receipt, Refused, Submission, Unknown
from services.notify.domain import (
    LOOK,
    REFERENCE_BYTES,
    TEXT,
    Attempt,
    AttemptState,
    Candidate,
    Go,
    Hold,
    Notice,
    NoticeState,
    Sending,
    SendingState,
    again_at,
    changed,
    held_by_look,
    is_open,
    make_reference,
)
from services.notify.fragments import TextTooLongError, fragments
from services.notify.store import ADOPTABLE, Phone
from services.notify.work import NotifyWork
from shared.events.notify import (
    NoticeDelivered,
    NoticeFacts,
    NoticeHandedOver,
    NoticeUnreached,
    NoticeWithdrawn,
)
from shared.storage.work import Cause

CHANNEL: Final = "sms"
PORTION: Final = 500
STOPPING: Final = (ErrorClass.AUTH, ErrorClass.CONFIG, ErrorClass.QUOTA_OR_BALANCE)
"""Refusals that every other message would meet too, until a person mends the account."""

log = structlog.get_logger(__name__)

# --------------------------------------------------------------------------- the ends of a notice


def _tell(work: NotifyWork, event: type[NoticeFacts], notice: Notice, **more: Any) -> None:
    fact = event(
        notice_id=notice.id,
        lead_id=notice.lead_id,
        uscc=notice.uscc,
        episode=notice.episode,
        stage=notice.stage,
        at=work.now,
        **more,
    )
    work.emit(fact, cause=Cause("notify", notice.correlation))


def withdraw(work: NotifyWork, notice: Notice, reason: str) -> Notice:
    """Ends an unsent notice because its lead ended; one under way is marked and ends with its attempt."""
    if notice.trying:
        return changed(notice, withdraw_reason=reason)
    _tell(work, NoticeWithdrawn, notice, reason=reason)
    return changed(
        notice,
        state=NoticeState.WITHDRAWN,
        withdraw_reason=reason,
        reason=reason,
        ended_at=work.now,
    )


def _hand_over(work: NotifyWork, notice: Notice, reference: str) -> Notice:
    _tell(work, NoticeHandedOver, notice, channel=CHANNEL, reference=reference)
    return changed(notice, state=NoticeState.HANDED_OVER, trying=None, handed_over_at=work.now)


def _unreach(work: NotifyWork, notice: Notice, reason: str) -> Notice:
    _tell(work, NoticeUnreached, notice, reason=reason)
    return changed(notice, state=NoticeState.UNREACHED, trying=None, reason=reason, ended_at=work.now)


def _deliver(work: NotifyWork, notice: Notice) -> Notice:
    _tell(work, NoticeDelivered, notice, channel=CHANNEL)
    corrected = notice.state is NoticeState.UNREACHED
    return changed(
        notice,
        state=NoticeState.DELIVERED,
        trying=None,
        corrected=corrected,
        ended_at=notice.ended_at if corrected else work.now,
    )


def _return(work: NotifyWork, notice: Notice, **values: Any) -> Notice:
    """Back to the queue after an attempt that provably reached nobody; or withdrawn, if its lead has ended."""
    free = changed(notice, trying=None, **values)
    return withdraw(work, free, notice.withdraw_reason) if notice.withdraw_reason else free


# --------------------------------------------------------------------------- before the carrier


def begin_attempts(
    work: NotifyWork,
    looked: Sequence[tuple[Candidate, Go | Hold]],
    *,
    looked_at: datetime,
    looked_wall: datetime,
) -> tuple[list[Attempt], bool]:
    """Commits an attempt for every notice that may go; holds or ends the others.

    Returns the attempts to submit, and whether anything changed. A notice that changed since it was looked
    at is left alone, and so is everything once the brake is off or the hours are over.
    """
    sending, calendar = work.store.sending(), work.store.calendar()
    if sending.state is SendingState.OFF or not is_open(work.now, calendar, work.rules.hours):
        return [], False
    left = work.store.left_today(work.now)
    current = work.store.notices(candidate.notice.id for candidate, _ in looked)
    index = {c.mobile: work.tools.phones.of(c.mobile) for c, _ in looked if c.mobile}
    phones = work.store.phones(index.values(), work.now - work.rules.cap_days)
    attempts: list[tuple[Attempt, str]] = []
    touched: list[Notice] = []
    for candidate, answer in looked:
        notice = current[candidate.notice.id]
        if notice.version != candidate.notice.version:
            continue
        if isinstance(answer, Hold):
            touched.append(held_by_look(notice, answer.reason, work.now, calendar, work.rules.hours))
        elif not candidate.readable:
            touched.append(_hold_for_text(notice, "contacts"))
        elif candidate.mobile is None:
            touched.append(_unreach(work, notice, "no_contact"))
        else:
            mobile_index = index[candidate.mobile]
            waiting = _waiting(work, notice, mobile_index, phones[mobile_index], sending)
            if waiting is not None:
                touched.append(waiting)
            elif not phones[mobile_index].open and (left is None or left > len(attempts)):
                try:
                    attempt = _attempt(work, candidate, mobile_index, looked_at, looked_wall)
                except (TextTooLongError, LookupError) as error:
                    touched.append(_hold_for_text(notice, type(error).__name__))
                    continue
                phones[mobile_index].open = True
                attempts.append((attempt, notice.id))
                touched.append(
                    changed(
                        notice, trying=AttemptState.OPEN, held=_unlooked(notice), mobile_index=mobile_index
                    )
                )
    work.store.save_notices(touched, at=work.now)
    work.store.add_attempts(
        [
            (attempt, work.tools.seal_mobile(attempt.reference, attempt.mobile), id_)
            for attempt, id_ in attempts
        ]
    )
    return [attempt for attempt, _ in attempts], bool(touched)


def _hold_for_text(notice: Notice, why: str) -> Notice:
    """One notice that can't be said is put aside until new facts, contacts or texts come; the others go."""
    log.error(
        "notice_unsayable", service="notify", notice=notice.id, rule=notice.rule, stage=notice.stage, why=why
    )
    return changed(notice, held=(TEXT,))


def try_texts_again(work: NotifyWork) -> None:
    """What could not be said is judged anew: at a start, when texts or keys may have been mended."""
    _release(work, work.store.held_for(TEXT), TEXT)


def _unlooked(notice: Notice) -> tuple[str, ...]:
    return tuple(reason for reason in notice.held if not reason.startswith(LOOK))


def _waiting(
    work: NotifyWork, notice: Notice, mobile_index: str, phone: Phone, sending: Sending
) -> Notice | None:
    """The notice put aside because its phone may get nothing now; None when it may."""
    reason = None if sending.admits(mobile_index) else "allowlist"
    reason = reason or ("phone" if phone.unknown else None)
    if reason:
        return changed(notice, held=(reason,), mobile_index=mobile_index)
    if len(phone.recent) >= work.rules.cap:
        free_at = phone.recent[-work.rules.cap] + work.rules.cap_days
        return changed(notice, held=(), look_again_at=free_at, mobile_index=mobile_index)
    return None


def _attempt(
    work: NotifyWork, candidate: Candidate, mobile_index: str, looked_at: datetime, looked_wall: datetime
) -> Attempt:
    rules, notice = work.rules, candidate.notice
    reference = make_reference(work.tools.random(REFERENCE_BYTES))
    text = rules.templates[notice.rule, notice.stage].render(
        notice.facts, office=rules.office, service_number=rules.service_number, reference=reference
    )
    return Attempt(
        reference=reference,
        account=rules.account,
        mobile=candidate.mobile or "",
        mobile_index=mobile_index,
        text=text,
        fragments=fragments(rules.signature, text),
        state=AttemptState.OPEN,
        opened_at=work.now,
        looked_at=looked_at,
        looked_wall=looked_wall,
    )


# --------------------------------------------------------------------------- after the carrier


def record_outcomes(work: NotifyWork, outcomes: Iterable[tuple[str, Submission]]) -> None:
    """Settles open attempts, given by their references, by what the carrier said."""
    for reference, outcome in outcomes:
        attempt = work.store.attempt(reference)
        if attempt is None or attempt.state != AttemptState.OPEN:
            continue
        if isinstance(outcome, Accepted):
            _accept(work, attempt, outcome.message_group)
            _apply_early(work, attempt, outcome.message_group)
        elif isinstance(outcome, Unknown):
            _leave_unknown(work, attempt, outcome.why)
        elif isinstance(outcome, Refused):
            _refuse(work, attempt, outcome)
        else:
            _settle(work, attempt, AttemptState.RELEASED, outcome.why, _return)


def give_up_open(work: NotifyWork) -> None:
    """Attempts that a dead process left open: nobody knows what the carrier did."""
    record_outcomes(work, [(reference, Unknown("process ended")) for reference in work.store.open_attempts()])


def expire(work: NotifyWork) -> bool:
    """Ends the waits that are over: accepted without receipt is silent, never learnt is unknown."""
    expired = work.store.expired_attempts(work.now, PORTION)
    for attempt in expired:
        work.store.save_attempt(attempt.reference, expires_at=None, settled_at=attempt.settled_at or work.now)
        silent = attempt.state == AttemptState.ACCEPTED
        state = NoticeState.HANDED_OVER if silent else NoticeState.QUEUED
        ending = [n for n in work.store.covered(attempt.reference) if n.state is state]
        reason = "silent" if silent else "unknown"
        work.store.save_notices([_unreach(work, notice, reason) for notice in ending], at=work.now)
        if not silent:
            _free_phone(work, attempt.mobile_index)
    return bool(expired)


def _settle(
    work: NotifyWork,
    attempt: Any,
    state: AttemptState,
    code: str,
    move: Callable[[NotifyWork, Notice], Notice],
) -> None:
    work.store.save_attempt(
        attempt.reference, state=state, code=code[:64], settled_at=work.now, expires_at=None
    )
    moved = [move(work, notice) for notice in work.store.covered(attempt.reference) if notice.trying]
    work.store.save_notices(moved, at=work.now)


def _accept(work: NotifyWork, attempt: Any, message_group: str) -> None:
    work.store.save_attempt(
        attempt.reference,
        state=AttemptState.ACCEPTED,
        message_group=message_group,
        settled_at=work.now,
        expires_at=work.now + work.rules.silence,
    )
    covered = work.store.covered(attempt.reference)
    moved = [_hand_over(work, notice, attempt.reference) for notice in covered if notice.trying]
    work.store.save_notices(moved, at=work.now)


def _leave_unknown(work: NotifyWork, attempt: Any, why: str) -> None:
    work.store.save_attempt(
        attempt.reference,
        state=AttemptState.UNKNOWN,
        code=why[:64],
        expires_at=attempt.opened_at + work.rules.unknown,
    )
    covered = work.store.covered(attempt.reference)
    work.store.save_notices(
        [changed(n, trying=AttemptState.UNKNOWN) for n in covered if n.trying], at=work.now
    )
    _apply_early(work, attempt, None)


def _refuse(work: NotifyWork, attempt: Any, refused: Refused) -> None:
    if refused.error in STOPPING:
        _stop(work, refused)
        _settle(work, attempt, AttemptState.RELEASED, refused.code, _return)
    elif refused.permanent:
        _settle(work, attempt, AttemptState.REFUSED, refused.code, lambda w, n: _unreach(w, n, "refused"))
    else:
        _settle(work, attempt, AttemptState.REFUSED, refused.code, _try_later)


def _try_later(work: NotifyWork, notice: Notice) -> Notice:
    at = again_at("", notice.setbacks, work.now, work.store.calendar(), work.rules.hours)
    return _return(work, notice, look_again_at=at, setbacks=notice.setbacks + 1)


def _stop(work: NotifyWork, refused: Refused) -> None:
    before = work.store.sending()
    if before.state is not SendingState.OFF:
        work.store.put_sending(
            Sending(SendingState.OFF, before.daily_cap, before.allowlist, work.now, "notify")
        )
        cause = Cause("notify", "carrier")
        work.audit("sending.stopped", work.rules.account, cause=cause, code=refused.code, error=refused.error)


def _free_phone(work: NotifyWork, mobile_index: str) -> None:
    """What waited for a submission of unknown outcome to this phone goes on."""
    _release(work, work.store.held_for("phone", mobile_index), "phone")


def _release(work: NotifyWork, notices: Iterable[Notice], reason: str) -> None:
    freed = [changed(n, held=tuple(r for r in n.held if r != reason)) for n in notices]
    work.store.save_notices(freed, at=work.now)


# --------------------------------------------------------------------------- receipts


@dataclass(frozen=True)
class Report:
    """What a carrier pushed in one request."""

    account: str
    receipts: tuple[Receipt, ...]


def take_report(work: NotifyWork, report: Report) -> list[str]:
    """Keeps every receipt and lets it settle what it is about.

    Returns one word for each: delivered, failed, corrected, repeated, or unmatched.
    """
    return [_take_receipt(work, report.account, receipt) for receipt in report.receipts]


def _take_receipt(work: NotifyWork, account: str, receipt: Receipt) -> str:
    mobile_index = work.tools.phones.of(receipt.mobile)
    seq = work.store.add_receipt(
        account=account,
        message_group=receipt.message_group,
        mobile_index=mobile_index,
        delivered=receipt.delivered,
        code=receipt.code,
        reported_at=receipt.received_at,
        arrived_at=work.now,
    )
    attempt = work.store.attempt_named(account, receipt.message_group, mobile_index)
    if attempt is None:
        attempt = _only_unknown(work, account, mobile_index)
        if attempt is None:
            return "unmatched"
        _adopt(work, attempt, receipt.message_group)
    return _apply(work, attempt.reference, seq, delivered=receipt.delivered, code=receipt.code)


def _only_unknown(work: NotifyWork, account: str, mobile_index: str) -> Any:
    """The submission that a receipt with an unknown group must be about; None when it could be another one."""
    undecided = work.store.undecided_attempts(account, mobile_index, work.now - ADOPTABLE)
    only = undecided[0] if len(undecided) == 1 else None
    return only if only is not None and only.state == AttemptState.UNKNOWN else None


def _adopt(work: NotifyWork, attempt: Any, message_group: str) -> None:
    _accept(work, attempt, message_group)
    _free_phone(work, attempt.mobile_index)


def _apply_early(work: NotifyWork, attempt: Any, message_group: str | None) -> None:
    """Receipts that were here before the carrier's answer was recorded, or instead of it."""
    early = work.store.early_receipts(attempt.account, attempt.mobile_index, attempt.opened_at, message_group)
    if message_group is None:
        if not early or _only_unknown(work, attempt.account, attempt.mobile_index) is None:
            return
        message_group = early[0].message_group
        _adopt(work, attempt, message_group)
    for receipt in early:
        if receipt.message_group == message_group:
            _apply(work, attempt.reference, receipt.seq, delivered=receipt.delivered, code=receipt.code)


def _apply(work: NotifyWork, reference: str, seq: int, *, delivered: bool, code: str) -> str:
    work.store.match_receipt(seq, reference)
    covered = work.store.covered(reference)
    waiting = [n for n in covered if n.state is NoticeState.HANDED_OVER]
    missed = [n for n in covered if n.state is NoticeState.UNREACHED] if delivered else []
    if not waiting and not missed:
        work.store.save_attempt(reference, expires_at=None)
        return "repeated"
    work.store.save_attempt(reference, expires_at=None, code=code)
    if delivered:
        work.store.save_notices([_deliver(work, n) for n in (*waiting, *missed)], at=work.now)
        return "corrected" if missed else "delivered"
    work.store.save_notices([_unreach(work, n, "refused") for n in waiting], at=work.now)
    return "failed"


# --------------------------------------------------------------------------- the brake


@dataclass(frozen=True)
class ChangeSending:
    """How the brake should stand. `allowlist` None leaves the list as it is."""

    state: SendingState
    keeps_cap: bool
    daily_cap: int | None
    allowlist: tuple[str, ...] | None
    cause: Cause


def change_sending(work: NotifyWork, item: ChangeSending) -> Sending:
    """Turns the brake; what waited for the old allow-list is judged anew."""
    before = work.store.sending()
    allowlist = before.allowlist
    if item.allowlist is not None:
        allowlist = frozenset(work.tools.phones.of(mobile) for mobile in item.allowlist)
    daily_cap = before.daily_cap if item.keeps_cap else item.daily_cap
    new = Sending(item.state, daily_cap, allowlist, work.now, item.cause.actor)
    work.store.put_sending(new)
    work.audit(
        "sending.changed",
        work.rules.account,
        cause=item.cause,
        before=before.state,
        after=new.state,
        daily_cap=new.daily_cap,
        allowlist=len(allowlist),
    )
    _release(work, work.store.held_for("allowlist"), "allowlist")
    return new
