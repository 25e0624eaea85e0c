"""The tables of notify. Phone numbers lie in ciphertext, or as a keyed index that only finds equal ones."""

import sqlalchemy as sa

from shared.storage.tables import Serial, plumbing_tables
from shared.storage.types import Instant

metadata = sa.MetaData()
PLUMBING = plumbing_tables(metadata)

unit_contact = sa.Table(
    "unit_contact",
    metadata,
    sa.Column("uscc", sa.String(18), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("contacts", sa.LargeBinary, nullable=False, comment="encrypted JSON list of {role, mobile}"),
    sa.Column("mobile_index", sa.String(64), comment="whom to write to; empty: nobody; None: not known yet"),
    sa.Index("unit_contact_mobile", "mobile_index"),
    comment="notify's own copy of what registry knows about whom to write to",
)

notice = sa.Table(
    "notice",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("lead_id", sa.String(64), nullable=False),
    sa.Column("rule", sa.String(8), nullable=False),
    sa.Column("episode", sa.Integer, nullable=False),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("recipient", sa.String(64), nullable=False, comment="the party, never a phone"),
    sa.Column("uscc", sa.String(18), nullable=False),
    sa.Column("town", sa.String(64)),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("not_before", Instant, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("correlation", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("held", sa.JSON, nullable=False),
    sa.Column("look_again_at", Instant),
    sa.Column("due_at", Instant, comment="None: only an event can move it"),
    sa.Column("setbacks", sa.Integer, nullable=False),
    sa.Column("trying", sa.String(16), comment="open or unknown while an attempt decides"),
    sa.Column("withdraw_reason", sa.String(32), comment="its lead ended while an attempt was under way"),
    sa.Column("reason", sa.String(32), comment="why it ended as it did"),
    sa.Column(
        "corrected", sa.Boolean, nullable=False, comment="a late receipt turned unreached into delivered"
    ),
    sa.Column("mobile_index", sa.String(64)),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("changed_at", Instant, nullable=False),
    sa.Column("handed_over_at", Instant),
    sa.Column("ended_at", Instant),
    sa.Column("channel", sa.String(8), comment="what took it last"),
    sa.Column("sms_only", sa.Boolean, nullable=False, server_default=sa.false(), comment="WeChat is through"),
    sa.Column("corrects", sa.String(16), comment="reference of the wrong message that it takes back"),
    sa.UniqueConstraint("lead_id", "episode", "stage", "recipient", name="notice_key"),
    sa.Index("notice_due", "due_at"),
    sa.Index("notice_unit", "uscc"),
    sa.Index("notice_state", "state", "created_at", "id"),
    sa.Index("notice_order", "created_at", "id"),
    sa.Index("notice_mobile", "mobile_index"),
    comment="what somebody has to be told, once",
)

attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("reference", sa.String(16), primary_key=True, comment="printed in the message"),
    sa.Column("account", sa.String(32), nullable=False),
    sa.Column("channel", sa.String(8), nullable=False, server_default="sms"),
    sa.Column("mobile", sa.LargeBinary, nullable=False, comment="encrypted"),
    sa.Column("mobile_index", sa.String(64), nullable=False, comment="whose phone: caps count by it"),
    sa.Column(
        "recipient_index",
        sa.String(64),
        nullable=False,
        server_default="",
        comment="whom the carrier names in receipts: the number, or the follower",
    ),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("fragments", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("opened_at", Instant, nullable=False),
    sa.Column(
        "looked_at", Instant, nullable=False, comment="business time at the beginning of the last look"
    ),
    sa.Column("looked_wall", Instant, nullable=False),
    sa.Column("message_group", sa.String(64), comment="the carrier's name for it"),
    sa.Column("code", sa.String(64), comment="the carrier's word for what became of it"),
    sa.Column("settled_at", Instant),
    sa.Column("expires_at", Instant, comment="when a missing receipt or outcome ends the wait"),
    sa.Index(
        "attempt_open",
        "state",
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    ),
    sa.Index("attempt_expires", "expires_at"),
    sa.Index("attempt_mobile", "mobile_index", "opened_at"),
    sa.Index("attempt_recipient", "recipient_index", "opened_at"),
    sa.Index("attempt_opened", "opened_at"),
    sa.Index("attempt_group", "message_group"),
    comment="submissions to a carrier, committed before the call",
)

attempt_notice = sa.Table(
    "attempt_notice",
    metadata,
    sa.Column("reference", sa.ForeignKey("attempt.reference"), primary_key=True),
    sa.Column("notice_id", sa.ForeignKey("notice.id"), primary_key=True),
    sa.Index("attempt_notice_notice", "notice_id"),
    comment="which notices a submission covers",
)

receipt = sa.Table(
    "receipt",
    metadata,
    sa.Column("seq", Serial, primary_key=True),
    sa.Column("account", sa.String(32), nullable=False),
    sa.Column("message_group", sa.String(64), nullable=False),
    sa.Column("mobile_index", sa.String(64), nullable=False, comment="index of the number or the follower"),
    sa.Column("delivered", sa.Boolean, nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("reported_at", Instant, nullable=False, comment="the carrier's instant"),
    sa.Column("arrived_at", Instant, nullable=False),
    sa.Column("reference", sa.String(16), comment="the attempt it is about; None: not known yet"),
    sa.Index("receipt_group", "message_group"),
    sa.Index("receipt_mobile", "mobile_index", "arrived_at"),
    comment="everything that a carrier reported, matched or not",
)

binding = sa.Table(
    "binding",
    metadata,
    sa.Column("seq", Serial, primary_key=True),
    sa.Column("mobile_index", sa.String(64), nullable=False),
    sa.Column("openid_index", sa.String(64), nullable=False),
    sa.Column("openid", sa.LargeBinary, nullable=False, comment="encrypted"),
    sa.Column("source", sa.String(64), nullable=False, comment="how the owner of the phone was made sure of"),
    sa.Column("bound_at", Instant, nullable=False),
    sa.Column("ended_at", Instant),
    sa.Column("ended_by", sa.String(64), comment="unfollowed, replaced, or the carrier's code"),
    sa.Index(
        "binding_mobile",
        "mobile_index",
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    ),
    sa.Index(
        "binding_openid",
        "openid_index",
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    ),
    comment="which follower of the official account a phone belongs to; at most one each way",
)

brake = sa.Table(
    "brake",
    metadata,
    sa.Column("channel", sa.String(8), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("daily_cap", sa.Integer, comment="None: no limit"),
    sa.Column("allowlist", sa.JSON, nullable=False, comment="phone indexes"),
    sa.Column("changed_at", Instant, nullable=False),
    sa.Column("changed_by", sa.String(128), nullable=False),
    comment="the brake of each carrier account; no row: as the account begins",
)

calendar_year = sa.Table(
    "calendar_year",
    metadata,
    sa.Column("year", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("holidays", sa.JSON, nullable=False),
    sa.Column("makeup_days", sa.JSON, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("told_at", Instant, comment="when registry told it; None: before this was kept"),
    comment="years that replaced those of the city pack",
)
