"""The router's metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tinyllm.scale.route.replicas import Replicas


class RouteMetrics(Collector):
    """The metrics of one router, in a registry of their own."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas, self.registry = replicas, CollectorRegistry()
        self.registry.register(self)
        self.requests = Counter(
            "tinyllm_requests", "Answers, 499 where the client had gone.", ["path", "status"], registry=self.registry
        )
        self.sent = self._by_replica("requests", "Requests sent to a replica, again or for the first time.")
        self.errors = self._by_replica("errors", "Requests that a replica did not answer, or whose answer broke off.")
        self.retries = self._by_replica("retries", "Requests that were sent to another replica after this one failed.")
        self.hits = self._by_replica("prefix_hits", "Requests sent where their prefix had been sent before.")

    def _by_replica(self, name: str, text: str) -> Counter:
        counter = Counter(f"tinyllm_route_{name}", text, ["replica"], registry=self.registry)
        for url in self._replicas.urls:  # there from the start, as 0
            counter.labels(url)
        return counter

    def collect(self) -> Iterable[Metric]:
        """How the replicas are, read whenever Prometheus asks."""
        fleet = self._replicas.fleet
        gauges = {
            "healthy": ("1 if a replica takes requests.", fleet.healthy),
            "in_flight": ("Requests that were sent to a replica and are not done.", fleet.in_flight),
            "told_load": ("Requests that run or wait at a replica, as it says.", fleet.told),
        }
        for name, (text, values) in gauges.items():
            gauge = GaugeMetricFamily(f"tinyllm_route_{name}", text, labels=["replica"])
            for url, value in zip(self._replicas.urls, values.tolist(), strict=True):
                gauge.add_metric([url], float(value))
            yield gauge
