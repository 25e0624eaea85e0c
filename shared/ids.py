"""Identifiers that the suite makes itself."""

import secrets
import time
from collections.abc import Iterator
from datetime import datetime


def new_event_ids(number: int) -> list[str]:
    """Fresh ids for facts, sortable by time of birth (UUID version 7 layout, RFC 9562).

    One reading of the random source serves them all: each reading lets another thread run first.
    """
    born = ((time.time_ns() // 1_000_000) & ((1 << 48) - 1)) << 80 | 0x7 << 76 | 0b10 << 62
    random = secrets.token_bytes(10 * number)
    return [_event_id(born, int.from_bytes(random[at : at + 10])) for at in range(0, len(random), 10)]


def _event_id(born: int, random: int) -> str:
    """Puts 74 of 80 random bits around version and variant."""
    value = born | (random >> 68) << 64 | random & ((1 << 62) - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def correlation_ids() -> Iterator[str]:
    """Random ids for requests, 32 hex digits each, without end; one reading of the random source serves 256."""
    while True:
        random = secrets.token_bytes(256 * 16).hex()
        yield from (random[at : at + 32] for at in range(0, len(random), 32))


def first_event_id(born: datetime) -> str:
    """A text that sorts behind every id born before an instant, and before all others."""
    text = f"{int(born.timestamp() * 1_000):012x}"
    return f"{text[:8]}-{text[8:]}"


def new_token() -> int:
    """A random positive 63-bit integer: a person token."""
    return secrets.randbits(63) or 1
