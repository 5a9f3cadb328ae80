"""What a plugin provides: a backend (a library on a device) and its kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm.plugins.link import Run
from tinyllm.spec.op_spec import SPEC_VERSION


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
    """

    name: str
    probe: Callable[[], Probe]
    load: Callable[[str | None], Backend]
    array_types: tuple[str, ...] = ()
    install: str = ""
    spec_version: int = SPEC_VERSION


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

    heads_first: bool = False
    """Pages of a cache `[P, H, page, D]` lie in memory head by head, so that a run of neighbouring pages is read in
    place. For libraries whose arrays are views that are written through; they get such pages by `from_numpy`."""

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
        import ml_dtypes

        return self.from_numpy(np.zeros(shape, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))

    def astype(self, array: Any, dtype: str) -> Any:
        """The same numbers in another dtype."""
        import ml_dtypes

        return self.from_numpy(self.to_numpy(array).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))

    def synchronize(self, *arrays: Any) -> None:  # noqa: B027  a default: nothing to wait for
        """Return when the arrays are computed."""

    def link(self, run: Run) -> Callable[..., tuple[Any, ...]] | None:
        """One call for a run of a program's nodes, taking and giving what the run itself does; None where nothing is
        gained by it. A library that compiles gives the compiled run."""
        return None

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
