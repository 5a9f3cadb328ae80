"""The limits of this machine, measured once and kept in the cache folder: a file for each backend and kind of weight.

What was measured holds for the processor, the number of threads and the versions that its file names; where one of them
is another now, or the file cannot be read, it is measured anew.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm import __version__
from tinyllm.bench.limits import Gauge, Limits
from tinyllm.conformance.reports.machine import THREAD_VARIABLES, machine
from tinyllm.errors import CacheWarning
from tinyllm.models.download.sources import cache_folder
from tinyllm.registry.registry import Registry
from tinyllm.spec.scheme import Scheme

READ = (2**26, 2**28)
"""The least and the most bytes of a weight that is read: what is larger is read as fast as the largest."""
ROUNDS = 4
"""How often it is measured; the best counts, as other programs lower no limit."""

Numbers = dict[str, float]


def kept_limits(
    registry: Registry,
    backend: str,
    scheme: Scheme | None = None,
    nbytes: int = READ[1],
    *,
    anew: bool = False,
    on_step: Callable[[str], None] = lambda what: None,
) -> Limits:
    """What products with weights of a kind reach at most on a backend: GB/s of the weight as the scheme holds it, read
    from memory by one row, and GFLOP/s of as many rows as it has.

    Args:
        backend: `name` or `name:device`. It is loaded only where there is something to measure.
        scheme: of the weights; None: float32, and so what ops without weights are held against.
        nbytes: of all weights of the model, which a step reads one after the other: caches hold a part of a small one.
        anew: measure in any case. on_step: told what is measured, before that is done.

    Raises:
        TinyllmError: its products are wrong. UnknownNameError, BackendUnavailableError, UnsupportedError: as the
            registry's.
    """
    read = 1 << (min(max(nbytes, READ[0]), READ[1]) - 1).bit_length()
    kind = f"{scheme or 'float32'} {read >> 20} MiB"

    def measure() -> Numbers:
        from tinyllm.bench.ops import product

        on_step(f"{backend}: measuring this machine's limits: {kind}")
        loaded = registry.backend(backend)
        with loaded.step_context(), np.errstate(all="ignore"):
            gauge = Gauge(loaded, partial(product, registry, loaded), read // 2, scheme)
            return asdict([gauge.measure() for _ in range(ROUNDS)][-1])

    return Limits(**kept_numbers(registry, backend, kind, {"gb_s", "gflop_s"}, measure, anew))


def limits_folder() -> Path:
    """Where they are kept, in the cache folder."""
    return cache_folder() / "limits"


def kept_numbers(
    registry: Registry, backend: str, kind: str, names: set[str], measure: Callable[[], Numbers], anew: bool = False
) -> Numbers:
    """What `measure` gave on this machine: numbers of these names, from the file where it keeps them.

    kind: what is measured; with the backend it names the file.
    """
    name = "".join(c if c.isalnum() or c in "._" else "-" for c in f"{backend}-{kind}")
    path, conditions = limits_folder() / f"{name}.json", _conditions(registry, backend)
    found = None if anew else _read(path, conditions, names)
    if found is None:
        found = measure()
        try:
            _write(path, {"conditions": conditions, "numbers": found})
        except OSError as error:
            told = f"{path}: cannot be kept, and is measured again the next time: {error.strerror or error}"
            warnings.warn(told, CacheWarning, stacklevel=2)
    return found


def _conditions(registry: Registry, backend: str) -> dict[str, Any]:
    """What numbers hold for: the machine, the threads and the versions. No backend is loaded for it."""
    name = backend.partition(":")[0]
    variables = (*THREAD_VARIABLES, f"TINYLLM_{name.upper()}_THREADS")
    return machine() | {
        "threads": {variable: os.environ[variable] for variable in variables if variable in os.environ},
        "tinyllm": __version__,
        "numpy": np.__version__,
        "backend": registry.probe(name).reason,
        "settings": {name: registry.settings[name].value for name in ("fast", "kernels")},
    }


def _read(path: Path, conditions: Mapping[str, Any], names: set[str]) -> Numbers | None:
    """The numbers in a file; None where there are none that hold."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("conditions") != conditions:
        return None
    numbers = document.get("numbers")
    whole = isinstance(numbers, dict) and numbers.keys() == names and all(_is_measured(n) for n in numbers.values())
    return numbers if whole else None


def _is_measured(number: Any) -> bool:
    return isinstance(number, float) and number > 0


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Put in place in one step, so that no half file is ever seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".limits-", delete=False, encoding="utf-8") as file:
        json.dump(document, file, indent=2)
    os.replace(file.name, path)
