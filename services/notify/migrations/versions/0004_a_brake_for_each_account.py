"""A brake for each account: both begin as the one that they had together."""

import sqlalchemy as sa
from alembic import op

from shared.storage.types import Instant

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "brake",
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("daily_cap", sa.Integer(), nullable=True, comment="None: no limit"),
        sa.Column("allowlist", sa.JSON(), nullable=False, comment="phone indexes"),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.Column("changed_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("channel"),
        comment="the brake of each carrier account; no row: as the account begins",
    )
    op.execute(
        "INSERT INTO brake (channel, state, daily_cap, allowlist, changed_at, changed_by)"
        " SELECT 'sms', state, daily_cap, allowlist, changed_at, changed_by FROM sending"
        " UNION ALL SELECT 'wechat', state, daily_cap, allowlist, changed_at, changed_by FROM sending"
    )
    op.drop_table("sending")
