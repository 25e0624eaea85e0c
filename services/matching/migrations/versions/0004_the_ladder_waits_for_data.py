"""The ladder waits for data."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column(
        "lead",
        sa.Column(
            "waits_for",
            sa.Date(),
            nullable=True,
            comment="participations must be complete so far before the step",
        ),
    )
    op.create_index(
        "lead_waits_for",
        "lead",
        ["waits_for"],
        unique=False,
        sqlite_where=sa.text("waits_for IS NOT NULL"),
        postgresql_where=sa.text("waits_for IS NOT NULL"),
    )
