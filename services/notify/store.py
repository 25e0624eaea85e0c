"""Every SQL statement of notify."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from services.notify.domain import (
    CORRECTION,
    TEXT,
    UNSENT,
    Attempt,
    AttemptState,
    Channel,
    Facts,
    Line,
    Notice,
    NoticeState,
    Rules,
    Sending,
    SendingState,
)
from services.notify.tables import (
    PLUMBING,
    attempt,
    attempt_notice,
    binding,
    brake,
    calendar_year,
    notice,
    receipt,
    unit_contact,
)
from shared.calendar import Calendar, Year
from shared.clock import start_of, today
from shared.storage.database import insert_new, upsert

_KEY: Final = (
    "lead_id",
    "rule",
    "episode",
    "stage",
    "recipient",
    "uscc",
    "created_at",
    "correlation",
    "corrects",
)
_MUTABLE: Final = tuple(column.name for column in notice.c if column.name not in ("id", *_KEY))
ADOPTABLE: Final = timedelta(days=7)
"""A receipt is about a submission of unknown outcome that is at most so old."""
Place = tuple[datetime, str]
"""A place in the order of creation: instant and id of a notice."""
_LEFT: Final = (AttemptState.ACCEPTED, AttemptState.UNKNOWN)
"""States of an attempt whose message somebody got, or may have got."""


@dataclass
class Phone:
    """What stands against one more message to a phone, oldest of the recent submissions first."""

    open: bool = False
    unknown: bool = False
    recent: list[datetime] = field(default_factory=list)


class Store:
    """Reads and writes on one connection."""

    def __init__(self, db: sa.Connection, rules: Rules) -> None:
        self._db = db
        self._rules = rules

    # -- notices -----------------------------------------------------------------------------------

    def add_notices(self, notices: Sequence[Notice], *, at: datetime) -> int:
        """Adds those whose key is new, and says how many; ids are distinct."""
        return len(insert_new(self._db, notice, [_notice_row(n, at) for n in notices], key=["id"]))

    def save_notices(self, notices: Sequence[Notice], *, at: datetime) -> None:
        """Writes changed notices back."""
        if not notices:
            return
        statement = sa.update(notice).where(notice.c.id == sa.bindparam("b_id"))
        values = {name: sa.bindparam(f"b_{name}", type_=notice.c[name].type) for name in _MUTABLE}
        rows = [_notice_row(n, at) for n in notices]
        self._db.execute(
            statement.values(values), [{f"b_{name}": row[name] for name in ("id", *_MUTABLE)} for row in rows]
        )

    def put_towns(self, towns: Mapping[str, str | None]) -> None:
        """Hands all notices about these leads, sent ones too, to the town that the unit belongs to now."""
        statement = sa.update(notice).where(notice.c.lead_id == sa.bindparam("b_lead"))
        rows = [{"b_lead": lead_id, "b_town": town} for lead_id, town in sorted(towns.items())]
        if rows:
            self._db.execute(statement.values(town=sa.bindparam("b_town")), rows)

    def notices(self, ids: Iterable[str]) -> dict[str, Notice]:
        """Notices by id."""
        return {n.id: n for n in self._notices(notice.c.id.in_(list(ids)))}

    def due_notices(self, now: datetime, limit: int) -> list[Notice]:
        """What delivery should look at, the longest due first."""
        return self._notices(notice.c.due_at <= now, order=(notice.c.due_at, notice.c.id), limit=limit)

    def due_behind(self, phones: Iterable[str], now: datetime) -> list[Notice]:
        """Everything that is due for the units behind these phones, the longest due first."""
        units = sa.select(unit_contact.c.uscc).where(unit_contact.c.mobile_index.in_(set(phones)))
        return self._notices(
            notice.c.uscc.in_(units), notice.c.due_at <= now, order=(notice.c.due_at, notice.c.id)
        )

    def sendable_of_leads(self, lead_ids: Iterable[str]) -> list[Notice]:
        """Notices about these leads of which something may still leave."""
        return self._notices(notice.c.lead_id.in_(set(lead_ids)), _SENDABLE, order=_IN_TURN)

    def sendable_of_units(self, usccs: Iterable[str]) -> list[Notice]:
        """Notices about these units of which something may still leave."""
        return self._notices(notice.c.uscc.in_(set(usccs)), _SENDABLE, order=_IN_TURN)

    def wrong(self, wrong: "Wrong", after: Place | None, limit: int) -> list[Notice]:
        """The notices that a recall is about, in order of creation, behind a place in that order."""
        where = [_about(wrong), *([] if after is None else [_behind(after)])]
        return self._notices(*where, order=(notice.c.created_at, notice.c.id), limit=limit)

    def who_got(self, ids: Iterable[str]) -> list[tuple[Notice, Any]]:
        """Those of these notices that somebody got or may have got, each with the rows of its submissions, in order."""
        rows = self._db.execute(
            sa.select(notice, *(attempt.c[name].label(f"attempt_{name}") for name in _GOT))
            .join(attempt_notice, attempt_notice.c.notice_id == notice.c.id)
            .join(attempt, attempt.c.reference == attempt_notice.c.reference)
            .where(notice.c.id.in_(list(ids)), attempt.c.state.in_(_LEFT))
            .order_by(notice.c.id, attempt.c.opened_at, attempt.c.reference)
        )
        return [(_notice(row), row) for row in rows]

    def last_references(self, lead_ids: Iterable[str]) -> dict[tuple[str, int], str]:
        """Reference of the last message about each lead and episode that somebody got or may have got."""
        rows = self._db.execute(
            sa.select(notice.c.lead_id, notice.c.episode, attempt.c.reference)
            .join(attempt_notice, attempt_notice.c.notice_id == notice.c.id)
            .join(attempt, attempt.c.reference == attempt_notice.c.reference)
            .where(notice.c.lead_id.in_(set(lead_ids)), attempt.c.state.in_(_LEFT))
            .where(notice.c.stage.not_like(f"{CORRECTION}%"))
            .order_by(attempt.c.opened_at, attempt.c.reference)
        )
        return {(row.lead_id, row.episode): row.reference for row in rows}

    def covered(self, reference: str) -> list[Notice]:
        """The notices that an attempt covers."""
        ids = sa.select(attempt_notice.c.notice_id).where(attempt_notice.c.reference == reference)
        return self._notices(notice.c.id.in_(ids), order=(notice.c.id,))

    def held_for(self, reason: str, mobile_index: str | None = None) -> list[Notice]:
        """Held notices with a reason, of one phone where it is given."""
        where = [_SENDABLE, _holds(reason)]
        if mobile_index is not None:
            where.append(notice.c.mobile_index == mobile_index)
        return self._notices(*where)

    def page(self, where: Mapping[str, str | None], after: Place | None, limit: int) -> list[Notice]:
        """Notices in order of creation, behind a place in that order; None filters nothing."""
        conditions = [notice.c[name] == value for name, value in where.items() if value is not None]
        if after is not None:
            conditions.append(_behind(after))
        return self._notices(*conditions, order=(notice.c.created_at, notice.c.id), limit=limit)

    def first_due(self) -> datetime | None:
        """When the earliest notice should be looked at."""
        due: datetime | None = self._db.scalar(sa.select(sa.func.min(notice.c.due_at)))
        return due

    def unsayable(self) -> int:
        """Notices that are held because their text or their contacts are no good."""
        held = _SENDABLE, _holds(TEXT)
        return self._db.scalar(sa.select(sa.func.count()).select_from(notice).where(*held)) or 0

    def contacts_overdue(self, before: datetime) -> int:
        """Notices that have waited for a contact version since before an instant."""
        waiting = notice.c.state == NoticeState.HELD, _holds("contact"), notice.c.changed_at < before
        return self._db.scalar(sa.select(sa.func.count()).select_from(notice).where(*waiting)) or 0

    def _notices(
        self,
        *where: sa.ColumnElement[bool],
        order: Sequence[Any] = (),
        limit: int | None = None,
        skip: int | None = None,
    ) -> list[Notice]:
        found = sa.select(notice).where(*where).order_by(*order).limit(limit).offset(skip)
        return [_notice(row) for row in self._db.execute(found)]

    def count_by_state(self) -> dict[NoticeState, int]:
        """How many notices stand in each state; a state without any is not in it."""
        rows = self._db.execute(sa.select(notice.c.state, sa.func.count()).group_by(notice.c.state))
        return {NoticeState(state): number for state, number in rows}

    def count_by_channel(self) -> dict[tuple[str, str], int]:
        """How many notices stand in each state, by the channel that took them last ("": none did)."""
        alike = (notice.c.state, notice.c.channel)
        rows = self._db.execute(sa.select(*alike, sa.func.count()).group_by(*alike))
        return {(state, channel or ""): number for state, channel, number in rows}

    def count_due(self, now: datetime) -> int:
        """How many notices may be looked at."""
        return (
            self._db.scalar(sa.select(sa.func.count()).select_from(notice).where(notice.c.due_at <= now)) or 0
        )

    def newest(self, state: NoticeState, limit: int, *, skip: int) -> list[Notice]:
        """Notices in a state, the newest first, without so many of the first."""
        order = notice.c.created_at.desc(), notice.c.id
        return self._notices(notice.c.state == state, order=order, limit=limit, skip=skip)

    # -- contacts ----------------------------------------------------------------------------------

    def contacts(self, usccs: Iterable[str]) -> dict[str, tuple[int, bytes]]:
        """Version and ciphertext of the contacts of units."""
        rows = self._db.execute(sa.select(unit_contact).where(unit_contact.c.uscc.in_(set(usccs))))
        return {row.uscc: (row.version, row.contacts) for row in rows}

    def put_contacts(self, contacts: Mapping[str, tuple[int, bytes, str]]) -> None:
        """Replaces the contacts of units: version, ciphertext, index of the phone to write to ("": none)."""
        names = "version", "contacts", "mobile_index"
        rows = [{"uscc": u, **dict(zip(names, c, strict=True))} for u, c in sorted(contacts.items())]
        upsert(self._db, unit_contact, rows, key=["uscc"], update=names)

    def shared_phones(self, indexes: Iterable[str]) -> set[str]:
        """Those phones that serve two or more units."""
        rows = self._db.scalars(
            sa.select(unit_contact.c.mobile_index)
            .where(unit_contact.c.mobile_index.in_(set(indexes)))
            .group_by(unit_contact.c.mobile_index)
            .having(sa.func.count() > 1)
        )
        return {index for index in rows if index}

    def contacts_without_index(self) -> dict[str, tuple[int, bytes]]:
        """Contacts kept by a version of notify that did not index them."""
        rows = self._db.execute(sa.select(unit_contact).where(unit_contact.c.mobile_index.is_(None)))
        return {row.uscc: (row.version, row.contacts) for row in rows}

    # -- bindings ------------------------------------------------------------------------------------

    def followers(self, indexes: Iterable[str]) -> dict[str, bytes]:
        """The sealed openid that each of these phones is bound to now."""
        rows = self._db.execute(
            sa.select(binding.c.mobile_index, binding.c.openid).where(
                binding.c.mobile_index.in_(set(indexes)), binding.c.ended_at.is_(None)
            )
        )
        return {row.mobile_index: row.openid for row in rows}

    def bindings(self, mobile_index: str, openid_index: str) -> list[Any]:
        """The rows of bindings of now of either of the two."""
        either = (binding.c.mobile_index == mobile_index) | (binding.c.openid_index == openid_index)
        return list(self._db.execute(sa.select(binding).where(either, binding.c.ended_at.is_(None))))

    def last_binding(self, **of: str) -> Any:
        """The newest row of bindings of a phone or of a follower, ended or not; None when there is none."""
        where = [binding.c[name] == value for name, value in of.items()]
        return self._db.execute(
            sa.select(binding).where(*where).order_by(binding.c.seq.desc()).limit(1)
        ).first()

    def add_binding(self, **values: Any) -> int:
        """Keeps a binding; returns its number."""
        seq: int = self._db.scalar(sa.insert(binding).values(**values).returning(binding.c.seq)) or 0
        return seq

    def end_bindings(
        self, openid_index: str, *, at: datetime, by: str, bound_before: datetime | None = None
    ) -> list[int]:
        """Ends what a follower is bound to, or was before an instant; returns the numbers of those bindings."""
        ended = sa.update(binding).where(binding.c.openid_index == openid_index, binding.c.ended_at.is_(None))
        if bound_before is not None:
            ended = ended.where(binding.c.bound_at < bound_before)
        return list(self._db.scalars(ended.values(ended_at=at, ended_by=by).returning(binding.c.seq)))

    def end_binding(self, seq: int, *, at: datetime, by: str) -> None:
        """Ends one binding."""
        self._db.execute(sa.update(binding).where(binding.c.seq == seq).values(ended_at=at, ended_by=by))

    def parked(self, usccs: Iterable[str]) -> set[str]:
        """Those units with a message that is parked here."""
        subject = PLUMBING.parked.c.subject
        return set(self._db.scalars(sa.select(subject).distinct().where(subject.in_(set(usccs)))))

    # -- attempts ----------------------------------------------------------------------------------

    def add_attempts(self, attempts: Sequence[tuple[Attempt, bytes, Sequence[str]]]) -> None:
        """Adds attempts, each with the ciphertext of its mobile and the notices it covers."""
        if attempts:
            rows = [{**asdict(a), "mobile": sealed} for a, sealed, _ in attempts]
            self._db.execute(sa.insert(attempt), rows)
            covers = [{"reference": a.reference, "notice_id": id_} for a, _, ids in attempts for id_ in ids]
            self._db.execute(sa.insert(attempt_notice), covers)

    def save_attempt(self, reference: str, **values: Any) -> None:
        """Writes new values of one attempt."""
        self._db.execute(sa.update(attempt).where(attempt.c.reference == reference).values(**values))

    def attempt(self, reference: str) -> Any:
        """One attempt's row, None when there is none."""
        return self.attempts([reference]).get(reference)

    def attempts(self, references: Iterable[str]) -> dict[str, Any]:
        """The rows of attempts by reference."""
        rows = self._db.execute(sa.select(attempt).where(attempt.c.reference.in_(set(references))))
        return {row.reference: row for row in rows}

    def parallels(self, references: Iterable[str]) -> dict[tuple[str, str], list[str]]:
        """By lead and reference of a message: the references of all messages of the same notice, oldest first.

        Two where an SMS followed a WeChat message: whoever got them has both.
        """
        asked, own = attempt_notice.alias("asked"), attempt_notice.alias("own")
        rows = self._db.execute(
            sa.select(notice.c.lead_id, asked.c.reference.label("asked"), attempt.c.reference)
            .select_from(asked)
            .join(notice, notice.c.id == asked.c.notice_id)
            .join(own, own.c.notice_id == notice.c.id)
            .join(attempt, attempt.c.reference == own.c.reference)
            .where(asked.c.reference.in_(set(references)), attempt.c.state.in_(_LEFT))
            .order_by(attempt.c.opened_at, attempt.c.reference)
        )
        found: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            found.setdefault((row.lead_id, row.asked), []).append(row.reference)
        return found

    def vouch(self, reference: str, uscc4: str) -> bool | None:
        """Whether the message with this reference was taken back from a unit whose code ends so.

        None where no such message left, or is not about such a unit.
        """
        correction, own = notice.alias("correction"), attempt_notice.alias("own")
        taken_back = (
            sa.select(correction.c.id)
            .join(own, own.c.reference == correction.c.corrects)
            .where(own.c.notice_id == notice.c.id, correction.c.lead_id == notice.c.lead_id)
            .exists()
        )
        found = (
            sa.select(taken_back)
            .select_from(attempt)
            .join(attempt_notice, attempt_notice.c.reference == attempt.c.reference)
            .join(notice, notice.c.id == attempt_notice.c.notice_id)
            .where(attempt.c.reference == reference, attempt.c.state.in_(_LEFT))
            .where(sa.func.substr(notice.c.uscc, 15) == uscc4)
        )
        answers = [bool(answer) for answer in self._db.scalars(found)]
        return any(answers) if answers else None

    def attempts_of(self, notice_id: str) -> list[Any]:
        """The rows of a notice's attempts, oldest first."""
        ours = sa.select(attempt_notice.c.reference).where(attempt_notice.c.notice_id == notice_id)
        return list(
            self._db.execute(
                sa.select(attempt)
                .where(attempt.c.reference.in_(ours))
                .order_by(attempt.c.opened_at, attempt.c.reference)
            )
        )

    def newest_of_each_kind(self, among_newest: int) -> list[Any]:
        """Rows of attempts, the newest first: the newest by WeChat, joint SMS, correction and reminder by SMS.

        Only so many of the newest are looked through.
        """
        order = attempt.c.opened_at.desc(), attempt.c.reference
        newest = sa.select(attempt.c.reference).order_by(*order).limit(among_newest)
        kind = sa.case(
            (attempt.c.channel == Channel.WECHAT, "wechat"),
            (sa.func.count() > 1, "joint"),
            (sa.func.min(notice.c.stage).like(f"{CORRECTION}%"), CORRECTION),
            else_="reminder",
        )
        found = self._db.execute(
            sa.select(attempt, kind.label("kind"))
            .join(attempt_notice, attempt_notice.c.reference == attempt.c.reference)
            .join(notice, notice.c.id == attempt_notice.c.notice_id)
            .where(attempt.c.reference.in_(newest))
            .group_by(attempt.c.reference)
            .order_by(*order)
        )
        kinds: dict[str, Any] = {}
        for row in found:
            kinds.setdefault(row.kind, row)
        return list(kinds.values())

    def open_attempts(self) -> list[str]:
        """References of attempts that are open."""
        return list(
            self._db.scalars(
                sa.select(attempt.c.reference)
                .where(attempt.c.state == sa.literal_column("'open'"))
                .order_by(attempt.c.reference)
            )
        )

    def expired_attempts(self, now: datetime, limit: int) -> list[Any]:
        """Rows of attempts whose wait for a receipt or an outcome is over."""
        where = attempt.c.expires_at <= now
        order = attempt.c.expires_at, attempt.c.reference
        return list(self._db.execute(sa.select(attempt).where(where).order_by(*order).limit(limit)))

    def first_expiry(self) -> datetime | None:
        """When the earliest wait for a receipt or an outcome is over."""
        expiry: datetime | None = self._db.scalar(sa.select(sa.func.min(attempt.c.expires_at)))
        return expiry

    def phones(self, indexes: Iterable[str], since: datetime) -> dict[str, Phone]:
        """What stands against more messages to phones; submissions since an instant count for the cap."""
        wanted = set(indexes)
        found = {index: Phone() for index in wanted}
        unsettled = attempt.c.state.in_([AttemptState.OPEN, AttemptState.UNKNOWN])
        counted = attempt.c.state == AttemptState.ACCEPTED
        rows = self._db.execute(
            sa.select(attempt.c.mobile_index, attempt.c.state, attempt.c.opened_at, attempt.c.expires_at)
            .where(attempt.c.mobile_index.in_(wanted))
            .where(unsettled | counted & (attempt.c.opened_at > since))
            .order_by(attempt.c.opened_at)
        )
        for row in rows:
            phone = found[row.mobile_index]
            phone.open |= row.state == AttemptState.OPEN
            phone.unknown |= row.state == AttemptState.UNKNOWN and row.expires_at is not None
            if row.opened_at > since:
                phone.recent.append(row.opened_at)
        return found

    def submitted_since(self, start: datetime) -> dict[Channel, int]:
        """How many submissions count for each daily cap: all but those that provably never left."""
        where = attempt.c.opened_at >= start, attempt.c.state != AttemptState.RELEASED
        rows = self._db.execute(
            sa.select(attempt.c.channel, sa.func.count()).where(*where).group_by(attempt.c.channel)
        )
        return dict.fromkeys(Channel, 0) | {Channel(channel): number for channel, number in rows}

    # -- receipts ----------------------------------------------------------------------------------

    def add_receipt(self, **values: Any) -> int:
        """Keeps a receipt; returns its number."""
        seq: int = self._db.scalar(sa.insert(receipt).values(**values).returning(receipt.c.seq)) or 0
        return seq

    def match_receipt(self, seq: int, reference: str) -> None:
        """Notes which attempt a receipt is about."""
        self._db.execute(sa.update(receipt).where(receipt.c.seq == seq).values(reference=reference))

    def attempt_named(self, account: str, message_group: str, recipient_index: str) -> Any:
        """The attempt that a receipt names, None when no recorded one."""
        return self._db.execute(
            sa.select(attempt).where(
                attempt.c.message_group == message_group,
                attempt.c.account == account,
                attempt.c.recipient_index == recipient_index,
            )
        ).first()

    def undecided_attempts(self, account: str, recipient_index: str, since: datetime) -> list[Any]:
        """Attempts to a recipient since an instant that are open or of unknown outcome, also those given up."""
        return list(
            self._db.execute(
                sa.select(attempt).where(
                    attempt.c.recipient_index == recipient_index,
                    attempt.c.opened_at > since,
                    attempt.c.account == account,
                    attempt.c.state.in_([AttemptState.OPEN, AttemptState.UNKNOWN]),
                )
            )
        )

    def early_receipts(
        self, account: str, recipient_index: str, since: datetime, message_group: str | None
    ) -> list[Any]:
        """Receipts about no known attempt, to a recipient since an instant, of one group where it is given."""
        where = [
            receipt.c.mobile_index == recipient_index,
            receipt.c.arrived_at >= since,
            receipt.c.account == account,
            receipt.c.reference.is_(None),
        ]
        if message_group is not None:
            where.append(receipt.c.message_group == message_group)
        return list(self._db.execute(sa.select(receipt).where(*where).order_by(receipt.c.seq)))

    # -- brake and calendar ------------------------------------------------------------------------

    def brakes(self) -> dict[Channel, Sending]:
        """The brake of each account; as the account begins where nobody has touched it."""
        turned = {
            row.channel: Sending(
                SendingState(row.state),
                row.daily_cap,
                frozenset(row.allowlist),
                row.changed_at,
                row.changed_by,
            )
            for row in self._db.execute(sa.select(brake))
        }
        return {channel: turned.get(channel, self._rules.sending) for channel in self._rules.accounts}

    def put_brake(self, channel: Channel, new: Sending) -> None:
        """Sets the brake of one account."""
        row = {"channel": channel, **asdict(new), "allowlist": sorted(new.allowlist)}
        upsert(self._db, brake, [row], key=["channel"], update=[name for name in row if name != "channel"])

    def lines(self, now: datetime) -> dict[Channel, Line]:
        """Each account as it stands on this day."""
        brakes = self.brakes()
        capped = any(one.daily_cap is not None for one in brakes.values())
        used = self.submitted_since(start_of(today(now))) if capped else {}
        return {
            channel: Line(
                one, None if one.daily_cap is None else max(one.daily_cap - used.get(channel, 0), 0)
            )
            for channel, one in brakes.items()
        }

    def calendar(self) -> Calendar:
        """The calendar of the city pack with the years that replaced its own."""
        calendar = self._rules.calendar
        for row in self._db.execute(sa.select(calendar_year)):
            holidays, makeup_days = (
                frozenset(map(date.fromisoformat, days)) for days in (row.holidays, row.makeup_days)
            )
            calendar = calendar.with_year(Year(row.year, holidays, makeup_days, row.source))
        return calendar

    def put_year(self, year: Year, told_at: datetime) -> None:
        """Keeps a calendar year, unless a later one is kept."""
        kept = self._db.scalar(sa.select(calendar_year.c.told_at).where(calendar_year.c.year == year.year))
        if kept is not None and told_at < kept:
            return
        row = {
            "year": year.year,
            "holidays": sorted(map(str, year.holidays)),
            "makeup_days": sorted(map(str, year.makeup_days)),
            "source": year.source,
            "told_at": told_at,
        }
        upsert(self._db, calendar_year, [row], key=["year"], update=[name for name in row if name != "year"])


@dataclass(frozen=True)
class Wrong:
    """What a recall is about: messages by their references, or one stage of a rule since an instant."""

    references: Sequence[str] = ()
    rule: str | None = None
    stage: str | None = None
    since: datetime | None = None


_GOT: Final = ("reference", "channel", "opened_at")
_IN_TURN: Final = (notice.c.episode, notice.c.id)
"""What is told of several notices must not hang on where the database happened to put them."""
_SENDABLE: Final = notice.c.state.in_(UNSENT) | (
    (notice.c.state == NoticeState.HANDED_OVER) & (notice.c.channel == Channel.WECHAT)
)


def _behind(place: Place) -> sa.ColumnElement[bool]:
    at = sa.tuple_(notice.c.created_at, notice.c.id)
    return at > sa.tuple_(sa.literal(place[0], notice.c.created_at.type), place[1])


def _about(wrong: Wrong) -> sa.ColumnElement[bool]:
    if wrong.references:
        named = attempt_notice.c.reference.in_(wrong.references)
        return notice.c.id.in_(sa.select(attempt_notice.c.notice_id).where(named))
    return sa.and_(
        notice.c.rule == wrong.rule, notice.c.stage == wrong.stage, notice.c.created_at >= wrong.since
    )


def _holds(reason: str) -> sa.ColumnElement[bool]:
    return sa.cast(notice.c.held, sa.Text).like(f'%"{reason}"%')


_NOTICE_FIELDS: Final = tuple(f.name for f in fields(Notice) if f.name != "facts")


def _notice_row(n: Notice, at: datetime) -> dict[str, Any]:
    facts = {
        **vars(n.facts),
        "established_on": str(n.facts.established_on),
        "deadline": str(n.facts.deadline),
    }
    row = {name: getattr(n, name) for name in _NOTICE_FIELDS}
    return {**row, "held": list(n.held), "facts": facts, "changed_at": at}


def _notice(row: Any) -> Notice:
    values = {name: getattr(row, name) for name in _NOTICE_FIELDS}
    values["held"] = tuple(row.held)
    values["state"] = NoticeState(row.state)
    values["trying"] = row.trying and AttemptState(row.trying)
    values["channel"] = row.channel and Channel(row.channel)
    days = {name: date.fromisoformat(row.facts[name]) for name in ("established_on", "deadline")}
    return Notice(**values, facts=Facts(**{**row.facts, **days}))
