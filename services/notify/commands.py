"""What can be done with notices: try to send, record what came of it, end, and turn the brake."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import structlog

from services.notify.bindings import end_bindings
from services.notify.carriers import Accepted, ErrorClass, Receipt, Refused, Submission, Unknown
from services.notify.domain import (
    ALLOWLIST,
    CAP,
    CORRECTION,
    LOOK,
    STOPPED,
    TEXT,
    Attempt,
    AttemptState,
    Candidate,
    Channel,
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
    notice_id,
)
from services.notify.fragments import TextTooLongError, fragments
from services.notify.store import ADOPTABLE, Phone, Place, Wrong
from services.notify.words import REFERENCE_BYTES, SAMPLE_REFERENCE, Words, make_reference
from services.notify.work import NotifyWork
from shared.events.notify import (
    NoticeDelivered,
    NoticeFacts,
    NoticeHandedOver,
    NoticeUnreached,
    NoticeWithdrawn,
)
from shared.privacy import scrub
from shared.storage.work import Cause

PORTION: Final = 500
EXPIRING: Final = 50
"""Attempts whose wait is over are ended so many at once, so that a stop of the sending does not wait long."""
STOPPING: Final = (ErrorClass.AUTH, ErrorClass.CONFIG, ErrorClass.QUOTA_OR_BALANCE)
"""Refusals that every other message would meet too, until a person mends the account."""
OURS: Final = frozenset({"brake unread", "late", "paused", "stopped", "stopping"})
"""Why a submission was not begun by us; anything else that was not sent is the line's fault."""
PATIENCE: Final = 2
"""So many times a message waits for a WeChat that is busy or away; then it goes by SMS."""
RECALLED: Final = "recalled"

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
    """Ends what may still leave, because its lead ended.

    What is under way, or with WeChat, is marked and ends with that: nothing more leaves.
    """
    if notice.trying or (notice.sendable and not notice.unsent and not notice.moving_on):
        return changed(notice, withdraw_reason=reason)
    if notice.moving_on:
        return _unreach(work, changed(notice, withdraw_reason=reason), "silent")
    _tell(work, NoticeWithdrawn, notice, reason=reason)
    return changed(
        notice,
        state=NoticeState.WITHDRAWN,
        withdraw_reason=reason,
        reason=reason,
        ended_at=work.now,
    )


def _hand_over(work: NotifyWork, notice: Notice, attempt: Any) -> Notice:
    _tell(work, NoticeHandedOver, notice, channel=attempt.channel, reference=attempt.reference)
    return changed(
        notice,
        state=NoticeState.HANDED_OVER,
        trying=None,
        channel=Channel(attempt.channel),
        handed_over_at=notice.handed_over_at or work.now,
    )


def _unreach(work: NotifyWork, notice: Notice, reason: str) -> Notice:
    _tell(work, NoticeUnreached, notice, reason=reason)
    return changed(notice, state=NoticeState.UNREACHED, trying=None, reason=reason, ended_at=work.now)


def _deliver(work: NotifyWork, notice: Notice, channel: str) -> Notice:
    _tell(work, NoticeDelivered, notice, channel=channel)
    corrected = notice.state is NoticeState.UNREACHED
    return changed(
        notice,
        state=NoticeState.DELIVERED,
        trying=None,
        corrected=corrected,
        ended_at=notice.ended_at if corrected else work.now,
    )


def _return(work: NotifyWork, notice: Notice, **values: Any) -> Notice:
    """Back to the queue after an attempt that provably reached nobody; or ended, if its lead has ended."""
    free = changed(notice, trying=None, **values)
    return withdraw(work, free, notice.withdraw_reason) if notice.withdraw_reason else free


def _move_on(work: NotifyWork, notice: Notice) -> Notice:
    """From WeChat to SMS, because nothing came of WeChat."""
    return _return(work, notice, sms_only=True, look_again_at=work.now)


# --------------------------------------------------------------------------- before the carrier


@dataclass(frozen=True)
class Outgoing:
    """A message that is about to leave: to whom, in which words, and which notices it covers."""

    attempt: Attempt
    to: str = field(repr=False)
    words: Words
    covers: tuple[str, ...]


def begin_attempts(
    work: NotifyWork,
    looked: Sequence[tuple[Candidate, Go | Hold]],
    *,
    looked_at: datetime,
    looked_wall: datetime,
) -> tuple[list[Outgoing], bool]:
    """Commits an attempt for every message that may go; holds or ends the notices that may not.

    Notices that join in a message share its attempt. Returns the messages to submit, and whether anything
    changed. A notice that changed since it was looked at is left alone, and so is everything that its account
    lets through no more, or when the hours are over: it is judged anew with the next portion.
    """
    lines, calendar = work.store.lines(work.now), work.store.calendar()
    if not is_open(work.now, calendar, work.rules.hours):
        return [], False
    current = work.store.notices(candidate.notice.id for candidate, _ in looked)
    index = {c.mobile: work.tools.phones.of(c.mobile) for c, _ in looked if c.mobile}
    phones = work.store.phones(index.values(), work.now - work.rules.cap_days)
    touched: list[Notice] = []
    messages: dict[Any, list[Candidate]] = {}
    for candidate, answer in looked:
        notice, mobile_index = candidate.notice, index.get(candidate.mobile or "", "")
        stopped = mobile_index and lines[candidate.channel].obstacle(mobile_index)
        if stopped or current[notice.id].version != notice.version:
            continue
        if isinstance(answer, Hold):
            touched.append(held_by_look(notice, answer.reason, work.now, calendar, work.rules.hours))
        elif candidate.mobile is None:
            touched.append(_without_phone(work, candidate))
        elif waiting := _waiting(work, notice, mobile_index, phones[mobile_index]):
            touched.append(waiting)
        else:
            messages.setdefault(candidate.message, []).append(candidate)
    outgoing: list[Outgoing] = []
    begun: Counter[Channel] = Counter()
    for members in messages.values():
        mobile_index, channel = index[members[0].mobile or ""], members[0].channel
        left = lines[channel].left
        # A second message to the same phone waits until the outcome of the first is known.
        if phones[mobile_index].open or (left is not None and left <= begun[channel]):
            continue
        if unsayable := _unsayable(work, members):
            # The others of the message go with the next portion: what it says changes.
            touched += unsayable
            continue
        phones[mobile_index].open = True
        begun[channel] += 1
        outgoing.append(_message(work, members, mobile_index, looked_at, looked_wall))
        touched += [_begin(member.notice, mobile_index) for member in members]
    work.store.save_notices(touched, at=work.now)
    work.store.add_attempts(
        [
            (one.attempt, work.tools.seal_mobile(one.attempt.reference, one.attempt.mobile), one.covers)
            for one in outgoing
        ]
    )
    return outgoing, bool(touched)


def _without_phone(work: NotifyWork, candidate: Candidate) -> Notice:
    if not candidate.readable:
        return _hold_for_text(candidate.notice, "contacts")
    return _unreach(work, candidate.notice, "silent" if candidate.notice.moving_on else "no_contact")


def put_aside(work: NotifyWork, waiting: Iterable[Notice]) -> None:
    """Lets notices wait as they were changed to, where nothing else has changed them meanwhile."""
    wanted = list(waiting)
    current = work.store.notices(notice.id for notice in wanted)
    work.store.save_notices(
        [notice for notice in wanted if current[notice.id].version + 1 == notice.version], at=work.now
    )


def _begin(notice: Notice, mobile_index: str) -> Notice:
    return changed(notice, trying=AttemptState.OPEN, held=_unlooked(notice), mobile_index=mobile_index)


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


def _waiting(work: NotifyWork, notice: Notice, mobile_index: str, phone: Phone) -> Notice | None:
    """The notice put aside because its phone may get nothing now; None when it may."""
    if phone.unknown:
        return changed(notice, held=("phone",), mobile_index=mobile_index)
    if len(phone.recent) >= work.rules.cap and not notice.is_correction:
        free_at = phone.recent[-work.rules.cap] + work.rules.cap_days
        return changed(notice, held=(), look_again_at=free_at, mobile_index=mobile_index)
    return None


def _write(work: NotifyWork, members: Sequence[Candidate], reference: str) -> Words:
    """Raises TextTooLongError or LookupError for what can't be said."""
    first, rules = members[0], work.rules
    template = rules.templates[first.notice.wording]
    write = template.write_sms if first.openid is None else template.write_wechat
    wrong = "、".join(dict.fromkeys(one for member in members for one in member.wrong))
    return write([m.notice.subject for m in members], rules.issuer, reference, wrong)


def _unsayable(work: NotifyWork, members: Sequence[Candidate]) -> list[Notice]:
    """Those notices that keep their message from being said, held for it; none when it can be said."""
    if _fault(work, members) is None:
        return []
    faults = [(member.notice, _fault(work, [member])) for member in members]
    # Where each could be said alone but not together, nobody can tell which one is too much.
    guilty = [(notice, fault) for notice, fault in faults if fault] or [(n, "together") for n, _ in faults]
    return [_hold_for_text(notice, fault) for notice, fault in guilty]


def _fault(work: NotifyWork, members: Sequence[Candidate]) -> str | None:
    try:
        _write(work, members, SAMPLE_REFERENCE)
    except (TextTooLongError, LookupError) as error:
        return type(error).__name__
    return None


def _message(
    work: NotifyWork,
    members: Sequence[Candidate],
    mobile_index: str,
    looked_at: datetime,
    looked_wall: datetime,
) -> Outgoing:
    first, rules = members[0], work.rules
    reference = make_reference(work.tools.random(REFERENCE_BYTES))
    words = _write(work, members, reference)
    sms = first.channel is Channel.SMS
    attempt = Attempt(
        reference=reference,
        account=rules.account if sms else first.channel.value,
        channel=first.channel,
        mobile=first.mobile or "",
        mobile_index=mobile_index,
        recipient_index=mobile_index if first.openid is None else work.tools.phones.of(first.openid),
        text=words.text,
        fragments=fragments(rules.signature, words.text) if sms else 0,
        state=AttemptState.OPEN,
        opened_at=work.now,
        looked_at=looked_at,
        looked_wall=looked_wall,
    )
    covers = tuple(sorted(member.notice.id for member in members))
    return Outgoing(attempt, first.openid or attempt.mobile, words, covers)


# --------------------------------------------------------------------------- after the carrier


def record_outcomes(work: NotifyWork, outcomes: Iterable[tuple[str, Submission]]) -> None:
    """Settles attempts, given by their references, by what the carrier said.

    A definite answer also settles an attempt that another process gave up as unknown: whoever was stopped for
    longer than its lease comes back with it.
    """
    for reference, outcome in outcomes:
        attempt = work.store.attempt(reference)
        if attempt is None or attempt.state not in (AttemptState.OPEN, AttemptState.UNKNOWN):
            continue
        given_up = attempt.state == AttemptState.UNKNOWN
        if isinstance(outcome, Accepted):
            _accept(work, attempt, outcome.message_group)
            _apply_early(work, attempt, outcome.message_group)
        elif isinstance(outcome, Unknown):
            if not given_up:
                _leave_unknown(work, attempt, outcome.why)
            continue
        elif isinstance(outcome, Refused):
            _refuse(work, attempt, outcome)
        else:
            again = _return if outcome.why in OURS or attempt.channel == Channel.SMS else _try_later
            _settle(work, attempt, AttemptState.RELEASED, outcome.why, again)
        if given_up:
            _free_phone(work, attempt.mobile_index)


def give_up_open(work: NotifyWork) -> None:
    """Attempts that a dead process left open: nobody knows what the carrier did."""
    record_outcomes(work, [(reference, Unknown("process ended")) for reference in work.store.open_attempts()])


def expire(work: NotifyWork) -> bool:
    """Ends the waits that are over.

    An SMS without receipt is silent, a WeChat message is followed by an SMS, what was never learnt is unknown.
    """
    expired = work.store.expired_attempts(work.now, EXPIRING)
    for attempt in expired:
        work.store.save_attempt(attempt.reference, expires_at=None, settled_at=attempt.settled_at or work.now)
        covered = work.store.covered(attempt.reference)
        if attempt.state == AttemptState.ACCEPTED:
            ended = _came_to_nothing(work, attempt, covered, "silent")
        else:
            ended = [_unreach(work, notice, "unknown") for notice in covered if notice.trying]
        work.store.save_notices(ended, at=work.now)
        if attempt.state != AttemptState.ACCEPTED:
            _free_phone(work, attempt.mobile_index)
    return bool(expired)


def _came_to_nothing(work: NotifyWork, attempt: Any, covered: Iterable[Notice], reason: str) -> list[Notice]:
    """What becomes of the notices of an accepted message that reached nobody, or nobody knows of."""
    waiting = [notice for notice in covered if notice.state is NoticeState.HANDED_OVER]
    if attempt.channel == Channel.SMS:
        return [_unreach(work, notice, reason) for notice in waiting]
    return [_move_on(work, notice) for notice in waiting if not notice.sms_only]


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
    silence = work.rules.silence if attempt.channel == Channel.SMS else work.rules.wechat_silence
    work.store.save_attempt(
        attempt.reference,
        state=AttemptState.ACCEPTED,
        message_group=message_group,
        settled_at=work.now,
        expires_at=work.now + silence,
    )
    moved = [_hand_over(work, n, attempt) for n in work.store.covered(attempt.reference) if n.trying]
    work.store.save_notices(moved, at=work.now)
    # Recalled while it was under way: now that somebody has it, it has to be taken back.
    recalled = [(n, attempt.reference) for n in moved if n.withdraw_reason == RECALLED]
    _take_back(work, recalled, Cause("notify", "recall"))


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
    if attempt.channel == Channel.WECHAT:
        _refuse_wechat(work, attempt, refused)
    elif refused.error in STOPPING:
        _stop(work, refused)
        _settle(work, attempt, AttemptState.RELEASED, refused.code, _return)
    elif refused.permanent:
        _settle(work, attempt, AttemptState.REFUSED, refused.code, lambda w, n: _unreach(w, n, "refused"))
    else:
        _settle(work, attempt, AttemptState.REFUSED, refused.code, _try_later)


def _refuse_wechat(work: NotifyWork, attempt: Any, refused: Refused) -> None:
    """A definite no moves on to SMS at once; who can't be reached there is not written to there again."""
    if refused.error in (ErrorClass.TRANSIENT, ErrorClass.RATE_LIMIT):
        _settle(work, attempt, AttemptState.REFUSED, refused.code, _try_later)
        return
    _settle(work, attempt, AttemptState.REFUSED, refused.code, lambda w, n: _return(w, n, sms_only=True))
    if refused.error in (ErrorClass.RECIPIENT_INVALID, ErrorClass.RECIPIENT_REFUSED):
        end_bindings(work, attempt.recipient_index, refused.code, Cause("notify", "carrier"))


def _try_later(work: NotifyWork, notice: Notice) -> Notice:
    at = again_at("", notice.setbacks, work.now, work.store.calendar(), work.rules.hours)
    late = notice.setbacks >= PATIENCE
    return _return(
        work, notice, look_again_at=at, setbacks=notice.setbacks + 1, sms_only=notice.sms_only or late
    )


def _stop(work: NotifyWork, refused: Refused) -> None:
    before = work.store.brakes()[Channel.SMS]
    if before.state is not SendingState.OFF:
        off = Sending(SendingState.OFF, before.daily_cap, before.allowlist, work.now, "notify")
        work.store.put_brake(Channel.SMS, off)
        cause = Cause("notify", "carrier")
        work.audit("sending.stopped", work.rules.account, cause=cause, code=refused.code, error=refused.error)


def _free_phone(work: NotifyWork, mobile_index: str) -> None:
    """What waited for a submission of unknown outcome to this phone goes on."""
    _release(work, work.store.held_for("phone", mobile_index), "phone")


def _release(work: NotifyWork, notices: Iterable[Notice], reason: str) -> None:
    freed = [
        changed(n, held=tuple(r for r in n.held if r != reason), look_again_at=work.now) for n in notices
    ]
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
    recipient_index = work.tools.phones.of(receipt.mobile)
    seq = work.store.add_receipt(
        account=account,
        message_group=receipt.message_group,
        mobile_index=recipient_index,
        delivered=receipt.delivered,
        code=receipt.code,
        reported_at=receipt.received_at,
        arrived_at=work.now,
    )
    attempt = work.store.attempt_named(account, receipt.message_group, recipient_index)
    if attempt is None:
        attempt = _only_unknown(work, account, recipient_index)
        if attempt is None:
            return "unmatched"
        _adopt(work, attempt, receipt.message_group)
    return _apply(work, attempt, seq, delivered=receipt.delivered, code=receipt.code)


def _only_unknown(work: NotifyWork, account: str, recipient_index: str) -> Any:
    """The submission that a receipt with an unknown group must be about; None when it could be another one."""
    undecided = work.store.undecided_attempts(account, recipient_index, work.now - ADOPTABLE)
    only = undecided[0] if len(undecided) == 1 else None
    return only if only is not None and only.state == AttemptState.UNKNOWN else None


def _adopt(work: NotifyWork, attempt: Any, message_group: str) -> None:
    _accept(work, attempt, message_group)
    _free_phone(work, attempt.mobile_index)


def _apply_early(work: NotifyWork, attempt: Any, message_group: str | None) -> None:
    """Receipts that were here before the carrier's answer was recorded, or instead of it."""
    early = work.store.early_receipts(
        attempt.account, attempt.recipient_index, attempt.opened_at, message_group
    )
    if message_group is None:
        if not early or _only_unknown(work, attempt.account, attempt.recipient_index) is None:
            return
        message_group = early[0].message_group
        _adopt(work, attempt, message_group)
    for receipt in early:
        if receipt.message_group == message_group:
            _apply(work, attempt, receipt.seq, delivered=receipt.delivered, code=receipt.code)


def _apply(work: NotifyWork, attempt: Any, seq: int, *, delivered: bool, code: str) -> str:
    work.store.match_receipt(seq, attempt.reference)
    covered = work.store.covered(attempt.reference)
    if delivered:
        # With an SMS under way or without: who got it by WeChat has it. A late one corrects what was given up.
        reached = [n for n in covered if n.state in (NoticeState.HANDED_OVER, NoticeState.UNREACHED)]
        moved = [_deliver(work, notice, attempt.channel) for notice in reached]
        result = "corrected" if any(notice.corrected for notice in moved) else "delivered"
    else:
        moved, result = _came_to_nothing(work, attempt, covered, "refused"), "failed"
    work.store.save_attempt(attempt.reference, expires_at=None, **({"code": code} if moved else {}))
    work.store.save_notices(moved, at=work.now)
    return result if moved else "repeated"


# --------------------------------------------------------------------------- recall


@dataclass(frozen=True)
class Recall:
    """Messages that should not be, and why; of many, those behind a place in the order of creation."""

    wrong: Wrong
    reason: str
    cause: Cause
    after: Place | None = None


@dataclass(frozen=True)
class Got:
    """A party that has a wrong message, or may have it: which, by which channel, when it left."""

    notice_id: str
    uscc: str
    unit_name: str
    channel: str
    reference: str
    at: datetime


@dataclass(frozen=True)
class Recalled:
    """What a recall did, and who got the wrong message; `goes_on` behind which place there are more.

    Notices under way end with what is under way; if that arrives, it is corrected too.
    """

    withdrawn: int
    under_way: int
    corrections: int
    got: tuple[Got, ...]
    goes_on: Place | None


def recall(work: NotifyWork, item: Recall) -> Recalled:
    """Withdraws what is unsent, queues a correction to everybody who has the wrong message, and lists them.

    One portion at a time, so that nothing else has to wait for a great recall.
    """
    found = work.store.wrong(item.wrong, item.after, PORTION + 1)
    wrong = found[:PORTION]
    got = work.store.who_got(notice.id for notice in wrong)
    ending = [(notice, withdraw(work, notice, RECALLED)) for notice in wrong if notice.sendable]
    work.store.save_notices([after for _, after in ending], at=work.now)
    last = {notice.id: (notice, row.attempt_reference) for notice, row in got}
    result = Recalled(
        withdrawn=sum(after.state is NoticeState.WITHDRAWN for _, after in ending),
        under_way=sum(after.trying is not None for _, after in ending),
        corrections=_take_back(work, list(last.values()), item.cause),
        got=tuple(
            Got(n.id, n.uscc, n.facts.unit_name, r.attempt_channel, r.attempt_reference, r.attempt_opened_at)
            for n, r in got
        ),
        goes_on=(wrong[-1].created_at, wrong[-1].id) if len(found) > PORTION else None,
    )
    work.audit(
        "notices.recalled",
        work.rules.account,
        cause=item.cause,
        reason=scrub(item.reason),
        references=list(item.wrong.references),
        rule=item.wrong.rule,
        stage=item.wrong.stage,
        since=str(item.wrong.since) if item.wrong.since else None,
        withdrawn=result.withdrawn,
        corrections=result.corrections,
        got=len(result.got),
    )
    return result


def _take_back(work: NotifyWork, wrong: Iterable[tuple[Notice, str]], cause: Cause) -> int:
    """Queues the correction of each notice that went out with a reference; returns how many are new."""
    corrections = [
        _correction(work, notice, reference, cause)
        for notice, reference in wrong
        if not notice.is_correction and (notice.rule, CORRECTION) in work.rules.templates
    ]
    return work.store.add_notices(corrections, at=work.now)


def _correction(work: NotifyWork, wrong: Notice, reference: str, cause: Cause) -> Notice:
    stage = f"{CORRECTION}:{wrong.stage}"
    fresh = Notice(
        id=notice_id(wrong.lead_id, wrong.episode, stage, wrong.recipient),
        lead_id=wrong.lead_id,
        rule=wrong.rule,
        episode=wrong.episode,
        stage=stage,
        recipient=wrong.recipient,
        uscc=wrong.uscc,
        facts=wrong.facts,
        town=wrong.town,
        not_before=work.now,
        created_at=work.now,
        correlation=cause.correlation,
        corrects=reference,
    )
    return changed(fresh)


# --------------------------------------------------------------------------- the brake


@dataclass(frozen=True)
class ChangeSending:
    """How the brake of some accounts should stand. `allowlist` None leaves the list as it is."""

    channels: tuple[Channel, ...]
    state: SendingState
    keeps_cap: bool
    daily_cap: int | None
    allowlist: tuple[str, ...] | None
    cause: Cause


def change_sending(work: NotifyWork, item: ChangeSending) -> None:
    """Turns the brakes; what waited for the old ones is judged anew, unless that would only be stopped."""
    brakes = work.store.brakes()
    for channel in item.channels:
        before = brakes[channel]
        allowlist = before.allowlist
        if item.allowlist is not None:
            allowlist = frozenset(work.tools.phones.of(mobile) for mobile in item.allowlist)
        daily_cap = before.daily_cap if item.keeps_cap else item.daily_cap
        new = Sending(item.state, daily_cap, allowlist, work.now, item.cause.actor)
        work.store.put_brake(channel, new)
        work.audit(
            "sending.changed",
            work.rules.accounts[channel],
            cause=item.cause,
            before=before.state,
            after=new.state,
            daily_cap=new.daily_cap,
            allowlist=len(allowlist),
        )
    if item.state is not SendingState.OFF:
        for reason in (ALLOWLIST, STOPPED, CAP):
            _release(work, work.store.held_for(reason), reason)
