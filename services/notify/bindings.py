"""Which phone belongs to which follower of the official account, and since when."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from services.notify.work import NotifyWork
from shared.storage.work import Cause

UNFOLLOWED: Final = "unfollowed"
_SECOND: Final = timedelta(seconds=1)
_WECHAT: Final = Cause("wechat", "callback")


@dataclass(frozen=True)
class Bind:
    """A phone belongs to a follower of the official account. `source` says how that was made sure of."""

    mobile: str = field(repr=False)
    openid: str = field(repr=False)
    source: str
    cause: Cause


@dataclass(frozen=True)
class Bound:
    """The binding of now; `new` tells whether it was made by this."""

    new: bool
    bound_at: datetime


def bind(work: NotifyWork, item: Bind) -> Bound:
    """Binds a phone to a follower, in place of what either was bound to."""
    mobile_index, openid_index = work.tools.phones.of(item.mobile), work.tools.phones.of(item.openid)
    for row in work.store.bindings(mobile_index, openid_index):
        if (row.mobile_index, row.openid_index) == (mobile_index, openid_index):
            return Bound(False, row.bound_at)
        work.store.end_binding(row.seq, at=work.now, by="replaced")
        work.audit("binding.ended", str(row.seq), cause=item.cause, by="replaced")
    seq = work.store.add_binding(
        mobile_index=mobile_index,
        openid_index=openid_index,
        openid=work.tools.seal_openid(mobile_index, item.openid),
        source=item.source,
        bound_at=work.now,
    )
    work.audit("binding.made", str(seq), cause=item.cause, source=item.source)
    return Bound(True, work.now)


@dataclass(frozen=True)
class Turned:
    """A follower left the official account or came back, at an instant of WeChat, which counts whole seconds."""

    openid: str = field(repr=False)
    at: datetime


def unfollow(work: NotifyWork, item: Turned) -> None:
    """A follower left the official account. What was bound since is not touched: the news is old, or comes again."""
    at = min(item.at, work.now)
    ended = work.store.end_bindings(
        work.tools.phones.of(item.openid), at=at, by=UNFOLLOWED, bound_before=item.at + _SECOND
    )
    _told(work, ended, UNFOLLOWED, _WECHAT)


def follow_again(work: NotifyWork, item: Turned) -> None:
    """Restores what a follower was bound to when it left, unless either was bound otherwise since.

    Old news, from before it left, restores nothing.
    """
    row = work.store.last_binding(openid_index=work.tools.phones.of(item.openid))
    if row is None or row.ended_by != UNFOLLOWED or item.at + _SECOND <= row.ended_at:
        return
    if work.store.last_binding(mobile_index=row.mobile_index) != row:
        return
    seq = work.store.add_binding(
        mobile_index=row.mobile_index,
        openid_index=row.openid_index,
        openid=row.openid,
        source=row.source,
        bound_at=min(item.at, work.now),
    )
    work.audit("binding.made", str(seq), cause=_WECHAT, source=row.source, restores=row.seq)


def end_bindings(work: NotifyWork, openid_index: str, by: str, cause: Cause) -> None:
    """Ends what a follower is bound to."""
    _told(work, work.store.end_bindings(openid_index, at=work.now, by=by), by, cause)


def _told(work: NotifyWork, ended: Iterable[int], by: str, cause: Cause) -> None:
    for seq in ended:
        work.audit("binding.ended", str(seq), cause=cause, by=by)
