"""Registry's tables. No name, number or phone of a person lies here in clear."""

import sqlalchemy as sa

from shared.storage.tables import Serial, plumbing_tables
from shared.storage.types import Instant

metadata = sa.MetaData()
PLUMBING = plumbing_tables(metadata)

UNIT = sa.Table(
    "unit",
    metadata,
    sa.Column("uscc", sa.String(18), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("established_on", sa.Date, comment="None: the department did not know it"),
    sa.Column("town", sa.String(32)),
    sa.Column("address", sa.String(200)),
    sa.Column("industry", sa.String(8)),
    sa.Column("code_confirmed", sa.Boolean, nullable=False),
    sa.Column("contact_version", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("recorded_at", Instant, nullable=False),
    sa.Column("suspended_on", sa.Date),
    sa.Column("resumed_on", sa.Date),
    sa.Column("closed_on", sa.Date),
    sa.Column("wrong_data_at", Instant, comment="when matching ended a lead because of wrong data"),
    sa.Index("unit_town", "town", "uscc"),
    comment="employers, as departments registered them",
)

CONTACT = sa.Table(
    "contact",
    metadata,
    sa.Column("uscc", sa.String(18), primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False, comment="JSON list of {role, name, mobile}"),
    comment="the contacts of a unit, whole; a unit that never had one has no row",
)

PERSON = sa.Table(
    "person",
    metadata,
    sa.Column("token", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column(
        "id_index", sa.String(64), nullable=False, unique=True, comment="keyed digest of the ID number"
    ),
    sa.Column("sealed", sa.LargeBinary, nullable=False, comment="JSON {id_number, name}"),
    comment="people, by the random token that stands for them everywhere else",
)

PARTICIPATION = sa.Table(
    "participation",
    metadata,
    sa.Column("id", Serial, primary_key=True),
    sa.Column("person", sa.BigInteger, nullable=False),
    sa.Column("insurance", sa.String(32), nullable=False),
    sa.Column("form", sa.String(16), nullable=False),
    sa.Column("uscc", sa.String(18), comment="None for flexible form; the unit may not be registered yet"),
    sa.Column("started_on", sa.Date, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False, comment="as declared: first, resumed, transferred"),
    sa.Column("town", sa.String(32), nullable=False),
    sa.Column("recorded_on", sa.Date, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("ended_on", sa.Date),
    sa.Index("participation_unit", "uscc", "started_on"),
    # Nulls are never equal in an index, so flexible form has one of its own.
    sa.Index(
        "participation_spell",
        *("person", "insurance", "form", "uscc", "started_on"),
        unique=True,
        sqlite_where=sa.text("state <> 'cancelled'"),
        postgresql_where=sa.text("state <> 'cancelled'"),
    ),
    sa.Index(
        "participation_spell_flexible",
        *("person", "insurance", "form", "started_on"),
        unique=True,
        sqlite_where=sa.text("state <> 'cancelled' AND uscc IS NULL"),
        postgresql_where=sa.text("state <> 'cancelled' AND uscc IS NULL"),
    ),
    comment="one spell of one person in one insurance",
    sqlite_autoincrement=True,
)

FIRST_PARTICIPATION = sa.Table(
    "first_participation",
    metadata,
    sa.Column("person", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("insurance", sa.String(32), primary_key=True),
    sa.Column("participation_id", sa.BigInteger, comment="None: every record of it was cancelled"),
    sa.Column("version", sa.Integer, nullable=False),
    comment="which participation counts as a person's first of an insurance",
)

DATASET = sa.Table(
    "dataset",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("complete_through", sa.Date, nullable=False),
    comment="how far each data set is known to be complete; its mode is a setting",
)

CALENDAR_YEAR = sa.Table(
    "calendar_year",
    metadata,
    sa.Column("year", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("holidays", sa.JSON, nullable=False),
    sa.Column("makeup_days", sa.JSON, nullable=False),
    sa.Column("source", sa.String(200), nullable=False),
    comment="years of the working-day calendar that were imported; they replace the city pack's",
)

BATCH = sa.Table(
    "batch",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("dataset", sa.String(32), nullable=False),
    sa.Column("department", sa.String(32), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False, comment="bytes"),
    sa.Column("complete_through", sa.Date, comment="declared when the batch is applied"),
    sa.Column("client", sa.String(128), nullable=False),
    sa.Column("correlation", sa.String(64), nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("layout", sa.JSON, nullable=False, comment="how the file is read; empty until it was surveyed"),
    sa.Column("position", sa.BigInteger, nullable=False, comment="byte behind the last row applied"),
    sa.Column("line", sa.Integer, nullable=False, comment="line of the last row applied"),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("accepted", sa.Integer, nullable=False),
    sa.Column("unchanged", sa.Integer, nullable=False),
    sa.Column("rejected", sa.Integer, nullable=False),
    sa.Column("problems", sa.JSON, nullable=False),
    sa.Column("ended_at", Instant),
    sa.Column("replaced", sa.Boolean, comment="withdrawn: whether another file is to take its place"),
    sa.Column("taken_back", sa.Integer, nullable=False, server_default="0"),
    sa.Column("kept", sa.Integer, nullable=False, server_default="0", comment="effects that outlast it"),
    sa.Column("file", sa.String(36), comment="what the file is kept under; None: the id of the batch"),
    sa.UniqueConstraint("department", "dataset", "sha256"),
    sa.Index("batch_state", "state", "id"),
    comment="files that departments sent, and how far they are applied; the same file is the same batch",
)

BATCH_EFFECT = sa.Table(
    "batch_effect",
    metadata,
    sa.Column("batch_id", sa.String(36), primary_key=True),
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=False, comment="line of the file"),
    sa.Column("uscc", sa.String(18), comment="the unit that the row registered"),
    sa.Column("version", sa.Integer, comment="of the unit, as the row left it"),
    sa.Column("participation_id", sa.BigInteger, comment="the participation that it recorded or ended"),
    sa.Column("recorded", sa.Boolean, nullable=False, comment="false: it only ended what was known"),
    sa.Column("ended_on", sa.Date),
    comment="what the rows of a batch brought, so that it can be taken back",
)

REJECTED_ROW = sa.Table(
    "rejected_row",
    metadata,
    sa.Column("batch_id", sa.String(36), primary_key=True),
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=False, comment="line of the file"),
    sa.Column("sealed", sa.LargeBinary, nullable=False, comment="JSON {text, troubles}"),
    sa.Column("uscc", sa.String(18), comment="the unit that a participation speaks of"),
    sa.Column("keys", sa.JSON, nullable=False, comment="keyed digests of whom it is about"),
    sa.Column("disputed", sa.Boolean, comment="None: it concerns no unit"),
    sa.Index("rejected_row_of_unit", "uscc", "disputed"),
    comment="rows that were not applied; a disputed one holds messages to its unit",
)

DISPUTE_KEY = sa.Table(
    "dispute_key",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("batch_id", sa.String(36), primary_key=True),
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
    sa.Index("dispute_key_row", "batch_id", "row"),
    comment="finds the disputed rows about a person of a unit; gone once they are settled",
)
