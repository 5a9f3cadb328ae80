"""A kernel: one implementation of an op, as a plugin registers it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinyllm.errors import PluginError, SignatureError
from tinyllm.spec.op_spec import SPEC_VERSION, OpSpec
from tinyllm.spec.types import Call

Supports = Callable[[Call], bool | str]


@dataclass(frozen=True)
class Kernel:
    """One implementation of an op for a backend, `backend/op:name`.

    Args:
        load: `"module:function"`, imported at first use, or a function without arguments that gives the function.
            The function has the op's own signature (`OpSpec.signature`), takes and gives native arrays.
        supports: True, or the reason why this kernel does not run such a call. Touches no data.
        priority: the highest that supports the call runs; two of one priority are an error.
        prepare: the packed form of a weight input, made once when a program is bound: `prepare(weight, uses)`, weight a
            native array or a `QuantWeight` of native arrays, uses the inputs it serves
            (`("quantized_linear.weight",)`); empty outside a program, where the form is used once. What it returns is
            what the function gets for that input.
        prepares: the inputs that `prepare` packs.
        traceable: may stand in a region that `Backend.compile` compiles.
        exact: False where activations or scales are rounded: never a default, chosen by name or by `--fast`.
        spec_version: the `SPEC_VERSION` this kernel was written for; state the number.
    """

    backend: str
    op: str
    name: str
    load: str | Callable[[], Callable[..., Any]]
    supports: Supports | None = None
    priority: int = 0
    prepare: str | Callable[[Any, tuple[str, ...]], Any] | None = None
    prepares: tuple[str, ...] = ("weight",)
    traceable: bool = True
    exact: bool = True
    spec_version: int = SPEC_VERSION

    @property
    def id(self) -> str:
        """`torch/sdpa:fused`."""
        return f"{self.backend}/{self.op}:{self.name}"

    def function(self, spec: OpSpec) -> Callable[..., Any]:
        """The function itself, its signature checked against the spec."""
        function = resolve(self.load, self.id) if isinstance(self.load, str) else self._loaded(self.load)
        if not callable(function):
            raise PluginError(f"{self.id}: load: expected a function, got {function!r}")
        try:
            signature = inspect.signature(function)
        except ValueError:  # a builtin without one: the conformance tests judge it
            return function
        _check_signature(self.id, spec, signature)
        return function

    def _loaded(self, load: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        try:
            return load()
        except (Exception, SystemExit) as error:  # a plugin's function may raise anything
            raise PluginError(f"{self.id}: load failed: {type(error).__name__}: {error}") from error

    def prepare_function(self) -> Callable[[Any, tuple[str, ...]], Any] | None:
        """The `prepare` function, imported."""
        return resolve(self.prepare, self.id) if isinstance(self.prepare, str) else self.prepare


def resolve(path: str, owner: str) -> Callable[..., Any]:
    """`"module:function"` as the function."""
    module, _, name = path.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a plugin's import may raise anything
        raise PluginError(f"{owner}: cannot load {path!r}: {type(error).__name__}: {error}") from error
    return function


def _check_signature(kernel: str, spec: OpSpec, signature: inspect.Signature) -> None:
    """Callers give required inputs by position or by name, all else by name, and leave out what has a default."""
    wanted, given = spec.signature.parameters, signature.parameters
    kinds = {p.kind for p in given.values()}
    order = [n for n, p in given.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    required = [i.name for i in spec.positional]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        required = required[: len(order)]
    named = [n for n, p in given.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [] if inspect.Parameter.VAR_KEYWORD in kinds else [n for n in wanted if n not in named]
    defaults = [n for n in named if n in wanted and given[n].default != wanted[n].default]
    surplus = [
        n
        for n, p in given.items()
        if n not in wanted and p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if order[: len(required)] != required or missing or defaults or surplus:
        raise SignatureError(f"{kernel}: signature {signature} does not match {spec.name}{spec.signature}")
