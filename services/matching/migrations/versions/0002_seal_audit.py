"""seal audit"""

import sqlalchemy as sa
from alembic import op

from shared.storage.types import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
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
    op.add_column(
        "audit", sa.Column("block", sa.BigInteger(), nullable=True, comment="None: committed, not yet sealed")
    )
    op.create_index(
        "audit_unsealed",
        "audit",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("block IS NULL"),
        postgresql_where=sa.text("block IS NULL"),
    )
