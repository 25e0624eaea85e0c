"""The tables that every service carries: outbox, logs, inbox, parked, audit trail, idempotency, leases."""

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from shared.storage.types import Instant

Serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A 64-bit key that the database counts up; never given out twice."""

EventId = sa.String(36, collation="C").with_variant(sa.String(36), "sqlite")
"""An event id that is compared byte by byte: ids sort by the time of birth that they carry."""

PERIOD: Final = "period"
"""Key in the `info` of a table that PostgreSQL splits: a `day` or a `month` of births lies in one partition."""

_BY_BIRTH: Final = "RANGE (id)"
"""How PostgreSQL splits a table: by the event's birth, which is the same whenever and wherever it comes again."""


@dataclass(frozen=True)
class Plumbing:
    """The plumbing tables of one service, in that service's own MetaData."""

    outbox: sa.Table
    event_log: sa.Table
    contact_log: sa.Table
    inbox: sa.Table
    parked: sa.Table
    audit: sa.Table
    audit_block: sa.Table
    idempotency: sa.Table
    lease: sa.Table


def plumbing_tables(metadata: sa.MetaData) -> Plumbing:
    """Adds the plumbing tables to a service's MetaData."""
    return Plumbing(
        outbox=sa.Table(
            "outbox",
            metadata,
            sa.Column("seq", Serial, primary_key=True),
            sa.Column("id", sa.String(36), nullable=False, unique=True),
            *_event_columns(),
            comment="facts committed and not yet published; the relay moves them to event_log",
            sqlite_autoincrement=True,
        ),
        event_log=_split(
            sa.Table(
                "event_log",
                metadata,
                *_log_columns(),
                comment="every fact this service has published, append-only; personal ones are in contact_log",
                info={PERIOD: "month"},
                postgresql_partition_by=_BY_BIRTH,
            )
        ),
        contact_log=_split(
            sa.Table(
                "contact_log",
                metadata,
                *_log_columns(),
                comment="published facts that carry sealed personal data; kept as long as a topic",
                info={PERIOD: "day"},
                postgresql_partition_by=_BY_BIRTH,
            )
        ),
        inbox=_split(
            sa.Table(
                "inbox",
                metadata,
                sa.Column("id", EventId, primary_key=True),
                sa.Column("received_at", Instant, nullable=False),
                comment="ids of the messages whose effects are committed here; kept longer than any topic",
                info={PERIOD: "day"},
                postgresql_partition_by=_BY_BIRTH,
            )
        ),
        parked=sa.Table(
            "parked",
            metadata,
            sa.Column("seq", Serial, primary_key=True),
            sa.Column("id", sa.String(36), nullable=False, unique=True),
            sa.Column("topic", sa.String(32), nullable=False),
            sa.Column("subject", sa.String(64), nullable=False),
            sa.Column("partition", sa.Integer, nullable=False),
            sa.Column("value", sa.LargeBinary, nullable=False),
            sa.Column("error", sa.Text, comment="None: it only waits behind the one that failed"),
            sa.Column("attempts", sa.Integer, nullable=False),
            sa.Column("parked_at", Instant, nullable=False),
            sa.Index("parked_key", "subject", "topic", "seq"),
            comment="messages that failed for a reason that will not go away, and those behind them",
            sqlite_autoincrement=True,
        ),
        audit=sa.Table(
            "audit",
            metadata,
            sa.Column("seq", Serial, primary_key=True),
            sa.Column("at", Instant, nullable=False, comment="business time"),
            sa.Column("wall", Instant, nullable=False),
            sa.Column("actor", sa.String(128), nullable=False),
            sa.Column("action", sa.String(64), nullable=False),
            sa.Column("subject", sa.String(128), nullable=False),
            sa.Column("correlation", sa.String(64), nullable=False),
            sa.Column("details", sa.JSON, nullable=False),
            sa.Column("block", sa.BigInteger, comment="None: committed, not yet sealed"),
            sa.Index("audit_subject", "subject"),
            sa.Index(
                "audit_unsealed",
                "seq",
                sqlite_where=sa.text("block IS NULL"),
                postgresql_where=sa.text("block IS NULL"),
            ),
            comment="who did what to what, committed with the fact; no personal data in clear",
            sqlite_autoincrement=True,
        ),
        audit_block=sa.Table(
            "audit_block",
            metadata,
            sa.Column("no", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("previous", sa.String(80), nullable=False, comment="hash of the block before"),
            sa.Column("sealed_at", Instant, nullable=False, comment="wall time"),
            sa.Column("first_seq", sa.BigInteger, nullable=False),
            sa.Column("last_seq", sa.BigInteger, nullable=False),
            sa.Column("rows", sa.Integer, nullable=False),
            sa.Column("hash", sa.String(80), nullable=False),
            comment="the chain over the audit rows",
        ),
        idempotency=sa.Table(
            "idempotency",
            metadata,
            sa.Column("client", sa.String(128), primary_key=True),
            sa.Column("route", sa.String(256), primary_key=True),
            sa.Column("key", sa.String(255), primary_key=True),
            sa.Column("fingerprint", sa.String(64), nullable=False),
            sa.Column("answer", sa.LargeBinary, nullable=False, comment="encrypted"),
            sa.Column("stored_at", Instant, nullable=False),
            comment="answers to requests that carried an Idempotency-Key",
        ),
        lease=sa.Table(
            "lease",
            metadata,
            sa.Column("name", sa.String(64), primary_key=True),
            sa.Column("holder", sa.String(64), nullable=False),
            sa.Column("epoch", sa.BigInteger, nullable=False),
            sa.Column("expires_at", Instant, nullable=False),
            comment="which process publishes, and does what must not be done twice; they expire by wall time",
        ),
    )


def _event_columns() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("partition", sa.Integer, comment="None: the subject decides"),
        sa.Column("time", Instant, nullable=False),
        sa.Column("correlation", sa.String(64), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )


def _log_columns() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", EventId, primary_key=True),
        *_event_columns(),
        sa.Column("published_at", Instant, nullable=False),
    )


def _split(table: sa.Table) -> sa.Table:
    """Gives the table a partition for whatever has none; `retention` adds those of each day or month."""
    default = sa.DDL("CREATE TABLE %(table)s_default PARTITION OF %(table)s DEFAULT")  # type: ignore[no-untyped-call]
    sa.event.listen(table, "after_create", default.execute_if(dialect="postgresql"))
    return table
