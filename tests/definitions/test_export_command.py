"""`tinyllm export-definitions` as it is typed: of a model's run, of the ops, and wrong calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, cli
from tests.models.conftest import folder
from tinyllm.conformance.example import make_example
from tinyllm.definitions.cases import cases_of
from tinyllm.definitions.collect import of_calls
from tinyllm.definitions.export import write
from tinyllm.definitions.read import read_definition, read_workloads
from tinyllm.errors import InvalidInputError
from tinyllm.registry.registry import default_registry

__all__ = ["cli", "folder"]

SPECS = default_registry().specs


def test_what_is_left_out_is_counted(cli: Cli, tmp_path: Path) -> None:
    """Each with its reason, and all of them in the last line."""
    told = cli("export-definitions", "--ops", "--out", str(tmp_path / "out")).err
    assert "not exported: dequantize: it takes a quantized weight" in told
    assert told.splitlines()[-1].endswith("; 4 ops left out: all_reduce, dequantize, mha, quantize")


def test_every_op_is_exported_at_the_shapes_that_are_timed(cli: Cli, tmp_path: Path) -> None:
    """What is written is read again as it was, and its workloads are calls of the op."""
    ran = cli("export-definitions", "--ops", "--dtype", "bfloat16", "--out", str(tmp_path / "out"), "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert {d["op"] for d in found["definitions"]} | {*found["left_out"]} == {*SPECS}
    assert {*found["left_out"]} == {"quantize", "dequantize", "mha", "all_reduce"}
    for one in found["definitions"]:
        definition = read_definition(tmp_path / "out", one["name"], SPECS)
        assert definition.name == one["name"] and definition.spec.name == one["op"]
        workloads = read_workloads(tmp_path / "out", definition)
        assert len(workloads) == one["workloads"] > 0 and len(cases_of(definition, workloads)) >= len(workloads)


def test_settings_are_written_and_read_as_they_were(tmp_path: Path) -> None:
    """Each case of a rope that has some, among them tuples and nulls; a field that there is not is named."""
    spec = SPECS["rope_angles"]
    calls = [make_example(spec, case, "float32") for case in spec.cases if case.attributes.get("scaling")]
    found = of_calls((each.spec, each.call, each.inputs) for each in calls)
    assert len(write(found, tmp_path)) == len(found.definitions) > 5
    for name, definition in found.definitions.items():
        assert read_definition(tmp_path, name, SPECS).attributes == definition.attributes
    path = tmp_path / "definitions" / "rope_angles" / f"{name}.json"
    path.write_text(path.read_text().replace("partial_rotary_factor", "no_such_field", 1))
    with pytest.raises(InvalidInputError, match="no_such_field"):
        read_definition(tmp_path, name, SPECS)


def test_a_model_is_exported_at_the_shapes_of_its_run(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """Sizes that change from step to step vary; a prompt and a token are two workloads of one definition."""
    out = tmp_path / "out"
    ran = cli("export-definitions", str(folder), "-b", "numpy", "--prompt", "a b c", "-o", str(out))
    assert ran.code == 0, ran.err
    (norm,) = (out / "definitions" / "rms_norm").glob("*.json")
    fields = json.loads(norm.read_text())
    assert [axis for axis, kind in fields["axes"].items() if kind["type"] == "var"] == ["B0"]
    lines = (out / "workloads" / "rms_norm" / f"{norm.stem}.jsonl").read_text().splitlines()
    sizes = {json.loads(line)["workload"]["axes"]["B0"] for line in lines}
    assert 1 in sizes and len(sizes) > 1
    (attention,) = (out / "definitions" / "paged_attention").glob("*.json")
    definition = read_definition(out, attention.stem, SPECS)
    assert all({"q_start", "kv_len", "block_table"} <= {*w.values} for w in read_workloads(out, definition))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ops", "--dtype", "float64", "--out", "new"), "--dtype: expected one of float32, float16, bfloat16"),
        (("smollm2", "--ops", "--out", "new"), "MODEL: expected none beside --ops"),
        (("--ops", "--out", "."), "--out: expected a new or empty folder"),
    ],
)
def test_wrong_calls_are_refused(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    """In one line, before a model is looked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("mine")
    ran = cli("export-definitions", *arguments)
    assert ran.code == 2 and words in ran.err and ran.err.count("\n") == 1
