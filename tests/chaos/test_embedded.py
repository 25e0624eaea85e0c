"""What the embedded form knows about the deaths that it causes."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.chaos.embedded import OPEN_UNITS, Killing

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("PRAGMA synchronous = FULL")
for n in range(1_000_000):
    with db:
        db.execute("INSERT INTO attempt VALUES (?, 'open')", [n])
        db.execute("INSERT INTO attempt_notice VALUES (?, ?)", [n, n])
        db.execute("INSERT INTO notice VALUES (?, ?)", [n, str(n)])
"""


class WritingOnly(Killing):
    """Its server does nothing but begin attempts, one commit after the other."""

    def start(self) -> None:
        """Starts it on the same file, or leaves it dead."""
        if not self.log:
            self.process = subprocess.Popen([sys.executable, "-c", WRITER, str(self.folder / "notify.db")])


def test_an_attempt_whose_commit_was_being_synced_counts_as_harmed(tmp_path: Path) -> None:
    """Who looks while the process stands still cannot see it; the next process finds it open."""
    for n in range(5):
        folder = tmp_path / str(n)
        folder.mkdir()
        with closing(sqlite3.connect(folder / "notify.db")) as db:
            db.executescript(
                "PRAGMA journal_mode = WAL; CREATE TABLE attempt (reference PRIMARY KEY, state);"
                " CREATE TABLE attempt_notice (reference, notice_id); CREATE TABLE notice (id PRIMARY KEY, uscc)"
            )
        killing = WritingOnly(folder, port=0)
        killing.start()
        killing.wait_for_attempt(seconds=20)
        assert killing.kill_if_busy()
        with closing(sqlite3.connect(folder / "notify.db")) as db:
            assert killing.open_units == {uscc for (uscc,) in db.execute(OPEN_UNITS)}
