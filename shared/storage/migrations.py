"""Schema changes: one folder of Alembic revisions per service, run at the start of the service."""

import re
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic import command, context, op
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


_PARTITION = re.compile(r"_(default|\d{8})$")
"""How the name of a partition ends."""


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


def split(name: str, *columns: sa.schema.SchemaItem, comment: str) -> None:
    """For revisions: makes a table that PostgreSQL splits by event id, or makes it anew around its rows."""
    db = op.get_bind()
    known = sa.inspect(db).has_table(name)
    if known:
        op.execute(f"CREATE TABLE {name}_before AS SELECT * FROM {name}")  # noqa: S608 - names of our own
        op.drop_table(name)
    op.create_table(name, *columns, comment=comment, postgresql_partition_by="RANGE (id)")
    if db.dialect.name == "postgresql":
        op.execute(f"CREATE TABLE {name}_default PARTITION OF {name} DEFAULT")
    if known:
        op.execute(f"INSERT INTO {name} SELECT * FROM {name}_before")  # noqa: S608
        op.drop_table(f"{name}_before")


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
    return MigrationContext.configure(db, opts={"compare_type": True, "include_object": _is_ours})


def _is_ours(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Partitions come and go by themselves: no table in code stands for one."""
    return not (kind == "table" and reflected and compare_to is None and _PARTITION.search(name or ""))


def _render(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    if kind == "type" and isinstance(item, Instant):
        return "Instant()"
    if kind == "type" and isinstance(item, sa.Enum):
        words = ", ".join(repr(str(word)) for word in item.enums)
        return f"sa.Enum({words}, name={item.name!r}, native_enum=False, create_constraint=True, length={item.length})"
    if kind == "server_default" and isinstance(item.arg, sa.sql.elements.True_ | sa.sql.elements.False_):
        return f"sa.{item.arg}()"  # as text it would be SQLite's 1 or 0, which PostgreSQL refuses
    return False
