"""The audit trail cannot be altered unseen: committed rows are chained into blocks, and `verify` reads the chain.

A row commits with its fact and is sealed up to a second later, in a transaction of its own: a chain inside the
committing transactions would make them wait for each other. See docs/adr/0009-audit-blocks.md.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.hashes import SM3, Hash

from shared.storage.database import insert_new
from shared.storage.tables import Plumbing

BLOCK = 5_000
"""Most rows in a block."""

GENESIS = "genesis"
"""Stands where the first block has no previous one."""


@dataclass(frozen=True)
class Block:
    """Rows that were sealed together, and the hash that ties them to everything before.

    The hash is SM3 over the other fields and every row, byte by byte. Rows of a block lie in `first_seq` …
    `last_seq`, but need not be all of them: of two transactions the later numbered may commit first.
    """

    no: int
    previous: str
    sealed_at: datetime
    first_seq: int
    last_seq: int
    rows: int
    hash: str


@dataclass(frozen=True)
class Verdict:
    """What `verify` found. `breaks` are sentences; none: everything up to the newest block is as it was.

    Without a head, a chain whose end was cut off looks whole. `hashes`, of all blocks in order, tell whether one
    that was noted elsewhere is still among them.
    """

    breaks: list[str]
    hashes: list[str]
    unsealed: int
    unsealed_since: datetime | None


@dataclass(frozen=True)
class Head:
    """The newest block, as it is remembered outside the database. A file that says neither is no block's."""

    no: int
    hash: str


def read_head(file: Path) -> Head | None:
    """What is remembered in a file; None without one."""
    try:
        no, _, digest = file.read_text(encoding="utf-8").strip().partition(" ")
    except FileNotFoundError:
        return None
    return Head(int(no) if no.isdecimal() else 0, digest)


def keep_head(file: Path, block: Block) -> bool:
    """Remembers a block that was sealed and committed; whoever reads finds the old one or the new one.

    False, and nothing is written, where the block does not follow what is remembered: blocks were taken away,
    or another process has sealed one more meanwhile. `verify` tells which.
    """
    known = read_head(file)
    if known and (known.no >= block.no or (known.no == block.no - 1 and known.hash != block.previous)):
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{block.no}.part")
    part.write_text(f"{block.no} {block.hash}\n", encoding="utf-8")
    part.replace(file)
    return True


def seal(db: sa.Connection, plumbing: Plumbing, *, wall: datetime) -> Block | None:
    """Puts what is unsealed into one new block, at most `BLOCK` rows; None when there was nothing.

    Of two processes that seal at once, one gives way and finds the rest next time.
    """
    audit, blocks = plumbing.audit, plumbing.audit_block
    newest = db.execute(sa.select(blocks).order_by(blocks.c.no.desc()).limit(1)).first()
    # By the mark, never `seq > last`: a lower number can commit after a higher one.
    rows = db.execute(
        _contents(audit).where(audit.c.block.is_(None)).order_by(audit.c.seq).limit(BLOCK)
    ).all()
    if not rows:
        return None
    no, previous = (newest.no + 1, newest.hash) if newest else (1, GENESIS)
    first, last = rows[0].seq, rows[-1].seq
    digest = _digest(rows, no, previous, wall, first, last, len(rows))
    block = Block(no, previous, wall, first, last, len(rows), digest)
    if not insert_new(db, blocks, [asdict(block)], key=["no"]):
        return None
    db.execute(sa.update(audit).where(audit.c.seq.in_([row.seq for row in rows])).values(block=no))
    return block


def verify(db: sa.Connection, plumbing: Plumbing, head: Head | None = None) -> Verdict:
    """Reads the whole trail, block by block, and says where it was altered and what is not sealed yet.

    `head`, read before `db` was, must be among the blocks.
    """
    audit = plumbing.audit
    # Counted before the blocks are read: one that is sealed meanwhile can't look like one that is missing.
    by_block = sa.select(audit.c.block, sa.func.count()).group_by(audit.c.block)
    counted: dict[int | None, int] = {row[0]: row[1] for row in db.execute(by_block)}
    since = db.scalar(sa.select(sa.func.min(audit.c.wall)).where(audit.c.block.is_(None)))
    unsealed = counted.pop(None, 0)
    breaks: list[str] = []
    hashes: list[str] = []
    before: Block | None = None
    for block, rows in _blocks(db, plumbing):
        breaks += _faults(before, block, rows, counted.pop(block.no, len(rows)))
        hashes.append(block.hash)
        before = block
    breaks += [f"block {no} is missing; rows that name it: {number}" for no, number in counted.items()]
    if head is not None and head.hash not in hashes:
        breaks.append(f"block {head.no} is remembered as sealed, and not in the chain: {head.hash}")
    return Verdict(breaks, hashes, unsealed, since)


def _blocks(db: sa.Connection, plumbing: Plumbing) -> Iterator[tuple[Block, Sequence[sa.Row[Any]]]]:
    """Every block with its rows, in order; one block in memory at a time."""
    audit, blocks = plumbing.audit, plumbing.audit_block
    no = -1
    while row := db.execute(sa.select(blocks).where(blocks.c.no > no).order_by(blocks.c.no).limit(1)).first():
        block = Block(**row._mapping)
        within = audit.c.seq.between(block.first_seq, block.last_seq)
        yield (
            block,
            db.execute(_contents(audit).where(within, audit.c.block == block.no).order_by(audit.c.seq)).all(),
        )
        no = block.no


def _faults(before: Block | None, block: Block, rows: Sequence[sa.Row[Any]], counted: int) -> Iterator[str]:
    """What is wrong with a block: its place in the chain, or what it holds."""
    name = f"block {block.no} ({block.sealed_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC)"
    if block.previous != (before.hash if before else GENESIS):
        yield f"{name}: does not follow {f'block {before.no}' if before else 'the beginning'}"
    if counted != block.rows or len(rows) != block.rows:
        yield f"{name}: sealed with {block.rows} rows, now {counted}, in their places {len(rows)}"
    elif block.hash != _digest(
        rows, block.no, block.previous, block.sealed_at, block.first_seq, block.last_seq, block.rows
    ):
        yield f"{name}: a row of {block.first_seq} … {block.last_seq}, or the block itself, was changed"


def _contents(audit: sa.Table) -> sa.Select[Any]:
    """The rows as they are hashed; details as the text that is stored, so that every byte counts."""
    columns = (column for column in audit.c if column.name not in {"details", "block"})
    return sa.select(*columns, sa.cast(audit.c.details, sa.Text).label("details"))


def _digest(rows: Sequence[sa.Row[Any]], *heading: Any) -> str:
    """In groups with colons: a row of digits as long as a phone number would be masked in the log."""
    digest = Hash(SM3())
    for line in (heading, *rows):
        digest.update(_ENCODER.encode(list(line)).encode() + b"\n")
    text = digest.finalize().hex()
    return ":".join(text[start : start + 8] for start in range(0, len(text), 8))


def _utc(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="microseconds")


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_utc)
