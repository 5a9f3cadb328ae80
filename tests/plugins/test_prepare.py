"""A kernel's `prepare` is called in one place, whoever uses the kernel."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench.conftest import small_machine as small_machine
from tests.conformance.fake_backend import fake_registry
from tests.graph.tiny import CONFIG, Tensors
from tinyllm.bench.ops import bench_ops
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.result import Outcome
from tinyllm.conformance.run import run
from tinyllm.graph.bind import bind
from tinyllm.models.decoder.decoder import decoder
from tinyllm.ops import make_ops
from tinyllm.plugins.kernel import ANY_SCHEME, DENSE, Kernel
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import parse_selection
from tinyllm.spec.quantized import dense

SOURCES = Path(inspect.getfile(Registry)).parents[1]
PLACE = "bound_kernel.py"


def linear(x: Any, weight: Any, *, bias: Any = None) -> Any:
    y = np.asarray(x, weight.dtype) @ weight.T
    return (y if bias is None else y + bias).astype(x.dtype)


def silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def registry_that_watches(callers: set[tuple[str, int]]) -> Registry:
    """A backend of numpy arrays whose kernels tell from where their `prepare` was called."""

    def prepare(weight: Any, call: Any) -> Any:
        frame = inspect.stack()[1]
        callers.add((Path(frame.filename).name, frame.lineno))
        wide = np.float64 if call.dtype("x") == "float64" else np.float32
        return np.asarray(dense(np, weight, wide), wide)

    return fake_registry(
        Kernel("fake", "linear", "mine", lambda: linear, prepare=prepare, schemes=(DENSE, ANY_SCHEME)),
        Kernel("fake", "silu", "mine", lambda: silu, prepare=prepare, prepares=("x",)),
    )


def by_single_calls(registry: Registry) -> None:
    """An op itself, and one that is composed of it."""
    ops, x = make_ops(registry), np.ones((3, 3), np.float32)
    ops["linear"](x, x, backend="fake")
    ops["mha"](x, x, x, k_proj=x, v_proj=x, num_heads=1, backend="fake")


def by_a_program(registry: Registry) -> None:
    graph = decoder(CONFIG, registry.specs)
    tensors = Tensors(graph.tensors(), quantized=("_proj.weight",))
    bind(graph, registry, parse_selection("fake", "test"), tensors)


def by_the_kit(registry: Registry) -> None:
    plan = Plan("fake", ops=("linear",), dtypes=("float32",))
    checks = [check for check in collect(registry, plan) if check.case.startswith("2x32,N3,affine4/32")]
    assert {result.outcome for result in run(registry, plan, checks)} == {Outcome.PASS}


def by_the_bench(registry: Registry) -> None:
    bench_ops(registry, ("fake",), ("silu",), 1, lambda text: None)


@pytest.mark.usefixtures("small_machine")
def test_prepare_is_called_from_one_place() -> None:
    callers: dict[str, set[tuple[str, int]]] = {}
    for use in (by_single_calls, by_a_program, by_the_kit, by_the_bench):
        use(registry_that_watches(callers.setdefault(use.__name__, set())))
    ((place, _),) = callers["by_single_calls"]
    assert place == PLACE
    assert callers == dict.fromkeys(callers, callers["by_single_calls"])


def test_the_source_has_one_call() -> None:
    """One module asks for a kernel's `prepare`, and calls it once; nobody calls the field of the kernel by itself."""
    asked, called = [], []
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "prepare_function":
                asked.append(path.name)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called += [path.name] if node.func.attr in ("prepare", "_prepare") else []
    assert asked == called == [PLACE]
