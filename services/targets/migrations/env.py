"""Alembic's entry: runs this service's revisions."""

from services.targets.tables import metadata
from shared.storage import migrations

migrations.run(metadata)
