"""Granite."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import by_neighbours, write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import MoeConfig
from tinyllm.models.families.families import decoder_config

MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.2,
    "logits_scaling": 4.0,
}
KEYS = ("embedding_scale", "residual_scale", "attention.scale", "logit_scale")
TINY = Tiny("Granite", MULTIPLIERS | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True})


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    judge = TINY.save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    keys = dict(zip(KEYS, MULTIPLIERS.values(), strict=True))
    assert_same_logits(tmp_path, write_gguf(tmp_path, "granite", keys, by_neighbours(8)))


MOE = MULTIPLIERS | {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 24, "num_hidden_layers": 2}
WITH_EXPERTS = {
    "experts": Tiny("GraniteMoe", MOE | {"tie_word_embeddings": True}),
    "shared-bias": Tiny("GraniteMoeShared", MOE | {"shared_intermediate_size": 40, "attention_bias": True}),
}


@pytest.mark.parametrize("model", WITH_EXPERTS)
def test_experts_are_the_judges(model: str, tmp_path: Path) -> None:
    tiny = WITH_EXPERTS[model]
    judge = tiny.save(tmp_path)
    for backend in ["numpy"] if model == "experts" else backends():
        assert_is_the_judges(tmp_path, judge, backend)

    def apart(name: str, tensor: Any) -> Any:
        module = "mlp.shared_experts" if "shared_mlp" in name else "mlp.experts"
        stem = name.rpartition(".")[0].rpartition(".")[0].rpartition(".")[0]
        if name.endswith("output_linear.weight"):
            return {f"{stem}.{module}.down_proj.weight": tensor}
        if name.endswith("input_linear.weight"):
            halves = zip(("gate_proj", "up_proj"), np.split(tensor, 2, axis=-2), strict=True)
            return {f"{stem}.{module}.{each}.weight": half for each, half in halves}
        return by_neighbours(8)(name, tensor)

    keys: dict[str, Any] = dict(zip(KEYS, MULTIPLIERS.values(), strict=True))
    keys |= {"expert_count": 5, "expert_used_count": 2}
    keys["expert_shared_feed_forward_length"] = tiny.config.get("shared_intermediate_size")
    assert_same_logits(tmp_path, write_gguf(tmp_path, "granitemoe", keys, apart))


def test_own_configs_with_experts_are_understood_whole() -> None:
    experts = MoeConfig(11008, 8, 2, "softmax_of_chosen", normalize=False)
    for kind in ("GraniteMoe", "GraniteMoeShared"):
        assert decoder_config(own_config(kind)).layers[0].mlp == experts


def test_fields_are_understood_or_named() -> None:
    """transformers' own config has a scale of scores of 1, which is not that of the heads."""
    assert decoder_config(own_config("Granite")).layers[0].attention.scale == 1
    for field in MULTIPLIERS:
        with pytest.raises(CheckpointError, match=f"config: {field}: expected a number above 0"):
            decoder_config(own_config("Granite", **{field: 0}))


HYBRID = MULTIPLIERS | {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2, "shared_intermediate_size": 40}
HYBRID["mamba_n_heads"] = 8  # transformers wants them to divide, though no layer has them
ATTENDING = {
    "dense": Tiny("GraniteMoeHybrid", HYBRID | {"num_local_experts": 0, "position_embedding_type": "rope"}),
    "experts-nope": Tiny(
        "GraniteMoeHybrid", HYBRID | {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 24}
    ),
}


@pytest.mark.parametrize("model", ATTENDING)
def test_granite_4_that_attends_throughout_is_the_judges(model: str, tmp_path: Path) -> None:
    judge = ATTENDING[model].save(tmp_path)
    for backend in backends() if model == "dense" else ["numpy"]:
        assert_is_the_judges(tmp_path, judge, backend)
    config = judge.config.to_dict()
    published = config | {"layer_types": None, "layers_block_type": ["attention"] * 2}
    assert decoder_config(published) == decoder_config(config)


def test_a_field_that_granite_4_leaves_out_is_as_transformers_has_it() -> None:
    whole = own_config("GraniteMoeHybrid", layer_types=["full_attention"] * 32)
    for field in set(whole) - {"model_type", "layer_types", "bos_token_id", "eos_token_id"}:
        with contextlib.suppress(CheckpointError):  # asked for
            assert decoder_config({name: whole[name] for name in whole if name != field}) == decoder_config(whole)


def test_state_space_layers_are_refused() -> None:
    for kinds in ({"layer_types": ["linear_attention"] * 32}, {"layers_block_type": ["mamba"] * 32}):
        with pytest.raises(CheckpointError, match="layer_types: expected attention for each layer, as there are no"):
            decoder_config(own_config("GraniteMoeHybrid") | {"layer_types": None} | kinds)
