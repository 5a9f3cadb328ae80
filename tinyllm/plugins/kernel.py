"""A kernel: one implementation of an op, as a plugin registers it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinyllm.errors import PluginError, SignatureError, plugin_code
from tinyllm.spec.op_spec import REQUIRED, SPEC_VERSION, OpSpec
from tinyllm.spec.types import Call

Supports = Callable[[Call], bool | str]
Prepare = Callable[[Any, Call], Any]

EVERY_CPU = "*"
"""The backend of a kernel that serves every backend on a CPU."""
DENSE = "dense"
"""Among a kernel's schemes: weights that are not quantized."""
ANY_SCHEME = "*"
"""Among a kernel's schemes: quantized weights of whatever scheme."""


@dataclass(frozen=True)
class Kernel:
    """One implementation of an op for a backend, `backend/op:name`.

    Args:
        backend: whose arrays it takes; `"*"`, with `arrays="host"`: every backend on a CPU.
        load: `"module:function"`, imported at first use, or a function without arguments that gives the function.
            The function takes the op's required inputs by position or name and all else by name (`OpSpec.signature`),
            and gives native arrays. It may leave out optional inputs and attributes: calls that give one are declined.
        supports: True, or the reason why this kernel does not run such a call: what signature, schemes and dtypes do
            not say by themselves. Touches no data.
        priority: the highest that supports the call runs; two of one priority are an error.
        schemes: names of the schemes whose weights it takes as they are; `"dense"`: arrays, `"*"`: any scheme. A weight
            of another one reaches it as `Scheme.as_affine` gives it, or expanded.
        prepare: the packed form of a weight input, made once when a program is bound, at every call outside of one:
            `prepare(weight, call)`, weight a native array or a `QuantWeight` of native arrays. An expanded weight comes
            in float32 (float64 where x is). What it returns is what the function gets for that input. Kernels that name
            one `prepare` share what it makes of a weight.
        prepares: the inputs that `prepare` packs.
        layout: a name for the packed form, its version and the machine it is for (`"q4-rows16-avx2-1"`). Where it is
            stated, `prepare` gives numpy arrays by name, which are written to a file once and mapped by all processes.
        host: inputs that it wants as numpy arrays: indices that steer it.
        arrays: `"native"`, or `"host"`: takes and gives numpy arrays, whatever the backend's are; what it gets is
            read-only.
        traceable: may stand in a run that `Backend.link` makes one call of.
        exact: False where activations or scales are rounded: never a default, chosen by name or by `--fast`.
        spec_version: the `SPEC_VERSION` this kernel was written for; state the number.
    """

    backend: str
    op: str
    name: str
    load: str | Callable[[], Callable[..., Any]]
    supports: Supports | None = None
    priority: int = 0
    prepare: str | Prepare | None = None
    prepares: tuple[str, ...] = ("weight",)
    schemes: tuple[str, ...] = (DENSE,)
    layout: str = ""
    host: tuple[str, ...] = ()
    arrays: str = "native"
    traceable: bool = True
    exact: bool = True
    spec_version: int = SPEC_VERSION

    @property
    def id(self) -> str:
        """`torch/sdpa:fused`."""
        return f"{self.backend}/{self.op}:{self.name}"

    def function(self, spec: OpSpec) -> Callable[..., Any]:
        """The function itself, its signature checked against the spec."""
        if isinstance(self.load, str):
            function = resolve(self.load, self.id)
        else:
            with plugin_code(f"{self.id}: load"):
                function = self.load()
        if not callable(function):
            raise PluginError(f"{self.id}: load: expected a function, got {function!r}")
        signature = _signature(function)
        if signature is not None:  # a builtin without one: the conformance tests judge it
            _check_signature(self.id, spec, signature)
        return function

    def prepare_function(self) -> Prepare | None:
        """The `prepare` function, imported."""
        return resolve(self.prepare, self.id) if isinstance(self.prepare, str) else self.prepare


def resolve(path: str, owner: str) -> Callable[..., Any]:
    """`"module:function"` as the function."""
    module, _, name = path.partition(":")
    with plugin_code(f"{owner}: loading {path!r}"):
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def optional_arguments_left_out(spec: OpSpec, function: Callable[..., Any]) -> frozenset[str]:
    """The optional inputs and attributes of an op that a function does not take."""
    signature = _signature(function)
    if signature is None or any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return frozenset()
    return frozenset(spec.signature.parameters) - frozenset(signature.parameters) - {i.name for i in spec.positional}


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except ValueError:
        return None


def _check_signature(kernel: str, spec: OpSpec, signature: inspect.Signature) -> None:
    """Callers give required inputs by position or by name, all else by name, and leave out what has a default."""
    wanted, parameters = spec.signature.parameters, signature.parameters
    kinds = {p.kind for p in parameters.values()}
    order = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    required = [i.name for i in spec.positional]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        required = required[: len(order)]
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    must = [a.name for a in spec.attributes if a.default is REQUIRED]
    missing = [] if inspect.Parameter.VAR_KEYWORD in kinds else [n for n in must if n not in named]
    defaults = [n for n in named if n in wanted and parameters[n].default != wanted[n].default]
    surplus = [
        n
        for n, p in parameters.items()
        if n not in wanted and p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if order[: len(required)] != required or missing or defaults or surplus:
        raise SignatureError(f"{kernel}: signature {signature} does not match {spec.name}{spec.signature}")
