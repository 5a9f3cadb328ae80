"""A check, before it runs; and the trial it belongs to: an op on a backend, with what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tinyllm.conformance.example import SHORT, Example, call_in, dtypes_of, make_example
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.shapes import read_shapes
from tinyllm.conformance.solution import solution_cases
from tinyllm.conformance.subject import Subject, subjects
from tinyllm.errors import TinyllmError
from tinyllm.plugins.backend import Backend
from tinyllm.registry.choice import Form
from tinyllm.registry.registry import Registry
from tinyllm.spec.cases import Case
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import Call

TIERS = ("smoke", "full", "model", "fuzz")
"""`full` includes `smoke`; `model` and `fuzz` stand by themselves."""


MOST_HELD = 128
"""Examples whose data is kept."""

_RECENT: dict[tuple[str, int, str, int, str], tuple[Case, Example]] = {}
"""Those used last by all trials; each with its case, so that no other can have the case's id meanwhile."""


LARGE, LARGEST = 2, 2**17
"""How many large cases of an op are tried in every way, and how many numbers they may have."""


class DeclaredError(TinyllmError):
    """Raised by a check whose call the backend says it does not support: the outcome `unsupported`, with the reason."""


@dataclass(frozen=True)
class Plan:
    """What was asked for; empty means all of it.

    schemes: those of quantized weights; dense ones are tried whatever it says.
    case: the id of a check, or the part of one from the op on.
    shapes: a file of calls that a model made, instead of the specs' cases. oracles: `onnx`, `torch`.
    solution: a file with a kernel that is put to the backend's. definitions: the folder of its definition, empty where
        it has the op's own signature; its calls join the cases.
    """

    backend: str
    tiers: tuple[str, ...] = ("smoke",)
    ops: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    case: str = ""
    seed: int = 0
    oracles: tuple[str, ...] = ()
    shapes: str = ""
    solution: str = ""
    definitions: str = ""

    @property
    def examples(self) -> int:
        """Inputs that each property is tried on."""
        return 200 if "fuzz" in self.tiers else 10 if "full" in self.tiers else 5


@dataclass(frozen=True)
class Admitted:
    """What declarations admit of a check: bounds `factor` times as wide, other bits the second time."""

    factor: float = 1.0
    varies: bool = False


@dataclass(frozen=True)
class Check:
    """Something to be found out. `run` gives a verdict or raises; `subject` is None where no single kernel is on
    trial."""

    backend: str
    op: str
    case: str
    run: Callable[[Admitted], Verdict]
    aspect: str = ""
    subject: Subject | None = None
    dtype: str = ""
    decision: int | None = None

    @property
    def kernel(self) -> str:
        """The name of the kernel on trial."""
        return self.subject.name if self.subject else ""

    @cached_property
    def id(self) -> str:
        """`torch/sdpa:fused[L3,S5,D4,f32]`, and after a slash the aspect, where it is not the outputs of a case."""
        who = self.subject.id if self.subject else f"{self.backend}/{self.op}"
        inner = ",".join(part for part in (self.case, SHORT.get(self.dtype, self.dtype)) if part)
        return f"{who}[{inner}]" + (f"/{self.aspect}" if self.aspect else "")


@dataclass
class Trial:
    """An op on a backend."""

    registry: Registry
    backend: Backend
    spec: OpSpec
    plan: Plan
    broken: dict[str, TinyllmError] = field(default_factory=dict)
    """Kernels that cannot be loaded, with the error."""
    calls: dict[str, dict[str, Call]] = field(default_factory=dict)

    @cached_property
    def subjects(self) -> list[Subject]:
        """The kernels on trial: those that were asked for and can be loaded."""
        found = []
        for subject in subjects(self.registry, self.backend, self.spec):
            if self.plan.kernels and subject.name not in self.plan.kernels:
                continue
            try:
                _ = subject.function
            except TinyllmError as error:
                self.broken[subject.id] = error
                continue
            found.append(subject)
        return found

    @cached_property
    def cases(self) -> list[Case]:
        """Those of the tiers asked for, or those recorded from a model's run; of a solution its definition's too."""
        plan = self.plan
        if plan.shapes:
            recorded = read_shapes(plan.shapes, self.registry.specs, self.registry.plugins.schemes)
            return list(recorded.get(self.spec.name, ()))
        wanted = {*plan.tiers, *(("smoke",) if "full" in plan.tiers else ())}
        stated = self.spec.all_cases if wanted - {"smoke"} else self.spec.cases
        cases = [case for case in (*stated, *self.scheme_cases) if case.tier in wanted]
        cases += solution_cases(self.registry, plan.solution, plan.definitions) if plan.definitions else []
        inner = plan.case.partition("[")[2].partition("]")[0]
        return [case for case in cases if f"{inner},".startswith(f"{case.id},")] or cases

    @cached_property
    def small_cases(self) -> list[Case]:
        """Those on which memory and state are tried: the smoke cases, or where there are none all. All of them too
        where a check is asked for by its id, whichever plan had it."""
        smoke = [case for case in self.cases if case.tier == "smoke"]
        return self.cases if self.plan.case or not smoke else smoke

    @cached_property
    def large_cases(self) -> list[Case]:
        """The largest of the cases past the smoke tier that are not too large to be tried in every way."""
        further = [case for case in self.cases if case.tier != "smoke" and case.size <= LARGEST]
        return sorted(further, key=lambda case: case.size)[-LARGE:]

    @cached_property
    def scheme_cases(self) -> list[Case]:
        """Those that hold the op to each scheme that is registered, or to those asked for."""
        wanted, known = self.plan.schemes, self.registry.plugins.schemes
        return [case for name in wanted or known for case in self.spec.cases_of(known[name])]

    @cached_property
    def runs_anything(self) -> bool:
        """Whether a kernel takes any of the spec's smoke cases."""
        smoke = [c for c in (*self.spec.cases, *self.scheme_cases) if c.tier == "smoke"]
        return any(not s.declines(self.call(c, d)) for s in self.subjects for c in smoke for d in self.dtypes)

    @property
    def dtypes(self) -> list[str]:
        """Those to test in that the backend has."""
        return [d for d in self.asked_dtypes if d in self.backend.dtypes or len(dtypes_of(self.spec)) == 1]

    @property
    def safety_dtypes(self) -> list[str]:
        """Those in which views, repeats and hidden elements are tried: float32 or the first that is there; past smoke
        also 16 bits."""
        wanted = [*self.dtypes[:1], *(() if set(self.plan.tiers) == {"smoke"} else ("float16", "bfloat16"))]
        return [d for d in self.dtypes if d in wanted]

    @property
    def asked_dtypes(self) -> list[str]:
        """Those to test in, whether or not the backend has them."""
        return [d for d in dtypes_of(self.spec) if not self.plan.dtypes or d in self.plan.dtypes]

    def example(self, case: Case, dtype: str) -> Example:
        """The case with its data; the last ones are kept for the next kernel."""
        return self._kept(case, dtype, "", lambda: make_example(self.spec, case, dtype, self.plan.seed))

    def derived(self, case: Case, dtype: str, aspect: str, make: Callable[[Example], Example]) -> Example:
        """What an aspect makes of a case's example; kept as that is, with what the reference says of it."""
        return self._kept(case, dtype, aspect, lambda: make(self.example(case, dtype)))

    def _kept(self, case: Case, dtype: str, aspect: str, make: Callable[[], Example]) -> Example:
        key = self.spec.name, id(case), dtype, self.plan.seed, aspect
        held = _RECENT.pop(key, None) or (case, make())
        _RECENT[key] = held  # what was used last stands last
        if len(_RECENT) > MOST_HELD:
            del _RECENT[next(iter(_RECENT))]
        return held[1]

    def call(self, case: Case, dtype: str) -> Call:
        """The call of a case, kept for all that is asked about it: drawing its data takes far longer."""
        calls = self.calls.setdefault(case.id, {})
        if not calls:
            calls[dtype] = self.example(case, dtype).call
        elif dtype not in calls:
            was, call = next(iter(calls.items()))
            calls[dtype] = call_in(call, self.spec, case, was, dtype)
        return calls[dtype]

    def leaves_to_lender(self, subject: Subject, case: Case, dtype: str, once: bool = False) -> bool:
        """Whether a check is left to the backend that lends a kernel, where it is the same function and is held to
        everything.

        Here it is tried on the smoke cases alone, and in views, threads and repeated calls in the first dtype alone,
        unless it was asked for by name.

        once: it is one of the latter.
        """
        if not subject.lender or self.plan.kernels or self.plan.case:
            return False
        return case.tier == "full" or (once and dtype != self.dtypes[0])

    def tries(self, subject: Subject, case: Case, dtype: str, indirectly: bool = True) -> bool:
        """Whether a kernel is tried on a case that it takes.

        One that gets a weight expanded or as affine numbers is tried on a scheme's smoke cases alone (indirectly False:
        on none): what makes that form is tried by `dequantize`, and what is done with it by the kernel's other cases.
        """
        if self.leaves_to_lender(subject, case, dtype, once=not indirectly):
            return False
        call = self.call(case, dtype)
        if subject.declines(call):
            return False
        if not any(isinstance(kind, QuantType) for kind in call.inputs.values()):
            return True
        if subject.kernel is None:  # a composition or a formula: other ops, or `dequantize`, have the weight
            return indirectly
        return subject.bind(call).choice.form is Form.AS_IT_IS or (case.tier == "smoke" and indirectly)

    def check(self, case: str, run: Callable[[Admitted], Verdict], **about: Any) -> Check:
        """A check of this trial."""
        return Check(self.backend.name, self.spec.name, case, run, **about)

    def failing(self, case: str, message: str, **about: Any) -> Check:
        """A check of which it is known beforehand what is wrong."""
        return self.check(case, lambda admitted: Verdict(message), **about)

    def unsupported(self, case: str, reason: str, **about: Any) -> Check:
        """A check that does nothing but say why something is not tried."""

        def run(admitted: Admitted) -> Verdict:
            raise DeclaredError(reason)

        return self.check(case, run, **about)
