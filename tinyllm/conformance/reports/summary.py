"""Results counted: per op, per op and dtype, and apart by who did the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tinyllm.conformance.example import DTYPES
from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.text import clean, plural
from tinyllm.conformance.result import BAD, Outcome, Result
from tinyllm.plugins.declarations import Declaration


class Way(StrEnum):
    """Who computed the outputs of a check."""

    OWN = "own kernel"
    REFERENCE = "by reference"
    DELEGATION = "by delegation"
    NOBODY = ""
    """No kernel was tested: the check is about the backend, or nothing could run."""


@dataclass(frozen=True)
class Worst:
    """The largest error and the error that is allowed, in ulps of the op, and the id of the check that found it."""

    ulps: float
    bound: float
    id: str

    @property
    def share(self) -> float:
        """The error as a share of the bound."""
        return self.ulps / self.bound if self.bound else float("inf") if self.ulps else 0.0

    def __str__(self) -> str:
        return f"{self.ulps:.3g} of {self.bound:g}"


@dataclass(frozen=True)
class Summary:
    """The results of an op, or of an op in a dtype, that were computed in one `Way`.

    kernels: the kernels that were tested, and whether they hold (None: nothing passed, nothing is bad).
    helpers: the libraries that the work was handed to.
    tried: whether a kernel or the reference ran and passed something; the core's own errors say nothing of either.
    """

    op: str
    dtype: str
    way: Way
    counts: Mapping[Outcome, int]
    kernels: Mapping[str, bool | None]
    helpers: tuple[str, ...]
    worst: Worst | None
    seconds: float
    tried: bool = True

    @property
    def passed(self) -> int:
        """The number of checks that passed, the n of `n/m`."""
        return self.counts.get(Outcome.PASS, 0)

    @property
    def ran(self) -> int:
        """The number of checks that a kernel took, the m of `n/m`."""
        return sum(self.counts.values()) - self.counts.get(Outcome.UNSUPPORTED, 0)

    @property
    def holds(self) -> bool | None:
        """Whether nothing is bad; None where nothing passed either, so that nothing is known."""
        holds = _holds(self.counts)
        return holds if self.tried else holds and None

    @property
    def done_by(self) -> str:
        """`own kernel`, `1 of 2 own kernels`, `2 own kernels, 1 idle`, `by reference`, `by delegation to numpy`."""
        if self.way is Way.DELEGATION:
            return " ".join(["by delegation", *(["to", ", ".join(self.helpers)] if self.helpers else [])])
        if self.way is not Way.OWN or len(self.kernels) < 2:
            return self.way
        tried = [holds for holds in self.kernels.values() if holds is not None]
        idle = len(self.kernels) - len(tried)
        number = (
            plural(len(tried), "own kernel") if all(tried) else f"{sum(tried)} of {plural(len(tried), 'own kernel')}"
        )
        return number + (f", {idle} idle" if idle else "")


def by_op(report: Report) -> list[Summary]:
    """A summary for each op and way, ops in the order of the report."""
    return _summaries(report.results, lambda r: "")


def by_dtype(report: Report) -> list[Summary]:
    """A summary for each op, dtype and way; dtype is empty for checks that concern none."""
    return _summaries(report.results, lambda r: r.dtype)


def way(how: str) -> Way:
    """The way that a `Result.how` names."""
    if how.startswith("delegation"):
        return Way.DELEGATION
    return {"kernel": Way.OWN, "reference": Way.REFERENCE}.get(how, Way.NOBODY)


def counts(results: Iterable[Result]) -> dict[Outcome, int]:
    """How many results have each outcome, in the order of `Outcome`, without those that no result has."""
    numbers = Counter(r.outcome for r in results)
    return {outcome: numbers[outcome] for outcome in Outcome if numbers[outcome]}


def tally(numbers: Mapping[Outcome, int]) -> str:
    """The numbers of outcomes as text: `12 pass, 1 fail`."""
    return ", ".join(f"{number} {outcome}" for outcome, number in numbers.items())


def worst(results: Iterable[Result]) -> Worst | None:
    """The error that comes nearest to its bound, or goes past it furthest."""
    errors = (Worst(r.worst, r.bound, r.id) for r in results if r.worst is not None and r.bound is not None)
    return max(errors, key=lambda w: (w.share, w.ulps), default=None)


def earlier(keys: Iterable[object]) -> Iterator[int]:
    """For each key, how many before it are the same."""
    seen: Counter[object] = Counter()
    for key in keys:
        yield seen[key]
        seen[key] += 1


def _summaries(results: Sequence[Result], part: Callable[[Result], str]) -> list[Summary]:
    mains = _mains(results)
    groups: dict[tuple[str, str, Way], list[Result]] = {}
    for result in results:
        groups.setdefault((result.op, part(result), way(result.how) or mains[result.op]), []).append(result)
    ops = list(dict.fromkeys(r.op for r in results))
    ways = list(Way)
    order = sorted(groups, key=lambda k: (ops.index(k[0]), dtype_order(k[1]), ways.index(k[2])))
    return [_summary(*key, groups[key]) for key in order]


def _mains(results: Sequence[Result]) -> dict[str, Way]:
    """The best way of each op, to which the checks of the op as a whole are counted."""
    best: dict[str, Way] = {}
    ranks = (Way.OWN, Way.DELEGATION, Way.REFERENCE, Way.NOBODY)
    for result in results:
        best[result.op] = min(best.get(result.op, Way.NOBODY), way(result.how), key=ranks.index)
    return best


def _summary(op: str, dtype: str, how: Way, results: list[Result]) -> Summary:
    names = dict.fromkeys(r.kernel for r in results if r.kernel and way(r.how) is how)
    kernels = {
        name: _holds(counts(r for r in results if r.kernel == name and r.aspect != "signature")) for name in names
    }
    helpers = sorted({r.how.partition(" to ")[2] for r in results if r.how.startswith("delegation to ")})
    tried = how is Way.NOBODY or any(
        r.kernel and r.outcome is Outcome.PASS and r.aspect != "signature" for r in results
    )
    return Summary(
        op, dtype, how, counts(results), kernels, tuple(helpers), worst(results), sum(r.seconds for r in results), tried
    )


def _holds(numbers: Mapping[Outcome, int]) -> bool | None:
    if any(numbers.get(outcome) for outcome in BAD):
        return False
    return True if numbers.get(Outcome.PASS) else None


def dtype_order(dtype: str) -> tuple[int, str]:
    """What dtypes are sorted by: those of the kit from float32 on, then others, and last what concerns none."""
    return (DTYPES.index(dtype) if dtype in DTYPES else len(DTYPES) + (not dtype)), dtype


@dataclass(frozen=True)
class Reason:
    """Why something is not held against a backend, how often it came up, and where. `declared`: a plugin's own
    entry."""

    text: str
    declared: bool
    counts: Mapping[Outcome, int]
    ops: tuple[str, ...]

    def __str__(self) -> str:
        checks = plural(sum(self.counts.values()), "check")
        outcomes = f": {tally(self.counts)}" if self.declared else ""
        return f"{self.text} ({checks}{outcomes}; {', '.join(self.ops)})"


def reasons(report: Report) -> list[Reason]:
    """Each reason once, the declared exceptions first, then why calls are unsupported; the most frequent first."""
    groups: dict[tuple[bool, str], list[Result]] = {}
    for result in report.results:
        for text in result.declared:
            groups.setdefault((True, text), []).append(result)
        if result.outcome is Outcome.UNSUPPORTED:
            groups.setdefault((False, result.message or "no reason given"), []).append(result)
    order = sorted(groups, key=lambda k: (not k[0], -len(groups[k])))
    return [
        Reason(
            clean(text),
            declared,
            counts(groups[declared, text]),
            tuple(dict.fromkeys(r.op for r in groups[declared, text])),
        )
        for declared, text in order
    ]


def idle(report: Report, declarations: Iterable[Declaration]) -> list[Declaration]:
    """Declarations for the backend that no check of the whole kit was about: slips, or left over. None where the plan
    asks for a part."""
    if (
        any(report.plan.get(part) for part in ("ops", "dtypes", "kernels", "case", "shapes"))
        or "full" not in report.plan["tiers"]
    ):
        return []
    about = [(r.backend, r.op, r.kernel, r.dtype, r.case, r.aspect) for r in report.results]
    return [d for d in declarations if d.backend == report.backend and not any(d.covers(*names) for names in about)]


def failures(report: Report) -> list[Result]:
    """What is bad: first one of each kernel and aspect, then the others."""
    ranked = zip(earlier((r.op, r.kernel, r.aspect) for r in report.bad), report.bad, strict=True)
    return [result for _, result in sorted(ranked, key=lambda pair: pair[0])]


def verdict(report: Report) -> str:
    """`torch:cpu holds: 9 ops by own kernels, 1 by reference; 340 pass, 2 unsupported`."""
    ops = by_op(report)
    numbers = {w: len({s.op for s in ops if s.way is w and s.holds}) for w in Way if w is not Way.NOBODY}
    done = [f"{numbers[w]} {w}{'s' if w is Way.OWN else ''}" for w in numbers if numbers[w] or w is Way.OWN]
    done[0] = f"{plural(numbers[Way.OWN], 'op')} by own kernels"
    broken = len({s.op for s in ops if s.holds is False})
    failing = [f"{broken} {'does' if broken == 1 else 'do'} not hold"] if broken else []
    outcomes = tally(counts(report.results)) or "no check ran"
    return (
        f"{report.backend}:{report.device} {'holds' if report.holds else 'does not hold'}: "
        f"{', '.join([*done, *failing])}; {outcomes}"
    )
