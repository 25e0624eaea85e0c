"""named leases"""

import sqlalchemy as sa
from alembic import op

from shared.storage.types import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "lease",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        comment="which process publishes, and does what must not be done twice; they expire by wall time",
    )
    op.drop_table("relay_lease")
