"""Weights of 16 bits are held and multiplied as they are stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tests.graph.test_program import IDS, TOLERANCE, logits, made, program
from tests.graph.tiny import CONFIG, forward
from tinyllm.graph.program import Program
from tinyllm.spec.dtypes import numpy_dtype

pytest.importorskip("tinyllm_native.link")
if not registry().probe("native").available:
    pytest.skip("no native library", allow_module_level=True)


def _held(bound: Program) -> dict[str, int]:
    """Bytes of packed matrices by dtype; a form that several nodes read counts once."""
    packed = {id(value): value for value in bound._template if isinstance(value, dict) and "codes" in value}
    found: dict[str, int] = {}
    for value in packed.values():
        codes = value["codes"]
        found[codes.dtype.name] = found.get(codes.dtype.name, 0) + codes.nbytes
    return found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True], ids=["head", "tied"])
def test_a_checkpoint_of_16_bits_takes_no_more_than_its_bytes(dtype: str, tied: bool) -> None:
    """And computes what its numbers give, to float32's rounding; on other backends it becomes float32."""
    config = replace(CONFIG, tie_word_embeddings=tied)
    tensors = made(config)
    tensors.arrays = {name: value.astype(numpy_dtype(dtype)) for name, value in tensors.arrays.items()}
    bound = program("native", config, tensors)
    np.testing.assert_allclose(logits(bound, IDS, [4]), forward(config, tensors, IDS), atol=TOLERANCE, rtol=0)
    assert [step.op for step in bound.steps] == ["run"]
    matrices = sum(value.nbytes for value in tensors.arrays.values() if value.ndim > 1)
    held = _held(bound)
    assert held.keys() == {dtype} and matrices <= held[dtype] <= 1.1 * matrices
    assert not _held(program("numpy", config, tensors))
