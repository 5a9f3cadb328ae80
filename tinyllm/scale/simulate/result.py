"""What a simulated run shows: throughput, times, hits and how evenly the load lay; as JSON and as a row of a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.scale.simulate.run import Simulated


@dataclass(frozen=True)
class Percentiles:
    """Seconds, interpolated between the two nearest values."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Summary:
    """A run in numbers.

    seconds: of virtual time, from the first request to the last token. first_token: from a request to its first token.
    token_seconds: mean time of a reply's tokens after the first; None where no reply has a second one. hit_rate: the
    share of all prompt tokens that were in a cache. busy: the mean share of the time in which a replica ran steps.
    spread: the time that the busiest replica ran steps over the mean of all.
    """

    policy: str
    replicas: int
    requests: int
    seconds: float
    requests_per_second: float
    tokens_per_second: float
    first_token: Percentiles
    token_seconds: Percentiles | None
    hit_rate: float
    busy: float
    spread: float
    preemptions: int

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


COLUMNS = (
    *("policy", "tok/s", "hits", "busy", "spread"),
    *("TTFT p50", "TTFT p90", "TTFT p99", "per token p50", "per token p90", "per token p99"),
)


def summarise(policy: str, run: Simulated) -> Summary:
    """The numbers of a run."""
    seconds = (int(run.ended.max()) - int(run.came.min())) / 1e9
    longer = run.written > 1
    token_seconds = (run.ended - run.first)[longer] / (run.written[longer] - 1)
    return Summary(
        policy=policy,
        replicas=len(run.busy),
        requests=len(run.came),
        seconds=seconds,
        requests_per_second=len(run.came) / seconds,
        tokens_per_second=float(run.tokens.sum()) / seconds,
        first_token=_percentiles(run.first - run.came),
        token_seconds=_percentiles(token_seconds) if longer.any() else None,
        hit_rate=run.reused / run.prompt_tokens,
        busy=float(run.busy.mean()) / 1e9 / seconds,
        spread=float(run.busy.max() / run.busy.mean()),
        preemptions=run.preemptions,
    )


def row(summary: Summary) -> list[str]:
    """The cells of a summary under `COLUMNS`; times in milliseconds."""
    shares = (f"{100 * summary.hit_rate:.1f} %", f"{100 * summary.busy:.0f} %", f"{summary.spread:.2f}")
    return [
        summary.policy,
        f"{summary.tokens_per_second:.1f}",
        *shares,
        *_milliseconds(summary.first_token),
        *_milliseconds(summary.token_seconds),
    ]


def _milliseconds(times: Percentiles | None) -> list[str]:
    return ["-"] * 3 if times is None else [f"{1e3 * value:.1f}" for value in (times.p50, times.p90, times.p99)]


def _percentiles(nanoseconds: NDArray[Any]) -> Percentiles:
    return Percentiles(*(float(value) / 1e9 for value in np.percentile(nanoseconds, [50, 90, 99])))
