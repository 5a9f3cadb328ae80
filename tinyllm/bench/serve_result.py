"""Statistics of a load: spreads of times, throughput, errors; as JSON and as rows of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from tinyllm.bench.report import head
from tinyllm.bench.serve import Run
from tinyllm.bench.serve_client import Outcome
from tinyllm.bench.serve_plan import Load

FORMAT = "tinyllm bench serve"
VERSION = 1
"""Raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class Spread:
    """Seconds. Percentiles are interpolated between the two nearest values."""

    p50: float
    p90: float
    p99: float
    mean: float
    max: float


@dataclass(frozen=True)
class Summary:
    """What a run shows. Times and tokens are those of requests that succeeded; rates are over `seconds`, first sending
    to last end.

    token_seconds: time per output token after the first, a value per request. gap: between one chunk and the next, a
    value per chunk.
    tokens_by: `usage`, `chunks`, or `usage and chunks` where the server counted for some requests only. lag: sent later
    than planned.
    """

    requests: int
    succeeded: int
    errors: dict[str, int]
    messages: dict[str, str]
    seconds: float
    first_token: Spread | None
    token_seconds: Spread | None
    gap: Spread | None
    end_to_end: Spread | None
    lag: Spread | None
    requests_per_second: float
    tokens_per_second: float
    completion_tokens: int
    tokens_by: str
    prompt_tokens: int | None
    cached_tokens: int | None


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that are there; None if none is."""
    there = np.array([v for v in values if v is not None], np.float64)
    if not there.size:
        return None
    p50, p90, p99 = np.percentile(there, [50, 90, 99])
    return Spread(float(p50), float(p90), float(p99), float(there.mean()), float(there.max()))


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """Statistics of a run."""
    good = [o for o in outcomes if o.error is None]
    bad = [o for o in outcomes if o.error is not None]
    seconds = max(o.ended for o in outcomes) - min(o.started for o in outcomes)
    tokens = sum(o.tokens for o in good)
    by_usage = sum(o.completion_tokens is not None for o in good)
    return Summary(
        requests=len(outcomes),
        succeeded=len(good),
        errors=dict(sorted(Counter(str(o.error) for o in bad).items())),
        messages={str(o.error): o.message for o in reversed(bad)},
        seconds=seconds,
        first_token=spread(o.first_token for o in good),
        token_seconds=spread(o.token_seconds for o in good),
        gap=spread(later - earlier for o in good for earlier, later in zip(o.times, o.times[1:], strict=False)),
        end_to_end=spread(o.seconds for o in good),
        lag=spread(o.started - o.planned for o in outcomes if o.planned is not None),
        requests_per_second=len(good) / seconds if seconds else 0.0,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        completion_tokens=tokens,
        tokens_by="usage" if by_usage == len(good) else "usage and chunks" if by_usage else "chunks",
        prompt_tokens=_total(o.prompt_tokens for o in good),
        cached_tokens=_total(o.cached_tokens for o in good),
    )


def _total(values: Iterable[int | None]) -> int | None:
    """The sum of those that are there; None if none is."""
    there = [v for v in values if v is not None]
    return sum(there) if there else None


def document(run: Run, load: Load, summary: Summary) -> dict[str, Any]:
    """The run as JSON: what was asked of whom, from where, the statistics, and a row for each request."""
    return head(FORMAT, VERSION) | {
        "target": asdict(run.target) | {"url": _without_password(run.target.url)},
        "load": asdict(load),
        "summary": asdict(summary),
        "requests": [_row(o) for o in run.outcomes],
        "notes": list(run.notes),
    }


def _row(outcome: Outcome) -> dict[str, Any]:
    row = {k: v for k, v in asdict(outcome).items() if k != "times"}
    return row | {
        "first_token": outcome.first_token,
        "token_seconds": outcome.token_seconds,
        "chunks": len(outcome.times),
    }


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


TIMES = {
    "first_token": "time to first token",
    "token_seconds": "time per output token",
    "gap": "between chunks",
    "end_to_end": "end to end",
}
"""The times of a summary, and how they are called in tables and plots."""


def rows(summary: Summary) -> list[list[str]]:
    """A row for each kind of time, in milliseconds."""
    found = []
    for name, title in TIMES.items():
        times: Spread | None = getattr(summary, name)
        values = [] if times is None else [times.p50, times.p90, times.p99, times.mean, times.max]
        found.append([title, *(f"{1e3 * v:.1f}" for v in values)] if values else [title, *["-"] * 5])
    return found


def lines(summary: Summary) -> list[str]:
    """Throughput and errors, a line each."""
    found = [
        f"{summary.succeeded} of {summary.requests} requests succeeded in {summary.seconds:.1f} s: "
        f"{summary.requests_per_second:.2f} requests/s, {summary.tokens_per_second:.1f} tok/s "
        f"({summary.completion_tokens} tokens, counted by {summary.tokens_by})"
    ]
    if summary.prompt_tokens is not None and summary.succeeded:
        cached = "" if summary.cached_tokens is None else f", {summary.cached_tokens} of them from the cache"
        found.append(
            f"prompts: {summary.prompt_tokens} tokens, {summary.prompt_tokens / summary.succeeded:.0f} each{cached}"
        )
    found += [f"error {kind}: {count} times: {summary.messages[kind]}" for kind, count in summary.errors.items()]
    if summary.lag is not None and summary.lag.p99 > LATE:
        found.append(
            f"this client was late: 1 % of requests went out over {1e3 * summary.lag.p99:.0f} ms after their time"
        )
    return found


LATE = 0.1
"""Seconds of delay on our side past which the numbers are those of the client as well."""
