"""Compares two reports: which checks got worse, which were fixed, and which are new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.summary import Way, earlier, way
from tinyllm.conformance.reports.text import plural
from tinyllm.conformance.result import BAD, Outcome, Result
from tinyllm.errors import InvalidInputError

GROWTH = 2.0
"""How many times as large the worst error of a check may become."""
SHARE = 0.5
"""Of its bound: smaller errors may grow as they like."""


class Kind(StrEnum):
    """How a check got worse."""

    BROKEN = "broken"
    """Bad now, and was not; or it passed against expectation, and fails now."""
    LOST = "lost"
    """It passed, expected or not, and is now unsupported or expected to fail."""
    GONE = "gone"
    """It ran, was asked for again, and is no longer there."""
    HANDED_OVER = "handed over"
    """The kernel did the work itself, or the op's own formula did, and now another library does it; or the formula for
    the kernel."""
    WORSE = "worse"
    """It passes, with an error more than twice as large and past half of the bound."""


@dataclass(frozen=True)
class Change:
    """A check that is not as it was. kind: a `Kind`, `fixed`, `excused`, `new`, `declared` or `widened`; old, new:
    outcomes or ulps."""

    kind: str
    id: str
    old: str = ""
    new: str = ""
    message: str = ""


@dataclass(frozen=True)
class Diff:
    """What two reports differ in.

    regressions, fixed: of checks that both know. excused: no longer bad, but only declared so: expected to fail,
    unsupported, or it passes with a new declaration or a wider bound. new: checks that OLD lacks. not_asked: checks
    that NEW's plan left out.
    allowances: each reason that was not declared before, and each bound that is wider, with the first check and their
    number.
    """

    compared: int
    regressions: tuple[Change, ...]
    fixed: tuple[Change, ...]
    new: tuple[Change, ...]
    not_asked: int
    doubts: tuple[str, ...]
    excused: tuple[Change, ...] = ()
    allowances: tuple[Change, ...] = ()

    @property
    def new_bad(self) -> tuple[Change, ...]:
        """The new checks that are bad."""
        return tuple(c for c in self.new if c.new in BAD)

    @property
    def exit_code(self) -> int:
        """1 if anything got worse, or is new and bad."""
        return 1 if self.regressions or self.new_bad else 0

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


def diff(old: Sequence[Report], new: Sequence[Report]) -> Diff:
    """Reports of the same backends, check by check. What NEW's plan did not ask for is counted, and is no regression.

    Raises:
        InvalidInputError: no backend on a device is in both.
    """
    before, after = _by_backend(old), _by_backend(new)
    common = [key for key in before if key in after]
    if not common:
        sides = [", ".join(f"{b}:{d}" for b, d in reports) for reports in (before, after)]
        raise InvalidInputError(f"report diff: expected reports of the same backend, got {sides[0]} and {sides[1]}")
    doubts = [f"{b}:{d} is in only one of the two" for b, d in before.keys() ^ after.keys()]
    parts = [_compared(before[key], after[key]) for key in common]
    return Diff(
        sum(p.compared for p in parts),
        tuple(c for p in parts for c in p.regressions),
        tuple(c for p in parts for c in p.fixed),
        tuple(c for p in parts for c in p.new),
        sum(p.not_asked for p in parts),
        (*sorted(doubts), *(d for p in parts for d in p.doubts)),
        tuple(c for p in parts for c in p.excused),
        tuple(c for p in parts for c in p.allowances),
    )


def _compared(old: Report, new: Report) -> Diff:
    before, after = _numbered(old.results), _numbered(new.results)
    both = [(before[key], after[key]) for key in before if key in after]
    missing = [
        result for key, result in before.items() if key not in after and result.outcome is not Outcome.UNSUPPORTED
    ]
    gone = [r for r in missing if _asked(new.plan, old.plan, r)]
    regressions = [c for was, now in both for c in _worse(was, now)]
    regressions += [Change(Kind.GONE, r.id, r.outcome) for r in gone]
    mended = [(was, now) for was, now in both if was.outcome in BAD and now.outcome not in BAD]
    regressed = {c.id for c in regressions}
    fixed = [Change("fixed", now.id, was.outcome, now.outcome) for was, now in mended if _mended(was, now)]
    excused = [
        Change("excused", now.id, was.outcome, now.outcome, "; ".join(now.declared) or now.message)
        for was, now in mended
        if not _mended(was, now) and now.id not in regressed
    ]
    added = [Change("new", r.id, "", r.outcome, r.message) for key, r in after.items() if key not in before]
    return Diff(
        len(both),
        tuple(sorted(regressions, key=lambda c: list(Kind).index(Kind(c.kind)))),
        tuple(fixed),
        tuple(sorted(added, key=lambda c: Outcome(c.new) not in BAD)),
        len(missing) - len(gone),
        tuple(_doubts(old, new)),
        tuple(excused),
        (*_declared(before, after), *_widened(both)),
    )


def _worse(was: Result, now: Result) -> Iterator[Change]:
    passed = was.outcome in (Outcome.PASS, Outcome.XPASS)
    if now.outcome in BAD and (was.outcome not in BAD or (passed and now.outcome is not Outcome.XPASS)):
        yield Change(Kind.BROKEN, now.id, was.outcome, now.outcome, now.message)
    elif passed and now.outcome in (Outcome.UNSUPPORTED, Outcome.XFAIL):
        yield Change(Kind.LOST, now.id, was.outcome, now.outcome, now.message)
    elif now.outcome is Outcome.PASS and _grew(was, now):
        yield Change(Kind.WORSE, now.id, f"{was.worst:.3g} ulps", f"{now.worst:.3g} ulps", f"of {now.bound:g}")
    ranks = (Way.OWN, Way.REFERENCE, Way.DELEGATION)
    before, after = way(was.how), way(now.how)
    if before in ranks and after in ranks and ranks.index(after) > ranks.index(before):
        yield Change(Kind.HANDED_OVER, now.id, was.how, now.how)


def _mended(was: Result, now: Result) -> bool:
    """It passes, and nothing was declared or widened for that."""
    return now.outcome is Outcome.PASS and not set(now.declared) - set(was.declared) and not _wider(was, now)


def _wider(was: Result, now: Result) -> bool:
    return was.bound is not None and now.bound is not None and now.bound > was.bound


def _declared(before: Mapping[Any, Result], after: Mapping[Any, Result]) -> Iterator[Change]:
    """Reasons that a check did not need before; of a check that was not there, those that no check needed."""
    known = {reason for result in before.values() for reason in result.declared}
    users: dict[str, list[Result]] = {}
    for key, now in after.items():
        for reason in dict.fromkeys(now.declared):
            if reason not in (before[key].declared if key in before else known):
                users.setdefault(reason, []).append(now)
    for reason, results in users.items():
        yield Change("declared", results[0].id, "", plural(len(results), "check"), reason)


def _widened(both: Iterable[tuple[Result, Result]]) -> Iterator[Change]:
    """Bounds that are wider, those of a kernel together."""
    groups: dict[Any, list[tuple[Result, Result]]] = {}
    for was, now in both:
        if _wider(was, now):
            groups.setdefault((now.op, now.kernel, was.bound, now.bound), []).append((was, now))
    for (_, _, old, new), pairs in groups.items():
        yield Change("widened", pairs[0][1].id, f"{old:g} ulps", f"{new:g} ulps", plural(len(pairs), "check"))


def _grew(was: Result, now: Result) -> bool:
    """Held against the narrower of the two bounds: one that a declaration widened hides nothing."""
    if was.worst is None or now.worst is None or was.bound is None or now.bound is None:
        return False
    return now.worst > GROWTH * was.worst and now.worst > SHARE * min(was.bound, now.bound)


def _asked(new: Mapping[str, Any], old: Mapping[str, Any], result: Result) -> bool:
    """Whether the plan of the new report asked for this check; empty means all of it."""
    for name, value in (("ops", result.op), ("dtypes", result.dtype), ("kernels", result.kernel)):
        if new.get(name) and value and value not in new[name]:
            return False
    same = all(new.get(name) == old.get(name) for name in ("case", "shapes"))
    return same and set(_tiers(old)) <= set(_tiers(new)) and set(old.get("oracles", ())) <= set(new.get("oracles", ()))


def _tiers(plan: Mapping[str, Any]) -> Iterable[str]:
    tiers = plan.get("tiers", ())
    return {*tiers, "smoke"} if "full" in tiers else tiers


def _by_backend(reports: Sequence[Report]) -> dict[tuple[str, str], Report]:
    by_backend: dict[tuple[str, str], Report] = {}
    for report in reports:
        key = (report.backend, report.device)
        if key in by_backend:
            raise InvalidInputError(
                f"report diff: expected one report of each backend, got two of {report.backend}:{report.device}"
            )
        by_backend[key] = report
    return by_backend


def _numbered(results: Sequence[Result]) -> dict[tuple[str, int], Result]:
    """Results by id and number; the number tells apart checks that share an id."""
    numbers = earlier(result.id for result in results)
    return {(result.id, number): result for result, number in zip(results, numbers, strict=True)}


def _doubts(old: Report, new: Report) -> Iterator[str]:
    """What else differs between the two runs, and may be the reason of a change."""
    for what in ("plan", "machine", "versions"):
        was, now = getattr(old, what), getattr(new, what)
        for name in dict.fromkeys((*was, *now)):
            if was.get(name) != now.get(name):
                yield f"{new.backend}: {name}: {_shown(now.get(name))}, was {_shown(was.get(name))}"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "not given" if value is None else str(value)
