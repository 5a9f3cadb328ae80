"""The parameters that a plan counts are those of transformers' model on the meta device, for every model of this
folder and for some of their real sizes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

import tests.llm.families as folder
from tests.llm.families.harness import Tiny
from tests.llm.families.test_qwen_delta import DELTA, EXPERTS
from tinyllm.catalogue import CATALOGUE
from tinyllm.graph.tools.plan import parameters
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.families.families import FAMILIES, decoder_config, family_of
from tinyllm.models.families.vision import TOWERS


def _within(value: Any, name: str) -> Iterator[tuple[str, Tiny]]:
    """The tiny models in a value of a test module."""
    if isinstance(value, Tiny):
        yield name, value
    elif isinstance(value, dict | tuple):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _within(each, f"{name}-{key}")


def _models() -> Iterator[tuple[str, Tiny]]:
    for found in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{folder.__name__}.{found.name}")
        for name, value in vars(module).items():
            yield from _within(value, f"{found.name.removeprefix('test_')}-{name}")


SEES: dict[str, Any] = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 48}
OTHERS = {
    "mistral": Tiny("Mistral", {"sliding_window": 12}),
    "smollm3": Tiny("SmolLM3", {"attention_bias": True, "mlp_bias": True}),
    "olmoe": Tiny("Olmoe", {"num_experts": 5, "num_experts_per_tok": 2}),
    "qwen3_5": Tiny("Qwen3_5", DELTA, vision=SEES),
    "qwen3_5_moe": Tiny("Qwen3_5Moe", DELTA | EXPERTS, vision=SEES),
}
"""Of families whose tests make their models within functions, or without a tower."""
MODELS = dict(_models()) | OTHERS
REAL = {
    "llama-70b": (
        "Llama",
        {
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
        },
        70_553_706_496,
        None,
    ),
    "mixtral-8x7b": ("Mixtral", {}, 46_702_792_704, 12_879_925_248),
    "qwen3-30b-a3b": (
        "Qwen3Moe",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "vocab_size": 151936,
        },
        30_532_122_624,
        3_353_032_704,
    ),
    "qwen2.5-0.5b": (
        "Qwen2",
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        494_032_768,
        None,
    ),
}


def theirs(classes: str, config: Any, task: str = "ForCausalLM") -> int:
    with torch.device("meta"):
        model = getattr(transformers, f"{classes}{task}")(config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}  # Ernie has a load that is balanced
    # Gemma 4's scalars of layers are no parameters there
    scalars = sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith("layer_scalar"))
    return scalars + sum(p.numel() for name, p in trained.items() if not name.startswith(TOWERS))


@pytest.mark.parametrize("name", MODELS)
def test_those_of_tiny_models(name: str) -> None:
    tiny = MODELS[name]
    head = {key: value for key, value in tiny.whole.items() if key == "tie_word_embeddings"}
    tiny = replace(tiny, config=head | tiny.config)  # of a config that says two things of it, the file decides
    counted = parameters(decoder(decoder_config(tiny.theirs.to_dict()), CATALOGUE))
    task = "ForCausalLM" if tiny.vision is None else "ForConditionalGeneration"
    assert counted.total == theirs(tiny.classes, tiny.theirs, task)
    assert counted.active <= counted.total


def test_every_family_is_among_them() -> None:
    found = {family_of(tiny.theirs.to_dict()).name for tiny in MODELS.values()}
    assert found == {family.name for family in FAMILIES}


@pytest.mark.parametrize("name", REAL)
def test_those_of_real_models(name: str) -> None:
    """As their cards say, and what a token goes through."""
    classes, changes, total, active = REAL[name]
    config = getattr(transformers, f"{classes}Config")(**changes)
    counted = parameters(decoder(decoder_config(config.to_dict()), CATALOGUE))
    assert (counted.total, counted.active) == (total, total if active is None else active)
    assert counted.total == theirs(classes, config)
