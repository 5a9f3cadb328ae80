"""Calls of a real run, recorded and replayed as cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.result import Outcome
from tinyllm.conformance.run import run
from tinyllm.conformance.shapes import ShapesFileError, read_shapes, to_line, write_shapes
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.graph.tools.recorder import Recorded, Recorder
from tinyllm.llm import load
from tinyllm.spec.rope import Rope, RopeScaling
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType

GOOD: dict[str, Any] = {
    "op": "add",
    "inputs": {"x": {"dtype": "float32", "shape": [2, 3]}, "y": {"dtype": "float32", "shape": [3]}},
}


def _with_x(dtype: str, *shape: int) -> str:
    """The good line with another x."""
    return json.dumps(GOOD | {"inputs": GOOD["inputs"] | {"x": {"dtype": dtype, "shape": list(shape)}}})


@pytest.fixture(scope="module")
def recorded(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Path]:
    """What SmolLM2 calls for a prompt and two tokens after it, on numpy."""
    recorder = Recorder(registry().specs)
    runner = ModelRunner(load(smollm2_path, backend="numpy", registry=registry()).program, 1, 16)
    for ids, cached in (([1, 2, 3], 0), ([4], 3), ([5], 4)):
        runner.step(make_step([Chunk(ids, cached, [0])], 16), recorder, values_told=True)
    path = tmp_path_factory.mktemp("shapes") / "smollm2.jsonl"
    write_shapes(path, [(call, recorder.counts[key]) for key, call in recorder.calls.items()])
    return recorder, path


def test_every_call_is_recorded_once(recorded: tuple[Recorder, Path]) -> None:
    """30 layers make the same calls: prefill and decode differ, layers do not."""
    recorder, path = recorded
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == len(recorder.calls) < 60
    attention = [line for line in lines if line["op"] == "paged_attention"]
    assert [line["count"] for line in attention] == [30, 60]
    assert attention[1]["inputs"]["q_start"]["values"] == [0, 1]
    weights = [line["inputs"]["weight"] for line in lines if line["op"] == "linear"]
    assert {w["scheme"] for w in weights if w["shape"][0] == 49152} == {"q8_0"}
    assert {w["scheme"] for w in weights if w["shape"][0] != 49152} == {"q4_1"}


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
    """Integers, settings that are objects, quantized weights."""
    scaling = RopeScaling("llama3", 8.0, original_max_position=64)
    call = Recorded(
        "rope",
        {"x": ArrayType((2, 3, 8), "float32"), "positions": ArrayType((3,), "int32")},
        {"scaling": scaling, "base": 5e5},
        {"positions": np.array([5, 6, 9], np.int32)},
    )
    weight = Recorded(
        "linear", {"x": ArrayType((1, 64), "float16"), "weight": QuantType((5, 64), Affine(4, 32))}, {}, {}
    )
    layer = json.loads(to_line(Recorded("mha", {}, {"rope": Rope(base=1e5, scaling=scaling), "num_heads": 4}, {}), 1))
    write_shapes(tmp_path / "s.jsonl", [(call, 3), (weight, 1)])
    cases = read_shapes(str(tmp_path / "s.jsonl"), registry().specs, registry().plugins.schemes)
    (rope,), (linear,) = cases["rope"], cases["linear"]
    assert rope.attributes == {"scaling": scaling, "base": 5e5}
    np.testing.assert_array_equal(rope.inputs["positions"].make(np.random.default_rng(0)), [5, 6, 9])
    assert linear.inputs["weight"].make(np.random.default_rng(0)).scheme == Affine(4, 32)
    assert layer["attributes"]["rope"]["Rope"]["scaling"]["RopeScaling"]["factor"] == 8.0


def _embedding(ids: dict[str, Any], **fields: Any) -> str:
    """A call with a table of three rows."""
    return json.dumps(
        {"op": "embedding", "inputs": {"ids": ids, "weight": {"dtype": "float32", "shape": [3, 4]}}} | fields
    )


def _add(x: list[int], y: list[int]) -> str:
    return json.dumps(
        {"op": "add", "inputs": {name: {"dtype": "float32", "shape": shape} for name, shape in (("x", x), ("y", y))}}
    )


def _quantized(**fields: Any) -> str:
    weight = {"scheme": "affine", "bits": 4, "group_size": 32, "shape": [8, 64]} | fields
    return json.dumps({"op": "dequantize", "inputs": {"weight": weight}})


def _rope(scaling: Any) -> str:
    x, positions = {"dtype": "float32", "shape": [3, 8]}, {"dtype": "int32", "shape": [3], "values": [0, 1, 2]}
    return json.dumps({"op": "rope", "inputs": {"x": x, "positions": positions}, "attributes": {"scaling": scaling}})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"op": "add"', "expected JSON, got Expecting"),
        ("[" * 100_000, "expected a call, got JSON that is nested too deeply"),
        ('{"op": NaN}', "expected JSON, got NaN"),
        ("[1]", "expected an object, got [1]"),
        ("{}", "op: expected the name of an op, got nothing"),
        ('{"op": "ad", "inputs": {}}', "op: expected a known one, got 'ad'. Did you mean 'add'?"),
        ('{"op": ["add"], "inputs": {}}', 'op: expected a known one, got ["add"]'),
        ('{"op": "add"}', "inputs: expected an object, got nothing"),
        ('{"op": "add", "inputs": [1]}', "inputs: expected an object, got [1]"),
        ('{"op": "add", "inputs": {"x": {"dtype": "float32", "shape": [2]}}}', "y: expected an input, got nothing"),
        (json.dumps(GOOD | {"attributes": [1]}), "attributes: expected an object, got [1]"),
        (json.dumps(GOOD | {"attributes": {"axis": 1}}), "add: attributes: expected none, got 'axis'"),
        (json.dumps(GOOD | {"count": "3"}), "count: expected an integer of at least 1, got 3"),
        (json.dumps(GOOD | {"inputs": GOOD["inputs"] | {"z": {}}}), "add: inputs: expected one of x, y, got 'z'"),
        (json.dumps(GOOD | {"inputs": GOOD["inputs"] | {"x": 3}}), "x: expected an object, got 3"),
        (_with_x("float32", 2, -1), "x.shape: expected a shape, at most 32 integers of at least 0, got [2, -1]"),
        (_with_x("float32", *[1] * 99), "x.shape: expected a shape, at most 32 integers of at least 0, got [1, 1"),
        (
            _with_x("float32", 3_000_000_000_000, 3),
            "x.shape: expected at most 2147483648 elements, got [3000000000000, 3]",
        ),
        (_with_x("float3", 2, 3), "x.dtype: expected a known one, got 'float3'. Did you mean 'float32'?"),
        (_with_x("float32", 2, 4), "add: y: expected"),
        (
            json.dumps(GOOD | {"inputs": {"x": {"dtype": "float32", "shape": 3}}}),
            "x.shape: expected a shape, at most 32 integers",
        ),
        (
            _add([99999, 1, 1], [1, 99999, 1]),
            "output: expected at most 2147483648 elements, got [99999, 99999, 1]",
        ),
        (_rope({"R": {}}), "scaling: expected one of RopeScaling, Rope, got 'R'"),
        (_rope({}), "scaling: expected one of RopeScaling, Rope with its fields, got {}"),
        (_rope({"RopeScaling": [1]}), "scaling.RopeScaling: expected an object, got [1]"),
        (_rope({"RopeScaling": {"factr": 2}}), "scaling.RopeScaling: expected a known one, got 'factr'"),
        (_rope({"RopeScaling": {"factor": "2"}}), "scaling.RopeScaling.factor: expected float, got 2"),
        (_rope({"RopeScaling": {"factor": 0}}), "rope: scaling.factor: expected a number above 0, got 0"),
        (
            _embedding({"dtype": "int32", "shape": [2], "values": [1]}),
            "ids.values: expected numbers of shape [2], got shape [1]",
        ),
        (
            _embedding({"dtype": "int32", "shape": [2], "values": [1, 99]}),
            "embedding: ids: expected ids from 0 to 2, got 99",
        ),
        (
            _embedding({"dtype": "int32", "shape": [2], "values": [1, 1.5]}),
            "ids.values: expected int32 numbers, got [1, 1.5]",
        ),
        (
            _embedding({"dtype": "int8", "shape": [1], "values": [300]}),
            "ids.values: expected int8 numbers, got 300 to 300",
        ),
        (
            _embedding({"dtype": "int32", "shape": [1], "values": ["a"]}),
            'ids.values: expected int32 numbers, got ["a"]',
        ),
        (
            _embedding({"dtype": "int32", "shape": [2, 1], "values": [[1], [1, 2]]}),
            "ids.values: expected rows of one length",
        ),
        (
            _embedding({"dtype": "int32", "shape": [2]}),
            "ids.values: expected the numbers that steer embedding, got nothing",
        ),
        (_quantized(scheme="afine"), "weight.scheme: expected a known one, got 'afine'. Did you mean 'affine'?"),
        (_quantized(scheme=["affine"]), 'weight.scheme: expected a known one, got ["affine"]'),
        (_quantized(bits="x"), "weight.bits: expected an integer of at least 1, got x"),
        (_quantized(bits=7), "affine: bits: expected one of 2, 3, 4, 5, 6, 8, got 7"),
        (_quantized(scheme="int8"), "weight: expected one of scheme, shape, group_size, got 'bits'"),
        (_quantized(group_size=0), "weight.group_size: expected an integer of at least 1, got 0"),
        (_quantized(group_size=48), "weight.shape: expected columns that groups of 48 divide, got [8, 64]"),
        (
            _quantized(group_size=4, shape=[8, 20]),
            "weight.shape: expected a multiple of 8, so that rows of 4-bit numbers fill whole words, got [8, 20]",
        ),
        (_quantized(shape=[64]), "weight.shape: expected two sizes, rows and columns, got [64]"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(ShapesFileError) as caught:
        read_shapes(str(path), registry().specs, registry().plugins.schemes)
    assert f"{path}: line 2: {words}" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(path))


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ShapesFileError, match=r"empty\.jsonl: expected a line for each call, got none"):
        read_shapes(str(tmp_path / "empty.jsonl"), registry().specs, registry().plugins.schemes)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShapesFileError, match=r"gone\.jsonl"):
        read_shapes(str(tmp_path / "gone.jsonl"), registry().specs, registry().plugins.schemes)
    with pytest.raises(ShapesFileError, match=r"cannot be read: Is a directory$"):
        read_shapes(str(tmp_path), registry().specs, registry().plugins.schemes)
    (tmp_path / "binary").write_bytes(b"{\xff")
    with pytest.raises(ShapesFileError, match=r"expected text in UTF-8, got byte 0xff at 1$"):
        read_shapes(str(tmp_path / "binary"), registry().specs, registry().plugins.schemes)


def test_the_command_writes_and_says_what(smollm2_path: Path, tmp_path: Path, capsys: Any) -> None:
    from tinyllm.cli.main import main

    path = tmp_path / "out.jsonl"
    assert main(["trace", "Hi", "--model", str(smollm2_path), "-b", "numpy", "-n", "1", "--shapes", str(path)]) == 0
    assert "different calls of" in capsys.readouterr().err
    assert path.read_text().count("\n") > 10


def test_the_help_says_that_the_file_holds_the_prompt(capsys: Any) -> None:
    from tinyllm.cli.main import main

    assert main(["trace", "--help"]) == 0
    assert "token ids of the prompt and of the answer" in " ".join(capsys.readouterr().out.split())
