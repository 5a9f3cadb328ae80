"""Mixtures of experts as configs and files state them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyllm.models.decoder.config import MlpConfig, MoeConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.tensor_rules import LAYER, TensorRule, renamed

_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Names of the number of experts; transformers 5 writes the second where it had the first."""


def experts_in(
    module: str = "mlp", names: tuple[str, str, str] = _PROJECTIONS, transposed: bool | None = False
) -> tuple[TensorRule, ...]:
    """Rules for the experts of folders.

    Each has tensors of its own, `MODULE.experts.3.gate_proj`; or all lie in one, gates and ups together as
    transformers has them in memory, or apart as mlx-lm has them.

    names: of gate, up and down in tensors of single experts. transposed: of the tensors of all, see `TensorRule`.
    """
    ours = tuple(f"{LAYER}mlp.experts.{name}" for name in _PROJECTIONS)
    return (
        *(
            TensorRule(f"{LAYER}{module}.experts.{{expert}}.{theirs}", (weight,))
            for theirs, weight in zip(names, ours, strict=True)
        ),
        *(
            TensorRule(
                f"{LAYER}{module}.experts.{merged}", tuple(f"{name}.weight" for name in which), False, transposed
            )
            for merged, which in (("gate_up_proj", ours[:2]), ("down_proj", ours[2:]))
        ),
        *(
            TensorRule(f"{LAYER}{module}.switch_mlp.{name}", (weight,))
            for name, weight in zip(_PROJECTIONS, ours, strict=True)
        ),
    )


SHARED_EXPERTS = renamed({f"mlp.shared_expert.{name}": f"mlp.shared_experts.{name}" for name in _PROJECTIONS})
"""The shared expert as folders have it that call it several."""
GGUF_SHARED_EXPERT = tuple(
    TensorRule(f"blk.{{layer}}.{theirs}", (f"{LAYER}mlp.{ours}",))
    for theirs, ours in {
        "ffn_gate_shexp": "shared_expert.gate_proj",
        "ffn_up_shexp": "shared_expert.up_proj",
        "ffn_down_shexp": "shared_expert.down_proj",
        "ffn_gate_inp_shexp": "shared_expert_gate",
    }.items()
)
"""Names of the shared expert in GGUF files."""
GGUF_SINGLE_EXPERTS = tuple(
    TensorRule(f"blk.{{layer}}.ffn_{name}.{{expert}}", (f"{LAYER}mlp.experts.{name}_proj",))
    for name in ("gate", "up", "down")
)
"""Names of the first GGUF files with experts, of Mixtral, where each has tensors of its own."""
CORRECTION_BIAS = f"{LAYER}mlp.gate.e_score_correction_bias"
GGUF_CORRECTION_BIAS = TensorRule("blk.{layer}.exp_probs_b.bias", (CORRECTION_BIAS,))
_BY_SIGMOID = 2
"""llama.cpp's number for it."""


def routed_experts(
    fields: ConfigFields, size: int, chosen_by: str = "num_experts_per_tok", **settings: Any
) -> MoeConfig:
    """Experts of a size, some of them for each token, whose number is in a field; settings: the rest of a
    `MoeConfig`."""
    written = next((name for name in _COUNTS if fields.get(name) is not None), _COUNTS[0])
    experts = fields.integer(written)
    chosen = fields.integer(chosen_by)
    if chosen > experts:
        raise fail(chosen_by, f"at most the {experts} experts", chosen)
    fields.ignore("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")  # of training
    return MoeConfig(size, experts, chosen, **settings)


def softmax_experts(fields: ConfigFields, normalize: bool = False, **settings: Any) -> MoeConfig:
    """Experts whose weights are a softmax of all logits; settings: the rest of a `MoeConfig`."""
    settings["normalize"] = fields.flag("norm_topk_prob", normalize)
    return routed_experts(fields, fields.integer("moe_intermediate_size"), **settings)


def sigmoid_experts(fields: ConfigFields, **settings: Any) -> MoeConfig:
    """Experts whose weights are the sigmoids of their logits; settings: the rest of a `MoeConfig`."""
    settings["normalize"] = fields.flag("norm_topk_prob", True)
    settings["scaling"] = fields.number("routed_scaling_factor", 1.0)
    return routed_experts(fields, fields.integer("moe_intermediate_size"), score="sigmoid", **settings)


def sparse_layers(fields: ConfigFields, dense: MlpConfig, sparse: MoeConfig) -> Callable[[int], MlpConfig | MoeConfig]:
    """The feed-forward part of each layer: experts in every `decoder_sparse_step`-th, but in none of
    `mlp_only_layers`."""
    step = fields.integer("decoder_sparse_step", 1)
    plain = fields.get("mlp_only_layers", [])
    if not isinstance(plain, list) or any(type(layer) is not int for layer in plain):
        raise fail("mlp_only_layers", "a list of layers", plain)
    return lambda layer: dense if layer in plain or (layer + 1) % step else sparse


def expert_groups(fields: ConfigFields) -> dict[str, int]:
    """The groups of experts, some of which are kept for each token."""
    experts, chosen = fields.integer("n_routed_experts"), fields.integer("num_experts_per_tok")
    groups, kept = fields.integer("n_group", 1), fields.integer("topk_group", 1)
    if experts % groups or (groups > 1 and experts // groups < 2):
        raise fail("n_group", f"a divisor of the {experts} experts, with 2 or more each", groups)
    if kept > groups or experts // groups * kept < chosen:
        raise fail("topk_group", f"a part of the {groups} groups with {chosen} experts or more", kept)
    return {"groups": groups, "groups_kept": kept}


def first_dense(
    fields: ConfigFields, field: str, default: int, dense: MlpConfig, sparse: MoeConfig
) -> Callable[[int], MlpConfig | MoeConfig]:
    """The feed-forward part of each layer: experts in all but the first ones, whose number is in a field."""
    count = fields.integer(field, default)
    return lambda layer: dense if layer < count else sparse


def experts_of_gguf(fields: GgufFields) -> dict[str, Any]:
    """The fields of a `config.json` that say how many experts there are, and of which size."""
    return _counts_of_gguf(fields) | {"moe_intermediate_size": fields.integer("expert_feed_forward_length")}


def experts_alone_of_gguf(fields: GgufFields) -> dict[str, Any]:
    """The same of families that have no dense layers, whose `intermediate_size` is that of an expert."""
    size = fields.integer("expert_feed_forward_length", fields.integer("feed_forward_length"))
    return _counts_of_gguf(fields) | {"intermediate_size": size}


def sigmoid_experts_of_gguf(fields: GgufFields) -> dict[str, Any]:
    """The same of experts that are chosen by sigmoids."""
    if (gating := fields.get("expert_gating_func", _BY_SIGMOID)) not in (0, _BY_SIGMOID):
        raise fields.fail("expert_gating_func", f"{_BY_SIGMOID}, the sigmoid", gating)
    return experts_of_gguf(fields) | {
        "norm_topk_prob": fields.get("expert_weights_norm", True),
        "routed_scaling_factor": fields.number("expert_weights_scale", 1.0),
    }


def _counts_of_gguf(fields: GgufFields) -> dict[str, Any]:
    return {"num_experts": fields.integer("expert_count"), "num_experts_per_tok": fields.integer("expert_used_count")}
