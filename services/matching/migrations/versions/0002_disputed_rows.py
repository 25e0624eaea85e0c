"""Disputed rows"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "disputed_row",
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("uscc", "batch_id", "row"),
        comment="rows that registry could not take in and that may say that the unit insures somebody",
    )
