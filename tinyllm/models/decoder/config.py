"""What a decoder-only transformer is made of: a record for each layer, for every family.

Sizes are counts of elements. Equal layers share one object, and layers with equal ropes share their angles.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from tinyllm.spec.rope import RopeScaling

Activation = Literal["silu", "gelu", "gelu_tanh"]
Places = Literal["before", "after", "both"]


@dataclass(frozen=True)
class RopeConfig:
    """How queries and keys are rotated. dims: how many of a head's. traditional: pairs are (2i, 2i + 1).

    query_log_scale, query_log_period: the `log_scale` and `log_period` of the op `rope_angles`, of queries alone.
    """

    dims: int
    theta: float = 10000.0
    scaling: RopeScaling = field(default_factory=RopeScaling)
    traditional: bool = False
    query_log_scale: float = 0.0
    query_log_period: int | None = None

    @property
    def of_keys(self) -> RopeConfig:
        """The same without what is of queries alone."""
        return replace(self, query_log_scale=0.0, query_log_period=None)


@dataclass(frozen=True)
class NormConfig:
    """The norms of a decoder. offset: added to the weights of an rms norm, as Gemma stores them less 1."""

    eps: float = 1e-6
    kind: Literal["rms", "layer"] = "rms"
    offset: float = 0.0
    bias: bool = False


@dataclass(frozen=True)
class AttentionConfig:
    """Grouped-query attention.

    qk_norm: queries and keys are normed by head, each head of `head_dim`, rotated or before they are, or whole, all
    heads in one row; empty: not.
    v_norm: values are normed by head, by a norm without weights. v_is_k: they are what is projected to keys, before
    these are normed. kv_layer: the number of a layer before this one, whose keys and values are read in place of own
    ones.
    rope: None: positions are not rotated. window: keys that a query sees, itself included; None: all. scale: of scores;
    None: `head_dim**-0.5`. softcap: `softcap * tanh(score / softcap)`. sinks: a logit for each head that takes its
    share of the sum. gated: what is attended to is multiplied by the sigmoid of a projection of its own, which has a
    number for each head, or for each number of the whole; empty: not.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeConfig | None
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: Literal["", "head", "rotated", "whole"] = ""
    v_norm: bool = False
    v_is_k: bool = False
    kv_layer: int | None = None
    window: int | None = None
    scale: float | None = None
    softcap: float | None = None
    sinks: bool = False
    gated: Literal["", "head", "whole"] = ""


@dataclass(frozen=True)
class ShortConvConfig:
    """A causal convolution of `width` tokens between two gates: `out(c * conv(b * x))`, where `b`, `c` and `x` are
    projections. bias: of all of its weights."""

    width: int
    bias: bool = False


@dataclass(frozen=True)
class GatedDeltaConfig:
    """The gated delta rule after a causal convolution of `width` tokens: see the op `gated_delta`.

    num_heads, head_dim: of queries and keys. num_value_heads, value_head_dim: of values. tiled: whether heads of
    queries and keys serve those of values by turns, and not each some neighbours.
    """

    num_heads: int
    num_value_heads: int
    head_dim: int
    value_head_dim: int
    width: int
    tiled: bool = False


Mixer = AttentionConfig | ShortConvConfig | GatedDeltaConfig
"""What lets tokens see those before them."""


@dataclass(frozen=True)
class MlpConfig:
    """A feed-forward layer of `size` inner numbers: `down(activation(gate) * up)`, or `down(activation(up))` without a
    gate."""

    size: int
    activation: Activation = "silu"
    bias: bool = False
    gated: bool = True


@dataclass(frozen=True)
class MoeConfig:
    """A mixture of experts, `top_k` of `num_experts` for each token; the op `moe_router` says what its settings mean.

    size: of an expert. limit, alpha, up_offset: of the clamped swiglu, as `moe_experts` has them. shared_size: of the
    expert that every token goes through; 0: there is none. shared_gate: its output is multiplied by a sigmoid.
    router_multiplier: of the router's logits. expert_scale: each expert has a factor of its weights.
    """

    size: int
    num_experts: int
    top_k: int
    score: Literal["softmax", "sigmoid", "softmax_of_chosen"] = "softmax"
    normalize: bool = True
    scaling: float = 1.0
    groups: int = 1
    groups_kept: int = 1
    router_bias: bool = False
    correction_bias: bool = False
    expert_bias: bool = False
    activation: Activation = "silu"
    limit: float | None = None
    alpha: float = 1.0
    up_offset: float = 0.0
    shared_size: int = 0
    shared_gate: bool = False
    router_multiplier: float = 1.0
    expert_scale: bool = False


@dataclass(frozen=True)
class LayerConfig:
    """A layer. attention: or what it has in place of it. norms: whether that and the feed-forward layer are normed
    before, after or both.

    parallel: both read the same normed input, and both are added to the residual. residual_multiplier: of what is
    added. experts: beside the `mlp`, with norms before their router, before and after themselves; the `mlp` has one
    more after it, and the two are added. scaled: the layer's output is multiplied by a weight of one number.
    """

    attention: Mixer
    mlp: MlpConfig | MoeConfig
    norms: Places = "before"
    parallel: bool = False
    residual_multiplier: float = 1.0
    experts: MoeConfig | None = None
    scaled: bool = False


@dataclass(frozen=True)
class LayerInputConfig:
    """What each layer is given beside the residual: `size` numbers for each token, an embedding of its own and a normed
    projection of the model's, added and divided by the root of 2. Times a gate that reads the residual they are
    projected, normed and added to it.

    activation: of the gate. multiplier: of the embedding. projection_multiplier: of the projection, before its norm.
    """

    size: int
    activation: Activation
    multiplier: float
    projection_multiplier: float


@dataclass(frozen=True)
class DecoderConfig:
    """A whole decoder; `families` makes it of a `config.json`.

    embedding_multiplier, logit_multiplier: of the embeddings and of the logits. logit_softcap: after that,
    `cap * tanh(logits / cap)`; None: not. layer_input: None: layers read the residual alone.
    """

    family: str
    vocab_size: int
    hidden_size: int
    max_position: int
    layers: tuple[LayerConfig, ...]
    norm: NormConfig = field(default_factory=NormConfig)
    embedding_multiplier: float = 1.0
    logit_multiplier: float = 1.0
    logit_softcap: float | None = None
    layer_input: LayerInputConfig | None = None
    head_bias: bool = False
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    @property
    def num_layers(self) -> int:
        """How many layers there are."""
        return len(self.layers)
