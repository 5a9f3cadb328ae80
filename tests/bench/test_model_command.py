"""`tinyllm bench model` as it is typed: what is measured, tables, ratios, JSON, and wrong calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.conftest import Cli
from tinyllm.bench.model import Plan, Result
from tinyllm.cli.bench_model import ratios
from tinyllm.conformance.reports.machine import cores

ON_NUMPY = ("bench", "model", "--backends", "numpy", "--no-fast", "--model")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is to be measured, contenders and plans; nothing is. llama.cpp decodes twice as fast, openvino runs one."""
    found: list[Any] = []

    def measure(contenders: list[str], model: Path, plan: Plan, on_step: Any) -> list[Result]:
        found.append((contenders, plan))
        return [result(name, batch) for batch in plan.batches for name in contenders]

    monkeypatch.setattr("tinyllm.bench.model.measure", measure)
    return found


def result(name: str, batch: int) -> Result:
    """Figures that are known."""
    if name == "openvino" and batch > 1:
        return Result(name, batch, error="openvino: expected one sequence at a time")
    speed = 100.0 if name == "llama.cpp" else 50.0
    return Result(name, batch, [40.0, 80.0, 90.0], [speed * batch], 2.0, 400.0 if name == "llama.cpp" else 900.0)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A file that nobody reads."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


def test_tables_have_a_row_for_each_number_at_a_time(cli: Cli, asked: list[Any], model: str) -> None:
    """Speeds, first token and memory, then ratios of ours; what did not run is told once, and so are the threads."""
    ran = cli(*ON_NUMPY, model, "--against", "llama.cpp,openvino", "--batch", "16,1,4", "--threads", "3")
    assert ran.code == 0, ran.err
    assert asked == [(["tinyllm:numpy", "llama.cpp", "openvino"], Plan(128, 64, (1, 4, 16), 5, 3))]
    lines = [line.split("\t") for line in ran.out.splitlines()]
    assert ["tinyllm:numpy", "4", "80.0", "40.0-90.0", "200.0", "200.0-200.0", "2.00", "900"] in lines
    assert ["tinyllm:numpy / llama.cpp", "16", "1.00", "0.50", "1.00", "2.25"] in lines
    assert sum(line[0] == "openvino" for line in lines) == 1
    assert ran.err.count("did not run: openvino: expected one sequence at a time\n") == 1
    assert "1, 4, 16 at a time, 3 threads each, median of 5 rounds" in ran.err


def test_json_has_the_same(cli: Cli, asked: list[Any], model: str) -> None:
    """With the number of threads that was taken where none was given."""
    ran = cli(*ON_NUMPY, model, "--batch", "2", "--json")
    found = json.loads(ran.out)
    assert (found["batches"], found["threads"], found["rounds"]) == ([2], cores(), 5)
    (row,) = found["results"]
    assert row["decode"] == {"median": 100.0, "min": 100.0, "max": 100.0}
    assert (row["contender"], row["batch"], row["first_token"], row["peak_mb"]) == ("tinyllm:numpy", 2, 2.0, 900.0)


@pytest.mark.parametrize("text", ["0", "1,x", "-1", "", ",", "1.5", "²"])
def test_numbers_at_a_time_are_checked(cli: Cli, asked: list[Any], model: str, text: str) -> None:
    """Before anything is loaded."""
    ran = cli(*ON_NUMPY, model, f"--batch={text}")
    assert ran.code == 2 and not asked
    expected = "bench model: --batch: expected numbers of at least 1 with commas, such as 1,4,16, got"
    assert ran.err == f"error: {expected} {text!r}\n"


def test_unknown_peers_are_refused(cli: Cli, asked: list[Any], model: str) -> None:
    """Those of the model, and those whose commands `bench start` does not know."""
    ran = cli(*ON_NUMPY, model, "--against", "llama-cpp")
    assert (ran.code, ran.err) == (2, "error: --against: unknown peer 'llama-cpp'. Did you mean 'llama.cpp'?\n")
    ran = cli("bench", "start", "--model", model, "--against", "transformers,openvino")
    assert ran.code == 2 and "--against: expected transformers, got 'openvino'" in ran.err and not asked


def test_a_peer_counts_with_its_best_variant() -> None:
    """The fastest of each, whichever it is; mlx-lm's are compared one by one, with our mlx."""
    peers = [
        Result("transformers:float32", 1, [50.0], [10.0], 4.0, 300.0),
        Result("transformers:bfloat16", 1, [100.0], [5.0], 8.0, 100.0),
        Result("mlx-lm:mkl", 1, [50.0], [10.0], 1.0, 100.0),
        Result("mlx-lm:as-shipped", 1, [5.0], [1.0], 1.0, 100.0),
    ]
    ours = [Result(f"tinyllm:{name}", 1, [100.0], [20.0], 2.0, 150.0) for name in ("mlx", "torch")]
    rows = [r.row() for r in (*ours, *peers)]
    figures = ["1.00", "2.00", "0.50", "1.50"]
    assert ratios(rows, "transformers", 1) == [
        [f"tinyllm:{name} / best of transformers", "1", *figures] for name in ("mlx", "torch")
    ]
    assert [line[0] for line in ratios(rows, "mlx-lm", 1)] == [
        "tinyllm:mlx / mlx-lm:mkl",
        "tinyllm:mlx / mlx-lm:as-shipped",
    ]
    assert ratios(rows, "mlx-lm", 1)[1][2:4] == ["20.00", "20.00"]
    assert ratios(rows, "openvino", 1) == ratios(rows, "transformers", 4) == []
