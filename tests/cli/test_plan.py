"""`tinyllm plan`: of a config alone, of files, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.catalogue.harness import backends
from tests.cli.conftest import Cli
from tests.models.conftest import folder
from tinyllm import load
from tinyllm.bench.expected import Speeds
from tinyllm.bench.limits import Limits
from tinyllm.bench.product_speed import ProductSpeed
from tinyllm.bench.step_cost import StepCost
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.families.families import decoder_config
from tinyllm.registry.registry import default_registry

__all__ = ["folder"]

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
PARAMETERS = 2 * 96 * 64 + 64 + 2 * (2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
BY_TOKEN = 2 * 2 * 2 * 16 * 4


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A machine that was measured; says whether it was to be measured anew."""
    asked: list[bool] = []

    def kept(registry: Any, backend: str, costs: Any, weights: int, *, anew: bool, on_step: Any) -> Speeds:
        asked.append(anew)
        schemes = [None, *(cost.scheme for cost in costs)]
        rows = ProductSpeed({2: 10.0, 64: 50.0})
        limits = Limits(10.0, 50.0)
        return Speeds(dict.fromkeys(schemes, limits), dict.fromkeys(schemes, rows), StepCost(1e-6, 1e-4, 1e-5))

    monkeypatch.setattr("tinyllm.bench.expected.kept_speeds", kept)
    monkeypatch.setenv("TINYLLM_BACKEND", "numpy")
    return asked


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A `config.json` with nothing beside it."""
    return written(tmp_path)


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG | changes))
    return path


def planned(cli: Cli, *arguments: str, code: int = 0) -> dict[str, Any]:
    """What `--json` prints."""
    result = cli("plan", *arguments, "--json")
    assert result.code == code, result.err
    made: dict[str, Any] = json.loads(result.out)
    return made


def test_a_config_alone_is_enough(cli: Cli, config: Path) -> None:
    """As a file, and as a folder that has nothing else."""
    made = planned(cli, str(config), "--context", "100", "--batch", "3")
    assert made == planned(cli, str(config.parent), "--context", "100", "--batch", "3") | {
        "model": str(config),
        "bytes": made["bytes"],
    }
    assert made["parameters"] == {"total": PARAMETERS, "active": PARAMETERS}
    need = made["bytes"]
    assert need["weights"] == 4 * PARAMETERS
    assert need["by_token"] == BY_TOKEN and need["cache"] % (3 * BY_TOKEN * need["page_size"]) == 0
    assert need["cache"] >= 300 * BY_TOKEN
    assert need["total"] == sum(need[part] for part in ("weights", "cache", "values", "process"))
    assert made["fits"] is None and made["would_fit"] == []


def test_the_speeds_are_those_of_the_steps(cli: Cli, config: Path) -> None:
    """A prompt of one sequence, a token for each of several; a longer context takes longer."""
    made = planned(cli, str(config), "--context", "100", "--prompt-tokens", "30", "--batch", "3")
    assert made["expected"]["prefill_tok_s"] == pytest.approx(30 / made["prefill"]["seconds"])
    assert made["expected"]["decode_tok_s"] == pytest.approx(3 / made["decode"]["seconds"])
    for step in ("prefill", "decode"):
        for what in ("flops", "bytes"):
            assert sum(op[what] for op in made[step]["ops"].values()) == made[step][what]
    products = made["prefill"]["ops"]["linear"]["flops"]
    layers = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    assert products <= 2 * (30 * layers + 96 * 64)
    longer = planned(cli, str(config), "--context", "500", "--prompt-tokens", "30", "--batch", "3")
    assert longer["decode"]["bytes"] > made["decode"]["bytes"] and longer["prefill"] == made["prefill"]


def test_a_table_says_the_same(cli: Cli, config: Path) -> None:
    result = cli("plan", str(config), "--memory", "64GB")  # what the tests' own process takes counts
    assert result.code == 0 and "fits" in result.out.splitlines()[-1]
    assert "PROMPT OF 512" in result.out and "A TOKEN FOR 1" in result.out and "float32" in result.out


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("flags", [(), ("--fast",), ("--fast", "--kv-cache-dtype", "bfloat16")])
def test_the_cache_has_the_dtype_that_it_has_once_loaded(
    backend: str, flags: tuple[str, ...], cli: Cli, folder: Path
) -> None:
    """With the same options: a backend has one that it likes best where rounding is allowed."""
    narrow = flags[-1] if len(flags) > 1 else None
    loaded = load(folder, backend, fast="--fast" in flags or None, kv_cache_dtype=narrow)
    assert (planned(cli, str(folder), "-b", backend, *flags)["cache_dtype"],) == loaded.program.cache_dtypes


def test_patterns_of_nodes_are_planned_by_their_backends(cli: Cli, config: Path) -> None:
    if not _native():
        pytest.skip("needs a second backend")
    nodes = planned(cli, str(config), "-b", "*.mlp.*=native,*=numpy")["nodes"]
    assert set(nodes) == {"native:cpu", "numpy:cpu"} and min(nodes.values()) > 0
    assert set(planned(cli, str(config), "-b", "numpy")["nodes"]) == {"numpy:cpu"}


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantize_plans_for_matrices_of_fewer_bits(cli: Cli, config: Path, bits: int) -> None:
    """Norms stay as they are."""
    if not _native():
        pytest.skip("needs a backend that reads affine weights as they are")
    made = planned(cli, str(config), "--quantize", str(bits), "--group-size", "32", "-b", "native")
    norms = 64 * 5
    assert made["weights"][f"affine{bits}/32"]["numbers"] == PARAMETERS - norms
    assert made["weights"][f"affine{bits}/32"]["bytes"] == (PARAMETERS - norms) * (bits + 1) // 8
    assert made["weights"]["float32"] == {"numbers": norms, "bytes": 4 * norms}


def test_what_does_not_fit_says_what_would(cli: Cli, config: Path) -> None:
    """And ends with 1; each of the changes does make it fit."""
    arguments = (str(config), "--context", "512", "--batch", "8", "--prompt-tokens", "16")
    need = planned(cli, *arguments)["bytes"]
    memory = need["total"] - need["cache"] // 4
    short = planned(cli, *arguments, "--memory", str(memory), code=1)
    assert short["fits"] is False and {"cache_dtype", "context", "batch"} <= {k for r in short["would_fit"] for k in r}
    for remedy in short["would_fit"]:
        options = {"bits": "--quantize", "cache_dtype": "--kv-cache-dtype", "context": "--context", "batch": "--batch"}
        changed = [str(part) for key, value in remedy.items() if key in options for part in (options[key], value)]
        again = planned(cli, *arguments, *changed)["bytes"]
        assert again["total"] - again["process"] == remedy["total"] - short["bytes"]["process"], remedy
    result = cli("plan", *arguments, "--memory", str(memory))
    assert result.code == 1 and "does not fit" in result.out and "--kv-cache-dtype" in result.out
    nothing = cli("plan", *arguments, "--memory", "1KB")
    assert nothing.code == 1 and "no change here makes it fit" in nothing.out


def test_files_are_planned_by_the_types_of_their_tensors(cli: Cli, config: Path) -> None:
    """Their headers say them, whatever the config says."""
    graph = decoder(decoder_config(CONFIG), default_registry().specs)
    rng = np.random.default_rng(0)
    tensors = {name: rng.random(shape).astype(np.float16) for name, shape in graph.tensors().items()}
    save_file(tensors, config.parent / "model.safetensors")
    made = planned(cli, str(config.parent), "-b", "native") if _native() else planned(cli, str(config.parent))
    assert made["parameters"]["total"] == PARAMETERS
    if _native():
        assert made["weights"]["float16"]["numbers"] == PARAMETERS - 64 * 5


def _native() -> bool:
    return bool(default_registry().probe("native").available)


def test_measure_measures_anew(cli: Cli, config: Path, known_machine: list[bool]) -> None:
    cli("plan", str(config))
    cli("plan", str(config), "--measure")
    assert known_machine == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--memory", "16 gigs"), "plan: --memory: expected bytes, such as 4000000, 4MB or 4MiB, got '16 gigs'"),
        (("--memory", "0"), "plan: --memory: expected"),
        (("--context", "513"), "plan: context: expected 1 to 512, got 513"),
        (("--context", "0"), "--context"),
        (("--batch", "0"), "--batch"),
        (("--context", "20", "--prompt-tokens", "21"), "plan: prompt_tokens: expected 1 to 20, got 21"),
        (("--quantize", "7"), "affine: bits: expected one of 2, 3, 4, 5, 6, 8"),
        (("--quantize", "4", "--group-size", "37"), "plan: group_size: expected one that divides the rows of a matrix"),
        (("--dtype", "float8"), "plan: dtype: expected one of"),
        (("--kv-cache-dtype", "int3"), "plan: kv_cache_dtype: expected one of auto, float32"),
    ],
)
def test_bad_input_is_a_line(cli: Cli, config: Path, arguments: tuple[str, ...], message: str) -> None:
    result = cli("plan", str(config), *arguments)
    assert result.code == 2 and message in result.err and len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba", "state_size": 16}, "model_type: expected one of"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers: expected"),
        ({"shrink": 3}, "shrink: tinyllm does not know this field"),
        ({"torch_dtype": "float64"}, "torch_dtype: expected one of float16, bfloat16, float32, got 'float64'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "--quantize BITS plans for all matrices"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(cli: Cli, tmp_path: Path, changes: Any, message: str) -> None:
    result = cli("plan", str(written(tmp_path, **changes)))
    assert result.code == 1 and message in result.err and len(result.err.splitlines()) == 1


def test_a_quantized_config_is_planned_for_other_bits(cli: Cli, tmp_path: Path) -> None:
    path = written(tmp_path, quantization_config={"quant_method": "gptq"})
    assert planned(cli, str(path), "--quantize", "4")["parameters"]["total"] == PARAMETERS


def test_a_hub_id_fetches_its_config_alone(cli: Cli, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline it says so in a line."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def absent(*arguments: Any, **more: Any) -> str:
        raise LocalEntryNotFoundError("nothing of it is here")

    fetched: list[tuple[str, ...]] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a: fetched.append(a) or str(config))
    assert planned(cli, "org/name")["parameters"]["total"] == PARAMETERS
    assert fetched == [("org/name", "config.json")]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    result = cli("plan", "org/name")
    assert result.code == 1 and result.err.startswith("error: org/name: cannot be had from the hub")
    assert len(result.err.splitlines()) == 1


SCRIPT = """
import sys
from tinyllm.bench import expected
from tinyllm.bench.step_cost import StepCost
expected.Speeds.node_seconds = lambda speeds, cost: 0.0
expected.kept_speeds = lambda *arguments, **more: expected.Speeds({}, {}, StepCost(1e-6, 1e-4, 1e-5))
from tinyllm.cli.main import main
code = main(["plan", sys.argv[1], "--backend", sys.argv[2]])
print(code, sorted({"torch", "mlx", "transformers", "huggingface_hub", "tokenizers"} & sys.modules.keys()))
"""


def test_no_array_library_is_imported(config: Path) -> None:
    """A plan is to be there at once; in a process of its own, as this one has them all."""
    command = [sys.executable, "-c", SCRIPT, str(config), "native" if _native() else "numpy"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
