"""Partitions"""

import sqlalchemy as sa

from shared.storage.migrations import split
from shared.storage.types import Instant

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    split(
        "event_log",
        *_log_columns(),
        comment="every fact this service has published, append-only; personal ones are in contact_log",
    )
    split(
        "contact_log",
        *_log_columns(),
        comment="published facts that carry sealed personal data; kept as long as a topic",
    )
    split(
        "inbox",
        _event_id(),
        sa.Column("received_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="ids of the messages whose effects are committed here; kept longer than any topic",
    )


def _log_columns() -> tuple[sa.schema.SchemaItem, ...]:
    return (
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        _event_id(),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=True, comment="None: the subject decides"),
        sa.Column("time", Instant(), nullable=False),
        sa.Column("correlation", sa.String(length=64), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("published_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("seq", "id"),
    )


def _event_id() -> sa.Column[str]:
    text = sa.String(length=36, collation="C").with_variant(sa.String(length=36), "sqlite")
    return sa.Column("id", text, nullable=False)
