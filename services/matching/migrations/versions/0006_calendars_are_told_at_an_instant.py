"""calendars are told at an instant"""

import sqlalchemy as sa
from alembic import op

from shared.storage.types import Instant

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column(
        "calendar_year",
        sa.Column(
            "told_at", Instant(), nullable=True, comment="when registry told it; None: before this was kept"
        ),
    )
