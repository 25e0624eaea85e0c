"""What a batch brought."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "batch_effect",
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False, comment="line of the file"),
        sa.Column("uscc", sa.String(length=18), nullable=True, comment="the unit that the row registered"),
        sa.Column("version", sa.Integer(), nullable=True, comment="of the unit, as the row left it"),
        sa.Column(
            "participation_id",
            sa.BigInteger(),
            nullable=True,
            comment="the participation that it recorded or ended",
        ),
        sa.Column("recorded", sa.Boolean(), nullable=False, comment="false: it only ended what was known"),
        sa.Column("ended_on", sa.Date(), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", "row"),
        comment="what the rows of a batch brought, so that it can be taken back",
    )
    op.add_column(
        "batch",
        sa.Column(
            "replaced",
            sa.Boolean(),
            nullable=True,
            comment="withdrawn: whether another file is to take its place",
        ),
    )
    op.add_column("batch", sa.Column("taken_back", sa.Integer(), server_default="0", nullable=False))
    op.add_column(
        "batch",
        sa.Column(
            "kept", sa.Integer(), server_default="0", nullable=False, comment="effects that outlast it"
        ),
    )
