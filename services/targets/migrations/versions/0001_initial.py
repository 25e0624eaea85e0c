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
        "counted",
        sa.Column("person", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("insurance", sa.String(length=32), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column(
            "participation_id",
            sa.BigInteger(),
            nullable=True,
            comment="None, like all that follows: none counts any more",
        ),
        sa.Column("kind", sa.String(length=16), nullable=True),
        sa.Column("town", sa.String(length=64), nullable=True),
        sa.Column("started_on", sa.Date(), nullable=True),
        sa.Column("recorded_on", sa.Date(), nullable=True),
        sa.Column("baseline", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("person", "insurance"),
        comment="the participation that is a person's first of an insurance, by the newest decision of registry",
    )
    op.create_index("counted_started_on", "counted", ["started_on"], unique=False)
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
        "relay_lease",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="one row: which process publishes; it expires by wall time",
    )
    op.create_table(
        "spell",
        sa.Column("participation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("person", sa.BigInteger(), nullable=False),
        sa.Column("insurance", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("town", sa.String(length=64), nullable=False),
        sa.Column("started_on", sa.Date(), nullable=False),
        sa.Column("recorded_on", sa.Date(), nullable=False),
        sa.Column("baseline", sa.Boolean(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "in_force",
                "ended",
                "cancelled",
                name="spell_state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("participation_id"),
        comment="every participation with how it was declared; resumptions and transfers are counted here",
    )
    op.create_index("spell_started_on", "spell", ["started_on"], unique=False)
