"""A POST that is sent again gets the answer of the first time, and happens once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as it is stored beside the fact and sent to the caller. `body` is JSON data."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def content(self) -> bytes:
        """The body as JSON text."""
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":")).encode()

    def stored(self) -> bytes:
        """The whole answer as JSON text."""
        heading = json.dumps({"status": self.status, "headers": dict(self.headers)}).encode()
        return heading[:-1] + b', "body": ' + self.content + b"}"

    @classmethod
    def replayed(cls, stored: bytes) -> "Answer":
        """The answer that `stored` gave, marked as one that was given before."""
        parts = json.loads(stored)
        return cls(parts["status"], parts["body"], {**parts["headers"], "Idempotency-Replay": "true"})


@dataclass(frozen=True)
class IdempotencyKey:
    """What makes two requests the same one: who asked, where, under which key, and what for.

    `fingerprint` is a keyed digest of method, path, query, the caller's department and town, and the body.
    """

    client: str
    route: str
    key: str
    fingerprint: str

    @property
    def identity(self) -> tuple[str, str, str]:
        """What may be answered only once."""
        return self.client, self.route, self.key
