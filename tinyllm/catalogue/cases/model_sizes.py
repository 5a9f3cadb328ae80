"""The sizes of real models: cases of tier `model` have their shapes."""

from __future__ import annotations

from dataclasses import dataclass

from tinyllm.spec.rope import RopeScaling


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a decoder, as its checkpoint's config.json states them.

    eps: of its norms. window: keys that a query of a layer with a sliding window attends to, None where no layer has
    one. rope_dims: dims of a head that are rotated, None: all.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    rope_base: float
    eps: float = 1e-5
    scaling: RopeScaling | None = None
    window: int | None = None
    rope_dims: int | None = None

    @property
    def q_width(self) -> int:
        """Width of all query heads together; it need not be `hidden`."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads, or value heads, together."""
        return self.kv_heads * self.head_dim


LLAMA_3_1 = RopeScaling("llama3", 8.0, 8192)
LLAMA_3_2 = RopeScaling("llama3", 32.0, 8192)
GPT_OSS = RopeScaling("yarn", 32.0, 4096, truncate=False)
QWEN_YARN = RopeScaling("yarn", 4.0, 32768)
"""The scaling that Qwen2.5's model card recommends for texts of more than 32,768 tokens."""

MODELS: dict[str, ModelSizes] = {
    "SmolLM2-135M": ModelSizes(576, 9, 3, 64, 1536, 49152, 1e5),
    "SmolLM2-1.7B": ModelSizes(2048, 32, 32, 64, 8192, 49152, 130000.0),
    "Qwen2.5-0.5B": ModelSizes(896, 14, 2, 64, 4864, 151936, 1e6, eps=1e-6),
    "Qwen2.5-7B": ModelSizes(3584, 28, 4, 128, 18944, 152064, 1e6, eps=1e-6, scaling=QWEN_YARN),
    "Qwen3-0.6B": ModelSizes(1024, 16, 8, 128, 3072, 151936, 1e6, eps=1e-6),
    "Qwen3-8B": ModelSizes(4096, 32, 8, 128, 12288, 151936, 1e6, eps=1e-6),
    "Llama-3.2-1B": ModelSizes(2048, 32, 8, 64, 8192, 128256, 5e5, scaling=LLAMA_3_2),
    "Llama-3-8B": ModelSizes(4096, 32, 8, 128, 14336, 128256, 5e5),
    "Llama-3.1-8B": ModelSizes(4096, 32, 8, 128, 14336, 128256, 5e5, scaling=LLAMA_3_1),
    "TinyLlama-1.1B": ModelSizes(2048, 32, 4, 64, 5632, 32000, 1e4),
    "Mistral-7B": ModelSizes(4096, 32, 8, 128, 14336, 32000, 1e4, window=4096),
    "Phi-3-mini": ModelSizes(3072, 32, 32, 96, 8192, 32064, 1e4, window=2047),
    "Phi-2": ModelSizes(2560, 32, 32, 80, 10240, 51200, 1e4, rope_dims=32),
    "Gemma-2B": ModelSizes(2048, 8, 1, 256, 16384, 256000, 1e4, eps=1e-6),
    "Gemma-2-2B": ModelSizes(2304, 8, 4, 256, 9216, 256000, 1e4, eps=1e-6, window=4096),
    "gpt-oss-20b": ModelSizes(2880, 64, 8, 64, 2880, 201088, 150000.0, scaling=GPT_OSS, window=128),
}
"""Sizes by the name of the model. Qwen2.5-7B has the scaling for long texts."""
