"""Initial"""

import sqlalchemy as sa
from alembic import op

from shared.storage.types import Instant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", Instant(), nullable=False, comment="business time"),
        sa.Column("wall", Instant(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("correlation", sa.String(length=64), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=True, comment="None: committed, not yet sealed"),
        sa.PrimaryKeyConstraint("seq"),
        comment="who did what to what, committed with the fact; no personal data in clear",
        sqlite_autoincrement=True,
    )
    op.create_index("audit_subject", "audit", ["subject"], unique=False)
    op.create_index(
        "audit_unsealed",
        "audit",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("block IS NULL"),
        postgresql_where=sa.text("block IS NULL"),
    )
    op.create_table(
        "audit_block",
        sa.Column("no", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("previous", sa.String(length=80), nullable=False, comment="hash of the block before"),
        sa.Column("sealed_at", Instant(), nullable=False, comment="wall time"),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("no"),
        comment="the chain over the audit rows",
    )
    op.create_table(
        "calendar_year",
        sa.Column("year", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holidays", sa.JSON(), nullable=False),
        sa.Column("makeup_days", sa.JSON(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("year"),
        comment="years received since the start; they replace the city pack's",
    )
    op.create_table(
        "clock",
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("recorded_at", Instant(), nullable=False),
        sa.Column("established_on", sa.Date(), nullable=True),
        sa.Column("deadline", sa.Date(), nullable=True),
        sa.Column("provisional", sa.Boolean(), nullable=False),
        sa.Column("due_at", Instant(), nullable=True, comment="00:00 after the deadline day"),
        sa.Column(
            "look_at",
            Instant(),
            nullable=True,
            comment="when time alone changes something; None: only new facts do",
        ),
        sa.Column(
            "state",
            sa.Enum(
                "running",
                "waiting",
                "held",
                "suspended",
                "stopped",
                "due",
                name="clockstate_is_known",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.String(length=32), nullable=True, comment="why it is stopped or held"),
        sa.Column(
            "not_before",
            Instant(),
            nullable=True,
            comment="set where it had run out before the unit was registered",
        ),
        sa.Column(
            "released",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="a person let it out of the stock",
        ),
        sa.PrimaryKeyConstraint("uscc"),
        comment="the legal clock of every unit",
    )
    op.create_index("clock_deadline", "clock", ["partition", "state", "deadline"], unique=False)
    op.create_index("clock_look_at", "clock", ["look_at"], unique=False)
    op.create_index(
        "clock_stock",
        "clock",
        ["due_at", "uscc"],
        unique=False,
        sqlite_where=sa.text("reason = 'stock'"),
        postgresql_where=sa.text("reason = 'stock'"),
    )
    op.create_table(
        "completeness",
        sa.Column("dataset", sa.String(length=64), nullable=False),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("through", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", "partition"),
        comment="per partition of the bus: everything up to this day has been taken in",
    )
    op.create_table(
        "disputed_row",
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("uscc", "batch_id", "row"),
        comment="rows that registry could not take in and that may say that the unit insures somebody",
    )
    op.create_table(
        "event_log",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=True, comment="None: the subject decides"),
        sa.Column("time", Instant(), nullable=False),
        sa.Column("correlation", sa.String(length=64), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("published_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        comment="every fact this service has published, append-only",
    )
    op.create_table(
        "exemption",
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("proof", sa.Text(), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=False, comment="its last day"),
        sa.Column("granted_at", Instant(), nullable=False),
        sa.Column("granted_by", sa.String(length=128), nullable=False),
        sa.Column("lifted_at", Instant(), nullable=True, comment="when an official took it back"),
        sa.PrimaryKeyConstraint("uscc"),
        comment="units that need insure nobody for a time; the newest per unit",
    )
    op.create_table(
        "frozen_key",
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("subject"),
        comment="keys with a parked message: what is known of them may be out of date",
    )
    op.create_table(
        "funnel_check",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("leads", sa.Integer(), nullable=False),
        sa.Column("places", sa.JSON(), nullable=False),
        sa.Column("overdue", sa.Integer(), nullable=False, comment="open leads past their next date"),
        sa.Column(
            "lost", sa.Integer(), nullable=False, comment="open leads without owner, next step or next date"
        ),
        sa.PrimaryKeyConstraint("day"),
        comment="the daily check that every lead is in one place and none stands still",
    )
    op.create_table(
        "idempotency",
        sa.Column("client", sa.String(length=128), nullable=False),
        sa.Column("route", sa.String(length=256), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False, comment="encrypted"),
        sa.Column("stored_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("client", "route", "key"),
        comment="answers to requests that carried an Idempotency-Key",
    )
    op.create_table(
        "inbox",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="ids of the messages whose effects are committed here; kept longer than any topic",
    )
    op.create_table(
        "lead",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("rule", sa.String(length=8), nullable=False),
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "open",
                "held",
                "ended",
                name="leadstate_is_known",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence_class", sa.String(length=8), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("established_on", sa.Date(), nullable=False),
        sa.Column("deadline", sa.Date(), nullable=False),
        sa.Column("held", sa.JSON(), nullable=False, comment="why messages are kept back; a list"),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("opened_at", Instant(), nullable=False),
        sa.Column("not_before", Instant(), nullable=True),
        sa.Column("next_step", sa.String(length=32), nullable=True),
        sa.Column("next_on", sa.Date(), nullable=True),
        sa.Column(
            "notice",
            sa.String(length=16),
            nullable=True,
            comment="last word on the notice of this stage; None: it has not ended",
        ),
        sa.Column(
            "messaged",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="a message of this episode was handed over",
        ),
        sa.Column(
            "wait_left",
            sa.Integer(),
            nullable=True,
            comment="working days that the wait still counts after wait_from",
        ),
        sa.Column(
            "wait_from", sa.Date(), nullable=True, comment="None: the wait stands still, or there is none"
        ),
        sa.Column(
            "act_at",
            Instant(),
            nullable=True,
            comment="when the step after the wait is taken; None: only news brings it on",
        ),
        sa.Column("end", sa.String(length=32), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("uscc", "rule"),
        comment="suspected breaches; reopened as a new episode, never doubled",
    )
    op.create_index(
        "lead_act_at",
        "lead",
        ["act_at"],
        unique=False,
        sqlite_where=sa.text("act_at IS NOT NULL"),
        postgresql_where=sa.text("act_at IS NOT NULL"),
    )
    op.create_table(
        "lead_history",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("lead_id", sa.String(length=64), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        comment="everything that happened to a lead, append-only",
    )
    op.create_index("lead_history_of_lead", "lead_history", ["lead_id", "seq"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=True, comment="None: the subject decides"),
        sa.Column("time", Instant(), nullable=False),
        sa.Column("correlation", sa.String(length=64), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        comment="facts committed and not yet published; the relay moves them to event_log",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "parked",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("topic", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column(
            "error", sa.Text(), nullable=True, comment="None: it only waits behind the one that failed"
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("parked_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        comment="messages that failed for a reason that will not go away, and those behind them",
        sqlite_autoincrement=True,
    )
    op.create_index("parked_key", "parked", ["subject", "topic", "seq"], unique=False)
    op.create_table(
        "participation",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("person", sa.BigInteger(), nullable=False),
        sa.Column("insurance", sa.String(length=32), nullable=False),
        sa.Column("form", sa.String(length=16), nullable=False),
        sa.Column("started_on", sa.Date(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("taken_in_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="copy of registry's participations through a unit, also of units not known yet",
    )
    op.create_index("participation_of_unit", "participation", ["uscc", "started_on"], unique=False)
    op.create_table(
        "relay_lease",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="one row: which process publishes; it expires by wall time",
    )
    op.create_table(
        "unit",
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("established_on", sa.Date(), nullable=True),
        sa.Column("town", sa.String(length=64), nullable=True),
        sa.Column("code_confirmed", sa.Boolean(), nullable=False),
        sa.Column("contact_version", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("uscc"),
        comment="copy of registry's units",
    )
    op.create_table(
        "visit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column(
            "notice_id",
            sa.String(length=128),
            nullable=True,
            comment="the notice that reached nobody; None: the stage asks for it",
        ),
        sa.Column("lead_id", sa.String(length=64), nullable=False),
        sa.Column("episode", sa.Integer(), server_default="1", nullable=False),
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("town", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False, comment="open, done, cancelled"),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("result", sa.String(length=32), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("closed_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("notice_id"),
        comment="tasks for a town: a notice reached nobody or the ladder asks for it, look in",
    )
    op.create_index("visit_of_lead", "visit", ["lead_id"], unique=False)
    op.create_index("visit_of_town", "visit", ["town", "seq"], unique=False)
