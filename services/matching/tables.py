"""The tables of matching."""

from enum import StrEnum

import sqlalchemy as sa

from services.matching.domain import ClockState, LeadState
from shared.storage.tables import Serial, plumbing_tables
from shared.storage.types import Instant

metadata = sa.MetaData()
PLUMBING = plumbing_tables(metadata)


def _choice(choices: type[StrEnum]) -> sa.Enum:
    return sa.Enum(
        choices,
        native_enum=False,
        length=16,
        create_constraint=True,
        name=f"{choices.__name__.lower()}_is_known",
        values_callable=lambda known: [choice.value for choice in known],
    )


_USCC = sa.String(18)

unit = sa.Table(
    "unit",
    metadata,
    sa.Column("uscc", _USCC, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("established_on", sa.Date),
    sa.Column("town", sa.String(64)),
    sa.Column("code_confirmed", sa.Boolean, nullable=False),
    sa.Column("contact_version", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),
    comment="copy of registry's units",
)

participation = sa.Table(
    "participation",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("uscc", _USCC, nullable=False),
    sa.Column("person", sa.BigInteger, nullable=False),
    sa.Column("insurance", sa.String(32), nullable=False),
    sa.Column("form", sa.String(16), nullable=False),
    sa.Column("started_on", sa.Date, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("taken_in_at", Instant, nullable=False),
    sa.Index("participation_of_unit", "uscc", "started_on"),
    comment="copy of registry's participations through a unit, also of units not known yet",
)

completeness = sa.Table(
    "completeness",
    metadata,
    sa.Column("dataset", sa.String(64), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("through", sa.Date, nullable=False),
    comment="per partition of the bus: everything up to this day has been taken in",
)

clock = sa.Table(
    "clock",
    metadata,
    sa.Column("uscc", _USCC, primary_key=True),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("recorded_at", Instant, nullable=False),
    sa.Column("established_on", sa.Date),
    sa.Column("deadline", sa.Date),
    sa.Column("provisional", sa.Boolean, nullable=False),
    sa.Column("due_at", Instant, comment="00:00 after the deadline day"),
    sa.Column("look_at", Instant, comment="when time alone changes something; None: only new facts do"),
    sa.Column("state", _choice(ClockState), nullable=False),
    sa.Column("reason", sa.String(32), comment="why it is stopped or held"),
    sa.Column("not_before", Instant, comment="set where it had run out before the unit was registered"),
    sa.Column(
        "released",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="a person let it out of the stock",
    ),
    # The poll reads this index from its front, so it costs the same however many clocks are pending.
    sa.Index("clock_look_at", "look_at"),
    sa.Index("clock_deadline", "partition", "state", "deadline"),
    sa.Index(
        "clock_stock",
        "due_at",
        "uscc",
        sqlite_where=sa.text("reason = 'stock'"),
        postgresql_where=sa.text("reason = 'stock'"),
    ),
    comment="the legal clock of every unit",
)

lead = sa.Table(
    "lead",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("rule", sa.String(8), nullable=False),
    sa.Column("uscc", _USCC, nullable=False),
    sa.Column("episode", sa.Integer, nullable=False),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("state", _choice(LeadState), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence_class", sa.String(8), nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("established_on", sa.Date, nullable=False),
    sa.Column("deadline", sa.Date, nullable=False),
    sa.Column("held", sa.JSON, nullable=False, comment="why messages are kept back; a list"),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("opened_at", Instant, nullable=False),
    sa.Column("not_before", Instant),
    sa.Column("next_step", sa.String(32)),
    sa.Column("next_on", sa.Date),
    sa.Column(
        "notice", sa.String(16), comment="last word on the notice of this stage; None: it has not ended"
    ),
    sa.Column(
        "messaged",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="a message of this episode was handed over",
    ),
    sa.Column("wait_left", sa.Integer, comment="working days that the wait still counts after wait_from"),
    sa.Column("wait_from", sa.Date, comment="None: the wait stands still, or there is none"),
    sa.Column(
        "act_at", Instant, comment="when the step after the wait is taken; None: only news brings it on"
    ),
    sa.Column("waits_for", sa.Date, comment="participations must be complete so far before the step"),
    sa.Column("end", sa.String(32)),
    sa.Column("end_reason", sa.Text),
    sa.Column("ended_at", Instant),
    sa.UniqueConstraint("uscc", "rule"),
    sa.Index(
        "lead_waits_for",
        "waits_for",
        sqlite_where=sa.text("waits_for IS NOT NULL"),
        postgresql_where=sa.text("waits_for IS NOT NULL"),
    ),
    # Most leads wait for news or have ended: only those with a step to take are in it.
    sa.Index(
        "lead_act_at",
        "act_at",
        sqlite_where=sa.text("act_at IS NOT NULL"),
        postgresql_where=sa.text("act_at IS NOT NULL"),
    ),
    comment="suspected breaches; reopened as a new episode, never doubled",
)

lead_history = sa.Table(
    "lead_history",
    metadata,
    sa.Column("seq", Serial, primary_key=True),
    sa.Column("lead_id", sa.String(64), nullable=False),
    sa.Column("episode", sa.Integer, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Index("lead_history_of_lead", "lead_id", "seq"),
    comment="everything that happened to a lead, append-only",
)

visit = sa.Table(
    "visit",
    metadata,
    sa.Column("seq", Serial, primary_key=True),
    sa.Column("id", sa.String(36), nullable=False, unique=True),
    sa.Column(
        "notice_id",
        sa.String(128),
        unique=True,
        comment="the notice that reached nobody; None: the stage asks for it",
    ),
    sa.Column("lead_id", sa.String(64), nullable=False),
    sa.Column("episode", sa.Integer, nullable=False, server_default="1"),
    sa.Column("uscc", _USCC, nullable=False),
    sa.Column("town", sa.String(64)),
    sa.Column("state", sa.String(16), nullable=False, comment="open, joined, done, cancelled"),
    sa.Column("reason", sa.String(64), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("result", sa.String(32)),
    sa.Column("note", sa.Text),
    sa.Column("closed_at", Instant),
    sa.Index("visit_of_town", "town", "seq"),
    sa.Index("visit_of_lead", "lead_id"),
    comment="tasks for a town: a notice reached nobody or the ladder asks for it, look in",
)

exemption = sa.Table(
    "exemption",
    metadata,
    sa.Column("uscc", _USCC, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("proof", sa.Text, nullable=False),
    sa.Column("expires_on", sa.Date, nullable=False, comment="its last day"),
    sa.Column("granted_at", Instant, nullable=False),
    sa.Column("granted_by", sa.String(128), nullable=False),
    sa.Column("lifted_at", Instant, comment="when an official took it back"),
    comment="units that need insure nobody for a time; the newest per unit",
)

funnel_check = sa.Table(
    "funnel_check",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("leads", sa.Integer, nullable=False),
    sa.Column("places", sa.JSON, nullable=False),
    sa.Column("overdue", sa.Integer, nullable=False, comment="open leads past their next date"),
    sa.Column("lost", sa.Integer, nullable=False, comment="open leads without owner, next step or next date"),
    comment="the daily check that every lead is in one place and none stands still",
)

frozen_key = sa.Table(
    "frozen_key",
    metadata,
    sa.Column("subject", sa.String(64), primary_key=True),
    comment="keys with a parked message: what is known of them may be out of date",
)

disputed_row = sa.Table(
    "disputed_row",
    metadata,
    sa.Column("uscc", _USCC, primary_key=True),
    sa.Column("batch_id", sa.String(64), primary_key=True),
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
    comment="rows that registry could not take in and that may say that the unit insures somebody",
)

calendar_year = sa.Table(
    "calendar_year",
    metadata,
    sa.Column("year", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("holidays", sa.JSON, nullable=False),
    sa.Column("makeup_days", sa.JSON, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("told_at", Instant, comment="when registry told it; None: before this was kept"),
    comment="years received since the start; they replace the city pack's",
)
