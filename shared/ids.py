"""Identifiers that the suite makes itself."""

import secrets
import time
import uuid


def new_event_id() -> str:
    """A fresh id for a fact, sortable by time of birth (UUID version 7 layout, RFC 9562)."""
    millis = time.time_ns() // 1_000_000
    value = (millis & ((1 << 48) - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    value |= 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def new_token() -> int:
    """A random positive 63-bit integer: a person token."""
    return secrets.randbits(63) or 1
