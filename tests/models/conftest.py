"""Tiny checkpoints of every kind that the readers know, made with random weights, and the real model."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Every byte as its own token, a few merges, and two control tokens: enough for a byte-level tokenizer.
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "1 2", "Ġ Ġ"]


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Any:
    """The real SmolLM2 as a checkpoint."""
    from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint

    return open_checkpoint(smollm2_path)


@pytest.fixture(scope="session")
def smollm2_transformers(smollm2_path: Path) -> Any:
    """transformers' tokenizer of the same file, the outside judge."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name)


def byte_level_vocabulary() -> list[str]:
    """Tokens of the tiny byte-level vocabulary: 256 bytes, the merges' results, `<|im_start|>` and `<|im_end|>`."""
    from tinyllm.models.text.token_text import byte_alphabet

    return [*byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES), "<|im_start|>", "<|im_end|>"]


def write_gguf(
    path: Path,
    architecture: str = "llama",
    tensors: dict[str, Any] | None = None,
    keys: dict[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    pre: str | None = "smollm",
) -> Path:
    """A whole tiny model as GGUF. `tensors` are added (an array, or a pair of raw bytes and type), `keys` override or
    are added."""
    import gguf

    heads, kv_heads, head_dim, hidden, inner, layers = 4, 2, 16, 64, 96, 2
    tokens = byte_level_vocabulary()
    random = np.random.default_rng(5)
    base: dict[str, Any] = {
        "context_length": 128,
        "embedding_length": hidden,
        "block_count": layers,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": head_dim,
    } | (keys or {})
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in base.items():
        full = key if "tokenizer." in key or key.startswith(("general.", "split.")) else f"{architecture}.{key}"
        if key not in drop:
            write_key(writer, full, value)
    if "tokenizer.ggml.model" not in base:
        writer.add_tokenizer_model("gpt2")
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_merges(MERGES)
        writer.add_token_types([1] * (len(tokens) - 2) + [3, 3])
        writer.add_bos_token_id(len(tokens) - 2)
        writer.add_eos_token_id(len(tokens) - 1)
    shapes = {"token_embd.weight": (len(tokens), hidden), "output_norm.weight": (hidden,)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (hidden,),
            f"blk.{layer}.attn_q.weight": (heads * head_dim, hidden),
            f"blk.{layer}.attn_k.weight": (kv_heads * head_dim, hidden),
            f"blk.{layer}.attn_v.weight": (kv_heads * head_dim, hidden),
            f"blk.{layer}.attn_output.weight": (hidden, heads * head_dim),
            f"blk.{layer}.ffn_norm.weight": (hidden,),
            f"blk.{layer}.ffn_gate.weight": (inner, hidden),
            f"blk.{layer}.ffn_up.weight": (inner, hidden),
            f"blk.{layer}.ffn_down.weight": (hidden, inner),
        }
    made: dict[str, Any] = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, value in (made | (tensors or {})).items():
        if isinstance(value, tuple):
            writer.add_tensor(name, value[0], raw_dtype=value[1])
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_key(writer: Any, key: str, value: Any) -> None:
    """Add a key to a GGUF file, of the type that its value has."""
    if isinstance(value, tuple):  # with the type that the file has for it
        writer.add_key_value(key, *value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_folder("llama" or "qwen2", **config)` writes a random model in Hugging Face form by transformers' own
    `save_pretrained`."""
    import torch
    import transformers

    def make(family: str, dtype: str = "float32", shard: str = "50GB", **config: Any) -> Path:
        sizes = {
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
        }
        kind, model = {
            "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
            "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        }[family]
        torch.manual_seed(3)
        made = model(kind(**sizes | config)).to(getattr(torch, dtype))
        folder = tmp_path_factory.mktemp(family)
        made.save_pretrained(folder, max_shard_size=shard)
        return folder

    return make


@pytest.fixture
def bounded() -> Iterator[None]:
    """The most memory that the test's process ever held grows by no more than it may."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 500e6


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny model in Hugging Face form."""
    made = tmp_path_factory.mktemp("hostile")
    from safetensors.numpy import save_file

    from tests.models.hostile import CONFIG, LLAMA3, YARN, survive_config
    from tests.models.kinds import byte_level

    byte_level(made)
    hidden, inner, shapes = (
        64,
        96,
        {"model.embed_tokens.weight": (CONFIG["vocab_size"], 64), "model.norm.weight": (64,)},
    )
    for layer in ("model.layers.0", "model.layers.1"):
        shapes |= {f"{layer}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (64, hidden) for name in "qo"}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (32, hidden) for name in "kv"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (hidden, inner)}
    random = np.random.default_rng(1)
    tensors = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, made / "model.safetensors")
    assert survive_config(made, CONFIG) == ""
    assert survive_config(made, CONFIG | {"rope_scaling": YARN}) == ""
    assert survive_config(made, CONFIG | {"rope_scaling": LLAMA3}) == ""
    return made
