"""docs/plugins.md is true: its examples hold on every backend, and it tells all that the contract has."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_group

from tests.catalogue.harness import available
from tinyllm import plugins
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.result import Outcome, Result
from tinyllm.conformance.run import run
from tinyllm.ops import make_ops
from tinyllm.plugins import hookspecs
from tinyllm.plugins.kernel import resolve
from tinyllm.plugins.load import load_plugins
from tinyllm.registry.registry import Registry

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```python file=(\w+)\.py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(not available(name), reason=f"{name} is not here"))
    for name in ("numpy", "torch", "mlx")
]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """All that is installed, and the examples of the page as plugins."""
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    loaded = load_plugins(CATALOGUE, extra=[importlib.import_module(name) for name in EXAMPLES])
    assert not {*EXAMPLES} & loaded.broken.keys(), loaded.broken
    yield Registry(loaded)
    for name in EXAMPLES:
        del sys.modules[name]


def results(registry: Registry, backend: str, word: str, *ops: str) -> list[Result]:
    """What the kit finds on a backend for some ops, in the checks whose ids have a word."""
    plan = Plan(backend, ops=ops)
    return list(run(registry, plan, [check for check in collect(registry, plan) if word in check.id]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_scheme_holds(registry: Registry, backend: str) -> None:
    """In every op that takes or makes weights, on kernels that do not know it; by the kernel that does, as it is."""
    found = results(registry, backend, "sign", "linear", "embedding", "mha", "quantize")
    assert {r.op for r in found} == {"linear", "embedding", "mha", "quantize"}
    assert [(r.id, r.message) for r in found if r.outcome is not Outcome.PASS] == []
    assert {r.how for r in found if r.kernel == "signs" and not r.aspect} == {"kernel"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_composed_op_holds(registry: Registry, backend: str) -> None:
    found = [r for r in results(registry, backend, "glu", "glu") if r.kernel]
    assert {(r.kernel, r.outcome) for r in found} == {("composed", Outcome.PASS)}


def test_weights_of_the_scheme_are_used_as_the_page_says(registry: Registry) -> None:
    """Of numbers of one size and any sign they hold every bit."""
    scheme, ops = registry.plugins.schemes["sign"], make_ops(registry)
    w = np.where(np.random.default_rng(0).random((3, 64)) < 0.5, np.float32(-0.5), np.float32(0.5))
    weight = ops["quantize"](w, scheme=scheme, backend="numpy")
    x = np.ones((2, 64), np.float32)
    np.testing.assert_array_equal(ops["linear"](x, weight, backend="numpy"), x @ w.T)
    assert weight.nbytes == scheme.bits_per_weight * w.size / 8 + 2 * 3 * 64 // 32  # scales of float32, not of float16


def test_the_scheme_is_as_short_as_promised() -> None:
    assert sum(bool(line.strip()) for line in EXAMPLES["sign_scheme"].splitlines()) <= 30


def test_the_command_of_the_page_runs(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    """As the page says it is called."""
    command = registry.plugins.commands["greeting"]
    get_group(resolve(command.load, "the page")).main(["hello", "Ada"], standalone_mode=False)
    assert capsys.readouterr().out == "Hello, Ada.\n" and "tinyllm greeting hello Ada" in PAGE


def test_the_page_tells_the_whole_contract() -> None:
    """Every hook, every field of what a plugin makes, every member of its classes, every name that it imports."""
    words = {*re.findall(r"\w+", PAGE)}
    hooks = [name for name, _ in inspect.getmembers(hookspecs, inspect.isfunction) if name.startswith("tinyllm_")]
    made = (
        plugins.BackendPlugin,
        plugins.Probe,
        plugins.Kernel,
        plugins.Family,
        plugins.Oracle,
        plugins.Part,
        plugins.Command,
        plugins.BoundNode,
        plugins.Run,
    )
    told = [field.name for kind in (*made, plugins.Widened, plugins.ExpectedFailure) for field in fields(kind)]
    members = [name for kind in (plugins.Backend, plugins.Scheme) for name in vars(kind) if not name.startswith("_")]
    assert {*hooks, *told, *members, *plugins.__all__} - words == set()
    assert f"**version {plugins.SPEC_VERSION}**" in PAGE and f"changed in version {plugins.SPEC_VERSION}\n" in PAGE
