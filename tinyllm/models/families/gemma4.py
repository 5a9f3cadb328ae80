"""Gemma 4, for text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinyllm.models.decoder.config import (
    Activation,
    AttentionConfig,
    DecoderConfig,
    LayerConfig,
    LayerInputConfig,
    MlpConfig,
    MoeConfig,
)
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.experts import experts_of_gguf, routed_experts
from tinyllm.models.families.family import (
    GGUF_NAMES,
    Family,
    GgufForm,
    activation,
    attention,
    attention_by_kind,
    decoder,
    layer_kinds,
    max_position,
)
from tinyllm.models.families.gemma import POST_NORMS
from tinyllm.models.families.gguf_config import config_of_gguf, windows_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.rope_fields import rope_fields
from tinyllm.models.families.tensor_rules import LAYER, TensorRule, renamed

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_ROPES = {
    _LOCAL: {"rope_type": "default", "rope_theta": 1e4},
    _GLOBAL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}
_SIZES = {"head_dim", "num_key_value_heads"}
"""What layers may have otherwise than the config says."""


def gemma4(config: Mapping[str, Any]) -> DecoderConfig:
    """Gemma 4: larger heads and a rope of their own for layers without a window, one of six; norms of values as well;
    perhaps inputs for each layer, last layers that read the keys and values of others, and experts beside a dense
    layer. Source: transformers' `Gemma4TextConfig`."""
    fields = ConfigFields({**config, "rope_parameters": config.get("rope_parameters") or _ROPES})
    fields.only("use_bidirectional_attention", "vision")  # tokens of pictures see one another
    kinds = _kinds(fields)
    attends = _attentions(fields, kinds)
    hidden, acts = fields.integer("hidden_size"), activation(fields, "gelu_pytorch_tanh", "hidden_activation")
    dense, experts = MlpConfig(fields.integer("intermediate_size"), acts), _experts(fields, acts)
    wide = replace(dense, size=2 * dense.size) if fields.flag("use_double_wide_mlp", False) else dense
    places = list(zip(kinds, _kv_layers(fields, kinds), strict=True))
    made = {
        (kind, kv): LayerConfig(
            replace(attends[kind], kv_layer=kv),
            dense if kv is None else wide,
            norms="both",
            experts=experts,
            scaled=True,
        )
        for kind, kv in dict.fromkeys(places)
    }
    softcap = None if fields.get("final_logit_softcapping") is None else fields.number("final_logit_softcapping")
    return decoder(
        "gemma4_text",
        fields,
        tuple(made[place] for place in places),
        embedding_multiplier=hidden**0.5,
        logit_softcap=softcap,
        layer_input=_layer_input(fields, hidden, acts),
        tie_word_embeddings=True,
    )


def _kinds(fields: ConfigFields) -> list[str]:
    last = fields.integer("num_hidden_layers") - 1
    kinds = layer_kinds(fields, lambda layer: _GLOBAL if layer % 6 == 5 or layer == last else _LOCAL)
    if kinds[-1] != _GLOBAL:
        raise fail("layer_types", f"{_GLOBAL} for the last layer", kinds[-1])
    return kinds


def _attentions(fields: ConfigFields, kinds: list[str]) -> dict[str, AttentionConfig]:
    """The attention of each kind of layer."""
    biases = dict.fromkeys(("qkv_bias", "o_bias"), fields.flag("attention_bias", False))
    alike, sizes = fields.flag("attention_k_eq_v", False), _sizes(fields, kinds)
    made = {
        kind: attention(
            fields.changed(sizes[kind]),
            rope_fields(fields, max_position(fields), kind),
            qk_norm="head",
            v_norm=True,
            v_is_k=alike and kind == _GLOBAL,
            scale=1.0,
            **biases,
        )
        for kind in dict.fromkeys(kinds)
    }
    return attention_by_kind(fields, made[_GLOBAL], kinds, made.get(_LOCAL))


def _sizes(fields: ConfigFields, kinds: list[str]) -> dict[str, dict[str, Any]]:
    """What layers of each kind have in place of the sizes of heads and their number that the config states: by number
    of layer, as transformers writes it, or by the fields that published files have."""
    by_number = fields.get("per_layer_config")
    if by_number is None:
        of_global = {"head_dim": fields.integer("global_head_dim", 512)}
        heads = fields.get("num_global_key_value_heads")
        if heads is not None and fields.flag("attention_k_eq_v", False):
            of_global["num_key_value_heads"] = fields.integer("num_global_key_value_heads")
        return {_GLOBAL: of_global, _LOCAL: {}}
    fields.ignore("global_head_dim", "num_global_key_value_heads")
    stated = {str(number).lstrip("0") or "0": sizes for number, sizes in _mapping(by_number).items()}
    if not stated.keys() <= {*map(str, range(len(kinds)))} or any(_mapping(s).keys() - _SIZES for s in stated.values()):
        raise fail("per_layer_config", f"{' and '.join(sorted(_SIZES))} by the numbers of layers", by_number)
    found: dict[str, dict[str, Any]] = {}
    for number, kind in enumerate(kinds):
        sizes = dict(stated.get(str(number), {}))
        if found.setdefault(kind, sizes) != sizes:
            raise fail("per_layer_config", f"the same for all layers of {kind}", by_number)
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise fail("per_layer_config", "objects by the numbers of layers", value)
    return value


def _kv_layers(fields: ConfigFields, kinds: list[str]) -> list[int | None]:
    """For each layer the one whose keys and values it reads: the last of its kind that has its own; None: it has."""
    shared = fields.integer("num_kv_shared_layers", 0)
    own = max(len(kinds) - shared, 0)
    last = {kind: number for number, kind in enumerate(kinds[:own])}
    if last.keys() != {*kinds}:
        raise fail("num_kv_shared_layers", "a layer of each kind with keys and values of its own before them", shared)
    return [None] * own + [last[kind] for kind in kinds[own:]]


def _layer_input(fields: ConfigFields, hidden: int, acts: Activation) -> LayerInputConfig | None:
    size = fields.integer("hidden_size_per_layer_input", 0)
    if size == 0:
        fields.ignore("vocab_size_per_layer_input")
        return None
    fields.only("vocab_size_per_layer_input", fields.integer("vocab_size"))
    return LayerInputConfig(size, acts, multiplier=size**0.5, projection_multiplier=hidden**-0.5)


def _experts(fields: ConfigFields, acts: Activation) -> MoeConfig | None:
    if not fields.flag("enable_moe_block", False):
        fields.ignore("num_experts", "top_k_experts", "moe_intermediate_size")
        return None
    if acts == "gelu":
        raise fail("hidden_activation", "gelu_pytorch_tanh or silu for experts", fields.get("hidden_activation"))
    return routed_experts(
        fields,
        fields.integer("moe_intermediate_size"),
        "top_k_experts",
        activation=acts,
        router_multiplier=fields.integer("hidden_size") ** -0.5,
        expert_scale=True,
    )


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    """Heads and feed-forward layers are stated layer by layer; that values are what is projected to keys shows in
    tensors that are not there."""
    layers, windows = fields.integer("block_count"), windows_of_gguf(fields)
    kinds = windows["layer_types"]
    shared = fields.integer("attention.shared_kv_layers", 0)
    kv_heads, inner = (_by_layer(fields, key, layers) for key in ("attention.head_count_kv", "feed_forward_length"))
    if inner not in ([inner[0]] * layers, wide := [inner[0]] * (layers - shared) + [2 * inner[0]] * shared):
        raise fields.fail("feed_forward_length", f"{inner[0]} or {wide}", inner)
    head_dims = {kind: fields.integer(f"attention.key_length{end}") for kind, end in ((_GLOBAL, ""), (_LOCAL, "_swa"))}
    for key, kind in _OF_HEADS.items():
        if (stated := fields.integer(key, head_dims[kind])) != head_dims[kind]:
            raise fields.fail(key, f"the head size {head_dims[kind]}", stated)
    config = config_of_gguf(fields, "gemma4_text", kv_heads=kv_heads[0], inner_size=inner[0])
    del config["hidden_act"]
    scaling, theta = config.pop("rope_scaling") or {"rope_type": "default"}, config.pop("rope_theta")
    if scaling["rope_type"] not in ("default", "proportional"):
        raise fields.fail("rope.scaling.type", "none", scaling["rope_type"])
    local = {"rope_type": "default", "rope_theta": fields.number("rope.freq_base_swa")} if _LOCAL in kinds else {}
    tensors = fields.file.tensors
    unshared = [number for number in range(layers - shared) if kinds[number] == _GLOBAL]
    if fields.get("expert_count"):
        experts = experts_of_gguf(fields)
        config |= experts | {"enable_moe_block": True, "top_k_experts": experts.pop("num_experts_per_tok")}
    fields.ignore("expert_feed_forward_length")
    softcap = "final_logit_softcapping"
    return {
        **config,
        **windows,
        "attention_bias": fields.biases()["attention_bias"],
        "hidden_activation": "gelu_pytorch_tanh",
        "per_layer_config": {
            str(number): {"head_dim": head_dims[kind], "num_key_value_heads": kv_heads[number]}
            for number, kind in enumerate(kinds)
        },
        "rope_parameters": {_GLOBAL: scaling | {"rope_theta": theta}, _LOCAL: local},
        "attention_k_eq_v": any(f"blk.{number}.attn_v.weight" not in tensors for number in unshared),
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": inner[-1] != inner[0],
        "hidden_size_per_layer_input": fields.integer("embedding_length_per_layer_input", 0),
        softcap: None if fields.get(softcap) is None else fields.number(softcap),
    }


def _by_layer(fields: GgufFields, key: str, layers: int) -> list[int]:
    """A number for each layer, where the file may have one for all."""
    stated = fields.get(key)
    if not isinstance(stated, list):
        return [fields.integer(key)] * layers
    if len(stated) != layers or any(type(number) is not int or number < 1 for number in stated):
        raise fields.fail(key, f"a positive integer for each of {layers} layers", stated)
    return stated


_OF_HEADS = {
    "rope.dimension_count": _GLOBAL,
    "attention.value_length_swa": _LOCAL,
    "rope.dimension_count_swa": _LOCAL,
}
_SCALE = f"{LAYER}mlp.gate.per_expert_scale"
_GATE, _UP, _DOWN = (f"{LAYER}mlp.experts.{name}_proj.weight" for name in ("gate", "up", "down"))
_IN_FOLDERS = (
    *POST_NORMS,
    *renamed({"mlp.gate": "router.proj"}),
    TensorRule(f"{LAYER}router.scale", (f"{LAYER}router_norm.weight",)),
    TensorRule(f"{LAYER}router.per_expert_scale", (_SCALE,)),
    TensorRule(f"{LAYER}experts.gate_up_proj", (_GATE, _UP)),
    TensorRule(f"{LAYER}experts.down_proj", (_DOWN,)),
)
_IN_GGUF = (
    TensorRule("per_layer_token_embd", ("model.embed_tokens_per_layer",)),
    TensorRule("per_layer_model_proj", ("model.per_layer_model_projection",)),
    TensorRule("per_layer_proj_norm", ("model.per_layer_projection_norm",)),
    TensorRule("blk.{layer}.layer_output_scale.weight", (f"{LAYER}layer_scalar",)),
    TensorRule("blk.{layer}.ffn_gate_inp.scale", (f"{LAYER}router_norm.weight",)),
    TensorRule("blk.{layer}.ffn_down_exps.scale", (_SCALE,)),
    TensorRule("blk.{layer}.ffn_gate_up_exps.weight", (_GATE, _UP)),
    *(
        TensorRule(f"blk.{{layer}}.{theirs}", (LAYER + ours,))
        for theirs, ours in {
            "inp_gate": "per_layer_input_gate",
            "proj": "per_layer_projection",
            "post_norm": "post_per_layer_input_norm",
            "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
            "post_ffw_norm_1": "post_feedforward_layernorm_1",
            "post_ffw_norm_2": "post_feedforward_layernorm_2",
        }.items()
    ),
    *GGUF_NAMES,
)
FAMILY = Family(
    "gemma4_text",
    ("gemma4_text", "gemma4_unified_text"),
    gemma4,
    _IN_FOLDERS,
    GgufForm(("gemma4",), _from_gguf, _IN_GGUF),
)
