"""What the op tests share: inputs of a case in a dtype, the float64 oracle, calls of kernels on native arrays."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tinyllm.backend import Backend, Kernel
from tinyllm.config import read_settings
from tinyllm.quant_weight import QuantWeight
from tinyllm.reference import reference_function
from tinyllm.registry import Registry
from tinyllm.spec import REQUIRED, ArrayType, Call, Case, Draw, OpSpec
from tinyllm.validation import check_call, quant_type

BACKENDS = ("numpy", "torch", "mlx")
DTYPES = ("float32", "bfloat16", "float16", "float64")
TIERS = ("smoke", "full")
NUMPY_DTYPES: Mapping[str, Any] = {"bfloat16": ml_dtypes.bfloat16}


@cache
def registry() -> Registry:
    """All installed plugins, with default settings."""
    return Registry(settings=read_settings(folder=Path("/nonexistent"), environ={"XDG_CONFIG_HOME": "/nonexistent"}))


def available(name: str) -> bool:
    """Whether a backend can run here."""
    return name in registry().plugins.backends and registry().probe(name).available


def backends() -> list[str]:
    """Our backends that can run here."""
    return [name for name in BACKENDS if available(name)]


def numpy_dtype(name: str) -> Any:
    """The numpy dtype behind a name."""
    return np.dtype(NUMPY_DTYPES.get(name, name))


def dtypes_of(spec: OpSpec) -> tuple[str, ...]:
    """The dtypes to test: one, where nothing in the op depends on it."""
    typed = any(i.kind in ("T", "weight") for i in spec.inputs) or any(o.dtype.startswith("=") for o in spec.outputs)
    return DTYPES if typed else DTYPES[:1]


def cases_of(spec: OpSpec, *tiers: str) -> list[Case]:
    """Cases of some tiers (smoke and full)."""
    return [case for case in spec.cases if case.tier in (tiers or TIERS)]


def _rounded(value: Any, kind: str, dtype: str) -> Any:
    """A drawn value as a test gives it: inputs of kind T and masks in the test's dtype, other floats in float32 or better."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return value
    return value.astype(numpy_dtype("float32" if kind == "float" and dtype != "float64" else dtype))


def draw(spec: OpSpec, case_id: str, inputs: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Inputs as numpy arrays and `QuantWeight`s, the same at each run: the seed is made of the op's and the case's names."""
    rng = np.random.default_rng(zlib.crc32(f"{spec.name}/{case_id}".encode()))
    kinds = {i.name: i.kind for i in spec.inputs}
    made = {name: given.make(rng) if isinstance(given, Draw) else given for name, given in inputs.items()}
    return {name: _rounded(value, kinds.get(name, ""), dtype) for name, value in made.items()}


def widen(value: Any) -> Any:
    """Floats as float64."""
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: widen(array) for name, array in value.arrays.items()})
    return value.astype(np.float64) if isinstance(value, np.ndarray) and str(value.dtype).startswith(("float", "bfloat")) else value


def copied(value: Any) -> Any:
    """A copy that a kernel cannot mistake for the original."""
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: array.copy() for name, array in value.arrays.items()})
    return value.copy() if isinstance(value, np.ndarray) else value


@dataclass
class Example:
    """A case in a dtype: its inputs, and what the float64 reference says."""

    spec: OpSpec
    case: Case
    dtype: str
    inputs: dict[str, Any]
    attributes: dict[str, Any]

    @cached_property
    def call(self) -> Call:
        """The call as validation sees it."""
        types = {n: quant_type(v) if isinstance(v, QuantWeight) else ArrayType(v.shape, str(v.dtype)) for n, v in self.inputs.items()}
        return check_call(self.spec, types, self.attributes)

    @cached_property
    def _wide(self) -> dict[str, Any]:
        return {name: widen(value) for name, value in self.inputs.items()}

    @cached_property
    def expected(self) -> tuple[Any, ...]:
        """What the reference gives in float64, run by numpy."""
        with np.errstate(all="ignore"):
            result = self.spec.reference(np, *self.positional(self._wide), **self.keyword(self._wide))
        return result if isinstance(result, tuple) else (result,)

    @cached_property
    def scales(self) -> tuple[Any, ...]:
        """Per output the size that rounding errors are relative to; None: its own."""
        return self._sizes(self.spec.scale)

    @cached_property
    def inner_scales(self) -> tuple[Any, ...]:
        """Per output the size that errors of the inner dtype are relative to; None: there are none of note."""
        return self._sizes(self.spec.inner_scale)

    def _sizes(self, model: Callable[..., Any] | None) -> tuple[Any, ...]:
        if model is None:
            return (None,) * len(self.expected)
        defaults = {a.name: a.default for a in self.spec.attributes if a.default is not REQUIRED}
        with np.errstate(all="ignore"):
            sizes = model(self._wide, defaults | self.attributes, self.expected if len(self.expected) > 1 else self.expected[0])
        return sizes if isinstance(sizes, tuple) else (sizes,) * len(self.expected)

    @property
    def inner_dtype(self) -> str:
        """What kernels must compute in at least."""
        return "float64" if any(str(getattr(v, "dtype", "")) == "float64" for v in self.inputs.values()) else "float32"

    def positional(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Inputs as a kernel takes them by position."""
        return [inputs[i.name] for i in self.spec.positional]

    def keyword(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs and attributes as a kernel takes them by name."""
        return {i.name: inputs[i.name] for i in self.spec.keyword if i.name in inputs} | self.attributes

    def native(self, backend: Backend) -> dict[str, Any]:
        """Copies of the inputs as native arrays; host inputs stay numpy."""
        host = {i.name for i in self.spec.inputs if i.host}
        return {n: copied(v) if n in host else to_native(backend, copied(v)) for n, v in self.inputs.items()}


def bound(call: Call, backend: Backend) -> Call:
    """The call as a program makes it, where packing a weight is paid once."""
    return replace(call, device=backend.device, bound=True)


@cache
def example(op: str, case_id: str, dtype: str) -> Example:
    """A case by name, made once for all backends."""
    spec = registry().spec(op)
    case = next(c for c in spec.cases if c.id == case_id)
    attributes = dict(case.attributes)
    for output in spec.outputs:  # an output dtype that the caller chooses is the test's dtype
        if output.dtype.startswith("="):
            attributes.setdefault(output.dtype[1:], dtype)
    return Example(spec, case, dtype, draw(spec, case.id, case.inputs, dtype), attributes)


def to_native(backend: Backend, value: Any) -> Any:
    """numpy to native; anything else (a word where an array should be) as it is."""
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: backend.from_numpy(array) for name, array in value.arrays.items()})
    return backend.from_numpy(value) if isinstance(value, np.ndarray) else value


def to_numpy(backend: Backend, value: Any) -> Any:
    """Native to numpy, host arrays as they are."""
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: to_numpy(backend, array) for name, array in value.arrays.items()})
    return value if isinstance(value, np.ndarray) else backend.to_numpy(value)


def implementations(backend: str, op: str) -> Iterator[tuple[str, Kernel | None]]:
    """Every kernel of a backend for an op by name, and the reference on numpy."""
    for kernel in registry().kernels(backend, op):
        yield kernel.name, kernel
    if backend == "numpy":
        yield "reference", None


def runner(backend: Backend, kernel: Kernel | None, spec: OpSpec) -> tuple[Callable[..., Any], Callable[[dict[str, Any]], dict[str, Any]]]:
    """The function of a kernel (None: the reference), and what packs its prepared inputs first."""
    function = kernel.function(spec) if kernel else reference_function(spec, backend)
    prepare = kernel.prepare_function() if kernel else None

    def pack(inputs: dict[str, Any]) -> dict[str, Any]:
        if kernel is None or prepare is None:
            return inputs
        return {n: prepare(v, (f"{spec.name}.{n}",)) if n in kernel.prepares else v for n, v in inputs.items()}

    return function, pack


def run(example: Example, backend: Backend, kernel: Kernel | None, inputs: dict[str, Any]) -> tuple[Any, ...]:
    """Outputs as numpy arrays of one kernel on native inputs."""
    function, pack = runner(backend, kernel, example.spec)
    packed = pack(inputs)
    with np.errstate(all="ignore"):
        result = function(*example.positional(packed), **example.keyword(packed))
    results = result if isinstance(result, tuple) else (result,)
    return tuple(to_numpy(backend, r) for r in results)
