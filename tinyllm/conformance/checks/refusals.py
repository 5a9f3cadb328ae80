"""Wrong calls give the spec's error, and what the backend does not support gives `UnsupportedError`, before any kernel
runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

from tinyllm.conformance.checks.check import Admitted, Check, DeclaredError, Trial
from tinyllm.conformance.example import draw_inputs, make_example
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.subject import Subject
from tinyllm.errors import TinyllmError, UnsupportedError
from tinyllm.ops import Op
from tinyllm.registry.choice import Choice
from tinyllm.registry.registry import Registry
from tinyllm.spec.cases import BadInput, Case, Draw
from tinyllm.spec.types import FLOATS


class RanError(Exception):
    """A call that had to be refused came as far as a kernel."""


class NothingRuns(Registry):
    """A registry whose kernels fail: a wrong call must not come so far."""

    def _function(self, choice: Choice) -> Callable[..., Any]:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise RanError(choice.id)

        return fail


def errors(trial: Trial) -> Iterator[Check]:
    """Each bad input of the spec, as numpy and as native arrays where the backend has such."""
    if trial.plan.kernels or "smoke" not in {c.tier for c in trial.cases}:
        return
    for bad in trial.spec.bad_inputs:
        yield _error(trial, bad, "numpy")
        kept = {draw.dtype for draw in bad.inputs.values() if isinstance(draw, Draw)} - {""}
        if kept <= trial.backend.dtypes:
            yield _error(trial, bad, "native")


def refusals(trial: Trial) -> Iterator[Check]:
    """Each dtype that the backend lacks, and each smoke case that no kernel takes."""
    if trial.plan.kernels:
        return
    smoke = [c for c in trial.cases if c.tier == "smoke"]
    for dtype in trial.asked_dtypes:
        if dtype not in trial.dtypes and smoke:
            yield _refusal(
                trial,
                next((c for c in smoke if c.inputs), smoke[0]),
                dtype,
                f"backend {trial.backend.name} has no {dtype}",
            )
    for case in smoke if trial.dtypes else ():
        reasons = [s.declines(trial.call(case, trial.dtypes[0])) for s in trial.subjects]
        if reasons and all(reasons):
            yield _refusal(trial, case, trial.dtypes[0], "; ".join(reasons))


def _error(trial: Trial, bad: BadInput, arrays: str) -> Check:
    spec, backend = trial.spec, trial.backend

    def run(admitted: Admitted) -> Verdict:
        dtype = next((d for d in ("float32", *FLOATS) if d in backend.dtypes), "float32")
        inputs = draw_inputs(spec, bad.id, bad.inputs, dtype, trial.plan.seed)
        if arrays == "native":
            inputs = Subject(trial.registry, backend, spec, None).native(inputs)
        # by position as far as the spec's order is kept, all else by name
        args = [inputs.pop(i.name) for i in takewhile(lambda i: i.name in inputs, spec.positional)]
        op = Op(spec, NothingRuns(trial.registry.plugins, trial.registry.settings))
        wanted = f"{bad.error.__name__} with {bad.match!r}"
        try:
            op(*args, **inputs, **bad.attributes, backend=f"{backend.name}:{backend.device}")
        except TinyllmError as error:
            if isinstance(error, UnsupportedError) and not trial.runs_anything:
                raise DeclaredError(str(error)) from error
            if type(error) is not bad.error or bad.match not in str(error) or spec.name not in str(error):
                return Verdict(f"gives {type(error).__name__}: {error}; expected {wanted}")
            return Verdict()
        except RanError as error:
            return Verdict(f"{error} was run; expected {wanted}")
        return Verdict(f"no error; expected {wanted}")

    return trial.check(bad.id, run, aspect=f"{arrays} error", decision=bad.decision)


def _refusal(trial: Trial, case: Case, dtype: str, reason: str) -> Check:
    def run(admitted: Admitted) -> Verdict:
        example = make_example(trial.spec, case, dtype, trial.plan.seed)
        op = Op(trial.spec, NothingRuns(trial.registry.plugins, trial.registry.settings))
        device = f"{trial.backend.name}:{trial.backend.device}"
        try:
            op(*example.positional(example.inputs), **example.keyword(example.inputs), backend=device)
        except UnsupportedError as error:
            raise DeclaredError(reason) from error
        except RanError as error:
            return Verdict(f"{error} was run, although: {reason}")
        return Verdict(f"no UnsupportedError, although: {reason}")

    return trial.check(case.id, run, aspect="refusal", dtype=dtype, decision=case.decision)
