"""Tiny models whose rows are whole groups, of the families that differ in how their tensors lie."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.llm.families.harness import Tiny
from tinyllm.catalogue import CATALOGUE
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.open_model import open_model
from tinyllm.spec.quantized import dense
from tinyllm.spec.scheme import QuantWeight

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
MODELS = {
    "llama": Tiny("Llama", SIZES),
    "qwen3": Tiny("Qwen3", SIZES | {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3_moe": Tiny("Qwen3Moe", SIZES | _EXPERTS | {"mlp_only_layers": [1]}),
    "mixtral": Tiny("Mixtral", SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi3": Tiny("Phi3", SIZES | {"pad_token_id": 0}),
    "gpt_oss": Tiny("GptOss", SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
    "granitemoe": Tiny("GraniteMoe", SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2}),
}


def save(model: str, folder: Path, **options: Any) -> None:
    """Write a model with the config that published ones have, which mlx-lm reads: transformers 5 writes other names."""
    MODELS[model].save(folder, **options)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] != "default":
        config["rope_scaling"] = rope
    if model == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    path.write_text(json.dumps(config))


def weights(path: Path) -> Iterator[tuple[str, Any, NDArray[np.float32]]]:
    """The weights of a model by the graph's names: as they are held, and as floats."""
    opened = open_model(path)
    source = opened.weights(shapes := decoder(opened.config, CATALOGUE).tensors())
    source.check()
    for name in shapes:
        weight = source.read(name)
        yield name, weight, np.asarray(dense(np, weight, np.float32), np.float32)


def assert_near(made: Path, original: Path, kept: tuple[str, ...] = (), steps: float = 0.5) -> set[str]:
    """Each weight of a model is that of the original: the same, or as integers within so many steps of their
    scale. Gives the names of those that are integers.

    kept: endings of the names of matrices that are not.
    """
    quantized = set()
    for (name, weight, found), (_, _, wanted) in zip(weights(made), weights(original), strict=True):
        assert found.shape == wanted.shape
        if not isinstance(weight, QuantWeight):
            assert wanted.ndim == 1 or name.endswith((".mlp.gate.weight", ".bias", "sinks", *kept)), name
            np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-7, err_msg=name)  # less one and back
            continue
        quantized.add(name)
        groups = wanted.reshape(*wanted.shape[:-1], -1, weight.scheme.block)
        scales = np.abs(_scales(weight))[..., None]
        if isinstance(weight.scheme, Affine):  # no scale is wider than the numbers of its group are apart
            apart = np.ptp(groups, axis=-1, keepdims=True)
            assert (scales * (2**weight.scheme.bits - 1) <= apart * 1.01).all(), name
        rounding = 2**-9 * np.abs(groups).max(axis=-1, keepdims=True)  # of scales and biases in 16 bits
        error = np.abs(found.reshape(groups.shape) - groups)
        assert (error <= steps * scales * 1.01 + rounding).all(), name
        assert error.max() > 0, name
    return quantized


def _scales(weight: QuantWeight) -> NDArray[np.float32]:
    if "scales" in weight.arrays:
        return np.asarray(weight.arrays["scales"], np.float32)
    return np.asarray(weight.scheme.as_affine(weight).arrays["scales"], np.float32)
