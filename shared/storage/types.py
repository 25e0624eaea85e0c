"""Column types that keep their meaning on every database."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, String, TypeDecorator
from sqlalchemy.types import TypeEngine

from shared.clock import ZONE


class Instant(TypeDecorator[datetime]):
    """An aware instant. SQLite keeps UTC text of fixed width, so that order as text is order in time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(32))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone; take it from the Clock")
        value = value.astimezone(UTC)
        return value.isoformat(timespec="microseconds") if dialect.name == "sqlite" else value

    def result_processor(self, dialect: Dialect, _coltype: object) -> Callable[[Any], datetime | None]:
        """As `process_result_value` would, in one call: a batch reads thousands."""
        if dialect.name == "sqlite":
            return lambda text: None if text is None else datetime.fromisoformat(text).astimezone(ZONE)
        return lambda value: None if value is None else value.astimezone(ZONE)
