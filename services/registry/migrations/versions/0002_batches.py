"""Batches"""

import sqlalchemy as sa
from alembic import op

from shared.storage.types import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
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
