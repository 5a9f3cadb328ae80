"""The server's metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tinyllm.server.served_model import ServedModel

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_GAUGES = {  # by the attribute of the engine's `Stats`
    "waiting": ("requests_waiting", "Replies that wait for their turn."),
    "running": ("requests_running", "Replies that are being written."),
    "pages_held": ("cache_pages_held", "Pages that replies hold."),
    "cache_bytes": ("cache_bytes", "Bytes of all pages of the KV cache, which are touched as they are used."),
    "state_bytes": (
        "state_bytes",
        "Bytes of the rows of recurrent states, one for each reply at a time.",
    ),
}
_COUNTERS = {
    "steps": ("steps", "Steps of the model."),
    "prompt_tokens": ("prompt_tokens", "Prompt tokens computed."),
    "generated_tokens": ("generated_tokens", "Tokens generated."),
    "reused_tokens": ("prefix_hit_tokens", "Prompt tokens found in the cache."),
    "preemptions": ("preemptions", "Replies put back into the queue when pages ran out."),
    "gathered_bytes": (
        "cache_gathered_bytes",
        "Bytes of keys and values copied because their pages did not lie in one piece.",
    ),
    "failures": ("failures", "Requests that the engine ended with an error."),
    "model_seconds": ("model_seconds", "Seconds in the model."),
    "own_seconds": ("engine_seconds", "Seconds in the engine's own code."),
}


class Metrics(Collector):
    """The metrics of one server, in a registry of their own, which collects the engine's counters beside them."""

    def __init__(self, model: ServedModel) -> None:
        self._model, self.registry = model, CollectorRegistry()
        self.registry.register(self)
        self.requests = Counter(
            "tinyllm_requests", "Answers, 499 where the client had gone.", ["path", "status"], registry=self.registry
        )
        self.first_token = Histogram(
            "tinyllm_time_to_first_token_seconds",
            "From a request to its first token.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.token = Histogram(
            "tinyllm_time_per_token_seconds",
            "Mean time of a reply's tokens after its first.",
            buckets=_TOKEN_SECONDS,
            registry=self.registry,
        )
        self.whole = Histogram(
            "tinyllm_request_seconds",
            "From a request to the end of its reply.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def collect(self) -> Iterable[Metric]:
        """The engine's counters, read whenever Prometheus asks."""
        model, stats = self._model, self._model.thread.stats()
        for field, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(f"tinyllm_{name}", text, value=getattr(stats, field))
        for field, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"tinyllm_{name}", text, value=getattr(stats, field))
        yield GaugeMetricFamily(
            "tinyllm_tokens_per_second", "Tokens per second over the last seconds.", value=model.rate.per_second
        )
        yield GaugeMetricFamily("tinyllm_cache_pages", "Pages of the KV cache.", value=model.pages)
        yield GaugeMetricFamily("tinyllm_ready", "1 if requests are taken.", value=float(model.ready))
