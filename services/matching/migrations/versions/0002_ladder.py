"""The ladder, exemptions, stock, and the daily check of the funnel"""

import sqlalchemy as sa
from alembic import op

from shared.storage.types import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
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
    op.add_column(
        "clock",
        sa.Column(
            "released",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="a person let it out of the stock",
        ),
    )
    op.create_index(
        "clock_stock",
        "clock",
        ["due_at", "uscc"],
        unique=False,
        sqlite_where=sa.text("reason = 'stock'"),
        postgresql_where=sa.text("reason = 'stock'"),
    )
    op.add_column(
        "lead",
        sa.Column(
            "notice",
            sa.String(length=16),
            nullable=True,
            comment="last word on the notice of this stage; None: it has not ended",
        ),
    )
    op.add_column(
        "lead",
        sa.Column(
            "messaged",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="a message of this episode was handed over",
        ),
    )
    op.add_column(
        "lead",
        sa.Column(
            "wait_left",
            sa.Integer(),
            nullable=True,
            comment="working days that the wait still counts after wait_from",
        ),
    )
    op.add_column(
        "lead",
        sa.Column(
            "wait_from", sa.Date(), nullable=True, comment="None: the wait stands still, or there is none"
        ),
    )
    op.add_column(
        "lead",
        sa.Column(
            "act_at",
            Instant(),
            nullable=True,
            comment="when the step after the wait is taken; None: only news brings it on",
        ),
    )
    op.create_index(
        "lead_act_at",
        "lead",
        ["act_at"],
        unique=False,
        sqlite_where=sa.text("act_at IS NOT NULL"),
        postgresql_where=sa.text("act_at IS NOT NULL"),
    )
    op.add_column("visit", sa.Column("episode", sa.Integer(), server_default="1", nullable=False))
    op.add_column("visit", sa.Column("result", sa.String(length=32), nullable=True))
    op.add_column("visit", sa.Column("note", sa.Text(), nullable=True))
    op.add_column("visit", sa.Column("closed_at", Instant(), nullable=True))
    with op.batch_alter_table("visit") as visit:  # SQLite can't change a column in place
        visit.alter_column("notice_id", existing_type=sa.String(128), nullable=True)
    op.create_index("visit_of_lead", "visit", ["lead_id"], unique=False)
