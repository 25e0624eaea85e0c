"""The sandbox's file: what reached the networks, and what their receipts came to."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from services.notify.sandbox.script import Channel
from shared.clock import ZONE

T = TypeVar("T")

SCHEMA: Final = """
-- One row per submission and recipient. Business instants: ISO 8601 +08:00, wall instants: ISO 8601 +00:00,
-- both with microseconds, so that each kind sorts as text.
CREATE TABLE IF NOT EXISTS messages (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  received_at TEXT NOT NULL,    -- business
  received_wall TEXT NOT NULL,  -- wall
  channel TEXT NOT NULL DEFAULT 'sms' CHECK (channel IN ('sms', 'wechat')),
  recipient TEXT NOT NULL DEFAULT '',  -- in clear: mobile or openid
  msg_group TEXT NOT NULL,      -- the carrier's name of the submission (WeChat: msgid); '' when refused
  mobile TEXT NOT NULL,         -- in clear; of a refused submission the first one as sent, '' if unreadable
                                -- and for WeChat
  content TEXT NOT NULL,        -- verbatim; WeChat: JSON {template_id, url, data: {field: value}}
  sign TEXT NOT NULL,           -- code of the signature; '' for WeChat
  verdict TEXT NOT NULL CHECK (verdict IN ('accepted', 'refused')),
  action TEXT NOT NULL,         -- of the script's rule that applied; '' for none
  response TEXT NOT NULL,       -- the JSON of the answer; '' when the connection was dropped
  receipt TEXT NOT NULL CHECK (receipt IN ('none', 'pending', 'taken')),
  report_status TEXT NOT NULL,  -- CM:0000 or success = the phone got it; '' where no receipt comes
  error_code TEXT NOT NULL,     -- DELIVRD or UNDELIV; '' where no receipt comes and for WeChat
  receipt_due TEXT,             -- business; the report's receiveDate
  copies INTEGER NOT NULL,      -- how often the receipt must be taken: 0, 1, 2
  pushes INTEGER NOT NULL DEFAULT 0,  -- tries whose outcome was written down
  taken INTEGER NOT NULL DEFAULT 0,   -- of these, answered 2xx (WeChat: `success`)
  next_push_wall TEXT NOT NULL, -- wall; not before this instant
  delivered_at TEXT,            -- business; when the receipt was first taken
  delivered_wall TEXT,          -- wall, the same moment
  client_msg_id TEXT NOT NULL DEFAULT ''  -- WeChat: within 10 minutes the same one is not sent again
);
CREATE INDEX IF NOT EXISTS messages_pending ON messages (receipt_due) WHERE receipt = 'pending';
CREATE INDEX IF NOT EXISTS messages_client_msg_id ON messages (client_msg_id) WHERE client_msg_id <> '';
-- One row per change of a follower; the last one of an openid says whether it follows. Columns as above.
CREATE TABLE IF NOT EXISTS follows (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  channel TEXT NOT NULL DEFAULT 'wechat',
  recipient TEXT NOT NULL,
  event TEXT NOT NULL CHECK (event IN ('subscribe', 'unsubscribe')),
  receipt TEXT NOT NULL DEFAULT 'pending',
  receipt_due TEXT NOT NULL,
  copies INTEGER NOT NULL DEFAULT 1,
  pushes INTEGER NOT NULL DEFAULT 0,
  taken INTEGER NOT NULL DEFAULT 0,
  next_push_wall TEXT NOT NULL,
  delivered_at TEXT,
  delivered_wall TEXT
);
CREATE INDEX IF NOT EXISTS follows_of ON follows (recipient);
CREATE INDEX IF NOT EXISTS follows_pending ON follows (receipt_due) WHERE receipt = 'pending';
CREATE TABLE IF NOT EXISTS tokens (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  token TEXT NOT NULL UNIQUE,
  forced INTEGER NOT NULL,
  issued_wall TEXT NOT NULL,
  expires_wall TEXT NOT NULL,
  revoked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS script (
  position INTEGER PRIMARY KEY,
  rule TEXT NOT NULL,
  seen INTEGER NOT NULL DEFAULT 0,
  used INTEGER NOT NULL DEFAULT 0
);
"""


@dataclass(frozen=True)
class Entry:
    """One row of the ledger as it begins; instants as written by `business` and `wall`."""

    received_at: str
    received_wall: str
    channel: Channel
    recipient: str
    content: str
    response: str
    verdict: str = "accepted"
    action: str = ""
    msg_group: str = ""
    sign: str = ""
    client_msg_id: str = ""
    receipt: str = "none"
    report_status: str = ""
    error_code: str = ""
    receipt_due: str | None = None
    copies: int = 0

    def write(self, db: sqlite3.Connection) -> None:
        """Adds the row."""
        mobile = self.recipient if self.channel == "sms" else ""
        row = asdict(self) | {"mobile": mobile, "next_push_wall": self.received_wall}
        names = ", ".join(row)
        db.execute(f"INSERT INTO messages ({names}) VALUES (:{', :'.join(row)})", row)  # noqa: S608 - own names


class Ledger:
    """The sandbox's file. All changes that wait at the same time share one synced commit."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._widen()
        self._db.executescript(SCHEMA)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-ledger")
        self._waiting: list[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = []
        self._draining: asyncio.Task[None] | None = None

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a change; returns its result once it is on disk."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((change, done))
        if self._draining is None or self._draining.done():
            self._draining = loop.create_task(self._drain())
        return await done

    def read(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """Rows as last committed; may be called from any thread."""
        with closing(sqlite3.connect(self._file)) as db:
            db.row_factory = sqlite3.Row
            return db.execute(sql, values).fetchall()

    async def close(self) -> None:
        """Finishes what waits, then lets go of the file."""
        if self._draining is not None:
            await self._draining
        self._thread.shutdown()
        self._db.close()

    def _widen(self) -> None:
        """Adds what a ledger of an earlier version lacks."""
        have = {row["name"] for row in self._db.execute("PRAGMA table_info(messages)")}
        for column in ("channel", "recipient", "client_msg_id") if have else ():
            if column not in have:
                default = "sms" if column == "channel" else ""
                self._db.execute(
                    f"ALTER TABLE messages ADD COLUMN {column} TEXT NOT NULL DEFAULT '{default}'"
                )

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            changes = [change for change, _ in batch]
            try:
                results = await loop.run_in_executor(self._thread, self._commit, changes)
            except Exception as error:  # noqa: BLE001 - handed to everybody who waits for this commit
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)

    def _commit(self, changes: Sequence[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            results = [change(self._db) for change in changes]
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return results


def business(at: datetime) -> str:
    """A business instant as the ledger writes it."""
    return at.astimezone(ZONE).isoformat(timespec="microseconds")


def wall(at: datetime) -> str:
    """A wall instant as the ledger writes it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
