"""Schema changes: one folder of Alembic revisions per service, run at the start of the service."""

from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic import command, context
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from shared.storage.database import Database
from shared.storage.types import Instant

_REVISION = '''"""{message}"""

import sqlalchemy as sa
from alembic import op

from shared.storage.types import Instant

revision = "{revision}"
down_revision = {down!r}


def upgrade() -> None:
    {body}
'''


def upgrade(database: Database, migrations: Path) -> None:
    """Brings the schema to the newest revision in `migrations`, in one transaction."""
    with database.write() as db:  # alone: processes that start together take turns
        command.upgrade(_config(migrations, db), "head")


def run(metadata: sa.MetaData) -> None:
    """What each service's `env.py` calls: runs the revisions on the connection that `upgrade` opened."""
    db: sa.Connection = context.config.attributes["connection"]
    context.configure(connection=db, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()


def differences(database: Database, metadata: sa.MetaData) -> list[Any]:
    """What the database lacks or has too much, compared with the tables in code; empty when they agree."""
    with database.write() as db:
        found = produce_migrations(_autogenerate(db), metadata)
        return list(found.upgrade_ops.as_diffs()) if found.upgrade_ops else []


def write_revision(database: Database, migrations: Path, metadata: sa.MetaData, message: str) -> Path | None:
    """Writes the revision that brings an up-to-date database to the tables in code; None: nothing to do.

    It is a draft: read it before it is committed.
    """
    with database.write() as db:
        head = ScriptDirectory.from_config(_config(migrations, db)).get_current_head()
        found = produce_migrations(_autogenerate(db), metadata)
        if found.upgrade_ops is None or found.upgrade_ops.is_empty():
            return None
        body = "\n    ".join(
            line.strip()
            for line in render_python_code(found.upgrade_ops, render_item=_render).splitlines()
            if not line.strip().startswith("#")
        )
    revision = f"{int(head or 0) + 1:04d}"
    file = migrations / "versions" / f"{revision}_{message.lower().replace(' ', '_')}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_REVISION.format(message=message, revision=revision, down=head, body=body))
    return file


def _config(migrations: Path, db: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = db
    return config


def _autogenerate(db: sa.Connection) -> MigrationContext:
    return MigrationContext.configure(db, opts={"compare_type": True})


def _render(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    if kind == "type" and isinstance(item, Instant):
        return "Instant()"
    if kind == "type" and isinstance(item, sa.Enum):
        words = ", ".join(repr(str(word)) for word in item.enums)
        return f"sa.Enum({words}, name={item.name!r}, native_enum=False, create_constraint=True, length={item.length})"
    return False
