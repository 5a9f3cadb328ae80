"""The process as it was, after kernels that change it."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from tests.conformance.zoo.state import KEPT


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever mutants change of the whole process is set back, and what they keep is thrown away."""
    environment, numpys, pythons, errors = dict(os.environ), np.random.get_state(), random.getstate(), np.geterr()
    threads, dtype, torchs = torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state()
    grad = torch.is_grad_enabled()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        np.random.set_state(numpys)
        random.setstate(pythons)
        np.seterr(**errors)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_rng_state(torchs)
        torch.set_grad_enabled(grad)
        torch.set_flush_denormal(False)
        KEPT.clear()
