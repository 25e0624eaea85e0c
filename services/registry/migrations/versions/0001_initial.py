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
        "batch",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("dataset", sa.String(length=32), nullable=False),
        sa.Column("department", sa.String(length=32), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="bytes"),
        sa.Column("complete_through", sa.Date(), nullable=True, comment="declared when the batch is applied"),
        sa.Column("client", sa.String(length=128), nullable=False),
        sa.Column("correlation", sa.String(length=64), nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column(
            "layout", sa.JSON(), nullable=False, comment="how the file is read; empty until it was surveyed"
        ),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="byte behind the last row applied"),
        sa.Column("line", sa.Integer(), nullable=False, comment="line of the last row applied"),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.Column("unchanged", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("problems", sa.JSON(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("department", "dataset", "sha256"),
        comment="files that departments sent, and how far they are applied; the same file is the same batch",
    )
    op.create_index("batch_state", "batch", ["state", "id"], unique=False)
    op.create_table(
        "calendar_year",
        sa.Column("year", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holidays", sa.JSON(), nullable=False),
        sa.Column("makeup_days", sa.JSON(), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("year"),
        comment="years of the working-day calendar that were imported; they replace the city pack's",
    )
    op.create_table(
        "contact",
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False, comment="JSON list of {role, name, mobile}"),
        sa.PrimaryKeyConstraint("uscc"),
        comment="the contacts of a unit, whole; a unit that never had one has no row",
    )
    op.create_table(
        "dataset",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("complete_through", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="how far each data set is known to be complete; its mode is a setting",
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
        "first_participation",
        sa.Column("person", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("insurance", sa.String(length=32), nullable=False),
        sa.Column(
            "participation_id",
            sa.BigInteger(),
            nullable=True,
            comment="None: every record of it was cancelled",
        ),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("person", "insurance"),
        comment="which participation counts as a person's first of an insurance",
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
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("person", sa.BigInteger(), nullable=False),
        sa.Column("insurance", sa.String(length=32), nullable=False),
        sa.Column("form", sa.String(length=16), nullable=False),
        sa.Column(
            "uscc",
            sa.String(length=18),
            nullable=True,
            comment="None for flexible form; the unit may not be registered yet",
        ),
        sa.Column("started_on", sa.Date(), nullable=False),
        sa.Column(
            "kind", sa.String(length=16), nullable=False, comment="as declared: first, resumed, transferred"
        ),
        sa.Column("town", sa.String(length=32), nullable=False),
        sa.Column("recorded_on", sa.Date(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("ended_on", sa.Date(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        comment="one spell of one person in one insurance",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "participation_spell",
        "participation",
        ["person", "insurance", "form", "uscc", "started_on"],
        unique=True,
        sqlite_where=sa.text("state <> 'cancelled'"),
        postgresql_where=sa.text("state <> 'cancelled'"),
    )
    op.create_index(
        "participation_spell_flexible",
        "participation",
        ["person", "insurance", "form", "started_on"],
        unique=True,
        sqlite_where=sa.text("state <> 'cancelled' AND uscc IS NULL"),
        postgresql_where=sa.text("state <> 'cancelled' AND uscc IS NULL"),
    )
    op.create_index("participation_unit", "participation", ["uscc", "started_on"], unique=False)
    op.create_table(
        "person",
        sa.Column("token", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id_index", sa.String(length=64), nullable=False, comment="keyed digest of the ID number"),
        sa.Column("sealed", sa.LargeBinary(), nullable=False, comment="JSON {id_number, name}"),
        sa.PrimaryKeyConstraint("token"),
        sa.UniqueConstraint("id_index"),
        comment="people, by the random token that stands for them everywhere else",
    )
    op.create_table(
        "rejected_row",
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False, comment="line of the file"),
        sa.Column("sealed", sa.LargeBinary(), nullable=False, comment="JSON {text, troubles}"),
        sa.Column(
            "uscc", sa.String(length=18), nullable=True, comment="the unit that a participation speaks of"
        ),
        sa.Column("keys", sa.JSON(), nullable=False, comment="keyed digests of whom it is about"),
        sa.Column("disputed", sa.Boolean(), nullable=True, comment="None: it concerns no unit"),
        sa.PrimaryKeyConstraint("batch_id", "row"),
        comment="rows that were not applied; a disputed one holds messages to its unit",
    )
    op.create_index("rejected_row_of_unit", "rejected_row", ["uscc", "disputed"], unique=False)
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
        sa.Column("established_on", sa.Date(), nullable=True, comment="None: the department did not know it"),
        sa.Column("town", sa.String(length=32), nullable=True),
        sa.Column("address", sa.String(length=200), nullable=True),
        sa.Column("industry", sa.String(length=8), nullable=True),
        sa.Column("code_confirmed", sa.Boolean(), nullable=False),
        sa.Column("contact_version", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("recorded_at", Instant(), nullable=False),
        sa.Column("suspended_on", sa.Date(), nullable=True),
        sa.Column("resumed_on", sa.Date(), nullable=True),
        sa.Column("closed_on", sa.Date(), nullable=True),
        sa.Column(
            "wrong_data_at",
            Instant(),
            nullable=True,
            comment="when matching ended a lead because of wrong data",
        ),
        sa.PrimaryKeyConstraint("uscc"),
        comment="employers, as departments registered them",
    )
    op.create_index("unit_town", "unit", ["town", "uscc"], unique=False)
