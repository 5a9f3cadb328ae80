"""A family that nobody here wrote: one file of a third party, for folders and GGUF files, in every command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Cli, cli
from tests.models.conftest import write_gguf
from tests.models.test_tokenizer_folder import folder_tokenizer
from tests.plugins.conftest import PACKAGES, environment
from tinyllm.errors import CheckpointError
from tinyllm.llm import load
from tinyllm.registry.registry import Registry

__all__ = ["cli"]
gguf = pytest.importorskip("gguf")
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
CONFIG = {
    "model_type": "lantern",
    "width": 64,
    "depth": 2,
    "inner": 96,
    "heads": 4,
    "kv_heads": 2,
    "reach": 128,
    "words": 267,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
}
IDS = [int(i) for i in np.random.default_rng(0).integers(0, 267, 40)]


@dataclass(frozen=True)
class Models:
    """A model in both forms, its tensors as GGUF names them, and the registry that knows its family."""

    folder: Path
    gguf: Path
    tensors: dict[str, Any]
    registry: Registry


@pytest.fixture
def models(install: Callable[..., Registry], tmp_path: Path) -> Models:
    registry = install("lantern")
    keys = {"tokenizer.chat_template": TEMPLATE}
    whole = gguf.GGUFReader(write_gguf(tmp_path / "first.gguf", "lantern")).tensors
    tensors = {t.name: np.array(t.data) * np.float32(0.15 if t.data.ndim > 1 else 1) for t in whole}
    path = write_gguf(tmp_path / "lantern.gguf", "lantern", tensors, keys)
    folder = tmp_path / "lantern-folder"
    folder.mkdir()
    folder_tokenizer(folder, bos_token="<|im_start|>", eos_token="<|im_end|>", chat_template=TEMPLATE)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(_merged(tensors), folder / "model.safetensors")
    return Models(folder, path, tensors, registry)


def _merged(tensors: dict[str, Any]) -> dict[str, Any]:
    made = {"words.weight": tensors["token_embd.weight"], "last.weight": tensors["output_norm.weight"]}
    parts = {
        "qkv": ("attn_q", "attn_k", "attn_v"),
        "gate_up": ("ffn_gate", "ffn_up"),
        "out": ("attn_output",),
        "down": ("ffn_down",),
        "first": ("attn_norm",),
        "second": ("ffn_norm",),
    }
    for layer in range(2):
        for name, theirs in parts.items():
            joined = np.concatenate([tensors[f"blk.{layer}.{one}.weight"] for one in theirs])
            made[f"blocks.{layer}.{name}.weight"] = joined
    return made


def judges_logits(tensors: dict[str, Any]) -> np.ndarray:
    """transformers' Llama with the same weights."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=267,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    judge = transformers.LlamaForCausalLM(config).eval()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    with torch.inference_mode():
        for name, parameter in judge.named_parameters():
            parameter.copy_(torch.tensor(tensors[names.get_name(name, (".weight",))]))
        logits: np.ndarray = judge(torch.tensor([IDS])).logits[0].numpy()
    return logits


def test_both_forms_are_loaded_and_right(models: Models) -> None:
    wanted = judges_logits(models.tensors)
    for path in (models.folder, models.gguf):
        logits = load(path, "numpy", registry=models.registry).logits(IDS)
        np.testing.assert_allclose(logits, wanted, atol=3e-4 * np.abs(wanted).max(), rtol=0)


def test_what_the_plugin_does_not_understand_is_refused_by_name(models: Models, tmp_path: Path) -> None:
    (models.folder / "config.json").write_text(json.dumps(CONFIG | {"depth_scale": 2}))
    with pytest.raises(CheckpointError, match="config: depth_scale: tinyllm does not know this field"):
        load(models.folder, "numpy", registry=models.registry)
    path = write_gguf(tmp_path / "odd.gguf", "lantern", keys={"depth_scale": 2.0})
    with pytest.raises(CheckpointError, match=r"lantern\.depth_scale: tinyllm does not know this key"):
        load(path, "numpy", registry=models.registry)


def test_commands_answer_from_both_forms(models: Models, cli: Cli, tmp_path: Path) -> None:
    """The replies are the same, whatever the form and the command."""
    replies = set()
    for number, path in enumerate((models.folder, models.gguf)):
        options = ("--model", str(path), "--backend", "numpy", "--max-tokens", "6", "--temperature", "0")
        generated = cli("generate", "hello", *options, "--json")
        assert generated.code == 0, generated.err
        replies.add(json.loads(generated.out)["text"])
        chatted = cli("chat", *options, stdin=b"hello\n")
        assert chatted.code == 0, chatted.err
        replies.add(chatted.out.strip("\n"))
        body = {
            "model": path.name,
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 6,
            "temperature": 0,
        }
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
        asked, answered = (tmp_path / f"{name}{number}.jsonl" for name in ("in", "out"))
        asked.write_text(json.dumps(line) + "\n")
        batch = cli("batch", str(asked), "-o", str(answered), *options[:4])
        assert batch.code == 0, batch.err
        reply = json.loads(answered.read_text())["response"]["body"]["choices"][0]["message"]
        replies.add(reply["content"])
    assert len(replies) == 1 and replies != {""}
    listed = json.loads(cli("models", "--json").out)["families"]
    assert [family["gguf"] for family in listed if family["name"] == "lantern"] == [["lantern"]]


def test_the_server_answers(models: Models, tmp_path: Path) -> None:
    code = "import sys; from tinyllm.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "-m", str(models.gguf), "-b", "numpy", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment(tmp_path) | {"XDG_CONFIG_HOME": str(tmp_path)}
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            body = {"model": "lantern.gguf", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
            reply = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
            assert reply.status_code == 200, reply.text
            assert reply.json()["usage"]["completion_tokens"] == 4
        finally:
            server.terminate()


def test_the_page_shows_the_same_file() -> None:
    """docs/plugins.md has the whole of it, and it is as short as promised."""
    text = (PACKAGES / "lantern" / "__init__.py").read_text()
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert f"```python file=lantern.py\n{text}```\n" in page
    lines = [line.strip() for line in text.splitlines()]
    assert sum(bool(line) and not line.startswith('"""') for line in lines) <= 40, "lines of code"


def test_its_graph_is_shown_from_both_forms_and_from_a_config_alone(models: Models, cli: Cli) -> None:
    found = []
    for path in (models.folder, models.gguf):
        result = cli("graph", str(path), "--backend", "numpy", "--json")
        assert result.code == 0, result.err
        found.append(json.loads(result.out)["nodes"])
    assert [node["name"] for node in found[0]] == [node["name"] for node in found[1]]
    (models.folder / "model.safetensors").unlink()
    result = cli("graph", str(models.folder), "--backend", "numpy")
    assert result.code == 0 and "layer 1" in result.out, result.err


def test_what_is_measured_of_it_is_the_same_from_both_forms(models: Models, cli: Cli, tmp_path: Path) -> None:
    """Commands that print no reply; what `quantize` writes of it is loaded again."""
    text = tmp_path / "text.txt"
    text.write_text("hello world " * 8)
    numpy = ("--backend", "numpy", "--json")
    found = []
    for path in (models.folder, models.gguf):

        def done(*arguments: str) -> Any:
            result = cli(*arguments)
            assert result.code == 0, result.err
            return json.loads(result.out)

        planned = done("plan", str(path), *numpy, "--context", "64")
        traced = done("trace", "hello", "--model", str(path), *numpy, "--runs", "1")
        nodes = [node["name"] for node in traced["prompt of 3"]["nodes"]]
        found.append((planned["family"], planned["parameters"], planned["weights"], planned["prefill"]["flops"], nodes))
        sizes = ("--prompt-tokens", "4", "--new-tokens", "2", "--rounds", "1")
        done("bench", "model", "--model", str(path), "--backends", "numpy", "--no-fast", "--json", *sizes)
        written = tmp_path / f"written{path.suffix}"
        done("quantize", str(path), str(written), "--json", *(("--group-size", "32") if path.is_dir() else ()))
        assert done("perplexity", str(written), str(text), *numpy)["perplexity"] > 1
    assert found[0] == found[1] and found[0][0] == "lantern"
    compared = done("compare", str(models.folder), str(models.gguf), str(text), *numpy)
    assert compared["divergence_max"] < 1e-9
