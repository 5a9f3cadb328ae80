"""A tiny random decoder, and the same model written out plainly in float64 as its judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.models.decoder.config import AttentionConfig, DecoderConfig, LayerConfig, MlpConfig, NormConfig, RopeConfig
from tinyllm.spec.quantized import dense
from tinyllm.spec.scheme import QuantType, QuantWeight, Scheme
from tinyllm.spec.types import ArrayType


def tiny_config(hidden_size: int = 64, head_dim: int = 16, inner_size: int = 96) -> DecoderConfig:
    """Two equal layers of four heads."""
    attention = AttentionConfig(4, 2, head_dim, RopeConfig(head_dim), qkv_bias=True)
    layers = (LayerConfig(attention, MlpConfig(inner_size)),) * 2
    return DecoderConfig("llama", 61, hidden_size, 128, layers, NormConfig(1e-5))


CONFIG = tiny_config()
LAYER = CONFIG.layers[0]


@dataclass(frozen=True)
class Info:
    """What `bind` asks of a tensor."""

    type: ArrayType | QuantType


FOUR_BITS = Affine(4, 32)


class Tensors:
    """Random tensors of the right shapes, as a weight source. `quantized` names those to keep as `scheme` holds
    them."""

    identity = ""

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        seed: int = 0,
        quantized: tuple[str, ...] = (),
        scheme: Scheme = FOUR_BITS,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.arrays: dict[str, Any] = {}
        for name, shape in shapes.items():
            scale = 0.2 if len(shape) > 1 else 1.0
            value = rng.standard_normal(shape).astype(np.float32) * np.float32(scale)
            self.arrays[name] = scheme.quantize(np, value) if any(q in name for q in quantized) else value
        self.reads: list[str] = []

    def info(self, name: str) -> Info:
        """Shape and kind of a tensor."""
        value = self.arrays[name]
        return Info(value.type if isinstance(value, QuantWeight) else ArrayType(value.shape, str(value.dtype)))

    def read(self, name: str) -> Any:
        """The tensor."""
        self.reads.append(name)
        return self.arrays[name]

    def release(self) -> None:
        """All stays in memory."""

    def plain(self, name: str) -> np.ndarray:
        """The tensor in float64, dequantized."""
        return np.asarray(dense(np, self.arrays[name], np.float64), np.float64)


def forward(config: DecoderConfig, tensors: Tensors, ids: list[int]) -> np.ndarray:
    """Logits `[L, V]` of one sequence, in float64, nothing shared with the code under test."""
    w = tensors.plain
    x = w("model.embed_tokens.weight")[ids]
    attends = config.layers[0].attention
    length, dim, groups = len(ids), attends.head_dim, attends.num_heads // attends.num_kv_heads
    assert attends.rope is not None
    angle = np.arange(length)[:, None] * attends.rope.theta ** (-np.arange(0, dim, 2) / dim)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm.eps) * w(name)

    def rotate(x: np.ndarray) -> np.ndarray:
        a, b = x[..., : dim // 2], x[..., dim // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    for layer in range(config.num_layers):
        p = f"model.layers.{layer}."
        h = norm(x, p + "input_layernorm.weight")
        q, k, v = (
            (
                h @ w(f"{p}self_attn.{n}_proj.weight").T + (w(f"{p}self_attn.{n}_proj.bias") if attends.qkv_bias else 0)
            ).reshape(length, -1, dim)
            for n in "qkv"
        )
        q, k = rotate(q), np.repeat(rotate(k), groups, 1)
        scores = np.einsum("lhd,shd->hls", q, k) / np.sqrt(dim)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("hls,shd->lhd", weights, np.repeat(v, groups, 1)).reshape(length, -1)
        x = x + out @ w(p + "self_attn.o_proj.weight").T
        h = norm(x, p + "post_attention_layernorm.weight")
        gate = h @ w(p + "mlp.gate_proj.weight").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w(p + "mlp.up_proj.weight").T)) @ w(p + "mlp.down_proj.weight").T
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return norm(x, "model.norm.weight") @ w(head).T
