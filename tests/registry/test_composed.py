"""Ops that are composed of others: which of their kernels run, and that the result is the reference's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, chosen, example, registry, with_kernels
from tests.registry.fakes import BoxBackend, RedBox, backend_plugin, module
from tests.registry.fakes import registry as plugged
from tinyllm import Affine
from tinyllm.conformance.judge import judge
from tinyllm.errors import UnknownNameError
from tinyllm.ops import make_ops
from tinyllm.plugins.kernel import Kernel
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call

X = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("case", ["gqa,H4,Hkv2", "all-projections,affine4/32"])
def test_a_composed_op_agrees_with_its_reference(case: str, name: str) -> None:
    """Within the bounds of the conformance kit, which holds it to all other cases."""
    tested = example("mha", case, "float32")
    subject = chosen(tested, registry().backend(name))
    assert subject.id == f"{name}/mha:composed"
    assert not judge(tested, subject(tested)).message


def test_a_composed_op_runs_by_the_backends_kernels() -> None:
    """Also by one that somebody added: each of the four projections."""
    seen: list[Any] = []

    def linear(x: np.ndarray, weight: np.ndarray, *, bias: Any = None) -> np.ndarray:
        seen.append(weight)
        return np.asarray(x @ weight.T)

    kernel = Kernel("numpy", "linear", "added", lambda: linear, priority=99)
    x, square = X[:, :8], np.eye(8, dtype=np.float32)
    layer = {"k_proj": square, "v_proj": square, "num_heads": 2}
    y = make_ops(with_kernels(kernel))["mha"](x, square, square, **layer, backend="numpy")
    assert len(seen) == 4
    np.testing.assert_allclose(y, make_ops(registry())["mha"](x, square, square, **layer, backend="numpy"), rtol=1e-5)


@pytest.mark.parametrize(
    ("pin", "ran"), [("", "own"), ("red/mha=composed", "composed"), ("red/mha=reference", "reference")]
)
def test_composition_and_reference_can_be_pinned(pin: str, ran: str) -> None:
    """Also where the backend has a kernel of its own, which goes first otherwise."""

    def layer(query: Any, q_proj: Any, o_proj: Any, **more: Any) -> Any: ...

    class Numpy(BoxBackend):
        def __init__(self) -> None:
            super().__init__("red", RedBox)
            self.xp = np

    plugin = replace(backend_plugin("red"), load=lambda device: Numpy())
    kernel = Kernel("red", "mha", "own", lambda: layer)
    asked = plugged(module("red", backends=[plugin], kernels=[kernel]), settings={"kernels": pin})
    types = {"query": ArrayType((3, 8), "float32")} | {f"{n}_proj": ArrayType((8, 8), "float32") for n in "qkvo"}
    call = check_call(asked.spec("mha"), types, {"num_heads": 2})
    choice = asked.choose(call, asked.backend("red"))
    assert (choice.id, choice.by) == (f"red/mha:{ran}", ran if pin else "kernel")


def test_an_op_without_composition_cannot_be_pinned_to_it() -> None:
    asked = plugged(settings={"kernels": "numpy/silu=composed"})
    with pytest.raises(UnknownNameError, match="silu: backend 'numpy' has no kernel 'composed'"):
        make_ops(asked)["silu"](X, backend="numpy")


@pytest.mark.parametrize("by", ["composed", "reference"])
def test_what_is_pinned_gives_the_same(by: str) -> None:
    pinned = make_ops(with_kernels(kernels=f"numpy/mha={by}"))["mha"]
    square = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32) / 8
    weight = Affine(4, 32).draw(np.random.default_rng(3), (64, 64))
    layer = {"k_proj": square, "v_proj": weight, "num_heads": 2, "causal": True}
    plain = make_ops(registry())["mha"](X, square, square, **layer, backend="numpy")
    np.testing.assert_allclose(pinned(X, square, square, **layer, backend="numpy"), plain, rtol=1e-4, atol=1e-5)
