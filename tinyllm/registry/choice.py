"""Which kernel runs a call, in which form quantized weights reach it, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from tinyllm.errors import PluginError, plugin_code
from tinyllm.plugins.backend import Backend
from tinyllm.plugins.kernel import ANY_SCHEME, DENSE, EVERY_CPU, Kernel
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType, Call


class Form(IntEnum):
    """How a quantized weight reaches a kernel; the value is what it takes off the kernel's priority."""

    AS_IT_IS = 0
    AFFINE = 1
    """The same numbers in a scheme of the core, `Scheme.as_affine`."""
    EXPANDED = 2
    """The float matrix that the weight stands for."""


@dataclass(frozen=True)
class Candidate:
    """A kernel that was looked at. `reason` is empty if it can run the call, otherwise why not."""

    kernel: Kernel
    reason: str
    form: Form = Form.AS_IT_IS


@dataclass(frozen=True)
class Choice:
    """What runs a call: a kernel, or (kernel None) the op's composition or its reference.

    call: as the kernel sees it, quantized weights in the form that it takes. by: `kernel`, `composed` or `reference`.
    """

    op: str
    backend: Backend
    kernel: Kernel | None
    candidates: tuple[Candidate, ...]
    why: str
    call: Call
    form: Form = Form.AS_IT_IS
    by: str = "kernel"

    @property
    def id(self) -> str:
        """`torch/sdpa:fused`, or `numpy/gelu:reference`."""
        return self.kernel.id if self.kernel else f"{self.backend.name}/{self.op}:{self.by}"


def forms(spec: OpSpec, call: Call) -> dict[Form, Call]:
    """The call with its quantized weights in each form that they can have, the most direct first."""
    found = {Form.AS_IT_IS: call}
    quantized = {name: what for name, what in call.inputs.items() if isinstance(what, QuantType)}
    affine = {n: replace(what, scheme=what.scheme.affine) for n, what in quantized.items() if what.scheme.affine}
    wide = bool(quantized) and call.dims["dtype of T"][1] == "float64"
    if affine and not (wide and any(quantized[name].scheme.affine_rounds for name in affine)):
        found[Form.AFFINE] = replace(call, inputs={**call.inputs, **affine})
    if quantized and not any(i.kind == "quant" for i in spec.inputs):
        matrices = {name: ArrayType(what.shape, call.dims["dtype of T"][1]) for name, what in quantized.items()}
        found[Form.EXPANDED] = replace(call, inputs={**call.inputs, **matrices})
    return found


def candidate(
    spec: OpSpec, kernel: Kernel, ways: Mapping[Form, Call], inexact: bool, left_out: Callable[[Kernel], frozenset[str]]
) -> Candidate:
    """A kernel with the most direct form of a call that it runs, or the reason why it runs none.

    inexact: whether it may round activations. left_out: the optional arguments that a kernel does not take.
    """
    reasons = []
    for form, call in ways.items():
        unknown = _scheme_reason(spec, kernel, call)
        reason = unknown or _reason(kernel, call, inexact) or _signature_reason(spec, kernel, call, left_out)
        if not reason:
            return Candidate(kernel, "", form)
        reasons.append((bool(unknown), reason))
    return Candidate(kernel, min(reasons, key=lambda pair: pair[0])[1])


def best(spec: OpSpec, candidates: Iterable[Candidate]) -> Candidate | None:
    """The candidate that runs the call: of the highest priority after what its form takes off, then the most direct
    form, then the backend's own.

    Raises:
        PluginError: two are equal in all that.
    """

    def rank(one: Candidate) -> tuple[int, int, bool]:
        return one.form - one.kernel.priority, one.form, one.kernel.backend == EVERY_CPU

    fitting = sorted((c for c in candidates if not c.reason), key=rank)
    if len(fitting) > 1 and rank(fitting[0]) == rank(fitting[1]):
        first, second = fitting[0].kernel, fitting[1].kernel
        raise PluginError(
            f"{spec.name}: kernels {first.id} and {second.id} have the same priority {first.priority}; pin one"
        )
    return fitting[0] if fitting else None


def _scheme_reason(spec: OpSpec, kernel: Kernel, call: Call) -> str:
    for i in spec.inputs:
        what = call.inputs.get(i.name)
        if i.kind in ("weight", "quant") and what is not None:
            scheme = what.scheme.name if isinstance(what, QuantType) else DENSE
            if scheme not in kernel.schemes and (scheme == DENSE or ANY_SCHEME not in kernel.schemes):
                return f"{i.name}: takes {' and '.join(kernel.schemes)} weights, not {scheme}"
    return ""


def _signature_reason(spec: OpSpec, kernel: Kernel, call: Call, left_out: Callable[[Kernel], frozenset[str]]) -> str:
    """The optional arguments that the call gives and the kernel's signature leaves out."""
    missing = left_out(kernel)
    if not missing:
        return ""
    names = [i.name for i in spec.keyword if call.inputs.get(i.name) is not None and i.name in missing]
    names += [a.name for a in spec.attributes if a.name in missing and call.attributes[a.name] != a.default]
    return f"takes no {' and no '.join(names)}" if names else ""


def _reason(kernel: Kernel, call: Call, inexact: bool) -> str:
    if not kernel.exact and not inexact:
        return "rounds activations or scales: needs --fast or its name"
    try:
        with plugin_code("supports"):
            answer = kernel.supports(call) if kernel.supports else True
            if not isinstance(answer, (bool, str)):
                raise PluginError(f"expected True or a reason, got {answer!r}")
    except PluginError as error:  # other kernels go on working
        return str(error)
    return "" if answer is True else answer or "not supported"
