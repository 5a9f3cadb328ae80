"""What a decoder-only transformer is made of: one flat record for every family."""

from __future__ import annotations

from dataclasses import dataclass, field

from tinyllm.spec.rope import RopeScaling


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder's sizes and flags. Sizes are counts of elements; `families.py` makes it from a `config.json`."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
