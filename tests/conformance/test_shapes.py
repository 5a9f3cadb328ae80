"""Calls of a real run, recorded and replayed as cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ops.harness import registry
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.result import Outcome
from tinyllm.conformance.run import run
from tinyllm.conformance.shapes import ShapesFileError, read_shapes, to_line, write_shapes
from tinyllm.graph.trace import Recorded, Recorder
from tinyllm.llm import load
from tinyllm.rope_scaling import Rope, RopeScaling
from tinyllm.spec import ArrayType, QuantType

GOOD: dict[str, Any] = {"op": "add", "inputs": {"x": {"dtype": "float32", "shape": [2, 3]}, "y": {"dtype": "float32", "shape": [3]}}}


def _with_x(dtype: str, *shape: int) -> str:
    """The good line with another x."""
    return json.dumps(GOOD | {"inputs": GOOD["inputs"] | {"x": {"dtype": dtype, "shape": list(shape)}}})


@pytest.fixture(scope="module")
def recorded(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Path]:
    """What SmolLM2 calls for a prompt and two tokens, on numpy."""
    recorder = Recorder(registry().plugins, registry().settings)
    load(smollm2_path, backend="numpy", registry=recorder).generate("Hi", max_tokens=2)
    path = tmp_path_factory.mktemp("shapes") / "smollm2.jsonl"
    write_shapes(path, [(call, recorder.counts[key]) for key, call in recorder.calls.items()])
    return recorder, path


def test_every_call_is_recorded_once(recorded: tuple[Recorder, Path]) -> None:
    """30 layers make the same calls: prefill and decode differ, layers do not."""
    recorder, path = recorded
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == len(recorder.calls) < 60
    attention = [line for line in lines if line["op"] == "paged_attention"]
    assert [line["count"] for line in attention] == [30] * len(attention) and len(attention) == 2
    assert attention[1]["inputs"]["q_start"]["values"] == [0, 1]
    weights = [line["inputs"]["weight"] for line in lines if line["op"] == "quantized_linear"]
    assert [w["bits"] for w in weights if w["shape"][0] == 49152] == [8]


@pytest.mark.slow
def test_they_replay_as_cases(recorded: tuple[Recorder, Path]) -> None:
    """Each recorded call is a case that numpy passes."""
    _, path = recorded
    plan = Plan("numpy", shapes=str(path), dtypes=("float32",))
    results = list(run(registry(), plan, collect(registry(), plan)))
    assert {r.outcome for r in results} == {Outcome.PASS}
    assert {r.op for r in results} == {json.loads(line)["op"] for line in path.read_text().splitlines()}
    assert any(r.case.startswith("line1:") for r in results)


def test_lines_keep_what_shapes_do_not_say(tmp_path: Path) -> None:
    """Integers, settings that are objects, quantised weights."""
    scaling = RopeScaling("llama3", 8.0, original_max_position=64)
    call = Recorded(
        "rope", {"x": ArrayType((2, 3, 8), "float32"), "positions": ArrayType((3,), "int32")},
        {"scaling": scaling, "base": 5e5}, {"positions": np.array([5, 6, 9], np.int32)},
    )  # fmt: skip
    weight = Recorded("quantized_linear", {"x": ArrayType((1, 64), "float16"), "weight": QuantType((5, 64), "affine", 4, 32)}, {}, {})
    layer = json.loads(to_line(Recorded("mha", {}, {"rope": Rope(base=1e5, scaling=scaling), "num_heads": 4}, {}), 1))
    write_shapes(tmp_path / "s.jsonl", [(call, 3), (weight, 1)])
    cases = read_shapes(str(tmp_path / "s.jsonl"), registry().specs)
    (rope,), (linear,) = cases["rope"], cases["quantized_linear"]
    assert rope.attributes == {"scaling": scaling, "base": 5e5}
    np.testing.assert_array_equal(rope.inputs["positions"].make(np.random.default_rng(0)), [5, 6, 9])
    assert linear.inputs["weight"].make(np.random.default_rng(0)).bits == 4
    assert layer["attributes"]["rope"]["Rope"]["scaling"]["RopeScaling"]["factor"] == 8.0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"op": "add"', "line 2: Expecting"),
        ("[1]", "line 2: expected an object"),
        ('{"op": "ad", "inputs": {}}', "line 2: unknown op 'ad'. Did you mean 'add'?"),
        ('{"op": "add"}', "line 2: no 'inputs' given"),
        (json.dumps(GOOD | {"attributes": {"axis": 1}}), "line 2: add: unknown argument 'axis'"),
        (_with_x("float32", 2, -1), "line 2: x: expected a shape"),
        (_with_x("float3", 2, 3), "line 2: x: unknown dtype 'float3'"),
        (_with_x("float32", 2, 4), "line 2: add: y: expected"),
        ('{"op": "rope", "inputs": {"x": {"dtype": "float32", "shape": [3, 8]}}, "attributes": {"scaling": {"R": {}}}}', "line 2: no 'R'"),
        ('{"op": "embedding", "inputs": {"ids": {"dtype": "int32", "shape": [2], "values": [1]}}}', "line 2: ids: values of shape"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(ShapesFileError) as caught:
        read_shapes(str(path), registry().specs)
    assert f"{path}: {words}" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShapesFileError, match=r"gone\.jsonl"):
        read_shapes(str(tmp_path / "gone.jsonl"), registry().specs)


def test_the_command_writes_and_says_what(smollm2_path: Path, tmp_path: Path, capsys: Any) -> None:
    from tinyllm.cli.main import main

    path = tmp_path / "out.jsonl"
    assert main(["trace", "Hi", "--model", str(smollm2_path), "-b", "numpy", "-n", "1", "--shapes", str(path)]) == 0
    assert "different calls of" in capsys.readouterr().err
    assert path.read_text().count("\n") > 10
