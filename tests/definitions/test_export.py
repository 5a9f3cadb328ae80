"""What is exported: every definition is one by the schema, its reference runs alone and gives what the oracle gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinyllm.conformance.example import Example, make_example
from tinyllm.conformance.judge import judge
from tinyllm.definitions.collect import Collection, of_calls
from tinyllm.definitions.definition import Definition
from tinyllm.definitions.export import document, write
from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.registry.registry import default_registry
from tinyllm.spec.scheme import QuantWeight

SPECS = default_registry().specs
CASES = [(s, case) for s in SPECS.values() for case in [c for c in s.cases if c.tier == "smoke"][:6]]
CASES += [(SPECS[op], case) for op in ("rope", "rope_angles", "mha") for case in SPECS[op].cases if "yarn" in case.id]
CASES += [(SPECS["mha"], next(case for case in SPECS["mha"].cases if "rope" in case.attributes))]
"""Some with settings that are objects."""
ALONE = """
import json, sys
import numpy as np
sys.modules["tinyllm"] = None  # importing it is an error
import torch
folder = sys.argv[1]
for number, (source, names, scalars, kind) in enumerate(json.load(open(f"{folder}/calls.json"))):
    module = {}
    exec(source, module)
    data = np.load(f"{folder}/{number}.npz")
    given = [scalars[name] if name in scalars else data[name] for name in names]
    if kind == "torch":
        given = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in given]
    outputs = module["run"](*given)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert all(isinstance(o, torch.Tensor if kind == "torch" else np.ndarray) for o in outputs), kind
    np.savez(f"{folder}/{number}.out.npz", *[np.asarray(o) for o in outputs])
"""


def _collected() -> tuple[Collection, dict[str, Example]]:
    """Smoke cases of arrays in float32, and an example of each definition that came of them."""
    made = [make_example(spec, case, "float32") for spec, case in CASES]
    examples = [e for e in made if not any(isinstance(v, QuantWeight) for v in e.inputs.values())]
    found = of_calls((e.spec, e.call, e.inputs) for e in examples)
    return found, {
        name: next(e for e in examples if e.spec is d.spec and not d.declines(e.call))
        for name, d in found.definitions.items()
        if _document(d)
    }


def _document(definition: Definition) -> dict[str, Any]:
    try:
        return document(definition)
    except UnsupportedError:
        return {}


FOUND, EXAMPLES = _collected()


def test_every_op_is_exported_or_says_why_not() -> None:
    """Those that cannot be are about quantized weights."""
    quantized = [make_example(SPECS["dequantize"], SPECS["dequantize"].cases[0], "float32")]
    found = of_calls((e.spec, e.call, e.inputs) for e in quantized)
    assert found.left_out == {"dequantize": "weight is a quantized weight, which is no tensor"}
    exported = {FOUND.definitions[name].spec.name for name in EXAMPLES}
    assert {*SPECS} - exported == {"quantize", "dequantize"}


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_every_reference_runs_alone_and_is_the_oracle(kind: str, tmp_path: Path) -> None:
    """In a process where this package cannot be imported; judged by the bounds of the conformance kit."""
    calls = []
    for number, (name, example) in enumerate(EXAMPLES.items()):
        definition = FOUND.definitions[name]
        scalars = {n: example.call.attributes[n] for n in definition.scalars}
        calls.append([document(definition)["reference"], list(definition.inputs), scalars, kind])
        np.savez(tmp_path / f"{number}.npz", **example.inputs)
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    wrong = {}
    for number, (name, example) in enumerate(EXAMPLES.items()):
        given = np.load(tmp_path / f"{number}.out.npz")
        verdict = judge(example, tuple(given[key] for key in given.files))
        if verdict.message:
            wrong[name] = verdict.message
    assert not wrong


def test_a_definition_takes_its_own_calls_and_no_others() -> None:
    """Each example fits its definition; its dtype, a constant axis, an attribute and a missing input do not."""
    for name, example in EXAMPLES.items():
        assert not FOUND.definitions[name].declines(example.call)
    spec = SPECS["rms_norm"]
    cases = {case.id: make_example(spec, case, "float32").call for case in spec.cases}
    found = of_calls([(spec, cases["3x8"], {})]).definitions["rms_norm_d8_float32"]
    assert (found.axes, found.scalars) == ({"B0": "B0", "D": 8}, ())
    assert found.inputs["x"].shape == ("B0", "D") and found.outputs["y"].shape == ("B0", "D")
    assert "float32[B0, 8] is defined" in found.declines(cases["2x3x5,eps1e-05"])
    wide = make_example(spec, next(c for c in spec.cases if c.id == "3x8"), "float16").call
    assert "is defined, not float16" in found.declines(wide)
    sdpa = make_example(SPECS["sdpa"], next(c for c in SPECS["sdpa"].cases if c.attributes.get("causal")), "float32")
    causal = of_calls([(sdpa.spec, sdpa.call, sdpa.inputs)]).definitions
    plain = Example(sdpa.spec, "", "float32", sdpa.inputs, sdpa.attributes | {"causal": False})
    assert "causal: True is defined, not False" in next(iter(causal.values())).declines(plain.call)


def test_a_float_that_is_given_is_a_scalar_input() -> None:
    """And is written into the workloads; the defaults are part of the definition."""
    spec = SPECS["rms_norm"]
    call = make_example(spec, next(c for c in spec.cases if "eps1e-05" in c.id), "float32").call
    found = of_calls([(spec, call, {})])
    ((name, definition),) = found.definitions.items()
    assert document(definition)["inputs"]["eps"] == {"shape": None, "dtype": "float32"}
    (workload,) = found.workloads[name].values()
    assert workload.to_json(definition, "")["workload"]["inputs"]["eps"] == {"type": "scalar", "value": 1e-5}


def test_what_is_written_can_be_read_by_the_schema_of_flashinfer_bench(tmp_path: Path) -> None:
    """Its own models, where the package is installed, and their rules in any case: axes, names, the text of `run`."""
    written = write(FOUND, tmp_path / "out")
    assert {*written} == {*EXAMPLES}
    documents = [json.loads(path.read_text()) for path in (tmp_path / "out" / "definitions").rglob("*.json")]
    traces = [
        json.loads(line)
        for path in (tmp_path / "out" / "workloads").rglob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    by_name = {d["name"]: d for d in documents}
    assert len(by_name) == len(documents) == len(written)
    for one in documents:
        assert not {*one["inputs"]} & {*one["outputs"]}
        assert {a for t in (*one["inputs"].values(), *one["outputs"].values()) for a in t["shape"] or ()} <= {
            *one["axes"]
        }
        told = {axis for tensor in one["inputs"].values() for axis in tensor["shape"] or ()}
        assert {axis for axis, kind in one["axes"].items() if kind["type"] == "var"} <= told
        compile(one["reference"], one["name"], "exec")
    for trace in traces:
        definition = by_name[trace["definition"]]
        workload = trace["workload"]
        assert {*workload["inputs"]} == {*definition["inputs"]}
        assert {*workload["axes"]} == {axis for axis, kind in definition["axes"].items() if kind["type"] == "var"}
        for name, given in workload["inputs"].items():
            if given["type"] == "safetensors":
                array = load_file(tmp_path / "out" / given["path"])[given["tensor_key"]]
                assert str(array.dtype) == definition["inputs"][name]["dtype"]
    models = pytest.importorskip("flashinfer_bench.data")
    for one in documents:
        models.Definition.model_validate(one)
    for trace in traces:
        assert models.Trace.model_validate(trace).is_workload_trace()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InvalidInputError, match="--out: expected a new or empty folder"):
        write(FOUND, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
