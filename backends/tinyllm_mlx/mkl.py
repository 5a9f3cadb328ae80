"""Gives MLX on Linux a fast matrix product.

PyPI's MLX for Linux carries a reference BLAS (3 GFLOP/s), but takes `cblas_sgemm` from the global scope of the process.
Intel's MKL, loaded there before MLX, does the work instead, about 60 times faster.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path


def find() -> Path | None:
    """The `libmkl_rt` that the `mkl` package of PyPI or conda brought, if any."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    try:
        files = metadata.files("mkl") or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(f.locate())).resolve() for f in files if f.name.startswith("libmkl_rt.so")]
    found += sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
    return next((path for path in found if path.is_file()), None)


@cache
def preload() -> str:
    """Load MKL for all to see, once; what was done, in words. Has to come before the first import of `mlx.core`."""
    path = find()
    if path is None:
        return "not found: matrix products are slow; pip install mkl" if sys.platform == "linux" else "not needed"
    if "mlx.core" in sys.modules:
        return "found, but mlx was imported before the backend was loaded: matrix products are slow"
    try:
        # Nothing is set: MKL honours MKL_NUM_THREADS, and takes torch's OpenMP where that is loaded first. Setting its
        # layer to Intel's OpenMP beside torch's gives wrong products.
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"found, but cannot be loaded: {error}"
    return f"{path.name} of the package mkl"


def threads() -> str:
    """How many threads MKL uses. Asking makes it choose its threading, which is best left to the first product."""
    path = find()
    return str(ctypes.CDLL(str(path)).MKL_Get_Max_Threads()) if path else "none"


def leave_cores(cores: int) -> None:
    """What MKL leaves free in products that start from now on, wherever they come from."""
    found = _thread_settings()
    if found is not None:
        most, choose = found
        choose(max(1, most - cores))


@cache
def _thread_settings() -> tuple[int, Callable[[int], None]] | None:
    """How many threads MKL takes by itself, and how to choose another number."""
    path = find()
    library = ctypes.CDLL(str(path)) if path else None
    return (library.MKL_Get_Max_Threads(), library.MKL_Set_Num_Threads) if library else None
