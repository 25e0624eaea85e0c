"""Initial"""

import sqlalchemy as sa
from alembic import op

from shared.storage.types import Instant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "attempt",
        sa.Column("reference", sa.String(length=16), nullable=False, comment="printed in the message"),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("channel", sa.String(length=8), server_default="sms", nullable=False),
        sa.Column("mobile", sa.LargeBinary(), nullable=False, comment="encrypted"),
        sa.Column(
            "mobile_index", sa.String(length=64), nullable=False, comment="whose phone: caps count by it"
        ),
        sa.Column(
            "recipient_index",
            sa.String(length=64),
            server_default="",
            nullable=False,
            comment="whom the carrier names in receipts: the number, or the follower",
        ),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("fragments", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("opened_at", Instant(), nullable=False),
        sa.Column(
            "looked_at", Instant(), nullable=False, comment="business time at the beginning of the last look"
        ),
        sa.Column("looked_wall", Instant(), nullable=False),
        sa.Column("message_group", sa.String(length=64), nullable=True, comment="the carrier's name for it"),
        sa.Column(
            "code", sa.String(length=64), nullable=True, comment="the carrier's word for what became of it"
        ),
        sa.Column("settled_at", Instant(), nullable=True),
        sa.Column(
            "expires_at", Instant(), nullable=True, comment="when a missing receipt or outcome ends the wait"
        ),
        sa.PrimaryKeyConstraint("reference"),
        comment="submissions to a carrier, committed before the call",
    )
    op.create_index("attempt_expires", "attempt", ["expires_at"], unique=False)
    op.create_index("attempt_group", "attempt", ["message_group"], unique=False)
    op.create_index("attempt_mobile", "attempt", ["mobile_index", "opened_at"], unique=False)
    op.create_index(
        "attempt_open",
        "attempt",
        ["state"],
        unique=False,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index("attempt_opened", "attempt", ["opened_at"], unique=False)
    op.create_index("attempt_recipient", "attempt", ["recipient_index", "opened_at"], unique=False)
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", Instant(), nullable=False, comment="business time"),
        sa.Column("wall", Instant(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("correlation", sa.String(length=64), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=True, comment="None: committed, not yet sealed"),
        sa.PrimaryKeyConstraint("seq"),
        comment="who did what to what, committed with the fact; no personal data in clear",
        sqlite_autoincrement=True,
    )
    op.create_index("audit_subject", "audit", ["subject"], unique=False)
    op.create_index(
        "audit_unsealed",
        "audit",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("block IS NULL"),
        postgresql_where=sa.text("block IS NULL"),
    )
    op.create_table(
        "audit_block",
        sa.Column("no", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("previous", sa.String(length=80), nullable=False, comment="hash of the block before"),
        sa.Column("sealed_at", Instant(), nullable=False, comment="wall time"),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("no"),
        comment="the chain over the audit rows",
    )
    op.create_table(
        "binding",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("mobile_index", sa.String(length=64), nullable=False),
        sa.Column("openid_index", sa.String(length=64), nullable=False),
        sa.Column("openid", sa.LargeBinary(), nullable=False, comment="encrypted"),
        sa.Column(
            "source",
            sa.String(length=64),
            nullable=False,
            comment="how the owner of the phone was made sure of",
        ),
        sa.Column("bound_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.Column(
            "ended_by",
            sa.String(length=64),
            nullable=True,
            comment="unfollowed, replaced, or the carrier's code",
        ),
        sa.PrimaryKeyConstraint("seq"),
        comment="which follower of the official account a phone belongs to; at most one each way",
    )
    op.create_index(
        "binding_mobile",
        "binding",
        ["mobile_index"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "binding_openid",
        "binding",
        ["openid_index"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "calendar_year",
        sa.Column("year", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holidays", sa.JSON(), nullable=False),
        sa.Column("makeup_days", sa.JSON(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("year"),
        comment="years that replaced those of the city pack",
    )
    op.create_table(
        "event_log",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=True, comment="None: the subject decides"),
        sa.Column("time", Instant(), nullable=False),
        sa.Column("correlation", sa.String(length=64), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("published_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        comment="every fact this service has published, append-only",
    )
    op.create_table(
        "idempotency",
        sa.Column("client", sa.String(length=128), nullable=False),
        sa.Column("route", sa.String(length=256), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False, comment="encrypted"),
        sa.Column("stored_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("client", "route", "key"),
        comment="answers to requests that carried an Idempotency-Key",
    )
    op.create_table(
        "inbox",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="ids of the messages whose effects are committed here; kept longer than any topic",
    )
    op.create_table(
        "notice",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("lead_id", sa.String(length=64), nullable=False),
        sa.Column("rule", sa.String(length=8), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("recipient", sa.String(length=64), nullable=False, comment="the party, never a phone"),
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("town", sa.String(length=64), nullable=True),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("not_before", Instant(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("correlation", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("held", sa.JSON(), nullable=False),
        sa.Column("look_again_at", Instant(), nullable=True),
        sa.Column("due_at", Instant(), nullable=True, comment="None: only an event can move it"),
        sa.Column("setbacks", sa.Integer(), nullable=False),
        sa.Column(
            "trying", sa.String(length=16), nullable=True, comment="open or unknown while an attempt decides"
        ),
        sa.Column(
            "withdraw_reason",
            sa.String(length=32),
            nullable=True,
            comment="its lead ended while an attempt was under way",
        ),
        sa.Column("reason", sa.String(length=32), nullable=True, comment="why it ended as it did"),
        sa.Column(
            "corrected",
            sa.Boolean(),
            nullable=False,
            comment="a late receipt turned unreached into delivered",
        ),
        sa.Column("mobile_index", sa.String(length=64), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.Column("handed_over_at", Instant(), nullable=True),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.Column("channel", sa.String(length=8), nullable=True, comment="what took it last"),
        sa.Column(
            "sms_only", sa.Boolean(), server_default=sa.false(), nullable=False, comment="WeChat is through"
        ),
        sa.Column(
            "corrects",
            sa.String(length=16),
            nullable=True,
            comment="reference of the wrong message that it takes back",
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("lead_id", "episode", "stage", "recipient", name="notice_key"),
        comment="what somebody has to be told, once",
    )
    op.create_index("notice_due", "notice", ["due_at"], unique=False)
    op.create_index("notice_mobile", "notice", ["mobile_index"], unique=False)
    op.create_index("notice_order", "notice", ["created_at", "id"], unique=False)
    op.create_index("notice_state", "notice", ["state", "created_at", "id"], unique=False)
    op.create_index("notice_unit", "notice", ["uscc"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=True, comment="None: the subject decides"),
        sa.Column("time", Instant(), nullable=False),
        sa.Column("correlation", sa.String(length=64), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        comment="facts committed and not yet published; the relay moves them to event_log",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "parked",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("topic", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column(
            "error", sa.Text(), nullable=True, comment="None: it only waits behind the one that failed"
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("parked_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        comment="messages that failed for a reason that will not go away, and those behind them",
        sqlite_autoincrement=True,
    )
    op.create_index("parked_key", "parked", ["subject", "topic", "seq"], unique=False)
    op.create_table(
        "receipt",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("account", sa.String(length=32), nullable=False),
        sa.Column("message_group", sa.String(length=64), nullable=False),
        sa.Column(
            "mobile_index",
            sa.String(length=64),
            nullable=False,
            comment="index of the number or the follower",
        ),
        sa.Column("delivered", sa.Boolean(), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("reported_at", Instant(), nullable=False, comment="the carrier's instant"),
        sa.Column("arrived_at", Instant(), nullable=False),
        sa.Column(
            "reference",
            sa.String(length=16),
            nullable=True,
            comment="the attempt it is about; None: not known yet",
        ),
        sa.PrimaryKeyConstraint("seq"),
        comment="everything that a carrier reported, matched or not",
    )
    op.create_index("receipt_group", "receipt", ["message_group"], unique=False)
    op.create_index("receipt_mobile", "receipt", ["mobile_index", "arrived_at"], unique=False)
    op.create_table(
        "relay_lease",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="one row: which process publishes; it expires by wall time",
    )
    op.create_table(
        "sending",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("daily_cap", sa.Integer(), nullable=True, comment="None: no limit"),
        sa.Column("allowlist", sa.JSON(), nullable=False, comment="phone indexes"),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.Column("changed_by", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="one row: the brake of the carrier account; no row: as the account begins",
    )
    op.create_table(
        "unit_contact",
        sa.Column("uscc", sa.String(length=18), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "contacts", sa.LargeBinary(), nullable=False, comment="encrypted JSON list of {role, mobile}"
        ),
        sa.Column(
            "mobile_index",
            sa.String(length=64),
            nullable=True,
            comment="whom to write to; empty: nobody; None: not known yet",
        ),
        sa.PrimaryKeyConstraint("uscc"),
        comment="notify's own copy of what registry knows about whom to write to",
    )
    op.create_index("unit_contact_mobile", "unit_contact", ["mobile_index"], unique=False)
    op.create_table(
        "attempt_notice",
        sa.Column("reference", sa.String(length=16), nullable=False),
        sa.Column("notice_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["notice_id"],
            ["notice.id"],
        ),
        sa.ForeignKeyConstraint(
            ["reference"],
            ["attempt.reference"],
        ),
        sa.PrimaryKeyConstraint("reference", "notice_id"),
        comment="which notices a submission covers",
    )
    op.create_index("attempt_notice_notice", "attempt_notice", ["notice_id"], unique=False)
