"""Metrics: one registry per service, so that four services in one process don't collide."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

M = TypeVar("M", Counter, Gauge, Histogram)
L = TypeVar("L", bound=tuple[str, ...])

PREFIX: Final = "yingbao_"
"""How every name begins. The service is no part of it: the label `job` of the scrape says which one it is."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Histogram limits, in seconds, fit for requests and transactions."""


class Reading:
    """Figures that one look found: they are shown whole, and nothing of an earlier look stays beside them.

    What is counted in the database belongs here, so that a state that nothing is in any more does not keep
    its last number. All instances of a service show the same: ask for `max by (…)`, not for a sum.
    """

    def __init__(self) -> None:
        self._families: list[Metric] = []

    def gauge(self, name: str, meaning: str, value: float) -> None:
        """A number that goes up and down."""
        self._families.append(GaugeMetricFamily(PREFIX + name, meaning, value=value))

    def gauges(self, name: str, meaning: str, labels: Sequence[str], values: Mapping[L, float]) -> None:
        """Numbers that go up and down, by the values of `labels`."""
        self._add(GaugeMetricFamily(PREFIX + name, meaning, labels=labels), values)

    def counters(self, name: str, meaning: str, labels: Sequence[str], values: Mapping[L, float]) -> None:
        """Numbers that only grow, by the values of `labels`; the name ends in `_total`."""
        self._add(CounterMetricFamily(PREFIX + name, meaning, labels=labels), values)

    def collect(self) -> Iterator[Metric]:
        """What was found."""
        return iter(self._families)

    def _add(self, family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[L, float]) -> None:
        for labels, value in values.items():
            family.add_metric(labels, value)
        self._families.append(family)


class Metrics:
    """What one service counts while it runs.

    Label values come from code (route templates, states), never from input: each new value costs memory
    for ever. Asking twice for one name gives the same metric.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._known: dict[str, Counter | Gauge | Histogram] = {}
        self._requests = self.counter(
            "http_requests_total", "HTTP requests answered", ["method", "route", "status"]
        )
        self._seconds = self.histogram(
            "http_request_duration_seconds", "Time from request to the end of the answer", ["method", "route"]
        )

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        """A number that only grows; by custom the name ends in `_total`."""
        return self._once(name, lambda full: Counter(full, meaning, labels, registry=self.registry), Counter)

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that goes up and down."""
        return self._once(name, lambda full: Gauge(full, meaning, labels, registry=self.registry), Gauge)

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

    def render(self, *readings: Reading) -> bytes:
        """The text for `/metrics`, in the format that `content_type` names, with what readings found."""
        return generate_latest(_Together([self.registry, *readings]))

    def _once(self, name: str, make: Callable[[str], M], kind: type[M]) -> M:
        full = PREFIX + name
        known = self._known.get(full)
        if known is None:
            made = make(full)
            self._known[full] = made
            return made
        if not isinstance(known, kind):
            raise TypeError(f"{full} is a {type(known).__name__} already; choose another name")
        return known


class _Together(CollectorRegistry):
    """Several collectors as one."""

    def __init__(self, parts: Iterable[CollectorRegistry | Reading]) -> None:
        super().__init__()
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        for part in self._parts:
            yield from part.collect()
