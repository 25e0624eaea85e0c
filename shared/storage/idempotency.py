"""A POST that is sent again gets the answer of the first time, and happens once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as it is stored beside the fact and sent to the caller. `body` is JSON data."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class IdempotencyKey:
    """What makes two requests the same one: who asked, where, under which key, and what for.

    `fingerprint` is a keyed digest of method, path, query, the caller's department and town, and the body.
    """

    client: str
    route: str
    key: str
    fingerprint: str
