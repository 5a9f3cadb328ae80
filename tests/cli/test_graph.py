"""`tinyllm graph`: what is there of a model is shown, in every form."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.catalogue.harness import registry
from tests.cli.conftest import Cli
from tests.models.test_tokenizer_folder import folder_tokenizer

NUMPY = ("-b", "numpy")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of three layers, and a tokenizer."""
    pytest.importorskip("transformers")
    from tests.llm.families.harness import Tiny

    folder = tmp_path_factory.mktemp("model")
    Tiny("Llama", {"vocab_size": 267}).save(folder)
    folder_tokenizer(folder, bos_token="<|im_start|>", eos_token="<|im_end|>")
    return folder


@pytest.fixture
def config_alone(model: Path, tmp_path: Path) -> Path:
    """A folder with the model's `config.json` and nothing else."""
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(model / "config.json", folder)
    return folder


@pytest.fixture
def traced(model: Path, cli: Cli, tmp_path: Path) -> Path:
    """A trace of the model."""
    result = cli("trace", "hello", "-m", str(model), *NUMPY, "--json", "--runs", "1", "-n", "1")
    assert result.code == 0, result.err
    path = tmp_path / "trace.json"
    path.write_text(result.out)
    return path


def _graph(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    result = cli("graph", *map(str, arguments), "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def test_weights_bring_kernels_and_how_they_are_stored(cli: Cli, model: Path) -> None:
    found = _graph(cli, model, *NUMPY)
    assert [part["blocks"] for part in found["parts"]] == [[], [0, 1], [2], []]
    products = [node for node in found["nodes"] if node["op"] == "linear"]
    assert products and all(set(node["kernels"].values()) == {node["repeats"]} for node in found["nodes"])
    assert all(node["weights"]["weight"]["stored"] == {"float32": node["repeats"]} for node in products)


def test_a_config_alone_is_enough_for_the_graph(cli: Cli, model: Path, config_alone: Path) -> None:
    """As the model states it; with weights, projections that read the same are one call."""
    result = cli("graph", str(config_alone), *NUMPY)
    assert result.code == 0 and "without kernels" in result.err and "\t" in result.out
    whole, bare = (
        _graph(cli, model, *NUMPY, "--unfold"),
        json.loads(cli("graph", str(config_alone), *NUMPY, "--json").out),
    )
    assert not any(node["kernels"] for node in bare["nodes"])
    assert bare["outputs"] == whole["outputs"]
    assert sum(node["op"] == "linear" for node in bare["nodes"]) == 2 * 7 + 1
    assert sum(node["op"] == "linear" for node in whole["nodes"]) == 3 * 4 + 1


def test_unfold_shows_every_node(cli: Cli, model: Path) -> None:
    folded, whole = _graph(cli, model, *NUMPY), _graph(cli, model, *NUMPY, "--unfold")
    assert len(whole["nodes"]) == sum(node["repeats"] for node in folded["nodes"]) > len(folded["nodes"])
    assert {node["repeats"] for node in whole["nodes"]} == {1}
    made = {value for node in whole["nodes"] for value in node["outputs"]}
    assert all((edge["value"] in made) == (edge["from"] is not None) for edge in whole["edges"])


def test_the_table_has_a_line_for_each_node(cli: Cli, model: Path) -> None:
    lines = cli("graph", str(model), *NUMPY).out.splitlines()
    assert len(lines) == 1 + len(_graph(cli, model, *NUMPY)["nodes"])
    assert len({line.count("\t") for line in lines}) == 1


def test_on_a_terminal_it_is_a_tree(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyllm.cli import graph

    found: list[dict[str, Any]] = []
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(graph, "_print_tree", found.extend)
    assert cli("graph", str(model), *NUMPY).code == 0
    monkeypatch.undo()
    graph._print_tree(found)
    assert [row["id"] for row in found] == [node["name"] for node in _graph(cli, model, *NUMPY)["nodes"]]


def test_files_are_written(cli: Cli, model: Path, traced: Path, tmp_path: Path) -> None:
    svg, html = tmp_path / "graph.svg", tmp_path / "graph.html"
    result = cli("graph", str(model), *NUMPY, "--svg", str(svg), "--html", str(html), "--trace", str(traced))
    assert (result.code, result.out) == (0, ""), result.err
    assert ElementTree.fromstring(svg.read_text(encoding="utf-8")).tag.endswith("svg")
    assert "of the time (prompt of" in svg.read_text(encoding="utf-8")
    assert svg.read_text(encoding="utf-8") in html.read_text(encoding="utf-8")


@pytest.mark.parametrize("step", ["prefill", "decode"])
def test_shares_of_a_trace_are_its_seconds(cli: Cli, model: Path, traced: Path, step: str) -> None:
    found = _graph(cli, model, *NUMPY, "--trace", traced, "--step", step)
    steps = json.loads(traced.read_text())
    seconds = {node["name"]: node["seconds"] for node in steps[found["step"]]["nodes"]}
    assert found["step"].startswith({"prefill": "prompt of ", "decode": "token "}[step])
    whole = _graph(cli, model, *NUMPY, "--trace", traced, "--step", step, "--unfold")
    assert {node["name"]: node["seconds"] for node in whole["nodes"]}.items() <= seconds.items()
    for nodes in (found["nodes"], whole["nodes"]):
        of_nodes = sum(seconds[node["name"]] for node in whole["nodes"])
        assert sum(node["seconds"] for node in nodes) == pytest.approx(of_nodes)
        assert sum(node["share"] for node in nodes) == pytest.approx(of_nodes / sum(seconds.values()))


def _nodes(trace: dict[str, Any]) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = next(found for name, found in trace.items() if name.startswith("prompt"))["nodes"]
    return nodes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda trace: trace.clear(), "no step that begins with 'prompt of '"),
        (lambda trace: _nodes(trace).pop(), "node '.*' of this graph is not in it"),
        (lambda trace: _nodes(trace)[-1].update(name="x\n"), r"node 'x\\n': this graph has none"),
        (
            lambda trace: _nodes(trace)[-1].update(kernel="torch/other:x"),
            "expected the kernel that runs it here, numpy/.*, got 'torch/other:x'",
        ),
        (lambda trace: _nodes(trace)[-1].update(seconds="1"), "as node [0-9]+ of"),
        (lambda trace: _nodes(trace)[-1].update(seconds=-1), "as node [0-9]+ of"),
        (lambda trace: _nodes(trace).insert(0, 7), "got 7 as node 0"),
        (lambda trace: trace.update(dict.fromkeys(trace, 3)), "got 3 for 'prompt of"),
    ],
)
def test_a_trace_that_does_not_fit_says_how(
    cli: Cli, model: Path, traced: Path, change: Callable[[Any], object], said: str
) -> None:
    trace = json.loads(traced.read_text())
    change(trace)
    traced.write_text(json.dumps(trace))
    result = cli("graph", str(model), *NUMPY, "--trace", str(traced))
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert re.search(said, result.err), result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--svg", "x.png"], "--svg: expected a file that ends in .svg"),
        (["--html", "no/where.html"], "--html: expected a file in a folder that exists"),
        (["--trace", "none.json"], "none.json: cannot be read"),
        (["--trace", "text.json"], "text.json: expected what tinyllm trace --json prints, got no JSON"),
        (["--trace", "list.json"], "expected what tinyllm trace --json prints, got [1]"),
        (["--step", "middle"], "--step"),
        (["--dtype", "int4"], "dtype"),
    ],
)
def test_wrong_calls_are_one_line(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.json").write_text("tokens")
    Path("list.json").write_text("[1]")
    result = cli("graph", str(model), *NUMPY, *arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1) and said in result.err, result.err


def test_a_trace_needs_weights(cli: Cli, config_alone: Path, traced: Path) -> None:
    result = cli("graph", str(config_alone), *NUMPY, "--trace", str(traced))
    assert result.code == 2 and "--trace: expected a model with its weights, got a config.json alone" in result.err


def test_the_drawing_of_the_docs_is_current(cli: Cli, smollm2_path: Path, tmp_path: Path) -> None:
    """`make docs` would change nothing where the native library is, whose kernels it shows."""
    if not registry().probe("native").available:
        pytest.skip("no native library")
    assert cli("graph", "smollm2", *NUMPY, "--svg", str(tmp_path / "smollm2.svg")).code == 0
    there = Path(__file__).parents[2] / "docs" / "smollm2.svg"
    stale = f"{there.name} is stale: run make docs"
    assert (tmp_path / "smollm2.svg").read_text(encoding="utf-8") == there.read_text(encoding="utf-8"), stale
