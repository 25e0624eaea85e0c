"""One service in a process of its own: its database by URL, events through Kafka, neighbours over HTTP."""

from collections.abc import Callable, Mapping
from typing import Any

import httpx

from services.demo_clock import DEMO_START, clock_routes
from services.matching.app import build as build_matching
from services.matching.settings import MatchingSettings
from services.notify.app import build as build_notify
from services.notify.settings import NotifySettings
from services.registry.app import build as build_registry
from services.registry.settings import RegistrySettings
from services.targets.app import build as build_targets
from services.targets.settings import TargetsSettings
from shared.clock import SimulatedClock, SystemClock
from shared.messaging.bus import Bus
from shared.messaging.kafka import KafkaBus
from shared.service import Service
from shared.settings import MissingSetting, ServiceSettings

SERVICES: Mapping[str, tuple[type[ServiceSettings], Callable[..., Service[Any]]]] = {
    "registry": (RegistrySettings, build_registry),
    "matching": (MatchingSettings, build_matching),
    "notify": (NotifySettings, build_notify),
    "targets": (TargetsSettings, build_targets),
}
"""Settings and wiring of each service."""


def alone(
    name: str,
    *,
    make_bus: Callable[..., Bus] = KafkaBus,
    neighbours: httpx.AsyncBaseTransport | None = None,
    **told: Any,
) -> Service[Any]:
    """A service ready to start. Settings come from the environment; `told` goes before it.

    `make_bus` is called like KafkaBus; `neighbours` carries the calls to other services, None: real sockets.
    Raises MissingSetting.
    """
    settings_class, build = SERVICES[name]
    settings = settings_class(mode="server", **told)
    if settings.kafka is None:
        raise MissingSetting("set YINGBAO_KAFKA, the bootstrap servers, such as kafka:9092")
    if settings.database_url is None:
        # A file nobody asked for would be a second, empty service that tells the others what is not true.
        raise MissingSetting(
            f"set YINGBAO_{name.upper()}_DATABASE_URL, such as postgresql+psycopg://user@host/{name}"
        )
    bus = make_bus(settings.kafka, prefix=settings.kafka_prefix)
    if not settings.demo:
        return build(settings, bus=bus, clock=SystemClock(), neighbours=neighbours)
    clock = SimulatedClock(settings.clock, start=DEMO_START)
    service = build(settings, bus=bus, clock=clock, neighbours=neighbours)
    service.app.include_router(clock_routes(clock, service.core.wake))
    return service
