"""What a GGUF file may say of a decoder: a value for every key under the architecture's prefix that readers of families
ask for, and the divisors of ropes. Which of them a file has is for the family to say that reads it."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyllm.models.decoder.config import (
    AttentionConfig,
    DecoderConfig,
    GatedDeltaConfig,
    MlpConfig,
    MoeConfig,
    RopeConfig,
    ShortConvConfig,
)
from tinyllm.models.families.gguf_rope import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS, STILL
from tinyllm.spec.rope import RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor, inverse_frequencies

_Kind = TypeVar("_Kind")
_NOT_SAID = {"family", "bos_token_id", "eos_token_ids"}
"""Fields of a decoder that are none of its numbers."""
_CLOSE = 1e-5
"""How near numbers are that a file has as float32, some of them as roots or squares."""


_REAL = ("epsilon", "scale", "softcapping", "freq_base", "freq_base_swa", "factor", "_multiplier", "_fast", "_slow")
"""How keys of real numbers end: llama.cpp takes no integers for them."""


def gguf_keys(config: DecoderConfig) -> dict[str, Any]:
    """Values by key, those of layers as one number where they are alike."""
    attends = [layer.attention for layer in config.layers if isinstance(layer.attention, AttentionConfig)]
    made: dict[str, Any] = {
        "block_count": config.num_layers,
        "context_length": config.max_position,
        "embedding_length": config.hidden_size,
        "vocab_size": config.vocab_size,
        "attention.layer_norm_rms_epsilon": config.norm.eps,
        "attention.layer_norm_epsilon": config.norm.eps,
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.layers[0].residual_multiplier,
        "logit_scale": config.logit_multiplier,
        "final_logit_softcapping": config.logit_softcap,
        "embedding_length_per_layer_input": config.layer_input.size if config.layer_input else 0,
        **_feed_forward(config),
        **_recurrent(config),
    }
    if attends:
        made |= _attention(config, attends)
    told = {key: value for key, value in made.items() if value is not None}
    return {key: float(value) if key.endswith(_REAL) else value for key, value in told.items()}


def rope_tensors(config: DecoderConfig) -> dict[str, NDArray[np.float32]]:
    """The divisors of the rope's frequencies, by the names of tensors; empty where keys say all of it."""
    attends = [layer.attention for layer in config.layers if isinstance(layer.attention, AttentionConfig)]
    rope = _ropes(attends)[0]
    if rope is None:
        return {}
    scaling = rope.scaling
    if scaling.kind == "longrope":
        sets = ((SHORT_FACTORS, scaling.short_factor), (LONG_FACTORS, scaling.long_factor))
        return {name: np.array(factors, np.float32) for name, factors in sets}
    if scaling.kind not in ("llama3", "proportional"):
        return {}
    frequencies = inverse_frequencies(rope.dims, rope.theta, scaling)
    turning = frequencies > 0
    plain = inverse_frequencies(rope.dims, rope.theta)
    divisors = np.divide(plain, frequencies, out=np.full(len(plain), STILL), where=turning)
    return {ROPE_FACTORS: divisors.astype(np.float32)}


def first_difference(left: Any, right: Any, where: str = "") -> str | None:
    """The first field in which two decoders are not the same model, with both values; None: there is none."""
    if isinstance(left, RopeConfig) and isinstance(right, RopeConfig):
        left, right = (replace(rope, scaling=_resolved(rope)) for rope in (left, right))
    if is_dataclass(left) and type(left) is type(right):
        names = [field.name for field in fields(left) if field.name not in _NOT_SAID]
        pairs = [(f"{where}.{name}".lstrip("."), getattr(left, name), getattr(right, name)) for name in names]
    elif isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right):
        pairs = [(f"{where}[{index}]", *both) for index, both in enumerate(zip(left, right, strict=True))]
    elif isinstance(left, float) and isinstance(right, (int, float)) and math.isclose(left, right, rel_tol=_CLOSE):
        return None
    elif type(left) is not type(right) and is_dataclass(left) and is_dataclass(right):
        return f"{where} is of {type(left).__name__}, not {type(right).__name__}"
    else:
        return None if left == right else f"{where} is {left!r}, not {right!r}"
    return next((found for at, ours, theirs in pairs if (found := first_difference(ours, theirs, at))), None)


def _resolved(rope: RopeConfig) -> RopeScaling:
    """Its scaling with the numbers that it comes to, however they are said."""
    scaling, pairs = rope.scaling, rope.dims // 2
    if scaling.kind == "proportional":
        return replace(scaling, partial_rotary_factor=int(scaling.partial_rotary_factor * rope.dims // 2) / pairs)
    if scaling.kind not in ("yarn", "longrope") or scaling.short_mscale is not None:
        return scaling
    return replace(scaling, attention_factor=attention_factor(scaling), mscale=None, mscale_all_dim=None)


def _alike(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else values


def _first(items: list[Any], kind: type[_Kind]) -> _Kind | None:
    return next((item for item in items if isinstance(item, kind)), None)


def _attention(config: DecoderConfig, attends: list[AttentionConfig]) -> dict[str, Any]:
    whole = next((each for each in attends if each.window is None), attends[0])
    sliding = next((each for each in attends if each.window is not None), None)
    # none where a short convolution stands in place of attention
    mixers = [layer.attention for layer in config.layers if not isinstance(layer.attention, GatedDeltaConfig)]
    kv_heads = [mixer.num_kv_heads if isinstance(mixer, AttentionConfig) else 0 for mixer in mixers]
    made: dict[str, Any] = {
        "attention.head_count": whole.num_heads,
        "attention.head_count_kv": _alike(kv_heads),
        "attention.key_length": whole.head_dim,
        "attention.value_length": whole.head_dim,
        "attention.scale": whole.head_dim**-0.5 if whole.scale is None else whole.scale,
        "attention.shared_kv_layers": sum(each.kv_layer is not None for each in attends),
        "attn_logit_softcapping": whole.softcap,
        "rope.dimension_count": whole.head_dim,
    }
    rope, local = _ropes(attends)
    if rope is not None:
        made |= {"rope.dimension_count": rope.dims, "rope.freq_base": rope.theta, **_scaling(rope)}
    if sliding is not None:
        made |= {
            "attention.sliding_window": sliding.window,
            "attention.sliding_window_pattern": [
                isinstance(layer.attention, AttentionConfig) and layer.attention.window is not None
                for layer in config.layers
            ],
            "attention.key_length_swa": sliding.head_dim,
            "attention.value_length_swa": sliding.head_dim,
        }
    if local is not None:
        made |= {"rope.freq_base_swa": local.theta, "rope.dimension_count_swa": local.dims}
    return made


def _ropes(attends: list[AttentionConfig]) -> tuple[RopeConfig | None, RopeConfig | None]:
    """The rope of layers that see everything, else of any, and that of layers with a window."""
    whole = [each.rope for each in attends if each.window is None and each.rope]
    sliding = [each.rope for each in attends if each.window is not None and each.rope]
    return next(iter([*whole, *sliding]), None), next(iter(sliding), None)


def _scaling(rope: RopeConfig) -> dict[str, Any]:
    scaling = rope.scaling
    made: dict[str, Any] = {"attention.temperature_scale": rope.query_log_scale or None}
    if scaling.kind not in ("linear", "yarn", "longrope"):
        return made  # in tensors, or nowhere
    made["rope.scaling.type"] = scaling.kind
    if scaling.kind != "longrope":  # whose factor is that of the lengths, and by which llama.cpp divides positions
        made["rope.scaling.factor"] = scaling.factor
    if scaling.kind == "linear":
        return made
    made["rope.scaling.original_context_length"] = scaling.original_max_position
    factor = attention_factor(scaling)
    if scaling.kind == "longrope":
        return made | {"rope.scaling.attn_factor": factor}
    made |= {"rope.scaling.yarn_beta_fast": scaling.beta_fast, "rope.scaling.yarn_beta_slow": scaling.beta_slow}
    if scaling.mscale_all_dim and scaling.attention_factor is None:
        return made | {"rope.scaling.yarn_log_multiplier": scaling.mscale_all_dim}
    own = 0.1 * math.log(max(scaling.factor, 1)) + 1  # which files have its multiple of
    return made if math.isclose(factor, own) else made | {"rope.scaling.attn_factor": factor / own}


def _feed_forward(config: DecoderConfig) -> dict[str, Any]:
    fed = [layer.experts or layer.mlp for layer in config.layers]
    experts = _first([*fed], MoeConfig)
    dense = [layer.mlp.size for layer in config.layers if isinstance(layer.mlp, MlpConfig)]
    made: dict[str, Any] = {"feed_forward_length": _alike(dense) if dense else None}
    if experts is None:
        return made
    sparse = [number for number, each in enumerate(fed) if isinstance(each, MoeConfig)]
    return {
        "feed_forward_length": made["feed_forward_length"] or experts.size,
        "expert_count": experts.num_experts,
        "expert_used_count": experts.top_k,
        "expert_feed_forward_length": experts.size,
        "expert_shared_feed_forward_length": experts.shared_size or None,
        "expert_shared_count": -(-experts.shared_size // experts.size) or None,
        "expert_weights_norm": experts.normalize,
        "expert_weights_scale": float(experts.scaling),
        "expert_gating_func": {"softmax": 1, "sigmoid": 2, "softmax_of_chosen": 3}[experts.score],
        "expert_group_count": experts.groups,
        "expert_group_used_count": experts.groups_kept,
        "leading_dense_block_count": sparse[0],
        "interleave_moe_layer_step": sparse[1] - sparse[0] if len(sparse) > 1 else 1,
    }


def _recurrent(config: DecoderConfig) -> dict[str, Any]:
    mixers = [layer.attention for layer in config.layers]
    made: dict[str, Any] = {}
    if (convolves := _first([*mixers], ShortConvConfig)) is not None:
        made["shortconv.l_cache"] = convolves.width
    if (delta := _first([*mixers], GatedDeltaConfig)) is not None:
        made |= {
            "ssm.group_count": delta.num_heads,
            "ssm.state_size": delta.head_dim,
            "ssm.time_step_rank": delta.num_value_heads,
            "ssm.inner_size": delta.num_value_heads * delta.value_head_dim,
            "ssm.conv_kernel": delta.width,
        }
        whole = [number for number, each in enumerate(mixers) if isinstance(each, AttentionConfig)]
        made["full_attention_interval"] = whole[0] + 1 if whole else len(mixers) + 1
    return made
