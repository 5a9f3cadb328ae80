"""Whole models on what third parties bring: their backend talks, their kernel serves somebody else's backend, their
scheme holds the weights."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import available, backends
from tests.graph.tiny import CONFIG, Tensors, forward, tiny_config
from tinyllm.cli.session import describe
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.graph.bind import bind
from tinyllm.graph.packed_files import PackedFiles
from tinyllm.graph.program import Program
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import parse_selection
from tinyllm.spec.scheme import QuantWeight

Install = Callable[..., Registry]
IDS = [4, 11, 60, 2, 2, 35]
PRODUCTS = ("_proj.weight",)
EVERY_MATRIX = (*PRODUCTS, "embed_tokens", "lm_head")
WHOLE_GROUPS = tiny_config(hidden_size=80, head_dim=20, inner_size=120)
"""Sizes that ternary groups of 40 divide."""
QUICK_ON = [
    pytest.param(b, marks=pytest.mark.skipif(not available(b), reason=f"{b} is not here")) for b in ("numpy", "torch")
]


def bound(
    registry: Registry,
    backend: str,
    tensors: Tensors,
    config: DecoderConfig = CONFIG,
    files: PackedFiles | None = None,
) -> Program:
    """The tiny model on a backend of this registry."""
    graph = decoder(config, registry.specs)
    return bind(graph, registry, parse_selection(backend, "test"), tensors, files=files)


def tensors_of(registry: Registry, config: DecoderConfig = CONFIG, **settings: Any) -> Tensors:
    return Tensors(decoder(config, registry.specs).tensors(), **settings)


def logits(program: Program) -> np.ndarray:
    """Prefill of four tokens, then two decode steps; the logits of every position."""
    runner = ModelRunner(program, 1, 8)
    steps = [(IDS[:4], 0), (IDS[4:5], 4), (IDS[5:], 5)]
    return np.concatenate([runner.step(make_step([Chunk(ids, at, [0], len(ids))], 8)) for ids, at in steps])


def greedy(program: Program, count: int = 12) -> list[int]:
    """The prompt and the tokens that a greedy reply adds to it."""
    runner, ids, done = ModelRunner(program, 1, 32), list(IDS), 0
    for _ in range(count):
        row = runner.step(make_step([Chunk(ids[done:], done, [0])], 32))
        done = len(ids)
        ids.append(int(row[-1].argmax()))
    return ids


def check_model(program: Program, tensors: Tensors, config: DecoderConfig = CONFIG) -> None:
    """Logits and greedy tokens are those of the dequantized weights in float64."""
    np.testing.assert_allclose(logits(program), forward(config, tensors, IDS), atol=2e-4, rtol=0)
    ids = greedy(program)
    assert ids[len(IDS) :] == forward(config, tensors, ids)[len(IDS) - 1 : -1].argmax(axis=-1).tolist()


def kernels_of(program: Program, op: str) -> set[str]:
    return {kernel for kernel in program.report.kernels.values() if f"/{op}:" in kernel}


def test_a_backend_by_reference_runs_a_model(install: Install) -> None:
    """Without one kernel for a model's ops, tokens come out right."""
    tensors = tensors_of(install())
    program = bound(install("strict_backend"), "strict", tensors)
    assert all(
        kernel.startswith("strict/") and kernel.endswith(":reference") for kernel in program.report.kernels.values()
    )
    check_model(program, tensors)


@pytest.mark.parametrize("backend", QUICK_ON)
def test_a_strangers_kernel_serves_a_model(backend: str, install: Install) -> None:
    """All quantized products run on it, each weight packed by its own `prepare`, and the tokens are the same."""
    registry = install("quick_linear")
    tensors = tensors_of(registry, quantized=EVERY_MATRIX)
    program = bound(registry, backend, tensors)
    assert kernels_of(program, "linear") == {f"{backend}/linear:quick"}
    check_model(program, tensors)


def test_what_a_strangers_kernel_packs_is_kept_in_files(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bound again, nothing is packed and no tensor of a packed weight is read: the kernel gets arrays that are mapped.
    Another checkpoint is packed for itself."""
    registry, files = install("quick_linear"), PackedFiles(tmp_path / "packed")
    kernel = next(k for k in registry.kernels("numpy", "linear") if k.name == "quick")
    packed = spied_prepare(kernel)
    seen = spied_function(monkeypatch)

    def bind_again(identity: str) -> tuple[Tensors, Program]:
        tensors = tensors_of(registry, quantized=PRODUCTS)
        tensors.identity = identity
        return tensors, bound(registry, "numpy", tensors, files=files)

    tensors, program = bind_again("one")
    weights = {name for name in tensors.reads if name.endswith(PRODUCTS)}
    before, times = logits(program), len(packed)
    assert weights and times == len(list(files.folder.rglob("*.packed"))) > 0
    seen.clear()
    tensors, program = bind_again("one")
    assert len(packed) == times and not weights & set(tensors.reads)
    np.testing.assert_array_equal(logits(program), before)
    assert seen and all(is_mapped(array) for weight in seen for array in weight.values())
    bind_again("two")
    assert len(packed) == 2 * times


def spied_prepare(kernel: Kernel) -> list[Any]:
    """What the kernel's `prepare` gives from now on, and for which call."""
    prepare, made = kernel.prepare_function(), []
    assert prepare is not None

    def spy(weight: Any, call: Any) -> Any:
        packed = prepare(weight, call)
        made.append((packed, call))
        return packed

    object.__setattr__(kernel, "prepare", spy)
    return made


def spied_function(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The weights that the quick kernel for numpy gets from now on."""
    import quick_linear.numpy_kernel as module

    function, seen = module.linear, []

    @wraps(function)
    def spy(x: Any, weight: Any, *, bias: Any = None) -> Any:
        seen.append(weight)
        return function(x, weight, bias=bias)

    monkeypatch.setattr(sys.modules["quick_linear.numpy_kernel"], "linear", spy)
    return seen


def is_mapped(array: Any) -> bool:
    """Whether the numbers lie in a mapped file."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array.obj if isinstance(array, memoryview) else array, mmap.mmap)


@pytest.mark.parametrize("backend", backends())
def test_a_strangers_scheme_holds_a_models_weights(backend: str, install: Install) -> None:
    """It brings its object alone: products expand the weights, tables only the rows asked for. What that costs is
    reported, also by `--verbose`."""
    registry = install("ternary")
    scheme = registry.plugins.schemes["ternary"]
    tensors = tensors_of(registry, WHOLE_GROUPS, quantized=EVERY_MATRIX, scheme=scheme)
    program = bound(registry, backend, tensors, WHOLE_GROUPS)
    check_model(program, tensors, WHOLE_GROUPS)
    assert program.report.kernels["embedding"] == "*/embedding:rows"
    ((name, (before, after)),) = program.report.expanded.items()
    (product,) = kernels_of(program, "linear")
    assert name == f"ternary/40 on {product}" and product.startswith(f"{backend}/")
    weights = [w for n, w in tensors.arrays.items() if isinstance(w, QuantWeight) and "embed_tokens" not in n]
    assert before == sum(w.nbytes for w in weights) and after == sum(4 * int(np.prod(w.shape)) for w in weights)
    told = describe(SimpleNamespace(program=program, skipped_tensors=[]))
    assert f"schemes run as float matrices: 1\n  {name}: " in told


def test_a_strangers_kernel_for_a_strangers_scheme(install: Install) -> None:
    """It takes the weights as they are, so it comes before numpy's own, and nothing is expanded."""
    registry = install("ternary", "ternary_kernel")
    scheme = registry.plugins.schemes["ternary"]
    tensors = tensors_of(registry, WHOLE_GROUPS, quantized=EVERY_MATRIX, scheme=scheme)
    program = bound(registry, "numpy", tensors, WHOLE_GROUPS)
    assert kernels_of(program, "linear") == {"numpy/linear:signs"} and program.report.expanded == {}
    check_model(program, tensors, WHOLE_GROUPS)
