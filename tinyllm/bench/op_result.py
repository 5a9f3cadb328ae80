"""What came of one op, case and backend in `tinyllm bench ops`, and how backends stand to one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median

from tinyllm.bench.guarded import too_fast
from tinyllm.bench.limits import Limits

BASELINE = "numpy"
PHASES = ("decode", "prefill")


class Status(StrEnum):
    """Only what is right is timed."""

    TIMED = "timed"
    WRONG = "wrong"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    SUSPECT = "suspect"
    """Timed under guard, and faster than its bytes allow."""


BAD = frozenset({Status.WRONG, Status.FAILED, Status.SUSPECT})


@dataclass(frozen=True)
class Speed:
    """Seconds per call: the median, the quickest and the slowest round; what the median amounts to, and its share of
    the roof."""

    median: float
    low: float
    high: float
    gb_s: float
    gflop_s: float
    of_roof: float | None = None

    @property
    def spread(self) -> float:
        """From the quickest to the slowest round, as a share of the median."""
        return (self.high - self.low) / self.median


def speed(times: list[float], moved: int, computed: int) -> Speed:
    """What some rounds say of a call that moves and computes so much."""
    middle = median(times)
    return Speed(middle, min(times), max(times), moved / middle / 1e9, computed / middle / 1e9)


@dataclass(frozen=True)
class OpResult:
    """One op, case and backend.

    bytes, flops: what a call must move and compute. prepare: seconds to pack weights; first_call: seconds of the first
    call, with loading, compiling and warming up. cold: inputs in memory alone; hot: the same inputs again and again.
    cold_by: `rotation` over `copies` of the inputs, or a `sweep` of the caches before each call. vs_numpy: how many
    times as fast as numpy, vs_best: as the fastest backend, both cold. guarded: each timed call was judged; read: bytes
    that such a call must bring from memory.
    """

    op: str
    case: str
    backend: str
    device: str
    kernel: str = ""
    status: Status = Status.TIMED
    reason: str = ""
    bytes: int = 0
    flops: int = 0
    prepare: float | None = None
    first_call: float | None = None
    cold: Speed | None = None
    hot: Speed | None = None
    cold_by: str = ""
    copies: int = 0
    vs_numpy: float | None = None
    vs_best: float | None = None
    guarded: bool = False
    read: int = 0

    @property
    def phase(self) -> str:
        """`decode`, `prefill`, or `other` where the case's id does not say."""
        phase = self.case.partition(":")[0]
        return phase if phase in PHASES else "other"


@dataclass(frozen=True)
class OpReport:
    """Everything one run found. limits: per backend; roofs: per device, the best of all backends that can run there;
    notes: what could not be measured."""

    results: tuple[OpResult, ...]
    limits: Mapping[str, Limits] = field(default_factory=dict)
    roofs: Mapping[str, Limits] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def placed(results: Iterable[OpResult], roofs: Mapping[str, Limits]) -> tuple[OpResult, ...]:
    """The results with their shares of the roof and their ratios, by op, case and speed."""
    found = list(results)
    times: dict[tuple[str, str], dict[str, float]] = {}
    for r in found:
        if r.cold:
            times.setdefault((r.op, r.case), {})[r.backend] = r.cold.median
    return tuple(sorted((_placed(r, roofs.get(r.device), times.get((r.op, r.case), {})) for r in found), key=_order))


def _placed(result: OpResult, roof: Limits | None, times: Mapping[str, float]) -> OpResult:
    if not result.cold or not result.hot:
        return result
    own = result.cold.median
    cold, hot = (
        replace(s, of_roof=roof.share(result.bytes, result.flops, s.median) if roof else None)
        for s in (result.cold, result.hot)
    )
    base = times.get(BASELINE)
    if roof and result.guarded and (reason := too_fast(result.read, own, roof.gb_s)):
        result = replace(result, status=Status.SUSPECT, reason=reason)
    return replace(result, cold=cold, hot=hot, vs_numpy=base / own if base else None, vs_best=min(times.values()) / own)


def _order(result: OpResult) -> tuple[str, str, float, str]:
    return result.op, result.case, result.cold.median if result.cold else float("inf"), result.backend
