"""What an upgrade of notify's schema keeps."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from services import notify
from services.notify.domain import Channel, SendingState
from services.notify.store import Store
from shared.storage.database import Database
from shared.storage.migrations import upgrade
from tests.support.notify import RULES

FOLDER = Path(notify.__file__).parent / "migrations"


def test_a_brake_that_is_off_stays_off_for_both_accounts(tmp_path: Path) -> None:
    """The one brake of before becomes that of SMS and that of WeChat; nothing leaves because of an upgrade."""
    database = Database(f"sqlite:///{tmp_path / 'notify.db'}")
    with database.write() as db:
        config = Config()
        config.set_main_option("script_location", str(FOLDER))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = db
        command.upgrade(config, "0003")
        db.execute(
            sa.text(
                "INSERT INTO sending (id, state, daily_cap, allowlist, changed_at, changed_by)"
                " VALUES (1, 'off', 300, '[\"a\"]', '2026-02-10T02:00:00.000000', 'desk')"
            )
        )
    upgrade(database, FOLDER)
    with database.read() as db:
        brakes = Store(db, RULES).brakes()
    database.close()
    assert set(brakes) == set(Channel)
    for brake in brakes.values():
        assert (brake.state, brake.daily_cap, brake.allowlist) == (SendingState.OFF, 300, frozenset({"a"}))
        assert brake.changed_by == "desk"
