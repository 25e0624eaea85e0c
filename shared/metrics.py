"""Metrics: one registry per service, so that four services in one process don't collide."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

M = TypeVar("M", Counter, Gauge, Histogram)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Histogram limits, in seconds, fit for requests and transactions."""


class Metrics:
    """The metrics of one service. Every name begins with `yingbao_<service>_`.

    Label values come from code (route templates, states), never from input: each new value costs memory
    for ever. Asking twice for one name gives the same metric.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, service: str) -> None:
        self.service = service
        self.registry = CollectorRegistry()
        self._known: dict[str, Counter | Gauge | Histogram] = {}
        self._requests = self.counter(
            "http_requests_total", "HTTP requests answered", ["method", "route", "status"]
        )
        self._seconds = self.histogram(
            "http_request_seconds", "Time from request to the end of the answer", ["method", "route"]
        )

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        """A number that only grows; by custom the name ends in `_total`."""
        return self._once(name, lambda full: Counter(full, meaning, labels, registry=self.registry), Counter)

    def gauge(
        self, name: str, meaning: str, labels: Sequence[str] = (), *, read: Callable[[], float] | None = None
    ) -> Gauge:
        """A number that goes up and down. `read` is called at each scrape; only without labels."""
        gauge = self._once(name, lambda full: Gauge(full, meaning, labels, registry=self.registry), Gauge)
        if read is not None:
            gauge.set_function(read)
        return gauge

    def histogram(
        self, name: str, meaning: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        """How values (by default seconds) are spread over `buckets`."""
        return self._once(
            name,
            lambda full: Histogram(full, meaning, labels, registry=self.registry, buckets=buckets),
            Histogram,
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one answered HTTP request by route template."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(self) -> bytes:
        """The text for `/metrics`, in the format that `content_type` names."""
        return generate_latest(self.registry)

    def _once(self, name: str, make: Callable[[str], M], kind: type[M]) -> M:
        full = f"yingbao_{self.service}_{name}"
        known = self._known.get(full)
        if known is None:
            made = make(full)
            self._known[full] = made
            return made
        if not isinstance(known, kind):
            raise TypeError(f"{full} is a {type(known).__name__} already; choose another name")
        return known
