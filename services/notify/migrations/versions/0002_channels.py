"""Channels, bindings, corrections"""

import sqlalchemy as sa
from alembic import op

from shared.storage.types import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "binding",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("mobile_index", sa.String(length=64), nullable=False),
        sa.Column("openid_index", sa.String(length=64), nullable=False),
        sa.Column("openid", sa.LargeBinary(), nullable=False, comment="encrypted"),
        sa.Column(
            "source",
            sa.String(length=64),
            nullable=False,
            comment="how the owner of the phone was made sure of",
        ),
        sa.Column("bound_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.Column(
            "ended_by",
            sa.String(length=64),
            nullable=True,
            comment="unfollowed, replaced, or the carrier's code",
        ),
        sa.PrimaryKeyConstraint("seq"),
        comment="which follower of the official account a phone belongs to; at most one each way",
    )
    op.create_index(
        "binding_mobile",
        "binding",
        ["mobile_index"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "binding_openid",
        "binding",
        ["openid_index"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.add_column("attempt", sa.Column("channel", sa.String(length=8), server_default="sms", nullable=False))
    op.add_column(
        "attempt",
        sa.Column(
            "recipient_index",
            sa.String(length=64),
            server_default="",
            nullable=False,
            comment="whom the carrier names in receipts: the number, or the follower",
        ),
    )
    op.create_index("attempt_recipient", "attempt", ["recipient_index", "opened_at"], unique=False)
    op.add_column(
        "notice", sa.Column("channel", sa.String(length=8), nullable=True, comment="what took it last")
    )
    op.add_column(
        "notice",
        sa.Column(
            "sms_only", sa.Boolean(), server_default=sa.false(), nullable=False, comment="WeChat is through"
        ),
    )
    op.add_column(
        "notice",
        sa.Column(
            "corrects",
            sa.String(length=16),
            nullable=True,
            comment="reference of the wrong message that it takes back",
        ),
    )
    op.add_column(
        "unit_contact",
        sa.Column(
            "mobile_index",
            sa.String(length=64),
            nullable=True,
            comment="whom to write to; empty: nobody; None: not known yet",
        ),
    )
    op.create_index("unit_contact_mobile", "unit_contact", ["mobile_index"], unique=False)
    # Everything before this revision went by SMS, and receipts named numbers alone.
    op.execute("UPDATE attempt SET recipient_index = mobile_index")
    op.execute("UPDATE notice SET channel = 'sms' WHERE handed_over_at IS NOT NULL")
