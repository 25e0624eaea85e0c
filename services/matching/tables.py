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
    # The poll reads this index from its front, so it costs the same however many clocks are pending.
    sa.Index("clock_look_at", "look_at"),
    sa.Index("clock_deadline", "partition", "state", "deadline"),
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
    sa.Column("end", sa.String(32)),
    sa.Column("end_reason", sa.Text),
    sa.Column("ended_at", Instant),
    sa.UniqueConstraint("uscc", "rule"),
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
    sa.Column("notice_id", sa.String(128), nullable=False, unique=True),
    sa.Column("lead_id", sa.String(64), nullable=False),
    sa.Column("uscc", _USCC, nullable=False),
    sa.Column("town", sa.String(64)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(64), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index("visit_of_town", "town", "seq"),
    comment="tasks for a town: a notice reached nobody, look in",
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
    comment="years received since the start; they replace the city pack's",
)
