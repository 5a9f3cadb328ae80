"""What a plugin provides: a backend, which is a library on a device, and may make one call of a run of bound nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import SPEC_VERSION
from tinyllm.spec.scheme import QuantWeight
from tinyllm.spec.types import ArrayType, Call


@dataclass(frozen=True)
class Probe:
    """What a look at the machine found, without importing an array library. `reason` says why not, or what is there.

    score: the best available backend with the highest score is used when nobody chose one.
    devices: the names behind `name:device`, the default first.
    """

    available: bool
    reason: str
    score: int = 0
    devices: tuple[str, ...] = ("cpu",)


@dataclass(frozen=True)
class BackendPlugin:
    """A backend as it is registered.

    Args:
        name: what users select, `torch`.
        probe: cheap, imports no array library.
        load: gives the `Backend` for a device name (None: the default device).
        array_types: full names of the library's array class (`torch.Tensor`), so that native arrays find their backend.
        install: what a user runs to get the library.
        spec_version: the `SPEC_VERSION` this backend was written for; state the number.
        join: `"module:function"`, which gives a `Network` for (rank, ranks, patience in seconds) in a process that
            `torchrun` started; empty: the library knows none.
    """

    name: str
    probe: Callable[[], Probe]
    load: Callable[[str | None], Backend]
    array_types: tuple[str, ...] = ()
    install: str = ""
    spec_version: int = SPEC_VERSION
    join: str = ""


@dataclass(frozen=True)
class BoundNode:
    """A node of a bound program: `function(*sources) -> targets`, sources and targets being numbers of values.

    kernel: its id, `mlx/linear:scratch`. several: the function gives a tuple, a part for each target.
    call: the call that it was bound for, sizes that change from step to step by their names; None: a copy between
    backends. asked: the same as the model makes it, its weights as the checkpoint holds them. inputs, outputs: what the
    op calls each source and target. types: of the targets.
    """

    op: str
    name: str
    kernel: str
    backend: Backend
    function: Callable[..., Any]
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    several: bool = False
    call: Call | None = None
    asked: Call | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    types: tuple[ArrayType, ...] = ()


@dataclass(frozen=True)
class Run:
    """Neighbouring nodes of one backend, all traceable. Calling it runs them one after the other.

    inputs: numbers of the arrays that it is called with, weights included. outputs: those that it gives, as a tuple.
    constants: by number the packed weights that are no arrays. No Python value that changes between steps is in it.
    """

    nodes: tuple[BoundNode, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: Mapping[int, Any]

    def __call__(self, *arrays: Any, around: Callable[[BoundNode, list[Any]], Any] | None = None) -> tuple[Any, ...]:
        """around: runs a node on its arrays in the place of `node.function`."""
        values = dict(zip(self.inputs, arrays, strict=True)) | dict(self.constants)
        for node in self.nodes:
            given = [values[source] for source in node.sources]
            result = around(node, given) if around else node.function(*given)
            values.update(zip(node.targets, result if node.several else (result,), strict=True))
        return tuple(values[number] for number in self.outputs)


class Backend(ABC):
    """An array library on a device. Everything but the abstract methods has a default that is right, if slow."""

    name: str
    device: str = "cpu"
    dtypes: frozenset[str] = frozenset({"float32"})
    compute_dtype: str = "float32"
    """The dtype that activations of a model have by default on this device."""
    xp: Any = None
    """The array namespace that references run on (see `reference_profile`); None: this backend has a kernel for every
    op."""

    by_reference: bool = False
    """Calls that none of its kernels take run by the op's reference on `xp`, where they are otherwise refused."""

    heads_first: bool = False
    """Pages of a cache `[P, H, page, D]` lie in memory head by head, so that a run of neighbouring pages is read in
    place. For libraries whose arrays are views that are written through; they get such pages by `from_numpy`."""

    reads_pages: bool = False
    """Its `paged_attention` reads pages wherever they lie, and gathers none."""

    fast_kv_cache_dtype: str = ""
    """The dtype that keys and values are kept in where rounding is allowed (`--fast`) and nobody said one, so that
    attention reads less; empty: that of the model."""

    @abstractmethod
    def from_numpy(self, array: np.ndarray) -> Any:
        """A native array of the same shape and dtype; may share memory. bfloat16 comes as `ml_dtypes.bfloat16`."""

    @abstractmethod
    def to_numpy(self, array: Any) -> np.ndarray:
        """A read-only view or a copy, computed and ready; bfloat16 as `ml_dtypes.bfloat16`."""

    @abstractmethod
    def dtype_name(self, array: Any) -> str:
        """The dtype of a native array, as numpy names it."""

    def device_of(self, array: Any) -> str:
        """Where a native array lies; this backend's device where the library does not tell."""
        return self.device

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A native array of zeros, owned by the caller alone."""
        return self.from_numpy(np.zeros(shape, numpy_dtype(dtype)))

    def astype(self, array: Any, dtype: str) -> Any:
        """The same numbers in another dtype."""
        return self.from_numpy(self.to_numpy(array).astype(numpy_dtype(dtype)))

    def synchronize(self, *arrays: Any) -> None:  # noqa: B027  a default: nothing to wait for
        """Return when the arrays are computed."""

    def link(self, run: Run) -> Callable[..., tuple[Any, ...]] | None:
        """One call for a run of a program's nodes, taking and giving what the run itself does; None where nothing is
        gained by it. A library that compiles gives the compiled run.

        It may have a method `timed`, which gives what the call gives and the seconds of each node; otherwise whoever
        observes a program sees the nodes run one by one."""
        return None

    def check_process(self) -> None:  # noqa: B027  a default: it computes in any process
        """Called before anything is computed. Raises `BackendUnavailableError` in a process where the library would
        hang, such as one that was forked from another where it computed (see `ForkGuard`)."""

    def memory(self) -> Mapping[str, int]:
        """Bytes by name (`active`, `peak`) as far as the library counts them."""
        return {}

    def process_state(self) -> Mapping[str, Any]:
        """What of the library belongs to the whole process and no call may change, by name: random generators, numbers
        of threads, default dtypes. Values are compared by `==`."""
        return {}

    def about(self) -> Mapping[str, str]:
        """Versions and what was found, for `tinyllm doctor`."""
        return {}

    def step_context(self) -> AbstractContextManager[Any]:
        """What binding and each step of a bound program run in (an inference mode, a stream)."""
        return nullcontext()

    call_context: Callable[[], AbstractContextManager[Any]] | None = None
    """What a single op call runs in, where the library would otherwise take another device than this backend's."""


def each_array(function: Callable[[Any], Any], value: Any) -> Any:
    """A value with a function applied to its arrays: to itself, to those of a `QuantWeight`, to the parts of a tuple;
    None stays None."""
    if isinstance(value, tuple):
        return tuple(each_array(function, part) for part in value)
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: function(array) for name, array in value.arrays.items()})
    return None if value is None else function(value)


def on_host(backend: Backend, value: Any) -> Any:
    """An array or a `QuantWeight` with numpy arrays in the place of the backend's."""
    return each_array(lambda a: a if isinstance(a, (np.ndarray, np.generic)) else backend.to_numpy(a), value)
