"""The commands that show something: each says the same as a table and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tinyllm import __version__
from tinyllm.catalogue import CATALOGUE
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import default_registry
from tinyllm.settings.known import known_settings

LISTINGS = [["models"], ["backends"], ["ops"], ["which", "sdpa", "-b", "numpy"], ["config"], ["doctor"]]


@pytest.mark.parametrize("arguments", LISTINGS, ids=" ".join)
def test_tables_through_a_pipe_are_plain(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.code == 0
    assert "\x1b" not in result.out and "─" not in result.out
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert len(rows) > 1 and len({len(row) for row in rows}) == 1
    assert rows[0] == [cell.upper() for cell in rows[0]]


@pytest.mark.parametrize("arguments", [*LISTINGS, ["cache"]], ids=" ".join)
def test_json_is_one_object(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments, "--json")
    assert (result.code, result.err) == (0, "")
    assert isinstance(json.loads(result.out), dict)


@pytest.mark.parametrize(
    "command", ["generate", "chat", "pull", "models", "cache", "backends", "which", "ops", "config", "doctor"]
)
def test_help_has_examples(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert f"tinyllm {command}" in result.out.partition("Examples:")[2]


def test_version_and_bare_call(cli: Cli) -> None:
    assert cli("--version").out == f"tinyllm {__version__}\n"
    assert cli().out == cli("--help").out
    assert "bench" in cli("--help").out


def test_ops_names_kernels_and_references(cli: Cli) -> None:
    rows = {row["name"]: row for row in json.loads(cli("ops", "--json").out)["ops"]}
    assert set(rows) >= set(CATALOGUE)
    assert "scratch" in rows["linear"]["kernels"]["mlx"]
    table = {line.split("\t")[0]: line for line in cli("ops").out.splitlines()}
    cells = dict(zip(cli("ops").out.splitlines()[0].split("\t"), table["gqa"].split("\t"), strict=True))
    assert cells["NUMPY"] == "reference"  # by its formula
    assert table["mha"].endswith("\tcomposed" * 3)  # of other ops


@pytest.mark.parametrize(("backend", "kernel"), [("mlx", "scratch"), ("mlx", "fast")])
def test_which_tells_what_runs_and_why(
    cli: Cli, clean_environment: pytest.MonkeyPatch, backend: str, kernel: str
) -> None:
    pytest.importorskip("mlx.core")
    if kernel == "fast":
        clean_environment.setenv("TINYLLM_KERNELS", "mlx/sdpa=fast")
    found = json.loads(cli("which", "sdpa", "-b", backend, "--json").out)
    for place in ("single_call", "in_a_model"):
        assert found[place]["runs"] == f"{backend}/sdpa:{kernel}"
        assert ("pinned" if kernel == "fast" else "priority") in found[place]["why"]
        assert [k["kernel"] for k in found["kernels"] if k[place] == "runs"] == [found[place]["runs"]]
        assert all(k[place] for k in found["kernels"])


def test_which_knows_that_packing_pays_in_a_model(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def packing(x: Any, weight: Any, *, bias: Any = None) -> Any: ...

    kernel = Kernel(
        "numpy",
        "linear",
        "packing",
        lambda: packing,
        lambda call: call.weights_packed or "packs at each call",
        priority=99,
    )
    default = default_registry().plugins
    monkeypatch.setattr(
        "tinyllm.registry.registry.load_plugins", lambda catalogue: replace(default, kernels=[*default.kernels, kernel])
    )
    found = json.loads(cli("which", "linear", "-b", "numpy", "--json").out)
    assert found["single_call"]["runs"] != found["in_a_model"]["runs"] == "numpy/linear:packing"
    assert found["single_call"]["reasons"]["numpy/linear:packing"] == "packs at each call"


def test_which_says_when_nothing_runs(cli: Cli) -> None:
    pytest.importorskip("mlx.core")
    result = cli("which", "softmax", "-b", "mlx", "--dtype", "float64")
    assert result.code == 0
    assert "nothing runs" in result.err and "float64" in result.err


def test_which_reads_the_case(cli: Cli) -> None:
    found = json.loads(cli("which", "sdpa", "-b", "numpy", "--case", "L3,S5,D4", "--json").out)
    assert found["inputs"]["k"] == "float32[5, 4]"


@pytest.mark.parametrize(
    ("how", "source"),
    [("variable", "TINYLLM_BACKEND"), ("file", "tinyllm.toml"), ("project", "pyproject.toml [tool.tinyllm]")],
)
def test_the_chosen_backend_and_its_source(
    cli: Cli, clean_environment: pytest.MonkeyPatch, how: str, source: str
) -> None:
    if how == "variable":
        clean_environment.setenv("TINYLLM_BACKEND", "numpy")
    elif how == "file":
        Path("tinyllm.toml").write_text('backend = "numpy"\n')
    else:
        Path("pyproject.toml").write_text('[tool.tinyllm]\nbackend = "numpy"\n')
    found = json.loads(cli("backends", "--json").out)
    assert (found["selected"], found["source"]) == ("numpy", source)
    assert [b["name"] for b in found["backends"] if b["selected"]] == ["numpy"]
    assert json.loads(cli("which", "linear", "--json").out)["source"] == source
    settings = {s["setting"]: s for s in json.loads(cli("config", "--json").out)["settings"]}
    assert (settings["backend"]["value"], settings["backend"]["source"]) == ("numpy", source)
    assert set(settings) == set(known_settings())


def test_config_lists_the_files(cli: Cli, clean_environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("tinyllm.toml").write_text("fast = true\n")
    files = json.loads(cli("config", "--json").out)["files"]
    assert {f["path"]: f["exists"] for f in files} == {
        str(tmp_path / "tinyllm.toml"): True,
        str(tmp_path / "pyproject.toml"): False,
        str(tmp_path / "config" / "tinyllm" / "tinyllm.toml"): False,
    }


def test_config_lists_tables_and_hides_the_key(cli: Cli, clean_environment: pytest.MonkeyPatch) -> None:
    Path("tinyllm.toml").write_text(
        '[serve]\nport = 81\napi_key = "hush"\ncors = ["a", "b"]\n[batch]\nmax_running = 3\n'
    )
    as_json, table = cli("config", "--json").out, cli("config").out
    settings = {s["setting"]: s["value"] for s in json.loads(as_json)["settings"]}
    assert (settings["serve.port"], settings["serve.cors"], settings["batch.max_running"]) == (81, ["a", "b"], 3)
    assert settings["serve.api_key"] == "(set)" and "hush" not in as_json + table
    rows = {line.split("\t")[0]: line.split("\t")[1:4] for line in table.splitlines()}
    assert rows["serve.port"] == ["81", "tinyllm.toml", "TINYLLM_SERVE_PORT"] and rows["serve.cors"][0] == "a, b"
    assert rows["serve.api_key"] == ["(set)", "tinyllm.toml", "TINYLLM_API_KEY"] and rows["serve.pages"][0] == "(unset)"


@pytest.mark.parametrize("command", ["serve", "batch"])
def test_help_tells_variables_and_defaults(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Of every setting that the command has."""
    monkeypatch.setenv("COLUMNS", "400")
    rows = cli(command, "--help").out.splitlines()
    for spec in known_settings().values():
        if spec.table == command:
            (row,) = [row for row in rows if f" {spec.variable} " in row]
            assert row.strip("│ ").startswith(f"--{spec.key.replace('_', '-')} ") and "[default: (" in row
            assert spec.default in (None, False, []) or str(spec.default) in row


def test_models_says_what_is_here(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path))
    monkeypatch.setattr("tinyllm.models.download.sources._in_package", lambda model: None)
    (row,) = json.loads(cli("models", "--json").out)["models"]
    assert (row["name"], row["path"], row["default"]) == ("smollm2", None, True)
    assert "tinyllm pull smollm2" in cli("models").out
    assert any("tinyllm pull" in line for line in json.loads(cli("doctor", "--json").out)["advice"])


@pytest.mark.parametrize(
    ("variable", "value"), [("OPENBLAS_CORETYPE", "Prescott"), ("OMP_NUM_THREADS", "0"), ("OMP_NUM_THREADS", "1")]
)
def test_doctor_notices_what_slows_down(cli: Cli, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setattr("tinyllm.conformance.reports.machine.cores", lambda: 4)
    monkeypatch.setenv(variable, value)
    advice = "\n".join(json.loads(cli("doctor", "--json").out)["advice"])
    assert f"{variable}={value}" in advice


def test_the_command_imports_no_array_library() -> None:
    heavy = ("numpy", "torch", "mlx", "tokenizers", "rich", "jinja2")
    code = (
        f"import sys; from tinyllm.cli.main import main; main(['--version']); print([m for m in {heavy} if m "
        f"in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[1] == "[]"
