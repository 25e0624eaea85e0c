"""Files sent again, and whom disputes are about."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    dispute_key = op.create_table(
        "dispute_key",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("digest", "batch_id", "row"),
        comment="finds the disputed rows about a person of a unit; gone once they are settled",
    )
    op.create_index("dispute_key_row", "dispute_key", ["batch_id", "row"], unique=False)
    op.add_column(
        "batch",
        sa.Column(
            "file",
            sa.String(length=36),
            nullable=True,
            comment="what the file is kept under; None: the id of the batch",
        ),
    )
    rejected = sa.table(
        "rejected_row",
        sa.column("batch_id", sa.String),
        sa.column("row", sa.Integer),
        sa.column("keys", sa.JSON),
        sa.column("disputed", sa.Boolean),
    )
    rows = op.get_bind().execute(sa.select(rejected).where(rejected.c.disputed))
    keys = [
        {"digest": digest, "batch_id": row.batch_id, "row": row.row} for row in rows for digest in set(row[2])
    ]
    op.bulk_insert(dispute_key, keys)
