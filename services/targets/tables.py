"""The tables of targets."""

import sqlalchemy as sa

from services.targets.domain import SpellState
from shared.storage.tables import plumbing_tables

metadata = sa.MetaData()
PLUMBING = plumbing_tables(metadata)

_STATE = sa.Enum(*SpellState, native_enum=False, length=16, create_constraint=True, name="spell_state")

counted = sa.Table(
    "counted",
    metadata,
    sa.Column("person", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("insurance", sa.String(32), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("participation_id", sa.BigInteger, comment="None, like all that follows: none counts any more"),
    sa.Column("kind", sa.String(16)),
    sa.Column("town", sa.String(64)),
    sa.Column("started_on", sa.Date),
    sa.Column("recorded_on", sa.Date),
    sa.Column("baseline", sa.Boolean),
    sa.Index("counted_started_on", "started_on"),
    comment="the participation that is a person's first of an insurance, by the newest decision of registry",
)

spell = sa.Table(
    "spell",
    metadata,
    sa.Column("participation_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("person", sa.BigInteger, nullable=False),
    sa.Column("insurance", sa.String(32), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("town", sa.String(64), nullable=False),
    sa.Column("started_on", sa.Date, nullable=False),
    sa.Column("recorded_on", sa.Date, nullable=False),
    sa.Column("baseline", sa.Boolean, nullable=False),
    sa.Column("state", _STATE, nullable=False),
    sa.Index("spell_started_on", "started_on"),
    comment="every participation with how it was declared; resumptions and transfers are counted here",
)
