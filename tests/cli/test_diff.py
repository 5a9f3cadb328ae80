"""`tinyllm diff` and `tinyllm bisect`: what they print and write, and their errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry, with_kernels
from tests.cli.conftest import Cli
from tests.llm.families.harness import Tiny
from tinyllm.conformance.array_file import write_arrays
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import Registry

two_backends = pytest.mark.skipif("torch" not in backends(), reason="needs a second backend")
ASKED = ("--random", "--tokens", "40")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama, without a tokenizer."""
    path = tmp_path_factory.mktemp("llama")
    Tiny("Llama", {"num_hidden_layers": 2}).save(path)
    return str(path)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Any:
    """`installed(registry)`: the registry that commands have."""

    def use(at: Registry) -> None:
        default = type("Default", (), {"__call__": lambda self: at, "cache_clear": lambda self: None})()
        monkeypatch.setattr("tinyllm.registry.registry.default_registry", default)

    return use


def _wrong_swiglu(gate: Any, up: Any, *, limit: Any = None, alpha: Any = 1.0, up_offset: Any = 0.0) -> Any:
    return (gate / (1 + np.exp(-gate)) * up * np.float32(1.01)).astype(gate.dtype)


WRONG = Kernel("numpy", "swiglu", "quick", lambda: _wrong_swiglu, priority=99)


@two_backends
def test_a_wrong_kernel_is_named_and_its_call_is_kept(
    cli: Cli, folder: str, tmp_path: Path, installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tinyllm check --case` judges the file: it fails as long as the kernel is wrong, and not on a backend that is
    right."""
    monkeypatch.chdir(tmp_path)
    installed(with_kernels(WRONG))
    result = cli("diff", folder, "-b", "numpy", "--against", "torch", *ASKED)
    assert result.code == 1
    assert "first wrong node: model.layers.0.mlp.swiglu (numpy/swiglu:quick), prompt: " in result.out
    assert "wrong by itself, too: model.layers.1.mlp.swiglu (numpy/swiglu:quick)" in result.out
    file = "wrong-node.safetensors"
    assert f"tinyllm check --case {file}" in result.err
    failed = cli("check", "--case", file, "--json")
    told = json.loads(failed.out)["results"]
    assert failed.code == 1 and [(r["id"], r["outcome"]) for r in told] == [
        ("numpy/swiglu:quick[model.layers.0.mlp.swiglu,f32]", "fail")
    ]
    assert told[0]["snippet"] == f"tinyllm check numpy:cpu --case '{file}'"
    assert cli("check", "torch", "--case", file).code == 0
    halved = cli("bisect", folder, "-b", "numpy", "--against", "torch", *ASKED)
    assert halved.code == 1 and "swiglu" in halved.out and "numpy/swiglu:quick" in halved.out
    assert halved.err.splitlines()[0] == "program 1: all nodes on torch"
    installed(registry())
    mended = cli("check", "--case", file)
    assert mended.code == 0, mended.out
    assert cli("diff", folder, "-b", "numpy", "--against", "torch", *ASKED).code == 0


@two_backends
def test_where_all_is_right(cli: Cli, folder: str, tmp_path: Path) -> None:
    """As data, as a plot, against a file; nothing is written of a node."""
    reference, plot, case = (str(tmp_path / name) for name in ("r.safetensors", "p.svg", "c.safetensors"))
    saved = cli("diff", folder, "-b", "torch", "--save", reference, "--json", *ASKED)
    assert saved.code == 0 and json.loads(saved.out)["reference"] == reference
    result = cli("diff", folder, "-b", "numpy", "--against", reference, "--json", "--plot", plot, "--case", case)
    told = json.loads(result.out)
    assert result.code == 0 and told["wrong"] == [] and told["case"] is None and not Path(case).exists()
    assert {node["layer"] for node in told["nodes"]} == {None, 0, 1} and told["tokens"] == 40
    assert 0 < max(node["difference"] for node in told["nodes"]) < 1e-4
    assert "<svg" in Path(plot).read_text()
    some = cli("diff", folder, "-b", "numpy", "--against", "torch", "--nodes", "*.layers.1.*", "--json", *ASKED)
    assert json.loads(some.out)["judged"] == 6 * sum(node["layer"] == 1 for node in told["nodes"])
    halved = cli("bisect", folder, "-b", "numpy", "--against", "torch", "--json", *ASKED)
    assert halved.code == 0 and json.loads(halved.out)["nodes"] == [] and json.loads(halved.out)["programs"] == 2
    states = cli("diff", folder, "-b", "numpy", "--against", "transformers", "--json", *ASKED)
    assert states.code == 0 and json.loads(states.out)["departs"] is None
    parts = cli("bisect", folder, "-b", "numpy", "--against", "transformers", "--json", *ASKED)
    assert parts.code == 0 and json.loads(parts.out) == {"tokens": 40, "departs": []}
    parts = cli("bisect", folder, "-b", "numpy", "--against", "transformers", *ASKED)
    assert parts.code == 0 and not parts.out and "no layer differs: given transformers' input" in parts.err


@two_backends
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--against", "trch"], "diff: --against: expected one of mlx, native, numpy, torch, transformers or a file"),
        ([], "diff: --against: expected a backend, transformers, or a file that --save wrote, got nothing"),
        (
            ["--against", "gone.safetensors"],
            "expected a file that tinyllm diff --save wrote, got none",
        ),
        (["--against", "torch", "--random", "--tokens", "300"], "at most the context of 256 tokens, got 300"),
        (["--against", "torch", "--random", "--nodes", "*.layer.*"], "--nodes: expected a pattern that fits nodes"),
        (["--against", "torch", "--random", "--tokens", "3", "--decode", "3"], "fewer than the 3 tokens"),
        (["--against", "torch", "--random", "--prompt", "Hi"], "--random: expected no prompt beside it"),
        (["--against", "torch"], "--random does without a tokenizer"),
        (["--against", "x.safetensors", "--decode", "1"], "no --prompt, --tokens, --decode or --random beside a file"),
        (["--against", "transformers", "--nodes", "*.mlp.*"], "--nodes: expected none beside --against transformers"),
        (["--against", "torch", "--case", "gone/x"], "case file gone/x: expected a file in a folder that exists"),
        (["--against", "torch", "--plot", "x.pdf"], "--plot: expected a file that ends in .png or .svg"),
    ],
    ids=str,
)
def test_bad_calls_are_told_in_a_line(cli: Cli, folder: str, arguments: list[str], words: str) -> None:
    result = cli("diff", folder, "-b", "numpy", *arguments)
    assert result.code and words in result.err and result.err.count("\n") == 1 and not result.out


def test_a_file_that_is_no_reference_and_one_that_is_no_case_are_told(cli: Cli, folder: str, tmp_path: Path) -> None:
    weights = f"{folder}/model.safetensors"
    result = cli("diff", folder, "-b", "numpy", "--against", weights)
    assert result.code == 2 and "wrote, got a file of another kind" in result.err
    result = cli("check", "--case", f"{folder}/config.json")
    assert result.code == 2 and "got a file of another kind" in result.err
    for kind, arguments in (("reference", ["diff", folder, "--against"]), ("case", ["check", "--case"])):
        write_arrays(tmp_path / "x.safetensors", f"tinyllm_{kind}", {"op": "add"}, {})
        result = cli(*arguments, str(tmp_path / "x.safetensors"))
        assert result.code == 2 and "got a file of another kind" in result.err
    result = cli("check", "--case", weights)
    assert result.code == 2 and "check: --case: " in result.err and "got a file of another kind" in result.err


@pytest.mark.parametrize("command", ["diff", "bisect"])
def test_transformers_is_given_no_tokens_one_by_one(cli: Cli, folder: str, command: str) -> None:
    """So a number of them is refused, before a model is read."""
    result = cli(command, folder, "-b", "numpy", "--against", "transformers", "--decode", "1", *ASKED)
    assert result.code == 2 and not result.out
    assert f"{command}: --decode: expected none beside --against transformers" in result.err


def test_transformers_may_be_missing(cli: Cli, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for command in ("diff", "bisect"):
        result = cli(command, folder, "-b", "numpy", "--against", "transformers", "--random")
        assert result.code == 1 and f"{command}: --against transformers: transformers is not installed" in result.err


@two_backends
@pytest.mark.slow
def test_two_layers_of_the_real_model_are_right(cli: Cli, smollm2_path: Path) -> None:
    """Their weights are quantized; on every backend."""
    for ours, theirs in (("native", "torch"), ("mlx", "numpy")):
        if {ours, theirs} <= {*backends()}:
            asked = ["-b", ours, "--against", theirs, "--tokens", "24", "--decode", "1", "--nodes", "*.layers.1[27].*"]
            result = cli("diff", str(smollm2_path), *asked)
            assert result.code == 0 and "no node is past its bound" in result.err, result.out
