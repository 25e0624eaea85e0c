"""What targets tells: nothing yet."""

from shared.events.base import Event

EVENTS: tuple[type[Event], ...] = ()
