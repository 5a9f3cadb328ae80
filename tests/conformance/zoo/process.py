"""What a call leaves behind it in its process and in its threads: generators, settings, the environment."""

from __future__ import annotations

import os
import random
import threading
import warnings
from typing import Any

import numpy as np
import torch

from tests.conformance.zoo.mutant import Mutant, wide
from tests.conformance.zoo.state import KEPT

OWN = threading.local()


def silu(x: Any, *, mistake: str | None = None) -> Any:
    if mistake == "warnings off":
        warnings.simplefilter("ignore")
    if mistake == "floating-point errors ignored":
        np.seterr(all="ignore")
    if mistake == "an environment variable of another library":
        os.environ["OMP_NUM_THREADS"] = "1"
    if mistake == "Python's generator seeded":
        random.seed(0)
    if mistake == "set up in the first thread alone":
        if "silu" not in KEPT:
            KEPT["silu"] = OWN.ready = True
        assert OWN.ready
    values = wide(x)
    return np.asarray(values / (1 + np.exp(-values))).astype(x.dtype)


def torch_silu(x: Any, *, mistake: str | None = None) -> Any:
    if mistake == "subnormal numbers flushed from now on":
        torch.set_flush_denormal(True)
    if mistake == "its dtype made the default":
        torch.set_default_dtype(x.dtype)
    if mistake == "torch seeded":
        torch.manual_seed(0)
    if mistake == "number of threads taken from the size" and x.numel() > 1:
        torch.set_num_threads(1 if x.numel() < 16 else 2)
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.nn.functional.silu(values).to(x.dtype)


MUTANTS = (
    Mutant(
        "set up in the first thread alone",
        "silu",
        "What each thread needs is made once, in the thread that came first.",
        silu,
        caught_by="threads",
    ),
    Mutant("warnings off", "silu", "simplefilter('ignore') because exp overflows.", silu, caught_by="process"),
    Mutant("floating-point errors ignored", "silu", "np.seterr for np.errstate.", silu, caught_by="process"),
    Mutant(
        "an environment variable of another library",
        "silu",
        "Threads are limited by the environment, for all that comes after.",
        silu,
        caught_by="process",
    ),
    Mutant("Python's generator seeded", "silu", "random.seed inside.", silu, caught_by="process"),
    Mutant(
        "subnormal numbers flushed from now on",
        "silu",
        "Faster, and not undone.",
        torch_silu,
        library="torch",
        caught_by="process",
    ),
    Mutant(
        "its dtype made the default",
        "silu",
        "So that constants have it: seen only in another dtype than float32.",
        torch_silu,
        "full",
        library="torch",
        caught_by="process",
    ),
    Mutant("torch seeded", "silu", "manual_seed inside.", torch_silu, library="torch", caught_by="process"),
    Mutant(
        "number of threads taken from the size",
        "silu",
        "One for small arrays, two for larger ones, and never set back.",
        torch_silu,
        library="torch",
        caught_by="process",
    ),
)
