"""Alembic's entry: runs this service's revisions."""

from services.notify.tables import metadata
from shared.storage import migrations

migrations.run(metadata)
