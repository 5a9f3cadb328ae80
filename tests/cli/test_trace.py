"""`tinyllm trace` and `tinyllm which NODES`: what they say of a model, and files that cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.cli.conftest import Cli
from tinyllm.bench.limits import Limits
from tinyllm.errors import TinyllmError

MIXED = "model.layers.3.*=torch,*=numpy"
two_backends = pytest.mark.skipif("torch" not in backends(), reason="needs a second backend")


@pytest.mark.parametrize("option", ["--shapes", "--chrome"])
@pytest.mark.parametrize(
    ("target", "words"), [("gone/out", "folder that exists, got none"), (".", "got a folder"), ("a" * 300, "too long")]
)
def test_a_file_that_cannot_be_written_is_told_before_the_model_runs(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, target: str, words: str
) -> None:
    monkeypatch.setattr("tinyllm.llm.load", lambda *_, **__: pytest.fail("the model was loaded"))
    result = cli("trace", "Hi", option, str(tmp_path / target))
    assert result.code == 2
    assert words in result.err and result.err.count("\n") == 1 and "bug" not in result.err


def test_shapes_and_times_are_two_runs(cli: Cli, tmp_path: Path) -> None:
    result = cli("trace", "--shapes", str(tmp_path / "s"), "--chrome", str(tmp_path / "c"))
    assert result.code == 2 and "--chrome: expected a run that takes times, got --shapes" in result.err


@two_backends
@pytest.mark.slow
def test_a_mixed_program_tells_times_rates_and_copies(
    cli: Cli, smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the prompt's step and of a token's, as JSON and as a file for Chrome's trace viewer; where a kind of weight
    could not be measured its nodes have no share."""

    def measured(asked: Any, where: str, scheme: Any, nbytes: int, on_step: Any) -> Limits:
        if where.startswith("torch"):
            raise TinyllmError("its linear is wrong")
        return Limits(10.0, 100.0)

    monkeypatch.setattr("tinyllm.bench.kept_limits.kept_limits", measured)
    path = tmp_path / "trace.json"
    asked = ["trace", "Hi", "--model", str(smollm2_path), "-b", MIXED, "-n", "2", "--runs", "1"]
    result = cli(*asked, "--json", "--chrome", str(path))
    assert result.code == 0 and "could not be measured: its linear is wrong" in result.err
    told = json.loads(result.out)
    assert [name.split(" ")[0] for name in told] == ["prompt", "token"]
    for step in told.values():
        assert {name.partition(" ")[0] for name in step["limits"]} == {"numpy:cpu"}
        assert step["seconds"] > 0 and sum(node["seconds"] > 0 for node in step["nodes"]) > 300
        copies = [node for node in step["nodes"] if node["op"] == "copy"]
        assert {node["kernel"] for node in copies} >= {"copy numpy:cpu->torch:cpu", "copy torch:cpu->numpy:cpu"}
        assert all(node["bytes"] > 0 and node["flops"] == 0 for node in copies)
        products = [node for node in step["nodes"] if node["op"] == "linear"]
        assert all((node["of_limit"] is None) == (node["backend"] == "torch:cpu") for node in products)
        assert all((node["backend"] == "torch:cpu") == (".layers.3." in node["name"]) for node in products)
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in events] == [n["name"] for s in told.values() for n in s["nodes"]]
    table = cli(*asked, "--nodes").out.splitlines()
    times = [float(line.split("\t")[2]) for line in table if line.split("\t")[2] != "MS"]
    assert len(times) == len(events) and times[: len(times) // 2] == sorted(times[: len(times) // 2], reverse=True)


@two_backends
@pytest.mark.slow
def test_which_shows_the_nodes_of_a_model(cli: Cli, smollm2_path: Path) -> None:
    """Those that a pattern names, and the copies that bring their inputs."""
    asked = ["-b", MIXED, "-m", str(smollm2_path)]
    told = json.loads(cli("which", "*.layers.3.self_attn.*", *asked, "--json").out)
    nodes = [node for node in told["nodes"] if node["op"] != "copy"]
    assert {node["backend"] for node in nodes} == {"torch:cpu"} and len(nodes) > 5
    assert all(".layers.3.self_attn." in node["node"] for node in nodes)
    assert 0 < len(told["nodes"]) - len(nodes) <= told["copies"]
    wrong = cli("which", "model.layer.3.*", *asked)
    assert wrong.code == 2 and "the nearest are model.layers.3." in wrong.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["*.mlp.*", "--case", "B1"], "--case: expected an op, got the nodes *.mlp.*"),
        (["sdpa", "--model", "smollm2"], "--model: expected a pattern of nodes"),
    ],
)
def test_options_of_ops_and_of_nodes_do_not_mix(cli: Cli, arguments: list[str], words: str) -> None:
    result = cli("which", *arguments)
    assert result.code == 2 and words in result.err
