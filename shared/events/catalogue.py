"""Every event of the suite, the topics they travel on, and who reads them from outside."""

from shared.events import matching, notify, registry, targets
from shared.events.base import Event

PARTITIONS = 6
"""Partitions of every topic. A change re-deals the keys, so it is a migration, not a setting."""

TOPICS = ("registry", "matching", "notify", "targets")
"""One topic per publisher."""

EVENTS: dict[str, type[Event]] = {
    event.name: event for module in (registry, matching, notify, targets) for event in module.EVENTS
}

TOPIC_DAYS = 35
"""How long a topic keeps a message, in days of wall time."""

TOPIC_CONFIG = {"retention.ms": str(TOPIC_DAYS * 86_400_000), "cleanup.policy": "delete"}
"""The same in the broker's words."""

PERSONAL = frozenset(name for name, event in EVENTS.items() if event.personal)
"""Events that carry people's data, sealed: no log keeps them longer than a topic."""

OUTSIDE_READERS: dict[str, str] = {
    "registry.batch_accepted.v1": "the departments' exchange platform reads what became of their files",
    "registry.batch_withdrawn.v1": "the same, of files that were taken back",
    "matching.visit_requested.v1": "the towns' task lists read it through GET /matching/v1/visits",
}
"""Events that no service consumes, each with the reader that it is published for."""


def topic_of(event: str) -> str:
    """The topic of an event name: its publisher."""
    return event.partition(".")[0]
