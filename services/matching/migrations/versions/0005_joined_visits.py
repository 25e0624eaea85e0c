"""joined visits"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":  # SQLite keeps no comments
        op.alter_column(
            "visit", "state", existing_type=sa.String(16), comment="open, joined, done, cancelled"
        )
