"""A saved folder as a GGUF file: names by the `gguf` package's own tables, rows and numbers as llama.cpp's converter
is known to change them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.models.conftest import write_key

Change = Callable[[str, NDArray[Any]], NDArray[Any] | dict[str, NDArray[Any]]]
_KEYS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "norm_epsilon": "attention.layer_norm_epsilon",
    "sliding_window": "attention.sliding_window",
    "vocab_size": "vocab_size",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
}


def write_gguf(
    folder: Path,
    architecture: str,
    keys: Mapping[str, Any] | None = None,
    change: Change | None = None,
    extra: Mapping[str, NDArray[Any] | tuple[NDArray[Any], Any]] | None = None,
) -> Path:
    """Write the checkpoint of a folder beside itself.

    Args:
        keys: under the architecture's prefix, instead of those that follow from `config.json` or beside them; None
            leaves one out.
        change: what the converter makes of a tensor, by its name in the folder: another, or several by name.
        extra: tensors that the folder has not, by their names in the file; a pair: blocks, and their type.
    """
    config = json.loads((folder / "config.json").read_text())
    tensors = _stacked(load_file(folder / "model.safetensors"))
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config["num_hidden_layers"])
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (_keys(config) | dict(keys or {})).items():
        if value is not None:
            write_key(writer, key if key.startswith("tokenizer.") else f"{architecture}.{key}", value)
    for stored, tensor in tensors.items():
        made = tensor if change is None else change(stored, tensor)
        for name, each in (made if isinstance(made, dict) else {stored: made}).items():
            written = names.get_name(name, (".weight", ".bias", ".scale"))
            assert written, f"gguf has no name for {name}"
            writer.add_tensor(written, np.ascontiguousarray(each))
    for written, tensor in (extra or {}).items():
        blocks, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(written, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def by_neighbours(head_dim: int) -> Change:
    """Rows of queries and keys as files have them that are rotated by neighbours: row i and i + D / 2 of a head lie
    one below the other."""

    def change(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
        if not re.search(r"\.[qk]_proj\.", name):
            return tensor
        halves = tensor.reshape(-1, 2, head_dim // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)

    return change


def _keys(config: Mapping[str, Any]) -> dict[str, Any]:
    keys = {key: config[field] for field, key in _KEYS.items() if config.get(field) is not None}
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    keys |= dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), head_dim)
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        keys["rope.freq_base"] = float(rope["rope_theta"])
    if rope.get("rope_type") in ("linear", "yarn"):
        keys |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
        keys["rope.scaling.original_context_length"] = rope.get("original_max_position_embeddings")
    return keys


def _stacked(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Tensors of single experts as one for all of them."""
    made: dict[str, NDArray[Any]] = {}
    experts: dict[str, dict[int, NDArray[Any]]] = {}
    for name, tensor in tensors.items():
        if of_expert := re.fullmatch(r"(.*\.experts)\.(\d+)(\..*)", name):
            stem, number, ending = of_expert.groups()
            experts.setdefault(stem + ending, {})[int(number)] = tensor
        else:
            made[name] = tensor
    return made | {name: np.stack([each[n] for n in range(len(each))]) for name, each in experts.items()}
